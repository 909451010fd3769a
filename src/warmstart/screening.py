"""What a user's overrides and config folders may not do, checked before Hydra reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from warmstart.errors import ConfigError, choose
from warmstart.targets import TARGETS

# Hydra would import and call what these name before anything of ours runs, or read more folders.
_HYDRAS_OWN = (
    "hydra.callbacks",
    "hydra/callbacks",
    "hydra.searchpath",
    "hydra.launcher._target_",
    "hydra.sweeper._target_",
    "hydra/sweeper",
)
_LAUNCHERS = ("basic", "local", "slurm")
_BARE = re.compile(r"https?://|~/")


def check_overrides(overrides: Sequence[str]) -> None:
    """Refuse what Hydra would do and a run cannot take."""
    for override in overrides:
        if override.startswith("~"):
            raise ConfigError(
                f"{override!r} deletes a key, but a run needs every key; give it another value"
            )
        if override.lstrip("+").startswith(_HYDRAS_OWN):
            raise ConfigError(
                f"{override!r} sets a part of Hydra that runs or reads other files, which is not "
                "allowed here; for configs of your own use --config-dir"
            )
        key, _, value = override.lstrip("+").partition("=")
        if key == "hydra/launcher" and value not in _LAUNCHERS:
            raise choose("hydra/launcher", value, _LAUNCHERS)
        if key in TARGETS and value.startswith("["):
            # Hydra would merge them, and a key of the first one survives the second by chance.
            raise ConfigError(
                f"{override!r} gives several options, but {key} takes one; give {key}=NAME, and "
                f"what is to differ from it as {key}.KEY=VALUE"
            )


def quoted(overrides: Sequence[str]) -> list[str]:
    """Return the overrides with quotes around addresses and ``~``, which Hydra cannot read bare."""
    return [
        f'{key}="{value}"' if _BARE.match(value) and "," not in value else override
        for override in overrides
        for key, _, value in [override.partition("=")]
    ]


def check_config_dirs(config_dirs: Sequence[str], *, shipped: Path) -> None:
    """Refuse folders that are missing, and files in them that are not what they seem.

    A file with the name of a shipped one Hydra would ignore silently; one that configures Hydra
    itself could run anything.

    Args:
        config_dirs: Of the user.
        shipped: The folder of the shipped configs.
    """
    known = {path.relative_to(shipped) for path in shipped.rglob("*.yaml")}
    others: dict[Path, Path] = {}
    for name in config_dirs:
        own = Path(name)
        if not own.is_dir():
            raise ConfigError(f"the config folder {name!r} does not exist; give an existing folder")
        for path in sorted(own.rglob("*.yaml")):
            if path.relative_to(own) in known:
                raise ConfigError(
                    f"{path} has the name of a shipped config, which would hide it; rename yours"
                )
            if (other := others.setdefault(path.relative_to(own), path)) != path:
                raise ConfigError(f"{other} would hide {path}; rename one of them")
            if _configures_hydra(path, path.relative_to(own)):
                raise ConfigError(
                    f"{path} configures Hydra itself, which could run any code; what a config of "
                    "your own may set is hydra.sweeper.params, the options of hydra.launcher, and "
                    "`override /hydra/launcher` in its defaults"
                )


def _configures_hydra(path: Path, name: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} is not valid YAML ({reason}); correct it") from error
    if not isinstance(content, dict):
        return False
    package = [line for line in text.splitlines() if line.lstrip("# ").startswith("@package")]
    elsewhere = [name.parts[0], *package, *map(str, _other_defaults(content.get("defaults")))]
    hydra = content.get("hydra") or {}
    sweeper, launcher = hydra.get("sweeper") or {}, hydra.get("launcher") or {}
    return (
        any("hydra" in place for place in elsewhere)
        or bool(set(hydra) - {"sweeper", "launcher"})
        or bool(set(sweeper) - {"params"})
        or "_target_" in launcher
    )


def _other_defaults(defaults: Any) -> list[Any]:
    """Return the entries of a defaults list but those that choose one of our launchers."""
    ours = [{f"override {slash}hydra/launcher": name} for slash in ("", "/") for name in _LAUNCHERS]
    if not isinstance(defaults, list):
        return [defaults]
    return [entry for entry in defaults if entry not in ours]
