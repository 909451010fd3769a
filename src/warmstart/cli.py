"""The command: ``warmstart train``, ``warmstart compare`` and the others."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from warmstart.commands import OTHERS
from warmstart.errors import ConfigError, RunError, nearest

_USAGE = """\
usage: warmstart COMMAND ...

From scratch, or from pretrained weights? Compare them on your own images, with evidence.

commands:
  train [overrides]                      one run; -m sweeps over values with commas
  compare comparison=NAME [overrides]    arms x data sizes x seeds, then the report
  compare experiment=NAME [overrides]    the same, for a study with a claim to check
  tune comparison=NAME [overrides]       search each arm's recipe: coarse, finer, the best for long
  status [DIR] [--watch] [--json]        how far a comparison is: running, left, failed, cost
  look [overrides] [--out FILE]          the images as training will see them, and what is wrong
  plan [overrides] [--json]              what training would do, before anything trains
  check [overrides] [--json]             its first steps, with a verdict each: rate, labels, start
  rank models=[...] [overrides] [--json] candidate weights by predicted transfer, untrained
  features group=L [overrides]           activations of all images, to .npz or Parquet
  report DIR... [--out FILE]             table and HTML from the records on disk
  ensemble DIR... [--snapshots] [--json] what averaging the probabilities of runs gains
  models [PATTERN] [--json]              the architectures, their sizes and known weights
  store [DIR] [--clear PATTERN...]       what is kept for later runs: list it, empty it

  warmstart COMMAND --help               more about one of them
  warmstart --version
"""
_COMMANDS = (
    *("train", "compare", "tune", "status", "look", "plan", "check"),
    *("rank", "features", "report", "ensemble", "models", "store"),
)
_TRAINING = ("train", "compare", "tune")
_TAKING_OVERRIDES = (*_TRAINING, "look", "plan", "check", "rank", "features")
_DONE, _FAILED, _WRONG, _INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0 done, 1 a run failed, 2 wrong usage or config."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    _print_any_name()
    try:
        return _dispatch(args)
    except ConfigError as error:
        return _complain(error, _WRONG)
    except RunError as error:
        return _complain(error, _FAILED)
    except BrokenPipeError:
        # The reader has gone, for example `warmstart report ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _DONE
    except OSError as error:
        # A full disk, a folder that nobody may write to.
        return _complain(error, _FAILED)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on (from the last checkpoint, where there is one)"
        return _complain(f"stopped{goes_on if args and args[0] in _TRAINING else ''}", _INTERRUPTED)


def _print_any_name() -> None:
    """Print what the terminal cannot show, as names of files that are not UTF-8, with escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(error: object, code: int) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1" and isinstance(error, BaseException):
        raise error
    print(f"warmstart: {error}", file=sys.stderr)
    return code


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return _DONE if args else _WRONG
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"warmstart {version('warmstart')}")
        return _DONE
    command, rest = args[0], args[1:]
    if command in ("-sc", "--shell-completion"):
        return _complete(args)
    if command in _TRAINING:
        return _hydra(command, rest)
    if command in OTHERS:
        OTHERS[command](rest)
        return _DONE
    raise ConfigError(
        f"there is no command {command!r}; use one of {', '.join(_COMMANDS)}"
        f"{nearest(command, _COMMANDS)}"
    )


def _hydra(command: str, args: list[str]) -> int:
    from warmstart.app import run_app

    # The default action would skip every `finally`; an interrupt takes the way of Ctrl-C.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run_app(command, args)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _complete(args: list[str]) -> int:
    """Answer the shell's completion script, which Hydra made and which knows no subcommands."""
    with _without_subcommand() as word:
        if word is None:
            return _DONE
        return _hydra(word, args)


@contextlib.contextmanager
def _without_subcommand() -> Iterator[str | None]:
    """Take the subcommand out of the line to complete; print the commands where it is missing."""
    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if len(words) < 2 or (len(words) == 2 and not line.endswith(" ")):
        given = words[1] if len(words) == 2 else ""
        print(" ".join(name for name in _COMMANDS if name.startswith(given)))
        yield None
        return
    if words[1] not in _TAKING_OVERRIDES:
        yield None
        return
    shorter = line.replace(f"{words[1]} ", "", 1)
    removed = len(line) - len(shorter)
    before = {name: os.environ.get(name) for name in ("COMP_LINE", "COMP_POINT")}
    os.environ["COMP_LINE"] = shorter
    os.environ["COMP_POINT"] = str(int(before["COMP_POINT"] or len(line)) - removed)
    try:
        yield words[1]
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
