"""A small folder of photos with everything in it that a person should hear of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 40
# Images of each class in each split, the odd ones of `write` not counted.
COUNTS = {"train": {"a&b": 5, "dog": 3}, "val": {"a&b": 2, "dog": 2}, "test": {"a&b": 2, "dog": 3}}


def photo(number: int) -> np.ndarray:
    """Return uint8 [SIZE, SIZE, 3] with large shapes, as perceptual hashes want them."""
    rough = np.random.default_rng(number).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(rough).resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def write(root: Path, *, odd: bool = True) -> Path:
    """Write ``root/SPLIT/CLASS/i.png`` and, unless told not to, the odd ones.

    Those are two damaged files, an image of train that test has too, one of val with another label
    than in train, and a photo of val that is one of train as JPEG.
    """
    number = 0
    for split, classes in COUNTS.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(photo(number)).save(folder / f"{index}.png")
                number += 1
    if odd:
        dogs = root / "train" / "dog"
        (dogs / "broken.png").write_bytes((dogs / "0.png").read_bytes()[:500])
        (root / "test" / "dog" / "empty.jpg").touch()
        (root / "train" / "a&b" / "same.png").write_bytes(read(root, "test/a&b/0.png"))
        (root / "val" / "dog" / "contrary.png").write_bytes(read(root, "train/a&b/1.png"))
        Image.open(root / "train" / "a&b" / "2.png").save(
            root / "val" / "a&b" / "alike.jpg", quality=90
        )
    return root


def read(root: Path, file: str) -> bytes:
    return (root / file).read_bytes()
