"""A run that is killed and started again, to be compared with one that was not."""

import signal
from dataclasses import replace
from pathlib import Path

import warmstart
from processes import run
from warmstart import Record
from warmstart.results.record import read
from warmstart.run.preparing import prepare


class Killed:
    """A run of its own that is started again and again, and the unbroken run beside it."""

    def __init__(self, root: Path, *overrides: str) -> None:
        self.words = list(overrides)
        self.root, self.out, self.log = root, root / "killed", root / "log"
        self.key = prepare(warmstart.compose([*self.words, f"out={self.out}"])).key
        self.folder = self.out / "runs" / self.key
        self.finish = ["train", *self.words, f"out={self.out}"]
        self.command = [*self.finish, "checkpoint_seconds=0"]

    def kill(self, save: int, *, when: str = "after") -> int:
        """Run until this many more checkpoints are written; return the newest one's step."""
        assert run(self.command, self.log, die_at_save=save, when=when) == -signal.SIGKILL
        assert not (self.folder / "result.json").exists()
        return self.newest()

    def newest(self) -> int:
        names = (path.name for path in self.folder.glob("checkpoint-*.pt"))
        return max((int(name.split("-")[1]) for name in names), default=0)

    def ends_like_the_unbroken_run(self) -> None:
        assert run(self.finish, self.log) == 0
        unbroken = warmstart.train([*self.words, f"out={self.root / 'unbroken'}"])
        record = read(self.folder)
        assert isinstance(record, Record)
        # Metrics, curves, and digests of the initial and the best weights among them; the
        # versions name the state of the checkout, which somebody may be working in.
        assert replace(record, versions={}) == replace(unbroken, versions={})
        other = self.root / "unbroken" / "runs" / self.key / "best.safetensors"
        assert (self.folder / "best.safetensors").read_bytes() == other.read_bytes()
        rows = [line.split(",")[0] for line in (self.folder / "metrics.csv").open()][1:]
        # A head that trains alone, on stored features, is not looked at.
        steps = {step for curve in record.curves.values() for step in curve["step"]}
        assert [int(step) for step in rows] == sorted(steps)
        # Neither checkpoints nor half-written files are left.
        names = {path.name for path in self.folder.iterdir()}
        assert names == {
            *("result.json", "predictions.npz", "test_openings", "best.safetensors", "metrics.csv"),
            "state.json",
        }
