"""The command itself: subcommands, flags, exit codes, help, completion."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tiny import write_configs
from warmstart import ConfigError
from warmstart.cli import main
from warmstart.commands import OTHERS

BIN = Path(sys.executable).parent
COMMAND = BIN / "warmstart"


def run(*words: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a fresh process."""
    return subprocess.run(
        [str(word) for word in words],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_lists_the_commands_quickly_and_without_torch() -> None:
    before = cpu_seconds()
    result = run(COMMAND, "--help")
    assert cpu_seconds() - before < 0.5
    assert result.returncode == 0
    named = ("train", "compare", "tune", "look", "plan", "rank", "features", "report", "ensemble")
    for command in (*named, "models", "store", "check", "--version"):
        assert re.search(rf"^  .*{command}", result.stdout, re.MULTILINE), command
    code = "import sys; from warmstart.cli import main; main(['--help']); print(*sys.modules)"
    loaded = run(sys.executable, "-c", code).stdout.split()
    assert "warmstart.cli" in loaded
    assert not {"torch", "hydra", "numpy", "rich"} & set(loaded)


def test_the_module_is_the_same_command() -> None:
    result = run(sys.executable, "-m", "warmstart", "--version")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"warmstart \d+\.\d+\.\d+\n", result.stdout)


def test_a_wrong_key_ends_with_2_and_one_sentence_in_a_real_process(tmp_path: Path) -> None:
    result = run(COMMAND, "train", "stepz=3", f"out={tmp_path / 'out'}")
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(
        r"warmstart: there is no key 'stepz'; allowed are .*, steps, .*; did you mean 'steps'\?\n",
        result.stderr,
    )
    assert not (tmp_path / "out").exists()


def test_no_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert capsys.readouterr().out.startswith("usage: warmstart COMMAND")


def test_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["comapre", "comparison=digits"]) == 2
    assert capsys.readouterr().err == (
        "warmstart: there is no command 'comapre'; use one of train, compare, tune, status, look, "
        "plan, check, rank, features, report, ensemble, models, store; did you mean 'compare'?\n"
    )


def test_only_a_command_that_trains_goes_on_from_a_checkpoint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(OTHERS, "check", stopped)
    monkeypatch.setattr("warmstart.app.run_app", stopped)
    assert main(["check"]) == 130
    assert capsys.readouterr().err == "warmstart: stopped\n"
    assert main(["tune", "comparison=digits"]) == 130
    assert "the same command goes on (from the last checkpoint" in capsys.readouterr().err


def test_full_error_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError, match="there is no key 'stepz'"):
        main(["train", "stepz=3"])
    assert os.environ["HYDRA_FULL_ERROR"] == "1"


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    before = list(sys.argv)
    assert main(["train", "stepz=3"]) == 2
    assert "HYDRA_FULL_ERROR" not in os.environ
    assert sys.argv == before


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("look", ["the images as the network", "--out FILE", "--config-dir", "Nothing trains"]),
        ("plan", ["--json", "--config-dir", "Nothing trains"]),
        ("check", ["--json", "--config-dir", "wrong (then the exit code is 1)", "test is not"]),
        ("rank", ["--json", "--config-dir", "models=[mobilenet_v2,", "A prediction, no evidence"]),
        ("features", ["--out FILE", "--float16", "group=all", "features.pool=gap"]),
        ("report", ["--out FILE", "from records alone"]),
        ("ensemble", ["DIR", "--snapshots", "--json", "nothing is run again"]),
        ("status", ["DIR", "--watch", "--json", "from disk alone"]),
        ("models", ["--json", "PATTERN"]),
        ("store", ["--clear PATTERN", "DIR", "outputs/store", "--clear 'runs/*'"]),
    ],
)
def test_help_of_the_other_commands(
    command: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: warmstart {command} ")
    assert [word for word in words if word not in text] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["look", "--jsn"], "unrecognized arguments: --jsn"),
        (["store", "--clear"], "argument --clear: expected at least one argument"),
        (["store", "a", "b"], "unrecognized arguments: b"),
        (["status", "a", "b"], "unrecognized arguments: b"),
    ],
)
def test_wrong_flags_of_the_other_commands(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(words)
    assert exit_.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {expected}\n")


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_of_a_command_is_our_own(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([command, flag])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert "warmstart compare comparison=NAME|experiment=NAME [overrides]" in text
    assert re.search(r"^model: .*resnet18.*small_cnn", text, re.MULTILINE)
    assert "--config-dir DIR" in text
    assert re.search("^data: .*digits", text, re.MULTILINE)
    assert "_shared" not in text
    assert "Powered by Hydra" not in text


def test_cfg_job_prints_the_config_and_runs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--cfg", "job", "steps=7", f"out={tmp_path / 'out'}"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["steps"], config["optimizer"]["momentum"]) == (7, 0.9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["steps=7", "--cfg", "job", "seed=3"],
        ["--cfg", "job", "steps=7", "seed=3"],
        ["steps=7", "seed=3", "--cfg=job"],
        ["steps=7", "-c", "job", "seed=3"],
    ],
    ids=" ".join,
)
def test_flags_stand_anywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert (config["steps"], config["seed"]) == (7, 3)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--confg-dir", "x"], r"there is no flag --confg-dir; .*did you mean '--config-dir'\?"),
        (["--multi"], r"there is no flag --multi; .*did you mean '--multirun'\?"),
        (["--config-path=x"], r"there is no flag --config-path; allowed are .*"),
        (["--cfg"], "the flag --cfg needs a value; see --help"),
    ],
)
def test_wrong_flags(words: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words]) == 2
    assert re.fullmatch(f"warmstart: {expected}\n", capsys.readouterr().err)


class TestConfigDir:
    @pytest.mark.parametrize("form", ["--config-dir {}", "--config-dir={}", "-cd {}"])
    def test_adds_configs(
        self, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_configs(tmp_path)
        flag = form.format(tmp_path).split()
        assert main(["train", *flag, "arm=short/probe", "--cfg", "job"]) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        assert (config["steps"], config["init"]["weights"]) == (6, "source:tiny")

    def test_several_are_all_looked_into(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        one, two = tmp_path / "it's, [one] = 1", tmp_path / "two"
        for folder, text in ((one, "lr: 0.5\n"), (two, "momentum: 0.5\n")):
            (folder / "arm").mkdir(parents=True)
            arm = f"# @package _global_\noptimizer:\n  {text}"
            (folder / "arm" / f"{folder.name[:3]}.yaml").write_text(arm)
        dirs = ["--config-dir", str(one), f"--config-dir={two}"]
        for arm, key in (("it's", "lr"), ("two", "momentum")):
            assert main(["train", *dirs, f'arm="{arm[:3]}"', "--cfg", "job"]) == 0
            assert yaml.safe_load(capsys.readouterr().out)["optimizer"][key] == 0.5
        # Found again in the process of a sweep, and by its name.
        words = ["-m", "seed=0,1", "arm=two", "steps=2", "data.per_class=2"]
        assert main(["train", *dirs, *words, f"out={tmp_path / 'out'}"]) == 0
        (two / "arm" / "it'.yaml").write_text("# @package _global_\n")
        capsys.readouterr()
        assert main(["train", *dirs]) == 2
        expected = (
            f"warmstart: {one}/arm/it'.yaml would hide {two}/arm/it'.yaml; rename one of them\n"
        )
        assert capsys.readouterr().err == expected

    @pytest.mark.parametrize("form", ["--config-dir {}", "--config-dir={}", "-cd={}"])
    def test_must_exist(
        self, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        flag = form.format(tmp_path / "none").split()
        assert main(["train", *flag]) == 2
        assert re.fullmatch(
            r"warmstart: the config folder '\S+none' does not exist; give an existing folder\n",
            capsys.readouterr().err,
        )

    @pytest.mark.parametrize("form", ["--config-dir {}", "--config-dir={}"])
    def test_must_not_hide_a_shipped_config(
        self, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "optimizer").mkdir()
        (tmp_path / "optimizer" / "sgd.yaml").write_text("lr: 3\n")
        assert main(["train", *form.format(tmp_path).split(), "--cfg", "job"]) == 2
        assert re.fullmatch(
            r"warmstart: \S+/optimizer/sgd.yaml has the name of a shipped config, "
            r"which would hide it; rename yours\n",
            capsys.readouterr().err,
        )

    def test_own_options_are_among_the_suggestions(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write_configs(tmp_path)
        assert main(["train", "--config-dir", str(tmp_path), "arm=short/scrach"]) == 2
        error = capsys.readouterr().err
        assert "digits/scratch" in error
        assert error.endswith("; did you mean 'short/scratch'?\n")


@pytest.fixture(scope="module")
def script() -> str:
    """Return what ``warmstart train -sc install=bash`` prints."""
    result = run(COMMAND, "train", "-sc", "install=bash")
    assert result.returncode == 0
    return result.stdout


@pytest.mark.slow
class TestCompletion:
    """In a real bash, with the script that the command prints."""

    def complete(self, script: str, *lines: str) -> list[list[str]]:
        """Return the replies to TAB at the end of each line."""
        body = """
        reply() {
            COMP_LINE="$1"; COMP_POINT=${#1}; COMP_WORDS=($1)
            [[ "$1" == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 )); COMPREPLY=()
            hydra_bash_completion; echo "${COMPREPLY[*]}"
        }
        """
        calls = "\n".join(f'reply "{line}"' for line in lines)
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        result = run("bash", "-c", f"{script}\n{body}\n{calls}", PATH=path)
        assert result.stderr == ""
        return [line.split() for line in result.stdout.splitlines()]

    def test_completes_behind_the_subcommand(self, script: str) -> None:
        command, key, option, comparison, study, later, looked, *others, data = self.complete(
            script,
            "warmstart tr",
            "warmstart train mod",
            "warmstart train model=",
            "warmstart compare comparison=dig",
            "warmstart compare experiment=lp",
            "warmstart train model=resnet20 strategy=lin",
            "warmstart look augment=crop_f",
            "warmstart check augment=crop_f",
            "warmstart rank augment=crop_f",
            "warmstart train data=",
        )
        assert command == ["train"]
        assert {"model=", "model."} == set(key)
        assert {"model=resnet20", "model=small_cnn"} <= set(option)
        assert "comparison=digits" in comparison
        assert study == ["experiment=lp_ft"]
        assert later == ["strategy=linear_probe"]
        assert [looked, *others] == 3 * [["augment=crop_flip"]]
        assert "data=digits" in data
        assert "data=_shared" not in data

    def test_is_for_the_command_alone(self, script: str) -> None:
        result = run("bash", "-c", f"{script}\ncomplete -p | sed 's/.* //'")
        assert result.stdout.split() == ["warmstart"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an output folder with two finished runs."""
    out = tmp_path_factory.mktemp("report")
    assert main(["train", "-m", "steps=2", "seed=0,1", "keep=none", f"out={out}"]) == 0
    return out


class TestReport:
    def test_needs_the_files_alone_and_no_torch(self, out: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        code = (
            "import sys; sys.modules['torch'] = None; from warmstart.cli import main; "
            f"sys.exit(main(['report', {str(out)!r}, '--out', {str(page)!r}]))"
        )
        result = run(sys.executable, "-c", code)
        assert (result.returncode, result.stderr) == (0, "")
        assert "scratch/full" in result.stdout
        assert result.stdout.endswith(f"report: {page}\n")
        assert page.read_text().lower().startswith("<!doctype html>")

    def test_goes_into_the_folder_by_default(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", str(out)]) == 0
        assert capsys.readouterr().out.endswith(f"report: {out / 'report.html'}\n")
        assert (out / "report.html").is_file()

    def test_of_a_missing_folder(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["report", str(tmp_path / "none")]) == 2
        assert re.fullmatch(
            r"warmstart: \S+/none is not a folder; give an output folder .*\n",
            capsys.readouterr().err,
        )

    def test_of_a_folder_without_runs(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["report", str(tmp_path)]) == 2
        assert "holds no finished run; give" in capsys.readouterr().err

    def test_without_a_folder(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as exit_:
            main(["report"])
        assert exit_.value.code == 2
        assert "required: DIR" in capsys.readouterr().err
