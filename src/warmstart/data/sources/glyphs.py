"""A source task for the digits: printed letters that went through the digits' own scanner.

The UCI digits are 32x32 bitmaps of which every pixel of the 8x8 image counts a 4x4 block. The
letters are brought to a bitmap of 4 x size the same way: filling the frame's height, slanted,
with strokes of varying width and ragged edges, white on black.
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.data.readers import Arrays
from warmstart.data.samples import SPLITS, Samples
from warmstart.data.sources.digits import SIZE, scale_counts
from warmstart.errors import ConfigError
from warmstart.randomness import numpy_generator
from warmstart.store import once

if TYPE_CHECKING:
    from PIL import Image

FONTS = {
    "train": (
        *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique"),
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic"),
        *("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta"),
        *("cmr10", "cmb10", "cmti10", "cmmi10"),
    ),
    "val": ("DejaVuSansMono", "DejaVuSansMono-Bold", "cmtt10"),
    "test": ("DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique", "cmss10"),
}
"""Those of matplotlib's 40 font files that draw all 52 letters; no split has another's font."""

MERGED = "CIJKLMOPSUVWXYZ"
"""Letters whose two cases look alike once size is normalized: one class each, 37 in all.

Source: "EMNIST: an extension of MNIST to handwritten letters", Cohen et al. 2017, by-merge.
"""

CLASSES = (*string.ascii_uppercase, *(c for c in string.ascii_lowercase if c.upper() not in MERGED))

_VERSION = 1  # raise when the rendering changes
_BLOCK = 4


def glyphs(*, store: Path, size: int | None = None, variants: int = 160, seed: int = 0) -> Samples:
    """Return the letters A-Z and a-z as gray images in 37 classes; no digit is among them.

    Args:
        store: The store's folder, where the rendered images are kept.
        size: Height and width in pixels to render them at; None is the digits' native 8.
        variants: Training images of each class, spread evenly over cases and fonts; val and test
            have a fifth of it each.
        seed: Of the rendering, not of the run.

    Returns:
        Images in given splits; ids like ``train/a/DejaVuSans/7``.

    Raises:
        ConfigError: `variants` is below 10.
    """
    if variants < 10:
        raise ConfigError(f"data.variants is {variants}, but must be at least 10 images per class")
    size = SIZE if size is None else size
    identity = (_VERSION, CLASSES, FONTS, size, variants, seed)
    key = f"glyphs-drawn-{size}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"
    folder = once(
        store / "images", key, partial(_render_all, size=size, variants=variants, seed=seed)
    )
    plans = {split: list(_plan(split, _count(split, variants))) for split in SPLITS}
    return Samples(
        name="glyphs",
        classes=CLASSES,
        ids=tuple(
            f"{split}/{letter}/{font}/{row}"
            for split, plan in plans.items()
            for row, (_, font, letter) in enumerate(plan)
        ),
        labels=np.array([label for plan in plans.values() for label, _, _ in plan], np.int64),
        splits=tuple(split for split, plan in plans.items() for _ in plan),
        reader=Arrays(np.load(folder / "pixels.npy", mmap_mode="r"), identity=identity),
    )


def _render_all(folder: Path, *, size: int, variants: int, seed: int) -> None:
    parts = []
    for split in SPLITS:
        rng = numpy_generator(seed, "glyphs", split)
        plan = list(_plan(split, _count(split, variants)))
        masters = {(font, letter): _master(font, letter, size) for _, font, letter in plan}
        parts += [_scan(masters[font, letter], size, rng) for _, font, letter in plan]
    np.save(folder / "pixels.npy", np.stack(parts))


def _count(split: str, variants: int) -> int:
    return variants if split == "train" else variants // 5


def _plan(split: str, count: int) -> Iterator[tuple[int, str, str]]:
    """Yield (label, font, letter) of each image of a split, class by class."""
    for label, name in enumerate(CLASSES):
        cases = (name, name.lower()) if name in MERGED else (name,)
        forms = [(font, case) for font in FONTS[split] for case in cases]
        for variant in range(count):
            yield label, *forms[variant % len(forms)]


def _master(font: str, letter: str, size: int) -> Image.Image:
    """Draw a letter large and cut it to its ink, with a black margin of one pixel."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    height = 2 * _BLOCK * size
    face = ImageFont.truetype(str(path), height)
    canvas = Image.new("L", (3 * height, 3 * height))
    ImageDraw.Draw(canvas).text((height, height), letter, fill=255, font=face)
    left, top, right, bottom = canvas.getbbox() or (0, 0, 1, 1)
    return canvas.crop((left - 1, top - 1, right + 1, bottom + 1))


def _scan(master: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return one warped, blurred, thresholded and block-counted uint8 image [size, size, 1]."""
    from PIL import Image, ImageFilter

    side = 2 * _BLOCK * size
    warped = master.transform(
        (side, side),
        Image.Transform.AFFINE,
        _warp(master.size, side, rng),
        Image.Resampling.BILINEAR,
    )
    blurred = warped.filter(ImageFilter.GaussianBlur(side * rng.uniform(0.02, 0.05)))
    bitmap = np.asarray(blurred.reduce(2), np.float32)
    grain = rng.normal(0, 12, bitmap.shape)
    # A low threshold widens thin strokes, which the blur made pale, to the width of a pen's.
    inked = bitmap + grain > rng.uniform(0.15, 0.4) * bitmap.max()
    counts = inked.reshape(size, _BLOCK, size, _BLOCK).sum(axis=(1, 3))
    return scale_counts(counts)[:, :, None]


def _warp(box: tuple[int, int], side: int, rng: np.random.Generator) -> tuple[float, ...]:
    """Return PIL's six affine coefficients, from canvas to master, of a random warp.

    The letter is stretched to nearly the canvas's height, then turned, slanted and shifted.
    """
    width, height = box
    angle, slant = rng.normal(0, 0.1), rng.normal(0, 0.2)
    tall = side * rng.uniform(0.85, 1.0)
    wide = min(width / height * tall * rng.uniform(0.6, 1.1), side * rng.uniform(0.55, 0.9))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = turn @ np.array([[1, slant], [0, 1]]) @ np.diag([wide / width, tall / height])
    back = np.linalg.inv(forward)
    centre = side / 2 + rng.uniform(-0.04, 0.04, 2) * side
    offset = np.array([width, height]) / 2 - back @ centre
    return (back[0, 0], back[0, 1], offset[0], back[1, 0], back[1, 1], offset[1])
