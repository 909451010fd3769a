"""``train``, ``compare`` and ``tune`` as a Hydra application."""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from warmstart import configs
from warmstart.cells import Sweep
from warmstart.errors import ConfigError, nearest
from warmstart.progress import Display
from warmstart.screening import check_config_dirs, check_overrides, quoted
from warmstart.tuning.tuner import Tuner

# Those of Hydra's flags that make sense here; with a look, nothing runs.
_LOOKS = ("--help", "-h", "--hydra-help", "--info", "-i")
_VALUED_LOOKS = ("--cfg", "-c", "--shell-completion", "-sc")
_CONFIG_DIR = ("--config-dir", "-cd")
_DRY = ("--dry-run", "--devices")  # of compare and tune
_VALUED = (*_VALUED_LOOKS, *_CONFIG_DIR, "--package", "-p")
# What compare and tune take, one of them.
_STUDIES = ("comparison=", "experiment=")
_FLAGS = (*_LOOKS, *_VALUED, "--resolve", "--run", "-r", "--multirun", "-m")


def run_app(command: str, args: list[str]) -> int:
    """Run ``warmstart train``, ``compare`` or ``tune`` and return the exit code.

    Raises:
        ConfigError: Wrong usage, configuration or data.
        RunError: The single run failed.
    """
    args, devices = _dry_run(command, args)
    flags, words, config_dirs = _sorted(args)
    overrides = quoted(words)
    check_config_dirs(config_dirs, shipped=configs.folder())
    check_overrides(overrides)
    looks = any(flag in (*_LOOKS, *_VALUED_LOOKS) for flag in flags)
    _check_search(command, overrides)
    if command != "train" and not looks:
        _check_study(command, overrides)
        # Not `hydra.mode` in a config, which would hide Hydra's reason for a bad override.
        flags.append("--multirun")
    if command == "tune" and any(word.startswith(_STUDIES) for word in overrides):
        overrides += _search(overrides, config_dirs)
    with Display() as display:
        line = shlex.join(["warmstart", command, *args])
        sweeping = "--multirun" in flags or "-m" in flags
        task: Any = _Single(display)
        if sweeping:
            if command == "tune":
                task = Tuner(display, command=line, devices=devices)
            else:
                compares = command == "compare"
                task = Sweep(display, command=line, devices=devices, compares=compares)
        # The script for the shell completes the words in the program's name.
        completes = "-sc" in flags or "--shell-completion" in flags
        name = "warmstart" if completes else f"warmstart {command}"
        # A comparison has a line per run; what each one loads stands in its record.
        level = logging.INFO if sweeping else logging.DEBUG
        with (
            _argv([name, *flags, *overrides, *configs.search_path(config_dirs)]),
            _own_options(),
            configs.explained(overrides, config_dirs),
            _log_lines(display, level),
        ):
            main = hydra.main(str(configs.folder()), config_name="train", version_base="1.3")
            main(task)()
    return 0 if looks else int(task.finish())


class _Single:
    """The task of one run."""

    def __init__(self, display: Display) -> None:
        self.display = display
        self.error: Exception | None = None

    def __call__(self, cfg: DictConfig) -> None:
        from warmstart.launch.resources import check_alone
        from warmstart.launch.work import outcome_line
        from warmstart.run.execution import execute
        from warmstart.run.preparing import prepare

        node: Any = HydraConfig.get()
        wrapped = configs.without_hydra(cfg, node, configs.config_dirs_of(node))
        try:
            run = prepare(wrapped)
            check_alone(run.config)
            self.display.plan(1)
            self.display.start(f"{wrapped.choices.init}/{wrapped.choices.strategy}")
            record = execute(run, progress=self.display.step)
            self.display.end(outcome_line(record))
            self.display.say(f"record: {run.folder / 'result.json'}")
        # Kept, not raised: Hydra would print its own words about it and exit.
        except Exception as error:
            self.error = error

    def finish(self) -> int:
        if self.error is not None:
            raise self.error
        return 0


def _sorted(args: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Return flags, overrides and config folders apart.

    Hydra refuses overrides on both sides of a flag, and of several --config-dir it takes the last.
    """
    flags, overrides, config_dirs = list[str](), list[str](), list[str]()
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(word)
            continue
        flag, equals, value = word.partition("=")
        # Also abbreviations are refused, which argparse would take and we would not recognize.
        if flag not in _FLAGS:
            names = [name for name in (*_FLAGS, *_DRY) if name.startswith("--")]
            raise ConfigError(
                f"there is no flag {flag}; allowed are {', '.join(names)}{nearest(flag, names)}"
            )
        if flag in _VALUED and not equals:
            if not rest:
                raise ConfigError(f"the flag {flag} needs a value; see --help")
            value = rest.pop(0)
        if flag in _CONFIG_DIR:
            config_dirs.append(value)
        else:
            flags += [flag, value] if flag in _VALUED else [flag]
    return flags, overrides, config_dirs


def _dry_run(command: str, args: list[str]) -> tuple[list[str], int | None]:
    """Take ``--dry-run`` and ``--devices N`` out of the arguments.

    Returns:
        The other arguments; the number of devices to predict for, or None for a run in earnest.
    """
    rest, dry, devices = [], False, None
    words = iter(args)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag == "--dry-run" and not equals:
            dry = True
        elif flag == "--devices":
            devices = value if equals else next(words, "")
        else:
            rest.append(word)
    if not dry and devices is None:
        return rest, None
    if command == "train" or not dry:
        raise ConfigError(
            "--dry-run is of compare and tune, and --devices is of --dry-run: "
            f"warmstart {'compare' if command == 'train' else command} comparison=NAME --dry-run "
            "--devices 8"
        )
    if devices is not None and not (devices.isascii() and devices.isdigit() and int(devices) > 0):
        raise ConfigError(f"--devices is {devices!r}, but must be a whole number of at least 1")
    return rest, int(devices or 1)


def _check_study(command: str, overrides: list[str]) -> None:
    names = [word.partition("=")[2] for word in overrides if word.startswith(_STUDIES)]
    if len(names) != 1 or not names[0] or "," in names[0]:
        found = [
            f"{group}{path.stem}"
            for group in _STUDIES
            for path in sorted((configs.folder() / group[:-1]).glob("*.yaml"))
        ]
        raise ConfigError(
            f"{command} takes one comparison or experiment, but got {', '.join(names) or 'none'}; "
            f"use comparison=NAME or experiment=NAME, shipped are {', '.join(found)}"
        )


def _search(overrides: list[str], config_dirs: list[str]) -> list[str]:
    """Return the override that chooses how to search, where nobody has done so."""
    if any(word.startswith("search=") for word in overrides):
        return []
    studies = [word for word in overrides if word.startswith(_STUDIES)]
    # A study may choose too, or say some of the values alone.
    node = configs.compose(studies, config_dirs=config_dirs).get("search") or {}
    return [] if {"sampler", "trials", "batch"} <= set(node) else ["search=random"]


def _check_search(command: str, overrides: list[str]) -> None:
    for word in overrides:
        if command != "tune" and word.lstrip("+").startswith(("search=", "search.")):
            raise ConfigError(
                f"{word!r} is of a search, and {command} makes none; use warmstart tune"
            )


@contextlib.contextmanager
def _argv(argv: list[str]) -> Iterator[None]:
    """Show Hydra the arguments, and let it raise instead of exit."""
    before, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = argv
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = before
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


@contextlib.contextmanager
def _own_options() -> Iterator[None]:
    """Keep what options build on (``data/_shared``) out of Hydra's help, completion and globs."""
    listed = ConfigLoaderImpl.get_group_options

    def offered(*args: Any, **keywords: Any) -> list[str]:
        return [name for name in listed(*args, **keywords) if not name.startswith("_")]

    ConfigLoaderImpl.get_group_options = offered  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigLoaderImpl.get_group_options = listed  # type: ignore[method-assign]


@contextlib.contextmanager
def _log_lines(display: Display, level: int) -> Iterator[None]:
    """Show what the package logs above the progress bars."""
    handler = logging.Handler()
    handler.emit = lambda record: display.say(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("warmstart")
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    # Hydra's handler at the root would print each line again.
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
