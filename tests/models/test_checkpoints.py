"""Files of every shape that is in use: what is taken from them."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from warmstart.models.checkpoints import below_prefix, read_file

STATE = {
    "conv1.weight": torch.arange(12.0).reshape(3, 4),
    "conv1.bias": torch.tensor([1.0, 2.0, 3.0]),
    "bn.running_mean": torch.tensor([0.5]),
}
AVERAGE = {name: tensor + 1 for name, tensor in STATE.items()}


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


def same(checkpoint, expected=STATE):
    state = checkpoint.tensors
    assert list(state) == list(expected)
    assert all(torch.equal(state[name], expected[name]) for name in expected)


# The content of a file, then the entry and the prefix of what is to be taken from it.
CONTENTS = {
    "bare.pt": (STATE, "", ""),
    "nested.pth": ({"state_dict": STATE, "epoch": 3, "best_prec1": 91.8}, "state_dict", ""),
    "old.th": ({"state_dict": prefixed("module.")}, "state_dict", "module."),
    "compiled.bin": ({"model": prefixed("_orig_mod.")}, "model", "_orig_mod."),
    "both.ckpt": ({"state_dict": prefixed("model.module.")}, "state_dict", "model.module."),
    "three.pth.tar": (
        {"net": prefixed("module._orig_mod.model.")}, "net", "module._orig_mod.model."
    ),
    "deep.pt": ({"a": {"model_state_dict": STATE}, "b": 1}, "a.model_state_dict", ""),
    # Adam keeps two tensors per parameter, which are no weights.
    "training.pt": (
        {
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}},
            "model": STATE,
        },
        "model",
        "",
    ),
    "named_optimizer.pt": ({"optimizer_state": AVERAGE, "model": STATE}, "model", ""),
    "numbered.pt": (
        {"weights": STATE, "history": {i: torch.ones(1) for i in range(9)}}, "weights", ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappers_around_names_and_dicts_go(tmp_path, name, zipped):
    content, entry, prefix = CONTENTS[name]
    path = tmp_path / name
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    checkpoint = read_file(path)
    same(checkpoint)
    assert (checkpoint.entry, checkpoint.prefix) == (entry, prefix)


@pytest.mark.parametrize("entry", ["state_dict_ema", "model_ema", "ema", "teacher"])
def test_the_running_average_is_preferred(tmp_path, entry):
    path = tmp_path / "averaged.pt"
    torch.save({"state_dict": STATE, entry: AVERAGE}, path)
    checkpoint = read_file(path)
    assert checkpoint.entry == entry
    same(checkpoint, AVERAGE)


def test_an_average_of_a_part_is_not(tmp_path):
    path = tmp_path / "averaged.pt"
    torch.save({"state_dict": STATE, "ema": {"conv1.weight": torch.zeros(3, 4)}}, path)
    same(read_file(path))


def test_a_name_that_only_contains_ema_is_no_average(tmp_path):
    path = tmp_path / "schema.pt"
    torch.save({"state_dict": STATE, "schema": AVERAGE}, path)
    same(read_file(path))


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(prefixed("model."), path)
    checkpoint = read_file(path)
    assert checkpoint.tensors.keys() == STATE.keys()
    assert (checkpoint.entry, checkpoint.prefix) == ("", "model.")


def test_a_prefix_of_some_names_only_stays(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"module.a": torch.zeros(1), "b": torch.ones(1)}, path)
    assert sorted(read_file(path).tensors) == ["b", "module.a"]


def test_the_state_dict_of_torchvision_with_and_without_module(tmp_path):
    from torchvision.models import resnet18

    model = resnet18()
    torch.save(model.state_dict(), tmp_path / "plain.pth")
    torch.save(nn.DataParallel(model).state_dict(), tmp_path / "parallel.pth")
    same(read_file(tmp_path / "plain.pth"), model.state_dict())
    parallel = read_file(tmp_path / "parallel.pth")
    same(parallel, model.state_dict())
    assert parallel.prefix == "module."


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_a_checkpoint_of_lightning(tmp_path):
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader, TensorDataset

    class Task(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))

        def training_step(self, batch, index):
            return self.model(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters())

    trainer = pl.Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    task = Task()
    trainer.fit(task, DataLoader(TensorDataset(torch.rand(8, 4)), batch_size=4))
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)

    content = torch.load(path, weights_only=True)
    assert content["optimizer_states"][0]["state"]  # there is something to pass over
    checkpoint = read_file(path)
    same(checkpoint, task.model.state_dict())
    assert (checkpoint.entry, checkpoint.prefix) == ("state_dict", "model.")


def test_a_checkpoint_of_timms_trainer(tmp_path):
    from timm.utils import CheckpointSaver, ModelEmaV3

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    average = ModelEmaV3(model, decay=0.5)
    model(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    average.update(model)
    saver = CheckpointSaver(
        model, optimizer, args=argparse.Namespace(model="tiny", lr=0.1, opt_betas=None),
        model_ema=average, checkpoint_dir=str(tmp_path), recovery_dir=str(tmp_path),
    )  # fmt: skip
    saver.save_checkpoint(epoch=0, metric=0.5)

    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "last.pth.tar", weights_only=True)  # for the arguments alone
    checkpoint = read_file(tmp_path / "last.pth.tar")
    assert checkpoint.entry == "state_dict_ema"
    same(checkpoint, average.module.state_dict())
    assert not torch.equal(checkpoint.tensors["0.weight"], model[0].weight)


def test_allowing_a_namespace_is_undone(tmp_path):
    torch.save(STATE, tmp_path / "model.pt")
    before = set(torch.serialization.get_safe_globals())
    read_file(tmp_path / "model.pt")
    assert set(torch.serialization.get_safe_globals()) == before


def test_tensors_of_a_zip_file_are_mapped(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(1000)}, path)
    tensor = read_file(path).tensors["w"]
    # The system's own list of what is mapped into this process.
    assert str(path) in Path("/proc/self/maps").read_text()
    tensor += 1  # in a private copy: the file stays
    assert read_file(path).tensors["w"].eq(0).all()


def test_a_compressed_zip_file_is_read(tmp_path):
    torch.save({"w": torch.arange(1000.0)}, tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as source,
        zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert torch.equal(read_file(tmp_path / "small.pt").tensors["w"], torch.arange(1000.0))


def test_a_dict_that_holds_itself_ends(tmp_path):
    content = {"state_dict": STATE}
    content["self"] = content
    path = tmp_path / "loop.pt"
    torch.save(content, path)
    same(read_file(path))


def test_a_models_tensors_are_found_below_a_prefix():
    a, b, c, d, e = (torch.tensor(float(i)) for i in range(5))
    # As MoCo names them: two encoders of one shape, and a queue beside them.
    state = {
        "module.encoder_q.conv1.weight": a,
        "module.encoder_q.fc.0.weight": b,
        "module.encoder_k.conv1.weight": c,
        "module.encoder_k.fc.0.weight": d,
        "module.queue": e,
    }
    prefix, tensors, outside = below_prefix(state, ["conv1.weight", "conv1.bias", "fc.weight"])
    assert prefix == "module.encoder_q."
    assert tensors == {"conv1.weight": a, "fc.0.weight": b}
    assert outside == (
        "module.encoder_k.conv1.weight",
        "module.encoder_k.fc.0.weight",
        "module.queue",
    )


@pytest.mark.parametrize("names", [STATE, ["elsewhere"], []], ids=["plain", "none", "empty"])
def test_no_prefix_leaves_the_state_as_it_is(names):
    assert below_prefix(STATE, names) == ("", STATE, ())


NAMES = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


@given(st.sets(NAMES, min_size=1), st.sampled_from(["", "x.", "module.y."]), st.sets(NAMES))
def test_below_prefix_parts_the_state(names, prefix, others):
    """Whatever lies beside it, a whole model is found below its prefix, and nothing is lost."""
    state = {f"{prefix}{name}": torch.zeros(1) for name in sorted(names)}
    state |= {f"z.{name}_": torch.ones(1) for name in sorted(others)}
    found, inside, outside = below_prefix(state, names)
    assert {f"{found}{name}" for name in inside} | set(outside) == set(state)
    assert len(inside) + len(outside) == len(state)
    assert found == prefix
    assert names <= set(inside)
