"""Files from the network: resumed where they broke off, never half under their final name."""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from warmstart.errors import ConfigError
from warmstart.store import lock, sha256

ANSWER_SECONDS = 10.0  # for a server's first answer, and between two pieces of a file

_PIECE = 1 << 16  # bytes
_BAR_AFTER_SECONDS = 2.0

Result = TypeVar("Result")


def fetch(url: str, path: Path, *, digest: str = "", seconds: float = ANSWER_SECONDS) -> None:
    """Fetch the file at `url` to `path`, unless it is there, once for however many processes ask.

    It grows as ``NAME.part`` beside `path`. What a broken connection or a killed process leaves is
    kept if the server names the file's version (an ETag, or a time of change), and the next call
    asks for the rest of that version alone (RFC 9110, sections 13.1.5 and 14.2). A server that
    cannot do this, or has another version by then, sends the whole file again.

    Args:
        url: Its address: http, https or file.
        path: Where it goes.
        digest: The first digits of its SHA-256 sum, or all; the empty string checks nothing.
        seconds: For the first answer, and between two pieces of the file.

    Raises:
        ConfigError: It has another sum; nothing is kept.
        OSError: It could not be fetched.
    """
    with lock(path):
        if path.is_file():
            return
        part, version = (path.with_name(f"{path.name}.part{end}") for end in ("", ".version"))
        try:
            _receive(url, part, version, seconds)
        except HTTPException as error:
            raise OSError(f"the connection broke: {error!r}") from error
        version.unlink(missing_ok=True)
        received = sha256(part) if digest else ""
        if not received.startswith(digest):
            part.unlink()
            raise ConfigError(
                f"{url} has the SHA-256 sum {received}, but {digest} was expected; "
                "check the address and the sum"
            )
        os.replace(part, path)


def within(call: Callable[[], Result], seconds: float) -> Result:
    """Return what `call` returns, or raise TimeoutError after that many `seconds`.

    A socket's own time limit holds for each of a host's addresses anew, and not for finding them.
    """
    answers: queue.SimpleQueue[tuple[Result | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except Exception as error:
            answers.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} seconds") from None
    if error:
        raise error
    return result  # type: ignore[return-value]


@contextmanager
def bytes_bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Give a function that counts bytes on a progress bar, shown on a terminal if it takes long."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, start = bar.add_task(title, total=total), time.monotonic()

    def advance(count: int) -> None:
        bar.advance(task, count)
        slow = time.monotonic() - start > _BAR_AFTER_SECONDS
        if slow and not bar.live.is_started and sys.stderr.isatty():
            bar.start()

    try:
        yield advance
    finally:
        if bar.live.is_started:
            bar.stop()


def _receive(url: str, part: Path, version: Path, seconds: float) -> None:
    """Fill `part`, from where it ends if it is a part of the same version of the file."""
    known = version.read_text() if version.is_file() else ""
    begun = part.stat().st_size if known and part.is_file() else 0
    rest = {"Range": f"bytes={begun}-", "If-Range": known} if begun else {}
    request = Request(url, headers={"User-Agent": "warmstart", **rest})
    try:
        answer = within(lambda: urlopen(request, timeout=seconds), seconds)
    except HTTPError as error:
        if not begun or error.code != 416:  # nothing comes after what is there
            raise
        whole = error.headers.get("Content-Range") == f"bytes */{begun}"
    else:
        with answer:
            whole = answer.status != 206 or _continues(answer, begun, known)
            if whole:
                _write(answer, part, version, begun if answer.status == 206 else 0)
    if not whole:  # and the part is of no use
        part.unlink()
        _receive(url, part, version, seconds)


def _continues(answer: Any, begun: int, known: str) -> bool:
    """Return whether a part of a file is the rest of its version `known`."""
    start = answer.headers.get("Content-Range", "").partition("-")[0]
    return start == f"bytes {begun}" and _version(answer.headers) in ("", known)


def _version(headers: Any) -> str:
    """Return what a server calls this version of a file: a strong ETag or its time of change."""
    tag: str = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


def _write(answer: Any, part: Path, version: Path, begun: int) -> None:
    announced = answer.headers.get("Content-Length")
    total = begun + int(announced) if announced else None
    received, found = begun, _version(answer.headers)
    with part.open("ab" if begun else "wb") as file:
        if not begun:
            version.write_text(found)
        try:
            with bytes_bar(f"Fetching {part.stem}", total) as advance:
                advance(begun)
                while piece := answer.read1(_PIECE):
                    file.write(piece)
                    received += len(piece)
                    advance(len(piece))
            if total is not None and received != total:
                raise OSError(f"the connection ended after {received} of {total} bytes")
            file.flush()
            os.fsync(file.fileno())
        except (OSError, HTTPException):
            if not version.read_text():
                part.unlink()
                version.unlink()
            raise
