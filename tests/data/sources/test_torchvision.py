"""torchvision's data sets in their original layouts, read and fetched by its own classes."""

import gzip
import hashlib
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torchvision.datasets as tv
from layouts import WRITERS, write
from web import File, serve

from warmstart.data.sources.torchvision import torchvision_set
from warmstart.data.sources.torchvision_sets import SETS
from warmstart.errors import ConfigError, RunError


def test_every_set_has_a_layout_here():
    assert WRITERS.keys() == SETS.keys()


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_read_from_its_original_layout(tmp_path, monkeypatch, name):
    layout = write(name, tmp_path, monkeypatch)
    samples = torchvision_set(name=name, root=tmp_path)
    assert samples.name == name
    assert not layout.classes or samples.classes == layout.classes
    read = zip(samples.splits, samples.labels.tolist(), strict=True)
    expected = {file: (split, label) for file, (split, label, _) in layout.images.items()}
    assert dict(zip(samples.ids, read, strict=True)) == expected
    for row, file in enumerate(samples.ids):
        pixels, wanted = samples.reader.image(row), layout.images[file][2]
        if isinstance(wanted, int):
            assert pixels.shape == (12, 8, 3)
            assert np.abs(pixels.astype(int) - wanted).max() <= 3  # JPEG
        else:
            assert np.array_equal(pixels, wanted if wanted.ndim == 3 else wanted[..., None])


def test_traffic_signs_have_names_and_the_pictures_of_one_stay_together(tmp_path, monkeypatch):
    write("gtsrb", tmp_path, monkeypatch)
    samples = torchvision_set(name="gtsrb", root=tmp_path)
    numbers = {name: samples.classes.index(name) for name in ("speed limit 20", "stop")}
    assert numbers == {"speed limit 20": 0, "stop": 14}
    assert samples.classes[40:42] == ("roundabout", "end of no passing")
    train = samples.groups[:6]
    assert train == ("00000/00000",) * 2 + ("00000/00001",) + ("00001/00000",) * 2 + (
        "00001/00001",
    )
    assert len(set(samples.groups[-2:])) == 2  # the test pictures have nothing in common
    assert torchvision_set_of(tmp_path / "other", monkeypatch, "dtd").groups is None


def torchvision_set_of(root, monkeypatch, name):
    write(name, root, monkeypatch)
    return torchvision_set(name=name, root=root)


@pytest.mark.parametrize("name", ["mnist", "dtd"])
def test_the_identity_follows_the_files(tmp_path, monkeypatch, name):
    write(name, tmp_path, monkeypatch)
    first = repr(torchvision_set(name=name, root=tmp_path).reader.identity)
    assert repr(torchvision_set(name=name, root=str(tmp_path)).reader.identity) == first
    file = next(
        path for path in sorted(tmp_path.rglob("*")) if "images" in str(path) and path.is_file()
    )
    os.utime(file, ns=(1, 1))
    assert repr(torchvision_set(name=name, root=tmp_path).reader.identity) != first


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.name is 'cifar'.*, dtd, .*did you mean 'cifar1"):
        torchvision_set(name="cifar", root=tmp_path)


@pytest.mark.parametrize("name", SETS)
def test_missing_files_are_named_with_the_way_to_get_them(tmp_path, name):
    with pytest.raises(ConfigError) as caught:
        torchvision_set(name=name, root=tmp_path)
    message = str(caught.value)
    missing = tmp_path / SETS[name].files[0]
    assert message.startswith(f"{name} is not in data.root={tmp_path} ({missing} is missing)")
    assert ("data.download=true" in message) != bool(SETS[name].by_hand)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["fer2013", "imagenet", "stanford_cars"])
def test_a_set_that_nobody_can_fetch_says_how_to_get_it(tmp_path, name):
    with pytest.raises(
        ConfigError, match=r"torchvision cannot fetch it: (get|its address is gone)"
    ):
        torchvision_set(name=name, root=tmp_path, download=True)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_3"),
        ("usps", "usps.bz2"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("stl10", "stl10_binary/test_y.bin"),
        ("flowers102", "flowers-102/setid.mat"),
        ("semeion", "semeion.data"),
        ("food101", "food-101/meta/test.json"),
    ],
)
def test_a_damaged_file_is_not_read(tmp_path, monkeypatch, name, file):
    write(name, tmp_path, monkeypatch)
    path = tmp_path / file
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ConfigError, match=rf"{name} cannot be read \(.*delete .*download=true"):
        torchvision_set(name=name, root=tmp_path)


def test_labels_that_do_not_belong_to_the_images_are_refused(tmp_path, monkeypatch):
    write("mnist", tmp_path, monkeypatch)
    labels = tmp_path / "MNIST/raw/train-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:7] + bytes([20]) + whole[8:-1])  # the number of labels is in byte 7
    with pytest.raises(ConfigError, match="it has 21 images, but 20 labels"):
        torchvision_set(name="mnist", root=tmp_path)
    labels.write_bytes(whole[:-1] + bytes([10]))
    with pytest.raises(ConfigError, match="its labels are not those of 10 classes"):
        torchvision_set(name="mnist", root=tmp_path)


def test_parts_with_different_classes_are_refused(tmp_path, monkeypatch):
    write("dtd", tmp_path, monkeypatch)
    (tmp_path / "dtd/dtd/labels/val1.txt").write_text("zigzagged/zigzagged_0001.jpg\n")
    with pytest.raises(ConfigError, match="its parts have different classes"):
        torchvision_set(name="dtd", root=tmp_path)


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def cifar(tmp_path, monkeypatch, server):
    """Offer a small CIFAR-10 as an archive; return its file on the server."""
    write("cifar10", tmp_path / "original", monkeypatch)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(tmp_path / "original" / tv.CIFAR10.base_folder, tv.CIFAR10.base_folder)
    file = server.files["/cifar-10-python.tar.gz"] = File(buffer.getvalue())
    monkeypatch.setattr(tv.CIFAR10, "url", f"{server.url}/cifar-10-python.tar.gz")
    monkeypatch.setattr(tv.CIFAR10, "tgz_md5", hashlib.md5(file.content).hexdigest())
    return file


def fetched(root):
    return torchvision_set(name="cifar10", root=root, download=True)


def left(root):
    return sorted(path.name for path in root.iterdir() if path.suffix != ".lock")


def test_a_set_is_fetched_once(tmp_path, cifar, server):
    root = tmp_path / "data"
    samples = fetched(root)
    assert samples.ids == torchvision_set(name="cifar10", root=tmp_path / "original").ids
    assert left(root) == [tv.CIFAR10.base_folder]
    assert fetched(root).ids == samples.ids
    assert len(server.asked) == 1


def test_four_that_ask_at_once_fetch_once(tmp_path, cifar, server):
    cifar.seconds_per_piece = 0.01
    with ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(fetched, tmp_path / "data") for _ in range(4)]:
            assert len(found.result()) == 126
    assert len(server.asked) == 1


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, cifar, server):
    cifar.breaks_after = 5000
    with pytest.raises(RunError, match=r"cifar10 could not be downloaded .* ended after 5000 of"):
        fetched(tmp_path / "data")
    assert left(tmp_path / "data") == [".cifar10.download"]
    cifar.breaks_after = None
    assert len(fetched(tmp_path / "data")) == 126
    assert [start for _, start in server.asked] == [0, 5000]
    assert left(tmp_path / "data") == [tv.CIFAR10.base_folder]


def test_what_a_killed_process_had_unpacked_is_no_data_set(tmp_path, cifar):
    half = tmp_path / "data" / ".cifar10.download" / "unpacked" / tv.CIFAR10.base_folder
    half.mkdir(parents=True)
    (half / "data_batch_1").write_bytes(b"half")
    assert len(fetched(tmp_path / "data")) == 126


def test_a_file_with_another_sum_is_not_kept(tmp_path, cifar, server):
    content = cifar.content
    cifar.content = content[:-1] + b"\1"
    for _ in range(2):
        with pytest.raises(RunError, match=r"could not be downloaded .*corrupted"):
            fetched(tmp_path / "data")
    cifar.content = content
    assert len(fetched(tmp_path / "data")) == 126
    assert [start for _, start in server.asked] == [0, 0, 0]


def test_an_archive_that_lies_there_is_not_fetched(tmp_path, cifar, server):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cifar-10-python.tar.gz").write_bytes(cifar.content)
    assert len(fetched(tmp_path / "data")) == 126
    assert not server.asked
    assert left(tmp_path / "data") == [tv.CIFAR10.base_folder, "cifar-10-python.tar.gz"]


def test_an_address_that_is_gone_fails_the_run(tmp_path, cifar, server):
    del server.files["/cifar-10-python.tar.gz"]
    with pytest.raises(RunError, match=r"could not be downloaded to .*: http.*HTTP Error 404"):
        fetched(tmp_path / "data")
    assert not (tmp_path / "data" / tv.CIFAR10.base_folder).exists()


def test_the_next_mirror_is_asked(tmp_path, monkeypatch, server):
    """The first of three mirrors has nothing, the second damaged files, the third all."""
    write("mnist", tmp_path / "original", monkeypatch)
    resources = []
    for name, _ in tv.MNIST.resources:
        raw = tmp_path / "original/MNIST/raw" / name.removesuffix(".gz")
        content = gzip.compress(raw.read_bytes(), mtime=0)
        server.files[f"/bad/{name}"] = File(content[:-1] + b"\1")
        server.files[f"/good/{name}"] = File(content, version={"ETag": '"2"'})
        resources.append((name, hashlib.md5(content).hexdigest()))
    monkeypatch.setattr(tv.MNIST, "resources", resources)
    monkeypatch.setattr(
        tv.MNIST, "mirrors", [f"{server.url}/{place}/" for place in ("gone", "bad", "good")]
    )
    samples = torchvision_set(name="mnist", root=tmp_path / "data", download=True)
    assert samples.splits == ("train",) * 21 + ("test",) * 2
    assert left(tmp_path / "data") == ["MNIST"]
