"""A web server on this machine that can send the rest of a file, and can break off."""

import contextlib
import dataclasses
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class File:
    """What lies at a path.

    Attributes:
        content: Its bytes.
        version: The headers that name its version; none of them: it cannot be resumed.
        ranges: Whether a Range request gets the rest, rather than everything.
        careful: Whether it gets everything if it is about another version.
        breaks_after: Bytes of an answer after which the connection is closed; None: never.
        seconds_per_piece: Waited after every 1,000 bytes; 0: all at once.
        headers: More of them for every answer; they replace the true ones.
    """

    content: bytes = b""
    version: dict[str, str] = dataclasses.field(default_factory=lambda: {"ETag": '"1"'})
    ranges: bool = True
    careful: bool = True
    breaks_after: int | None = None
    seconds_per_piece: float = 0.0
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Server:
    """Attributes: its address, the files by path, and what was asked for: path, first byte."""

    url: str
    files: dict[str, File]
    asked: list[tuple[str, int]]


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if file := server.files.get(self.path):
                start = _start(file, self.headers.get("Range"), self.headers.get("If-Range"))
                server.asked.append((self.path, start))
                _answer(self, file, start)
            else:
                self.send_error(404)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        server = Server(f"http://127.0.0.1:{http.server_port}", {}, [])
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield server
        finally:
            http.shutdown()


def _start(file: File, wanted: str | None, version: str | None) -> int:
    """Return the first byte that is wanted, and that is to be had."""
    found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
    same = version in (None, *file.version.values()) or not file.careful
    return int(found[1]) if found and file.ranges and same else 0


def _answer(handler: BaseHTTPRequestHandler, file: File, start: int) -> None:
    total, rest = len(file.content), file.content[start:]
    headers = {"Content-Length": str(len(rest)), **file.version}
    if start:
        place = f"{start}-{total - 1}" if rest else "*"
        headers["Content-Range"] = f"bytes {place}/{total}"
    handler.send_response(200 if not start else 206 if rest else 416)
    for name, value in {**headers, **file.headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    sent = rest[: file.breaks_after]
    step = 1000 if file.seconds_per_piece else max(1, len(sent))
    with contextlib.suppress(ConnectionError):  # of those who were killed
        for place in range(0, len(sent), step):
            handler.wfile.write(sent[place : place + step])
            time.sleep(file.seconds_per_piece)
