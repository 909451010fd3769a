"""One's own images as numpy arrays, MedMNIST's among them."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from warmstart.data.readers import Arrays, stamp
from warmstart.data.samples import OPEN, SPLITS, Samples
from warmstart.data.sources.files import check_file, read_class_names
from warmstart.data.sources.listing import SPLIT_NAMES, check_trained, class_labels
from warmstart.errors import ConfigError, choose
from warmstart.store import opened

# The arrays beside images and labels, and whether they have an entry per image.
_SIMPLE = {"split": True, "groups": True, "classes": False}
_BLOCK = 1 << 20  # bytes


def arrays(
    *,
    store: Path,
    file: str | Path | None = None,
    images: str | Path | None = None,
    labels: str | Path | None = None,
    class_names: str | Path | Sequence[str] | None = None,
) -> Samples:
    """Return the images of an array: uint8 [n, h, w] or [n, h, w, c], for any c.

    An ``.npz`` holds ``images`` and ``labels`` [n], and may hold ``split`` (``train``, ``val`` or
    ``test`` per image), ``groups`` (what stays together) and ``classes`` (names). Or it holds
    ``train_images``, ``train_labels`` [n] or [n, 1], and the same for ``val`` and ``test``, as the
    files of MedMNIST do (Yang et al. 2023, https://doi.org/10.1038/s41597-022-01721-8).

    Labels are numbers or names as in `list_files`.

    Args:
        store: The store's folder, where the images of an ``.npz`` are unpacked.
        file: The ``.npz``.
        images: Instead of `file`: an ``.npy`` with the images, which is mapped into memory.
        labels: To `images`: an ``.npy`` with the labels.
        class_names: Of class 0, 1, ...: a file with a name per line, or the names. They replace
            ``classes``.

    Returns:
        Samples whose ids are row numbers, like ``train/00017`` where there are splits.

    Raises:
        ConfigError: A file is missing or damaged, an array is missing, of another type or length,
            or holds several labels per image.
    """
    names = read_class_names(class_names)
    if file is not None and images is None and labels is None:
        return _from_npz(_path("data.file", file), names, store=store)
    if file is None and images is not None and labels is not None:
        return _from_npy(_path("data.images", images), _path("data.labels", labels), names)
    raise ConfigError(
        f"data.file is {file!r}, data.images {images!r} and data.labels {labels!r}, but the data "
        "are either one file (.npz), or images and labels (.npy)"
    )


def _path(key: str, given: str | Path) -> Path:
    path = Path(given).expanduser()
    check_file(key, path, "a file of arrays")
    return path


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ConfigError:  # which is a ValueError too
        raise
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} cannot be read as numpy arrays without Python objects ({reason}); "
            "write it again with numpy.save or numpy.savez"
        ) from error


def _from_npy(images: Path, labels: Path, names: Sequence[str] | None) -> Samples:
    with _readable(images), images.open("rb") as stream:
        count, *_ = _checked(_header(stream), str(images))
        pixels = np.load(images, mmap_mode="r")
    with _readable(labels), labels.open("rb") as stream:
        words = _words(np.lib.format.read_array(stream), count, f"the labels in {labels}")
    classes, numbers = class_labels(words, names, place=lambda row: f"row {row} of {labels}")
    ids = tuple(f"{row:05d}" for row in range(count))
    reader = Arrays(pixels, identity=(str(images.resolve()), *stamp(images)))
    return Samples("arrays", classes, ids, numbers, (OPEN,) * count, reader)


def _from_npz(file: Path, names: Sequence[str] | None, *, store: Path) -> Samples:
    with _readable(file), zipfile.ZipFile(file) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        parts = _parts(file, members)
        shapes = {}
        for prefix in parts.values():
            with archive.open(f"{prefix}images.npy") as stream:
                shapes[prefix] = _checked(_header(stream), f"{prefix}images in {file}")
        pixels = _mapped(file, shapes, store=store)

        def words(name: str, count: int | None) -> list[str]:
            with archive.open(f"{name}.npy") as stream:
                return _words(np.lib.format.read_array(stream), count, f"{name} in {file}")

        counts = {prefix: shape[0] for prefix, shape in shapes.items()}
        labels = [word for prefix in counts for word in words(f"{prefix}labels", counts[prefix])]
        simple = set(_SIMPLE) & members if OPEN in parts else set()
        extra = {name: words(name, len(labels) if _SIMPLE[name] else None) for name in simple}
    named = "data.class_names" if names else f"the array 'classes' in {file}"
    classes, numbers = class_labels(
        labels,
        names or extra.get("classes"),
        place=lambda row: f"row {row} of {file}",
        named=named,
    )
    splits, ids = _places(parts, counts)
    if "split" in extra:
        splits = _splits(extra["split"], file)
    check_trained(classes, numbers, splits, ids)
    groups = tuple(extra["groups"]) if "groups" in extra else None
    reader = Arrays(pixels, identity=(str(file.resolve()), *stamp(file), tuple(shapes)))
    return Samples("arrays", classes, ids, numbers, splits, reader, groups)


def _parts(file: Path, members: set[str]) -> dict[str, str]:
    """Return the beginning of the arrays' names for each split.

    Raises:
        ConfigError: Images or labels are missing.
    """
    parts = {split: f"{split}_" for split in SPLITS if f"{split}_images" in members}
    parts = {OPEN: ""} if "images" in members or not parts else parts
    for prefix in parts.values():
        for name in (f"{prefix}images", f"{prefix}labels"):
            if name not in members:
                raise ConfigError(
                    f"{file} has no array {name!r}, but {', '.join(sorted(members)) or 'none'}; "
                    "call the arrays images and labels, or train_images, train_labels and so on"
                )
    return parts


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Return shape, order and type of the array that begins in `stream`, and skip its header."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
        raise ValueError(f"its format has the version {version}")
    return read[version](stream)


def _checked(
    header: tuple[tuple[int, ...], bool, np.dtype[np.generic]], what: str
) -> tuple[int, ...]:
    """Return the shape in a header of images.

    Raises:
        ConfigError: These are no uint8 images with the channels last.
    """
    shape, _, dtype = header
    if dtype != np.uint8:
        raise ConfigError(
            f"{what} holds {dtype}, but must hold uint8, 0 ... 255; scale the values to this "
            "range, since only you know which of them is black and which is white"
        )
    if len(shape) not in (3, 4) or 0 in shape:
        raise ConfigError(
            f"{what} has the shape {list(shape)}, but must be [images, height, width] or "
            "[images, height, width, channels], with at least one of each"
        )
    if len(shape) == 4 and shape[1] <= 4 and min(shape[2:]) >= 16:  # no image is so flat
        raise ConfigError(
            f"{what} has the shape {list(shape)}, with the channels before height and width; put "
            "them last with .transpose(0, 2, 3, 1)"
        )
    return shape


def _mapped(file: Path, shapes: Mapping[str, tuple[int, ...]], *, store: Path) -> np.ndarray:
    """Return the images of all parts of an .npz as one memory map, unpacked into the store once."""
    sizes = {shape[1:] for shape in shapes.values()}
    if len(sizes) > 1:
        raise ConfigError(
            f"the images in {file} have the shapes {', '.join(map(str, sorted(sizes)))}; give all "
            "of them one"
        )
    shape = (sum(shape[0] for shape in shapes.values()), *next(iter(sizes)))

    def write(folder: Path) -> None:
        with zipfile.ZipFile(file) as archive, (folder / "images.npy").open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(out, header)
            for prefix in shapes:
                with archive.open(f"{prefix}images.npy") as stream:
                    _copy(stream, out)

    identity = hashlib.sha256(repr((str(file.resolve()), *stamp(file), tuple(shapes))).encode())
    return opened(
        store / "arrays",
        f"arrays-{identity.hexdigest()[:16]}",
        write,
        lambda folder: np.load(folder / "images.npy", mmap_mode="r"),
    )


def _copy(stream: IO[bytes], out: IO[bytes]) -> None:
    """Copy the values of an array in the order of C, without its header."""
    shape, fortran, _ = _header(stream)
    if fortran:
        values = np.frombuffer(stream.read(), np.uint8).reshape(shape, order="F")
        out.write(values.tobytes())
    else:
        shutil.copyfileobj(stream, out, _BLOCK)


def _words(values: np.ndarray, count: int | None, what: str) -> list[str]:
    """Return labels or names as text.

    Args:
        values: Whole numbers or text, [n] or [n, 1].
        count: Of the images; None for any.
        what: The array, in words.

    Raises:
        ConfigError: There are several per image, more or fewer than images, or some are empty.
    """
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ConfigError(
            f"{what} has the shape {list(values.shape)}, but images with several labels are not "
            "taken; give one number or name per image, [n] (of one-hot rows .argmax(axis=1))"
        )
    if values.dtype.kind not in "biuUS":
        raise ConfigError(f"{what} holds {values.dtype}, but must hold whole numbers or text")
    if count is not None and len(values) != count:
        raise ConfigError(f"{what} has {len(values)} entries for {count} images; give one each")
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    words = [str(value).strip() for value in values.tolist()]
    if "" in words:
        raise ConfigError(f"{what} is empty in row {words.index('')}; every image needs one")
    return words


def _places(
    parts: Mapping[str, str], counts: Mapping[str, int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return each image's split and its id."""
    rows = [(split, row) for split, prefix in parts.items() for row in range(counts[prefix])]
    ids = (f"{split}/{row:05d}" if split else f"{row:05d}" for split, row in rows)
    return tuple(split for split, _ in rows), tuple(ids)


def _splits(words: Sequence[str], file: Path) -> tuple[str, ...]:
    for row, word in enumerate(words):
        if word.lower() not in SPLIT_NAMES:
            raise choose(f"split in row {row} of {file}", word, SPLIT_NAMES)
    return tuple(SPLIT_NAMES[word.lower()] for word in words)
