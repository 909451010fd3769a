"""Are the defaults good? `strategy=full` with no other option against the best of 16 tuned trials.

    python scripts/bench/defaults.py DATA WEIGHTS [SET ...] [--out OUT]

DATA holds the folders signdigits, clothing10 and cifar10, WEIGHTS the files that `SETS` names. For
each set `warmstart tune` searches rate and weight decay, 16 trials for a quarter of the length and
the best one for all of it, on two seeds of its own; then five further seeds compare the default
recipe with the one that was found. The paired difference is in points of test accuracy: the lower
end of its 95 % interval should be above -2. It takes hours on a CPU, goes on where it was stopped,
and says what it took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from warmstart.results.differences import differences
from warmstart.results.loading import load
from warmstart.results.record import read
from warmstart.results.statistics import Interval

LEAST = -2.0  # points
SETS = {
    "signdigits": ("mobilenet_v2", "mobilenet_v2_imagenet.safetensors", ["data.size=96"]),
    "clothing10": ("mobilenet_v2", "mobilenet_v2_imagenet.safetensors", ["data.size=96"]),
    "cifar10": ("resnet20", "resnet20-12fca82f.th", ["data.per_class=500"]),
}
ARM = """\
# @package _global_
defaults:
  - override /init: pretrained
  - override /strategy: full
"""
COMPARISON = """\
# @package _global_
comparison: {{name: {name}, reference: tuned/defaults, metric: test/accuracy}}
hydra: {{sweeper: {{params: {{arm: defaults, seed: "0,1,2,3,4"}}}}}}
"""


def main() -> int:
    """Measure the sets that the command line names, and return 1 where a default is too far off."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"of {', '.join(SETS)}")
    parser.add_argument("--out", type=Path, default=Path("outputs/defaults"))
    options = parser.parse_args()
    failed = False
    for name in options.sets or SETS:
        found, hours = measured(name, options.data, options.weights, options.out / name)
        points = [100 * value for value in (found.mean, found.low, found.high)]
        good = points[1] > LEAST
        failed |= not good
        print(
            f"{name}: default minus tuned {points[0]:+.2f} [{points[1]:+.2f}, {points[2]:+.2f}] "
            f"points over 5 seeds, {hours:.2f} core-hours{'' if good else '  TOO LITTLE'}",
            flush=True,
        )
    return int(failed)


def measured(name: str, data: Path, weights: Path, out: Path) -> tuple[Interval, float]:
    """Return the difference on one set, and the hours that all finished runs took on a core."""
    model, file, more = SETS[name]
    own = out / "own"
    for path, text in (
        ("arm/defaults.yaml", ARM),
        (f"comparison/defaults_{name}.yaml", COMPARISON.format(name=name)),
    ):
        (own / path).parent.mkdir(parents=True, exist_ok=True)
        (own / path).write_text(text)
    words = [
        *(f"comparison=defaults_{name}", "data=image_folder", f"data.root={data / name}"),
        *(f"model={model}", f"model.weights={weights / file}", f"out={out}", "keep=none", *more),
    ]
    found = out / "tunings" / name / "configs"
    run("tune", "--config-dir", str(own), *words, "search.finalists=1")
    run(
        *("compare", "--config-dir", str(own), "--config-dir", str(found), *words),
        "arm=defaults,tuned/defaults",
    )
    (comparison,) = load(out / "comparisons" / name)
    (difference,) = differences(comparison)
    records = [read(folder) for folder in (out / "runs").iterdir() if folder.is_dir()]
    seconds = [record.timing["total_seconds"] for record in records if record is not None]
    return difference.interval, sum(seconds) / 3600


def run(*words: str) -> None:
    """Run a command of warmstart, which shows how far it is."""
    subprocess.run([sys.executable, "-m", "warmstart", *words], check=True)


if __name__ == "__main__":
    sys.exit(main())
