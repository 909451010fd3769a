"""Small data sets on disk that the tests read with the real code."""

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CIFAR_CLASSES = [
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
]


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write uint8 [h, w] or [h, w, 3], or uint16 [h, w], in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_folder(
    root: Path,
    counts: dict[str, int],
    *,
    shape: tuple[int, ...] = (6, 6, 3),
    suffix: str = ".png",
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Write ``root/NAME/i.png`` for each name in `counts`; return the pixels by relative name."""
    rng = np.random.default_rng(seed)
    written = {}
    for name, count in counts.items():
        for index in range(count):
            file = f"{name}/{index:02d}{suffix}"
            written[file] = rng.integers(0, 256, shape, dtype=np.uint8)
            write_image(root / file, written[file])
    return written


def write_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, *, per_class: int = 2) -> np.ndarray:
    """Write a small CIFAR-10 in the original layout and let torchvision expect its MD5 sums.

    Each batch holds `per_class` images of each class, as rows of 1024 red, green, blue bytes.

    Returns:
        The training images, uint8 [5 * 10 * per_class, 32, 32, 3], in the order of the files.
    """
    from torchvision.datasets import CIFAR10

    folder = root / CIFAR10.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sums, images = {}, []

    def write(name: str, content: dict[str, object]) -> None:
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        sums[name] = hashlib.md5(data).hexdigest()

    for name in [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]:
        rows = rng.integers(0, 256, (10 * per_class, 3072), dtype=np.uint8)
        write(name, {"data": rows, "labels": list(range(10)) * per_class})
        images.append(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    write(CIFAR10.meta["filename"], {"label_names": CIFAR_CLASSES})
    for table in ("train_list", "test_list"):
        entries = [[name, sums[name]] for name, _ in getattr(CIFAR10, table)]
        monkeypatch.setattr(CIFAR10, table, entries)
    meta = {**CIFAR10.meta, "md5": sums[CIFAR10.meta["filename"]]}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return np.concatenate(images[:5])
