"""Files from the network, or from the folder of those who have none."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit

import torch

from warmstart import fetch
from warmstart.errors import ConfigError
from warmstart.store import once, sha256

FOLDER_VARIABLE = "WARMSTART_WEIGHTS"
ANSWER_SECONDS = fetch.ANSWER_SECONDS

Result = TypeVar("Result")


def offline_folder() -> Path | None:
    """Return the folder that ``WARMSTART_WEIGHTS`` names, or None where it is not set.

    Raises:
        ConfigError: There is no such folder.
    """
    value = os.environ.get(FOLDER_VARIABLE)
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"{FOLDER_VARIABLE} is {value!r}, but there is no such folder; "
            "make it and put weights files into it, or unset the variable"
        )
    return folder


def offline_file(names: Iterable[str]) -> Path | None:
    """Return the first of the files `names` (paths within the folder) that was put there."""
    folder = offline_folder()
    files = [folder / name for name in names] if folder else []
    return next((file for file in files if file.is_file()), None)


def file_name(url: str) -> str:
    """Return the last part of an address."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def hub_file(url: str) -> Path:
    """Return a published file whose name ends with the first digits of its SHA-256 sum.

    It is looked for in ``WARMSTART_WEIGHTS`` and in torch's hub folder, then fetched into the
    latter, once for however many processes ask.

    Raises:
        ConfigError: It is damaged, or neither at hand nor to be fetched.
    """
    name = file_name(url)
    digits = match[1] if (match := re.search(r"-([0-9a-f]{6,64})\.", name)) else ""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    found = offline_file([name])
    if not found and not path.is_file():
        _fetch(url, path, digits, f"{path.parent}")
    return verified(found or path, digits)


def url_file(url: str, digest: str, *, store: Path) -> Path:
    """Return the file at `url`, which has the SHA-256 sum `digest`, from the store.

    It is looked for in ``WARMSTART_WEIGHTS``, then fetched, once for however many processes ask.

    Raises:
        ConfigError: It has another sum, or is neither at hand nor to be fetched.
    """
    name = file_name(url)
    found = offline_file([name])
    if found:
        return verified(found, digest)

    def make(part: Path) -> None:
        whole = store / f"weights-{digest}-{name}"  # beside the entry, to be resumed
        _fetch(url, whole, digest)
        os.replace(whole, part / name)

    entry = once(store, f"weights-{digest}", make)
    # Another address of the same file may have given it another name.
    return next(file for file in entry.iterdir() if file.name != "SHA256SUMS")


def verified(path: Path, digits: str) -> Path:
    """Return `path`, whose SHA-256 sum begins with `digits`.

    Raises:
        ConfigError: It does not.
    """
    if not sha256(path).startswith(digits):
        raise ConfigError(
            f"{path} is damaged: its SHA-256 sum does not begin with {digits}; "
            "delete it and fetch it again"
        )
    return path


def within(call: Callable[[], Result]) -> Result:
    """Return what `call` returns, or raise TimeoutError after ``ANSWER_SECONDS``."""
    return fetch.within(call, ANSWER_SECONDS)


def unreachable(url: str, name: str, error: Exception, elsewhere: str = "") -> ConfigError:
    """Return the error for a file that cannot be fetched: which one, and where to put it.

    Args:
        url: Its full address.
        name: What it must be called in ``WARMSTART_WEIGHTS``.
        error: Why.
        elsewhere: Another folder in which it is found under the last part of its address.
    """
    folder = offline_folder()
    place = str(folder) if folder else f"a folder that the variable {FOLDER_VARIABLE} names"
    if elsewhere:
        place += f" or into {elsewhere}"
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
    return ConfigError(
        f"init.weights: {url} could not be fetched ({reason}); "
        f"fetch it on another machine and put it as {name} into {place}"
    )


def _fetch(url: str, path: Path, digits: str, elsewhere: str = "") -> None:
    try:
        fetch.fetch(url, path, digest=digits, seconds=ANSWER_SECONDS)
    except ConfigError as error:
        raise ConfigError(f"init.weights: {error}") from error
    except OSError as error:  # of the network, or a folder that others own
        if isinstance(error, HTTPError) and error.code in (404, 410):
            raise ConfigError(
                f"init.weights: {url} does not exist ({error}); check the address"
            ) from error
        if isinstance(error, PermissionError):
            elsewhere = ""
        raise unreachable(url, file_name(url), error, elsewhere) from error
