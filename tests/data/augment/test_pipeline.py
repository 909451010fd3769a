"""The whole augmentation: an image's result is its own, and impossible options are refused."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from warmstart.data.augment.pipeline import Augment
from warmstart.data.images import Split
from warmstart.data.preprocess import Preprocess
from warmstart.errors import ConfigError
from warmstart.models.architecture import Input

# Every operation, alone and together.
OPTIONS = {
    "shift": {"crop": "shift", "flip": 0.5, "vertical_flip": 0.5},
    "resized": {"crop": "resized", "flip": 0.5, "vertical_flip": 0.5},
    "scaled": {"crop": "scaled", "flip": 0.5},
    "rand_augment": {"policy": "rand_augment"},
    "aug_mix": {"policy": "aug_mix"},
    "noise": {"noise": 0.05},
    "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.2},
    "lighting": {"lighting": 0.1},
    "cutout": {"cutout": 0.5},
    "erasing": {"erasing": 0.7},
}
OPTIONS["all"] = {key: value for options in OPTIONS.values() for key, value in options.items()}
GEOMETRY = ("shift", "resized", "scaled", "noise", "cutout", "erasing")
every_option = pytest.mark.parametrize("name", OPTIONS)


def split_of(count, *, height=9, width=7, channels=3, originals=False):
    generator = np.random.default_rng(0)
    shape = (count, height, width, channels)
    pixels = generator.integers(0, 256, shape, dtype=np.uint8)
    split = Split.of(pixels, np.zeros(count), tuple(map(str, range(count))))
    sizes = generator.integers(1, 30, (count, 2))
    own = [generator.integers(0, 256, (*size, channels), dtype=np.uint8) for size in sizes]
    return dataclasses.replace(split, originals=own if originals else None)


def table(augment, count):
    return torch.rand(count, augment.columns, generator=torch.Generator().manual_seed(1))


def both_parts(augment, split, indices, uniforms):
    """Return the float pixels [n, c, h, w] that normalization gets."""
    pixels = augment.sample(split, indices, uniforms)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (len(indices), *split.shape)
    return augment(pixels.permute(0, 3, 1, 2).float(), uniforms)


def batched(augment, split, uniforms, *, size, channels_last=False):
    """Return the model's inputs for all images, made in batches of a size."""
    wanted = Input(None, split.shape[2], (0.4,) * split.shape[2], (0.3,) * split.shape[2])
    preprocess = Preprocess(wanted, augment=augment, channels_last=channels_last)
    results = []
    for start in range(0, len(uniforms), size):
        rows = np.arange(start, min(start + size, len(uniforms)))
        pixels = augment.sample(split, rows, uniforms[rows])
        results.append(preprocess(pixels, uniforms[rows], train=True))
    return torch.cat(results)


@every_option
@pytest.mark.parametrize("originals", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_an_image_is_the_same_in_any_batch(name, originals, channels_last):
    split = split_of(64, originals=originals)
    augment = Augment(**OPTIONS[name]).bind(split)
    uniforms = table(augment, 64)
    keys = {"channels_last": channels_last}
    whole = batched(augment, split, uniforms, size=64, **keys)
    for size in (1, 3):
        assert torch.equal(batched(augment, split, uniforms, size=size, **keys), whole), size
    plain = batched(Augment(), split, uniforms, size=64, **keys)
    assert (whole != plain).flatten(1).any(dim=1).float().mean() > 0.5


@every_option
def test_order_and_subsets_change_nothing(name):
    split = split_of(40, originals=True)
    augment = Augment(**OPTIONS[name]).bind(split)
    uniforms = table(augment, 40)
    whole = both_parts(augment, split, np.arange(40), uniforms)
    for order in (np.arange(40)[::-1].copy(), np.random.default_rng(1).permutation(40)[:11]):
        assert torch.equal(both_parts(augment, split, order, uniforms[order]), whole[order])
        part = split.take(order)
        found = both_parts(augment, part, np.arange(len(order)), uniforms[order])
        assert torch.equal(found, whole[order])


class Batches(torch.utils.data.Dataset):
    """Batches of four images, made wherever the loader says."""

    def __init__(self, augment, split, uniforms):
        self.parts = augment, split, uniforms

    def __getitem__(self, number):
        augment, split, uniforms = self.parts
        rows = np.arange(4 * number, 4 * number + 4)
        return augment.sample(split, rows, uniforms[rows])


def test_workers_change_nothing():
    split = split_of(24, originals=True)
    augment = Augment(**OPTIONS["all"]).bind(split)
    batches = Batches(augment, split, table(augment, 24))
    alone, helped = (
        torch.cat(list(DataLoader(batches, batch_size=None, sampler=range(6), num_workers=workers)))
        for workers in (0, 2)
    )
    assert torch.equal(alone, helped)


def test_it_travels_to_another_process():
    split = split_of(5)
    augment = Augment(**OPTIONS["all"]).bind(split)
    copied = pickle.loads(pickle.dumps(augment))
    uniforms, rows = table(augment, 5), np.arange(5)
    first, second = (both_parts(a, split, rows, uniforms) for a in (augment, copied))
    assert torch.equal(first, second)


@settings(max_examples=40)
@given(
    st.sampled_from(sorted(OPTIONS)),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from([1, 2, 3, 5]),
    st.booleans(),
)
def test_any_size_and_channels_give_pixels(name, height, width, channels, originals):
    if channels != 3 and name not in GEOMETRY:
        return  # refused, see below
    split = split_of(6, height=height, width=width, channels=channels, originals=originals)
    augment = Augment(**OPTIONS[name]).bind(split)
    x = both_parts(augment, split, np.arange(6), table(augment, 6))
    assert x.shape == (6, channels, height, width)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 255 + 1e-3


def test_columns_are_allotted_in_the_order_of_operations():
    assert Augment().columns == 0
    # Of former versions: [top, left, mirror] and [area, ratio, y, x, mirror].
    assert Augment(crop="shift").columns == 3
    assert Augment(crop="resized").columns == 5
    assert Augment(crop="scaled").columns == 4
    assert Augment(flip=0.5).columns == 1
    assert Augment(vertical_flip=0.5, policy="aug_mix", noise=0.1, hue=0.1).columns == 6
    assert Augment(brightness=0.1, saturation=0.1, lighting=0.1).columns == 5
    assert Augment(cutout=0.5, erasing=0.5).columns == 7
    assert Augment(mixup=0.2, cutmix=1.0).columns == 0
    split = split_of(8)
    whole = Augment(crop="shift", flip=0.5, brightness=0.5, erasing=0.5).bind(split)
    uniforms = table(whole, 8)
    crop = Augment(crop="shift", flip=0.5)
    rows = np.arange(8)
    expected = crop.sample(split, rows, uniforms[:, :3])
    assert torch.equal(whole.sample(split, rows, uniforms), expected)
    x = expected.permute(0, 3, 1, 2).float()
    brighter = Augment(brightness=0.5)(x, uniforms[:, 3:4])
    erased = Augment(erasing=0.5).bind(split)(brighter, uniforms[:, 4:])
    assert torch.equal(whole(x, uniforms), erased)


def test_what_others_ask_it():
    none = Augment()
    assert (none.needs_originals, none.draws, none.mix, none.lighting) == (False, False, None, 0)
    assert Augment(crop="resized").needs_originals
    assert Augment(crop="scaled").needs_originals
    assert not Augment(crop="shift").needs_originals
    assert Augment(policy="aug_mix").draws
    assert Augment(noise=0.1).draws
    assert not Augment(hue=0.1, cutout=0.5, mixup=0.1).draws
    mix = Augment(cutmix=1.0).mix
    assert mix is not None
    assert (mix.mixup, mix.cutmix) == (0, 1)
    assert Augment(lighting=0.1).lighting == 0.1


def test_what_is_erased_has_the_mean_colour_of_the_training_images():
    pixels = np.zeros((2, 4, 4, 3), np.uint8)
    pixels[0, :, :, 0], pixels[:, :, :, 1], pixels[:, :2, :, 2] = 200, 30, 80
    split = Split.of(pixels, np.zeros(2), ("a", "b"))
    augment = Augment(cutout=1.0).bind(split)
    erased = augment(torch.zeros(1, 3, 4, 4), torch.tensor([[0.5, 0.5]]))
    assert erased[0, :, 2, 2].tolist() == pytest.approx([100, 30, 40])


def test_lighting_takes_the_principal_colour_of_the_training_images():
    # Red varies by 51 around 51, a fifth of the range: a variance of 0.04.
    pixels = np.full((2, 1, 1, 3), 90, np.uint8)
    pixels[:, 0, 0, 0] = 0, 102
    augment = Augment(lighting=0.5).bind(Split.of(pixels, np.zeros(2), ("a", "b")))
    lit = augment(torch.full((1, 3, 2, 2), 90.0), torch.tensor([[0.975, 0.3, 0.3]]))
    shift = 1.959964 * 0.5 * 0.04 * 255
    assert lit[0, :, 1, 1].tolist() == pytest.approx([90 + shift, 90, 90], abs=1e-3)


@pytest.mark.parametrize(
    ("options", "channels", "message"),
    [
        ({"hue": 0.1}, 1, r"augment.hue .* have 1 channel, and it needs 3; give augment.hue=0"),
        ({"saturation": 0.1}, 1, "augment.saturation .* give augment.saturation=0"),
        ({"lighting": 0.1}, 1, "augment.lighting .* give augment.lighting=0"),
        ({"lighting": 0.1}, 4, "augment.lighting .* have 4 channels"),
        ({"brightness": 0.1}, 4, "augment.brightness .* needs 1 or 3"),
        ({"contrast": 0.1}, 2, "augment.contrast .* needs 1 or 3"),
        (
            {"policy": "rand_augment"},
            5,
            r"augment.policy=rand_augment .* 5 channels, .* 1 or 3; give augment.policy=null",
        ),
    ],
)
def test_colours_need_their_channels(options, channels, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**options).bind(split_of(2, channels=channels))


def test_gray_images_take_what_needs_no_colour():
    split = split_of(4, channels=1)
    augment = Augment(policy="trivial_augment", brightness=0.3, contrast=0.3, cutout=0.3)
    assert both_parts(augment.bind(split), split, np.arange(4), torch.rand(4, 6)).shape[1] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": "random"}, r"crop is 'random', but must be one of null, resized, scaled, shift"),
        ({"crop": "shift", "padding": 0}, "padding is 0, but must be a whole number of pixels, 1"),
        ({"crop": "shift", "padding": 1.5}, "padding is 1.5"),
        ({"crop": "shift", "padding": True}, "padding is True"),
        ({"flip": 1.5}, r"flip is 1.5, but must be in \[0, 1\], a share of the images"),
        ({"flip": float("nan")}, "flip is nan"),
        ({"vertical_flip": -0.1}, "vertical_flip is -0.1"),
        ({"erasing": "much"}, "erasing is 'much'"),
        ({"crop": "resized", "scale": (0.5, 0.2)}, "scale is .*the lower first"),
        ({"crop": "resized", "scale": (0.5, 2.0)}, "scale is .*at most 1"),
        ({"crop": "resized", "scale": (0.5,)}, "scale is .*two numbers"),
        ({"crop": "resized", "scale": (0.5, None)}, "scale is .*two numbers"),
        ({"crop": "resized", "ratio": (0.0, 1.0)}, "ratio is .*above 0"),
        ({"crop": "scaled", "short_side": (0.9, 2.0)}, "short_side is .*1 or more"),
        ({"policy": "augment"}, "policy is 'augment', but must be one of"),
        ({"noise": -0.1}, r"noise is -0.1, but must be in \[0, 1\]"),
        ({"brightness": -1}, "brightness is -1, but must be a number of at least 0"),
        ({"hue": 0.6}, r"hue is 0.6, but must be in \[0, 0.5\]"),
        ({"cutout": 16}, r"cutout is 16, but must be in \[0, 1\]"),
        ({"erasing": 0.5, "erasing_scale": (0.0, 0.5)}, "erasing_scale is .*above 0"),
        ({"mixup": -0.2}, "mixup is -0.2, but must be a number of at least 0"),
        ({"cutmix": float("inf")}, "cutmix is inf"),
        ({"padding": 4}, "padding is 4, but takes effect only with augment.crop=shift; add that"),
        ({"crop": "scaled", "scale": (0.5, 1)}, "scale is .*only with augment.crop=resized"),
        ({"crop": "shift", "ratio": (0.5, 1)}, "ratio is .*only with augment.crop=resized"),
        ({"short_side": (1, 2)}, "short_side is .*only with augment.crop=scaled"),
        ({"operations": 2}, "operations is 2, .*only with augment.policy=rand_augment"),
        ({"magnitude": 9}, "magnitude is 9, .*rand_augment or aug_mix; add that, or leave"),
        ({"erasing_scale": (0.1, 0.2)}, "erasing_scale is .*only with augment.erasing above 0"),
        ({"erasing_ratio": (0.3, 3)}, "erasing_ratio is .*only with augment.erasing above 0"),
    ],
)
def test_impossible_values_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Augment(**options)
