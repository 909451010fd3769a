"""`hydra/launcher=` on the command line: the same records, shared stages, and wrong options."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tiny import write_configs
from warmstart.cli import main
from warmstart.results.record import read


@pytest.fixture
def compare(tmp_path: Path) -> list[str]:
    configs = write_configs(tmp_path / "configs")
    return ["compare", "comparison=tiny", "--config-dir", str(configs), f"out={tmp_path / 'out'}"]


def records(out: Path) -> dict:
    return {path.parent.name: read(path.parent) for path in out.glob("runs/*/result.json")}


@pytest.mark.slow
def test_local_gives_the_records_of_basic_and_its_driver_imports_no_torch(compare, tmp_path):
    assert main(compare) == 0
    program = (
        "import sys; from warmstart.cli import main; code = main(sys.argv[1:]); "
        "print('torch' in sys.modules); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *compare[:-1], f"out={tmp_path / 'local'}"]
    done = subprocess.run(
        [*command, "hydra/launcher=local"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "False"
    # Runs from scratch wait for no source: only what starts from it comes after it.
    shared = [n for n, line in enumerate(lines) if line.startswith("shared: source:tiny: val/acc")]
    probes = [n for n, line in enumerate(lines) if re.match(r"\[\d/8\] arm=short/probe ", line)]
    assert len(shared) == 1
    assert len(probes) == 4
    assert shared[0] < min(probes)
    assert sum(line.startswith("[8/8] ") for line in lines) == 1
    expected = records(tmp_path / "out")
    assert len(expected) == 8
    assert records(tmp_path / "local") == expected
    # A second start finds everything done.
    again = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert "8 of 8 runs are finished and are skipped" in again.stdout


def test_what_starts_from_a_failed_source_fails_by_name(compare, tmp_path, capsys):
    path = tmp_path / "configs" / "source" / "tiny.yaml"
    path.write_text(path.read_text() + "optimizer: {lr: 1.0e20}\n")
    assert main([*compare, "data.per_class=1", "seed=0", "comparison.reference=null"]) == 1
    printed = capsys.readouterr().out
    assert "shared: source:tiny: FAILED: the training loss is" in printed
    assert (
        "arm=short/probe data.per_class=1 seed=0: FAILED: it starts from shared: source:tiny, "
        "which failed"
    ) in printed
    assert "arm=short/scratch data.per_class=1 seed=0: test/accuracy" in printed


def test_a_dry_run_says_what_there_is_to_do_and_starts_nothing(compare, tmp_path, capsys):
    assert main([*compare, "--dry-run", "--devices", "8"]) == 0
    printed = capsys.readouterr().out
    assert "8 runs: 0 finished, 8 to do" in printed
    assert "1 shared stage, each once: source:tiny" in printed
    assert "on 8 cores: about " in printed
    assert not (tmp_path / "out" / "comparisons").exists()
    assert not list((tmp_path / "out").glob("runs/*/result.json"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hydra/launcher=locl", "hydra/launcher is 'locl', but must be one of basic, local, slurm"),
        ("hydra.launcher._target_=os.system", "sets a part of Hydra that runs"),
        ("hydra/sweeper=basic", "sets a part of Hydra that runs"),
        ("hydra/launcher=local hydra.launcher.worker=2", "no key 'hydra.launcher.worker'"),
        ("hydra/launcher=local hydra.launcher.workers=0", "hydra.launcher.workers is 0, but must"),
        ("resources.timeout=5", "hydra/launcher=local or =slurm"),
        ("resources.gpus=1", "hydra/launcher=local or =slurm"),
        ("--devices 8", "--devices is of --dry-run"),
        ("--dry-run --devices=x", "--devices is 'x', but must be a whole number of at least 1"),
        ("--dry-run --devices=0", "--devices is '0', but must be a whole number of at least 1"),
        ("--dry-run --devices", "--devices is '', but must be a whole number of at least 1"),
    ],
)
def test_wrong_options(compare, words, message, capsys):
    assert main([*compare, *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_more_cores_than_there_are(compare, capsys):
    assert main([*compare, "hydra/launcher=local", "resources.cpus=4096"]) == 2
    assert "resources.cpus is 4096, but must be from 1 to the" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("defaults:\n  - override /hydra/launcher: local\n", True),
        ("defaults:\n  - override hydra/launcher: slurm\n", True),
        ("hydra: {launcher: {workers: 3}}\n", True),
        ("defaults:\n  - override /hydra/launcher: other\n", False),
        ("hydra: {launcher: {_target_: os.system}}\n", False),
        ("hydra: {mode: RUN}\n", False),
    ],
)
def test_what_a_config_of_ones_own_may_say_of_the_launcher(tmp_path, text, fine, capsys):
    path = tmp_path / "my" / "comparison" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    # Another mistake is found later: it is what a folder that may be read gives.
    assert main(["train", "--config-dir", str(tmp_path / "my"), "sed=1"]) == 2
    error = capsys.readouterr().err
    assert ("there is no key 'sed'" in error) == fine
    assert ("configures Hydra itself" in error) != fine
