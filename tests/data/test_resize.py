"""Resizing agrees with torchvision and Pillow, for any number of channels."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional

from warmstart.data.resize import fit, resize, shrink, shrunk_shape

RNG = np.random.default_rng(0)


def noise(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("shape", [(100, 150), (300, 200), (97, 97), (500, 331)])
@pytest.mark.parametrize("size", [64, 96, 224])
def test_large_images_are_fitted_as_torchvision_does(shape, size):
    pixels = noise(*shape)
    image = Image.fromarray(pixels)
    resized = functional.resize(image, [round(size * 256 / 224)], antialias=True)
    expected = functional.center_crop(resized, [size, size])
    assert np.array_equal(fit(pixels, size), np.asarray(expected))


def test_small_sizes_keep_the_margin():
    pixels = noise(40, 60, 1)
    image = Image.fromarray(pixels[:, :, 0])
    expected = functional.center_crop(functional.resize(image, [20], antialias=True), [20, 20])
    assert np.array_equal(fit(pixels, 20)[:, :, 0], np.asarray(expected))


@pytest.mark.parametrize("size", [8, 32, 96])
def test_an_image_of_the_right_size_is_untouched(size):
    pixels = noise(size, size)
    assert fit(pixels, size) is pixels


def test_too_elongated_images_are_refused():
    with pytest.raises(ValueError, match="too elongated"):
        fit(np.zeros((30_000, 1, 1), np.uint8), 224)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_every_channel_is_resized_alike(channels):
    pixels = noise(9, 14, channels)
    result = resize(pixels, (6, 5))
    assert result.shape == (6, 5, channels)
    for channel in range(channels):
        alone = resize(pixels[:, :, channel : channel + 1], (6, 5))
        assert np.array_equal(result[:, :, channel : channel + 1], alone)


def test_halving_averages_by_hand():
    # Pillow's antialiased triangle over 2 of 4 pixels: weights 1, 3, 3, 1 inside, cut at the edge.
    row = np.array([[0, 0, 80, 80]], np.uint8)[:, :, None]
    left, right = resize(row, (1, 2))[0, :, 0].tolist()
    assert left == round(80 * 1 / 7)
    assert right == round(80 * 6 / 7)


def test_only_larger_images_shrink():
    pixels = noise(30, 60)
    assert shrink(pixels, 30) is pixels
    assert shrink(pixels, 40) is pixels
    assert shrink(pixels, None) is pixels
    assert shrink(pixels, 15).shape == (15, 30, 3)
    assert shrunk_shape(30, 60, 15) == (15, 30)
    assert shrunk_shape(30, 60, 40) == shrunk_shape(30, 60, None) == (30, 60)
