"""Weights from a file or from torchvision; nothing in a file is ever executed."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from warmstart.errors import ConfigError, choose
from warmstart.models.architecture import Architecture, Input
from warmstart.store import publish, sha256

SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".safetensors")
_WRAPPERS = ("module.", "model.", "_orig_mod.")


@dataclasses.dataclass(frozen=True)
class Weights:
    """Weights that can be loaded, known before they are read.

    Attributes:
        origin: Their name, for messages.
        digest: Of their content, or the key of the run that makes them.
        input: The images that they expect; None where they do not say.
        read: Returns the tensors by name.
    """

    origin: str
    digest: str
    input: Input | None
    read: Callable[[], dict[str, Tensor]]


def resolve(name: str, architecture: Architecture) -> Weights:
    """Return the weights that ``init.weights=name`` means for an architecture.

    Args:
        name: A file, or the name of torchvision weights for this model.
        architecture: Whose preprocessing weights without any of their own take.

    Raises:
        ConfigError: There is no such file and no such name.
    """
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in SUFFIXES or len(path.parts) > 1:
        if not path.is_file():
            raise ConfigError(
                f"init.weights is {name!r}, but there is no such file; "
                "give a file, the name of torchvision weights, or source:NAME"
            )
        own = _input_in(path) or architecture.input
        return Weights(path.name, sha256(path), own, functools.partial(read_file, path))
    entry = torchvision_entry(architecture.name, name)
    read = functools.partial(read_torchvision, architecture.name, name)
    # The file's name ends with the first digits of its SHA-256 sum, which the download checks.
    return Weights(f"{architecture.name}:{name}", Path(entry.url).name, architecture.input, read)


def save(path: Path, state: Mapping[str, Tensor], expected: Input, classes: Sequence[str]) -> None:
    """Write weights together with the input that they expect, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = {"input": dataclasses.asdict(expected), "classes": list(classes)}
    # One entry: the order of several would differ from file to file.
    metadata = {"warmstart": json.dumps(content)}
    publish(path, lambda part: safetensors.torch.save_file(tensors, part, metadata))


def _input_in(path: Path) -> Input | None:
    """Return the input that weights written by `save` carry."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        content = json.loads(metadata["warmstart"])["input"]
        return Input(
            content["size"], content["channels"], tuple(content["mean"]), tuple(content["std"])
        )
    except (KeyError, TypeError, ValueError, SafetensorError, OSError):
        return None


def read_file(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a weights file, without wrappers around names or dicts.

    Bare and nested state dicts go (``{"state_dict": {"module.conv1.weight": ...}}``), and the
    checkpoints of Lightning.

    Raises:
        ConfigError: The file is damaged, holds no tensors, or more than plain data.
    """
    if path.suffix not in SUFFIXES:
        raise choose(f"the suffix of init.weights {str(path)!r}", path.suffix, SUFFIXES)
    return _plain_names(_state_dict(_read(path), path))


def _read(path: Path) -> Any:
    if os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"):
        raise ConfigError(
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD is set, which lets a weights file run code; unset it"
        )
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on foreign bytes torch's reader may raise anything
        raise ConfigError(f"{path} {_refusal(error)}") from error


def _refusal(error: Exception) -> str:
    # Not the whole text of an UnpicklingError, which advises to run the code in the file.
    unpickling = isinstance(error, pickle.UnpicklingError)
    foreign = re.search(r"GLOBAL (\S+)", str(error)) if unpickling else None
    if foreign:
        return (
            f"holds more than tensors and plain data ({foreign[1]}), "
            "which could run code and is not loaded; save its state_dict alone"
        )
    lines = [] if unpickling else str(error).strip().splitlines()
    reason = lines[0][:160] if lines else type(error).__name__
    return f"is damaged or no weights file ({reason}); fetch it again"


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the first mapping with the most tensors among `content` and the dicts nested in it."""
    best: dict[str, Tensor] = {}
    waiting, seen = [content], set()
    while waiting:
        candidate = waiting.pop(0)
        # A pickled dict may hold itself.
        if isinstance(candidate, Mapping) and id(candidate) not in seen:
            seen.add(id(candidate))
            named = {k: v for k, v in candidate.items() if isinstance(k, str)}
            tensors = {k: v for k, v in named.items() if isinstance(v, Tensor)}
            if len(tensors) > len(best):
                best = tensors
            waiting.extend(candidate.values())
    if not best:
        raise ConfigError(f"{path} holds no tensors by name; give a file with a state_dict")
    return best


def _plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Strip prefixes such as ``module.`` where every name has them."""
    names = list(state)
    for _ in range(4):
        for prefix in _WRAPPERS:
            if all(name.startswith(prefix) for name in names):
                names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def torchvision_entry(model: str, name: str) -> Any:
    """Return the member `name` of torchvision's weights for `model`.

    Raises:
        ConfigError: torchvision has no weights for the model, or none of this name.
    """
    import torchvision.models

    try:
        entries = torchvision.models.get_model_weights(model).__members__
    except ValueError:
        entries = {}
    enum = next((type(entry).__name__ for entry in entries.values()), "")
    name = name.removeprefix(f"{enum}.")
    if name not in entries:
        raise choose(
            "init.weights", name, [*entries, "source:NAME", "a file (" + ", ".join(SUFFIXES) + ")"]
        )
    return entries[name]


def read_torchvision(model: str, name: str) -> dict[str, Tensor]:
    """Return the tensors of published weights, fetched on first use into torch's hub folder.

    Raises:
        ConfigError: The file is not at hand and cannot be fetched.
    """
    entry = torchvision_entry(model, name)
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        state: dict[str, Tensor] = entry.get_state_dict(
            progress=False, check_hash=True, weights_only=True
        )
        return state
    except (URLError, OSError) as error:
        raise ConfigError(
            f"init.weights={name} could not be fetched ({error}); fetch {entry.url} elsewhere and "
            f"put it into {folder}, or give a file with init.weights=FILE"
        ) from error
    except Exception as error:  # as in `_read`
        file = folder / Path(entry.url).name
        raise ConfigError(
            f"init.weights={name} is damaged ({type(error).__name__}); delete {file}, if there, "
            "and start again"
        ) from error
