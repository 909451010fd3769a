"""Batches as a function of (seed, step), and the way from stored pixels to a model's input."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch

from warmstart.data.augment import CropFlip, ResizedCrop
from warmstart.data.batches import (
    Preprocess,
    TrainBatches,
    eval_loader,
    input_of,
    split_digest,
    train_loader,
)
from warmstart.data.images import Images, Split
from warmstart.models.architecture import Input

AUGMENTS = {"crop_flip": CropFlip(padding=2, flip=0.5), "resized_crop": ResizedCrop()}
every_augment = pytest.mark.parametrize("augment", AUGMENTS.values(), ids=AUGMENTS)


@pytest.fixture
def numbered(make_split):
    """Return a function that makes a split whose labels are the images' numbers."""
    return lambda count, **keys: make_split(count, classes=count, **keys)


def batches_of(split, *, batch_size, columns=3, seed=0):
    return TrainBatches(split, batch_size=batch_size, columns=columns, seed=seed)


def assert_same(first, second):
    assert len(first) == len(second)
    for batch, other in zip(first, second, strict=True):
        for tensor, expected in zip(batch, other, strict=True):
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_every_image_comes_once_per_pass(numbered, batch_size):
    split = numbered(10)
    batches = batches_of(split, batch_size=batch_size)
    width = min(batch_size, 10)
    seen = []
    for step in range(30):
        pixels, labels, uniforms = batches[step]
        assert pixels.shape == (width, 8, 8, 1)
        assert uniforms.shape == (width, 3)
        # Pixels and labels are of the same images.
        assert np.array_equal(pixels.numpy(), split.pixels[labels.numpy()])
        seen += labels.tolist()
    whole = [tuple(seen[start : start + 10]) for start in range(0, len(seen) - 9, 10)]
    assert len(whole) >= 3
    assert all(sorted(part) == list(range(10)) for part in whole)
    assert len(set(whole)) == len(whole)  # each pass in an order of its own


def test_a_batch_does_not_depend_on_the_batches_before_it(numbered):
    split = numbered(10)
    walked = [batches_of(split, batch_size=4)[step] for step in range(12)]
    one = batches_of(split, batch_size=4)
    backwards = [one[step] for step in reversed(range(12))]
    assert_same(walked, backwards[::-1])


@pytest.mark.parametrize("first", [0, 1, 5, 11])
def test_a_loader_that_starts_later_gives_the_same_batches(numbered, first):
    split = numbered(10)
    unbroken = list(train_loader(batches_of(split, batch_size=4), first=0, steps=12, workers=0))
    resumed = list(train_loader(batches_of(split, batch_size=4), first=first, steps=12, workers=0))
    assert len(unbroken) == 12
    assert_same(resumed, unbroken[first:])


@pytest.mark.parametrize("first", [0, 5])
def test_workers_change_nothing(numbered, first):
    split = numbered(10)
    alone, helped = (
        list(train_loader(batches_of(split, batch_size=4), first=first, steps=12, workers=workers))
        for workers in (0, 2)
    )
    assert_same(alone, helped)


def test_batches_travel_to_another_process(numbered):
    batches = batches_of(numbered(10), batch_size=4)
    batches[0]
    copied = pickle.loads(pickle.dumps(batches))
    assert_same([copied[k] for k in range(6)], [batches[k] for k in range(6)])


def test_another_seed_gives_another_order_and_augmentation(numbered):
    first, second = (batches_of(numbered(32), batch_size=32, seed=seed)[0] for seed in (0, 1))
    assert first[1].tolist() != second[1].tolist()
    assert not torch.equal(first[2][first[1].argsort()], second[2][second[1].argsort()])


def test_images_are_augmented_anew_in_each_pass(numbered):
    batches = batches_of(numbered(8), batch_size=8)
    (_, labels, uniforms), (_, again, later) = batches[0], batches[1]
    assert not torch.equal(uniforms[labels.argsort()], later[again.argsort()])


def one_pass(split, augment, *, batch_size, number=0):
    """Return image number -> its pixels as the model gets them, in pass `number`."""
    batches = batches_of(split, batch_size=batch_size, columns=augment.columns)
    wanted = Input(8, 1, (0.4,), (0.3,))
    preprocess = Preprocess(wanted, augment=augment, channels_last=False)
    pairs = []
    for step in range(-(-len(split) * (number + 1) // batches.batch_size)):
        pixels, labels, uniforms = batches[step]
        pairs += zip(labels.tolist(), preprocess(pixels, uniforms, train=True), strict=True)
    found = dict(pairs[number * len(split) : (number + 1) * len(split)])
    assert len(found) == len(split)
    return found


@every_augment
@pytest.mark.parametrize("number", [0, 1])
def test_pixels_do_not_depend_on_the_batch_size(numbered, augment, number):
    split = numbered(64)
    single = one_pass(split, augment, batch_size=1, number=number)
    for batch_size in (7, 64):
        found = one_pass(split, augment, batch_size=batch_size, number=number)
        assert all(torch.equal(found[image], single[image]) for image in range(64)), batch_size


@every_augment
def test_pixels_are_the_same_in_nested_subsets(numbered, augment):
    split = numbered(64)
    whole = one_pass(split, augment, batch_size=16)
    for rows in (np.arange(0, 64, 3), np.arange(5), np.array([40])):
        part = one_pass(split.take(rows), augment, batch_size=7)
        assert sorted(part) == rows.tolist()
        assert all(torch.equal(part[image], whole[image]) for image in part)


def test_a_subset_in_any_order_works(numbered):
    split = numbered(10)
    shuffled = split.take(np.array([7, 2, 9, 0]))
    _, labels, uniforms = batches_of(shuffled, batch_size=4)[0]
    _, every, expected = batches_of(split, batch_size=10)[0]
    assert torch.equal(uniforms[labels.argsort()], expected[every.argsort()][[0, 2, 7, 9]])


@every_augment
def test_augmentation_does_something(numbered, augment):
    split = numbered(64)
    pixels = one_pass(split, augment, batch_size=64)
    plain = Preprocess(Input(8, 1, (0.4,), (0.3,)), augment=None, channels_last=False)
    originals = plain(torch.from_numpy(split.pixels), torch.empty(64, 0), train=True)
    changed = sum(not torch.equal(pixels[i], originals[i]) for i in range(64))
    assert changed > 50


def test_augmentation_is_for_training_only(numbered):
    split = numbered(4)
    preprocess = Preprocess(
        Input(8, 1, (0.0,), (1.0,)), augment=CropFlip(padding=0, flip=1.0), channels_last=False
    )
    pixels, uniforms = torch.from_numpy(split.pixels), torch.rand(4, 3)
    evaluated = preprocess(pixels, uniforms, train=False)
    assert torch.equal(preprocess(pixels, uniforms, train=True), evaluated.flip(3))
    torch.testing.assert_close(evaluated, pixels.permute(0, 3, 1, 2) / 255)


def test_digests_tell_what_a_run_saw(numbered):
    def digests(split=None, used=0, **keys):
        batches = batches_of(split or numbered(20), **{"batch_size": 8, "columns": 3, **keys})
        for step in range(used):
            batches[step]
        return batches.digests("none")

    plain = digests()
    assert set(plain) == {"order", "augment"}
    # Length and model are not in it: nothing that a longer run draws changes it.
    assert digests(used=50) == plain
    other = digests(seed=1)
    assert other["order"] != plain["order"]
    assert other["augment"] != plain["augment"]
    assert digests(batch_size=7)["order"] != plain["order"]
    assert digests(columns=5)["augment"] != plain["augment"]
    assert digests(columns=5)["order"] == plain["order"]
    assert digests(split=numbered(21))["order"] != plain["order"]
    subset = digests(split=numbered(40).take(np.arange(20, 40)))
    assert subset["order"] != plain["order"]


def test_an_eval_loader_gives_the_split_in_its_order(numbered):
    split = numbered(600)
    loaded = list(eval_loader(split, workers=0))
    assert [len(labels) for _, labels, _ in loaded] == [256, 256, 88]
    assert torch.cat([labels for _, labels, _ in loaded]).tolist() == list(range(600))
    pixels = torch.cat([pixels for pixels, _, _ in loaded])
    assert np.array_equal(pixels.numpy(), split.pixels)


def test_memory_mapped_images_give_the_same_batches(numbered, tmp_path):
    split = numbered(10)
    np.save(tmp_path / "pixels.npy", split.pixels)
    mapped = dataclasses.replace(split, pixels=np.load(tmp_path / "pixels.npy", mmap_mode="r"))
    in_memory, from_disk = (batches_of(part, batch_size=4) for part in (split, mapped))
    assert_same([from_disk[k] for k in range(4)], [in_memory[k] for k in range(4)])
    assert_same(list(eval_loader(mapped, workers=0)), list(eval_loader(split, workers=0)))


def test_preprocess_by_hand():
    pixels = torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8)  # one pixel: 0, 0.2 and 1
    wanted = Input(1, 3, (0.5, 0.2, 0.25), (0.25, 0.1, 0.5))
    preprocess = Preprocess(wanted, augment=None, channels_last=False)
    x = preprocess(pixels, torch.empty(1, 0), train=False)
    assert x.shape == (1, 3, 1, 1)
    torch.testing.assert_close(x.flatten(), torch.tensor([-2.0, 0.0, 1.5]), atol=1e-6, rtol=0)


def test_gray_images_become_rgb():
    pixels = torch.tensor([[[[51], [255]]]], dtype=torch.uint8)
    wanted = Input(None, 3, (0.0, 0.2, 0.5), (1.0, 0.2, 0.5))
    x = Preprocess(wanted, augment=None, channels_last=False)(
        pixels, torch.empty(1, 0), train=False
    )
    expected = torch.tensor([[[[0.2, 1.0]], [[0.0, 4.0]], [[-0.6, 1.0]]]])
    torch.testing.assert_close(x, expected, atol=1e-6, rtol=0)


def test_rgb_images_become_gray_by_luma():
    pixels = torch.tensor([[[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3]]], dtype=torch.uint8)
    wanted = Input(None, 1, (0.0,), (1.0,))
    x = Preprocess(wanted, augment=None, channels_last=False)(
        pixels, torch.empty(1, 0), train=False
    )
    torch.testing.assert_close(x.flatten(), torch.tensor([0.299, 0.587, 0.114, 1.0]))


def test_channels_last_changes_the_layout_alone(numbered):
    pixels = torch.from_numpy(numbered(4, channels=3).pixels)
    wanted = Input(8, 3, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
    plain, last = (
        Preprocess(wanted, augment=None, channels_last=flag)(pixels, torch.empty(4, 0), train=False)
        for flag in (False, True)
    )
    assert torch.equal(plain, last)
    assert plain.is_contiguous()
    assert last.is_contiguous(memory_format=torch.channels_last)


def images_of(pixels):
    """Return a data set of which `pixels` are the training images; the others are white."""
    white = Split.of(np.full_like(pixels, 255), np.arange(len(pixels)) % 2, ("v",) * len(pixels))
    train = Split.of(pixels, np.arange(len(pixels)) % 2, tuple(map(str, range(len(pixels)))))
    return Images(("a", "b"), train, white, white)


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


def test_the_split_digest_tells_which_images_are_where(make_split):
    split = make_split(12)
    parts = {
        name: split.take(np.arange(start, start + 4))
        for start, name in ((0, "train"), (4, "val"), (8, "test"))
    }
    whole = split_digest(Images(("a", "b", "c"), **parts))
    assert split_digest(Images(("a", "b", "c"), **parts)) == whole
    swapped = {**parts, "val": parts["test"], "test": parts["val"]}
    assert split_digest(Images(("a", "b", "c"), **swapped)) != whole
