"""Fixtures of the whole suite: one thread, the real data beside the repository, small images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings

if TYPE_CHECKING:
    from warmstart.data.images import Split

REPOSITORY = Path(__file__).resolve().parents[1]

# Before anything imports torch, and for the processes that tests start: several threads in each
# of several processes slow one another down.
os.environ["OMP_NUM_THREADS"] = "1"

settings.register_profile("suite", deadline=None)  # times vary on a busy machine
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


_drawn: dict[tuple[int, ...], np.ndarray] = {}


@pytest.fixture(scope="module", autouse=True)
def letters_drawn_once() -> Iterator[None]:
    """Let each set of glyphs be drawn once, not once for each folder of results."""
    from warmstart.data.sources import glyphs

    draw = glyphs._render_all

    def remembered(folder: Path, **options: int) -> None:
        key = tuple(options.values())
        if key not in _drawn:
            draw(folder, **options)
            _drawn[key] = np.load(folder / "pixels.npy")
        np.save(folder / "pixels.npy", _drawn[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "_render_all", remembered)
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real images and weights; without it the test is skipped.

    It is ``$WARMSTART_TEST_DATA``, or ``shared/data`` beside the repository.
    """
    default = REPOSITORY.parent / "shared" / "data"
    folder = Path(os.environ.get("WARMSTART_TEST_DATA") or default)
    if not folder.is_dir():
        # Under CI a skipped test would look like a passed one.
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(f"{folder} does not exist; set WARMSTART_TEST_DATA to the folder of test data")
    return folder


@pytest.fixture(scope="session")
def unpacked(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function from an archive's name to the folder of its images, unpacked once."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which the workers share

    def unpack(name: str) -> Path:
        with FileLock(base / f"unpacked-{name}.lock"):
            command = [sys.executable, shared_data / "unpack", base / "unpacked", name]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return base / "unpacked" / name

    return unpack


@pytest.fixture
def make_split() -> Callable[..., Split]:
    """Return a function that makes a split of random images, without a stream of its own."""
    from warmstart.data.images import Split

    def make(
        count: int, *, size: int = 8, channels: int = 1, classes: int = 3, seed: int = 0
    ) -> Split:
        generator = np.random.default_rng(seed)
        pixels = generator.integers(0, 256, (count, size, size, channels), dtype=np.uint8)
        ids = tuple(f"image-{index:04d}" for index in range(count))
        return Split.of(pixels, np.arange(count) % classes, ids)

    return make


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return Chromium's driver; without Chromium the test is skipped, but not under CI."""
    from browsers import CHROMIUM, DRIVER, start

    if not (CHROMIUM.exists() and DRIVER.exists()):
        message = f"needs {CHROMIUM} and {DRIVER} (apt-get install chromium chromium-driver)"
        missing = pytest.fail if os.environ.get("CI") else pytest.skip
        missing(message)
    yield from start(tmp_path_factory.mktemp("profile"))
