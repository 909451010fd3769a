"""``warmstart look``: the data of a run, before anything trains."""

from __future__ import annotations

import contextlib
import logging
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ConfigError

# Keys of a source that say which data it reads, the plainest first.
_NAMING = ("root", "file", "name", "train_file", "images")


def look_command(
    overrides: Sequence[str], *, config_dirs: Sequence[str] = (), out: Path | None = None
) -> Path:
    """Print what the data of a run are, write the page about them, and return its path.

    Args:
        overrides: As for ``warmstart train``.
        config_dirs: Folders with configs of the user's own.
        out: The page; by default ``OUT/looks/DATA.html``.

    Raises:
        ConfigError: The config is wrong, the source can list no images, or `out` cannot be written.
    """
    from warmstart.configs import compose
    from warmstart.look import page, terminal
    from warmstart.look.facts import facts, problems
    from warmstart.sight import view

    if out is not None:
        _check_place(out)
    config = compose(overrides, config_dirs=config_dirs)
    on_bad = config.data.get("on_bad")  # before it is taken for skip
    with _without_warnings():
        seen = view(config)
    found = facts(seen)
    sentences = problems(found, seen.dataset, on_bad=on_bad)
    title, name = _names(seen.config)
    path = out or Path(seen.config["out"]) / "looks" / f"{name}.html"
    terminal.show(seen, found, sentences, title=title)
    command = shlex.join(["warmstart", "look", *overrides])
    page.write(seen, found, sentences, title=title, command=command, path=path)
    print(f"page: {path}")
    return path


def _check_place(path: Path) -> None:
    """Refuse a page that could not be written once all images have been read."""
    if path.is_dir():
        raise ConfigError(f"--out is a folder, {path}; give a file, as {path / 'page.html'}")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ConfigError(
            f"--out is {path}, but nothing can be written in {folder} ({error.strerror}); "
            "give another file"
        ) from error


def _names(config: Mapping[str, Any]) -> tuple[str, str]:
    """Return what the data are called, and a name for a file about them."""
    choice, node = str(config["choices"]["data"]), config["data"]
    given = next((str(node[key]) for key in _NAMING if node.get(key)), "")
    # Of an address, without the file's sum.
    stem = Path(re.split(r"[?#]", given)[0]).stem
    file = re.sub(r"[^\w.-]+", "_", f"{choice}-{stem}" if stem else choice)
    return stem or choice, file


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep the log silent: what it says stands in the tables."""
    logger = logging.getLogger("warmstart")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
