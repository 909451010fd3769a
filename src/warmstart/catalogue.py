"""``warmstart models``: the names of all models, and what some of them are."""

from __future__ import annotations

import difflib
import fnmatch
import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import yaml
from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.padding import Padding
from rich.progress import track
from rich.table import Table
from rich.text import Text

from warmstart import configs
from warmstart.errors import ConfigError, choose
from warmstart.models.libraries import INSTALL_TIMM, LIBRARIES, count, has_timm
from warmstart.results.terminal import UNLIMITED

# More are listed by their names alone: each takes a good part of a second.
MOST = 20
_WILDCARDS = re.compile(r"[*?\[]")

Name = tuple[str, str]  # library, name in it


def show(
    pattern: str | None = None, *, as_json: bool = False, console: Console | None = None
) -> None:
    """Print the models that `pattern` names; without one, all names in short.

    Args:
        pattern: A name, a part of names, or a glob, in any case, optionally after ``timm/``,
            ``torchvision/`` or ``warmstart/``. A name that is complete means that model alone.
        as_json: Print what ``rows`` returns.
        console: Where to; by default standard output.

    Raises:
        ConfigError: No model has such a name, its library is not installed, or the only model that
            is named has no classifier.
    """
    if as_json:
        print(json.dumps(rows(pattern), indent=2))
        return
    console = console or Console()
    width = console.width
    if not console.is_terminal:
        console.width = UNLIMITED
    try:
        if pattern is None:
            _overview(console)
        else:
            _matches(pattern, matching(pattern), console)
    finally:
        console.width = width


def rows(pattern: str | None = None) -> list[dict[str, Any]]:
    """Return the models that `pattern` names (see ``show``), one dict each.

    Always there are ``library``, ``name`` and ``use``, the overrides that choose the model; for at
    most 20 models also what ``models.libraries.count`` returns, or the ``problem`` that one has.

    Raises:
        ConfigError: As in ``show``.
    """
    found = _names() if pattern is None else matching(pattern)
    if len(found) <= MOST:
        return [_row(*name, alone=len(found) == 1) for name in found]
    return [_named(*name) for name in found]


def _row(library: str, name: str, *, alone: bool) -> dict[str, Any]:
    try:
        return _named(library, name) | count(LIBRARIES[library], name)
    except ConfigError as error:
        # timm has a few models without a classifier; the others are to be seen all the same.
        if alone:
            raise
        return _named(library, name) | {"problem": str(error)}


def _named(library: str, name: str) -> dict[str, Any]:
    return {"library": library, "name": name, "use": _use(library, name)}


def _use(library: str, name: str) -> str:
    """Return the overrides that choose a model, the shortest that there are."""
    if (library, name) in _configs():
        return f"model={_configs()[library, name]}"
    if library == "warmstart":
        return f"model=resnet20 model.depth={name.removeprefix('resnet')}"
    return f"model={library} model.name={name}"


@functools.cache
def _configs() -> dict[Name, str]:
    """Return which models have a config of their own, and its name."""
    found = {}
    for path in sorted((configs.folder() / "model").glob("*.yaml")):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        library = content["_target_"].split(".")[-2]
        if library not in LIBRARIES:
            found["warmstart", path.stem] = path.stem
        elif path.stem != library:  # which is the config for all others
            found[library, content["name"]] = path.stem
    return found


def _names() -> list[Name]:
    return [(key, name) for key, library in LIBRARIES.items() for name in library.names()]


def matching(pattern: str) -> list[Name]:
    """Return the models that are named exactly so, or else those whose name holds `pattern`."""
    library, slash, rest = pattern.lower().rpartition("/")
    if slash and library not in LIBRARIES:
        raise choose(f"the library of the pattern {pattern!r}", library, LIBRARIES)
    if library == "timm" and not has_timm():
        raise ConfigError(f"{pattern!r} needs timm, which is not installed; {INSTALL_TIMM}")
    names = [name for name in _names() if not slash or name[0] == library]
    found = [name for name in names if name[1].lower() == rest] or _holding(rest, names)
    if not found:
        bare = sorted({name for _, name in names})
        close = difflib.get_close_matches(_WILDCARDS.sub("", rest), bare, n=3, cutoff=0.5)
        hint = f"the nearest are {', '.join(close)}" if close else "`warmstart models` lists all"
        raise ConfigError(f"no model has a name like {pattern!r}; {hint}")
    return found


def _holding(pattern: str, names: Iterable[Name]) -> list[Name]:
    glob = pattern if _WILDCARDS.search(pattern) else f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatchcase(name[1].lower(), glob)]


def _overview(console: Console) -> None:
    for key, library in LIBRARIES.items():
        names = library.names()
        if key == "timm" and not has_timm():
            console.print(Text(f"timm: not installed; {INSTALL_TIMM}", style="bold"))
        elif key == "timm":
            console.print(Text(f"timm: {len(names):,} models; names begin with", style="bold"))
            _list(console, (f"{start}:{n}" for start, n in _beginnings(names)))
        else:
            console.print(Text(f"{key}: {len(names)} models", style="bold"))
            _list(console, names)
    console.print()
    for sentence in (
        f"model=NAME goes for {', '.join(sorted(_configs().values()))}.",
        "Others: model=torchvision model.name=NAME, model=timm model.name=NAME, "
        "model=resnet20 model.depth=N (any 6n + 2).",
        "More about some of them: warmstart models resnet50, warmstart models 'timm/vit_base*'",
    ):
        console.print(Text(sentence))


def _beginnings(names: Iterable[str]) -> list[tuple[str, int]]:
    """Return with which letters at least five names begin, and how many, the most first."""
    letters = Counter(re.split(r"[^a-z]", name)[0] for name in names)
    return [(start, n) for start, n in letters.most_common() if n >= 5]


def _matches(pattern: str, found: Sequence[Name], console: Console) -> None:
    if len(found) > MOST:
        _many(found, console)
        return
    progress = Console(stderr=True)
    quiet = len(found) < 4 or not progress.is_terminal
    details = [
        _row(*name, alone=len(found) == 1)
        for name in track(found, "counting", console=progress, transient=True, disable=quiet)
    ]
    counted = [row for row in details if "problem" not in row]
    if counted:
        console.print(_table(counted))
        console.print(Text(_caption(counted), style="dim"))
    for row in counted:
        _below(row, console, groups=len(counted) < 4)
    for row in details:
        if "problem" in row:
            console.print(Text(f"{row['library']}/{row['name']}: {row['problem']}", style="yellow"))
    library, slash, rest = pattern.rpartition("/")
    names = [name for name in _names() if not slash or name[0] == library.lower()]
    more = len(_holding(rest.lower(), names)) - len(found)
    if more > 0:
        wider = f"{library}{slash}*{rest}*"
        console.print(Text(f"more names hold it ({more}): warmstart models '{wider}'", style="dim"))


def _many(found: Sequence[Name], console: Console) -> None:
    names = [f"{library}/{name}" for library, name in found]
    if console.is_terminal:
        console.print(Columns([Text(name) for name in names], padding=(0, 2)))
    else:
        console.print(Text("\n".join(names)))
    advice = f"{len(names)} models; for at most {MOST} more is shown: narrow the pattern"
    console.print(Text(advice, style="dim"))


def _table(details: Sequence[dict[str, Any]]) -> Table:
    mixed = len({row["library"] for row in details}) > 1
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "model": lambda row: f"{row['library']}/{row['name']}" if mixed else row["name"],
        "params (M)": lambda row: _millions(row["parameters"]),
        "aux. (M)": lambda row: _millions(row["auxiliary_parameters"]),
        "input": lambda row: str(row["size"] or "any"),
        "GFLOPs": lambda row: f"{row['multiply_adds'] / 1e9:.3g}",
        "groups": lambda row: "/".join(str(len(names)) for names in row["groups"].values()),
    }
    if not any(row["auxiliary_parameters"] for row in details):
        del columns["aux. (M)"]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in columns:
        table.add_column(
            heading, justify="left" if heading == "model" else "right", overflow="fold"
        )
    for row in details:
        table.add_row(*(Text(label(row)) for label in columns.values()))
    return table


def _caption(details: Sequence[dict[str, Any]]) -> str:
    classes = " and ".join(str(n) for n in sorted({row["classes"] for row in details}))
    small = sorted({row["counted_at"] for row in details if not row["size"]})
    at = f", where any input goes at {small[0]} pixels" if small else ""
    aux = (
        "; aux.: heads for training only" if any(r["auxiliary_parameters"] for r in details) else ""
    )
    return f"with {classes} classes; GFLOPs: 1e9 multiply-adds{at}; groups: stage/block{aux}"


def _millions(number: int) -> str:
    return f"{number / 1e6:.{1 if number >= 1e6 else 3}f}" if number else "-"


def _below(row: dict[str, Any], console: Console, *, groups: bool) -> None:
    """Print what is too long for a column: how to choose the model, its weights, its groups."""
    console.print(Text(f"{row['library']}/{row['name']}: {row['use']}"))
    if row["weights"]:
        _list(console, row["weights"], "init.weights: ")
    for level, names in row["groups"].items() if groups else ():
        what = "group" if len(names) == 1 else "groups"
        _list(console, names, f"{len(names)} {what} at model.granularity={level}: ")


def _list(console: Console, words: Iterable[str], start: str = "") -> None:
    console.print(Padding(Text(start + ", ".join(words)), (0, 0, 0, 2), expand=False))
