"""A comparison: its grid, what is skipped, what fails, and what a kill costs."""

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

import warmstart
from processes import run, start, trained
from tiny import write_configs
from warmstart import Record
from warmstart.cli import main
from warmstart.configs import folder, resolved, without_hydra
from warmstart.results.record import read
from warmstart.sweep import Composer, grid


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return write_configs(tmp_path / "configs")


@pytest.fixture
def compare(tmp_path: Path, configs: Path) -> list[str]:
    """Return the words of ``compare`` with the configs of the tests and an output of their own."""
    return ["compare", "--config-dir", str(configs), f"out={tmp_path / 'out'}"]


def cells(out: Path, name: str = "tiny") -> list[dict[str, object]]:
    return json.loads((out / "comparisons" / name / "cells.json").read_text())["cells"]


def records(out: Path, name: str = "tiny") -> dict[str, Record | None]:
    """Return the records, without the state of the checkout, which may change between runs."""
    found = {str(cell["key"]): read(out / "runs" / str(cell["key"])) for cell in cells(out, name)}
    return {key: record and replace(record, versions={}) for key, record in found.items()}


class TestGrid:
    def test_all_cells_run_and_the_report_is_written(
        self, compare: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert main([*compare, "comparison=tiny"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        lines = output.out.splitlines()
        assert lines.pop(0).startswith("shared: source:tiny: val/accuracy")
        assert [line.split(" ")[0] for line in lines[:8]] == [f"[{n}/8]" for n in range(1, 9)]
        assert lines[0].startswith("[1/8] arm=short/scratch data.per_class=1 seed=0: test/accuracy")
        assert lines[-1] == f"report: {out / 'comparisons' / 'tiny' / 'report.html'}"
        assert any(line.split()[:1] == ["1"] for line in lines), "the table has a row per size"
        assert (out / "comparisons" / "tiny" / "report.html").is_file()

        grid_ = [(cell["arm"], cell["size"], cell["seed"]) for cell in cells(out)]
        assert grid_ == [
            (arm, size, seed)
            for arm in ("short/scratch", "short/probe")
            for size in (1, 2)
            for seed in (0, 1)
        ]
        found = records(out)
        assert len(found) == 8
        for cell in cells(out):
            record = found[str(cell["key"])]
            assert record is not None
            assert record.status == "finished"
            assert (record.seed, record.config["data"]["per_class"]) == (cell["seed"], cell["size"])

        # A second call trains nothing, and still writes the report.
        files = {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
        report = out / "comparisons" / "tiny" / "report.html"
        report.unlink()
        assert main([*compare, "comparison=tiny"]) == 0
        assert capsys.readouterr().out.startswith("8 of 8 runs are finished and are skipped\n")
        assert files == {path: path.stat().st_mtime_ns for path in (out / "runs").rglob("*")}
        assert report.is_file()

        # A larger grid runs what is new; the command of a cell repeats that cell.
        assert main([*compare, "comparison=tiny", "seed=0,1,2"]) == 0
        text = capsys.readouterr().out
        assert text.startswith("8 of 12 runs are finished and are skipped\n[1/4] ")
        command = str(cells(out)[-1]["command"]).split()
        assert main(command[1:]) == 0
        assert f"record: {out / 'runs' / str(cells(out)[-1]['key'])}" in capsys.readouterr().out

    def test_an_experiment_is_a_comparison_of_its_own(
        self, compare: list[str], configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (configs / "comparison" / "tiny.yaml").read_text()
        (configs / "experiment").mkdir()
        (configs / "experiment" / "study.yaml").write_text(text.replace("tiny, ref", "study, ref"))
        words = [*compare, "data.per_class=1"]
        assert main([*words, "experiment=study"]) == 0
        folder = tmp_path / "out" / "comparisons" / "study"
        plan = json.loads((folder / "cells.json").read_text())
        assert (plan["name"], plan["reference"]) == ("study", "short/scratch")
        assert {cell["arm"] for cell in plan["cells"]} == {"short/scratch", "short/probe"}
        assert all("experiment=study" in cell["command"] for cell in plan["cells"])
        assert "experiment=study" in (folder / "report.html").read_text()
        capsys.readouterr()
        assert main([*words, "comparison=tiny"]) == 0
        assert "4 of 4 runs are finished and are skipped" in capsys.readouterr().out

    def test_a_swept_key_that_is_no_axis_names_the_arm(
        self, compare: list[str], tmp_path: Path
    ) -> None:
        words = ["arm=short/scratch", "data.per_class=1", "batch_size=2,4", "seed=0"]
        assert main([*compare, "comparison=tiny", *words]) == 0
        arms = [cell["arm"] for cell in cells(tmp_path / "out")]
        assert arms == ["short/scratch batch_size=2", "short/scratch batch_size=4"]

    def test_train_sweeps_too(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["steps=2", "seed=0,1", "optimizer.lr=0.1,0.2", f"out={tmp_path}"]
        assert main(["train", *words, "-m"]) == 0
        text = capsys.readouterr().out
        assert "[4/4] seed=1 optimizer.lr=0.2: test/accuracy" in text
        found = [read(path) for path in (tmp_path / "runs").iterdir() if path.is_dir()]
        points = {(r.seed, r.config["optimizer"]["lr"]) for r in found if r is not None}
        assert points == {(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)}


class TestFailures:
    def test_others_finish_and_every_failure_is_named(
        self, compare: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "out"
        assert main([*compare, "comparison=broken"]) == 1
        lines = capsys.readouterr().out.splitlines()
        failed = [line for line in lines if line.startswith("failed: arm=")]
        assert [line.split(": ")[1] for line in failed] == [
            f"arm=short/broken data.per_class=2 seed={seed}" for seed in (0, 1)
        ]
        assert all("the training loss is " in line for line in failed)
        assert all("lower optimizer.lr" in line for line in failed)
        states = [record.status for record in records(out, "broken").values() if record]
        assert states == ["failed", "failed", "finished", "finished"]
        page = (out / "comparisons" / "broken" / "report.html").read_text()
        assert "the training loss is" in page

        # The second call runs what is missing alone, and fails again.
        assert main([*compare, "comparison=broken"]) == 1
        text = capsys.readouterr().out
        assert text.startswith("2 of 4 runs are finished and are skipped\n[1/2] ")

    def test_an_unforeseen_error_is_a_failure_of_its_cell(
        self,
        compare: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        from warmstart.run import execution as module

        train = module._train

        def fail(run: module.Run, *args: Any, **options: Any) -> Any:
            if run.config["seed"] == 0:
                raise OSError(28, "No space left\non device", "somewhere")
            return train(run, *args, **options)

        monkeypatch.setattr(module, "_train", fail)
        words = ["arm=short/scratch", "data.per_class=1"]
        assert main([*compare, "comparison=tiny", *words]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert (
            "failed: arm=short/scratch data.per_class=1 seed=0: "
            "OSError: [Errno 28] No space left on device: 'somewhere'"
        ) in lines
        assert [r.status for r in records(tmp_path / "out").values() if r] == ["failed", "finished"]


@pytest.mark.slow
class TestProcesses:
    def test_killed_twice_it_ends_like_an_unbroken_one(
        self, compare: list[str], configs: Path, tmp_path: Path
    ) -> None:
        out, log = tmp_path / "out", tmp_path / "log"
        # Each cell has six steps and saves after the first five of them.
        words = [*compare, "comparison=tiny", "checkpoint_seconds=0"]
        assert run(words, log, die_at_save=13) == -signal.SIGKILL
        assert [record is not None for record in records(out).values()] == [True] * 2 + [False] * 6
        assert run(words, log, die_at_save=12) == -signal.SIGKILL
        assert sum(record is not None for record in records(out).values()) == 4
        assert run(words, log) == 0
        # Of the source and the four cells from scratch only the broken one was begun twice. The
        # probes, among which the second death fell, train together.
        keys = trained(log)
        assert (len(keys), len(set(keys))) == (6, 5)

        unbroken = tmp_path / "unbroken"
        assert main([*compare[:-1], f"out={unbroken}", "comparison=tiny"]) == 0
        assert records(out) == records(unbroken)
        assert all(records(out).values())

    def test_the_source_is_trained_once_by_two_processes(
        self, configs: Path, tmp_path: Path
    ) -> None:
        log = tmp_path / "log"
        source = configs / "source" / "tiny.yaml"
        source.write_text(source.read_text().replace("steps: 2", "steps: 40"))
        words = ["train", "--config-dir", str(configs), "init=pretrained", "steps=2"]
        words += ["init.weights=source:tiny", f"out={tmp_path / 'out'}"]
        processes = [start([*words, f"seed={seed}"], log) for seed in (0, 1)]
        for process in processes:
            process.join(timeout=300)
        assert [process.exitcode for process in processes] == [0, 0]
        keys = trained(log)
        assert len(keys) == len(set(keys)) == 3, "two runs and their source, each once"
        store = tmp_path / "out" / "store" / "runs"
        (found,) = [read(path) for path in store.iterdir() if path.is_dir()]
        assert found is not None
        assert (found.status, found.config["steps"]) == ("finished", 40)


def test_cells_are_composed_as_hydra_composes_them(tmp_path: Path) -> None:
    """Values set in a copy give what a composition of its own gives."""
    arguments = ["comparison=digits", f"out={tmp_path}"]
    with initialize_config_dir(config_dir=str(folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        loader = hydra.config_loader
        master = loader.load_configuration("train", arguments, run_mode=RunMode.MULTIRUN)
        params = ["arm=digits/scratch,digits/probe", "data.per_class=1,null", "seed=0,1"]
        more = [
            *("optimizer=adam", "optimizer.betas=[0.8,0.9]", "model.widths=[4,8]", "steps=null"),
            *("++epochs=3", "store=${out}/s", "optimizer.lr=1e-2", "data={per_class: 3}"),
            "keep='none'",
        ]
        for given in (arguments, [*arguments, *more]):
            for cell in grid(Composer(loader, master), params, given):
                own = loader.load_sweep_config(master, cell.overrides)
                expected = without_hydra(own, own.hydra, [])
                # In the same order too: that is the order in which records and reports list keys.
                assert json.dumps(cell.config) == json.dumps(resolved(expected))


def test_python_and_the_command_make_the_same_run(tmp_path: Path) -> None:
    words = ["steps=2", f"out={tmp_path}"]
    assert main(["train", *words]) == 0
    (path,) = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert warmstart.train(words) == read(path)
