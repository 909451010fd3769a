"""``warmstart plan``: what training will do, as tables for a terminal or as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.results.features import phase_text
from warmstart.results.terminal import UNLIMITED

Plan = dict[str, Any]

_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def plan_command(overrides: Sequence[str], *, config_dirs: Sequence[str], as_json: bool) -> None:
    """Print what the run that `overrides` describe will do; nothing is trained.

    Args:
        overrides: As for ``warmstart train``.
        config_dirs: Folders with configs of the user's own.
        as_json: Print what `warmstart.preview.preview` returns.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
    """
    from warmstart.configs import compose
    from warmstart.preview import preview
    from warmstart.run.preparing import prepare

    plan = preview(prepare(compose(overrides, config_dirs=config_dirs)))
    if as_json:
        print(json.dumps(plan, indent=2, allow_nan=False))
    else:
        show(plan)


def show(plan: Plan, console: Console | None = None) -> None:
    """Print a plan: its layer groups, what trains when, and what it takes and leaves.

    Args:
        plan: As `warmstart.preview.preview` returns it.
        console: Where to; by default standard output.
    """
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        console.print(_groups(plan))
        console.print(_training(plan) if plan["phases"] else _no_steps(plan))
        console.print(_rest(plan))
    finally:
        console.width = width


def _no_steps(plan: Plan) -> Text:
    if plan["probe"] is None:
        return Text("0 steps: nothing trains\n")
    return Text(f"no steps: strategy={plan['probe']} fits the head to features\n")


def _groups(plan: Plan) -> Table:
    model = plan["model"]
    table = _table(f"layer groups of {model['name']}")
    table.add_column("group", overflow="fold")
    for name in ("layers", "parameters"):
        table.add_column(name, justify="right")
    table.add_column("weights", overflow="fold")
    known = plan["weights"]["pending"] is None
    if known:
        table.caption = Text("act.: what each group puts out for the first images, at step 0")
        table.add_column("act. mean", justify="right")
        table.add_column("act. std", justify="right")
    for group in plan["groups"]:
        row = [group["name"], str(group["layers"]), f"{group['parameters']:,}", group["weights"]]
        if known:
            row += [_number(group["activation_mean"]), _number(group["activation_std"])]
        table.add_row(*map(Text, row))
    return table


def _training(plan: Plan) -> Table:
    table = _table("what trains: groups that are treated alike share a row")
    # Where the window is narrow, only the names of the groups go on in the next line.
    table.add_column("steps", no_wrap=True)
    table.add_column("groups", overflow="fold")
    for name in ("lr first", "peak", "last"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("weight decay", justify="right", min_width=6)
    table.add_column("BatchNorm", no_wrap=True)
    for index, phase in enumerate(plan["phases"]):
        steps = f"{phase['first_step']:,}-{phase['last_step']:,}"
        for names, entry in _alike(plan["groups"], index):
            table.add_row(*map(Text, (steps, names, *_treatment(entry))))
            steps = ""
        table.add_section()
    decays = {group["phases"][-1]["weight_decay_vectors"] for group in plan["groups"]}
    if decays <= {0.0, None}:
        table.caption = Text("no weight decay on biases and the weights of norms")
        table.caption_justify = "left"
    return table


def _alike(groups: Sequence[Plan], phase: int) -> Iterator[tuple[str, Plan]]:
    """Yield the names of neighbours that a phase treats alike, and how it treats them."""

    def treatment(group: Plan) -> list[str]:
        return _treatment(group["phases"][phase])

    for _, neighbours in groupby(groups, key=treatment):
        same = list(neighbours)
        first, last = same[0]["name"], same[-1]["name"]
        names = first if len(same) == 1 else f"{first} {'and' if len(same) == 2 else 'to'} {last}"
        yield names, same[0]["phases"][phase]


def _treatment(entry: Plan) -> list[str]:
    batchnorm = entry["batchnorm"] or "-"
    if not entry["trains"]:
        return ["frozen", "", "", "", batchnorm]
    rates = [_number(entry[f"lr_{when}"]) for when in ("first", "peak", "last")]
    decay = entry["weight_decay"]
    return [*rates, _number(entry["weight_decay_vectors"] if decay is None else decay), batchnorm]


def _rest(plan: Plan) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    lines = {
        "model": _model(plan),
        "input": _input(plan),
        "weights": _weights(plan["weights"]),
        "length": _length(plan),
        "features": _features(plan),
        "regularization": ", ".join(_options(plan["regularization"])),
        "keeping": "; ".join(plan["keeping"]),
        "images": _images(plan),
        "memory": _memory(plan),
        "writes": _logs(plan),
    }
    for name in ("features", "regularization", "keeping"):
        if not plan[name]:
            del lines[name]
    if plan["finished"]:
        lines["done"] = "this run is finished; warmstart train returns its record"
    for name, text in lines.items():
        table.add_row(name, Text(text))
    return table


def _model(plan: Plan) -> str:
    model = plan["model"]
    trainable = ", then ".join(f"{count:,}" for count in model["trainable_by_phase"]) or "0"
    return f"{model['parameters']:,} parameters, trained {trainable}; {model['classes']} classes"


def _input(plan: Plan) -> str:
    wanted = plan["input"]
    height, width = plan["image_size"]
    kind = {1: "gray", 3: "RGB"}.get(wanted["channels"], f"{wanted['channels']} channels")
    mean, std = ([float(f"{value:.3g}") for value in wanted[name]] for name in ("mean", "std"))
    return f"{height} x {width} {kind}, of pixels in [0, 1] minus {mean}, divided by {std}"


def _weights(weights: Plan) -> str:
    origin = " <- ".join(weights["origins"])
    parts = [f"init={weights['init']}", origin, weights["pending"] or weights["summary"] or ""]
    return "; ".join(filter(None, parts))


def _length(plan: Plan) -> str:
    devices, batch = plan["devices"], plan["batch_size"]
    shared = f" ({batch // devices} on each of {devices} devices)" if devices > 1 else ""
    return (
        f"{_counted(plan['steps'], 'step')} of {_counted(batch, 'image')}{shared}: "
        f"{_counted(plan['epochs'], 'epoch', '.3g')} of "
        f"{_counted(plan['steps_per_epoch'], 'step', '.4g')}; "
        f"{_counted(plan['validations'], 'validation')}, one every "
        f"{_counted(plan['val_every_steps'], 'step')}"
    )


def _features(plan: Plan) -> str:
    """Return a line per phase: what runs once for each image, or why nothing does."""
    phases = plan["features"]
    if len(phases) == 1:
        return phase_text(phases[0])
    return "\n".join(f"phase {n}: {phase_text(one)}" for n, one in enumerate(phases, start=1))


def _options(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Return them as one types them."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _options(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}={json.dumps(value)}"


def _counted(number: float, noun: str, form: str = ",") -> str:
    text = f"{number:{form}}"
    return f"{text} {noun}{'' if text == '1' else 's'}"


def _images(plan: Plan) -> str:
    images = plan["images"]
    return (
        f"{plan['images_per_epoch']:,} per epoch; {images['val']:,} for validation, "
        f"{images['test']:,} for test"
    )


def _memory(plan: Plan) -> str:
    memory = plan["memory"]
    images = f"{_size(memory['images'])} of images in memory or mapped from a file"
    if memory["total"] is None:
        return f"not estimated, {memory['reason']}; {images}"
    copies = f"copies of weights {_size(memory['copies'])}, " if memory["copies"] else ""
    return (
        f"about {_size(memory['total'])} on {'the' if plan['devices'] == 1 else 'each'} device in "
        f"float32: model "
        f"{_size(memory['model'])}, optimizer {_size(memory['optimizer'])}, {copies}and a training "
        f"step {_size(memory['training_step'])} or a validation step "
        f"{_size(memory['validation_step'])}; {images}"
    )


def _size(count: float) -> str:
    for unit in _UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"


def _logs(plan: Plan) -> str:
    folder = Path(plan["folder"])
    lines = [f"in {folder}"]
    for log in plan["logs"]:
        where = Path(log["where"])
        name = where.name if where.parent == folder else log["where"]
        lines.append(f"{name}: {log['what']}")
    return "\n".join(lines)


def _number(value: float | str | None) -> str:
    """Return a number short; what is not finite comes as text."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else f"{value:.3g}"


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
