"""Weights & Biases is a mirror: what it shows is right, and its failures change nothing."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import wandb

import warmstart
from tiny import write_configs
from tunings import trial, write_tuning
from warmstart import Record
from warmstart.cli import main
from warmstart.results.record import read
from warmstart.summary import summarize_tuning

SHORT = ["steps=4", "val_every_steps=2", "log_every_steps=2", "data.per_class=2", "trainer=cpu"]


@pytest.fixture(autouse=True)
def _no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "WANDB_ENTITY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-config"))


def offline_files(out: Path) -> list[Path]:
    return sorted(out.glob("runs/*/wandb/offline-run-*/run-*.wandb"))


def read_back(path: Path) -> dict[str, Any]:
    """Return what the library's own reader finds in an offline file."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json"]

    def call(*words: str | Path) -> str:
        result = subprocess.run(
            [*command, *words], capture_output=True, text=True, check=True, timeout=60
        )
        return result.stdout

    lines = [json.loads(line) for line in call(path).splitlines()]
    (run,) = [line["run"] for line in lines if line["type"] == "run"]
    history = [line["history"]["item"] for line in lines if line["type"] == "history"]
    return {**json.loads(call("--summary", path)), "run": run, "history": history}


@pytest.mark.slow
def test_the_runs_of_a_comparison_are_mirrored_each_for_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs, out = write_configs(tmp_path / "configs"), tmp_path / "out"
    words = ["--config-dir", str(configs), "comparison=tiny", "arm=short/scratch", "logger=wandb"]
    words += ["data.per_class=2", "val_every_steps=3", "log_every_steps=3", f"out={out}"]
    assert main(["compare", *words]) == 0
    text = capsys.readouterr().out
    files = offline_files(out)
    assert len(files) == 2
    for path in files:
        assert f"to sync with Weights & Biases: wandb sync {path.parent}\n" in text

    found = {}
    for path in files:
        content = read_back(path)
        record = read(next(parent for parent in path.parents if parent.parent.name == "runs"))
        assert record is not None
        found[record.seed] = content
        assert content["state"] == "finished"
        assert content["run"]["run_group"] == "tiny"
        assert content["tags"] == ["arm:short/scratch", "size:2", f"seed:{record.seed}"]
        config = content["config"]
        assert (config["key"], config["seed"]) == (record.key, record.seed)
        assert (config["arm"], config["size"], config["steps"]) == ("short/scratch", "2", 6)
        for split in ("train", "val"):
            rows = [row for row in content["history"] if f"{split}/loss" in row]
            for column in ("step", "loss", "accuracy"):
                values = [row[f"{split}/{column}"] for row in rows]
                assert values == record.curves[split][column]
        for name, value in record.metrics.items():
            assert content["summary"][name] == value
    assert found.keys() == {0, 1}


def test_the_mode_follows_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    def init(**options: Any) -> None:
        modes.append(options["mode"])
        raise RuntimeError("enough")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.warns(UserWarning, match=r"Weights & Biases failed \(enough\)"):
        warmstart.train([*SHORT, "logger=wandb", f"out={tmp_path / 'none'}"])
    monkeypatch.setattr(wandb, "login", lambda **options: True)
    with pytest.warns(UserWarning, match="the run goes on without"):
        warmstart.train([*SHORT, "logger=wandb", f"out={tmp_path / 'login'}"])
    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.warns(UserWarning, match="the run goes on without"):
        warmstart.train([*SHORT, "logger=wandb", f"out={tmp_path / 'variable'}"])
    assert modes == ["offline", "online", "offline"]


class Broken:
    """A run of the library that fails at the methods it is told to."""

    dir = "."

    def __init__(self, *names: str) -> None:
        self._names = names

    def __getattr__(self, name: str) -> Any:
        if name in self._names:
            raise RuntimeError(f"{name} is broken\nand says so at length")
        return Broken(*self._names)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, bytes]:
    """Return the record and the weights of the run without a mirror."""
    out = tmp_path_factory.mktemp("plain")
    record = warmstart.train([*SHORT, f"out={out}"])
    return record, (out / "runs" / record.key / "best.safetensors").read_bytes()


@pytest.mark.parametrize("broken", ["init", "define_metric", "log", "summary", "finish"])
def test_a_broken_library_neither_stops_nor_changes_a_run(
    broken: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plain: tuple[Record, bytes],
) -> None:
    library = Broken(broken)
    monkeypatch.setattr(wandb, "init", lambda **options: library.init(**options))
    with pytest.warns(UserWarning, match="Weights & Biases failed") as caught:
        record = warmstart.train([*SHORT, "logger=wandb", f"out={tmp_path}"])
    said = [str(warning.message) for warning in caught if "Weights" in str(warning.message)]
    assert said == [f"Weights & Biases failed ({broken} is broken); the run goes on without"]
    choices = {**record.choices, "logger": "csv"}
    assert replace(record, choices=choices, versions={}) == replace(plain[0], versions={})
    folder = tmp_path / "runs" / record.key
    assert (folder / "best.safetensors").read_bytes() == plain[1]


def test_a_missing_library_neither_stops_nor_changes_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: tuple[Record, bytes]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="the run goes on without"):
        record = warmstart.train([*SHORT, "logger=wandb", f"out={tmp_path}"])
    assert record.digests == plain[0].digests


TRIALS = [trial("full", 0, {"optimizer.lr": 0.1}, 0.9)]
WANDB = {"_target_": "warmstart.callbacks.wandb_mirror.WandbMirror", "project": "p", "mode": None}


@pytest.mark.slow
def test_the_page_of_a_tuning_is_mirrored_in_a_run_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tuning(tmp_path, TRIALS)
    page = summarize_tuning(folder, logger={**WANDB, "mode": "offline"})
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    assert f"to sync with Weights & Biases: wandb sync {path.parent}\n" in capsys.readouterr().out
    content = read_back(path)
    assert content["state"] == "finished"
    assert (content["run"]["run_group"], content["run"]["display_name"]) == (
        "digits",
        "tuning of digits",
    )
    shown = content["summary"]["tuning"]
    assert shown["_type"] == "html-file"
    assert (path.parent / "files" / shown["path"]).read_bytes() == page.read_bytes()


def test_one_tuning_has_one_run_whatever_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def init(**options: Any) -> Any:
        seen.append(options["id"])
        return Broken()

    monkeypatch.setattr(wandb, "init", init)
    first = write_tuning(tmp_path / "a", TRIALS)
    for folder in (first, first, write_tuning(tmp_path / "b", TRIALS)):
        summarize_tuning(folder, logger=WANDB)
    summarize_tuning(write_tuning(tmp_path / "c", TRIALS, created="2027-01-01"), logger=WANDB)
    assert seen[0] == seen[1] == seen[2] != seen[3]


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_broken_library_leaves_the_page_of_a_tuning(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Broken(broken)
    monkeypatch.setattr(wandb, "init", lambda **options: library.init(**options))
    with pytest.warns(UserWarning, match="Weights & Biases failed") as caught:
        page = summarize_tuning(write_tuning(tmp_path, TRIALS), logger=WANDB)
    assert len([one for one in caught if "Weights" in str(one.message)]) == 1
    assert page.is_file()


def test_without_the_mirror_the_page_is_a_file(tmp_path: Path) -> None:
    folder = write_tuning(tmp_path, TRIALS)
    summarize_tuning(folder, logger={"_target_": "warmstart.callbacks.csv_log.CsvLog"})
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "tuning.json"]
