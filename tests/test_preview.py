"""``warmstart plan`` tells the truth: held against the optimizer and the hooks of real runs."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import warmstart
from tiny import write_configs
from warmstart.errors import ConfigError
from warmstart.preview import preview
from warmstart.preview_table import plan_command, show
from warmstart.results.record import Record
from warmstart.run.execution import execute
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

SHORT = ["data.per_class=3", "batch_size=8", "steps=12", "val_every_steps=5", "trainer=cpu"]
PRETRAINED = ["init=pretrained", "init.weights=source:tiny"]
PHASES = (
    "strategy.phases=[{groups: all, lr_scale: 0.5, group_decay: 0.7, batchnorm: train},"
    "{start: 0.3, groups: 2, batchnorm: eval}, {start: 0.6, groups: 3, batchnorm: eval_frozen}]"
)
RUNS = {
    "full": ["scheduler.warmup_steps=4"],
    "full, group decay": ["strategy.group_decay=0.5", "optimizer=adamw", "scheduler=linear"],
    "full, eval": [*PRETRAINED, "strategy.batchnorm=eval", "optimizer=adam"],
    "linear probe": [*PRETRAINED, "strategy=linear_probe", "scheduler=step"],
    "partial": ["strategy=partial", "strategy.top=2", "strategy.batchnorm=train", "steps=1"],
    "gradual": [*PRETRAINED, "strategy=gradual", "optimizer.weight_decay=0.01"],
    "lp_ft": [*PRETRAINED, "strategy=lp_ft", "optimizer=adamw", "scheduler.warmup_steps=8"],
    "listed": ["strategy=listed", PHASES, "optimizer.decay_all=true"],
    "gradual, restarts": [
        *(*PRETRAINED, "strategy=gradual", "steps=30", "scheduler.warmup_steps=2"),
        "strategy.restart_schedule=true",
    ],
    "lp_ft, restarts": [
        *(*PRETRAINED, "strategy=lp_ft", "strategy.restart_schedule=true"),
        *("scheduler=sgdr", "scheduler.cycles=2", "optimizer.decoupled=true"),
    ],
    "one cycle": ["scheduler=one_cycle", "optimizer=rmsprop", "strategy.group_decay=0.5"],
    "epochs": [
        *("scheduler=step", "scheduler.at=null", "scheduler.at_epochs=[1,2.5]"),
        *("optimizer=adagrad", "data.per_class=2"),
    ],
    "deep": ["model=resnet20", "data.size=8", "strategy=lp_ft", "strategy.batchnorm=train"],
}


@dataclasses.dataclass
class Observed:
    """What was seen of a run from outside, an entry for each step.

    Attributes:
        parameters: Name to learning rate, weight decay, and whether it has a gradient.
        requires_grad: Name to the flag.
        norms: Name of a BatchNorm layer to whether it was in training mode in the forward pass.
        outputs: Name of a module to its output in the first step.
    """

    parameters: list[dict[str, tuple[float, float, bool]]]
    requires_grad: list[dict[str, bool]]
    norms: list[dict[str, bool]]
    outputs: dict[str, torch.Tensor]


def observe(run: Run) -> tuple[Observed, Record]:
    """Execute a run and write down what torch's own hooks see in it."""
    seen = Observed([], [], [], {})
    names: dict[int, str] = {}
    modes: dict[str, bool] = {}
    fit = pl.Trainer.fit

    def note_names(trainer: pl.Trainer, task: Any, *loaders: Any) -> None:
        model = task.model
        names.update({id(parameter): name for name, parameter in model.named_parameters()})
        names.update({id(module): name for name, module in model.named_modules()})
        for path in [path for paths in run.architecture.layout.values() for path in paths]:
            model.get_submodule(path).register_forward_hook(functools.partial(after_forward, path))
        fit(trainer, task, *loaders)

    def before_forward(module: nn.Module, inputs: Any) -> None:
        if isinstance(module, nn.BatchNorm2d) and torch.is_grad_enabled() and names:
            modes[names[id(module)]] = module.training

    def after_forward(path: str, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        seen.outputs.setdefault(path, output.detach().clone())

    # Not before the step: Lightning runs forward and backward pass within it.
    def after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        entries = [(group, p) for group in optimizer.param_groups for p in group["params"]]
        seen.parameters.append(
            {
                names[id(p)]: (group["lr"], group["weight_decay"], p.grad is not None)
                for group, p in entries
            }
        )
        seen.requires_grad.append({names[id(p)]: p.requires_grad for _, p in entries})
        seen.norms.append(dict(modes))
        modes.clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", note_names)
        hooks = [
            register_module_forward_pre_hook(before_forward),
            register_optimizer_step_post_hook(after_step),
        ]
        try:
            record = execute(run)
        finally:
            for hook in hooks:
                hook.remove()
    return seen, record


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with configs and a store in which the source ``tiny`` is trained."""
    root = tmp_path_factory.mktemp("preview")
    write_configs(root / "configs")
    source = run_of(root, *PRETRAINED).source
    assert source is not None
    execute(source)
    return root


def run_of(base: Path, *overrides: str) -> Run:
    words = [*SHORT, f"out={base / 'out'}", f"store={base / 'store'}", *overrides]
    return prepare(warmstart.compose(words, config_dirs=[str(base / "configs")]))


@pytest.mark.parametrize("name", RUNS)
def test_a_plan_is_what_training_does(name: str, base: Path) -> None:
    # Frozen layers that run once, before training, could not be seen in it.
    run = run_of(base, *RUNS[name], "features.cache=off")
    plan = preview(run)
    assert not run.folder.exists(), "a plan leaves nothing"
    seen, record = observe(run)
    assert_steps(plan, seen)
    for group, paths in zip(plan["groups"], run.architecture.layout.values(), strict=True):
        for phase, entry in zip(plan["phases"], group["phases"], strict=True):
            steps = range(phase["first_step"], phase["last_step"] + 1)
            assert_group(entry, seen, paths, steps)
        output = seen.outputs[paths[-1]]
        assert group["activation_mean"] == pytest.approx(float(output.mean()), rel=1e-4, abs=1e-6)
        assert group["activation_std"] == pytest.approx(
            float(output.std(correction=0)), rel=1e-4, abs=1e-6
        )
    assert plan["validations"] == len(record.curves["val"]["step"])
    assert {log["where"] for log in plan["logs"]} == {str(p) for p in run.folder.iterdir()}
    assert [g["parameters"] for g in plan["groups"]] == [g["parameters"] for g in record.groups]


def assert_steps(plan: dict[str, Any], seen: Observed) -> None:
    steps = [
        step
        for phase in plan["phases"]
        for step in range(phase["first_step"], phase["last_step"] + 1)
    ]
    assert steps == list(range(plan["steps"])) == list(range(len(seen.parameters)))


def assert_group(entry: dict[str, Any], seen: Observed, paths: list[str], steps: range) -> None:
    """Compare an entry of a plan with all that was seen of the group's parameters and norms."""

    def inside(name: str) -> bool:
        return any(name == path or name.startswith(f"{path}.") for path in paths)

    parameters = [name for name in seen.parameters[0] if inside(name)]
    assert parameters
    for name in parameters:
        rates = [seen.parameters[step][name][0] for step in steps]
        found = (rates[0], max(rates), rates[-1])
        assert found == (entry["lr_first"], entry["lr_peak"], entry["lr_last"]), name
        for step in steps:
            _, decay, has_gradient = seen.parameters[step][name]
            assert has_gradient == seen.requires_grad[step][name] == entry["trains"], (name, step)
            if has_gradient:
                is_vector = name.endswith("bias") or name.rpartition(".")[0] in seen.norms[0]
                key = "weight_decay_vectors" if is_vector else "weight_decay"
                assert decay == entry[key], (name, step)
    modes = {mode for step in steps for name, mode in seen.norms[step].items() if inside(name)}
    assert modes == {"train": {True}, "eval": {False}, None: set()}[entry["batchnorm"]]


class TestByHand:
    """Expected numbers that come from the issue's words, not from the code."""

    def test_two_phases(self, base: Path) -> None:
        words = ["strategy=lp_ft", "strategy.batchnorm=train", "strategy.full_lr_scale=0.1"]
        more = ["optimizer.lr=0.2", "optimizer.weight_decay=0.01", "scheduler=constant"]
        plan = preview(run_of(base, *words, *more, "scheduler.warmup_steps=2"))
        assert plan["phases"] == [
            {"first_step": 0, "last_step": 5},
            {"first_step": 6, "last_step": 11},
        ]
        first, head = plan["groups"][0], plan["groups"][-1]
        assert first["phases"][0] == {
            "trains": False,
            "lr_first": 0,
            "lr_peak": 0,
            "lr_last": 0,
            "weight_decay": None,
            "weight_decay_vectors": None,
            "batchnorm": "train",
        }
        assert head["phases"][0] == {
            "trains": True,
            "lr_first": 0.1,
            "lr_peak": 0.2,
            "lr_last": 0.2,
            "weight_decay": 0.01,
            "weight_decay_vectors": 0,
            "batchnorm": None,
        }
        assert head["phases"][1]["lr_first"] == pytest.approx(0.02)
        # A 3x3 convolution from 1 to 16 channels with BatchNorm; 16 x 16 + 64 features to 10.
        assert (first["layers"], first["parameters"]) == (1, 16 * 9 + 2 * 16)
        counts = [group["parameters"] for group in plan["groups"]]
        assert plan["model"]["trainable_by_phase"] == [counts[-1], sum(counts)]

    def test_length_and_memory(self, base: Path) -> None:
        plan = preview(run_of(base, "steps=null", "epochs=2"))
        # Three images of ten classes in batches of 8: 60 / 8 steps, the last one begun.
        assert (plan["images_per_epoch"], plan["steps"], plan["steps_per_epoch"]) == (30, 8, 3.75)
        parameters = plan["model"]["parameters"]
        memory = plan["memory"]
        assert memory["optimizer"] == 4 * parameters
        # Two copies for the looks.
        assert memory["copies"] == 2 * 4 * parameters
        larger = max(memory["training_step"], memory["validation_step"])
        parts = ("model", "optimizer", "copies")
        assert memory["total"] == sum(memory[part] for part in parts) + larger
        assert preview(run_of(base, "watch_every_steps=0"))["memory"]["copies"] == 0

    def test_regularization(self, base: Path) -> None:
        plain = preview(run_of(base))
        assert plain["regularization"] == {}
        assert "regularization" not in printed(plain, 1000)
        words = ["regularization.l2_sp=0.01", "+regularization.dropout={head: 0.5}"]
        plan = preview(run_of(base, *PRETRAINED, *words))
        assert plan["regularization"] == {"l2_sp": 0.01, "dropout": {"head": 0.5}}
        text = " ".join(printed(plan, 1000).split())
        assert "regularization l2_sp=0.01, dropout.head=0.5 " in text
        parameters = plan["model"]["parameters"]
        assert plan["memory"]["copies"] == 3 * 4 * parameters

    def test_averages_and_the_end(self, base: Path) -> None:
        plain = preview(run_of(base, "val_every_steps=1"))
        assert plain["keeping"] == []
        words = ["average=ema", "early_stopping.patience=1", "val_every_steps=1", "steps=10"]
        plan = preview(run_of(base, *words))
        assert plan["keeping"] == [
            "the moving average of its weights, in the end over about 2.2 steps",
            "ends when the best val/accuracy is more than 1 validation old",
        ]
        assert f"keeping {'; '.join(plan['keeping'])}" in " ".join(printed(plan, 1000).split())
        # Another copy of the model.
        one, other = (entry["memory"] for entry in (plain, plan))
        assert other["copies"] == one["copies"] + one["model"]
        words = ["average=swa", "average.start=0", "scheduler=sgdr", "scheduler.cycles=2"]
        plan = preview(run_of(base, *words, "snapshots=true", "steps=10"))
        # Three steps are a pass over 30 images in batches of 8, rounded up to 4.
        assert plan["keeping"] == [
            "the mean of its weights every 4 steps from 4 on",
            "snapshots of the average after steps 5, 10",
        ]

    def test_a_run_of_no_steps(self, base: Path) -> None:
        plan = preview(run_of(base, "steps=0"))
        assert plan["phases"] == [] == plan["groups"][0]["phases"]
        assert (plan["validations"], plan["memory"]["training_step"]) == (0, 0)
        assert "nothing trains" in printed(plan, 100)


class TestWeights:
    def test_loaded_under_a_fresh_head(self, base: Path) -> None:
        plan = preview(run_of(base, *PRETRAINED))
        states = [group["weights"] for group in plan["groups"]]
        assert states == ["loaded"] * (len(states) - 1) + ["fresh (default)"]
        assert plan["weights"]["origins"] == ["source:tiny"]
        assert plan["weights"]["report"]["unused"] == []

    def test_a_source_that_is_not_trained_yet_stays_so(self, base: Path, tmp_path: Path) -> None:
        run = run_of(base, *PRETRAINED, f"store={tmp_path}")
        assert run.source is not None
        plan = preview(run)
        assert run.source.finished() is None
        assert not run.source.folder.exists()
        assert "source:tiny" in plan["weights"]["pending"]
        states = [group["weights"] for group in plan["groups"]]
        assert states == ["loaded (pending)"] * 4 + ["fresh (default)"]
        assert all(group["activation_mean"] is None for group in plan["groups"])
        assert plan["groups"][0]["phases"][0]["lr_peak"] > 0
        assert "to be trained first" in printed(plan, 100)

    def test_a_model_that_needs_numbers_has_no_estimate(self, base: Path) -> None:
        run = run_of(base)
        build = run.architecture.build

        def undecided(channels: int, classes: int, size: int | None) -> nn.Module:
            model = build(channels, classes, size)
            model.register_forward_hook(
                lambda _, inputs, output: output if output.sum() > 0 else -output
            )
            return model

        architecture = dataclasses.replace(run.architecture, build=undecided)
        plan = preview(dataclasses.replace(run, architecture=architecture))
        assert plan["memory"]["total"] is None
        assert "without numbers" in plan["memory"]["reason"]
        assert plan["memory"]["reason"] in printed(plan, 1000)


class TestFeatures:
    """What runs once for each image, phase by phase."""

    @pytest.mark.parametrize("name", ["full", "linear probe", "gradual", "lp_ft"])
    def test_the_record_says_the_same(self, name: str, base: Path) -> None:
        run = run_of(base, *RUNS[name], "steps=24")
        found = preview(run)["features"]
        assert len(found) == len(run.phases)
        assert found == execute(run).features

    def test_each_phase_has_a_line(self, base: Path) -> None:
        text = printed(preview(run_of(base, *RUNS["lp_ft"], "steps=24")), 100)
        assert " phase 1: cached before head, [256] per image" in text
        assert " phase 2: not cached, because every layer trains" in text
        off = preview(run_of(base, *RUNS["linear probe"], "features.cache=off"))
        assert "features  not cached, because features.cache=off" in printed(off, 100)

    def test_nothing_is_computed(self, base: Path, tmp_path: Path) -> None:
        run = run_of(base, *RUNS["linear probe"], "steps=24", f"out={tmp_path}")
        kept = set((base / "store").rglob("*"))
        assert preview(run)["features"][0]["cached"]
        assert set((base / "store").rglob("*")) == kept


def printed(plan: dict[str, Any], width: int) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    show(plan, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestPrinted:
    @pytest.mark.parametrize("name", ["full, group decay", "gradual", "listed", "deep"])
    @pytest.mark.parametrize("width", [80, 100])
    def test_it_fits_the_window_and_cuts_nothing_off(
        self, name: str, width: int, base: Path
    ) -> None:
        plan = preview(run_of(base, *RUNS[name]))
        text = printed(plan, width)
        assert "…" not in text
        assert max(map(len, text.splitlines())) <= width
        for phase in plan["phases"]:
            assert f" {phase['first_step']}-{phase['last_step']} " in text
        for group in plan["groups"]:
            assert f" {group['name']} " in text
            assert f" {group['parameters']:,} " in text
        for log in plan["logs"]:
            assert Path(log["where"]).name in text

    def test_neighbours_that_are_treated_alike_share_a_row(self, base: Path) -> None:
        text = printed(preview(run_of(base, *RUNS["partial"])), 100)
        rows = [line for line in text.splitlines() if "  frozen  " in line]
        assert len(rows) == 1
        assert "conv1 to conv3" in rows[0]

    def test_json_is_the_plan(self, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = [*SHORT, f"out={base / 'out'}", "strategy=gradual", "strategy.batchnorm=train"]
        plan_command(words, config_dirs=[], as_json=True)
        found = json.loads(capsys.readouterr().out)
        assert found == json.loads(json.dumps(preview(prepare(warmstart.compose(words)))))

    def test_the_usual_error_for_a_bad_value(self) -> None:
        with pytest.raises(ConfigError, match=r"optimizer\.lr is -1"):
            plan_command(["optimizer.lr=-1"], config_dirs=[], as_json=False)

    def test_a_finished_run_is_called_so(self, base: Path) -> None:
        run = run_of(base, "steps=1", "seed=5")
        assert "finished" not in printed(preview(run), 100)
        execute(run)
        assert "this run is finished" in printed(preview(run), 100)
