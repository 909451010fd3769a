"""Files that a config names: whether they are there and count, and the text that they hold."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from warmstart.errors import ConfigError, nearest


def check_exists(key: str, path: Path, what: str) -> None:
    """Raise unless `path` exists; name the first missing part and what is like it."""
    if exists(path):
        return
    missing = path
    while not exists(missing.parent):
        missing = missing.parent
    if not missing.parent.is_dir():
        raise ConfigError(
            f"{key} is {str(path)!r}, but {str(missing.parent)!r} is a file and holds none; give "
            f"the path of {what}"
        )
    siblings = [beside.name for beside in missing.parent.iterdir()]
    raise ConfigError(
        f"{key} is {str(path)!r}, but {str(missing.parent)!r} has no {missing.name!r}"
        f"{nearest(missing.name, siblings) or f'; give the path of {what}'}"
    )


def check_file(key: str, path: Path, what: str) -> None:
    """Raise unless `path` is a file that can be read."""
    check_exists(key, path, what)
    if path.is_dir():
        raise ConfigError(f"{key} is {str(path)!r}, which is a folder, but must be {what}")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(
            f"{key} is {str(path)!r}, which cannot be read ({error.strerror}); allow it"
        ) from error


def read_text(key: str, path: str | Path) -> str:
    """Return the content of a text file in UTF-8, whose lines end with a line feed.

    Raises:
        ConfigError: There is no such file, or it cannot be read or is no text.
    """
    file = Path(path).expanduser()
    check_file(key, file, "a text file")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{key} is {str(path)!r}, which cannot be read as text in UTF-8 ({error}); save it so"
        ) from error


def read_lines(key: str, path: str | Path) -> list[str]:
    """Return the lines of a text file, without white space at their ends: see `read_text`."""
    # Not str.splitlines, which also breaks at characters that a path may hold.
    return [line.strip() for line in read_text(key, path).split("\n")]


def read_class_names(given: str | Path | Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the class names that a config lists, or that a file has line by line."""
    if given is None:
        return None
    if isinstance(given, Sequence) and not isinstance(given, str):
        return tuple(map(str, given))
    if not isinstance(given, str | Path):
        raise ConfigError(
            f"data.class_names is {given!r}, but must be a file with a name per line, or the names "
            "in a list"
        )
    lines = read_lines("data.class_names", given)
    while lines and not lines[-1]:
        lines.pop()
    return tuple(lines)


def exists(path: Path) -> bool:
    """Return whether there is such a file or folder."""
    try:
        return path.exists()
    except OSError:  # the name is too long
        return False


def is_visible(name: str) -> bool:
    """Return whether a file or folder is no hidden one, nor what macOS adds to archives."""
    return not name.startswith(".") and name != "__MACOSX"
