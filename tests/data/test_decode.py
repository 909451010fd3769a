"""Every kind of image file becomes the 8-bit pixels that a person sees."""

import numpy as np
import pytest
from PIL import Image

from warmstart.data.decode import Bad, decode, each, read_header

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 4, 3), dtype=np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_colours_come_through_unchanged(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS))
    assert np.array_equal(decode(path), COLOURS)


def test_sixteen_bits_are_rescaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    assert read_header(path).channels == 1
    assert decode(path)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_one_bit_becomes_black_and_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[True, False]])))
    assert read_header(path).channels == 1
    assert decode(path)[0, :, 0].tolist() == [255, 0]


def test_a_palette_gives_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 0])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path / "a.png", image)
    assert read_header(path).channels == 3
    assert decode(path).tolist() == [[[10, 20, 30], [200, 100, 0]]]


def test_a_wrong_extension_is_read_by_its_content(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, format="PNG")
    assert np.array_equal(decode(path), COLOURS)
    assert read_header(path).mode == "PNG RGB"


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_transparent_parts_lie_on_white(tmp_path, mode):
    if mode == "P":
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 200, 100, 0])
        image.putpixel((1, 0), 1)
        path = saved(tmp_path / "a.png", image, transparency=0)
    else:
        pixels = np.array([[[10, 20, 30, 0], [200, 100, 0, 255]]], dtype=np.uint8)
        path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert decode(path).tolist() == [[[255, 255, 255], [200, 100, 0]]]


def test_half_transparent_gray_is_half_white(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(np.array([[[0, 51]]], dtype=np.uint8), "LA"))
    assert read_header(path).channels == 1
    # A fifth of black on white.
    assert decode(path).tolist() == [[[204]]]


def test_cmyk_becomes_colours(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    path = saved(tmp_path / "a.jpg", image, quality=100)
    pixels = decode(path)
    assert pixels.shape == (8, 8, 3)
    assert np.abs(pixels.astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "webp", "tiff"])
def test_a_turned_photo_is_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side: turn clockwise
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(COLOURS), exif=exif, **lossless)
    header = read_header(path)
    assert (header.height, header.width) == (4, 5)
    assert np.array_equal(decode(path), np.rot90(COLOURS, -1))


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    path = saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert decode(path)[0, 0].tolist() == [255, 0, 0]


def failures(paths):
    results = each(lambda row: decode(paths[row]), len(paths), title="test")
    return [result.reason if isinstance(result, Bad) else None for result in results]


def test_bad_files_are_told_apart(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    good = saved(tmp_path / "good.jpg", image)
    truncated, empty, text = (tmp_path / name for name in ("cut.jpg", "empty.jpg", "text.jpg"))
    truncated.write_bytes(good.read_bytes()[:1000])
    empty.touch()
    text.write_text("not an image")
    floats = saved(tmp_path / "float.tiff", Image.fromarray(np.ones((2, 2), np.float32)))
    reasons = failures([good, truncated, empty, text, floats])
    assert reasons[0] is None
    assert "truncated" in reasons[1]
    assert reasons[2:4] == ["the file is empty", "it is not an image"]
    assert "floating-point" in reasons[4]


def test_a_decompression_bomb_is_a_bad_file(tmp_path, monkeypatch):
    path = saved(tmp_path / "bomb.png", Image.new("L", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # 1,600 are a warning, 2,001 an error
    assert "decompression bomb" in failures([path])[0]


def test_results_keep_the_order_of_the_files(tmp_path):
    paths = []
    for value in range(50):
        paths.append(saved(tmp_path / f"{value}.png", Image.new("L", (1, 1), value)))
    results = each(lambda row: decode(paths[row]), len(paths), title="test")
    assert [int(pixels[0, 0, 0]) for pixels in results] == list(range(50))
