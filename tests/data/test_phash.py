"""The hash hardly changes with size, light and compression, and much with the picture."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from warmstart.data.duplicates import NEAR, near
from warmstart.data.phash import perceptual_hash


def photo(seed, *, height=96, width=96):
    """Return a smooth coloured picture, which hardly loses by scaling: uint8 [h, w, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def bits_between(first, second):
    return (perceptual_hash(first) ^ perceptual_hash(second)).bit_count()


def test_the_bits_are_the_low_frequencies_against_their_median():
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 1), dtype=np.uint8)
    low = dctn(pixels[:, :, 0].astype(float), norm="ortho")[:8, :8].ravel()[1:]
    bits = "".join("1" if value > np.median(low) else "0" for value in low)
    assert perceptual_hash(pixels) == int(bits + "0", 2)  # filled up to 64 bits
    assert bits.count("1") == 31


def test_the_frequencies_of_a_wave_are_where_they_belong():
    # cos(pi (x + 1/2) 2 / 32) is frequency 2 along the width alone: the second of the 63 bits,
    # and the only one far above the median, which is zero but for rounding to whole shades.
    x = np.arange(32)
    row = np.rint(128 + 100 * np.cos(np.pi * (x + 0.5) * 2 / 32)).astype(np.uint8)
    across, along = np.tile(row, (32, 1))[:, :, None], np.tile(row, (32, 1)).T[:, :, None]
    assert perceptual_hash(across) >> 62 & 1 == 1
    assert perceptual_hash(along) >> (63 - 15) & 1 == 1  # row 2 of the block, less the mean
    assert perceptual_hash(across) != perceptual_hash(along)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: np.asarray(Image.fromarray(p).resize((200, 150))),
        lambda p: np.asarray(Image.fromarray(p).resize((40, 40))),
        lambda p: np.clip(p * 0.7 + 20, 0, 255).astype(np.uint8),
        lambda p: jpeg(p, quality=30),
        lambda p: np.asarray(Image.fromarray(p).convert("L"))[:, :, None],
    ],
    ids=["stretched", "small", "pale", "compressed", "gray"],
)
def test_what_keeps_the_picture_keeps_the_hash(change):
    distances = [bits_between(photo(seed), change(photo(seed))) for seed in range(10)]
    assert max(distances) <= NEAR


def jpeg(pixels, *, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "jpeg", quality=quality)
    return np.asarray(Image.open(buffer))


def test_other_pictures_have_other_hashes():
    distances = [bits_between(photo(a), photo(b)) for a in range(10) for b in range(a)]
    assert min(distances) > 2 * NEAR
    assert bits_between(photo(0), photo(0)[:, ::-1]) > 2 * NEAR


@pytest.mark.parametrize("channels", [2, 4])
def test_arrays_of_any_channels_are_hashed_by_their_mean(channels):
    gray = photo(0).mean(axis=2).astype(np.uint8)[:, :, None]
    assert perceptual_hash(np.repeat(gray, channels, axis=2)) == perceptual_hash(gray)


def test_small_and_flat_images_have_none():
    assert perceptual_hash(photo(0)[:31]) is None
    assert perceptual_hash(photo(0)[:, :31]) is None
    assert perceptual_hash(photo(0)[:32, :32]) is not None
    assert perceptual_hash(np.full((64, 64, 3), 200, np.uint8)) is None
    noise = np.random.default_rng(0).normal(200, 3, (256, 256, 1)).astype(np.uint8)
    assert perceptual_hash(noise) is None


def test_a_hash_fits_into_64_bits():
    assert all(0 <= perceptual_hash(photo(seed)) < 2**64 for seed in range(20))


def test_similar_photos_of_a_real_set_are_found(unpacked):
    """Ten pictures, and the same again as smaller JPEGs, among 372 others."""
    files = sorted(unpacked("clothing10").glob("test/*/*"))
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    copies = [
        jpeg(np.asarray(Image.fromarray(p).reduce(2)), quality=70) for p in pictures[::37][:10]
    ]
    hashes = np.array([perceptual_hash(p) for p in pictures + copies], np.uint64)
    rows = np.arange(len(hashes))
    parts = {"train": rows[:-10], "val": rows[:0], "test": rows[-10:]}
    found = near(hashes, np.ones(len(hashes), bool), parts)
    assert sorted((a, b) for a, b, _ in found) == [(37 * k, len(pictures) + k) for k in range(10)]
