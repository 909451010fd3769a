"""Small data sets on disk, each in the original layout of its authors.

Where torchvision compares MD5 sums, its tables get those of the small files.
"""

import bz2
import csv
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets as tv
from PIL import Image

CIFAR10_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


_DIGITS = range(10)


@dataclass
class Layout:
    """A data set that is being written, and what is to be read of it.

    Attributes:
        root: Below which it lies.
        patch: For the tables of MD5 sums.
        classes: Their names; empty where no file holds them.
        images: Split, label and pixels by id; a number for pixels of files of one shade.
    """

    root: Path
    patch: pytest.MonkeyPatch
    classes: tuple[str, ...] = ()
    images: dict[str, tuple[str, int, np.ndarray | int]] = field(default_factory=dict)

    def image(self, file: str, split: str, label: int) -> None:
        """Write an image file of a shade of its own, larger than wide by half."""
        shade = 5 + 9 * len(self.images) % 250
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 12), (shade, shade, shade)).save(path, quality=100)
        self.images[file] = (split, label, shade)

    def arrays(self, split: str, pixels: np.ndarray, labels: list[int]) -> None:
        """Note images of a split of arrays, in their order."""
        for row, (image, label) in enumerate(zip(pixels, labels, strict=True)):
            self.images[f"{split}/{row:05d}".lstrip("/")] = (split, label, image)

    def write(self, file: str, content: bytes | str) -> str:
        """Write a file and return its MD5 sum."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(data)
        return hashlib.md5(data).hexdigest()

    def mat(self, file: str, **variables: object) -> str:
        """Write a MATLAB file and return its MD5 sum."""
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        scipy.io.savemat(path, variables, do_compression=True)
        return hashlib.md5(path.read_bytes()).hexdigest()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def cifar(layout: Layout, kind: type, names: tuple[str, ...], key: str) -> None:
    """Rows of 1024 red, green and blue bytes in pickles."""
    tables = {"train": kind.train_list, "test": kind.test_list}
    for split, table in tables.items():
        pixels, labels, entries = [], [], []
        for place, (name, _) in enumerate(table):
            numbers = [place % len(names), *range(len(names)), *range(len(names))]
            rows = random(len(numbers), 3072, seed=len(split) + place)
            content = pickle.dumps({"data": rows, key: numbers}, protocol=2)
            entries.append([name, layout.write(f"{kind.base_folder}/{name}", content)])
            pixels.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels += numbers
        layout.patch.setattr(kind, f"{split}_list", entries)
        layout.arrays(split, np.concatenate(pixels), labels)
    content = pickle.dumps({kind.meta["key"]: list(names)}, protocol=2)
    md5 = layout.write(f"{kind.base_folder}/{kind.meta['filename']}", content)
    layout.patch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    layout.classes = names


def cifar10(layout: Layout) -> None:
    cifar(layout, tv.CIFAR10, tuple(CIFAR10_CLASSES), "labels")


def cifar100(layout: Layout) -> None:
    cifar(layout, tv.CIFAR100, tuple(f"thing {i}" for i in range(100)), "fine_labels")


def idx(array: np.ndarray) -> bytes:
    """Return an array as an idx file: type, dimensions and values with their high byte first."""
    code = {"u1": 8, "i4": 12}[array.dtype.str[1:]]
    head = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">i4").tobytes()
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def mnist(layout: Layout, folder: str = "MNIST", classes: tuple[str, ...] | None = None) -> None:
    digits = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    layout.classes = classes or tuple(f"{i} - {word}" for i, word in enumerate(digits))
    for split, name, labels in (
        ("train", "train", [4, *_DIGITS, *_DIGITS]),
        ("test", "t10k", [1, 8]),
    ):
        pixels = random(len(labels), 28, 28, seed=len(name))
        layout.write(f"{folder}/raw/{name}-images-idx3-ubyte", idx(pixels))
        layout.write(f"{folder}/raw/{name}-labels-idx1-ubyte", idx(np.array(labels, np.uint8)))
        layout.arrays(split, pixels, labels)


def fashion_mnist(layout: Layout) -> None:
    clothes = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt")
    mnist(layout, "FashionMNIST", (*clothes, "Sneaker", "Bag", "Ankle boot"))


def kmnist(layout: Layout) -> None:
    mnist(layout, "KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"))


def qmnist(layout: Layout) -> None:
    mnist(layout)  # for its class names
    layout.images.clear()
    for split, labels in (("train", [3, 0]), ("test", [9])):
        pixels = random(len(labels), 28, 28, seed=len(labels))
        facts = np.arange(8 * len(labels), dtype=np.int32).reshape(-1, 8) + 1000
        facts[:, 0] = labels
        layout.write(f"QMNIST/raw/qmnist-{split}-images-idx3-ubyte", idx(pixels))
        layout.write(f"QMNIST/raw/qmnist-{split}-labels-idx2-int", idx(facts))
        layout.arrays(split, pixels, labels)


def emnist(split: str, classes: tuple[str, ...], first: int = 0) -> Callable[[Layout], None]:
    """Its images lie on their side: each file holds the columns of the letters."""

    def write(layout: Layout) -> None:
        layout.classes = classes
        for part in ("train", "test"):
            labels = [0, len(classes) - 1, 1]
            upright = random(3, 28, 28, seed=len(part))
            stem = f"EMNIST/raw/emnist-{split}-{part}"
            layout.write(f"{stem}-images-idx3-ubyte", idx(upright.transpose(0, 2, 1)))
            numbers = np.array(labels, np.uint8) + first
            layout.write(f"{stem}-labels-idx1-ubyte", idx(numbers.astype(np.uint8)))
            layout.arrays(part, upright, labels)

    return write


def svhn(layout: Layout) -> None:
    """MATLAB arrays [h, w, c, n]; the digit 0 has the label 10."""
    layout.classes = tuple("0123456789")
    tables = {}
    for split, labels in (("train", [10, *range(1, 11), *range(1, 11)]), ("test", [10, 2])):
        pixels = random(len(labels), 32, 32, 3, seed=len(labels))
        name = f"{split}_32x32.mat"
        column = np.array(labels, np.uint8)[:, None]
        tables[split] = ["", name, layout.mat(name, X=pixels.transpose(1, 2, 3, 0), y=column)]
        layout.arrays(split, pixels, [label % 10 for label in labels])
    layout.patch.setattr(tv.SVHN, "split_list", {**tv.SVHN.split_list, **tables})


def stl10(layout: Layout) -> None:
    """Bytes in the order of MATLAB: channels, columns, rows; labels from 1."""
    layout.classes = ("airplane", "bird", "car")
    layout.write("stl10_binary/class_names.txt", "\n".join(layout.classes) + "\n")
    sums = {"unlabeled_X": layout.write("stl10_binary/unlabeled_X.bin", random(27648).tobytes())}
    for split, labels in (("train", [0, 2, 1, 0, 1, 2]), ("test", [1])):
        pixels = random(len(labels), 96, 96, 3, seed=len(labels))
        numbers = np.array(labels, np.uint8) + np.uint8(1)
        for key, content in (("X", pixels.transpose(0, 3, 2, 1).tobytes()), ("y", numbers)):
            name = f"{split}_{key}"
            sums[name] = layout.write(f"stl10_binary/{name}.bin", bytes(content))
        layout.arrays(split, pixels, labels)
    for table in ("train_list", "test_list"):
        entries = [[name, sums[Path(name).stem]] for name, _ in getattr(tv.STL10, table)]
        layout.patch.setattr(tv.STL10, table, entries)


def usps(layout: Layout) -> None:
    """Lines of the label from 1 and 256 values -1 ... 1 with their places, in bz2."""
    layout.classes = tuple("0123456789")
    for split, name, labels in (
        ("train", "usps.bz2", [9, *_DIGITS, *_DIGITS]),
        ("test", "usps.t.bz2", [5]),
    ):
        pixels = 255 * (random(len(labels), 16, 16, seed=len(labels)) // 128)
        lines = [
            f"{label + 1} " + " ".join(f"{i}:{v / 127.5 - 1:g}" for i, v in enumerate(image, 1))
            for label, image in zip(labels, pixels.reshape(-1, 256).tolist(), strict=True)
        ]
        layout.write(name, bz2.compress("".join(f"{line} \n" for line in lines).encode()))
        layout.arrays(split, pixels, labels)


def semeion(layout: Layout) -> None:
    """Lines of 256 pixels, 0 or 1, and ten numbers of which one is 1."""
    layout.classes = tuple("0123456789")
    pixels, labels = random(3, 16, 16) // 128, [7, 0, 9]
    lines = [
        " ".join([*(f"{v:.4f}" for v in image), *(str(int(i == label)) for i in range(10))])
        for label, image in zip(labels, pixels.reshape(-1, 256).tolist(), strict=True)
    ]
    md5 = layout.write("semeion.data", "".join(f"{line} \n" for line in lines))
    layout.patch.setattr(tv.SEMEION, "md5_checksum", md5)
    layout.arrays("", 255 * pixels, labels)


def fer2013(layout: Layout) -> None:
    layout.classes = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
    path = layout.root / "fer2013/fer2013.csv"
    path.parent.mkdir(parents=True)
    pixels, labels = random(3, 48, 48), [3, 6, 0]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["emotion", "pixels", "Usage"])
        for image, label, usage in zip(
            pixels, labels, ("Training", "PublicTest", "PrivateTest"), strict=True
        ):
            table.writerow([label, " ".join(map(str, image.ravel().tolist())), usage])
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    resources = {**tv.FER2013._RESOURCES, "fer": ("fer2013.csv", md5)}
    layout.patch.setattr(tv.FER2013, "_RESOURCES", resources)
    layout.arrays("train", pixels[:1], labels[:1])
    layout.arrays("test", pixels[1:], labels[1:])


def flowers102(layout: Layout) -> None:
    layout.classes = tuple(tv.Flowers102.classes)
    # Of the images 1 ... 106, from 1; the first 102 train.
    numbers = [*range(102, 0, -1), 1, 2, 77, 5]
    trained = [2, *range(3, 103), 1]
    parts = {
        "trnid": ("train", trained),
        "valid": ("val", [103, 106]),
        "tstid": ("test", [105, 104]),
    }
    for split, images in parts.values():
        for image in images:
            layout.image(f"flowers-102/jpg/image_{image:05d}.jpg", split, numbers[image - 1] - 1)
    label = layout.mat("flowers-102/imagelabels.mat", labels=np.array([numbers], np.uint8))
    rows = {key: np.array([images], np.uint16) for key, (_, images) in parts.items()}
    setid = layout.mat("flowers-102/setid.mat", **rows)
    table = {"label": ("imagelabels.mat", label), "setid": ("setid.mat", setid)}
    layout.patch.setattr(tv.Flowers102, "_file_dict", {**tv.Flowers102._file_dict, **table})


def oxford_pet(layout: Layout) -> None:
    """Lists of name, breed from 1, species and breed within it; cats have capitals."""
    layout.classes = ("Abyssinian", "American Bulldog")
    for split, name, numbers in (("train", "trainval", (100, 101)), ("test", "test", (201,))):
        lines = []
        for number in numbers:
            for label, breed in enumerate(("Abyssinian", "american_bulldog")):
                layout.image(f"oxford-iiit-pet/images/{breed}_{number}.jpg", split, label)
                lines.append(f"{breed}_{number} {label + 1} {label + 1} 1\n")
        layout.write(f"oxford-iiit-pet/annotations/{name}.txt", "".join(lines))


def dtd(layout: Layout) -> None:
    layout.classes = ("banded", "zigzagged")
    for place, split in enumerate(("train", "val", "test")):
        names = [f"{name}/{name}_{place:04d}.jpg" for name in layout.classes]
        for label, name in enumerate(names):
            layout.image(f"dtd/dtd/images/{name}", split, label)
        layout.write(f"dtd/dtd/labels/{split}1.txt", "".join(f"{name}\n" for name in names))


def food101(layout: Layout) -> None:
    layout.classes = ("apple_pie", "waffles")
    for place, split in enumerate(("train", "test")):
        listed = {name: [f"{name}/{place}{i}" for i in range(2)] for name in layout.classes}
        for label, files in enumerate(listed.values()):
            for file in files:
                layout.image(f"food-101/images/{file}.jpg", split, label)
        layout.write(f"food-101/meta/{split}.json", json.dumps(listed))


def fgvc_aircraft(layout: Layout) -> None:
    layout.classes = ("707-320", "Yak-42")
    data = "fgvc-aircraft-2013b/data"
    layout.write(f"{data}/variants.txt", "707-320\nYak-42\n")
    for place, split in enumerate(("train", "val", "test")):
        lines = []
        for label, name in enumerate(layout.classes):
            layout.image(f"{data}/images/{place}00000{label}.jpg", split, label)
            lines.append(f"{place}00000{label} {name}\n")
        layout.write(f"{data}/images_variant_{split}.txt", "".join(lines))


def folders(*parts: tuple[str, str], suffix: str, names: dict[str, str]) -> Callable[..., None]:
    """Return a writer of ``FOLDER/NAME/i.SUFFIX`` for pairs of FOLDER and split."""

    def write(layout: Layout) -> None:
        layout.classes = tuple(names.values())
        for folder, split in parts:
            for label, name in enumerate(names):
                for index in range(3):
                    layout.image(f"{folder}/{name}/{split}{index}.{suffix}", split, label)

    return write


def imagenette(folder: str) -> Callable[[Layout], None]:
    # Sorted by their numbers in WordNet, as torchvision counts them.
    names = {number: words[0] for number, words in sorted(tv.Imagenette._WNID_TO_CLASS.items())}
    parts = (f"{folder}/train", "train"), (f"{folder}/val", "test")
    return folders(*parts, suffix="JPEG", names=names)


def imagenet(layout: Layout) -> None:
    """Folders by numbers of WordNet; torchvision notes their names once it has unpacked them."""
    names = {"n02012849": "crane (n02012849)", "n03126707": "crane (n03126707)", "n1": "tench"}
    folders(("train", "train"), ("val", "test"), suffix="JPEG", names=names)(layout)
    words = {"n02012849": ("crane",), "n03126707": ("Crane",), "n1": ("tench", "Tinca tinca")}
    layout.classes = ("crane (n02012849)", "Crane (n03126707)", "tench")
    torch.save((words, ["n1"]), layout.root / "meta.bin")


def gtsrb(layout: Layout) -> None:
    """Three pictures of two signs of each class; the files hold no names of classes."""
    for number in range(43):
        for track, frame in ((0, 0), (0, 29), (1, 0)):
            file = f"gtsrb/GTSRB/Training/{number:05d}/{track:05d}_{frame:05d}.ppm"
            layout.image(file, "train", number)
    lines = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for row, label in enumerate((14, 0)):
        layout.image(f"gtsrb/GTSRB/Final_Test/Images/{row:05d}.ppm", "test", label)
        lines.append(f"{row:05d}.ppm;8;12;1;1;7;11;{label}")
    layout.write("gtsrb/GT-final_test.csv", "\n".join(lines) + "\n")


def stanford_cars(layout: Layout) -> None:
    layout.classes = ("AM General Hummer SUV 2000", "smart fortwo Convertible 2012")
    kind = [(name, "O") for name in ("bbox_x1", "class", "fname")]
    for split, file in (
        ("train", "devkit/cars_train_annos"),
        ("test", "cars_test_annos_withlabels"),
    ):
        rows = np.empty((1, 2), kind)
        for place, label in enumerate((1, 0)):
            layout.image(f"stanford_cars/cars_{split}/{place + 1:05d}.jpg", split, label)
            rows[0, place] = (np.uint8(3), np.uint8(label + 1), f"{place + 1:05d}.jpg")
        layout.mat(f"stanford_cars/{file}.mat", annotations=rows)
    names = np.empty((1, 2), object)
    names[0] = layout.classes
    layout.mat("stanford_cars/devkit/cars_meta.mat", class_names=names)


def caltech101(layout: Layout) -> None:
    layout.classes = ("Faces", "yin_yang")
    folder = "caltech101/101_ObjectCategories"
    layout.write(f"{folder}/BACKGROUND_Google/tmp", "")
    for label, name in enumerate(layout.classes):
        for number in (1, 2):
            layout.image(f"{folder}/{name}/image_{number:04d}.jpg", "", label)


def caltech256(layout: Layout) -> None:
    layout.classes = ("001.ak47", "002.american-flag")
    for label, name in enumerate(layout.classes):
        folder = f"caltech256/256_ObjectCategories/{name}"
        layout.write(f"{folder}/RENAME2", "")
        for number in (1, 2):
            layout.image(f"{folder}/{label + 1:03d}_{number:04d}.jpg", "", label)


def sun397(layout: Layout) -> None:
    layout.classes = ("abbey", "yard/indoor")
    layout.write("SUN397/ClassName.txt", "/a/abbey\n/y/yard/indoor\n")
    for label, name in enumerate(("a/abbey", "y/yard/indoor")):
        for letters in ("zz", "aa", "kk"):
            layout.image(f"SUN397/{name}/sun_{letters}.jpg", "", label)


def places365(layout: Layout) -> None:
    """Class numbers are not in the order of the names here, as they need not be."""
    layout.classes = ("/z/zoo", "/a/airfield")
    layout.write("categories_places365.txt", "/a/airfield 1\n/z/zoo 0\n")
    train, val = [], []
    for label, name in enumerate(layout.classes):
        layout.image(f"data_256_standard{name}/00000001.jpg", "train", label)
        train.append(f"{name}/00000001.jpg {label}\n")
        layout.image(f"val_256/Places365_val_{label:08d}.jpg", "test", label)
        val.append(f"Places365_val_{label:08d}.jpg {label}\n")
    lists = {"train-standard": "places365_train_standard.txt", "val": "places365_val.txt"}
    sums = {
        key: (name, layout.write(name, "".join(lines)))
        for (key, name), lines in zip(lists.items(), (train, val), strict=True)
    }
    md5 = hashlib.md5((layout.root / "categories_places365.txt").read_bytes()).hexdigest()
    layout.patch.setattr(tv.Places365, "_CATEGORIES_META", ("categories_places365.txt", md5))
    layout.patch.setattr(tv.Places365, "_FILE_LIST_META", sums)


_SPLITS = ("train", "train"), ("test", "test")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BOTH = tuple(f"small {letter}" for letter in "abdefghnqrt")
_SMALL = tuple(f"small {letter}" for letter in _LETTERS.lower())

WRITERS: dict[str, Callable[[Layout], None]] = {
    "caltech101": caltech101,
    "caltech256": caltech256,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "country211": folders(
        *((f"country211/{name}", split) for name, split in (*_SPLITS, ("valid", "val"))),
        suffix="jpg",
        names={"AD": "AD", "ZW": "ZW"},
    ),
    "dtd": dtd,
    "emnist_balanced": emnist("balanced", (*"0123456789", *_LETTERS, *_BOTH)),
    "emnist_byclass": emnist("byclass", (*"0123456789", *_LETTERS, *_SMALL)),
    "emnist_bymerge": emnist("bymerge", (*"0123456789", *_LETTERS, *_BOTH)),
    "emnist_digits": emnist("digits", tuple("0123456789")),
    "emnist_letters": emnist("letters", tuple(_LETTERS.lower()), first=1),
    "emnist_mnist": emnist("mnist", tuple("0123456789")),
    "eurosat": folders(
        ("eurosat/2750", ""), suffix="jpg", names={"AnnualCrop": "AnnualCrop", "SeaLake": "SeaLake"}
    ),
    "fashion_mnist": fashion_mnist,
    "fer2013": fer2013,
    "fgvc_aircraft": fgvc_aircraft,
    "flowers102": flowers102,
    "food101": food101,
    "gtsrb": gtsrb,
    "imagenet": imagenet,
    "imagenette": imagenette("imagenette2"),
    "imagenette_160": imagenette("imagenette2-160"),
    "imagenette_320": imagenette("imagenette2-320"),
    "kmnist": kmnist,
    "mnist": mnist,
    "oxford_pet": oxford_pet,
    "places365": places365,
    "qmnist": qmnist,
    "rendered_sst2": folders(
        *((f"rendered-sst2/{name}", split) for name, split in (*_SPLITS, ("valid", "val"))),
        suffix="png",
        names={"negative": "negative", "positive": "positive"},
    ),
    "semeion": semeion,
    "stanford_cars": stanford_cars,
    "stl10": stl10,
    "sun397": sun397,
    "svhn": svhn,
    "usps": usps,
}
"""The writer of each data set."""


def write(name: str, root: Path, patch: pytest.MonkeyPatch) -> Layout:
    """Write a small version of the data set below `root`, and return what it holds."""
    layout = Layout(root, patch)
    WRITERS[name](layout)
    return layout
