"""Draw docs/schedules.png: the learning rate of each option of ``scheduler=`` over a run.

    python scripts/schedules.py [FILE]

The rates are those of runs of the small net on the digits, as training sets them at every step.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import warmstart
from warmstart.run.preparing import prepare
from warmstart.strategies.phases import active

CONF = Path(__file__).resolve().parents[1] / "conf"
# In the order of the page.
OPTIONS = ("constant", "step", "cosine", "linear", "inverse_sqrt", "one_cycle", "sgdr")
WARMUP = "scheduler.warmup_steps=40"
# A panel each: its title, and the overrides of its line and of a dashed one.
MORE = {
    "scheduler=sgdr\nscheduler.growth=2": (["scheduler=sgdr", "scheduler.growth=2"], None),
    "strategy=lp_ft\nstrategy.restart_schedule=true": (
        ["strategy=lp_ft", "strategy.batchnorm=train", "strategy.restart_schedule=true"],
        ["strategy=lp_ft", "strategy.batchnorm=train"],
    ),
}


def main() -> int:
    """Draw the picture and return the exit code."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else CONF.parent / "docs" / "schedules.png"
    missing = {path.stem for path in (CONF / "scheduler").glob("*.yaml")} ^ set(OPTIONS)
    if missing:
        names = ", ".join(sorted(missing))
        print(f"the picture and conf/scheduler differ in {names}", file=sys.stderr)
        return 1
    panels = {f"scheduler={name}": lines(name) for name in OPTIONS} | MORE
    figure, grid = plt.subplots(3, 3, figsize=(8.6, 6.2), dpi=100, sharex=True, sharey=True)
    for axes, (title, (words, dashed)) in zip(grid.flat, panels.items(), strict=True):
        if dashed is not None:
            axes.plot(rates(dashed), color="#e0a030", linestyle="--", linewidth=1.4)
        axes.plot(rates(words), color="#2a78b5", linewidth=1.6)
        axes.set_title(title, fontsize=8, family="monospace")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("step", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("rate of the head", fontsize=8)
    figure.tight_layout(pad=0.5)
    figure.savefig(out)
    print(out)
    return 0


def lines(name: str) -> tuple[list[str], list[str] | None]:
    """Return the overrides of an option's line, and of the one with a warm-up where it has one."""
    words = [f"scheduler={name}"]
    return words, [*words, WARMUP] if name != "one_cycle" else None


def rates(words: list[str]) -> list[float]:
    """Return the rate of the head at each of the 400 steps of a run."""
    with tempfile.TemporaryDirectory() as out:
        run = prepare(warmstart.compose([*words, "steps=400", "trainer=cpu", f"out={out}"]))
    groups = len(run.groups())
    result = []
    for step in range(run.steps):
        head = active(run.phases, step).rates(run.config["optimizer"]["lr"], groups)[-1]
        result.append(head * run.schedule(step))
    return result


if __name__ == "__main__":
    sys.exit(main())
