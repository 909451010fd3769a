"""The command: ``warmstart train | compare | status | look | plan | report | models | store``."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.errors import ConfigError, RunError, nearest

_USAGE = """\
usage: warmstart COMMAND ...

From scratch, or from pretrained weights? Compare them on your own images, with evidence.

commands:
  train [overrides]                      one run; -m sweeps over values with commas
  compare comparison=NAME [overrides]    arms x data sizes x seeds, then the report
  status [DIR] [--watch] [--json]        how far a comparison is: running, left, failed, cost
  look [overrides] [--out FILE]          the images as training will see them, and what is wrong
  plan [overrides] [--json]              what training would do, before anything trains
  report DIR... [--out FILE]             table and HTML from the records on disk
  models [PATTERN] [--json]              the architectures, their sizes and known weights
  store [DIR] [--clear PATTERN...]       what is kept for later runs: list it, empty it

  warmstart COMMAND --help               more about one of them
  warmstart --version
"""
_COMMANDS = ("train", "compare", "status", "look", "plan", "report", "models", "store")
_TAKING_OVERRIDES = ("train", "compare", "look", "plan")
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
        return _complain(
            "stopped; the same command goes on (from the last checkpoint, where there is one)",
            _INTERRUPTED,
        )


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
    if command in ("train", "compare"):
        return _hydra(command, rest)
    if command in _OTHERS:
        _OTHERS[command](rest)
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


def _report(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart report",
        description="Print the table of a comparison and write its HTML page, from records alone.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="an output folder, a comparison in it, or a run",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="where the page goes (default: DIR/report.html)"
    )
    options = parser.parse_args(args)
    from warmstart.summary import summarize

    summarize(options.folders, options.out)


def _status(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart status",
        description="Show how far the runs are: done, running (step, time left, device), still to "
        "come, failed and why; and what they have cost. Read from disk alone, also from another "
        "machine that sees the folder, while they run.",
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("outputs"),
        metavar="DIR",
        help="an output folder (default: outputs), a comparison in it, or a run",
    )
    parser.add_argument("--watch", action="store_true", help="go on until all have ended")
    parser.add_argument("--json", action="store_true", help="for programs: every run")
    options = parser.parse_args(args)
    from warmstart.status_view import status_command

    status_command(options.folder, watch=options.watch, as_json=options.json)


def _models(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart models",
        description="List the architectures; with a pattern, also their sizes and known weights.",
    )
    parser.add_argument(
        "pattern",
        nargs="?",
        metavar="PATTERN",
        help="a part of the name, or with wildcards: 'vgg*', 'timm/convnext*'",
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(args)
    from warmstart.catalogue import show

    show(options.pattern, as_json=options.json)


def _plan(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart plan",
        description="Show what `warmstart train` with the same overrides would do: layer groups, "
        "their weights, rates and phases, memory and files. Nothing trains.",
    )
    _add_overrides(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_intermixed_args(args)
    from warmstart.preview_table import plan_command

    plan_command(options.overrides, config_dirs=options.config_dir, as_json=options.json)


def _look(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart look",
        description="Show the data of `warmstart train` with the same overrides, in the terminal "
        "and as a page: classes, sizes, damaged files, duplicates, and the images as the network "
        "will see them. Nothing trains.",
    )
    _add_overrides(parser)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: OUT/looks/DATA.html)",
    )
    options = parser.parse_intermixed_args(args)
    from warmstart.look.command import look_command

    look_command(options.overrides, config_dirs=options.config_dir, out=options.out)


def _store(args: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="warmstart store",
        description="List what is kept for later runs (decoded images, unpacked archives, fetched "
        "weights, source runs), or delete some of it. What is deleted is made again when a run "
        "needs it. What was trained goes only by its own name, as with --clear 'runs/*'; what a "
        "process is at stays.",
    )
    parser.add_argument(
        "folder", nargs="?", type=Path, metavar="DIR", help="the store (default: outputs/store)"
    )
    parser.add_argument(
        "--clear",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="delete entries of these names or kinds: images/digits-8, images, '*cifar10*'",
    )
    options = parser.parse_args(args)
    from warmstart.stock import stock_command

    stock_command(options.folder, clear=options.clear)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as of warmstart train")
    parser.add_argument(
        "--config-dir", "-cd", action="append", default=[], metavar="DIR", help="configs of yours"
    )


_OTHERS = {
    "look": _look,
    "plan": _plan,
    "report": _report,
    "status": _status,
    "models": _models,
    "store": _store,
}


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
