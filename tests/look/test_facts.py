"""What is said about data, against figures that were counted by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import photos
import pytest

from warmstart.configs import compose
from warmstart.look.facts import Facts, extremes, facts, problems
from warmstart.sight import view


def some(train: list[int], val: list[int], test: list[int], **fields: object) -> Facts:
    empty: dict[str, object] = {
        "heights": np.array([8, 8]),
        "widths": np.array([8, 8]),
        "modes": (),
        "damaged": (),
        "shared": (),
        "repeated": (),
        "conflicting": (),
        "near": (),
        "placed": {},
    }
    counts = {"train": np.array(train), "val": np.array(val), "test": np.array(test)}
    classes = tuple(f"class {i}" for i in range(len(train)))
    return Facts(classes=classes, counts=counts, **(empty | fields))


def test_what_knowing_nothing_gives() -> None:
    found = some([10, 40, 5, 40], [1, 3, 4, 2], [0, 1, 0, 9])
    assert found.chance == 0.25
    assert found.first_loss == pytest.approx(math.log(4))
    assert (found.largest, found.smallest) == (1, 2)
    assert found.imbalance == 8.0
    assert found.majority("train") == 40 / 95
    assert found.majority("val") == 0.3
    assert found.majority("test") == 0.1
    assert found.totals.tolist() == [11, 44, 9, 51]
    assert found.by_size() == [3, 1, 0, 2]  # by train, then by all


def test_one_size() -> None:
    assert some([1, 1], [1, 1], [1, 1]).one_size
    assert not some([1, 1], [1, 1], [1, 1], heights=np.array([8, 9])).one_size
    assert not some([1, 1], [1, 1], [1, 1], widths=np.array([8, 9])).one_size


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [(5, [0, 1, 2, 3, 4], []), (6, [0, 1, 2], [4, 5]), (100, [0, 1, 2], [98, 99])],
)
def test_extremes(count: int, first: list[int], last: list[int]) -> None:
    assert extremes(range(count), 5) == (first, last)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write(tmp_path_factory.mktemp("photos"))


def looked(root: Path, *overrides: str):
    config = compose(
        ["data=image_folder", f"data.root={root}", f"out={root.parent / 'out'}", *overrides]
    )
    return view(config)


def test_of_a_folder(root: Path) -> None:
    seen = looked(root)
    found = facts(seen)
    assert found.classes == ("a&b", "dog")
    # Of train, the copies of an image of test and of one of val are left out.
    assert {name: counts.tolist() for name, counts in found.counts.items()} == {
        "train": [4, 3],
        "val": [3, 3],
        "test": [2, 3],
    }
    assert [name for name, _ in found.damaged] == ["train/dog/broken.png", "test/dog/empty.jpg"]
    assert dict(found.damaged)["test/dog/empty.jpg"] == "the file is empty"
    assert len(found.heights) == 20
    assert dict(found.modes) == {"PNG RGB": 19, "JPEG RGB": 1}

    def names(groups: object) -> list[set[str]]:
        return [{seen.dataset.samples.ids[row] for row in rows} for rows in groups]

    same = {"train/a&b/same.png", "test/a&b/0.png"}
    contrary = {"val/dog/contrary.png", "train/a&b/1.png"}
    assert sorted(names(found.shared), key=min) == [same, contrary]
    assert names(found.conflicting) == [contrary]
    assert found.repeated == ()
    pairs = names([[first, second] for first, second, _ in found.near])
    assert {"train/a&b/2.png", "val/a&b/alike.jpg"} in pairs
    rows = dict(zip(seen.dataset.samples.ids, range(22), strict=True))
    assert found.placed[rows["train/a&b/same.png"]] == "train"
    assert found.placed[rows["test/a&b/0.png"]] == "test"


def test_equal_images_within_a_split_are_no_leak(tmp_path: Path) -> None:
    photos.write(tmp_path / "photos", odd=False)
    again = tmp_path / "photos" / "train" / "dog" / "again.png"
    again.write_bytes(photos.read(tmp_path / "photos", "train/dog/0.png"))
    found = facts(looked(tmp_path / "photos"))
    assert (len(found.repeated), len(found.shared), len(found.conflicting)) == (1, 0, 0)
    assert found.counts["train"].tolist() == [5, 4]


def said(root: Path, *overrides: str, on_bad: str = "error") -> list[str]:
    seen = looked(root, *overrides)
    return problems(facts(seen), seen.dataset, on_bad=on_bad)


def test_problems_are_sentences(root: Path) -> None:
    refused, *warnings, left_out, alike = said(root)
    assert refused == "2 damaged files: training would refuse; data.on_bad=skip leaves them out"
    assert any("label" in sentence for sentence in warnings)
    assert left_out == "2 images left out because another split has the same"
    assert alike == (
        "1 pair of images of different splits look alike: look whether they show the same; "
        "data.near_duplicates=drop leaves these out of train"
    )


def test_damaged_files_may_be_skipped(root: Path) -> None:
    first, *_ = said(root, on_bad="skip")
    assert first == "2 damaged files: left out, as data.on_bad=skip says"


def test_duplicates_that_are_kept_are_named(root: Path) -> None:
    sentences = said(root, "data.duplicates=keep")
    assert (
        "2 groups of equal images in several splits: an evaluation counts what was learned by "
        "heart; data.duplicates=drop leaves them out of train"
    ) in sentences
    assert not any("left out because" in sentence for sentence in sentences)


def test_what_looks_alike_may_be_left_out(root: Path) -> None:
    sentences = said(root, "data.near_duplicates=drop")
    assert sentences[-1] == "3 images left out because another split has the same"


def test_nothing_to_say_about_sound_data(tmp_path: Path) -> None:
    seen = looked(photos.write(tmp_path / "photos", odd=False))
    assert problems(facts(seen), seen.dataset, on_bad="error") == []


def test_a_training_subset_is_what_counts(tmp_path: Path) -> None:
    seen = looked(photos.write(tmp_path / "photos", odd=False), "data.per_class=2")
    assert facts(seen).counts["train"].tolist() == [2, 2]
