"""Archives of images, unpacked once into the store; what could do harm is refused."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from warmstart.data.decode import EXTENSIONS
from warmstart.data.sources.files import is_visible
from warmstart.errors import ConfigError
from warmstart.fetch import bytes_bar, fetch
from warmstart.store import once, sha256

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")

MAX_FILES = 5_000_000
MAX_RATIO = 200  # bytes unpacked per byte of the archive: images are compressed already
SMALL = 2**30  # bytes that any archive may hold

_SUM = re.compile(r"(?:sha256[=:])?([0-9a-fA-F]{64})")
_UNSAFE = re.compile(r"/|[A-Za-z]:|(.*/)?\.\.(/|$)|.*[\x00-\x1f]", re.DOTALL)
_COMPRESSIONS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_BLOCK = 512  # bytes of a tar archive
_PIECE = 1 << 20  # bytes read at once; more than any header needs


def unpacked(root: str | Path, *, store: Path) -> Path:
    """Return the folder that `root` means: itself, or what is in an archive.

    An archive is known by the SHA-256 sum of its content and unpacked once, without hidden files
    and macOS's additions. Of it, the `innermost` folder is meant.

    Args:
        root: A folder, an archive with one of `SUFFIXES`, or the address of one with its sum:
            ``https://HOST/photos.zip#sha256=SUM``.
        store: The store's folder.

    Raises:
        ConfigError: There is no such file, or it is no archive, damaged or encrypted, or holds
            something other than files within its folder, or too much; or it cannot be fetched.
    """
    if "://" in str(root):
        url, digest = _address(str(root))
        entry = once(store, f"archive-{digest}", lambda part: _fetched(url, digest, store, part))
    else:
        path = Path(root).expanduser()
        if path.is_dir():
            return path
        if not path.name.lower().endswith(SUFFIXES):
            raise ConfigError(
                f"data.root is {str(root)!r}, but must be a folder, or an archive in "
                f"{', '.join(SUFFIXES)}"
            )
        if not path.is_file():
            raise ConfigError(f"data.root is {str(root)!r}, but there is no such file")
        entry = once(store, f"archive-{sha256(path)}", lambda part: _unpack(path, part / "tree"))
    return innermost(entry / "tree")


def innermost(folder: Path) -> Path:
    """Return the folder that holds several, below any that hold one alone and no images.

    A folder that holds no folders itself may be a class and is not descended into.
    """
    inner, images = _content(folder)
    while len(inner) == 1 and not images:
        below, images = _content(inner[0])
        if not below:
            break
        folder, inner = inner[0], below
    return folder


def _content(folder: Path) -> tuple[list[Path], bool]:
    """Return the folders inside a folder, and whether there are images beside them."""
    paths = [path for path in folder.iterdir() if is_visible(path.name)]
    inner = [path for path in paths if path.is_dir()]
    return inner, any(path.name.lower().endswith(EXTENSIONS) for path in paths)


def _address(root: str) -> tuple[str, str]:
    """Return an archive's address and its sum."""
    url, _, fragment = root.partition("#")
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"data.root is {root!r}, but an address must begin with https://")
    if not _name(url).lower().endswith(SUFFIXES):
        raise ConfigError(
            f"data.root is {root!r}, but must be the address of an archive in {', '.join(SUFFIXES)}"
        )
    digest = _SUM.fullmatch(fragment)
    if not digest:
        raise ConfigError(
            f"data.root is {root!r}, without the SHA-256 sum of the file in 64 digits; add it as "
            f"{url}#sha256=SUM (sha256sum FILE prints it)"
        )
    return url, digest[1].lower()


def _name(url: str) -> str:
    return unquote(urlsplit(url).path).rpartition("/")[2]


def _fetched(url: str, digest: str, store: Path, part: Path) -> None:
    archive = store / f"archive-{digest}-{_name(url)}"  # beside the entry, to be resumed
    try:
        fetch(url, archive, digest=digest)
    except ConfigError as error:
        raise ConfigError(f"data.root: {error}") from error
    except OSError as error:
        raise ConfigError(
            f"data.root: {url} could not be fetched ({_reason(error)}); try again, or fetch it on "
            "another machine and give the file"
        ) from error
    try:
        _unpack(archive, part / "tree")
    finally:
        archive.unlink()


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


@dataclass
class _Limits:
    """How much may be unpacked; what an archive announces is counted before it is written."""

    archive: Path
    bytes: int
    free: int
    files: int = 0
    total: int = 0

    @classmethod
    def of(cls, archive: Path, tree: Path) -> _Limits:
        limit = max(SMALL, MAX_RATIO * archive.stat().st_size)
        return cls(archive, limit, shutil.disk_usage(tree).free)

    def count(self, size: int, *, files: int = 1) -> None:
        """Count files of `size` bytes together, and raise if that is too much."""
        if size < 0:
            raise ValueError("a file has less than 0 bytes")
        self.files += files
        self.total += size
        if self.files > MAX_FILES:
            raise _refusal(self.archive, f"it holds more than {MAX_FILES:,} files")
        if self.total > self.bytes:
            raise _refusal(
                self.archive, f"it would become more than {self.bytes:,} bytes, which no images do"
            )
        if self.total > self.free:
            raise _refusal(self.archive, f"the {self.free:,} bytes free on the disk are too few")


def _refusal(archive: Path, reason: str) -> ConfigError:
    return ConfigError(
        f"{archive} is not unpacked: {reason}; unpack what you trust by hand, and give the folder"
    )


def _unpack(archive: Path, tree: Path) -> None:
    """Unpack the plain files of an archive below `tree`."""
    tree.mkdir()
    limits = _Limits.of(archive, tree)
    with archive.open("rb") as file:
        start = file.read(8)
    try:
        if start.startswith(b"PK"):
            _unpack_zip(archive, tree, limits)
        else:
            kinds = [how for magic, how in _COMPRESSIONS.items() if start.startswith(magic)]
            _unpack_tar(archive, tree, limits, kinds[0] if kinds else Path.open)
    except ConfigError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise ConfigError(
            f"{archive} cannot be unpacked ({_reason(error)}); if it is damaged, get it again"
        ) from error
    if not any(tree.iterdir()):
        raise ConfigError(f"{archive} holds no files but hidden ones; give an archive of images")


def _unpack_zip(archive: Path, tree: Path, limits: _Limits) -> None:
    with zipfile.ZipFile(archive) as opened:
        members = opened.infolist()
        for member in members:
            limits.count(member.file_size)
        with bytes_bar(f"Unpacking {archive.name}", limits.total) as advance:
            for member in members:
                if member.flag_bits & 1:
                    raise _refusal(archive, "it is encrypted")
                kind = stat.S_IFMT(member.external_attr >> 16)
                if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                    raise _refusal(archive, f"{member.filename!r} in it is a link or a device")
                target = _target(archive, tree, member.filename)
                if target and member.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                elif target:
                    with _new(archive, target) as file, opened.open(member) as source:
                        _copy(source, file, member.file_size, advance)


def _unpack_tar(
    archive: Path, tree: Path, limits: _Limits, decompressed: Callable[..., Any]
) -> None:
    with decompressed(archive, "rb") as inner:
        stream: Any = _Forward(inner)
        with (
            tarfile.open(fileobj=stream, mode="r:") as opened,
            bytes_bar(f"Unpacking {archive.name}", None) as advance,
        ):
            while member := opened.next():
                # Those of a large archive would fill the memory.
                opened.members.clear()  # type: ignore[attr-defined]
                limits.count(member.size)
                if not member.isfile() and not member.isdir():
                    raise _refusal(archive, f"{member.name!r} in it is a link or a device")
                target = _target(archive, tree, member.name)
                if target and member.isdir():
                    target.mkdir(parents=True, exist_ok=True)
                elif target:
                    with _new(archive, target) as file:
                        _copy(opened.extractfile(member), file, member.size, advance)
        # tarfile takes a damaged header for the end, and does not see the sum after it.
        if stream.last != bytes(_BLOCK):
            raise EOFError("it ends in the middle")
        while piece := stream.read(_PIECE):
            limits.count(len(piece), files=0)


class _Forward:
    """A stream without steps backwards and huge reads, to which forged headers could lead."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        if size > _PIECE:
            raise ValueError(f"a header in it has {size:,} bytes")
        self.last = self.file.read(size)
        return self.last

    def seek(self, place: int) -> None:
        if place < self.file.tell():
            raise ValueError("a header in it points backwards")
        self.file.seek(place)

    def tell(self) -> int:
        return self.file.tell()


def _target(archive: Path, tree: Path, name: str) -> Path | None:
    """Return where a member goes; None for hidden files and macOS's additions."""
    name = name.replace("\\", "/")  # as some programs for Windows write
    if _UNSAFE.match(name):
        raise _refusal(archive, f"{name!r} in it would lie outside of its folder")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not all(map(is_visible, parts)):
        return None
    return tree.joinpath(*parts)


@contextlib.contextmanager
def _new(archive: Path, target: Path) -> Iterator[IO[bytes]]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        file = target.open("xb")
    except (FileExistsError, NotADirectoryError) as error:
        raise _refusal(archive, f"{target.name!r} in it is there twice") from error
    with file:
        yield file


def _copy(source: Any, file: IO[bytes], size: int, advance: Callable[[int], None]) -> None:
    received = 0
    while piece := source.read(_PIECE):
        file.write(piece)
        received += len(piece)
        advance(len(piece))
    if received != size:
        raise EOFError(f"a file in it has {received} bytes, but {size} were announced")
