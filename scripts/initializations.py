"""Draw docs/initializations.png: what each option of ``init=`` makes of the layer groups.

    python scripts/initializations.py [FILE]

The states are read from real initial models of the small net on the digits; a source run of a few
steps stands in for the weights that an option loads.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import warmstart
from warmstart.run.execution import execute
from warmstart.run.initial import initial_model
from warmstart.run.preparing import prepare

CONF = Path(__file__).resolve().parents[1] / "conf"
# In the order of the page, with what makes an option quick enough for a picture.
OPTIONS = {
    "scratch": [],
    "lsuv": [],
    "gabor": [],
    "random_features": [],
    "autoencoder": ["init.steps_per_group=1"],
    "pretrained": [],
    "class_means": [],
    "first_k": [],
    "all_but_last_k": [],
    "permuted": [],
    "mean_var": [],
}
COLOURS = {
    "loaded": "#2a78b5",
    "permuted": "#8fb8d8",
    "mean_var": "#c5d8e8",
    "autoencoder": "#4a9a68",
    "designed": "#e0a030",
    "class_means": "#b0578d",
    "fresh": "#e9e6e0",
}


def main() -> int:
    """Draw the picture and return the exit code."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else CONF.parent / "docs" / "initializations.png"
    missing = {path.stem for path in (CONF / "init").glob("*.yaml")} ^ OPTIONS.keys()
    if missing:
        print(f"the picture and conf/init differ in {', '.join(sorted(missing))}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: states(name, more, Path(folder)) for name, more in OPTIONS.items()}
    draw(rows, out)
    print(out)
    return 0


def states(name: str, more: list[str], out: Path) -> dict[str, str]:
    """Return layer group to state of the initial model under ``init=name``."""
    configs = out / "configs" / "source"
    configs.mkdir(parents=True, exist_ok=True)
    (configs / "quick.yaml").write_text("# @package _global_\nsteps: 1\ntest: false\n")
    words = [f"init={name}", "trainer=cpu", "data.per_class=8", f"out={out}", *more]
    cfg = warmstart.compose(words, config_dirs=[str(configs.parent)])
    if "weights" in cfg.init:
        cfg.init.weights = "source:quick"
    run = prepare(cfg)
    if run.source is not None:
        execute(run.source)
    initial = initial_model(run)
    return dict(zip((group.name for group in initial.groups), initial.states, strict=True))


def draw(rows: dict[str, dict[str, str]], out: Path) -> None:
    """Draw one row per option, one box per layer group."""
    groups = list(next(iter(rows.values())))
    figure, axes = plt.subplots(figsize=(8.6, 0.46 * len(rows) + 0.7), dpi=120)
    for y, (name, by_group) in enumerate(rows.items()):
        for x, state in enumerate(by_group.values()):
            kind = next(kind for kind in COLOURS if state.startswith(kind))
            axes.add_patch(plt.Rectangle((x, y), 0.94, 0.84, color=COLOURS[kind]))
            dark = kind in ("loaded", "autoencoder", "class_means")
            text = state.replace(" (", "\n(").replace(", ", ",\n")
            style = {"ha": "center", "va": "center", "fontsize": 6.5}
            axes.text(x + 0.47, y + 0.42, text, color="white" if dark else "#333333", **style)
        label = {"ha": "right", "va": "center", "fontsize": 8, "family": "monospace"}
        axes.text(-0.08, y + 0.42, f"init={name}", **label)
    for x, group in enumerate(groups):
        axes.text(x + 0.47, -0.15, group, ha="center", va="bottom", fontsize=8)
    axes.set_xlim(-1.6, len(groups))
    axes.set_ylim(len(rows), -0.6)
    axes.axis("off")
    figure.tight_layout(pad=0.3)
    figure.savefig(out)


if __name__ == "__main__":
    sys.exit(main())
