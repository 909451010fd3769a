"""The page and the terminal's tables of ``warmstart look``, and the command itself."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import photos
import pytest
from PIL import Image

from warmstart.cli import main
from warmstart.look.command import look_command


class Page(HTMLParser):
    """What a page holds: its elements, and its words."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.words += " "

    def handle_data(self, data: str) -> None:
        self.words += data

    def images(self) -> list[np.ndarray]:
        sources = [str(attrs["src"]) for tag, attrs in self.elements if tag == "img"]
        assert all(source.startswith("data:image/") for source in sources)
        contents = (base64.b64decode(source.partition(",")[2]) for source in sources)
        return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write(tmp_path_factory.mktemp("look") / "photos")


@pytest.fixture(scope="module")
def out(root: Path) -> Path:
    return root.parent / "out"


@pytest.fixture(scope="module")
def page(root: Path, out: Path) -> Page:
    """Return the page of the odd photos, not augmented."""
    path = look_command(["data=image_folder", f"data.root={root}", f"out={out}"])
    assert path == out / "looks" / "image_folder-photos.html"
    return Page(path)


def looked(root: Path, *words: str) -> Page:
    path = root.parent / "page.html"
    overrides = ["data=image_folder", f"data.root={root}", f"out={root.parent / 'out'}"]
    assert main(["look", *overrides, *words, "--out", str(path)]) == 0
    return Page(path)


def test_needs_nothing_but_itself(page: Page) -> None:
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "iframe", "form"})
    links = [attrs for tag, attrs in page.elements if tag == "link"]
    assert links == [{"rel": "icon", "href": "data:,"}]
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert "http:" not in page.text
    assert "https:" not in page.text
    assert len(page.images()) > 8


def test_says_what_is_wrong(page: Page) -> None:
    assert "2 damaged files: training would refuse; data.on_bad=skip leaves them out" in page.words
    assert "test/dog/empty.jpg the file is empty" in page.words
    assert "train/dog/broken.png" in page.words
    assert "Equal images, different labels" in page.words
    assert "Equal images in several splits" in page.words
    assert "Images of different splits that look alike" in page.words
    assert "2 images left out as duplicates" in page.words
    assert "equal to an image of test" in page.words


def test_says_what_knowing_nothing_gives(page: Page) -> None:
    assert "Accuracy of guessing 50.0 %" in page.words
    assert "Always \u201ca&b\u201d 50.0 % of validation, 40.0 % of test" in page.words
    assert "Loss at step 0 0.693 ln 2" in page.words
    assert "Imbalance 1.33 : 1 in train: 4 of a&b, 3 of dog" in page.words


def test_names_are_text(page: Page) -> None:
    assert "a&amp;b" in page.text
    assert not re.search(r"a&b", page.text)


def test_pictures_of_test_are_shown_only_beside_their_twins(page: Page, root: Path) -> None:
    shown = {image.tobytes() for image in page.images() if image.ndim == 3}
    kept = {
        path.relative_to(root).as_posix(): np.asarray(Image.open(path)).tobytes() in shown
        for path in (root / "test").rglob("*.png")
    }
    assert kept == {name: name == "test/a&b/0.png" for name in kept}
    assert len(kept) == 5
    assert "no other test pixel is shown" in page.words


def test_sound_data_have_nothing_to_say(tmp_path: Path) -> None:
    page = looked(photos.write(tmp_path / "photos", odd=False))
    assert "Every file can be read, no image is in two splits" in page.words
    for heading in ("Before you train", "Damaged", "Equal images", "look alike"):
        assert heading not in page.words
    assert "augment=none leaves them as they are" in page.words


def test_shows_passes_and_mixed_images(root: Path) -> None:
    page = looked(root, "augment=crop_flip", "augment.mixup=1.0", "batch_size=6")
    assert "validation pass 1 pass 2" in page.words
    assert "All 6 images of step 0, before they are mixed." in page.words
    assert re.search(r"\d+% (dog|a&b) \+ \d+% (dog|a&b)", page.words)


def test_sizes_that_differ(tmp_path: Path) -> None:
    root = photos.write(tmp_path / "photos", odd=False)
    Image.fromarray(np.zeros((60, 500), np.uint8)).save(root / "train" / "dog" / "wide.png")
    page = looked(root)
    assert "height 40 40 60" in page.words
    assert "width 40 40 500" in page.words
    assert "Images, log scale" in page.words
    assert "they are shown at 224 pixels" in page.words
    assert "input 224 x 224, RGB" in page.words


def test_of_many_classes_the_extremes_come_first(tmp_path: Path, capsys) -> None:
    root = tmp_path / "photos"
    for number in range(40):
        folder = root / f"class {number:02d}"
        folder.mkdir(parents=True)
        for index in range(5 + (number == 17)):
            Image.fromarray(np.full((4, 4), 6 * number + index, np.uint8)).save(
                folder / f"{index}.png"
            )
    page = looked(root)
    _, _, table = page.words.partition(" Classes ")
    assert table.index("class 17") < table.index("class 00")
    assert "The 16 classes in between" in table
    text = capsys.readouterr().out
    assert "... 20 classes in between ..." in text
    assert re.search(r"class\s+train\s+val\s+test\s+─+\s+class 17 ", text)


def test_the_terminal_says_the_same(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looked(root)
    text, errors = capsys.readouterr()
    assert errors == ""
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "photos"
    assert "dog 3 3 3 ##############################" in lines
    assert "all 7 6 5" in lines
    assert (
        "guessing 50.0% are right by chance, 50.0% of val and 40.0% of test by always saying 'a&b'"
    ) in lines
    assert "loss 0.693 at step 0, which is ln 2" in lines
    assert "imbalance 1.33 : 1 in train (4 of 'a&b', 3 of 'dog')" in lines
    assert "images 40 x 40 pixels (width x height), stored as PNG RGB (19), JPEG RGB (1)" in lines
    assert "2 damaged files: training would refuse; data.on_bad=skip leaves them out" in lines
    assert "test/dog/empty.jpg: the file is empty" in lines
    assert lines[-1] == f"page: {root.parent / 'page.html'}"
    assert "\x1b" not in text


def test_skipping_is_what_was_asked_for(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    looked(root, "data.on_bad=skip")
    assert "2 damaged files: left out, as data.on_bad=skip says" in capsys.readouterr().out


def test_names_of_files_need_not_be_utf8(tmp_path: Path) -> None:
    root = photos.write(tmp_path / "photos", odd=False)
    (root / "train" / "dog" / "0.png").rename(root / "train" / "dog" / "\udcff\udcfe.png")
    (root / "test" / "dog" / "\udcff.png").touch()
    out = tmp_path / "page.html"
    words = ["look", "data=image_folder", f"data.root={root}", f"out={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "warmstart", *words, "--out", str(out)]
    # In a process of its own: what pytest captures is not strict.
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    result = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"test/dog/\\udcff.png: the file is empty" in result.stdout
    assert r"test/dog/\udcff.png the file is empty" in Page(out).words


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", r"--out is a folder, \S+; give a file, as \S+/page\.html"),
        ("file/page.html", r"--out is \S+, but nothing can be written in \S+/file \(.+\); give .+"),
    ],
)
def test_a_page_that_cannot_be_written_is_refused_at_the_start(
    name: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["look", f"out={tmp_path / 'out'}", "--out", str(tmp_path / name)]) == 2
    assert re.fullmatch(f"warmstart: {expected}\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_of_many_kinds_of_pixels_the_most_frequent_are_shown(tmp_path: Path) -> None:
    root = photos.write(tmp_path / "photos", odd=False)
    pixels = Image.fromarray(photos.photo(99))
    files = [("L", "png"), ("P", "png"), ("1", "png"), ("RGBA", "png"), ("L", "jpg"), ("P", "gif")]
    for number, (mode, suffix) in enumerate([*files, ("CMYK", "jpg")]):
        pixels.convert(mode).save(root / "train" / "dog" / f"kind {number}.{suffix}")
    assert "and 2 other kinds" in looked(root).words


def test_gray_images_without_a_root(tmp_path: Path) -> None:
    path = look_command([f"out={tmp_path}", "augment=crop"])
    assert path == tmp_path / "looks" / "digits.html"
    page = Page(path)
    assert "All images are 8 x 8 pixels" in page.words
    assert "input 8 x 8, gray" in page.words
    assert {image.shape for image in page.images()} == {(8, 8)}


def test_a_wrong_key_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", "stepz=3"]) == 2
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("warmstart: there is no key 'stepz'")
    assert errors.count("\n") == 1


def test_flags_stand_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "page.html"
    assert main(["look", "data=digits", "--out", str(path), f"out={tmp_path}"]) == 0
    assert capsys.readouterr().out.endswith(f"page: {path}\n")
