"""Augmentation moves pixels as computed by hand, and an image's result is its own."""

import numpy as np
import pytest
import torch

from warmstart.data.augment import CropFlip, NoAugment, ResizedCrop
from warmstart.errors import ConfigError


def batch(n, *, channels=3, height=8, width=8, seed=0):
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(seed))


def test_none_changes_nothing():
    pixels = batch(2)
    assert NoAugment().columns == 0
    assert torch.equal(NoAugment()(pixels, torch.empty(2, 0)), pixels)


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
def test_crop_and_flip_move_pixels_as_numpy_does(uniforms, top, left, flipped):
    pixels = batch(1, height=6, width=5)
    result = CropFlip(padding=2, flip=0.5)(pixels, torch.tensor([uniforms]))
    padded = np.pad(pixels[0].numpy(), ((0, 0), (2, 2), (2, 2)))
    expected = padded[:, top : top + 6, left : left + 5]
    expected = expected[:, :, ::-1] if flipped else expected
    assert np.array_equal(result[0].numpy(), expected)


def test_the_largest_uniform_stays_inside():
    last = torch.nextafter(torch.tensor(1.0), torch.tensor(0.0))
    for padding in (0, 1, 2, 4, 16, 28):
        result = CropFlip(padding=padding, flip=0.5)(torch.ones(1, 1, 8, 8), last.expand(1, 3))
        assert result.sum() == max(8 - padding, 0) ** 2


def test_each_image_takes_its_own_row():
    pixels = batch(2, channels=1)
    rows = torch.tensor([[0.5, 0.5, 0.9], [0.5, 0.5, 0.1]])
    result = CropFlip(padding=1, flip=0.5)(pixels, rows)
    assert torch.equal(result[0], pixels[0])
    assert torch.equal(result[1], pixels[1].flip(2))


def test_a_whole_crop_is_the_image():
    pixels = batch(3, height=9, width=7)
    uniforms = torch.rand(3, 5, generator=torch.Generator().manual_seed(1))
    whole = ResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)
    square = batch(3)
    assert torch.allclose(whole(square, uniforms), square, atol=1e-5)
    own_ratio = ResizedCrop(scale=(1.0, 1.0), ratio=(7 / 9, 7 / 9), flip=0.0)
    assert torch.allclose(own_ratio(pixels, uniforms), pixels, atol=1e-5)
    mirrored = ResizedCrop(scale=(1.0, 1.0), ratio=(7 / 9, 7 / 9), flip=1.0)
    assert torch.allclose(mirrored(pixels, uniforms), pixels.flip(3), atol=1e-5)


@pytest.mark.parametrize(
    ("y", "x", "rows", "columns"),
    [(0.0, 0.0, slice(0, 4), slice(0, 4)), (1.0, 0.5, slice(4, 8), slice(2, 6))],
)
def test_a_quarter_is_enlarged_bilinearly(y, x, rows, columns):
    """A ramp stays a ramp: the cut spans half the values over twice the pixels."""
    ramp = torch.arange(8.0)
    pixels = torch.stack([ramp[:, None].expand(8, 8), ramp[None].expand(8, 8)])[None]
    crop = ResizedCrop(scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=0.0)
    result = crop(pixels, torch.tensor([[0.3, 0.3, y, x, 0.9]]))[0]

    def expected(part):
        # Pixel i of the result lies at start + (i + 1/2) / 2 - 1/2 of the source, within [0, 7].
        return (part.start + (torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 7)

    assert torch.allclose(result[0], expected(rows)[:, None].expand(8, 8), atol=1e-5)
    assert torch.allclose(result[1], expected(columns)[None].expand(8, 8), atol=1e-5)


def test_area_and_shape_are_drawn_from_their_ranges():
    """On a ramp from 0 to 1, the span of the result is the part's share of the side."""
    crop = ResizedCrop(scale=(0.25, 0.64), ratio=(0.5, 2.0), flip=0.0)
    ramp = torch.linspace(0, 1, 64)
    pixels = torch.stack([ramp[:, None].expand(64, 64), ramp[None].expand(64, 64)])[None]
    # Least area, ratio 2^0: a square of half the side. Its half in the logarithm is u = 0.5.
    square = crop(pixels, torch.tensor([[0.0, 0.5, 0.5, 0.5, 0.9]]))[0]
    assert np.ptp(square[0].numpy()) == pytest.approx(0.5, abs=0.01)
    assert np.ptp(square[1].numpy()) == pytest.approx(0.5, abs=0.01)
    # Least area, ratio 1/2: height sqrt(0.25 * 2) = 0.707, width 0.354.
    tall = crop(pixels, torch.tensor([[0.0, 0.0, 0.5, 0.5, 0.9]]))[0]
    assert np.ptp(tall[0].numpy()) == pytest.approx(0.707, abs=0.01)
    assert np.ptp(tall[1].numpy()) == pytest.approx(0.354, abs=0.01)


@pytest.mark.parametrize("augment", [CropFlip(padding=2, flip=0.5), ResizedCrop()])
@pytest.mark.parametrize("height", [8, 33])
def test_an_image_is_the_same_in_any_batch(augment, height):
    pixels = batch(64, height=height, width=height)
    generator = torch.Generator().manual_seed(2)
    uniforms = torch.rand(64, augment.columns, generator=generator)
    whole = augment(pixels, uniforms)
    for size in (1, 7):
        starts = range(0, 64, size)
        cut = [augment(pixels[i : i + size], uniforms[i : i + size]) for i in starts]
        assert torch.equal(torch.cat(cut), whole)
    assert not torch.equal(whole, pixels)


def test_the_flipped_share_is_as_asked():
    pixels = batch(400, channels=1)
    uniforms = torch.rand(400, 3, generator=torch.Generator().manual_seed(3))
    result = CropFlip(padding=0, flip=0.25)(pixels, uniforms)
    flipped = (result == pixels.flip(3)).flatten(1).all(dim=1)
    unchanged = (result == pixels).flatten(1).all(dim=1)
    assert bool((flipped ^ unchanged).all())
    assert int(flipped.sum()) == int((uniforms[:, 2] < 0.25).sum())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CropFlip(padding=-1, flip=0.5), "padding is -1, but must be a whole number"),
        (lambda: CropFlip(padding=1.5, flip=0.5), "padding is 1.5"),
        (lambda: CropFlip(padding=1, flip=1.5), r"flip is 1.5, but must be a share .* \[0, 1\]"),
        (lambda: ResizedCrop(scale=(0.5, 0.2)), "scale is .*the lower first"),
        (lambda: ResizedCrop(scale=(0.5, 2.0)), "scale is .*at most 1"),
        (lambda: ResizedCrop(ratio=(0.0, 1.0)), "ratio is .*above 0"),
        (lambda: ResizedCrop(flip=-0.1), "flip is -0.1"),
    ],
)
def test_impossible_values_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
