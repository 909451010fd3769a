"""Pictures for the page: exactly what the network gets."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from PIL import Image

from warmstart.configs import compose
from warmstart.data.preprocess import Preprocess
from warmstart.look import pictures
from warmstart.randomness import derive
from warmstart.sight import Sight, view


def decoded(source: str) -> np.ndarray:
    head, _, text = source.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert head == f"data:image/{image.format.lower()};base64"
    return np.asarray(image)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write(tmp_path_factory.mktemp("photos"), odd=False)


def looked(root: Path, *overrides: str) -> Sight:
    words = ["data=image_folder", f"data.root={root}", f"out={root.parent / 'out'}", *overrides]
    return view(compose(words))


@pytest.mark.parametrize("channels", [1, 3])
def test_small_images_are_kept_exactly(channels: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, channels), dtype=np.uint8)
    found = decoded(pictures.encode(pixels))
    assert np.array_equal(found.reshape(pixels.shape), pixels)


def test_large_images_become_jpeg() -> None:
    pixels = np.full((65, 64, 3), 100, np.uint8)
    source = pictures.encode(pixels)
    assert source.startswith("data:image/jpeg;base64,")
    assert np.abs(decoded(source).astype(int) - 100).max() <= 2


def test_of_many_channels_some_are_shown() -> None:
    pixels = np.arange(2 * 2 * 5, dtype=np.uint8).reshape(2, 2, 5)
    assert np.array_equal(decoded(pictures.encode(pixels)), pixels[..., :3])
    assert np.array_equal(decoded(pictures.encode(pixels[..., :2])), pixels[..., 0])


@pytest.mark.parametrize("channels", ["null", "1"])
def test_without_augmentation_all_passes_show_the_image(root: Path, channels: str) -> None:
    seen = looked(root, f"model.channels={channels}")
    plain, later = pictures.passes(seen, 0, 2)
    assert [picture.source for picture in later] == [plain.source] * 2
    assert (plain.label, plain.name) == ("a&b", "train/a&b/0.png")
    expected = photos.photo(0)
    if channels == "1":
        expected = np.rint(expected @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    assert np.abs(decoded(plain.source).astype(int) - expected).max() <= 1


@pytest.mark.parametrize(
    "augment", ["crop_flip", "resized_crop", "scaled_crop", "trivial_augment", "color_jitter"]
)
def test_a_pass_shows_what_the_network_gets_in_it(root: Path, augment: str) -> None:
    # The batch is the whole split: batch k of the run is pass k.
    seen = looked(root, f"augment={augment}", "batch_size=8", "data.size=32")
    trained = [{p.source for p in pictures.batch(seen, step, 8)} for step in range(3)]
    for index in (0, 5):
        plain, later = pictures.passes(seen, index, 3)
        for step, picture in enumerate(later):
            assert picture.source in trained[step]
        assert len({picture.source for picture in (plain, *later)}) > 1


def test_the_first_batch_is_that_of_the_run(root: Path) -> None:
    seen = looked(root, "augment=crop_flip", "batch_size=6")
    shown = pictures.batch(seen, 0, 4)
    labels = seen.batches[0][1].tolist()
    assert [picture.label for picture in shown] == [seen.images.classes[i] for i in labels[:4]]
    assert len(pictures.batch(seen, 0, 100)) == 6


def test_mixed_images_are_those_of_the_step(root: Path) -> None:
    seen = looked(root, "augment=mixup", "augment.mixup=5.0", "batch_size=8")
    state = torch.random.get_rng_state()
    shown = pictures.mixed(seen, 1, 3)
    assert torch.equal(torch.random.get_rng_state(), state)

    pixels, labels, uniforms = seen.batches[1]
    preprocess = Preprocess(seen.input, augment=seen.augment, channels_last=False)
    torch.manual_seed(derive(0, "step", 1))
    x, shares = seen.augment.mix(preprocess(pixels, uniforms, train=True), labels, 2)
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (seen.input.mean, seen.input.std))
    for picture, image in zip(shown, x, strict=False):
        expected = 255 * (image * std + mean).permute(1, 2, 0).numpy()
        assert np.abs(decoded(picture.source) - expected).max() < 0.51
    for picture, share in zip(shown, shares.tolist(), strict=False):
        (less, second), (most, first) = sorted(zip(share, ("a&b", "dog"), strict=True))
        found = re.fullmatch(r"(\d+)% (.+?)(?: \+ (\d+)% (.+))?", picture.label)
        assert abs(int(found[1]) - 100 * most) <= 0.5
        assert found[2] == first
        assert found[4] == (second if less >= 0.005 else None)
        assert int(found[1]) + int(found[3] or 0) == 100


def test_nothing_is_mixed_without_a_mix(root: Path) -> None:
    assert pictures.mixed(looked(root, "augment=crop_flip"), 0, 3) == []


def test_a_stored_image_is_shown_as_in_validation(root: Path) -> None:
    seen = looked(root, "augment=crop_flip")
    row = int(seen.images.val.rows[1])
    found = decoded(pictures.stored(seen, row))
    assert np.array_equal(found, photos.photo(9))


@pytest.mark.parametrize("most", [1, 2, 5, 100])
def test_examples_are_of_all_classes(root: Path, most: int) -> None:
    seen = looked(root)
    indices = pictures.spread(seen, most)
    assert len(indices) == len(set(indices)) == min(most, 8)
    assert len(set(seen.images.train.labels[indices].tolist())) == min(most, 2)
