"""A web server on this machine that counts what it is asked for."""

import collections
import contextlib
import dataclasses
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass
class Page:
    """What lies at a path.

    Attributes:
        content: The file.
        status: Of the answer.
        headers: More of them; a Content-Length here replaces the true one.
        delay_seconds: Before the answer.
    """

    content: bytes = b""
    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    delay_seconds: float = 0.0


@dataclasses.dataclass
class Server:
    """Attributes: its address, the pages by path, and the number of times each was fetched."""

    url: str
    pages: dict[str, Page]
    missing: Page
    fetched: collections.Counter[str]


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Run a server until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = self.answer()
            server.fetched[self.path] += 1
            with contextlib.suppress(ConnectionError):  # of those who have stopped waiting
                self.wfile.write(page.content)

        def do_HEAD(self) -> None:
            self.answer()

        def answer(self) -> Page:
            page = server.pages.get(self.path, server.missing)
            time.sleep(page.delay_seconds)
            self.send_response(page.status)
            for name, value in {"Content-Length": str(len(page.content)), **page.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            return page

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        http.block_on_close = False
        url = f"http://127.0.0.1:{http.server_port}"
        server = Server(url, {}, Page(status=404), collections.Counter())
        threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02}).start()
        try:
            yield server
        finally:
            http.shutdown()
