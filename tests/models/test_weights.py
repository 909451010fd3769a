"""Weights files: every wrapper that is in use, nothing executed, one sentence for a bad file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.models import weights
from warmstart.models.architecture import Input
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.small import small_cnn
from warmstart.models.torchvision import torchvision_model

STATE = {
    "conv1.weight": torch.arange(12.0).reshape(3, 4),
    "conv1.bias": torch.tensor([1.0, 2.0, 3.0]),
    "bn.running_mean": torch.tensor([0.5]),
}


def prefixed(prefix):
    return {f"{prefix}{name}": tensor for name, tensor in STATE.items()}


def same(state):
    assert list(state) == list(STATE)
    assert all(torch.equal(state[name], STATE[name]) for name in STATE)


CONTENTS = {
    "bare.pt": STATE,
    "nested.pth": {"state_dict": STATE, "epoch": 3, "best_prec1": 91.8},
    "data_parallel.pt": {"state_dict": prefixed("module.")},
    "compiled.bin": {"model": prefixed("_orig_mod.")},
    "both.ckpt": {"state_dict": prefixed("model.module.")},
    # Adam keeps two tensors per parameter, which are no weights.
    "training.pt": {
        "model": STATE,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3), "exp_avg_sq": torch.ones(3)}}},
    },
    # A running average of the weights, as large as they are, comes behind them.
    "averaged.pt": {"model": STATE, "model_ema": {name: t + 1 for name, t in STATE.items()}},
    "numbered.pt": {"weights": STATE, "history": {i: torch.ones(1) for i in range(9)}},
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_wrappers_around_names_and_dicts_go(tmp_path, name, zipped):
    path = tmp_path / name
    torch.save(CONTENTS[name], path, _use_new_zipfile_serialization=zipped)
    same(weights.read_file(path))


def test_old_files_with_th(tmp_path):
    path = tmp_path / "model.th"
    torch.save({"state_dict": prefixed("module.")}, path, _use_new_zipfile_serialization=False)
    same(weights.read_file(path))


def test_safetensors(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(prefixed("model."), path)
    assert weights.read_file(path).keys() == STATE.keys()


def test_a_prefix_of_some_names_only_stays(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"module.a": torch.zeros(1), "b": torch.ones(1)}, path)
    assert sorted(weights.read_file(path)) == ["b", "module.a"]


@pytest.mark.filterwarnings("ignore:.*LeafSpec")
def test_a_checkpoint_of_lightning(tmp_path):
    import pytorch_lightning as pl
    from torch import nn
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
    state = weights.read_file(path)
    assert list(state) == list(task.model.state_dict())
    assert all(torch.equal(state[n], t) for n, t in task.model.state_dict().items())


class Payload:
    """Creates a file when it is unpickled by somebody careless."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, suffix, zipped):
    path, marker = tmp_path / f"evil{suffix}", tmp_path / "marker"
    content = {"state_dict": STATE, "extra": Payload(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=r"evil.*mkdir.*run code.*state_dict") as error:
        weights.read_file(path)
    assert not marker.exists()
    # torch's own text tells the reader how to run the code: that must not reach the user.
    assert "weights_only" not in str(error.value)

    torch.load(path, weights_only=False)
    assert marker.is_dir()  # the file would have done it


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
    with pytest.raises(ConfigError, match="run code"):
        weights.read_file(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.is_dir()


def test_the_variable_that_would_let_files_run_code_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigError, match=r"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.*run code.*unset"):
        weights.read_file(path)


def file_bytes(suffix):
    buffer = io.BytesIO()
    if suffix == ".safetensors":
        return safetensors.torch.save(STATE)
    torch.save({"state_dict": STATE}, buffer, _use_new_zipfile_serialization=suffix == ".pt")
    return buffer.getvalue()


BYTES = {suffix: file_bytes(suffix) for suffix in (".pt", ".th", ".safetensors")}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(suffix=st.sampled_from(sorted(BYTES)), data=st.data())
def test_a_truncated_file_is_refused(tmp_path_factory, suffix, data):
    content = BYTES[suffix]
    path = tmp_path_factory.getbasetemp() / f"truncated{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    # The name of a class may be cut short, and then reads like that of a foreign one.
    message = r"truncated.*(damaged or no weights file.*fetch it again|holds more than tensors)"
    with pytest.raises(ConfigError, match=message):
        weights.read_file(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@given(suffix=st.sampled_from(sorted(BYTES)), data=st.data())
def test_a_flipped_bit_gives_weights_or_a_sentence(tmp_path_factory, suffix, data):
    content = bytearray(BYTES[suffix])
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / f"flipped{suffix}"
    path.write_bytes(content)
    # Anything else that is raised fails the test.
    with contextlib.suppress(ConfigError):
        weights.read_file(path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>not found</html>", b"\0" * 64])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"page.*damaged or no weights file.*fetch it again"):
        weights.read_file(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "lr": [0.1]}, [1, 2], torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"empty\.pt holds no tensors by name.*state_dict"):
        weights.read_file(path)


def test_a_dict_that_holds_itself_ends(tmp_path):
    content = {"state_dict": STATE}
    content["self"] = content
    path = tmp_path / "loop.pt"
    torch.save(content, path)
    same(weights.read_file(path))


def test_an_unknown_suffix_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"model\.h5.*'\.h5'.*\.safetensors"):
        weights.read_file(path)


@pytest.mark.parametrize("name", ["missing.pt", "missing.safetensors", "some/where"])
def test_a_missing_file_is_named(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"init\.weights.*no such file.*torchvision.*source:"
    ) as error:
        weights.resolve(name, small_cnn())
    assert repr(name) in str(error.value)


def test_a_folder_is_no_weights_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        weights.resolve(str(tmp_path), small_cnn())


def test_a_file_without_an_input_takes_the_architectures(tmp_path):
    path = tmp_path / "model.safetensors"
    safetensors.torch.save_file(STATE, path)
    architecture = cifar_resnet()
    resolved = weights.resolve(str(path), architecture)
    assert resolved.input == architecture.input
    assert resolved.origin == "model.safetensors"
    assert resolved.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert resolved.read().keys() == STATE.keys()


def test_our_own_files_carry_their_input(tmp_path):
    path = tmp_path / "best.safetensors"
    # A view that is not contiguous, and a parameter with a gradient: what a model may hold.
    state = {**STATE, "t.weight": torch.arange(6.0).reshape(2, 3).t().requires_grad_()}
    expected = Input(size=8, channels=1, mean=(0.31,), std=(0.37,))
    weights.save(path, state, expected, ["a", "b"])

    resolved = weights.resolve(str(path), cifar_resnet())
    assert resolved.input == expected
    assert torch.equal(resolved.read()["t.weight"], state["t.weight"])
    assert [file.name for file in tmp_path.iterdir()] == ["best.safetensors"]


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "model.pt")
    same(weights.resolve("~/model.pt", small_cnn()).read())


def test_names_of_torchvision_are_known_without_a_download():
    resolved = weights.resolve("IMAGENET1K_V1", torchvision_model(name="resnet18"))
    assert resolved.digest == "resnet18-f37072fd.pth"
    assert resolved.input.size == 224


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"init\.weights.*IMAGENET1K_V3.*mean 'IMAGENET1K_V1'"):
        weights.resolve("IMAGENET1K_V3", torchvision_model(name="resnet18"))
    with pytest.raises(ConfigError, match=r"init\.weights.*'IMAGENET1K_V1'.*a file.*source:NAME"):
        weights.resolve("IMAGENET1K_V1", small_cnn())


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A torch hub folder of the test, on a machine without a network."""

    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def test_weights_that_cannot_be_fetched_say_where_to_put_them(hub):
    with pytest.raises(
        ConfigError, match=r"no network.*resnet18-f37072fd\.pth.*init\.weights=FILE"
    ) as error:
        weights.read_torchvision("resnet18", "IMAGENET1K_V1")
    assert str(hub) in str(error.value)


def test_published_weights_are_taken_from_the_hub_folder(hub):
    torch.save(STATE, hub / "resnet18-f37072fd.pth")
    same(weights.read_torchvision("resnet18", "IMAGENET1K_V1"))


def test_damaged_published_weights_are_named(hub):
    (hub / "resnet18-f37072fd.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"damaged.*delete .*resnet18-f37072fd\.pth"):
        weights.read_torchvision("resnet18", "IMAGENET1K_V1")


def test_published_weights_with_code_are_not_run(hub, tmp_path):
    marker = tmp_path / "marker"
    torch.save({**STATE, "extra": Payload(marker)}, hub / "resnet18-f37072fd.pth")
    with pytest.raises(ConfigError):
        weights.read_torchvision("resnet18", "IMAGENET1K_V1")
    assert not marker.exists()
