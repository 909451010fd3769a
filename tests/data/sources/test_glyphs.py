"""The source task: every letter has ink and a shape of its own; the rendering is repeatable."""

import string
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from loading import load
from PIL import Image, ImageDraw, ImageFont

from warmstart.data.sources.digits import digits
from warmstart.data.sources.glyphs import CLASSES, FONTS, glyphs
from warmstart.errors import ConfigError

ALL_FONTS = [font for fonts in FONTS.values() for font in fonts]


@pytest.fixture(scope="module", autouse=True)
def letters_drawn_once():
    """Nothing: here they are drawn as often as they are asked for."""


@pytest.fixture(scope="module")
def sheet(tmp_path_factory):
    """The rendered letters as the default config makes them."""
    store = tmp_path_factory.mktemp("store")
    images = load(glyphs(store=store), store).images
    return SimpleNamespace(
        classes=images.classes,
        splits={"train": images.train, "val": images.val, "test": images.test.open(store / "log")},
    )


def test_the_sheet_is_gray_and_balanced(sheet):
    assert sheet.splits["train"].pixels.shape == (37 * 160, 8, 8, 1)
    for split, count in (("train", 160), ("val", 32), ("test", 32)):
        assert np.bincount(sheet.splits[split].labels).tolist() == [count] * 37


def test_no_digit_is_a_class(sheet):
    assert set(sheet.classes) <= set(string.ascii_letters)
    drawn = {name.split("/")[1] for split in sheet.splits.values() for name in split.ids}
    assert drawn == set(string.ascii_letters)


def test_a_class_holds_its_letter_in_one_case_or_both(sheet):
    for split in sheet.splits.values():
        for label, name in zip(split.labels, split.ids, strict=True):
            letter, name_of_class = name.split("/")[1], sheet.classes[label]
            assert letter == name_of_class or letter.upper() == name_of_class
            if letter in sheet.classes:
                assert letter == name_of_class


def test_every_image_has_ink_and_black_around_it(sheet):
    for split in sheet.splits.values():
        ink = (split.pixels > 127).sum(axis=(1, 2, 3))
        assert ink.min() >= 3
        assert ink.max() <= 52


def test_every_class_has_a_mean_of_its_own(sheet):
    pixels, labels = sheet.splits["train"].pixels[..., 0] / 255, sheet.splits["train"].labels
    means = np.stack([pixels[labels == label].mean(axis=0) for label in range(len(CLASSES))])
    apart = np.abs(means[:, None] - means[None]).mean(axis=(2, 3))
    assert apart[~np.eye(len(CLASSES), dtype=bool)].min() > 0.02


def test_letters_look_like_the_scans_of_digits(sheet, tmp_path):
    scans = load(digits(), tmp_path).images.train.pixels
    letters = sheet.splits["train"].pixels
    assert set(np.unique(letters)) == set(np.unique(scans))
    assert letters.mean() == pytest.approx(scans.mean(), rel=0.2)
    assert (letters == 0).mean() == pytest.approx((scans == 0).mean(), abs=0.1)


def test_the_nearest_mean_reads_unseen_fonts(sheet):
    """A poor reader, but chance is 1/37: labels and pictures belong together in every split."""
    train, test = sheet.splits["train"], sheet.splits["test"]
    means = np.stack([train.pixels[train.labels == c].mean(axis=0) for c in range(37)])
    distance = ((test.pixels[:, None] / 255 - means[None] / 255) ** 2).sum(axis=(2, 3, 4))
    assert (distance.argmin(axis=1) == test.labels).mean() > 0.5


@pytest.mark.parametrize("font", ALL_FONTS)
def test_each_font_draws_all_letters_and_no_boxes(font):
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    face = ImageFont.truetype(str(path), 32)

    def draw(letter):
        canvas = Image.new("L", (64, 64))
        ImageDraw.Draw(canvas).text((10, 10), letter, fill=255, font=face)
        return np.asarray(canvas)

    drawn = {letter: draw(letter) for letter in string.ascii_letters}
    assert all(picture.any() for picture in drawn.values())
    # A font without letters draws the same box for all of them.
    assert len({picture.tobytes() for picture in drawn.values()}) == 52
    missing = draw("\U0010fffe")
    assert all((picture != missing).any() for picture in drawn.values())


def test_no_split_shares_a_font(sheet):
    assert len(ALL_FONTS) == len(set(ALL_FONTS)) == 22
    for split, fonts in FONTS.items():
        assert {name.split("/")[2] for name in sheet.splits[split].ids} == set(fonts)


def test_the_rendering_is_a_function_of_its_arguments(tmp_path):
    first, again, other = (
        load(glyphs(store=tmp_path / name, variants=10, seed=seed), tmp_path / name).digest
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == again != other


def test_letters_are_rendered_once_and_mapped(tmp_path):
    glyphs(store=tmp_path, variants=10)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = glyphs(store=tmp_path, variants=10)
    assert isinstance(again.reader.pixels, np.memmap)
    assert files == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}


def test_another_size_is_rendered_at_that_size(tmp_path):
    header = glyphs(store=tmp_path, size=16, variants=10).reader.header(0)
    assert (header.height, header.width) == (16, 16)


def test_too_few_variants_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="variants is 4, but must be at least 10"):
        glyphs(store=tmp_path, variants=4)
