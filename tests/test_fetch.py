"""Downloads: whole or not at all, and resumed where they broke off."""

import hashlib
import io
import multiprocessing
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from urllib.error import HTTPError, URLError

import pytest
from web import File, serve

from warmstart import fetch as module
from warmstart.errors import ConfigError
from warmstart.fetch import fetch

CONTENT = random.Random(0).randbytes(40_000)
SUM = hashlib.sha256(CONTENT).hexdigest()
OTHER = random.Random(1).randbytes(50_000)


@pytest.fixture
def server():
    with serve() as running:
        running.files["/file.bin"] = File(CONTENT)
        yield running


@pytest.fixture
def file(server):
    return server.files["/file.bin"]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "file.bin"


@pytest.fixture
def get(server, path):
    def get(**arguments):
        fetch(f"{server.url}/file.bin", path, **arguments)
        return path.read_bytes()

    return get


def left(path):
    return sorted(file.name for file in path.parent.iterdir() if file.suffix != ".lock")


def breaks(get, file, after):
    """Let the connection break, once."""
    file.breaks_after = after
    with pytest.raises(OSError, match="the connection ended after"):
        get()
    file.breaks_after = None


def firsts(server):
    """Return the first byte of each request."""
    return [start for _, start in server.asked]


def test_a_file_is_fetched_once(get, path, server):
    assert get(digest=SUM) == CONTENT
    assert get(digest=SUM) == CONTENT
    assert firsts(server) == [0]
    assert left(path) == ["file.bin"]


def test_eight_that_ask_at_once_fetch_once(get, file, server):
    file.seconds_per_piece = 0.002
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(get) for _ in range(8)]:
            assert done.result() == CONTENT
    assert firsts(server) == [0]


def test_a_broken_download_is_resumed(get, file, path, server):
    breaks(get, file, 15_000)
    assert left(path) == ["file.bin.part", "file.bin.part.version"]
    file.breaks_after = 10_000
    with pytest.raises(OSError, match="the connection ended after 25000 of 40000 bytes"):
        get()
    file.breaks_after = None
    assert get(digest=SUM[:8]) == CONTENT
    assert firsts(server) == [0, 15_000, 25_000]
    assert left(path) == ["file.bin"]


def test_a_killed_download_is_resumed(get, file, path, server):
    file.seconds_per_piece = 0.05  # 2 seconds for all of it
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=fetch, args=(f"{server.url}/file.bin", path))
    process.start()
    part = path.with_name("file.bin.part")
    while not (part.is_file() and part.stat().st_size):
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -9
    assert not path.exists()
    begun = part.stat().st_size
    file.seconds_per_piece = 0
    assert get(digest=SUM) == CONTENT
    assert 0 < begun < len(CONTENT)
    assert firsts(server) == [0, begun]


@pytest.mark.parametrize(
    "version",
    [
        {"ETag": '"abc"'},
        {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
        {"ETag": 'W/"weak"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"},
    ],
)
def test_a_version_may_be_a_tag_or_a_time(get, file, server, version):
    file.version = version
    breaks(get, file, 15_000)
    assert get() == CONTENT
    assert firsts(server) == [0, 15_000]


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"weak"'}])
def test_a_file_without_a_version_is_fetched_anew(get, file, path, server, version):
    file.version = version
    breaks(get, file, 15_000)
    assert left(path) == []
    assert get() == CONTENT
    assert firsts(server) == [0, 0]


def test_a_server_that_sends_no_rest_sends_everything(get, file, server):
    breaks(get, file, 15_000)
    file.ranges = False
    assert get() == CONTENT
    assert firsts(server) == [0, 0]


@pytest.mark.parametrize("careful", [True, False])
def test_another_version_is_not_appended(get, file, path, server, careful):
    breaks(get, file, 15_000)
    server.files["/file.bin"] = File(OTHER, version={"ETag": '"2"'}, careful=careful)
    assert get() == OTHER
    assert firsts(server) == ([0, 0] if careful else [0, 15_000, 0])
    assert left(path) == ["file.bin"]


def test_the_second_break_is_of_the_new_version(get, file, server):
    breaks(get, file, 15_000)
    other = server.files["/file.bin"] = File(OTHER, version={"ETag": '"2"'})
    breaks(get, other, 20_000)
    assert get() == OTHER
    assert firsts(server) == [0, 0, 20_000]


@pytest.mark.parametrize("size", [len(CONTENT), 60_000])
def test_a_part_that_is_whole_is_taken_and_one_that_is_longer_is_not(get, file, path, server, size):
    """Killed between the last byte and the final name; or something is wrong with the part."""
    breaks(get, file, 15_000)
    path.with_name("file.bin.part").write_bytes((CONTENT + OTHER)[:size])
    assert get() == CONTENT
    assert firsts(server) == [0, size] + ([0] if size > len(CONTENT) else [])


def test_a_part_that_was_damaged_is_found_by_the_sum(get, file, path):
    breaks(get, file, 15_000)
    path.with_name("file.bin.part").write_bytes(bytes(15_000))
    with pytest.raises(ConfigError, match=rf"file\.bin has the SHA-256 sum .*, but {SUM} was exp"):
        get(digest=SUM)
    assert left(path) == []
    assert get(digest=SUM) == CONTENT


def test_another_sum_is_refused(get, path):
    with pytest.raises(ConfigError, match=rf"has the SHA-256 sum {SUM}, but abc was expected"):
        get(digest="abc")
    assert left(path) == []


def test_what_the_network_does_is_an_os_error(get, file, path, server):
    file.headers = {"Transfer-Encoding": "chunked"}
    file.content = b"a\r\n0123"  # a piece of ten bytes that has four
    with pytest.raises(OSError, match="the connection broke: IncompleteRead") as caught:
        get()
    assert isinstance(caught.value.__cause__, HTTPException)
    del server.files["/file.bin"]
    with pytest.raises(HTTPError, match="404"):
        get()
    with pytest.raises(URLError, match="refused"):
        fetch("http://127.0.0.1:1/file.bin", path)
    assert not path.exists()


def test_a_server_that_falls_silent_is_given_up(get, file):
    file.seconds_per_piece = 5
    with pytest.raises(TimeoutError):
        get(seconds=0.2)


def test_a_local_address_works_too(tmp_path, path):
    (tmp_path / "local.bin").write_bytes(CONTENT)
    fetch((tmp_path / "local.bin").as_uri(), path, digest=SUM)
    assert path.read_bytes() == CONTENT


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("kind", "after", "shown"), [(Terminal, 0, 1), (Terminal, 9, 0), (io.StringIO, 0, 0)]
)
def test_a_bar_is_shown_on_a_terminal_when_it_takes_long(
    get, file, monkeypatch, kind, after, shown
):
    monkeypatch.setattr(sys, "stderr", kind())
    monkeypatch.setattr(module, "_BAR_AFTER_SECONDS", after)
    monkeypatch.setenv("TERM", "xterm")
    get()
    assert ("Fetching file.bin" in sys.stderr.getvalue()) == bool(shown)
    assert shown or not sys.stderr.getvalue()
