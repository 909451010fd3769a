"""Where weights come from: a file, an address, or a published name."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from warmstart.errors import ConfigError, nearest
from warmstart.models import download, published
from warmstart.models.architecture import Architecture, Input
from warmstart.models.checkpoints import SUFFIXES, Weights, check_suffix, read_file
from warmstart.store import publish, sha256

__all__ = ["Weights", "metadata", "read_file", "resolve", "save"]

FORMS = (
    "a file, https://HOST/FILE#sha256=SUM, hf:OWNER/REPOSITORY, run:KEY, source:NAME, "
    "or a name of torchvision or timm (which needs warmstart[timm])"
)
_ADDRESS = re.compile(r"\w+://")
_SUM = re.compile(r"(?:sha256[=:])?([0-9a-fA-F]{64})")


def resolve(name: str, architecture: Architecture, *, store: Path) -> Weights:
    """Return the weights that ``init.weights=name`` means for an architecture.

    Nothing is fetched. Published weights are known by the name of the model: torchvision's
    (``IMAGENET1K_V2``), timm's (``a1_in1k``, or ``default``).

    Args:
        name: A file, an address with its sum, ``hf:...``, or a published name.
        architecture: Whose preprocessing weights without any of their own take.
        store: Where a file from an address is kept.

    Raises:
        ConfigError: There is no such file and no such name, or an address has no sum.
    """
    download.offline_folder()  # a wrong one is said before anything starts
    if _ADDRESS.match(name):
        return _address(name, architecture, store)
    if name.startswith("hf:"):
        return published.hub_weights(name, architecture)
    path = Path(name).expanduser()
    if path.is_file() or path.suffix in SUFFIXES or len(path.parts) > 1:
        return _file(name, path, architecture)
    return _published(name, architecture)


def _file(name: str, path: Path, architecture: Architecture) -> Weights:
    if not path.is_file():
        raise ConfigError(f"init.weights is {name!r}, but there is no such file; give {FORMS}")
    check_suffix(path)
    expected, classes = metadata(path) or (architecture.input, None)
    return Weights(path.name, sha256(path), expected, functools.partial(read_file, path), classes)


def _address(name: str, architecture: Architecture, store: Path) -> Weights:
    url, _, fragment = name.partition("#")
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"init.weights is {name!r}, but must be an http(s) address; give {FORMS}")
    digest = _SUM.fullmatch(fragment)
    if not digest:
        raise ConfigError(
            f"init.weights is {name!r}, without the SHA-256 sum of the file in 64 digits; "
            f"add it as {url}#sha256=SUM (sha256sum FILE prints it)"
        )
    check_suffix(Path(download.file_name(url)))
    expected = digest[1].lower()
    return Weights(
        origin=url,
        digest=expected,
        input=architecture.input,
        read=lambda: read_file(download.url_file(url, expected, store=store)),
    )


def _published(name: str, architecture: Architecture) -> Weights:
    model = architecture.name
    # Both libraries name the tensors of their inception_v3 alike, but torchvision's normalizes
    # inside the model as well: with the other's weights it would be wrong without a sign.
    half = architecture.input is not None and architecture.input.mean == (0.5, 0.5, 0.5)
    entries = {} if model == "inception_v3" and half else published.torchvision_entries(model)
    enum = next((type(entry).__name__ for entry in entries.values()), "")
    plain = name.removeprefix(f"{enum}.")
    if plain in entries:
        return published.torchvision_weights(entries[plain], model)
    tags = {} if model == "inception_v3" and not half else published.timm_tags(model)
    if name == "default" and tags:
        name = next(iter(tags))
    if name in tags:
        return published.timm_weights(tags[name])
    known = [*entries, *tags]
    names = f"the names for {model} are {', '.join(known)}; give one of them, or {FORMS}"
    if not known:
        names = f"nobody publishes weights for {model} by name; give {FORMS}"
    raise ConfigError(f"init.weights is {name!r}, but {names}{nearest(plain, known)}")


def save(path: Path, state: Mapping[str, Tensor], expected: Input, classes: Sequence[str]) -> None:
    """Write weights together with the input that they expect, atomically."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    content = {"input": dataclasses.asdict(expected), "classes": list(classes)}
    # One entry: the order of several would differ from file to file.
    entry = {"warmstart": json.dumps(content)}
    publish(path, lambda part: safetensors.torch.save_file(tensors, part, entry))


def metadata(path: Path) -> tuple[Input, tuple[str, ...]] | None:
    """Return the input and the classes that weights written by `save` carry; else None."""
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            entry = file.metadata() or {}
        content = json.loads(entry["warmstart"])
        inner = content["input"]
        expected = Input(
            inner["size"], inner["channels"], tuple(inner["mean"]), tuple(inner["std"])
        )
        return expected, tuple(map(str, content["classes"]))
    except (KeyError, TypeError, ValueError, SafetensorError, OSError):
        return None
