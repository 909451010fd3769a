"""One's own images, decoded once into the store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.data.images import Images, check_size
from warmstart.data.listing import Listing, list_images
from warmstart.data.stored import SPLITS, pixels_path, stored_images, write_index
from warmstart.errors import ConfigError

if TYPE_CHECKING:
    from warmstart.data.decode import Header


def image_folder(
    *,
    root: str | Path,
    store: Path,
    size: int | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.2,
    split_seed: int = 0,
) -> Images:
    """Return the images in ``root/{train,val,test}/CLASS/*`` or ``root/CLASS/*``.

    `valid` and `validation` are taken for `val`. A missing val or test is cut from train, class
    by class.

    Args:
        root: The folder.
        store: The store's folder, where the decoded images are kept. They are decoded again when
            a file's name, size or time of change is another.
        size: Height and width to bring the images to (see `decode.fit`); None if all have one.
        val_fraction: Share of train that becomes val where there is none.
        test_fraction: Share of train that becomes test where there is none.
        split_seed: Of these cuts, not of the run.

    Returns:
        Images of shape [n, height, width, 3], or 1 channel when all files are gray; the ids are
        the files' paths relative to `root`.

    Raises:
        ConfigError: The folder is not arranged like this, a file cannot be read, or the images
            differ in size and `size` is None.
    """
    from PIL import __version__ as pillow

    from warmstart.data import decode

    check_size(size)
    root = Path(root).expanduser()
    listing = list_images(
        root,
        decode.EXTENSIONS,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        split_seed=split_seed,
    )
    files = [
        (split, file, *stamp(root / file)) for split in SPLITS for file in listing.files[split]
    ]
    identity = (decode.VERSION, pillow, size, listing.classes, files)
    name = f"folder-{size or 'native'}"
    make = partial(_decode_all, root=root, listing=listing, size=size)
    return stored_images(store, name, identity, make)


def stamp(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and time of change in nanoseconds; -1 for a broken link."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _decode_all(folder: Path, *, root: Path, listing: Listing, size: int | None) -> None:
    from warmstart.data.decode import Bad, decode, each_file, read_header

    bad: dict[str, str] = {}
    headers: dict[str, Header] = {}
    files = [file for split in SPLITS for file in listing.files[split]]
    paths = [root / file for file in files]
    for file, header in zip(files, each_file(read_header, paths, title="Reading"), strict=True):
        if isinstance(header, Bad):
            bad[file] = header.reason
        else:
            headers[file] = header
    gray = all(header.gray for header in headers.values())
    shape = (size, size) if size else _one_size(headers, root)
    for split in SPLITS:
        good = [(row, file) for row, file in enumerate(listing.files[split]) if file in headers]
        array = np.lib.format.open_memmap(
            pixels_path(folder, split),
            "w+",
            np.uint8,
            (len(listing.files[split]), *shape, 1 if gray else 3),
        )
        work = partial(decode, gray=gray, size=size)
        decoded = each_file(work, [root / file for _, file in good], title=f"Decoding {split}")
        for (row, file), pixels in zip(good, decoded, strict=True):
            if isinstance(pixels, Bad):
                bad[file] = pixels.reason
            else:
                array[row] = pixels
    refuse(bad, files, root)
    write_index(folder, listing.classes, listing.labels, listing.files)


def _one_size(headers: Mapping[str, Header], root: Path) -> tuple[int, int]:
    sizes = Counter((header.height, header.width) for header in headers.values())
    if len(sizes) > 1:
        (height, width), (other_height, other_width) = (shape for shape, _ in sizes.most_common(2))
        raise ConfigError(
            f"the images in {root} have {len(sizes)} different sizes, such as {width}x{height} "
            f"and {other_width}x{other_height} pixels; set data.size, for example "
            f"data.size={min(224, *min(sizes, key=min))}"
        )
    return next(iter(sizes), (1, 1))


def refuse(bad: Mapping[str, str], files: Sequence[str], root: Path) -> None:
    """Raise if any file is bad; name the first in the order of `files`."""
    if bad:
        first = next(file for file in files if file in bad)
        raise ConfigError(
            f"{len(bad)} of {len(files)} images in {root} cannot be read, the first is {first} "
            f"({bad[first]}); replace or remove them"
        )
