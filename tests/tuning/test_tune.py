"""``warmstart tune``: its rounds, what a kill costs, what it leaves, and what it refuses."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

import warmstart
from processes import run, start, trained
from tiny import write_configs
from warmstart import ConfigError
from warmstart.cli import main
from warmstart.configs import compose, resolved
from warmstart.results import pruning, record, state
from warmstart.run.execution import execute
from warmstart.run.preparing import prepare
from warmstart.run.together import stack_key
from warmstart.stopping import Pruned
from warmstart.tuning import projection
from warmstart.tuning.study import ArmStudy

STUDY = """
# @package _global_
comparison: {name: tuned, reference: short/scratch, metric: test/accuracy}
model: {weights: source:tiny}
steps: 12
search:
  space: {optimizer: {lr: {low: 0.001, high: 0.5, points: 2}, weight_decay: {points: 1}}}
  trials: 6
  coarse: 0.7
  seeds: [100, 101]
  batch: 2
hydra:
  sweeper:
    params:
      arm: short/scratch,short/probe
      data.per_class: 1,2
      seed: 0,1
"""

LITTLE = ("search.trials=3", "search.refine=0.34", "search.finalists=1")


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    root = write_configs(tmp_path / "configs")
    (root / "comparison" / "tuned.yaml").write_text(STUDY)
    (root / "experiment").mkdir()
    (root / "experiment" / "alone.yaml").write_text(
        "# @package _global_\nsteps: 4\ndata: {per_class: 1}\n"
    )
    return root


@pytest.fixture
def tune(tmp_path: Path, configs: Path) -> list[str]:
    """Return the words of ``tune`` with the configs of the tests and an output of their own."""
    return ["tune", "--config-dir", str(configs), f"out={tmp_path / 'out'}"]


def tuning(folder: Path) -> dict[str, Any]:
    """Return what readers get, but for when and by which words it was made."""
    content: dict[str, Any] = json.loads((folder / "tuning.json").read_text())
    return {name: v for name, v in content.items() if name not in ("created", "command")}


class TestSearch:
    def test_two_rounds_the_best_for_long_and_the_recipes(
        self, tune: list[str], tmp_path: Path, configs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*tune, "comparison=tuned"]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        lines = output.out.splitlines()
        assert lines[0] == "searched at data.per_class=2, the largest of the 2 of the comparison"
        assert any(line.startswith("[1/16] coarse short/scratch optimizer.lr=") for line in lines)
        folder = tmp_path / "out" / "tunings" / "tuned"
        assert lines[-1] == f"report: {folder / 'report.html'}"

        found = tuning(folder)
        assert (found["name"], found["of"], found["sampler"]) == ("tuned", "comparison", "random")
        # 0.7 of the arms' six steps; the probe's weight decay of 5e-4 is that of sgd.
        config = {"optimizer.lr": 0.05, "optimizer.weight_decay": 5e-4}
        assert found["arms"]["short/scratch"] == {"steps": 6, "config": config}
        assert set(found["space"]) == set(config)
        for arm in ("short/scratch", "short/probe"):
            of_arm = [trial for trial in found["trials"] if trial["arm"] == arm]
            assert [trial["number"] for trial in of_arm] == list(range(8)), "the same budget"
            rounds = ["coarse"] * 3 + ["refine"] * 3 + ["final"] * 2
            assert [trial["round"] for trial in of_arm] == rounds
            assert [trial["seed"] for trial in of_arm] == [100] * 6 + [101] * 2
            assert [trial["steps"] for trial in of_arm] == [4] * 6 + [6] * 2
            assert all(trial["state"] in ("finished", "pruned") for trial in of_arm)
            self.check_choice(found["best"][arm], of_arm)
        for trial in found["trials"]:
            if trial["state"] == "finished":
                of_run = record.read(tmp_path / "out" / "runs" / trial["key"])
                assert of_run is not None
                assert (of_run.seed, of_run.config["steps"]) == (trial["seed"], trial["steps"])
                assert of_run.config["optimizer"]["lr"] == trial["values"]["optimizer.lr"]
                assert of_run.config["data"]["per_class"] == 2
                assert of_run.test_opened == 0
                assert of_run.metrics["val/accuracy"] == trial["value"]
                assert of_run.curves["val"]["accuracy"] == trial["curve"]["accuracy"]

        # A second call does what is new alone: more finalists change nothing in what was searched.
        assert main([*tune, "comparison=tuned", "search.finalists=3"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "12 of 12 trials are over and are not run again"
        assert sum(line.startswith("[") for line in lines) == 2
        more = tuning(folder)["trials"]
        assert len(more) == len(found["trials"]) + 2
        assert [t for t in more if t["round"] != "final"] == [
            t for t in found["trials"] if t["round"] != "final"
        ]
        self.check_recipe(folder, found, configs, tmp_path)

    def check_choice(self, best: dict[str, Any], trials: list[dict[str, Any]]) -> None:
        """The best final is the one of the larger accuracy; finals are of the best trials."""
        searched = [t for t in trials if t["round"] != "final" and t["state"] == "finished"]
        final = [t for t in trials if t["round"] == "final"]
        top = sorted((t["value"] for t in searched), reverse=True)[:2]
        chosen = [t["value"] for t in searched if any(t["values"] == f["values"] for f in final)]
        assert sorted(chosen, reverse=True) == top
        assert best["value"] == max(t["value"] for t in final)
        (number,) = best["trials"]
        assert next(t["values"] for t in final if t["number"] == number) == best["values"]

    def check_recipe(
        self, folder: Path, found: dict[str, Any], configs: Path, tmp_path: Path
    ) -> None:
        own = folder / "configs"
        config = compose(["arm=tuned/short/probe"], config_dirs=[str(configs), str(own)])
        best = found["best"]["short/probe"]["values"]
        assert config.optimizer.lr == best["optimizer.lr"]
        assert config.optimizer.weight_decay == best["optimizer.weight_decay"]
        assert (config.choices.strategy, config.steps) == ("linear_probe", 6)
        text = (own / "arm" / "tuned" / "short" / "probe.yaml").read_text()
        assert text.startswith("# @package _global_\n# The arm short/probe with what a search has")
        assert yaml.safe_load(text)["defaults"] == ["/arm/short/probe", "_self_"]

    def test_a_study_without_arms_and_a_grid(
        self, tune: list[str], tmp_path: Path, configs: Path
    ) -> None:
        words = ["search.space.optimizer.weight_decay=null", "search.space.optimizer.lr.points=2"]
        more = ["+search.space.scheduler.values=[cosine,linear]", "search.name=mine"]
        assert main([*tune, "experiment=alone", "search=grid", *words, *more]) == 0
        found = tuning(tmp_path / "out" / "tunings" / "mine")
        assert found["of"] == "experiment"
        first = [t["values"] for t in found["trials"]][:4]
        assert first == [
            {"optimizer.lr": rate, "scheduler": name}
            for rate in (1e-4, 0.3)
            for name in ("cosine", "linear")
        ]
        best = found["best"]["scratch/full"]["values"]
        own = tmp_path / "out" / "tunings" / "mine" / "configs"
        config = compose(["arm=tuned/scratch/full"], config_dirs=[str(own)])
        assert config.choices.scheduler == best["scheduler"]
        assert config.optimizer.lr == best["optimizer.lr"]

    def test_a_probe_takes_no_steps_and_what_was_told_is_in_the_recipe(
        self, tune: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = [
            "strategy=knn",
            "init.statistics=data",
            "search.seeds=[100,101]",
            "search.refine=0",
        ]
        space = ["search.space.optimizer=null"]
        space += ["+search.space.strategy.distance.values=[cosine,euclidean]"]
        assert main([*tune, "experiment=alone", "search=grid", *words, *space]) == 0
        assert "best of k" in capsys.readouterr().out
        folder = tmp_path / "out" / "tunings" / "alone"
        best = tuning(folder)["best"]["scratch/knn"]["values"]
        config = compose(["arm=tuned/scratch/knn"], config_dirs=[str(folder / "configs")])
        assert (config.choices.strategy, config.init.statistics) == ("knn", "data")
        assert config.strategy.distance == best["strategy.distance"]

    def test_dry_run_counts_trials_as_long_as_the_finals(
        self, tune: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([*tune, "comparison=tuned", "search.coarse=1", "--dry-run"]) == 0
        assert capsys.readouterr().out.splitlines()[2] == "16 runs: 0 finished, 16 to do"

    def test_dry_run(
        self, tune: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = "+search.space.scheduler.values=[cosine,linear]"
        assert main([*tune, "comparison=tuned", options, "--dry-run", "--devices", "2"]) == 0
        lines = capsys.readouterr().out.splitlines()
        # Each arm: 6 trials of 4 steps, and 2 finalists on one seed for 6.
        assert lines[1] == (
            "2 arms, for each 6 trials, and 2 finalists on 1 seed; 72 steps in all "
            "(short/scratch 4, then 6, short/probe 4, then 6)"
        )
        assert lines[2] == "16 runs: 0 finished, 16 to do"
        assert lines[3] == "1 shared stage, each once: source:tiny"
        assert lines[5].startswith("on 2 cores: about ")
        assert not (tmp_path / "out" / "tunings").exists()

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            (
                "optimizer.momentum={low: 0.5, high: 2}",
                "optimizer.momentum is 2.0, but must be a number of at least 0 and below 1 (in the "
                "cell short/scratch optimizer.lr=0.001 optimizer.weight_decay=1e-06 "
                "optimizer.momentum=2.0)",
            ),
            ("batch_size={low: 8, high: 64}", "batch_size is 8.0, but must be a whole number"),
            ("scheduler.values=[cosine,lineal]", "scheduler is 'lineal', but must be one of"),
        ],
    )
    def test_a_space_that_no_run_can_take_is_refused_before_anything_is_drawn(
        self,
        space: str,
        message: str,
        tune: list[str],
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        words = ["comparison=tuned", "arm=short/scratch", f"+search.space.{space}"]
        assert main([*tune, *words]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out" / "tunings").exists()

    def test_a_diverging_trial_is_a_result(
        self, tune: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["comparison=tuned", "arm=short/scratch", "search=grid", "search.trials=null"]
        lr = "search.space.optimizer.lr={low: 0.01, high: 1e20, log: true, points: 2}"
        assert main([*tune, *words, "search.refine=0", "search.finalists=1", lr]) == 0
        found = tuning(tmp_path / "out" / "tunings" / "tuned")["trials"]
        assert [t["state"] for t in found] == ["finished", "failed", "finished"]
        assert "the training loss is" in found[1]["error"]
        capsys.readouterr()
        lr = lr.replace("0.01", "1e19")
        assert main([*tune, *words, "search.refine=0", "search.name=b", lr]) == 1
        assert (
            "failed: short/scratch: none of its trials has finished; the last one: the training "
            "loss is"
        ) in capsys.readouterr().out


class TestKill:
    def test_the_search_goes_on_as_if_nothing_had_been(
        self, tune: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = [*tune, "comparison=tuned", "search=tpe", "arm=short/scratch", *LITTLE]
        assert main(words) == 0
        whole = tuning(tmp_path / "out" / "tunings" / "tuned")

        words[3] = f"out={tmp_path / 'other'}"
        calls = 0
        add, end, write = ArmStudy.add, ArmStudy.end, projection.write

        def dying(function: Any) -> Any:
            def call(*args: Any, **options: Any) -> None:
                nonlocal calls
                calls += 1
                if calls % 8 == 5:
                    raise KeyboardInterrupt
                function(*args, **options)
                if calls % 8 == 0:
                    raise KeyboardInterrupt

            return call

        monkeypatch.setattr(ArmStudy, "add", dying(add))
        monkeypatch.setattr(ArmStudy, "end", dying(end))
        monkeypatch.setattr(projection, "write", dying(write))
        codes = []
        while not codes or codes[-1] == 130:
            codes.append(main(words))
        assert codes[-1] == 0
        assert len(codes) > 2
        assert tuning(tmp_path / "other" / "tunings" / "tuned") == whole

    @pytest.mark.slow
    def test_a_kill_and_two_controllers_at_once(self, tune: list[str], tmp_path: Path) -> None:
        words = [*tune, "comparison=tuned", "checkpoint_seconds=0", "arm=short/scratch", *LITTLE]
        log = tmp_path / "log.txt"
        assert run(words, log, die_at_save=7) == -9
        folder = tmp_path / "out" / "tunings" / "tuned"
        assert any(t["state"] == "running" for t in tuning(folder)["trials"])
        processes = [start(words, tmp_path / f"log{n}.txt") for n in range(2)]
        for process in processes:
            process.join(timeout=300)
            assert process.exitcode == 0
        counts = Counter(key for n in range(2) for key in trained(tmp_path / f"log{n}.txt"))
        assert set(counts.values()) == {1}, "no run is trained twice"

        # The same values and choices on another launcher, several at a time.
        words[3] = f"out={tmp_path / 'other'}"
        assert run([*words, "hydra/launcher=local"], tmp_path / "local.txt") == 0
        assert tuning(folder) == tuning(tmp_path / "other" / "tunings" / "tuned")


class TestPruning:
    def config(self, out: Path, **more: Any) -> dict[str, Any]:
        words = ["steps=12", "val_every_steps=3", "data.per_class=2", f"out={out}"]
        return {**resolved(compose([*words, "checkpoint_seconds=0"])), **more}

    def test_a_hopeless_run_ends_and_can_be_finished_later(self, tmp_path: Path) -> None:
        hopeless = prepare(self.config(tmp_path / "a", prune=[[3, 0.0], [6, 1.0]]))
        for _ in range(2):  # the second time from the checkpoint, without a step
            with pytest.raises(Pruned, match=r"^pruned at step 6 of 12, val/accuracy 0\.\d{4}$"):
                execute(hopeless)
            ended = pruning.read(hopeless.folder)
            assert ended is not None
            assert (ended["step"], ended["curve"]["step"]) == (6, [3, 6])
            said = state.read(hopeless.folder)
            assert said is not None
            assert (said.state, said.reason[:14]) == ("stopped", "pruned at step")
            assert record.read(hopeless.folder) is None
        later = prepare(self.config(tmp_path / "a"))
        assert later.key == hopeless.key
        whole = execute(prepare(self.config(tmp_path / "b")))
        assert execute(later) == whole, "to the bit"
        assert pruning.read(later.folder) is None
        # Its record stands: nothing is left to end.
        assert execute(hopeless) == whole

    def test_a_run_that_is_good_enough_is_as_without(self, tmp_path: Path) -> None:
        whole = execute(prepare(self.config(tmp_path / "a")))
        best = max(whole.curves["val"]["accuracy"])
        limits = [[12, 1.0], [6, 0.0]]
        assert best < 1
        same = execute(prepare(self.config(tmp_path / "b", prune=limits)))
        assert same == whole, "at the last step nothing is saved by an end"

    def test_heads_that_train_together_are_not_pruned(self, tmp_path: Path, configs: Path) -> None:
        words = ["arm=short/probe", "data.per_class=1", f"out={tmp_path}"]
        config = resolved(compose(words, config_dirs=[str(configs)]))
        assert stack_key(prepare(config))
        assert not stack_key(prepare({**config, "prune": [[3, 0.0]]}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "tune takes one comparison or experiment, but got none; use comparison=NAME"),
        (["comparison=tuned", "experiment=alone"], "tune takes one comparison or experiment"),
        (["comparison=tuned", "batch_size=0"], "batch_size is 0, but must be a whole number"),
        (["comparison=tuned", "steps=9"], "'steps=9' overrides what the arm short/scratch sets"),
        (["comparison=tuned", "search=foo"], "search is 'foo', but must be one of grid, random"),
        (
            ["experiment=alone", "strategy=knn", "init=pretrained", "init.weights=source:tiny"],
            "takes no steps, so that optimizer.lr has no effect on it",
        ),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, tune: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*tune, *words]) == 2
    assert message in capsys.readouterr().err


def test_a_search_of_other_settings_is_not_mixed_in(
    tune: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*tune, "experiment=alone", "search.trials=1", "search.finalists=1"]
    assert main([*words, "search.seeds=[7,8]"]) == 0
    folder = tmp_path / "out" / "tunings" / "alone"
    before = tuning(folder)
    # What a power cut leaves: a line without its end, and a lock that nobody holds.
    with (folder / "study.journal").open("a") as file:
        file.write('{"op_code": 8, "work')
    (folder / "study.journal.lock").touch()
    assert main([*words, "search.seeds=[7,8]"]) == 0
    assert tuning(folder) == before
    assert main([*words, "search.seeds=[9,8]"]) == 2
    assert (
        "the search of scratch/full was begun with seeds 7, and now it is 9; its command was "
        "warmstart tune --config-dir "
    ) in (error := capsys.readouterr().err)
    assert "; give search.name=NAME for a search of its own" in error
    assert main([*words, "search.seeds=[7,8]", "data.per_class=2"]) == 2
    said = "was begun with other data, another model or other options of its runs; its command was"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "compare"])
def test_others_take_no_search(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "search=random"]) == 2
    assert f"is of a search, and {command} makes none" in capsys.readouterr().err


def test_a_run_does_not_see_the_search(tmp_path: Path) -> None:
    words = [f"out={tmp_path}", "steps=0", "data.per_class=1"]
    key = prepare(compose(words)).key
    assert prepare(compose([*words, "search=tpe"])).key == key
    with pytest.raises(ConfigError):
        warmstart.train([*words, "search=nothing"])
