"""Crops at test time: where they lie, that they are resampled once, and their mean."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from warmstart.data.images import Split
from warmstart.data.resize import fit, resize
from warmstart.data.views import Crops, View, check_eval, crops_of, needs_originals, views_of
from warmstart.errors import ConfigError


@pytest.fixture
def picture():
    """Return a function that makes a random image of some height and width."""

    def make(height, width, channels=1):
        return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)

    return make


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ((0.0, 0.0), slice(0, 4), slice(0, 4)),
        ((0.0, 1.0), slice(0, 4), slice(2, 6)),
        ((1.0, 0.0), slice(4, 8), slice(0, 4)),
        ((1.0, 1.0), slice(4, 8), slice(2, 6)),
        ((0.5, 0.5), slice(2, 6), slice(1, 5)),
    ],
)
def test_where_a_crop_lies(picture, place, rows, columns):
    image = picture(8, 6)  # margins of 4 rows and 2 columns
    plain, mirrored = Crops((View(6, *place), View(6, *place, mirrored=True)), size=4).of(image)
    assert np.array_equal(plain, image[rows, columns])
    assert np.array_equal(mirrored, image[rows, columns][:, ::-1])


def test_a_ramp_scaled_by_hand():
    # Each pixel of the half image is the mean of two, weighted 1:3:3:1 over their neighbours:
    # of a ramp 0, 10, 20 ... it is 5, 25, 45 ..., but for the edges.
    image = np.broadcast_to(10 * np.arange(12, dtype=np.uint8)[:, None], (16, 12, 1))
    (middle,) = Crops((View(6),), size=4).of(image)
    assert middle[:, :, 0].tolist() == [[25, 45, 65, 85]] * 4


def test_ten_are_the_corners_and_the_center_and_their_mirror_images():
    views = views_of("ten", 224)
    assert {view.short for view in views} == {256}
    places = [(0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5)]
    assert [(view.down, view.right) for view in views] == places * 2
    assert [view.mirrored for view in views] == [False] * 5 + [True] * 5


def test_ten_of_an_image_by_hand(picture):
    # 256/224 of 4 pixels are 5: the image becomes 6x5, with margins of 2 rows and 1 column.
    image = picture(8, 6)
    scaled = resize(image, (6, 5))
    crops = Crops(views_of("ten", 4), size=4).of(image)
    assert crops.shape == (10, 4, 4, 1)
    assert crops.dtype == np.uint8
    for crop, (top, left) in zip(crops, [(0, 0), (0, 1), (2, 0), (2, 1), (1, 0)] * 2, strict=True):
        expected = scaled[top : top + 4, left : left + 4]
        assert np.array_equal(crop, expected) or np.array_equal(crop, expected[:, ::-1])
    assert np.array_equal(crops[5:], crops[:5, :, ::-1])


@pytest.mark.parametrize(
    ("size", "sides"), [(224, [224, 256, 384, 480, 640]), (32, [32, 37, 55, 69, 91])]
)
def test_scales_are_ten_at_five_sizes(size, sides):
    views = views_of("scales", size)
    assert [view.short for view in views] == [side for side in sides for _ in range(10)]
    ten = {(view.down, view.right, view.mirrored) for view in views_of("ten", size)}
    for side in sides:
        here = {(v.down, v.right, v.mirrored) for v in views if v.short == side}
        assert here == ten


@pytest.mark.parametrize("size", [4, 32, 64, 100])
@pytest.mark.parametrize("shape", [(90, 131, 3), (131, 90, 1), (77, 40, 5), (20, 21, 1)])
def test_the_center_is_what_the_pictures_hold(picture, shape, size):
    image = picture(*shape)
    crops = Crops(views_of("center", size), size=size).of(image)
    assert np.array_equal(crops, fit(image, size)[None])
    if size >= 64:  # where the pictures have the margin that ten has
        assert np.array_equal(Crops(views_of("ten", size), size=size).of(image)[4], crops[0])


@pytest.mark.parametrize("crops", ["ten", "scales"])
def test_every_crop_is_a_box_of_the_image_resampled_once(picture, crops):
    image = picture(60, 90, 3)
    views = views_of(crops, 32)
    for view, found in zip(views, Crops(views, size=32).of(image), strict=True):
        width = int(view.short * 90 / 60)
        top, left = round((view.short - 32) * view.down), round((width - 32) * view.right)
        x, y = 90 / width, 60 / view.short
        box = (left * x, top * y, (left + 32) * x, (top + 32) * y)
        whole = Image.fromarray(image)
        expected = np.asarray(whole.resize((32, 32), Image.Resampling.BILINEAR, box=box))
        expected = expected[:, ::-1] if view.mirrored else expected
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_crops_of_several_images_follow_one_another(picture):
    images = [picture(8, 6), picture(7, 9), picture(12, 12)]
    split = Split.of(np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3), ("a", "b", "c"))
    split = dataclasses.replace(split, originals=images)
    crops = Crops(views_of("ten", 4), size=4)
    expected = np.concatenate([crops.of(images[2]), crops.of(images[0])])
    assert np.array_equal(crops(split, np.array([2, 0])), expected)
    # By row in the data set, not by place in the split.
    assert np.array_equal(crops(split.take(np.array([2, 0])), np.array([0, 1])), expected)


def two(average):
    return Crops((View(4), View(4, mirrored=True)), size=4, average=average)


def test_the_mean_of_probabilities_by_hand():
    # (1/2, 1/2) and (9/10, 1/10); (1/4, 3/4) twice.
    chances = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.25, 0.75], [0.25, 0.75]])
    logits = chances.log() + torch.tensor([[3.0], [-1.0], [0.0], [7.0]])
    mean = two("probabilities").mean(logits)
    assert mean.dtype == torch.float32
    torch.testing.assert_close(mean.softmax(dim=1), torch.tensor([[0.7, 0.3], [0.25, 0.75]]))
    torch.testing.assert_close(mean.exp(), mean.softmax(dim=1))


def test_the_mean_of_logits_by_hand():
    logits = torch.tensor([[1.0, 2.0], [3.0, -2.0], [0.0, 0.0], [5.0, 1.0]])
    assert two("logits").mean(logits).tolist() == [[2.0, 0.0], [2.5, 0.5]]


def test_the_mean_of_certain_predictions_stays_finite():
    mean = two("probabilities").mean(torch.tensor([[1000.0, 0.0], [0.0, 1000.0]]))
    assert mean.tolist() == [[pytest.approx(-math.log(2))] * 2]


def config(crops="center", average="probabilities"):
    return {"eval": {"crops": crops, "average": average}}


@pytest.mark.parametrize("crops", ["center", "ten", "scales"])
def test_what_is_allowed(crops):
    check_eval(config(crops))
    assert needs_originals(crops) == (crops != "center")


def test_the_shipped_config_is_allowed():
    text = (Path(__file__).parents[2] / "conf" / "train.yaml").read_text()
    check_eval(yaml.safe_load(text))


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        (
            {"crops": "tens", "average": "logits"},
            "eval.crops is 'tens', but must be one of center, scales, ten; did you mean 'ten'?",
        ),
        (
            {"crops": None, "average": "logits"},
            "eval.crops is None, but must be one of center, scales, ten",
        ),
        (
            {"crops": "ten", "average": "logit"},
            "eval.average is 'logit', but must be one of logits, probabilities; "
            "did you mean 'logits'?",
        ),
        (
            {"crops": "center", "average": "logits"},
            "eval.average is 'logits', but eval.crops=center leaves nothing to average; give "
            "eval.crops=ten or scales, or leave eval.average at probabilities",
        ),
        (
            "ten",
            "eval is 'ten', but must have the keys crops and average; for example eval.crops=ten "
            "eval.average=probabilities",
        ),
        (
            {"crops": "ten"},
            "eval is {'crops': 'ten'}, but must have the keys crops and average; for example "
            "eval.crops=ten eval.average=probabilities",
        ),
    ],
)
def test_what_is_refused(node, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        check_eval({"eval": node})


def test_crops_of_a_run(make_split, picture):
    split = make_split(3, size=16)
    assert crops_of(config(), split) is None
    cut = dataclasses.replace(split, originals=[picture(20, 30)] * 3)
    assert crops_of(config("ten", "logits"), cut) == Crops(views_of("ten", 16), 16, "logits")
    sentence = (
        "eval.crops is 'ten', but all images are 16x16, the size of the input, and leave no "
        "margin; give a data.size below 16 or eval.crops=center"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        crops_of(config("ten"), split)
