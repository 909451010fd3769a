"""Small data sets on disk that the tests read with the real code."""

from pathlib import Path

import numpy as np
from PIL import Image


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
