"""Training batches as a function of (seed, step), balanced classes, batches of an evaluation."""

from __future__ import annotations

import dataclasses
import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from warmstart.data.augment.pipeline import Augment
from warmstart.data.batches import TrainBatches, eval_batch, eval_loader, train_loader
from warmstart.data.images import Split
from warmstart.data.views import Crops, View


class Brighten:
    """Stands for an augmentation: adds up to 99 to all pixels of an image."""

    def __init__(self, columns=1):
        self.columns = columns

    def sample(self, split, indices, uniforms):
        added = (uniforms[:, 0] * 100).long()[:, None, None, None]
        return ((torch.from_numpy(split.batch(indices)) + added) % 256).to(torch.uint8)


class FromFiles:
    """Pictures that are read whenever they are asked for."""

    def __init__(self, folder, pixels):
        self.folder, self.shape = folder, pixels.shape
        for row, image in enumerate(pixels):
            np.save(folder / f"{row}.npy", image)

    def __getitem__(self, rows):
        return np.stack([np.load(self.folder / f"{row}.npy") for row in rows])


@pytest.fixture
def numbered(make_split):
    """Return a function that makes a split whose labels are the images' numbers."""
    return lambda count, **keys: make_split(count, classes=count, **keys)


@pytest.fixture(params=["memory", "mapped", "streamed"])
def stored(request, numbered, tmp_path):
    """Return a split of ten images, held in one of the ways that a data set may be held."""
    split = numbered(10)
    if request.param == "memory":
        return split
    if request.param == "streamed":
        return dataclasses.replace(split, pictures=FromFiles(tmp_path, split.pixels))
    np.save(tmp_path / "pixels.npy", split.pixels)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    return dataclasses.replace(split, pictures=mapped)


def batches_of(split, *, batch_size, columns=3, seed=0, **keys):
    augment = Brighten(columns) if columns else None
    return TrainBatches(split, batch_size=batch_size, augment=augment, seed=seed, **keys)


def assert_same(first, second):
    assert len(first) == len(second)
    for batch, other in zip(first, second, strict=True):
        for tensor, expected in zip(batch, other, strict=True):
            assert tensor.dtype == expected.dtype
            assert torch.equal(tensor, expected)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 10, 64])
def test_every_image_comes_once_per_pass(numbered, batch_size):
    split = numbered(10)
    batches = batches_of(split, batch_size=batch_size, columns=0)
    width = min(batch_size, 10)
    seen = []
    for step in range(30):
        pixels, labels, uniforms = batches[step]
        assert pixels.shape == (width, 8, 8, 1)
        assert uniforms.shape == (width, 0)
        # Pixels and labels are of the same images.
        assert np.array_equal(pixels.numpy(), split.pixels[labels.numpy()])
        seen += labels.tolist()
    whole = [tuple(seen[start : start + 10]) for start in range(0, len(seen) - 9, 10)]
    assert len(whole) >= 3
    assert all(sorted(part) == list(range(10)) for part in whole)
    assert len(set(whole)) == len(whole)  # each pass in an order of its own


def test_known_batches(numbered):
    # A change here changes every run that anybody has recorded.
    batches = TrainBatches(numbered(20), batch_size=8, augment=Brighten(3), seed=7)
    assert batches[0][1].tolist() == [11, 16, 6, 3, 7, 9, 2, 0]
    assert batches.digests("none") == {
        "order": "7ae4aec0feaa23a5e3a341d183277f75561ef15970af267ccf8c0d795184f4ca",
        "augment": "00fdcbd3ef895f95a8b72f53f70b7b2435da02406faeb279211fea20b207a67b",
    }


def test_the_augmentation_gets_the_images_and_their_numbers(numbered):
    split = numbered(10)
    pixels, labels, uniforms = batches_of(split, batch_size=4)[2]
    assert uniforms.shape == (4, 3)
    plain = torch.from_numpy(split.pixels[labels.numpy()]).long()
    added = (pixels.long() - plain) % 256
    assert (added == (uniforms[:, 0] * 100).long()[:, None, None, None]).all()


@pytest.mark.parametrize("balanced", [False, True])
def test_a_batch_does_not_depend_on_the_batches_before_it(make_split, balanced):
    split = make_split(10)
    walked = [batches_of(split, batch_size=4, balanced=balanced)[step] for step in range(12)]
    one = batches_of(split, batch_size=4, balanced=balanced)
    backwards = [one[step] for step in reversed(range(12))]
    assert_same(walked, backwards[::-1])


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("first", [0, 1, 5, 11])
def test_a_loader_that_starts_later_gives_the_same_batches(make_split, first, balanced):
    unbroken, resumed = (
        list(
            train_loader(
                batches_of(make_split(10), batch_size=4, balanced=balanced),
                first=start,
                steps=12,
                workers=0,
            )
        )
        for start in (0, first)
    )
    assert len(unbroken) == 12
    assert_same(resumed, unbroken[first:])


@pytest.mark.parametrize("balanced", [False, True])
def test_workers_change_nothing_and_end(stored, balanced):
    def batches(workers):
        made = batches_of(stored, batch_size=4, balanced=balanced)
        return list(train_loader(made, first=3, steps=12, workers=workers))

    before = multiprocessing.active_children()
    assert_same(batches(0), batches(2))
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"crop": "shift", "padding": 2},
        {"policy": "rand_augment"},
        {"crop": "resized", "noise": 0.1},
    ],
    ids=str,
)
def test_augmented_images_depend_on_neither_workers_nor_batches(make_split, options, balanced):
    split = make_split(10, size=16, channels=3)
    large = np.random.default_rng(1).integers(0, 256, (10, 20, 24, 3), dtype=np.uint8)
    split = dataclasses.replace(split, originals=list(large))
    augment = Augment(**options).bind(split)

    def images(batch_size, workers):
        made = TrainBatches(
            split, batch_size=batch_size, seed=0, augment=augment, balanced=balanced
        )
        loader = train_loader(made, first=0, steps=20 // batch_size, workers=workers)
        return [torch.cat(parts) for parts in zip(*loader, strict=True)]

    assert_same([images(1, 0)], [images(5, 2)])


def test_a_stopped_loop_ends_its_workers(stored):
    before = multiprocessing.active_children()
    batches = iter(train_loader(batches_of(stored, batch_size=4), first=0, steps=10**6, workers=2))
    next(batches)
    assert len(multiprocessing.active_children()) == len(before) + 2
    del batches
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("balanced", [False, True])
def test_batches_travel_to_another_process(stored, balanced):
    batches = batches_of(stored, batch_size=4, balanced=balanced)
    batches[0]
    copied = pickle.loads(pickle.dumps(batches))
    assert_same([copied[k] for k in range(6)], [batches[k] for k in range(6)])


def test_how_images_are_held_changes_nothing(stored, numbered):
    one, other = (batches_of(split, batch_size=4) for split in (stored, numbered(10)))
    assert_same([one[k] for k in range(4)], [other[k] for k in range(4)])
    assert_same(list(eval_loader(stored, workers=0)), list(eval_loader(numbered(10), workers=0)))


def test_another_seed_gives_another_order_and_augmentation(numbered):
    first, second = (batches_of(numbered(32), batch_size=32, seed=seed)[0] for seed in (0, 1))
    assert first[1].tolist() != second[1].tolist()
    assert not torch.equal(first[2][first[1].argsort()], second[2][second[1].argsort()])


def test_images_are_augmented_anew_in_each_pass(numbered):
    batches = batches_of(numbered(8), batch_size=8)
    (_, labels, uniforms), (_, again, later) = batches[0], batches[1]
    assert not torch.equal(uniforms[labels.argsort()], later[again.argsort()])


def stream(batches, passes):
    """Return what a number of passes show: ids, labels and uniforms, in order."""
    steps = -(-len(batches.split) * passes // batches.batch_size)
    parts = [batches[step] for step in range(steps)]
    labels = torch.cat([labels for _, labels, _ in parts])[: len(batches.split) * passes]
    uniforms = torch.cat([uniforms for _, _, uniforms in parts])[: len(labels)]
    pixels = torch.cat([pixels for pixels, _, _ in parts])[: len(labels)]
    return pixels, labels, uniforms


@pytest.mark.parametrize("balanced", [False, True])
def test_the_stream_does_not_depend_on_the_batch_size(make_split, balanced):
    split = make_split(23)
    single = stream(batches_of(split, batch_size=1, balanced=balanced), 3)
    for batch_size in (7, 23):
        assert_same(
            [stream(batches_of(split, batch_size=batch_size, balanced=balanced), 3)], [single]
        )


def test_pixels_are_the_same_in_nested_subsets(numbered):
    def by_image(split, batch_size):
        pixels, labels, _ = stream(batches_of(split, batch_size=batch_size), 1)
        return dict(zip(labels.tolist(), pixels, strict=True))

    split = numbered(64)
    whole = by_image(split, 16)
    for rows in (np.arange(0, 64, 3), np.arange(5), np.array([40]), np.array([7, 2, 9, 0])):
        part = by_image(split.take(rows), 7)
        assert sorted(part) == sorted(rows.tolist())
        assert all(torch.equal(part[image], whole[image]) for image in part)


def test_digests_tell_what_a_run_saw(numbered, make_split):
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
    one, two = (digests(split=make_split(20), balanced=balanced) for balanced in (False, True))
    assert one["order"] != two["order"]
    assert one["augment"] != two["augment"]


def unequal(counts):
    """Return a split with so many images of each class, in no order; its ids are its rows."""
    labels = np.repeat(np.arange(len(counts)), counts)
    labels = labels[np.random.default_rng(0).permutation(len(labels))]
    pixels = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Split.of(pixels, labels, tuple(map(str, range(len(labels)))))


def shown(split, passes, *, seed=0, batch_size=5):
    """Return the images of each pass of balanced training, and the numbers they come with."""
    batches = TrainBatches(
        split, batch_size=batch_size, seed=seed, augment=Untouched(), balanced=True
    )
    pixels, labels, uniforms = stream(batches, passes)
    images = pixels.flatten().numpy()
    label_of = dict(zip(split.rows.tolist(), split.labels.tolist(), strict=True))
    assert [label_of[image] for image in images.tolist()] == labels.tolist()
    return images.reshape(passes, -1), uniforms.reshape(passes, len(split), -1)


class Untouched:
    """Stands for an augmentation that leaves its work to the device."""

    columns = 2

    def sample(self, split, indices, uniforms):
        return torch.from_numpy(split.batch(indices))


class_counts = st.lists(st.integers(1, 20), min_size=2, max_size=6)


@given(class_counts, st.integers(0, 3))
def test_balanced_classes_come_equally_often(counts, seed):
    split = unequal(counts)
    images, _ = shown(split, len(counts), seed=seed)
    per_pass = np.array([np.bincount(split.labels[part], minlength=len(counts)) for part in images])
    assert set(per_pass.flatten()) <= {len(split) // len(counts), -(-len(split) // len(counts))}
    # The odd slots go round: after as many passes as classes, no class is ahead.
    assert set(per_pass.sum(axis=0)) == {len(split)}


@given(class_counts, st.integers(0, 3))
def test_every_image_of_a_class_comes_once_before_any_comes_twice(counts, seed):
    split = unequal(counts)
    images, _ = shown(split, 4, seed=seed)
    so_far = np.zeros(len(split), int)
    for part in images:
        so_far += np.bincount(part, minlength=len(split))
        for label in range(len(counts)):
            assert np.ptp(so_far[split.labels == label]) <= 1


def test_balanced_by_hand():
    # Six slots for two classes, three each: the one image of class 1 comes three times a pass,
    # the five of class 0 fill their nine slots of three passes once, and four of them again.
    split = unequal([5, 1])
    (rare,) = np.flatnonzero(split.labels == 1)
    images, uniforms = shown(split, 3)
    often = Counter(images.flatten().tolist())
    assert [Counter(part.tolist())[rare] for part in images] == [3, 3, 3]
    assert sorted(often.values()) == [1, 2, 2, 2, 2, 9]
    # Whenever an image comes again, also within a pass, it comes with other numbers.
    numbers = uniforms.reshape(-1, 2)[(images == rare).flatten()]
    assert len(numbers.unique(dim=0)) == 9


def test_an_image_is_augmented_by_how_often_it_has_come():
    # The first time with the numbers that it has in the first pass of a training on all images.
    split = unequal([3, 3])
    images, uniforms = shown(split, 2)
    everything = TrainBatches(split, batch_size=6, seed=0, augment=Untouched())
    for number in (0, 1):
        pixels, _, expected = everything[number]
        of = dict(zip(pixels.flatten().tolist(), expected, strict=True))
        for image, found in zip(images[number].tolist(), uniforms[number], strict=True):
            assert torch.equal(found, of[image])


def test_balanced_batches_of_a_subset_know_its_classes_only():
    split = unequal([4, 4, 4])
    rows = np.flatnonzero(split.labels != 1)[:-2]
    images, _ = shown(split.take(rows), 2)
    assert set(images.flatten()) <= set(rows.tolist())
    classes = np.bincount(split.labels[images.flatten()], minlength=3)
    assert classes.tolist() == [6, 0, 6]


def test_another_seed_shows_other_images_of_a_class_first():
    split = unequal([200, 10])
    first, second = (
        {image for image in shown(split, 1, seed=seed)[0][0] if split.labels[image] == 0}
        for seed in (0, 1)
    )
    assert len(first) == len(second) == 105
    assert first != second


@pytest.mark.parametrize(
    ("shape", "views", "expected"),
    [
        ((8, 8), 1, 256),
        ((128, 128), 1, 256),
        ((129, 129), 1, 252),  # 256 * 128**2 / 129**2
        ((224, 224), 1, 83),
        ((224, 224), 10, 8),
        ((224, 224), 50, 1),
        ((32, 32), 10, 25),
        ((10_000, 1000), 1, 1),
    ],
)
def test_how_many_images_an_evaluation_takes_at_once(shape, views, expected):
    assert eval_batch(*shape, views=views) == expected


@pytest.mark.parametrize("workers", [0, 2])
def test_an_eval_loader_gives_the_split_in_its_order(numbered, workers):
    split = numbered(600)
    loaded = list(eval_loader(split, workers=workers))
    assert [len(labels) for _, labels, _ in loaded] == [256, 256, 88]
    assert torch.cat([labels for _, labels, _ in loaded]).tolist() == list(range(600))
    pixels = torch.cat([pixels for pixels, _, _ in loaded])
    assert np.array_equal(pixels.numpy(), split.pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_eval_loader_gives_all_crops_of_an_image_in_a_row(numbered, workers):
    split = numbered(200)
    split = dataclasses.replace(split, originals=list(split.pixels))
    crops = Crops((View(8), View(8, mirrored=True), View(8)), size=8)
    loaded = list(eval_loader(split, workers=workers, crops=crops))
    assert [len(labels) for _, labels, _ in loaded] == [85, 85, 30]
    assert [tuple(pixels.shape) for pixels, _, _ in loaded] == [
        (255, 8, 8, 1),
        (255, 8, 8, 1),
        (90, 8, 8, 1),
    ]
    pixels = torch.cat([pixels for pixels, _, _ in loaded]).numpy()
    assert np.array_equal(pixels[0::3], split.pixels)
    assert np.array_equal(pixels[1::3], split.pixels[:, :, ::-1])
    assert np.array_equal(pixels[2::3], split.pixels)
