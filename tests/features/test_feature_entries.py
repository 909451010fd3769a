"""Features in the store: computed once, whoever is killed, whatever is damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from warmstart import ConfigError, stock, store
from warmstart.features import entries, forms
from warmstart.features.forms import Form

GIB = 2**30
FORK = multiprocessing.get_context("fork")


def value(rows, shape=(4,)):
    """Return features of rows that tell which row and place they are of."""
    places = torch.arange(int(np.prod(shape))).reshape(shape) / 8
    return torch.from_numpy(rows).float().reshape(-1, *[1] * len(shape)) + places


class Source:
    """Computes features batch by batch, and notes which rows it was asked for."""

    def __init__(self, shape=(4,), *, batch=2):
        self.shape, self.batch = shape, batch
        self.rows = []

    def __call__(self, rows):
        for start in range(0, len(rows), self.batch):
            self.rows += rows[start : start + self.batch].tolist()
            yield value(rows[start : start + self.batch], self.shape)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store" / "features"


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of four rows of four float32 numbers."""
    monkeypatch.setattr(forms, "_SHARD_BYTES", 4 * 4 * 4)


def ask(folder, compute=None, *, key="key", count=10, shape=(4,), dtype=torch.float32, **keys):
    keys = {"limit": GIB, "title": "features of the test", "batch": 2, **keys}
    compute = compute or Source(shape, batch=keys["batch"])
    return entries.stored(
        folder, key, count=count, shape=shape, dtype=dtype, compute=compute, **keys
    )


def held(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.usefixtures("small_shards")
class TestStored:
    def test_what_was_computed_comes_back_by_row(self, folder):
        features = ask(folder)
        assert features.shape == (10, 4)
        assert len(features) == 10
        rows = np.array([9, 0, 4, 4, 3])
        assert torch.equal(features[rows], value(rows))
        assert features[rows[:0]].shape == (0, 4)
        assert torch.equal(torch.cat(list(features.blocks(3))), value(np.arange(10)))

    def test_what_comes_back_can_be_written_to(self, folder):
        features, rows = ask(folder), np.arange(4)
        features[rows].zero_()
        assert torch.equal(features[rows], value(rows))

    @pytest.mark.parametrize("rows", [[0, 10], [-1, 5]])
    def test_a_row_that_there_is_not(self, folder, rows):
        with pytest.raises(IndexError, match="of 10 are asked for"):
            ask(folder)[np.array(rows)]

    def test_a_second_asking_computes_nothing(self, folder):
        first, second = Source(), Source()
        ask(folder, first)
        assert first.rows == list(range(10))
        assert held(folder) == ["key-00000", "key-00001", "key-00002"]
        assert torch.equal(ask(folder, second)[np.arange(10)], value(np.arange(10)))
        assert second.rows == []

    def test_of_no_images(self, folder):
        features = ask(folder, count=0)
        assert features.shape == (0, 4)
        assert features[np.arange(0)].shape == (0, 4)

    def test_what_fails_goes_on_with_its_shard(self, folder):
        def fail(rows):
            yield from Source()(rows[:2])
            if rows[0] == 4:
                raise RuntimeError("the light went out")
            yield from Source()(rows[2:])

        with pytest.raises(RuntimeError, match="the light went out"):
            ask(folder, fail)
        assert held(folder) == ["key-00000"]
        rest = Source()
        ask(folder, rest)
        assert rest.rows == [4, 5, 6, 7, 8, 9]

    def test_progress_counts_rows_that_were_there_before_too(self, folder):
        told = []
        ask(folder, progress=lambda done, count: told.append((done, count)))
        assert told == [(2, 10), (4, 10), (6, 10), (8, 10), (10, 10)]
        told.clear()
        ask(folder, progress=lambda done, count: told.append((done, count)))
        assert told == [(4, 10), (8, 10), (10, 10)]

    def test_a_stop_keeps_the_shards_that_are_done(self, folder):
        def stop(done, count):
            if done == 6:
                raise InterruptedError

        with pytest.raises(InterruptedError):
            ask(folder, progress=stop)
        assert held(folder) == ["key-00000"]

    @pytest.mark.parametrize(
        ("compute", "message"),
        [
            (lambda rows: iter([value(rows, (5,))]), r"features are \(5,\), not \(4,\)"),
            (lambda rows: iter([value(rows[1:])]), "3 rows were computed, not 4"),
        ],
        ids=["shape", "count"],
    )
    def test_features_that_do_not_fit_leave_no_entry(self, folder, compute, message):
        with pytest.raises(ValueError, match=message):
            ask(folder, compute)
        assert held(folder) == []


@pytest.mark.parametrize(
    ("dtype", "read"),
    [
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("shape", [(3,), (2, 3, 5)])
def test_numbers_are_rounded_once(folder, dtype, read, shape):
    exact = torch.randn(6, *shape, generator=torch.Generator().manual_seed(0))
    features = ask(
        folder, lambda rows: iter([exact[rows]]), count=6, shape=shape, dtype=dtype, batch=6
    )
    found = features[np.arange(6)]
    assert features.dtype is dtype
    assert found.dtype is read
    assert torch.equal(found, exact.to(dtype).to(read))
    size = (folder / "key-00000" / "features.bin").stat().st_size
    assert size == exact.numel() * dtype.itemsize


def test_a_number_beyond_float16_is_refused(folder):
    with pytest.raises(
        ConfigError,
        match=r"a value of features of the test is 7e\+04.*ends at 65504.*dtype=float32",
    ):
        ask(folder, lambda rows: iter([value(rows) + 70_000]), dtype=torch.float16)
    assert held(folder) == []
    infinite = ask(folder, lambda rows: iter([value(rows) / 0]), dtype=torch.float16)
    assert infinite[np.array([3])].isinf().all()  # as the model has put out


@settings(max_examples=20)
@given(
    count=st.integers(0, 60),
    batch=st.integers(1, 7),
    widths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    shard_bytes=st.integers(1, 2000),
)
def test_several_forms_share_one_pass(tmp_path_factory, count, batch, widths, shard_bytes):
    """Every row is computed once, in batches that do not hang on the shards, for all forms."""
    folder = tmp_path_factory.mktemp("store")
    kinds = [Form(f"key{number}", (width,), torch.float32) for number, width in enumerate(widths)]
    seen = []

    def compute(rows, wanted):
        assert rows[0] % batch == 0
        assert sorted(wanted) == list(range(len(kinds)))
        for start in range(0, len(rows), batch):
            part = rows[start : start + batch]
            seen.append(part.tolist())
            yield [value(part, kinds[number].shape) for number in wanted]

    options = {"count": count, "compute": compute, "limit": GIB, "title": "T", "batch": batch}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "_SHARD_BYTES", shard_bytes)
        found = entries.stored_all(folder, kinds, **options)
        assert [len(rows) for rows in seen[:-1]] == [batch] * (len(seen) - 1)
        entries.stored_all(folder, kinds[::-1], **options)
    assert [row for part in seen for row in part] == list(range(count))
    rows = np.random.default_rng(0).permutation(count)
    for features, kind in zip(found, kinds, strict=True):
        assert torch.equal(features[rows], value(rows, kind.shape))


@given(rows=st.integers(1, 2**22), batch=st.integers(1, 256))
def test_a_shard_is_at_most_256_mib_and_shards_nest(rows, batch):
    form, other = Form("a", (rows,), torch.float16), Form("b", (3,), torch.float32)
    size = form.shard_rows(batch)
    assert size == batch or size * form.row_bytes <= 256 * 2**20
    assert size * 2 * form.row_bytes > 256 * 2**20
    assert size % batch == 0
    least, most = sorted([size, other.shard_rows(batch)])
    assert most % least == 0


@pytest.mark.usefixtures("small_shards")
def test_one_form_is_made_where_the_other_is_there(folder):
    kinds = [Form("wide", (8,), torch.float32), Form("thin", (2,), torch.float32)]
    asked = []

    def compute(rows, wanted):
        asked.append((rows.tolist(), list(wanted)))
        yield [value(rows, kinds[number].shape) for number in wanted]

    options = {"count": 8, "compute": compute, "limit": GIB, "title": "T", "batch": 2}
    entries.stored_all(folder, kinds[:1], **options)
    assert {tuple(wanted) for _, wanted in asked} == {(0,)}
    asked.clear()
    wide, thin = entries.stored_all(folder, kinds, **options)
    assert {tuple(wanted) for _, wanted in asked} == {(1,)}
    assert torch.equal(wide[np.arange(8)], value(np.arange(8), (8,)))
    assert torch.equal(thin[np.arange(8)], value(np.arange(8), (2,)))


def test_forms_of_one_key_are_one_entry(folder):
    kind = Form("key", (3,), torch.float32)
    seen = []

    def compute(rows, wanted):
        seen.append(list(wanted))
        yield [value(rows, (3,)) for _ in wanted]

    found = entries.stored_all(
        folder, [kind, kind], count=4, compute=compute, limit=GIB, title="T", batch=4
    )
    assert seen == [[0]]
    assert all(torch.equal(features[np.arange(4)], value(np.arange(4), (3,))) for features in found)


def truncate(path):
    with (path / "features.bin").open("r+b") as file:
        file.truncate(60)


def flip(path):
    data = bytearray((path / "features.bin").read_bytes())
    data[17] ^= 1
    (path / "features.bin").write_bytes(data)


def lose(path):
    (path / "features.bin").unlink()


def half(path):
    (path / "SHA256SUMS").unlink()


def age(path):
    """Turn it into what another version has written, whose sums are right."""
    part = path.with_name("other")
    store.once(part.parent, part.name, lambda new: _copy(path, new))
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    part.rename(path)


def _copy(path, new):
    meta = json.loads((path / "meta.json").read_text())
    (new / "meta.json").write_text(json.dumps({**meta, "version": 0}))
    (new / "features.bin").write_bytes((path / "features.bin").read_bytes())


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, "is damaged"),
        (flip, "is damaged"),
        (lose, "is damaged"),
        (half, "is damaged"),
        (age, "was made by another version"),
    ],
)
def test_a_damaged_shard_is_named_and_made_again_alone(folder, caplog, damage, words):
    ask(folder)
    assert caplog.text == ""
    damage(folder / "key-00001")
    again = Source()
    assert torch.equal(ask(folder, again)[np.arange(10)], value(np.arange(10)))
    assert again.rows == [4, 5, 6, 7]
    assert f"features/key-00001 {words}: it is made again" in caplog.text
    caplog.clear()
    ask(folder, again)
    assert again.rows == [4, 5, 6, 7]
    assert caplog.text == ""


@pytest.mark.parametrize("reserved", [True, False], ids=["before", "while writing"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(folder, monkeypatch, reserved):
    if not reserved:
        monkeypatch.delattr(os, "posix_fallocate")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
    try:
        with pytest.raises(
            ConfigError, match=r"^the disk of .* no room for features of the test \("
        ):
            ask(folder, count=2**17, batch=2**10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert held(folder) == []


@pytest.mark.usefixtures("small_shards")
class TestLimit:
    def test_old_entries_go_and_own_shards_stay(self, folder):
        ask(folder, key="old", count=8)
        ask(folder, key="mine", count=8)
        for name in held(folder):
            os.utime(folder / name, (1, 1) if name == "mine-00000" else (2, 2))
        bytes_of_entry = 64 + len((folder / "old-00000" / "meta.json").read_bytes())
        ask(folder, key="mine", count=12, limit=4 * bytes_of_entry)
        assert held(folder) == ["mine-00000", "mine-00001", "mine-00002", "old-00001"]

    def test_what_can_never_fit_is_refused(self, folder):
        with pytest.raises(
            ConfigError,
            match=r"^features of the test take .*allows no more; give features.gib=1, or",
        ):
            ask(folder, count=8, limit=127)
        assert not folder.exists()

    def test_what_was_trimmed_can_still_be_read(self, folder):
        features = ask(folder)
        store.trim(folder, limit=0)
        assert held(folder) == []
        assert torch.equal(features[np.arange(10)], value(np.arange(10)))


def test_the_store_command_shows_and_clears_them(folder):
    ask(folder, key="a" * 64)
    console = Console(file=(folder.parent / "shown").open("w+"), width=200)
    stock.stock_command(folder.parent, console=console)
    stock.stock_command(folder.parent, clear=["features"], console=console)
    console.file.flush()
    assert re.search(r"features\W+a{64}-00000", (folder.parent / "shown").read_text())
    assert held(folder) == []


def _ask_slowly(folder, log, pause):
    def compute(rows):
        with log.open("a") as file:
            file.write(f"{rows[0]}\n")
        time.sleep(pause if rows[0] == 4 else 0)
        yield value(rows)

    assert torch.equal(ask(folder, compute)[np.arange(10)], value(np.arange(10)))


def _computed(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.usefixtures("small_shards")
def test_of_several_processes_one_computes(folder, tmp_path):
    log = tmp_path / "log"
    processes = [FORK.Process(target=_ask_slowly, args=(folder, log, 0.1)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert sorted(_computed(log)) == ["0", "4", "8"]
    assert held(folder) == ["key-00000", "key-00001", "key-00002"]


@pytest.mark.usefixtures("small_shards")
def test_who_is_killed_goes_on_with_its_shard(folder, tmp_path):
    log = tmp_path / "log"
    process = FORK.Process(target=_ask_slowly, args=(folder, log, 600))
    process.start()
    deadline = time.monotonic() + 60
    while _computed(log) != ["0", "4"]:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.join(timeout=60)
    assert (folder / "key-00000").is_dir()
    assert not (folder / "key-00001").exists()
    rest = Source()
    ask(folder, rest)
    assert rest.rows == [4, 5, 6, 7, 8, 9]
    assert held(folder) == ["key-00000", "key-00001", "key-00002"]


def _anonymous_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) / 1024


def test_two_hundred_megabytes_pass_without_staying_in_memory(folder):
    rows, width = 50_000, 2048  # 195 MiB of float16
    batch = torch.ones(500, width, dtype=torch.float16)
    before, most = _anonymous_mib(), 0.0

    def compute(asked):
        nonlocal most
        for _ in range(len(asked) // 500):
            yield batch
            most = max(most, _anonymous_mib())

    features = ask(
        folder, compute, count=rows, shape=(width,), dtype=torch.float16, batch=500, limit=GIB
    )
    total = 0.0
    for block in features.blocks(500):
        total += float(block.sum())
        most = max(most, _anonymous_mib())
    assert total == rows * width
    assert most - before < 40
