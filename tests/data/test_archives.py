"""Archives: what is unpacked, and what is refused, each from an archive that really does it."""

import contextlib
import gzip
import hashlib
import io
import random
import shutil
import stat
import struct
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web import File, serve

from warmstart.data import archives
from warmstart.data.archives import unpacked
from warmstart.errors import ConfigError

FILES = {
    "photos/cat/1.png": b"one",
    "photos/cat/deep/2.png": b"two" * 1000,
    "photos/dog/3.png": b"",
}


def zipped(path, files=FILES, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def tarred(path, files=FILES, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(path, name="link", kind=tarfile.SYMTYPE, target="/etc/passwd"):
    """Write a tar archive with a member that is no plain file."""
    with tarfile.open(path, "w") as archive:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        archive.addfile(member)
    return path


def found(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


INNER = {name.removeprefix("photos/"): content for name, content in FILES.items()}


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("a.zip", ""),
        ("a.tar", "w"),
        ("a.tar.gz", "w:gz"),
        ("A.TGZ", "w:gz"),
        ("a.tar.xz", "w:xz"),
        ("a.tar.bz2", "w:bz2"),
        ("named-wrongly.tar.gz", "w"),
    ],
)
def test_an_archive_becomes_the_folder_inside(tmp_path, store, name, mode):
    path = tarred(tmp_path / name, mode=mode) if mode else zipped(tmp_path / name)
    folder = unpacked(path, store=store)
    assert folder.name == "photos"
    assert found(folder) == INNER
    assert unpacked(str(path), store=store) == folder


def test_a_folder_is_returned_as_it_is(tmp_path, store):
    assert unpacked(tmp_path, store=store) == tmp_path
    assert not store.exists()


def test_several_folders_at_the_top_stay_there(tmp_path, store):
    path = zipped(tmp_path / "a.zip", {"./cat/1.png": b"1", "dog\\2.png": b"2", "dog/empty/": b""})
    folder = unpacked(path, store=store)
    assert found(folder) == {"cat/1.png": b"1", "dog/2.png": b"2"}
    assert (folder / "dog" / "empty").is_dir()


@pytest.mark.parametrize(
    ("files", "root"),
    [
        ({"README.md": b"", "photos/cat/1.png": b"1", "photos/dog/2.png": b"2"}, "photos"),
        (
            {"a/b/LICENSE": b"", "a/b/photos/cat/1.png": b"1", "a/b/photos/dog/2": b""},
            "photos",
        ),
        ({"cover.png": b"", "photos/cat/1.png": b"1", "photos/dog/2.png": b"2"}, "tree"),
        ({"photos/cat/1.png": b"1"}, "photos"),
        ({"cat/1.png": b"1"}, "tree"),
    ],
)
def test_folders_that_hold_all_images_are_descended_into(tmp_path, store, files, root):
    assert unpacked(zipped(tmp_path / "a.zip", files), store=store).name == root


def test_hidden_files_and_those_of_macos_are_left_out(tmp_path, store):
    more = {"__MACOSX/photos/._1.png": b"x", ".DS_Store": b"x", "photos/.git/config": b"x"}
    assert found(unpacked(zipped(tmp_path / "a.zip", FILES | more), store=store)) == INNER
    assert found(unpacked(tarred(tmp_path / "a.tar", FILES | more), store=store)) == INNER


def test_an_archive_is_unpacked_once_and_again_when_it_is_another(tmp_path, store):
    path = zipped(tmp_path / "a.zip")
    folder = unpacked(path, store=store)
    made = (folder / "cat" / "1.png").stat().st_ino
    shutil.copy(path, tmp_path / "b.zip")
    assert unpacked(tmp_path / "b.zip", store=store) == folder
    assert (folder / "cat" / "1.png").stat().st_ino == made
    zipped(path, {"photos/cat/1.png": b"another"})
    assert found(unpacked(path, store=store)) == {"cat/1.png": b"another"}


def test_what_was_deleted_from_the_store_is_unpacked_again(tmp_path, store):
    path = zipped(tmp_path / "a.zip")
    (unpacked(path, store=store) / "cat" / "1.png").unlink()
    assert found(unpacked(path, store=store)) == INNER


def refused(path, store, match):
    with pytest.raises(ConfigError, match=match) as caught:
        unpacked(path, store=store)
    assert path.name in str(caught.value)
    assert not [file for file in store.rglob("*") if file.suffix != ".lock"]


@pytest.mark.parametrize(
    "name",
    [
        *("../out.png", "a/../../out.png", "/tmp/out.png", "C:out.png", "c:\\windows\\out.png"),
        *("..\\out.png", "a/..", "a/b\nc.png", "//host/out.png"),
    ],
)
@pytest.mark.parametrize("write", [zipped, tarred])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, store, name, write):
    path = write(tmp_path / f"a.{write.__name__[:3]}", {"cat/1.png": b"1", name: b"x"})
    refused(path, store, r"is not unpacked: .* in it would lie outside of its folder; unpack what")


@given(st.text(st.sampled_from("./\\:aC "), min_size=1, max_size=12))
def test_no_name_leads_out_of_the_folder(tmp_path_factory, name):
    place = tmp_path_factory.mktemp("names")
    path = tarred(place / "a.tar", {"cat/1.png": b"1", name: b"x"})
    with contextlib.suppress(ConfigError):
        unpacked(path, store=place / "store")
    assert {file.name for file in place.iterdir()} <= {"a.tar", "store"}
    trees = list((place / "store").glob("archive-*/tree"))
    written = [
        file
        for file in (place / "store").rglob("*")
        if file.is_file() and file.read_bytes() == b"x"
    ]
    assert all(trees[0] in file.parents for file in written)


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "beside.png"),
        (tarfile.LNKTYPE, "/etc/passwd"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, store, kind, target):
    path = special(tmp_path / "a.tar", kind=kind, target=target)
    refused(path, store, "'link' in it is a link or a device")


def test_links_in_a_zip_are_refused(tmp_path, store):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", store, "'link' in it is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_a_file_that_is_there_twice_is_refused(tmp_path, store, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a/1.png", "1")
            archive.writestr("a//1.png", "2")
    else:
        tarred(path, {"a/1.png": b"1", "a/1.png/2.png": b"2"})
    refused(path, store, r"'[12]\.png' in it is there twice")


@pytest.mark.parametrize("mode", ["", "w:gz", "w:xz", "w:bz2"])
def test_a_bomb_is_refused_before_it_goes_off(tmp_path, store, monkeypatch, mode):
    """Two files of 5 MB of zeros each, in archives of some KB."""
    monkeypatch.setattr(archives, "SMALL", 1_000_000)
    files = {"a/0.png": b"0", "a/1.png": bytes(5_000_000), "a/2.png": bytes(5_000_000)}
    name = f"a.tar.{mode[2:]}" if mode else "a.zip"
    path = tarred(tmp_path / name, files, mode) if mode else zipped(tmp_path / name, files)
    assert path.stat().st_size < 20_000
    refused(path, store, r"it would become more than [0-9,]+ bytes, which no images do")


def test_a_bomb_behind_the_end_of_an_archive_is_refused(tmp_path, store, monkeypatch):
    monkeypatch.setattr(archives, "SMALL", 1_000_000)
    plain = tarred(tmp_path / "plain.tar", {"a/1.png": b"1"}).read_bytes()
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(plain + bytes(20_000_000)))
    refused(path, store, "it would become more than")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path, store):
    """A pax header is read at once: this one has 50 MB."""
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 50_000_000
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(header.tobuf(tarfile.USTAR_FORMAT) + bytes(50_000_000)))
    refused(path, store, r"cannot be unpacked \(a header in it has 50,000,384 bytes\)")


def test_a_header_that_points_backwards_is_refused(tmp_path, store):
    """A negative size would let tarfile read the same header for ever."""
    member = tarfile.TarInfo("1.png")
    member.size = -1024
    path = tmp_path / "a.tar"
    path.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    refused(path, store, r"cannot be unpacked \(")


def test_more_files_than_any_data_set_has_are_refused(tmp_path, store, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILES", 10)
    files = {f"a/{i}.png": b"1" for i in range(11)}
    refused(zipped(tmp_path / "a.zip", files), store, "it holds more than 10 files")
    refused(tarred(tmp_path / "a.tar", files), store, "it holds more than 10 files")


def test_what_does_not_fit_on_the_disk_is_not_begun(tmp_path, store, monkeypatch):
    path = zipped(tmp_path / "a.zip")
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(path, store, "the 100 bytes free on the disk are too few")


def test_an_encrypted_archive_is_said_to_be_one(tmp_path, store):
    path = zipped(tmp_path / "a.zip", {"1.png": b"1"})
    data = bytearray(path.read_bytes())
    for place in (data.index(b"PK\3\4") + 6, data.index(b"PK\1\2") + 8):
        data[place] |= 1  # the flag of traditional encryption, in both headers
    path.write_bytes(data)
    refused(path, store, "it is encrypted")


def test_a_zip_that_lies_about_a_size_is_refused(tmp_path, store):
    """It announces 10 bytes of a file of 3,000, and more than there is of another."""
    path = zipped(tmp_path / "a.zip", {"1.png": bytes(3000)})
    whole = path.read_bytes()
    place = whole.index(b"PK\1\2") + 24
    for size in (10, 4000):
        path.write_bytes(whole[:place] + struct.pack("<I", size) + whole[place + 4 :])
        refused(path, store, r"cannot be unpacked \(.*; if it is damaged, get it again")


@pytest.mark.parametrize("mode", ["", "w", "w:gz", "w:xz", "w:bz2"])
def test_a_damaged_archive_is_refused(tmp_path, store, mode):
    """Cut off at several places, and with single bytes changed: never a part of the images."""
    rng = random.Random(0)
    files = {f"a/{i}.png": rng.randbytes(2000) for i in range(4)}
    name = f"a.tar{mode.replace('w', '').replace(':', '.')}" if mode else "a.zip"
    path = tarred(tmp_path / name, files, mode) if mode else zipped(tmp_path / name, files)
    whole = path.read_bytes()
    for share in (0.05, 0.2, 0.4):
        path.write_bytes(whole[: int(len(whole) * share)])
        refused(path, store, r"cannot be unpacked \(.*if it is damaged, get it again")
    # In a bare tar content has no sum, but headers have.
    place = whole.index(b"a/2.png") if mode == "w" else len(whole) // 2
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
    refused(path, store, r"cannot be unpacked \(")


def test_what_is_no_archive_is_refused(tmp_path, store):
    path = tmp_path / "a.zip"
    for content in (b"", b"<html>Not found</html>"):
        path.write_bytes(content)
        refused(path, store, r"cannot be unpacked \(")
    refused(zipped(path, {".hidden": b""}), store, "holds no files but hidden ones")
    (tmp_path / "a.rar").touch()
    refused(tmp_path / "a.rar", store, r"must be a folder, or an archive in \.zip, \.tar, ")
    refused(tmp_path / "missing.zip", store, "there is no such file")


@pytest.fixture
def server():
    with serve() as running:
        yield running


@pytest.fixture
def online(tmp_path, server):
    """Offer an archive; return its file on the server, and its address with its sum."""
    content = zipped(tmp_path / "online.zip").read_bytes()
    file = server.files["/some%20photos.zip?raw=1"] = File(content)
    digest = hashlib.sha256(content).hexdigest()
    return file, f"{server.url}/some%20photos.zip?raw=1#sha256={digest}"


def test_an_archive_is_fetched_from_its_address_once(store, online, server):
    _, address = online
    with ThreadPoolExecutor(4) as pool:
        folders = [pool.submit(unpacked, address, store=store) for _ in range(4)]
        for folder in folders:
            assert found(folder.result()) == INNER
    assert len(server.asked) == 1
    digest = address.rpartition("=")[2]
    left = {file.name for file in store.iterdir() if file.suffix != ".lock"}
    assert left == {f"archive-{digest}"}


def test_a_broken_connection_is_resumed(store, online, server):
    file, address = online
    file.breaks_after = 100
    with pytest.raises(ConfigError, match=r"data\.root: .* could not be fetched \(.*after 100 of"):
        unpacked(address, store=store)
    file.breaks_after = None
    assert found(unpacked(address, store=store)) == INNER
    assert [start for _, start in server.asked] == [0, 100]


def test_a_file_with_another_sum_is_refused(store, online):
    _, address = online
    wrong = f"{address.rpartition('#')[0]}#{'0' * 64}"
    with pytest.raises(ConfigError, match=r"data\.root: .* SHA-256 sum .*, but 0{64} was expected"):
        unpacked(wrong, store=store)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://host/a.zip", r"without the SHA-256 sum .*add it as https://host/a\.zip#sha256=S"),
        ("https://host/a.zip#12", "without the SHA-256 sum"),
        (f"https://host/page#{'0' * 64}", r"must be the address of an archive in \.zip"),
        (f"s3://bucket/a.zip#{'0' * 64}", "must begin with https://"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(store, address, message):
    with pytest.raises(ConfigError, match=rf"data\.root is '.*{message}"):
        unpacked(address, store=store)
