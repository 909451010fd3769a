"""From overrides to a checked config: Hydra composes, and what is wrong becomes one sentence."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from warmstart.errors import ConfigError, choose
from warmstart.screening import check_config_dirs, check_overrides, quoted
from warmstart.targets import (
    OWN_KEYS,
    TARGETS,
    check_missing,
    check_node,
    missing,
    no_key,
    parameters,
)

# Groups whose options are no objects that a run builds.
_OTHER_GROUPS = ("arm", "comparison", "experiment", "search", "source")
# Keys that a config gets from `without_hydra`, and a trial's (`warmstart tune`) from its search.
_OURS = {"choices", "config_dirs", "prune"}


def folder() -> Path:
    """Return the folder of the shipped configs, in a wheel or in a checkout."""
    here = Path(__file__).resolve().parent
    for candidate in (here / "conf", here.parents[1] / "conf"):
        if (candidate / "train.yaml").is_file():
            return candidate
    raise ConfigError(
        f"the installation is broken: no conf/train.yaml near {here}; install it again"
    )


def compose(overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()) -> DictConfig:
    """Return the config of one run, for ``warmstart.train`` or to look at.

    Args:
        overrides: As on the command line, for example ``["data=digits", "steps=100"]``.
        config_dirs: Folders with configs of your own.

    Raises:
        ConfigError: An override names no key or option, or does not parse.
    """
    check_config_dirs(config_dirs, shipped=folder())
    check_overrides(overrides)
    overrides = quoted(overrides)
    with _outside_hydra(), explained(overrides, config_dirs):
        words = [*overrides, *search_path(config_dirs)]
        with initialize_config_dir(config_dir=str(folder()), version_base="1.3"):
            cfg = hydra_compose("train", words, return_hydra_config=True)
    return without_hydra(cfg, cfg.hydra, config_dirs)


def without_hydra(cfg: DictConfig, hydra: DictConfig, config_dirs: Sequence[str]) -> DictConfig:
    """Return the job's part of a composed config, with the options that were chosen.

    Args:
        cfg: With or without its ``hydra`` node.
        hydra: That node.
        config_dirs: Of the user.
    """
    choices = {
        name: str(option)
        for name, option in hydra.runtime.choices.items()
        if name in TARGETS and option is not None
    }
    with open_dict(cfg):
        cfg.pop("hydra", None)
        cfg.choices = choices
        cfg.arm = hydra.runtime.choices.get("arm")
        cfg.comparison = cfg.get("comparison")
        cfg.experiment = hydra.runtime.choices.get("experiment")
        cfg.config_dirs = list(config_dirs)
    return cfg


def config_dirs_of(hydra: DictConfig) -> list[str]:
    """Return the user's config folders, from Hydra's own node."""
    sources = hydra.runtime.config_sources
    return [
        str(source.path)
        for source in sources
        if source.schema == "file" and source.provider not in ("main", "hydra", "schema")
    ]


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """Return a config as plain dicts and lists, with all interpolations resolved.

    Raises:
        ConfigError: An interpolation is broken.
    """
    with _resolving():
        content = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(content, dict)
    return {str(name): value for name, value in content.items()}


@contextlib.contextmanager
def _resolving() -> Iterator[None]:
    try:
        yield
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"the config does not resolve: {reason}") from error


def plain(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return the resolved config as plain dicts and lists, checked against its targets.

    Args:
        cfg: As `compose` returns it, or what `resolved` makes of that.

    Raises:
        ConfigError: A value is missing, an interpolation broken, a key or target unknown.
    """
    if isinstance(cfg, DictConfig):
        # Before they are resolved, so that the key is named that lacks, not one that refers to it.
        with _resolving():
            lacking = sorted(OmegaConf.missing_keys(cfg))
        check_missing(lacking)
        cfg = resolved(cfg)
    config: dict[str, Any] = {str(name): node for name, node in cfg.items()}
    for name, node in config.items():
        if name not in top_level_keys():
            raise no_key(name, _users_keys())
        try:
            _check_content(name, json.dumps(node))
        except TypeError:  # a path or a date, which no file of ours can hold
            _check(name, node)
    features = config["features"]
    if isinstance(features, Mapping) and features.get("cache") is False:
        config["features"] = {**features, "cache": "off"}  # which YAML takes for false
    return config


@lru_cache(maxsize=1024)
def _check_content(name: str, content: str) -> None:
    """Check one top-level key; the cells of a sweep share most of what they have."""
    _check(name, json.loads(content))


def _check(name: str, node: Any) -> None:
    check_missing(sorted(missing(name, node)))
    if name in TARGETS:
        check_node(name, node)


@cache
def top_level_keys() -> frozenset[str]:
    """Return the keys that a run's config may have: what the shipped ``train.yaml`` names."""
    content = yaml.safe_load((folder() / "train.yaml").read_text())
    groups = {
        name.split()[-1] for entry in content["defaults"] if entry != "_self_" for name in entry
    }
    scalars = set(content) - {"defaults", "hydra"}
    own = {name for name in groups if not name.startswith("hydra/")}
    return frozenset(own | scalars | _OURS)


def build(group: str, node: Mapping[str, Any], /, *args: Any, **passed: Any) -> Any:
    """Call the target of a config group with the keys of its node and what the run passes.

    What the target does not take of `passed` is left out: not every data set needs a store.
    """
    target = get_object(node["_target_"])
    takes = parameters(target)
    keys = {k: v for k, v in node.items() if k != "_target_" and k not in OWN_KEYS.get(group, ())}
    extra = {k: v for k, v in passed.items() if k in takes and keys.get(k) is None}
    return target(*args, **{**keys, **extra})


@contextlib.contextmanager
def explained(overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Iterator[None]:
    """Turn what Hydra raises about a composition into one sentence."""
    try:
        yield
    except MissingConfigException as error:
        # Options may lie in folders of their own (arm=digits/scratch).
        group, _, option = str(error.missing_cfg_file or "").partition("/")
        found = {
            path.relative_to(root / group).with_suffix("").as_posix()
            for root in (folder(), *map(Path, config_dirs))
            for path in (root / group).rglob("*.yaml")
            if not path.name.startswith("_")  # what others build on
        }
        raise choose(group, option, found or error.options or sorted(TARGETS)) from error
    except ValueError as error:
        if "Config group override" not in str(error):
            raise
        given = [(word, *word.lstrip("+").partition("=")[::2]) for word in overrides]
        groups = {*TARGETS, *_OTHER_GROUPS}
        bad = [w for w, key, v in given if key in groups and not re.match(r"(?!null$)[a-z]", v)]
        raise ConfigError(
            f"{' '.join(bad or overrides)!r} gives a config group something else than the name of "
            "an option; choose an option, for example init=scratch"
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_sentence(error, overrides)) from error


def _sentence(error: Exception, overrides: Sequence[str]) -> str:
    cause = error.__cause__
    key = str(getattr(cause, "full_key", "") or "")
    if not key and "Could not override '" in str(error):
        key = str(error).split("'")[1].partition("@")[0]
    if key in _users_keys():
        return f"{key} takes the name of an option, but got something else; give {key}=NAME"
    if key:
        node = getattr(cause, "parent_node", None)
        known = [str(k) for k in node] if "." in key and isinstance(node, Mapping) else None
        return str(no_key(key, known or _users_keys()))
    text = str(error).strip() or str(error.__cause__ or type(error).__name__)
    if "Ambiguous value" in text:
        word = text.split("'")[1]
        return f"{word!r} gives several values to one run; sweep over them with warmstart train -m"
    if isinstance(error, OverrideParseException):
        bad = error.override or " ".join(overrides)
        return f"{bad!r} does not parse; write KEY=VALUE, and quote special characters in VALUE"
    return f"the overrides {' '.join(overrides)!r} do not compose: {text.splitlines()[0]}"


def _users_keys() -> frozenset[str]:
    return top_level_keys() - _OURS


def search_path(config_dirs: Sequence[str]) -> list[str]:
    """Return the override that lets Hydra look into the user's config folders too, if any."""
    places = [str(Path(name).expanduser().resolve()).replace("'", r"\'") for name in config_dirs]
    listed = ",".join(f"'file://{place}'" for place in places)
    return [f"hydra.searchpath=[{listed}]"] if places else []


@contextlib.contextmanager
def _outside_hydra() -> Iterator[None]:
    """Let Hydra compose in a process where it already runs a job."""
    running, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        # Not the instance from above: `initialize_config_dir` puts a copy in its place.
        GlobalHydra.instance().hydra = running
