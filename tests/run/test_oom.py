"""A run that does not fit into memory: micro-batches by choice, and by force."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import processes
import warmstart
from tiny import write_configs
from warmstart import Record
from warmstart.data.augment.mixing import Mix
from warmstart.data.preprocess import Preprocess
from warmstart.errors import ConfigError, RunError
from warmstart.models.architecture import Input
from warmstart.results.record import read
from warmstart.run.execution import execute
from warmstart.run.out_of_memory import OutOfMemory, is_out_of_memory, smaller_micro_batches
from warmstart.run.preparing import prepare
from warmstart.task import Classification, Net

WORDS = ["steps=6", "val_every_steps=3", "data.per_class=2", "batch_size=20", "log_every_steps=2"]


class Linear(nn.Module):
    """The mean of an image in, logits of 3 classes out; in training an auxiliary pair too."""

    def __init__(self, *, auxiliary: bool = False):
        super().__init__()
        self.head = nn.Linear(1, 3)
        self.other = nn.Linear(1, 3) if auxiliary else None

    def forward(self, x):
        mean = x.mean(dim=(1, 2, 3)).unsqueeze(1)
        return self.head(mean) if self.other is None else (self.head(mean), self.other(mean))


def gradients(model, batch, accumulate, **options):
    """Return the gradients after one step's backward, and the sums of the curve."""
    model = copy.deepcopy(model)
    task = Classification(
        model,
        Preprocess(Input(None, 1, (0.5,), (0.25,)), augment=None, channels_last=False),
        optimizer=lambda: torch.optim.SGD(model.parameters(), lr=0.1),
        seed=0,
        classes=3,
        accumulate=accumulate,
        **options,
    ).train()
    task.training_step(batch, 0)
    optimizer = task.configure_optimizers()
    # The order in Lightning: the step, then zero_grad, then the backward of what it returned.
    for index in (0, 1):
        loss = task.training_step(batch, index)
        task.optimizer_zero_grad(0, index, optimizer)
        loss.backward()
    return [p.grad for p in model.parameters()], task.train_sums


def batch_of(images, seed=0):
    rng = np.random.default_rng(seed)
    pixels = torch.from_numpy(rng.integers(0, 256, (images, 4, 4, 1), np.uint8))
    return pixels, torch.from_numpy(rng.integers(0, 3, images)), torch.empty(images, 0)


def test_the_gradient_of_two_micro_batches_by_hand():
    # Logits (0, 0) for both images of mean x: the gradient of the mean loss by the bias of class c
    # is the mean of softmax - target: for labels 0, 0, 1 it is 1/2 - 2/3 and 1/2 - 1/3.
    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(self, x):
            return self.bias.expand(len(x), -1)

    pixels, _, uniforms = batch_of(3)
    batch = pixels, torch.tensor([0, 0, 1]), uniforms
    (gradient,), sums = gradients(Bias(), batch, 2)
    torch.testing.assert_close(gradient, torch.tensor([-1 / 6, 1 / 6]))
    # Three steps of three images with a loss of log 2; class 0 is the prediction.
    torch.testing.assert_close(sums, torch.tensor([9 * np.log(2), 6, 9]).float())


@settings(max_examples=40, deadline=None)
@given(
    images=st.integers(1, 12),
    data=st.data(),
    weighted=st.booleans(),
    mixed=st.booleans(),
    auxiliary=st.booleans(),
)
def test_any_cut_has_the_gradient_of_the_whole_batch(images, data, weighted, mixed, auxiliary):
    accumulate = data.draw(st.integers(1, images))
    torch.manual_seed(0)
    options = {
        "class_weights": torch.tensor([0.5, 1.0, 3.0]) if weighted else None,
        "mix": Mix(mixup=0.4, cutmix=0.0) if mixed else None,
        "auxiliary_weight": 0.3 if auxiliary else 0.0,
    }
    model, batch = Linear(auxiliary=auxiliary), batch_of(images)
    whole, sums = gradients(model, batch, 1, **options)
    cut, cut_sums = gradients(model, batch, accumulate, **options)
    torch.testing.assert_close(cut, whole)
    torch.testing.assert_close(cut_sums, sums)


def test_accumulating_trains_as_the_whole_batch_does(tmp_path: Path) -> None:
    # The frozen groups normalize by their running statistics, each image by itself.
    dirs = [write_configs(tmp_path / "configs")]
    words = ["arm=short/probe", "data.per_class=2", "batch_size=20", "trainer=cpu"]
    words += ["val_every_steps=2", "log_every_steps=1", f"out={tmp_path / 'out'}"]
    whole = warmstart.train(words, config_dirs=dirs)
    cut = warmstart.train([*words, "accumulate=3"], config_dirs=dirs)
    assert cut.key != whole.key
    assert cut.accumulated == whole.accumulated == 0, "nothing was forced"
    assert cut.digests["order"] == whole.digests["order"]
    for split, columns in whole.curves.items():
        assert cut.curves[split]["loss"] == pytest.approx(columns["loss"], rel=1e-4), split


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["accumulate=0"], "accumulate is 0, but must be a whole number of at least 1"),
        (["accumulate=null"], "accumulate is None, but must be a whole number of at least 1"),
        (
            ["batch_size=8", "accumulate=9"],
            "accumulate is 9, but a batch has 8 images; give at most accumulate=8",
        ),
        (
            ["data.per_class=1", "batch_size=64", "accumulate=11"],
            "accumulate is 11, but a batch has 10 images; give at most accumulate=10",
        ),
        (
            ["on_oom=retry"],
            "on_oom is 'retry', but must be one of accumulate, fail",
        ),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        prepare(warmstart.compose(words))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate "
                      "memory: you tried to allocate 1 bytes"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RunError("the file 'out of memory.txt' is damaged"), False),
        (ValueError("out of memory"), False),
    ],
)  # fmt: skip
def test_which_errors_are_a_lack_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize(
    ("batch", "accumulate", "on_oom", "forced", "devices", "expected"),
    [
        (32, 1, "accumulate", 0, 1, 4),
        (32, 3, "accumulate", 0, 1, 12),
        (6, 1, "accumulate", 0, 1, 3),  # two images at least
        (2, 1, "accumulate", 0, 1, 0),
        (32, 16, "accumulate", 0, 1, 0),
        (32, 1, "fail", 0, 1, 0),
        (32, 1, "accumulate", 4, 1, 0),  # once
        (32, 1, "accumulate", 0, 2, 0),
    ],
)
def test_the_second_try_by_hand(batch, accumulate, on_oom, forced, devices, expected):
    config = {
        "batch_size": batch,
        "accumulate": accumulate,
        "on_oom": on_oom,
        "trainer": {"devices": devices},
    }
    error = OutOfMemory(MemoryError(), config, accumulated=forced, step=0)
    assert smaller_micro_batches(config, error) == expected


class Memory:
    """A device that holds so many images at once, from some step on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, images: int, *, step: int = 0) -> None:
        self.tried: list[int] = []
        loss = Classification._loss

        def limited(
            task: Classification, net: Net, x: torch.Tensor, targets: torch.Tensor
        ) -> torch.Tensor:
            self.tried.append(len(x))
            if len(x) > images and len(self.tried) > step:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return loss(task, net, x, targets)

        monkeypatch.setattr(Classification, "_loss", limited)


def same_training(one: Record, other: Record) -> bool:
    """Return whether two records of different configs say the same about the training."""
    return (one.digests, one.metrics, one.curves) == (other.digests, other.metrics, other.curves)


@pytest.mark.parametrize("step", [0, 4])
def test_once_more_in_micro_batches(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = warmstart.train([*WORDS, "accumulate=4", f"out={tmp_path}"])
    run = prepare(warmstart.compose([*WORDS, "checkpoint_seconds=0", f"out={tmp_path}"]))
    memory = Memory(monkeypatch, 5, step=step)
    with caplog.at_level("INFO", logger="warmstart"):
        record = execute(run)
    assert memory.tried == [20] * (step + 1) + [5] * 24
    assert record.status == "finished"
    assert record.key == run.key
    assert record.accumulated == 4
    assert "accumulate" not in record.config, "the cell is the same"
    assert same_training(record, chosen)
    assert [line.message for line in caplog.records if "memory" in line.message] == [
        f"out of memory after step {step} of 6: once more from the start, with accumulate=4"
    ]
    assert read(run.folder) == record


@pytest.mark.parametrize(
    ("word", "images", "sentence"),
    [
        (
            "on_oom=fail",
            5,
            "out of memory after 0 steps with 20 images a step (CUDA out of memory. Tried to "
            "allocate 2.00 GiB); give a smaller batch_size, a larger accumulate, or a smaller "
            "model or data.size",
        ),
        (
            "on_oom=accumulate",
            4,
            "out of memory after 0 steps with 20 images a step in 4 micro-batches (CUDA out of "
            "memory. Tried to allocate 2.00 GiB); give a smaller batch_size, a larger accumulate, "
            "or a smaller model or data.size",
        ),
    ],
)
def test_what_does_not_fit_fails_by_name(
    word: str, images: int, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(warmstart.compose([*WORDS, word, f"out={tmp_path}"]))
    Memory(monkeypatch, images)
    with pytest.raises(RunError) as raised:
        execute(run)
    assert str(raised.value) == sentence
    record = read(run.folder)
    assert record is not None
    assert (record.status, record.error) == ("failed", sentence)


def test_an_evaluation_that_does_not_fit_fails_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("warmstart.run.evaluation.evaluate", fail)
    with pytest.raises(RunError, match=r"^out of memory in the evaluation \(could not create a"):
        warmstart.train([*WORDS, f"out={tmp_path}"])


def test_a_killed_second_try_goes_on_in_micro_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*WORDS, "checkpoint_seconds=0"]
    run = prepare(warmstart.compose([*words, f"out={tmp_path}"]))
    memory = Memory(monkeypatch, 5)
    expected = execute(prepare(warmstart.compose([*words, f"out={tmp_path / 'unbroken'}"])))

    class Killed(BaseException):
        """As abrupt as a kill."""

    def die(done: int, steps: int) -> None:
        if done == 5:
            raise Killed

    with pytest.raises(Killed):
        execute(run, progress=die)
    assert len(list(run.folder.glob("checkpoint-*.pt"))) == 2
    memory.tried.clear()
    record = execute(run)
    assert memory.tried == [5] * 8, "the steps 5 and 6 alone"
    assert dataclasses.replace(record, versions={}) == dataclasses.replace(expected, versions={})


def _short_of_memory(words: list[str], megabytes: int, log: Path) -> None:
    """Train with so much address space more than the process has when training starts."""
    import resource

    run = prepare(warmstart.compose(words))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = used + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        execute(run)
    except RunError as error:
        log.write_text(str(error))
        os._exit(1)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_a_real_lack_of_memory(tmp_path: Path) -> None:
    # One step on 800 images of 48x48 takes 2.2 GB, on 200 of them as much less, and so does the
    # evaluation of 256 at a time.
    words = [
        *("steps=1", "test=false", "data.size=48", "batch_size=800", "trainer=cpu"),
        *("data.per_class=80", f"out={tmp_path}"),
    ]
    processes._CONTEXT.set_forkserver_preload(processes._PRELOAD)
    outcome = {}
    for word in ("on_oom=fail", "on_oom=accumulate"):
        log = tmp_path / word
        process = processes._CONTEXT.Process(
            target=_short_of_memory, args=([*words, word], 1300, log)
        )
        process.start()
        process.join(timeout=120)
        outcome[word] = process.exitcode, log.read_text() if log.exists() else ""
    assert outcome["on_oom=fail"][0] == 1
    assert re.match(
        r"out of memory after 0 steps with 800 images a step \(.*(?:allocate|primitive).*\); give",
        outcome["on_oom=fail"][1],
    )
    assert outcome["on_oom=accumulate"] == (0, "")
    (record,) = (read(path.parent) for path in (tmp_path / "runs").glob("*/result.json"))
    assert isinstance(record, Record)
    assert (record.status, record.accumulated) == ("finished", 4)
