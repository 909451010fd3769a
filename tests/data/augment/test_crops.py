"""Crops and mirroring move pixels as computed by hand, on single images and on whole batches."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional

from warmstart.data.augment.crops import Resized, Scaled
from warmstart.data.augment.pipeline import Augment
from warmstart.data.images import Split
from warmstart.data.resize import resize

BELOW_ONE = 1 - 2**-24


def split_of(pixels):
    """Return a split of uint8 [n, height, width, channels], in this order."""
    return Split.of(pixels, np.zeros(len(pixels)), tuple(map(str, range(len(pixels)))))


def noise_images(count, *, height=8, width=8, channels=3):
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def moved(pixels, rows, **options):
    """Return uint8 images after the augmentation with these rows of uniforms, as numpy."""
    augment = Augment(**options).bind(split_of(pixels))
    uniforms = torch.tensor(rows, dtype=torch.float32)
    assert uniforms.shape == (len(pixels), augment.columns)
    return augment.sample(split_of(pixels), np.arange(len(pixels)), uniforms).numpy()


# With padding 2 a uniform u starts the cut at floor(5 u), where 2 is the image's own place.
@pytest.mark.parametrize(
    ("uniforms", "top", "left", "flipped"),
    [
        ((0.5, 0.5, 0.9), 2, 2, False),
        ((0.0, 0.0, 0.9), 0, 0, False),
        ((0.999, 0.2, 0.9), 4, 1, False),
        ((0.79, 0.81, 0.1), 3, 4, True),
        ((0.5, 0.5, 0.49), 2, 2, True),
        ((0.5, 0.5, 0.5), 2, 2, False),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_shift_and_flip_move_pixels_as_numpy_does(uniforms, top, left, flipped, channels):
    pixels = noise_images(1, height=6, width=5, channels=channels)
    result = moved(pixels, [uniforms], crop="shift", padding=2, flip=0.5)
    padded = np.pad(pixels[0], ((2, 2), (2, 2), (0, 0)))
    expected = padded[top : top + 6, left : left + 5]
    assert np.array_equal(result[0], expected[:, ::-1] if flipped else expected)


def test_a_shift_is_four_pixels_unless_given():
    result = moved(np.full((1, 9, 9, 1), 255, np.uint8), [[0.0, 0.0, 0.9]], crop="shift")
    assert result.sum() == 5 * 5 * 255
    assert (result[0, 4:, 4:] == 255).all()


def test_the_largest_uniform_stays_inside():
    for padding in (1, 2, 4, 16, 28):
        white = np.ones((1, 8, 8, 1), np.uint8)
        result = moved(white, [[BELOW_ONE] * 3], crop="shift", padding=padding, flip=0.5)
        assert result.sum() == max(8 - padding, 0) ** 2


def test_each_image_takes_its_own_row():
    pixels = noise_images(2, channels=1)
    result = moved(pixels, [[0.5, 0.5, 0.9], [0.5, 0.5, 0.1]], crop="shift", padding=1, flip=0.5)
    assert np.array_equal(result[0], pixels[0])
    assert np.array_equal(result[1], pixels[1, :, ::-1])


def test_flips_alone():
    pixels = noise_images(4, height=3, width=4)
    rows = [[0.2, 0.9], [0.9, 0.2], [0.2, 0.2], [0.5, 0.25]]
    result = moved(pixels, rows, flip=0.5, vertical_flip=0.25)
    assert np.array_equal(result[0], pixels[0, :, ::-1])
    assert np.array_equal(result[1], pixels[1, ::-1])
    assert np.array_equal(result[2], pixels[2, ::-1, ::-1])
    assert np.array_equal(result[3], pixels[3])


def test_the_shares_are_as_asked():
    pixels = noise_images(1000, channels=1)
    rows = torch.rand(1000, 2, generator=torch.Generator().manual_seed(3)).tolist()
    result = moved(pixels, rows, flip=0.25, vertical_flip=0.6)
    columns = [(result == np.flip(pixels, axes)).all(axis=(1, 2, 3)) for axes in (2, 1, (1, 2))]
    assert columns[0].sum() + columns[2].sum() == pytest.approx(250, abs=45)
    assert columns[1].sum() + columns[2].sum() == pytest.approx(600, abs=50)


def stretched(pixels, uniforms, **options):
    """Return float pixels [n, c, h, w] after the part of the augmentation on whole batches."""
    return Augment(**options)(pixels, torch.tensor(uniforms, dtype=torch.float32))


def test_a_whole_part_is_the_image():
    pixels = torch.from_numpy(noise_images(3, height=9, width=7)).permute(0, 3, 1, 2).float()
    rows = torch.rand(3, 5, generator=torch.Generator().manual_seed(1)).tolist()
    whole = {"crop": "resized", "scale": (1.0, 1.0), "ratio": (7 / 9, 7 / 9)}
    assert torch.allclose(stretched(pixels, rows, **whole), pixels, atol=1e-3)
    mirrored = stretched(pixels, rows, flip=1.0, **whole)
    assert torch.allclose(mirrored, pixels.flip(3), atol=1e-3)
    both = stretched(pixels, [[*row, 0.5] for row in rows], flip=1.0, vertical_flip=1.0, **whole)
    assert torch.allclose(both, pixels.flip(2, 3), atol=1e-3)


@pytest.mark.parametrize(
    ("y", "x", "rows", "columns"),
    [(0.0, 0.0, slice(0, 4), slice(0, 4)), (1.0, 0.5, slice(4, 8), slice(2, 6))],
)
def test_a_quarter_is_enlarged_bilinearly(y, x, rows, columns):
    """A ramp stays a ramp: the cut spans half the values over twice the pixels."""
    ramp = torch.arange(8.0)
    pixels = torch.stack([ramp[:, None].expand(8, 8), ramp[None].expand(8, 8)])[None]
    options = {"crop": "resized", "scale": (0.25, 0.25), "ratio": (1.0, 1.0)}
    result = stretched(pixels, [[0.3, 0.3, y, x, 0.9]], **options)[0]

    def expected(part):
        # Pixel i of the result lies at start + (i + 1/2) / 2 - 1/2 of the source, within [0, 7].
        return (part.start + (torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 7)

    assert torch.allclose(result[0], expected(rows)[:, None].expand(8, 8), atol=1e-5)
    assert torch.allclose(result[1], expected(columns)[None].expand(8, 8), atol=1e-5)


def box_of(crop, row, height, width, *, shape=(8, 8)):
    """Return the edges that a crop gives for an image: left, top, right, bottom."""
    heights, widths = torch.tensor([height]).double(), torch.tensor([width]).double()
    part = crop.parts(torch.tensor([row]), heights, widths, shape)
    return part.boxes(heights, widths)[0]


def test_area_shape_and_place_of_a_part():
    crop = Resized((0.25, 0.64), (0.5, 2.0))
    # Least area, ratio 2^0: a square of a quarter of 20 x 40 pixels, at the top left; its side of
    # 14.14 is rounded.
    assert box_of(crop, (0.0, 0.5, 0.0, 0.0), 20, 40) == (0, 0, 14, 14)
    # Ratio 1/2: height sqrt(200 * 2) = 20, width 10; at the right edge.
    tall = box_of(crop, (0.0, 0.0, 0.7, 1.0), 20, 40)
    assert tall == (30, 0, 40, 20)
    # Largest area 512, ratio 2: 16 x 32, in the middle.
    wide = box_of(crop, (1.0, 1.0, 0.5, 0.5), 20, 40)
    assert wide == (4, 2, 36, 18)
    # Higher than the image, sqrt(512 * 2) = 32: cut to its 20.
    assert box_of(crop, (1.0, 0.0, 0.3, 0.0), 20, 40) == (0, 0, 16, 20)


def test_the_scale_of_resnet_at_any_size():
    crop = Scaled(None)
    for size in (224, 32):
        # A shorter side of 256 pixels for an input of 224: 420 of 480 pixels are seen.
        nearest = box_of(crop, (0.0, 0.0, 1.0), 480, 640, shape=(size, size))
        assert nearest == (220, 0, 640, 420)
        # Of 480 pixels: 224 are seen, in the middle.
        farthest = box_of(crop, (1.0, 0.5, 0.5), 480, 640, shape=(size, size))
        assert farthest == (208, 128, 432, 352)
    # An input twice as high as wide, from a square: half of its width is seen at a factor of 1.
    whole = box_of(Scaled((1.0, 1.0)), (0.3, 0.3, 0.5), 100, 100, shape=(64, 32))
    assert whole == (25, 0, 75, 100)


sizes = st.integers(1, 700)
uniform = st.integers(0, 2**24 - 1).map(lambda number: number / 2**24)


@given(sizes, sizes, sizes, sizes, st.lists(uniform, min_size=4, max_size=4))
def test_parts_lie_inside_the_image(height, width, out_height, out_width, row):
    crops = [
        (Resized((0.01, 1.0), (0.1, 9.0)), row),
        (Resized(None, None), row),
        (Scaled((1.0, 5.0)), row[:3]),
        (Scaled(None), row[:3]),
    ]
    for crop, numbers in crops:
        left, top, right, bottom = box_of(
            crop, numbers, height, width, shape=(out_height, out_width)
        )
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height


@pytest.fixture
def originals():
    """Return a split of 8x8 images whose originals have other sizes, with the originals."""
    generator = np.random.default_rng(4)
    shapes = [(20, 40, 3), (8, 8, 3), (31, 9, 3), (3, 2, 3)]
    images = [generator.integers(0, 256, shape, dtype=np.uint8) for shape in shapes]
    small = np.stack([resize(image, (8, 8)) for image in images])
    return dataclasses.replace(split_of(small), originals=images), images


def enlarged(image, top, left, height, width, *, size=8):
    """Return what torchvision makes of a part."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)
    cut = functional.resized_crop(x, top, left, height, width, [size, size], antialias=True)
    return cut.permute(1, 2, 0).numpy()


def test_a_part_is_cut_out_of_the_original(originals):
    split, images = originals
    augment = Augment(crop="resized", scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=0.5).bind(split)
    assert augment.needs_originals
    # Rows and columns of the original, not of the split: the last two images, in reverse.
    part = split.take(np.array([3, 0]))
    uniforms = torch.tensor([[0.3, 0.3, 1.0, 1.0, 0.9], [0.3, 0.3, 0.0, 0.0, 0.1]])
    result = augment.sample(part, np.array([0, 1]), uniforms)
    # A quarter of 3 x 2 pixels, at the right bottom: sides of 1.22 that begin at 1.78 and 0.78.
    assert np.array_equal(result[0], enlarged(images[3], 2, 1, 1, 1))
    # Of 20 x 40, at the left top, mirrored: sides of 14.14.
    assert np.array_equal(result[1], enlarged(images[0], 0, 0, 14, 14)[:, ::-1])
    # Nothing is left to do for the whole batch.
    x = result.permute(0, 3, 1, 2).float()
    assert torch.equal(augment(x, uniforms), x)


def test_images_of_the_right_size_are_cut_alike_on_batches_and_one_by_one():
    pixels = noise_images(16, height=24, width=24)
    split = split_of(pixels)
    # Half of 24 pixels, at even places: no part has to be rounded.
    options = {"crop": "resized", "scale": (0.25, 0.25), "ratio": (1.0, 1.0), "flip": 0.5}
    bound = Augment(**options).bind(split)
    single = Augment(**options).bind(dataclasses.replace(split, originals=list(pixels)))
    rows = np.arange(16)
    uniforms = torch.rand(16, 5, generator=torch.Generator().manual_seed(5))
    uniforms[:, 2:4] = (uniforms[:, 2:4] * 12).floor() / 12
    whole = bound(bound.sample(split, rows, uniforms).permute(0, 3, 1, 2).float(), uniforms)
    cut = single.sample(dataclasses.replace(split, originals=list(pixels)), rows, uniforms)
    # Whole shades on one side; and only a batch sees what lies beside the part.
    inside = (whole - cut.permute(0, 3, 1, 2))[:, :, 1:-1, 1:-1]
    assert inside.abs().max() < 1.5


def test_a_policy_sees_the_part_and_not_the_image():
    """What happens to single images comes after the crop: then it is not done on batches."""
    pixels = noise_images(4, height=16, width=16)
    split = split_of(pixels)
    options = {"crop": "resized", "scale": (0.25, 0.25), "ratio": (1.0, 1.0)}
    augment = Augment(noise=0.01, **options).bind(split)
    uniforms = torch.full((4, 7), 0.25)
    result = augment.sample(split, np.arange(4), uniforms)
    # A quarter of the way from the left edge to the other end, which are 8 pixels apart.
    for image, original in zip(result.numpy(), pixels, strict=True):
        expected = enlarged(original, 2, 2, 8, 8, size=16).astype(int)
        assert np.abs(image.astype(int) - expected).mean() < 4
    x = result.permute(0, 3, 1, 2).float()
    assert torch.equal(augment(x, uniforms), x)
