"""From stored pixels to a model's input, and what the data say about that input, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from warmstart.data.augment.pipeline import Augment
from warmstart.data.images import Images, Split, Vault
from warmstart.data.preprocess import Preprocess, input_of, moments, with_channels
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input


def plain(pixels, wanted, *, augment=None, channels_last=False, train=False, uniforms=None):
    """Return the model's input for uint8 pixels."""
    preprocess = Preprocess(wanted, augment=augment, channels_last=channels_last)
    uniforms = torch.empty(len(pixels), 0) if uniforms is None else uniforms
    return preprocess(pixels, uniforms, train=train)


def test_normalization_by_hand():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)  # one pixel: 0, 0.2 and 1
    x = plain(pixels, Input(1, 3, (0.5, 0.2, 0.25), (0.25, 0.1, 0.5)))
    assert x.shape == (1, 3, 1, 1)
    torch.testing.assert_close(x.flatten(), torch.tensor([-2.0, 0.0, 1.5]), atol=1e-6, rtol=0)


def test_gray_images_become_rgb():
    pixels = torch.tensor([[[[51], [255]]]], dtype=torch.uint8)
    for channels_last in (False, True):
        wanted = Input(None, 3, (0.0, 0.2, 0.5), (1.0, 0.2, 0.5))
        x = plain(pixels, wanted, channels_last=channels_last)
        expected = torch.tensor([[[[0.2, 1.0]], [[0.0, 4.0]], [[-0.6, 1.0]]]])
        torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


def test_rgb_images_become_gray_by_luma():
    pixels = torch.tensor([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]]], dtype=torch.uint8)
    x = plain(pixels, Input(None, 1, (0.0,), (1.0,)))
    torch.testing.assert_close(x.flatten(), torch.tensor([0.299, 0.587, 0.114, 1.0]))


def test_any_number_of_channels_goes_through(make_split):
    pixels = torch.from_numpy(make_split(3, channels=5).pixels)
    x = plain(pixels, Input(None, 5, (0.0,) * 5, (1.0,) * 5))
    torch.testing.assert_close(x, pixels.permute(0, 3, 1, 2) / 255)


@pytest.mark.parametrize("given", [1, 3])
def test_channels_last_changes_the_layout_alone(make_split, given):
    pixels = torch.from_numpy(make_split(4, channels=given).pixels)
    wanted = Input(8, 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    contiguous, last = (plain(pixels, wanted, channels_last=flag) for flag in (False, True))
    assert torch.equal(contiguous, last)
    assert contiguous.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def test_the_stored_pixels_stay_as_they_are(make_split):
    split = make_split(4, channels=3)
    pixels = torch.from_numpy(split.pixels)
    before = pixels.clone()
    for augment in (None, Augment(flip=1.0), Augment(brightness=0.5)):
        plain(
            pixels, Input(8, 3, (0.1,) * 3, (0.2,) * 3), augment=augment, uniforms=torch.rand(4, 1)
        )
        assert torch.equal(pixels, before)


def test_augmentation_is_for_training_only(make_split):
    pixels = torch.from_numpy(make_split(4).pixels)
    augment, uniforms = Augment(brightness=1.0), torch.full((4, 1), 0.25)
    wanted = Input(8, 1, (0.0,), (1.0,))
    keys = {"augment": augment, "uniforms": uniforms}
    evaluated = plain(pixels, wanted, train=False, **keys)
    torch.testing.assert_close(evaluated, pixels.permute(0, 3, 1, 2) / 255)
    torch.testing.assert_close(plain(pixels, wanted, train=True, **keys), evaluated / 2)


def test_augmentation_sees_the_images_own_channels():
    """Colours are changed before RGB images become gray."""
    pixels = torch.tensor([[[[100, 200, 50]]]], dtype=torch.uint8)
    augment = Augment(saturation=1.0)
    gray = plain(
        pixels,
        Input(None, 1, (0.0,), (1 / 255,)),
        augment=augment,
        train=True,
        uniforms=torch.tensor([[1.0]]),
    )
    # Twice the distance from the gray of 152.99: (47.01, 247.01, 0), of which the luma.
    expected = 0.299 * 47.01 + 0.587 * 247.01
    assert gray.item() == pytest.approx(expected, abs=1e-2)


def test_moments_by_hand():
    pixels = np.zeros((2, 1, 2, 2), np.uint8)
    pixels[..., 0] = [[[0, 255]], [[0, 255]]]
    pixels[..., 1] = [[[0, 51]], [[51, 102]]]
    mean, covariance = moments(Split.of(pixels, np.zeros(2), ("a", "b")))
    assert mean == pytest.approx([0.5, 0.2])
    # Products 0, 0.2, 0, 0.4 have the mean 0.15; less 0.5 * 0.2.
    assert covariance == pytest.approx(np.array([[0.25, 0.05], [0.05, 0.02]]))


def test_moments_of_many_images(make_split, monkeypatch):
    split = make_split(103, channels=3)
    values = split.pixels.reshape(-1, 3) / 255
    mean, covariance = moments(split)
    assert mean == pytest.approx(values.mean(axis=0))
    assert covariance == pytest.approx(np.cov(values.T, bias=True))
    # However they are read.
    monkeypatch.setattr("warmstart.data.preprocess._CHUNK", 1000)
    again = moments(split)
    assert np.array_equal(again[0], mean)
    assert np.array_equal(again[1], covariance)
    # Ten of 103 are every tenth or eleventh.
    some, _ = moments(split, most=10)
    rows = [0, 10, 20, 30, 41, 51, 61, 72, 82, 92]
    assert some == pytest.approx((split.pixels[rows] / 255).mean(axis=(0, 1, 2)))


def images_of(pixels):
    """Return a data set of which `pixels` are the training images; the others are white."""
    white = Split.of(np.full_like(pixels, 255), np.arange(len(pixels)) % 2, ("v",) * len(pixels))
    train = Split.of(pixels, np.arange(len(pixels)) % 2, tuple(map(str, range(len(pixels)))))
    return Images(("a", "b"), train, white, Vault(white))


def test_input_of_by_hand():
    pixels = np.zeros((2, 1, 2, 3), np.uint8)
    pixels[..., 0] = [[[0, 255]], [[0, 255]]]  # mean 0.5, deviation 0.5
    pixels[..., 1] = 51  # constant
    pixels[..., 2] = [[[0, 0]], [[0, 204]]]  # 0, 0, 0, 0.8: mean 0.2, deviation sqrt(0.12)
    found = input_of(images_of(pixels))
    assert found.size is None  # not square
    assert found.channels == 3
    assert found.mean == pytest.approx((0.5, 0.2, 0.2))
    # A constant channel is not divided by zero.
    assert found.std == pytest.approx((0.5, 0.001, 0.12**0.5))


def test_input_of_many_gray_images(make_split):
    split = make_split(2500, size=4)
    found = input_of(images_of(split.pixels))
    assert (found.size, found.channels) == (4, 1)
    assert found.mean == pytest.approx(((split.pixels / 255).mean(),))
    assert found.std == pytest.approx(((split.pixels / 255).std(),))


def test_channels_of_the_input():
    rgb = Input(224, 3, (0.1, 0.2, 0.6), (0.3, 0.4, 0.5))
    assert with_channels(rgb, None, given=1) == rgb
    gray = with_channels(rgb, 1, given=3)
    assert (gray.channels, gray.mean, gray.std) == (1, pytest.approx((0.3,)), pytest.approx((0.4,)))
    five = with_channels(rgb, 5, given=5)
    assert five.mean == (0.1, 0.2, 0.6, 0.1, 0.2)


@pytest.mark.parametrize(
    ("channels", "given", "message"),
    [
        (4, 1, r"model.channels is 4, but the images have 1; give model.channels=1 or 3"),
        (True, 3, r"model.channels is True, but the images have 3; give model.channels=1 or 3"),
        (None, 4, r"the model expects 3 channels, but the images have 4; give model.channels=4"),
        (1, 2, r"model.channels is 1, but the images have 2; give model.channels=2"),
    ],
)
def test_impossible_channels_are_refused(channels, given, message):
    with pytest.raises(ConfigError, match=message):
        with_channels(Input(None, 3, (0.5,) * 3, (0.5,) * 3), channels, given=given)
