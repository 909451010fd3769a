"""The page of ``warmstart look``: one HTML file that needs nothing but itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader

from warmstart.look import pictures
from warmstart.look.facts import SPLITS, Facts, extremes
from warmstart.store import publish

if TYPE_CHECKING:
    from warmstart.sight import Sight

TEMPLATE = "page.html.j2"
MOST_CLASSES = 24  # more are listed by their extremes first
MOST_GROUPS = 12  # of equal images, and pairs that look alike
_MOST_EQUAL = 6  # images of such a group
_AUGMENTED, _PASSES, _BATCH, _MIXED, _MIXED_STEPS = 8, 6, 40, 8, 3
_MOST_MODES = 6
_BINS = 30
_LOG_FROM = 8  # times the least side, the greatest is on a logarithmic axis


def write(
    view: Sight,
    found: Facts,
    problems: Sequence[str],
    *,
    title: str,
    command: str,
    path: Path,
) -> None:
    """Write the page about the data of a run atomically to `path`; see `render`."""
    text = render(view, found, problems, title=title, command=command)
    # Names of files need not be UTF-8: Python has such bytes as surrogates, which are none either.
    content = text.encode("utf-8", errors="backslashreplace")
    publish(path, lambda part: part.write_bytes(content))


def render(view: Sight, found: Facts, problems: Sequence[str], *, title: str, command: str) -> str:
    """Return the page as HTML, with all its pictures inside.

    Args:
        view: The data of the run.
        found: About them.
        problems: What to know before training, in sentences.
        title: What the data are called.
        command: That makes the page again.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    first, last = extremes(found.by_size(), MOST_CLASSES)
    shown = {*first, *last}
    height, width = view.images.size
    return environment.get_template(TEMPLATE).render(
        title=title,
        command=command,
        view=view,
        facts=found,
        problems=problems,
        splits=SPLITS,
        sums={split: int(found.counts[split].sum()) for split in SPLITS},
        first=_classes(found, first),
        last=_classes(found, last),
        others=_classes(found, [i for i in found.by_size() if i not in shown]),
        height=height,
        width=width,
        pixelated=max(height, width) <= 64,
        sides=None if found.one_size else _sides(found),
        common=_common_sizes(found),
        most_modes=_MOST_MODES,
        passes=_PASSES,
        **_images(view),
        **_twins(view, found),
    )


def _images(view: Sight) -> dict[str, Any]:
    augmented = [
        pictures.passes(view, index, _PASSES) for index in pictures.spread(view, _AUGMENTED)
    ]
    changed = any(picture.source != plain.source for plain, later in augmented for picture in later)
    return {
        "augmented": augmented if changed else [],
        "batch": pictures.batch(view, 0, _BATCH),
        "mixed": [pictures.mixed(view, step, _MIXED) for step in range(_MIXED_STEPS)]
        if view.augment.mix is not None
        else [],
    }


def _classes(found: Facts, indices: Iterable[int]) -> list[dict[str, Any]]:
    most = max(1, int(found.totals.max()))
    return [
        {
            "name": found.classes[i],
            "counts": [int(found.counts[split][i]) for split in SPLITS],
            "total": int(found.totals[i]),
            "widths": [round(100 * int(found.counts[split][i]) / most, 2) for split in SPLITS],
        }
        for i in indices
    ]


def _sides(found: Facts) -> list[dict[str, Any]]:
    """Return extremes and median of each side in pixels, and a histogram with common bins."""
    sides = {"height": found.heights, "width": found.widths}
    both = np.concatenate(list(sides.values()))
    low, high = int(both.min()), int(both.max())
    log = high > _LOG_FROM * low
    edges = (np.geomspace if log else np.linspace)(low, high + 1, _BINS + 1)
    return [
        {
            "name": name,
            "least": int(values.min()),
            "median": int(np.median(values)),
            "greatest": int(values.max()),
            "bars": _bars(np.histogram(values, edges)[0]),
            "log": log,
        }
        for name, values in sides.items()
    ]


def _bars(counts: np.ndarray) -> list[float]:
    """Return heights in percent of the highest; what is not 0 can be seen."""
    most = int(counts.max())
    return [max(round(100 * count / most, 1), 3) if count else 0 for count in counts.tolist()]


def _common_sizes(found: Facts, most: int = 3) -> list[tuple[str, int]]:
    sizes = Counter(zip(found.widths.tolist(), found.heights.tolist(), strict=True))
    return [(f"{width} x {height}", count) for (width, height), count in sizes.most_common(most)]


def _twins(view: Sight, found: Facts) -> dict[str, Any]:
    """Return equal images in several splits, contradicting labels, and what looks alike."""
    contrary = {int(rows[0]) for rows in found.conflicting}
    agreeing = [rows for rows in found.shared if int(rows[0]) not in contrary]
    close = [([a, b], distance) for a, b, distance in found.near]
    return {
        "agreeing": len(agreeing),
        "shared": [_twin(view, found, rows) for rows in agreeing[:MOST_GROUPS]],
        "conflicting": [_twin(view, found, rows) for rows in found.conflicting[:MOST_GROUPS]],
        "near": [(_twin(view, found, rows), bits) for rows, bits in close[:MOST_GROUPS]],
        "dropped": list(_dropped(view)),
    }


def _twin(view: Sight, found: Facts, rows: Sequence[int] | np.ndarray) -> dict[str, Any]:
    samples = view.dataset.samples
    return {
        "more": len(rows) - len(rows[:_MOST_EQUAL]),
        "images": [
            {
                "source": pictures.stored(view, int(row)),
                "name": samples.ids[row],
                "label": samples.classes[samples.labels[row]],
                "split": found.placed.get(int(row), "no split"),
                "dropped": int(row) in view.dataset.dropped,
            }
            for row in rows[:_MOST_EQUAL]
        ],
    }


def _dropped(view: Sight) -> Iterator[tuple[str, str]]:
    for row, reason in sorted(view.dataset.dropped.items()):
        yield view.dataset.samples.ids[row], reason
