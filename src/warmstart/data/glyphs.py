"""A source task for the digits: printed letters that went through the digits' own scanner.

The UCI digits are 32x32 bitmaps of which every pixel of the 8x8 image counts a 4x4 block. The
letters are brought to a bitmap of 4 x size the same way: filling the frame's height, slanted,
with strokes of varying width and ragged edges, white on black.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from warmstart.data.digits import SIZE, scale_counts
from warmstart.data.images import Images, check_size
from warmstart.data.stored import SPLITS, pixels_path, stored_images, write_index
from warmstart.errors import ConfigError
from warmstart.randomness import numpy_generator

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


def glyphs(*, store: Path, size: int | None = None, variants: int = 160, seed: int = 0) -> Images:
    """Return the letters A-Z and a-z as gray images; no digit is among them.

    Args:
        store: The store's folder, where the rendered images are kept.
        size: Height and width in pixels; None is the digits' native 8.
        variants: Training images of each class, spread evenly over cases and fonts; val and test
            have a fifth of it each.
        seed: Of the rendering, not of the run.

    Returns:
        Images of shape [n, size, size, 1] in 37 classes; ids like ``a/DejaVuSans/7``.

    Raises:
        ConfigError: `variants` is below 10.
    """
    check_size(size)
    if variants < 10:
        raise ConfigError(f"data.variants is {variants}, but must be at least 10 images per class")
    size = SIZE if size is None else size
    identity = (_VERSION, CLASSES, FONTS, size, variants, seed)
    make = partial(_render_all, size=size, variants=variants, seed=seed)
    return stored_images(store, f"glyphs-{size}", identity, make)


def _render_all(folder: Path, *, size: int, variants: int, seed: int) -> None:
    labels: dict[str, list[int]] = {}
    ids: dict[str, list[str]] = {}
    for split in SPLITS:
        rng = numpy_generator(seed, "glyphs", split)
        plan = list(_plan(split, variants if split == "train" else variants // 5))
        masters = {(font, letter): _master(font, letter, size) for _, font, letter in plan}
        pixels = np.stack([_scan(masters[font, letter], size, rng) for _, font, letter in plan])
        np.save(pixels_path(folder, split), pixels)
        labels[split] = [label for label, _, _ in plan]
        ids[split] = [f"{letter}/{font}/{row}" for row, (_, font, letter) in enumerate(plan)]
    write_index(folder, CLASSES, labels, ids)


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
