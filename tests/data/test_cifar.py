"""CIFAR-10 in the original layout, read by torchvision's own class."""

import numpy as np
import pytest
from samples import CIFAR_CLASSES, write_cifar10
from torchvision.datasets import CIFAR10

from warmstart.data.cifar import cifar10
from warmstart.errors import ConfigError, RunError


def test_images_are_those_of_the_batches(tmp_path, monkeypatch):
    written = write_cifar10(tmp_path / "data", monkeypatch)
    data = cifar10(root=tmp_path / "data", store=tmp_path / "store")
    assert data.classes == tuple(CIFAR_CLASSES)
    assert np.bincount(data.val.labels).tolist() == [1] * 10
    assert np.bincount(data.train.labels).tolist() == [9] * 10
    assert np.bincount(data.test.labels).tolist() == [2] * 10
    seen = []
    for split in (data.train, data.val):
        rows = [int(name.removeprefix("train/")) for name in split.ids]
        assert np.array_equal(split.pixels, written[rows])
        assert split.labels.tolist() == [row % 10 for row in rows]
        seen += rows
    assert sorted(seen) == list(range(100))
    assert data.test.ids[0] == "test/00000"


def test_a_second_load_reads_the_store(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "data", monkeypatch)
    first = cifar10(root=tmp_path / "data", store=tmp_path / "store")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npy")}
    again = cifar10(root=tmp_path / "data", store=tmp_path / "store")
    assert isinstance(again.train.pixels, np.memmap)
    assert again.digest == first.digest
    now = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob("*.npy")}
    assert len(now) == 3
    assert now == files


def test_images_are_scaled_on_demand(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "data", monkeypatch)
    data = cifar10(root=tmp_path / "data", store=tmp_path / "store", size=16)
    assert data.train.pixels.shape == (90, 16, 16, 3)


def test_missing_files_are_named_with_the_way_to_get_them(tmp_path):
    with pytest.raises(
        ConfigError, match=r"cifar-10-batches-py.data_batch_1 is missing.*"
    ) as caught:
        cifar10(root=tmp_path, store=tmp_path / "store")
    assert str(tmp_path) in str(caught.value)
    assert str(caught.value).endswith("data.download=true")


def test_a_damaged_file_is_not_opened(tmp_path, monkeypatch):
    write_cifar10(tmp_path / "data", monkeypatch)
    batch = tmp_path / "data" / CIFAR10.base_folder / "data_batch_3"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"is damaged .*data.download=true"):
        cifar10(root=tmp_path / "data", store=tmp_path / "store")


def test_a_failed_download_fails_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "absent.tar.gz").as_uri())
    with pytest.raises(RunError, match="could not be downloaded"):
        cifar10(root=tmp_path / "data", store=tmp_path / "store", download=True)
