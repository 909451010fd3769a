"""``warmstart store``: what is kept for later runs, how much it takes, and how to empty it."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import re
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from warmstart.errors import ConfigError
from warmstart.results.record import FILE as RECORD
from warmstart.results.terminal import UNLIMITED
from warmstart.store import SUMS, Entry, entries_in, entry_of, folders, remove

DEFAULT = Path("outputs/store")
# What training has made. A wildcard alone does not reach it: only its own name does.
TRAINED = ("autoencoders", "runs")
_DIGITS = 12  # of a sum, enough to tell one from another
_DOWNLOAD = re.compile(r"(?P<key>[a-z]+-[0-9a-f]{64})-.+(?<!\.lock)")  # see `warmstart.fetch`
_UNITS = ("bytes", "kB", "MB", "GB", "TB")


def stock_command(
    folder: Path | None, *, clear: Sequence[str] = (), console: Console | None = None
) -> None:
    """Print what a store holds, or delete some of it.

    Args:
        folder: The store, or the output folder that it lies in; None is ``outputs/store``.
        clear: What to delete: names as they are printed, or with wildcards (``images/*``,
            ``*cifar10*``), or a kind (``images``). Trained things are deleted only by patterns
            that begin with their kind. What another process is making or opening stays.
        console: Where to; by default standard output.

    Raises:
        ConfigError: There is no such folder, or nothing in it has such a name.
    """
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        place = _place(folder)
        if not place.is_dir():
            console.print(Text(f"there is no {place}: no run has kept anything here yet"))
        elif clear:
            _clear(place, _held(place), clear, console)
        else:
            _show(place, _held(place), console)
    finally:
        console.width = width


def entries(store: Path) -> list[Entry]:
    """Return what a store holds, sorted by kind and name; what is none of its entries is not."""
    found = _downloads(store)
    # An entry beside the kinds' folders has its kind in its name.
    for one in entries_in(store):
        kind, _, name = one.name.partition("-")
        found.append(dataclasses.replace(one, kind=kind, name=name))
    for folder in folders(store):
        if folder.name == "runs":
            runs = folders(folder)
            found += [entry_of("runs", run, finished=(run / RECORD).is_file()) for run in runs]
        elif not folder.name.startswith(".") and not (folder / SUMS).is_file():
            found += entries_in(folder)
    return sorted(found, key=lambda one: (one.kind, one.name))


def _downloads(store: Path) -> list[Entry]:
    """Return what broken connections have left, to be resumed."""
    files: dict[str, list[Path]] = {}
    for path in store.glob("*-*"):
        if (match := _DOWNLOAD.fullmatch(path.name)) and path.is_file():
            files.setdefault(match["key"], []).append(path)
    found = []
    for key, paths in files.items():
        kind, _, name = key.partition("-")
        with contextlib.suppress(FileNotFoundError):  # it has just come to its end
            stats = [path.stat() for path in paths]
            size, used = sum(s.st_size for s in stats), max(s.st_mtime for s in stats)
            guard = store / key
            found.append(Entry(kind, name, tuple(paths), guard, size, len(paths), used, False))
    return found


def _place(folder: Path | None) -> Path:
    if folder is None:
        return DEFAULT
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder; give a store, by default {DEFAULT}")
    return folder / "store" if (folder / "store").is_dir() else folder


def _held(place: Path) -> list[Entry]:
    # Beside comparisons, runs are results, and not what runs start from.
    results = (place / "comparisons").is_dir()
    return [entry for entry in entries(place) if not (results and entry.kind == "runs")]


def _show(place: Path, held: Sequence[Entry], console: Console) -> None:
    if not held:
        console.print(Text(f"{place} is empty"))
        return
    console.print(Text(f"what {place} keeps for later runs", style="bold"))
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("entry", overflow="fold")
    for heading in ("size", "files", "last used"):
        table.add_column(heading, justify="right", no_wrap=True)
    for _, group in groupby(held, key=lambda entry: entry.kind):
        for entry in sorted(group, key=lambda entry: -entry.used):
            used = _ago(entry.used) if entry.finished else "unfinished"
            row = (_short(entry), size(entry.bytes), f"{entry.files:,}", used)
            table.add_row(*map(Text, row))
        table.add_section()
    console.print(table)
    console.print(Text(f"in all {_sum(held)}"))
    largest = max(held, key=lambda entry: entry.bytes).kind
    advice = f"delete with: warmstart store {place} --clear '{largest}/*'"
    console.print(Text(advice, style="dim"))


def _clear(place: Path, held: Sequence[Entry], patterns: Sequence[str], console: Console) -> None:
    chosen = [entry for entry in held if any(_means(pattern, entry) for pattern in patterns)]
    for pattern in patterns:
        if not any(_means(pattern, entry) or _names(pattern, entry) for entry in held):
            raise ConfigError(
                f"nothing in {place} is called {pattern!r}; "
                + (f"it holds {_kinds(held)}" if held else "it is empty")
            )
    gone = [entry for entry in chosen if remove(entry)]
    for entry in gone:
        console.print(Text(f"deleted {label(entry)} ({size(entry.bytes)})"))
    for entry in chosen:
        if entry not in gone:
            console.print(Text(f"{label(entry)} stays: a process is at it", style="yellow"))
    for kind in TRAINED:
        spared = [e for e in held if e.kind == kind and e not in chosen and _any(patterns, e)]
        if spared:
            advice = f"{_sum(spared)} stay, since they were trained; "
            advice += f"--clear '{kind}/*' deletes them too"
            console.print(Text(advice, style="yellow"))
    console.print(Text(f"freed {_sum(gone)}" if gone else "nothing was deleted"))


def _means(pattern: str, entry: Entry) -> bool:
    """Return whether `pattern` asks for the deletion of `entry`."""
    by_kind = pattern.partition("/")[0] == entry.kind
    return _names(pattern, entry) and (by_kind or entry.kind not in TRAINED)


def _names(pattern: str, entry: Entry) -> bool:
    return fnmatch.fnmatchcase(label(entry), pattern) or pattern.rstrip("/") == entry.kind


def _any(patterns: Iterable[str], entry: Entry) -> bool:
    return any(_names(pattern, entry) for pattern in patterns)


def label(entry: Entry) -> str:
    """Return the name of an entry for people."""
    return f"{entry.kind}/{entry.name}"


def _short(entry: Entry) -> str:
    """Return the name, or a pattern for it where it ends with a long sum."""
    name = label(entry)
    sum_ = re.search(r"[0-9a-f]{64}$", name)
    return f"{name[: sum_.start() + _DIGITS]}*" if sum_ else name


def size(count: float) -> str:
    """Return bytes with three digits and a unit (powers of 1000)."""
    for unit in _UNITS[:-1]:
        if count < 999.5:  # or it would be rounded to 1e+03
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {_UNITS[-1]}"


def _sum(held: Sequence[Entry]) -> str:
    count = f"{len(held)} entr{'y' if len(held) == 1 else 'ies'}"
    return f"{size(sum(entry.bytes for entry in held))} in {count} ({_kinds(held)})"


def _kinds(held: Sequence[Entry]) -> str:
    ordered = sorted(held, key=lambda entry: entry.kind)
    return ", ".join(
        f"{kind} {size(sum(entry.bytes for entry in group))}"
        for kind, group in groupby(ordered, key=lambda entry: entry.kind)
    )


def _ago(moment: float) -> str:
    """Return how long ago a time was, in its largest unit."""
    seconds = max(0.0, time.time() - moment)
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        count = int(seconds // length)
        if count:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
