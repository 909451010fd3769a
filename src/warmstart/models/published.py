"""Weights that torchvision, timm and the Hugging Face hub publish, with their preprocessing."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from warmstart.errors import ConfigError
from warmstart.models import download
from warmstart.models.architecture import Architecture, Input
from warmstart.models.checkpoints import Checkpoint, Weights, read_file

HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_HUB_NAME = re.compile(
    r"hf:(?P<repository>[\w.-]+/[\w.-]+)(/(?P<file>[^@]+))?(@(?P<revision>[^@]+))?"
)


def torchvision_entries(model: str) -> dict[str, Any]:
    """Return torchvision's weights for a model by name (``IMAGENET1K_V1``, ..., ``DEFAULT``)."""
    import torchvision.models

    try:
        return dict(torchvision.models.get_model_weights(model).__members__)
    except ValueError:  # it has no such model
        return {}


def torchvision_weights(entry: Any, model: str) -> Weights:
    """Return what one of `torchvision_entries` means."""
    transforms = entry.transforms()
    size, mean, std = transforms.crop_size[0], tuple(transforms.mean), tuple(transforms.std)

    def read() -> Checkpoint:
        found = read_file(download.hub_file(entry.url))
        # The classifier of VGG's IMAGENET1K_FEATURES is there, but holds no numbers.
        finite = {name: x for name, x in found.tensors.items() if bool(x.isfinite().all())}
        return dataclasses.replace(found, tensors=finite)

    return Weights(
        origin=f"{model}:{entry.name}",
        # The file's name ends with the first digits of its SHA-256 sum, which are checked.
        digest=download.file_name(entry.url),
        input=Input(size, 3, mean, std),
        read=read,
        classes=tuple(entry.meta["categories"] or ()) or None,
    )


def timm_tags(model: str) -> dict[str, Any]:
    """Return timm's pretrained configurations for a model by tag, its default one first.

    Empty where timm is not installed, or has no such model.
    """
    try:
        import timm.models
    except ImportError:
        return {}
    plain = model.partition(".")[0]
    if not timm.models.is_model(plain):
        return {}
    tagged = timm.models.list_pretrained(f"{plain}.*")
    configs = {name.partition(".")[2]: timm.models.get_pretrained_cfg(name) for name in tagged}
    default = timm.models.get_pretrained_cfg_value(model, "tag")
    return {tag: configs[tag] for tag in sorted(configs, key=lambda tag: (tag != default, tag))}


def timm_weights(config: Any, revision: str | None = None, file: str | None = None) -> Weights:
    """Return what one of `timm_tags` means, from the Hugging Face hub or where else timm has it.

    Args:
        config: timm's PretrainedCfg.
        revision: Of the repository on the hub.
        file: In it, in place of timm's.
    """
    channels, height, _ = config.input_size
    name = f"{config.architecture}.{config.tag}"
    if config.hf_hub_id:
        files = (file,) if file else (config.hf_hub_filename or HUB_FILES[0], *HUB_FILES[1:])
        digest = _hub_name(config.hf_hub_id, file, revision)
        locate: Callable[[], Path] = functools.partial(
            hub_file, config.hf_hub_id, files, revision=revision
        )
    else:
        url = config.url if isinstance(config.url, str) else config.url[0]
        digest = download.file_name(url)
        locate = functools.partial(download.hub_file, url)

    def read() -> Checkpoint:
        path = locate()
        found = read_file(path)
        return dataclasses.replace(found, tensors=_as_timm(name, found.tensors, path))

    return Weights(
        origin=name,
        digest=digest,
        input=Input(height, channels, tuple(config.mean), tuple(config.std)),
        read=read,
        classes=_imagenet_classes() if config.num_classes == 1000 else None,
    )


def hub_weights(name: str, architecture: Architecture) -> Weights:
    """Return what ``hf:OWNER/REPOSITORY[/FILE][@REVISION]`` means.

    A repository of timm brings timm's preprocessing, another one takes the architecture's.

    Raises:
        ConfigError: The name has another form, or huggingface_hub is not installed.
    """
    match = _HUB_NAME.fullmatch(name)
    if not match:
        raise ConfigError(
            f"init.weights is {name!r}, but a name on the Hugging Face hub has the form "
            "hf:OWNER/REPOSITORY, then /FILE and @REVISION where wanted"
        )
    _huggingface_hub()
    repository, file, revision = match["repository"], match["file"], match["revision"]
    owner, _, model = repository.partition("/")
    known = timm_tags(model).get(model.partition(".")[2]) if owner == "timm" else None
    if known and known.hf_hub_id == repository:
        return timm_weights(known, revision, file)
    files = (file,) if file else HUB_FILES
    return Weights(
        origin=name,
        digest=_hub_name(repository, file, revision),
        input=architecture.input,
        read=lambda: read_file(hub_file(repository, files, revision=revision)),
    )


def hub_file(repository: str, files: tuple[str, ...], *, revision: str | None) -> Path:
    """Return the first of `files` that a repository on the Hugging Face hub has.

    It is looked for in ``WARMSTART_WEIGHTS`` (as ``OWNER/REPOSITORY/FILE``, or the main file as
    ``REPOSITORY.safetensors``) and in the hub's cache, then fetched into the latter.

    Raises:
        ConfigError: It is neither at hand nor to be fetched.
    """
    nested = [f"{repository}/{file}" for file in files]
    found = download.offline_file([*nested, *(_offline_name(repository, file) for file in files)])
    if found:
        return found
    hub = _huggingface_hub()
    for file in files:
        cached = hub.try_to_load_from_cache(repository, file, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    for file in files:
        url = hub.hf_hub_url(repository, file, revision=revision)
        try:
            # Asked first: without a network the download itself would try again for half a minute.
            download.within(functools.partial(hub.get_hf_file_metadata, url, timeout=5))
            return Path(hub.hf_hub_download(repository, file, revision=revision))
        except hub.errors.RemoteEntryNotFoundError:
            continue
        except hub.errors.RepositoryNotFoundError as error:
            raise ConfigError(
                f"the Hugging Face hub has no repository {repository}, or it is not open to you; "
                "check the name, or log in with hf auth login"
            ) from error
        except Exception as error:  # of the network, of which its client has several libraries
            raise download.unreachable(url, _offline_name(repository, file), error) from error
    raise ConfigError(
        f"{repository} on the Hugging Face hub has no file {' or '.join(files)}; "
        f"name one with hf:{repository}/FILE"
    )


def _hub_name(repository: str, file: str | None, revision: str | None) -> str:
    return f"hf:{repository}{f'/{file}' if file else ''}@{revision or 'main'}"


def _offline_name(repository: str, file: str) -> str:
    """Return ``resnet50.a1_in1k.safetensors`` for the main file of ``timm/resnet50.a1_in1k``."""
    main = repository.partition("/")[2] + Path(file).suffix
    return main if file in HUB_FILES else f"{repository}/{file}"


def _huggingface_hub() -> ModuleType:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(
            "weights on the Hugging Face hub need huggingface_hub; install warmstart[timm]"
        ) from error
    return huggingface_hub


def _as_timm(name: str, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors as timm's model has them: some files need its conversion of names."""
    import timm

    try:
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(
                name, pretrained=True, pretrained_cfg_overlay={"state_dict": tensors}
            )
    except Exception as error:  # timm's conversions fail in their own ways
        reason = str(error).strip().splitlines()[0][:160]
        raise ConfigError(
            f"{path} does not hold the weights of timm's {name} ({reason}); fetch it again"
        ) from error
    return dict(model.state_dict())


def _imagenet_classes() -> tuple[str, ...]:
    """Return ImageNet's 1,000 classes in the order of the outputs, as torchvision names them."""
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])
