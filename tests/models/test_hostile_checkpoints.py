"""Files that are damaged, lie about their size, or hold code: one sentence, nothing executed."""

from __future__ import annotations

import argparse
import builtins
import contextlib
import io
import os
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.checkpoints import read_file

STATE = {
    "conv1.weight": torch.arange(12.0).reshape(3, 4),
    "conv1.bias": torch.tensor([1.0, 2.0, 3.0]),
    "bn.running_mean": torch.tensor([0.5]),
}


class Payload:
    """Calls a function with arguments when it is unpickled by somebody careless."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


class Harmless:
    """A class of somebody's project, with no code in the file but its name."""


def payloads(marker: Path):
    """Return named calls that would leave `marker`, and the class that the message must name."""
    return {
        "mkdir": (Payload(os.mkdir, str(marker)), r"posix\.mkdir"),
        "system": (Payload(os.system, f"mkdir {marker}"), r"posix\.system"),
        "eval": (Payload(builtins.eval, f"__import__('os').mkdir({str(marker)!r})"), "eval"),
        "exec": (Payload(builtins.exec, f"import os; os.mkdir({str(marker)!r})"), "exec"),
    }


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th", ".ckpt", ".bin", ".pth.tar"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["mkdir", "system", "eval", "exec"])
@pytest.mark.parametrize("place", ["top", "nested", "namespace"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, suffix, zipped, kind, place):
    path, marker = tmp_path / f"evil{suffix}", tmp_path / "marker"
    payload, name = payloads(marker)[kind]
    extra = {
        "top": payload,
        "nested": [{"x": (1, payload)}],
        "namespace": argparse.Namespace(model="resnet18", hook=payload),
    }[place]
    torch.save({"state_dict": STATE, "x": extra}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=rf"evil.*{name}.*run code.*state_dict") as error:
        read_file(path)
    assert not marker.exists()
    # torch's own text tells the reader how to run the code: that must not reach the user.
    assert "weights_only" not in str(error.value)

    torch.load(path, weights_only=False)
    assert marker.is_dir()  # the file would have done it


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Harmless(), r"test_hostile_checkpoints\.Harmless"),
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (Path("out"), r"pathlib\.PosixPath"),
    ],
    ids=["class", "model", "path"],
)
def test_foreign_classes_are_refused_by_name(tmp_path, zipped, content, name):
    path = tmp_path / "whole.pt"
    torch.save({"model": content, **STATE}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=rf"whole\.pt.*{name}.*save its state_dict alone"):
        read_file(path)


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "evil.pt", tmp_path / "marker"
    path.write_bytes(pickle.dumps(Payload(os.mkdir, str(marker)), protocol=2))
    with pytest.raises(ConfigError, match="run code"):
        read_file(path)
    assert not marker.exists()
    pickle.loads(path.read_bytes())
    assert marker.is_dir()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_a_torchscript_program_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "script.pt")
    with pytest.raises(ConfigError, match=r"script\.pt is a TorchScript program.*state_dict"):
        read_file(tmp_path / "script.pt")


def test_the_tar_of_the_first_torch_is_refused(tmp_path):
    path = tmp_path / "old.tar"
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(ConfigError, match=r"old\.tar is of a format.*newer torch") as error:
        read_file(path)
    assert "weights_only" not in str(error.value)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kind", ["meta", "sparse", "quantized"])
def test_tensors_that_cannot_be_copied_are_named(tmp_path, kind, zipped):
    tensor = {
        "meta": lambda: torch.ones(2, device="meta"),
        "sparse": lambda: torch.eye(2).to_sparse(),
        "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
    }[kind]()
    path = tmp_path / "odd.pt"
    torch.save({**STATE, "fc.weight": tensor}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigError, match=rf"odd\.pt holds fc\.weight as a .*{kind}.*float model"):
        read_file(path)


# A storage of 123,457 elements, and one that is said to have 2,147,483,647 (8.6 GB).
SIZE, HUGE = (b"J" + struct.pack("<i", size) for size in (123_457, 2**31 - 1))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_tensor_larger_than_its_file_is_refused(tmp_path, zipped):
    path, target = tmp_path / "model.pt", tmp_path / "huge.pt"
    # Once as the size of the storage, once as that of the tensor in it.
    content = {"w": torch.arange(123_457.0)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    if zipped:
        with zipfile.ZipFile(path) as archive:
            pickled = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            assert archive.read(pickled).count(SIZE) == 2
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
            for entry in source.infolist():
                archive.writestr(entry.filename, source.read(entry).replace(SIZE, HUGE))
    else:
        target.write_bytes(path.read_bytes().replace(SIZE, HUGE))
    with pytest.raises(
        ConfigError, match=r"huge\.pt is damaged or no weights file.*fetch it again"
    ):
        read_file(target)


def test_a_safetensors_header_larger_than_its_file_is_refused(tmp_path):
    path = tmp_path / "huge.safetensors"
    header = b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    for length in (len(header), 2**60):
        path.write_bytes(struct.pack("<Q", length) + header + bytes(64))
        with pytest.raises(ConfigError, match=r"huge.*damaged or no weights file.*fetch it again"):
            read_file(path)


def test_the_variable_that_would_let_files_run_code_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "model.pt"
    torch.save(STATE, path)
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(ConfigError, match=r"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD.*run code.*unset"):
        read_file(path)


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
        read_file(path)


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
        read_file(path)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>not found</html>", b"\0" * 64])
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".safetensors"])
def test_what_is_no_weights_file_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"page{suffix}"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"page.*damaged or no weights file.*fetch it again"):
        read_file(path)


@pytest.mark.parametrize("content", [{}, {"epoch": 3, "lr": [0.1]}, [1, 2], torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path, content):
    path = tmp_path / "empty.pt"
    torch.save(content, path)
    with pytest.raises(ConfigError, match=r"empty\.pt holds no tensors by name.*state_dict"):
        read_file(path)


def test_an_unknown_suffix_is_refused(tmp_path):
    path = tmp_path / "model.h5"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"model\.h5.*'\.h5'.*\.safetensors"):
        read_file(path)
