"""Tensors from a file of any usual shape; nothing in it is ever executed."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from warmstart.errors import ConfigError, choose
from warmstart.models.architecture import Input

# timm's trainer writes .pth.tar, which is no tar.
SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".tar", ".safetensors")
_WRAPPERS = ("module.", "model.", "_orig_mod.")
# What a trainer keeps beside the weights may hold as many tensors by name.
_OPTIMIZER = re.compile("optim", re.IGNORECASE)
# The running average of the weights; self-distillation calls it the teacher.
_AVERAGED = re.compile(r"(^|_)(ema|teacher)(_|$)")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What was taken from a file.

    Attributes:
        tensors: By plain name, without the prefixes of wrappers.
        entry: Which of the file's entries they are, such as ``state_dict_ema``; empty for a file
            that holds nothing else.
        prefix: What was taken off every name, such as ``module.``.
    """

    tensors: dict[str, Tensor]
    entry: str = ""
    prefix: str = ""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that can be loaded, known before they are fetched or read.

    Attributes:
        origin: Their name, for messages.
        digest: Of their content, or the published name that stands for it, or the key of the run
            that makes them. It does not depend on what has been fetched.
        input: The images that they expect; None where they do not say.
        read: Fetches them where they are not at hand, and reads them.
        classes: The names of the head's classes, in its order; None where unknown.
    """

    origin: str
    digest: str
    input: Input | None
    read: Callable[[], Checkpoint]
    classes: tuple[str, ...] | None = None


def read_file(path: Path) -> Checkpoint:
    """Return the tensors in a weights file, without wrappers around names or dicts.

    Bare and nested state dicts go (``{"state_dict": {"module.conv1.weight": ...}}``), and the
    checkpoints of Lightning and timm. Of the entries with the most tensors the first is taken, or
    their running average (``state_dict_ema``, ``teacher``), as timm does. Tensors of a zip file are
    mapped into memory, not copied.

    Raises:
        ConfigError: The file is damaged, holds no tensors, or more than plain data.
    """
    check_suffix(path)
    entry, state = _largest(_read(path), path)
    for name, tensor in state.items():
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else f"{tensor.device} {tensor.layout}"
            raise ConfigError(
                f"{path} holds {name} as a {kind} tensor, but only plain dense tensors are loaded; "
                "save the state_dict of the float model on a CPU"
            )
    prefix = _wrappers(list(state))
    tensors = {name.removeprefix(prefix): tensor.detach() for name, tensor in state.items()}
    return Checkpoint(tensors, entry, prefix)


def check_suffix(path: Path) -> None:
    """Raise ConfigError for a file whose name says that it is no weights file."""
    if path.suffix not in SUFFIXES:
        raise choose(f"the suffix of init.weights {str(path)!r}", path.suffix, SUFFIXES)


def below_prefix(
    state: Mapping[str, Tensor], names: Collection[str]
) -> tuple[str, dict[str, Tensor], tuple[str, ...]]:
    """Find a model inside a larger one, such as the encoder in ``module.encoder_q.``.

    Args:
        state: The tensors of a file by name.
        names: The model's own names.

    Returns:
        The dotted prefix below which most of `names` are found (the first of equals, empty where
        none is), the tensors below it by what follows it, and the names outside.
    """
    wanted = set(names)
    found = collections.Counter(
        name[:start] for name in state for start in _starts(name) if name[start:] in wanted
    )
    prefix = max(found, key=lambda candidate: found[candidate], default="")
    inside = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    return prefix, inside, tuple(name for name in state if not name.startswith(prefix))


def _starts(name: str) -> Iterator[int]:
    """Yield where the dotted parts of a name begin."""
    yield 0
    yield from (match.end() for match in re.finditer(r"\.", name))


def _read(path: Path) -> Any:
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise ConfigError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets a weights file run code; unset it"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        # timm's trainer keeps its arguments in a Namespace: attributes without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_mappable(path))
    except Exception as error:  # on foreign bytes torch's reader may raise anything
        raise ConfigError(f"{path} {_refusal(error)}") from error


def _mappable(path: Path) -> bool:
    """Say whether the tensors lie in the file as they are: torch maps compressed ones too."""
    with path.open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


def _refusal(error: Exception) -> str:
    # Not the whole text of an UnpicklingError, which advises to run the code in the file.
    unpickling = isinstance(error, pickle.UnpicklingError)
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if unpickling else None
    if foreign:
        return (
            f"holds more than tensors and plain data ({foreign[1]}), "
            "which could run code and is not loaded; save its state_dict alone"
        )
    if "TorchScript" in str(error):
        return "is a TorchScript program, which is not run; save the model's state_dict instead"
    if "legacy .tar" in str(error):
        return "is of a format that torch gave up in 2018; save its state_dict with a newer torch"
    lines = [] if unpickling else str(error).strip().splitlines()
    reason = lines[0][:160] if lines else type(error).__name__
    return f"is damaged or no weights file ({reason}); fetch it again"


def _largest(content: Any, path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the entry with the most tensors among `content` and the dicts nested in it."""
    candidates: list[tuple[str, dict[str, Tensor]]] = []
    waiting, seen = [("", content)], set()
    while waiting:
        entry, candidate = waiting.pop(0)
        # A pickled dict may hold itself.
        if isinstance(candidate, Mapping) and id(candidate) not in seen:
            seen.add(id(candidate))
            named = {k: v for k, v in candidate.items() if isinstance(k, str)}
            candidates.append((entry, {k: v for k, v in named.items() if isinstance(v, Tensor)}))
            waiting.extend(
                (f"{entry}.{key}".lstrip("."), value)
                for key, value in candidate.items()
                if not (isinstance(key, str) and _OPTIMIZER.search(key))
            )
    most = max((len(state) for _, state in candidates), default=0)
    if most == 0:
        raise ConfigError(f"{path} holds no tensors by name; give a file with a state_dict")
    largest = [(entry, state) for entry, state in candidates if len(state) == most]
    averaged = [item for item in largest if any(map(_AVERAGED.search, item[0].split(".")))]
    return (averaged or largest)[0]


def _wrappers(names: list[str]) -> str:
    """Return the prefix that wrappers such as DistributedDataParallel have put before all names."""
    prefix = ""
    while True:
        starts = (prefix + wrapper for wrapper in _WRAPPERS)
        longer = next((s for s in starts if all(name.startswith(s) for name in names)), None)
        if longer is None:
            return prefix
        prefix = longer
