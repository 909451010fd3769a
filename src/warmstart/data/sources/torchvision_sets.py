"""Which data sets torchvision knows, and where its classes keep images, labels and names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from warmstart.data.samples import OPEN

Take = str | Callable[[Any], Any]
Parts = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class ImageSet:
    """How torchvision keeps a data set.

    Attributes:
        kind: Its class in ``torchvision.datasets``.
        files: The files and folders below the root that hold the set.
        parts: The class's arguments for each split that the set's authors made.
        images: The attribute with all pixels, or with a list of files, alone or in pairs with
            their labels; or a function that takes this out of an instance.
        labels: Of the images, in the same ways; numbered from `first`.
        classes: Their names.
        group: What it finds in a file's name must stay together.
        by_hand: How to get the set, where torchvision cannot fetch it.
    """

    kind: str
    files: tuple[str, ...]
    parts: Parts
    images: Take = "data"
    labels: Take = "targets"
    classes: Take | Sequence[str] = lambda data: data.classes
    first: int = 0
    group: str = ""
    by_hand: str = ""


_FLAG: Parts = {"train": {"train": True}, "test": {"train": False}}
_TWO: Parts = {"train": {"split": "train"}, "test": {"split": "test"}}
_THREE: Parts = {split: {"split": split} for split in ("train", "val", "test")}
_WITH_VALID: Parts = {**_THREE, "val": {"split": "valid"}}
# What is published on a set without a public test split are results on its val.
_VAL_AS_TEST: Parts = {"train": {"split": "train"}, "test": {"split": "val"}}
_UNDIVIDED: Parts = {OPEN: {}}

_DIGITS = tuple("0123456789")
_FACES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_SIGNS = (
    *(f"speed limit {limit}" for limit in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing"),
    *("no passing for vehicles over 3.5 t", "right of way at the next intersection"),
    *("priority road", "yield", "stop", "no vehicles", "no vehicles over 3.5 t", "no entry"),
    *("danger", "curve to the left", "curve to the right", "double curve", "bumpy road"),
    *("slippery road", "road narrows on the right", "road work", "traffic lights", "pedestrians"),
    *("children", "bicycles", "ice or snow", "wild animals", "end of all limits"),
    *("turn right", "turn left", "straight ahead", "straight ahead or right"),
    *("straight ahead or left", "keep right", "keep left", "roundabout"),
    *("end of no passing", "end of no passing for vehicles over 3.5 t"),
)


def _channels_last(data: Any) -> np.ndarray:
    return np.moveaxis(data.data, 1, -1)


def _caltech101(data: Any) -> list[str]:
    folder, places = f"{data.root}/101_ObjectCategories", zip(data.y, data.index, strict=True)
    return [f"{folder}/{data.categories[y]}/image_{index:04d}.jpg" for y, index in places]


def _caltech256(data: Any) -> list[str]:
    folder, places = f"{data.root}/256_ObjectCategories", zip(data.y, data.index, strict=True)
    return [f"{folder}/{data.categories[y]}/{y + 1:03d}_{index:04d}.jpg" for y, index in places]


def _sun397(data: Any) -> list[tuple[Path, int]]:
    return sorted(zip(data._image_files, data._labels, strict=True))  # as the disk lists them


def _synonyms(data: Any) -> list[str]:
    """Return the first word for each class, with its number for the two cranes and the like."""
    words = [words[0] for words in data.classes]
    counts = Counter(map(str.casefold, words))
    numbered = zip(words, data.wnids, strict=True)
    return [word if counts[word.casefold()] == 1 else f"{word} ({wnid})" for word, wnid in numbered]


def _letters(data: Any) -> list[str]:
    classes = [name for name in data.classes if name != "N/A"]
    return [
        f"small {name}" if name.upper() in classes and name.islower() else name for name in classes
    ]


def _files(kind: str, folder: str, parts: Parts, take: str = "_samples", **more: Any) -> ImageSet:
    """Return a set of files; with `take` alone their labels come in pairs with them."""
    return ImageSet(kind, (folder,), parts, **{"images": take, "labels": take, **more})


def _emnist(split: str) -> ImageSet:
    return ImageSet(
        "EMNIST",
        ("EMNIST",),
        {part: {"split": split, **flag} for part, flag in _FLAG.items()},
        images=lambda data: data.data.transpose(1, 2),  # its files hold columns, not rows
        classes=_letters,
        first=int(split == "letters"),
    )


def _imagenette(folder: str, size: str) -> ImageSet:
    parts = {part: {**split, "size": size} for part, split in _VAL_AS_TEST.items()}
    return _files("Imagenette", folder, parts, classes=_synonyms)


SETS: Mapping[str, ImageSet] = {
    "caltech101": _files(
        "Caltech101", "caltech101", _UNDIVIDED, images=_caltech101, labels="y", classes="categories"
    ),
    "caltech256": _files(
        "Caltech256", "caltech256", _UNDIVIDED, images=_caltech256, labels="y", classes="categories"
    ),
    "cifar10": ImageSet("CIFAR10", ("cifar-10-batches-py",), _FLAG),
    "cifar100": ImageSet("CIFAR100", ("cifar-100-python",), _FLAG),
    "country211": _files("Country211", "country211", _WITH_VALID, "samples"),
    "dtd": _files("DTD", "dtd", _THREE, "_image_files", labels="_labels"),
    **{
        f"emnist_{split}": _emnist(split)
        for split in ("balanced", "byclass", "bymerge", "digits", "letters", "mnist")
    },
    "eurosat": _files("EuroSAT", "eurosat", _UNDIVIDED, "samples"),
    "fashion_mnist": ImageSet("FashionMNIST", ("FashionMNIST",), _FLAG),
    "fer2013": ImageSet(
        "FER2013",
        ("fer2013/fer2013.csv",),
        _TWO,
        images=lambda data: np.stack([image for image, _ in data._samples]),
        labels="_samples",
        classes=_FACES,
        by_hand="get fer2013.csv from the Kaggle competition "
        "challenges-in-representation-learning-facial-expression-recognition-challenge",
    ),
    "fgvc_aircraft": _files(
        "FGVCAircraft", "fgvc-aircraft-2013b", _THREE, "_image_files", labels="_labels"
    ),
    "flowers102": _files("Flowers102", "flowers-102", _THREE, "_image_files", labels="_labels"),
    "food101": _files("Food101", "food-101", _TWO, "_image_files", labels="_labels"),
    # 30 pictures of each sign, taken from a car that comes closer: CLASS/SIGN_PICTURE.ppm
    "gtsrb": _files("GTSRB", "gtsrb", _TWO, classes=_SIGNS, group=r"\d+/\d+(?=_)"),
    "imagenet": ImageSet(
        "ImageNet",
        ("train", "val", "meta.bin"),
        _VAL_AS_TEST,
        "samples",
        "samples",
        classes=_synonyms,
        by_hand="get ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and "
        "ILSVRC2012_devkit_t12.tar.gz from image-net.org into that folder, and unpack them with "
        "torchvision.datasets.ImageNet(ROOT, split), once for train and once for val",
    ),
    "imagenette": _imagenette("imagenette2", "full"),
    "imagenette_160": _imagenette("imagenette2-160", "160px"),
    "imagenette_320": _imagenette("imagenette2-320", "320px"),
    "kmnist": ImageSet("KMNIST", ("KMNIST",), _FLAG),
    "mnist": ImageSet("MNIST", ("MNIST",), _FLAG),
    "oxford_pet": _files(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        {"train": {"split": "trainval"}, "test": {"split": "test"}},
        "_images",
        labels="_labels",
    ),
    "places365": ImageSet(
        "Places365",
        (
            "categories_places365.txt",
            "places365_train_standard.txt",
            "places365_val.txt",
            "data_256_standard",
            "val_256",
        ),
        {
            "train": {"split": "train-standard", "small": True},
            "test": {"split": "val", "small": True},
        },
        "imgs",
        "imgs",
        classes=lambda data: sorted(data.class_to_idx, key=data.class_to_idx.__getitem__),
    ),
    "qmnist": ImageSet("QMNIST", ("QMNIST",), _FLAG, labels=lambda data: data.targets[:, 0]),
    "rendered_sst2": _files("RenderedSST2", "rendered-sst2", _THREE),
    "semeion": ImageSet("SEMEION", ("semeion.data",), _UNDIVIDED, labels="labels", classes=_DIGITS),
    "stanford_cars": _files(
        "StanfordCars",
        "stanford_cars",
        _TWO,
        by_hand="its address is gone; put another copy's cars_train, cars_test, devkit and "
        "cars_test_annos_withlabels.mat into it",
    ),
    "stl10": ImageSet("STL10", ("stl10_binary",), _TWO, _channels_last, "labels"),
    "sun397": _files("SUN397", "SUN397", _UNDIVIDED, images=_sun397, labels=_sun397),
    "svhn": ImageSet(
        "SVHN", ("train_32x32.mat", "test_32x32.mat"), _TWO, _channels_last, "labels", _DIGITS
    ),
    "usps": ImageSet("USPS", ("usps.bz2", "usps.t.bz2"), _FLAG, classes=_DIGITS),
}
"""The sets by name."""
