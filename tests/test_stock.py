"""``warmstart store``: what it lists, what it deletes and what not."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from warmstart import ConfigError, stock, store
from warmstart.cli import main


def filling(count: int):
    return lambda part: (part / "data").write_bytes(bytes(count))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return ``outputs/store`` with one entry of each kind."""
    place = tmp_path / "outputs" / "store"
    store.once(place / "images", "digits-8", filling(2_500_000))
    store.once(place / "images", "photos-96", filling(500_000))
    store.once(place / "autoencoders", "abc-0", filling(400))
    store.once(place, "weights-123", filling(1000))
    run = place / "runs" / "0123"
    run.mkdir(parents=True)
    (run / "result.json").write_text("{}")
    return place


def shown(*arguments, **options) -> str:
    console = Console(file=io.StringIO(), width=40)
    stock.stock_command(*arguments, **options, console=console)
    return console.file.getvalue()


def names(place: Path) -> list[str]:
    return [stock.label(entry) for entry in stock.entries(place)]


ALL = ["autoencoders/abc-0", "images/digits-8", "images/photos-96", "runs/0123", "weights/123"]


def test_entries_are_of_a_kind(place: Path) -> None:
    before = time.time() - 60
    store.once(
        place / "archives", "photos", lambda part: (part / "deep" / "er").mkdir(parents=True)
    )
    (place / "notes").mkdir()
    (place / "notes" / "mine.txt").write_text("no entry")
    killed = place / "runs" / "4567"
    killed.mkdir()
    (killed / "last.ckpt").write_bytes(bytes(50))
    found = {stock.label(entry): entry for entry in stock.entries(place)}
    assert list(found) == sorted([*ALL, "archives/photos", "runs/4567"])
    assert {name for name, entry in found.items() if not entry.finished} == {"runs/4567"}
    assert (found["archives/photos"].files, found["archives/photos"].bytes) == (0, 0)
    assert (found["images/digits-8"].files, found["images/digits-8"].bytes) == (1, 2_500_000)
    assert (found["runs/4567"].files, found["runs/4567"].bytes) == (1, 50)
    assert (found["weights/123"].files, found["weights/123"].bytes) == (1, 1000)
    assert all(before <= entry.used <= time.time() for entry in found.values())


def test_broken_downloads_are_entries(place: Path) -> None:
    digest = "ab" * 32
    for end in ("net.pth.part", "net.pth.part.version", "net.pth.lock"):
        (place / f"weights-{digest}-{end}").write_bytes(bytes(10))
    entry = stock.entries(place)[-1]
    assert (stock.label(entry), entry.finished) == (f"weights/{digest}", False)
    assert (entry.files, entry.bytes) == (2, 20)
    with store.lock(place / f"weights-{digest}"):  # as its maker holds it
        assert "stays: a process is at it" in shown(place, clear=["weights/ab*"])
    assert "freed 20 bytes in 1 entry" in shown(place, clear=["weights/ab*"])
    assert [path.name for path in place.glob(f"weights-{digest}-*")] == [
        f"weights-{digest}-net.pth.lock"
    ]


def test_shows_every_entry_with_size_and_last_use(place: Path) -> None:
    hours_ago = time.time() - 3 * 3600 - 5
    os.utime(place / "images" / "digits-8", (hours_ago, hours_ago))
    text = shown(place)
    rows = [line.split() for line in text.splitlines()]
    assert ["images/digits-8", "2.5", "MB", "1", "3", "hours", "ago"] in rows
    assert ["weights/123", "1", "kB", "1", "just", "now"] in rows
    assert (
        "in all 3 MB in 5 entries (autoencoders 400 bytes, images 3 MB, runs 2 bytes, "
        "weights 1 kB)\n"
    ) in text
    # The last used comes first within its kind.
    assert text.index("photos-96") < text.index("digits-8")


def test_long_sums_are_shown_as_patterns_that_work(place: Path) -> None:
    (place / "runs" / f"{'0123456789abcdef' * 4}").mkdir()
    assert "runs/0123456789ab* " in shown(place)
    assert "deleted runs/0123456789abcdef" in shown(place, clear=["runs/0123456789ab*"])


def test_an_output_folder_means_its_store(place: Path) -> None:
    assert shown(place.parent) == shown(place)


def test_shows_what_a_killed_process_left(place: Path) -> None:
    part = place / "images" / ".cifar.abcdefgh.part"
    part.mkdir()
    (part / "half").write_bytes(bytes(7))
    rows = [line.split() for line in shown(place).splitlines()]
    assert ["images/cifar", "7", "bytes", "1", "unfinished"] in rows
    assert "deleted images/cifar (7 bytes)" in shown(place, clear=["images/cifar"])
    assert not part.exists()


@pytest.mark.parametrize(
    ("patterns", "left"),
    [
        (["images/*"], ["autoencoders/abc-0", "runs/0123", "weights/123"]),
        (["images"], ["autoencoders/abc-0", "runs/0123", "weights/123"]),
        (["images/digits-8"], [ALL[0], *ALL[2:]]),
        (["*photos*", "weights"], [*ALL[:2], ALL[3]]),
        (["*"], ["autoencoders/abc-0", "runs/0123"]),
        (["*", "runs/*"], ["autoencoders/abc-0"]),
        (["runs/01*"], [*ALL[:3], ALL[4]]),
        (["*", "runs", "autoencoders"], []),
    ],
)
def test_clears_what_the_patterns_name(place: Path, patterns: list[str], left: list[str]) -> None:
    assert names(place) == ALL
    shown(place, clear=patterns)
    assert names(place) == left


def test_says_what_was_freed_and_what_stays(place: Path) -> None:
    assert shown(place, clear=["*"]).splitlines() == [
        "deleted images/digits-8 (2.5 MB)",
        "deleted images/photos-96 (500 kB)",
        "deleted weights/123 (1 kB)",
        "400 bytes in 1 entry (autoencoders 400 bytes) stay, since they were trained; "
        "--clear 'autoencoders/*' deletes them too",
        "2 bytes in 1 entry (runs 2 bytes) stay, since they were trained; "
        "--clear 'runs/*' deletes them too",
        "freed 3 MB in 3 entries (images 3 MB, weights 1 kB)",
    ]


@pytest.mark.parametrize(
    "path", ["images/digits-8", "runs/0123", "weights-123"], ids=lambda path: path.partition("/")[0]
)
def test_what_a_process_is_at_stays(place: Path, path: str) -> None:
    with store.lock(place / path):
        text = shown(place, clear=["*", "runs"])
    assert f"{path.replace('weights-', 'weights/')} stays: a process is at it\n" in text
    assert (place / path).is_dir()


def test_a_name_that_nothing_has(place: Path) -> None:
    with pytest.raises(
        ConfigError,
        match=r"nothing in \S+store is called 'imges/\*'; it holds autoencoders 400 bytes, images",
    ):
        stock.stock_command(place, clear=["weights", "imges/*"])
    assert names(place) == ALL


def test_runs_beside_comparisons_are_results(tmp_path: Path) -> None:
    (tmp_path / "comparisons").mkdir()
    (tmp_path / "runs" / "0123").mkdir(parents=True)
    assert shown(tmp_path) == f"{tmp_path} is empty\n"
    with pytest.raises(ConfigError, match="is called 'runs'; it is empty"):
        stock.stock_command(tmp_path, clear=["runs"])
    assert (tmp_path / "runs" / "0123").is_dir()


def test_of_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none is not a folder; give a store, by default outputs"):
        stock.stock_command(tmp_path / "none")


def test_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = "there is no outputs/store: no run has kept anything here yet\n"
    assert shown(None) == sentence
    assert shown(None, clear=["*"]) == sentence
    store.once(tmp_path / "outputs" / "store" / "images", "digits", filling(3))
    assert "images/digits" in shown(None)


def test_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", str(place), "--clear", "images/*", "weights"]) == 0
    assert "freed 3 MB in 3 entries" in capsys.readouterr().out
    assert main(["store", str(place), "--clear", "nothing"]) == 2
    assert "is called 'nothing'; it holds" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1 kB"),
        (12_345_678, "12.3 MB"),
        (2e15, "2e+03 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert stock.size(count) == text
