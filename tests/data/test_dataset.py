"""From listed images to a data set: decoded once, damaged ones named, duplicates left out."""

import dataclasses
import os

import numpy as np
import pytest
from loading import load
from samples import write_image

from warmstart.data.dataset import assemble
from warmstart.data.preparation import Preparation
from warmstart.data.readers import Arrays, ImageFiles
from warmstart.data.samples import OPEN, Samples
from warmstart.errors import ConfigError, RunError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def listed(reader, count, *, splits=None, labels=None, ids=None, **more):
    """Samples in two classes, in no split unless told."""
    return Samples(
        name="test",
        classes=("a", "b"),
        ids=tuple(ids or (f"{row:03d}" for row in range(count))),
        labels=np.arange(count) % 2 if labels is None else np.array(labels),
        splits=tuple(splits or (OPEN,) * count),
        reader=reader,
        **more,
    )


def array(count=40, *, size=8, channels=3, **more):
    pixels = noise(count, size, size, channels)
    return listed(Arrays(pixels, identity=pixels.tobytes()), count, **more), pixels


@pytest.fixture
def files(tmp_path):
    """Forty files of two sizes, and what is in them."""

    def write(shapes=((40, 60, 3), (50, 40, 3)), count=40):
        root, pixels = tmp_path / "images", []
        for row in range(count):
            pixels.append(noise(*shapes[row % len(shapes)]))
            write_image(root / f"{row:03d}.png", pixels[-1])
        names = [f"{row:03d}.png" for row in range(count)]
        return listed(ImageFiles(root, names), count, ids=names), pixels, root

    return write


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


class TestForms:
    def test_images_of_one_size_are_kept_as_they_are(self, store):
        samples, pixels = array()
        data = load(samples, store)
        for split in (data.images.train, data.images.val):
            assert np.array_equal(split.pixels, pixels[split.rows])
        assert data.images.train.originals is None
        assert not data.streamed

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 12])
    def test_any_number_of_channels(self, store, channels):
        samples, _ = array(channels=channels)
        assert load(samples, store).images.channels == channels
        smaller = load(samples, store, size=5).images.train
        assert smaller.shape == (5, 5, channels)

    def test_files_of_different_sizes_need_a_size(self, files, store):
        samples, _, _ = files()
        with pytest.raises(ConfigError, match=r"2 different sizes.*60x40.*data\.size=40"):
            load(samples, store)
        assert load(samples, store, size=32).images.size == (32, 32)
        assert load(samples, store, wanted=16).images.size == (16, 16)

    def test_the_size_of_the_data_goes_before_that_of_the_weights(self, files, store):
        samples, _, _ = files()
        assert load(samples, store, wanted=16, size=24).images.size == (24, 24)

    def test_originals_come_with_the_pictures_where_sizes_differ(self, files, store):
        samples, pixels, _ = files()
        train = load(samples, store, size=32, originals=True).images.train
        assert all(np.array_equal(train.originals[row], pixels[row]) for row in range(40))
        plain = load(samples, store, size=32).images.train
        assert np.array_equal(train.pixels, plain.pixels)

    def test_no_originals_where_all_have_the_size_already(self, store):
        samples, _ = array(size=8)
        assert load(samples, store, size=8, originals=True).images.train.originals is None

    def test_large_images_shrink_before_everything_else(self, files, store):
        samples, _, _ = files()
        train = load(samples, store, size=16, shrink=20, originals=True).images.train
        assert train.originals[0].shape == (20, 30, 3)
        assert train.originals[1].shape == (25, 20, 3)

    def test_gray_files_get_colours_beside_coloured_ones(self, files, store):
        samples, pixels, _ = files(shapes=((8, 8), (8, 8, 3)))
        train = load(samples, store).images.train
        row = int(np.flatnonzero(train.rows % 2 == 0)[0])
        gray = pixels[train.rows[row]]
        assert np.array_equal(train.pixels[row], np.stack([gray] * 3, axis=2))

    def test_arrays_of_mixed_channels_are_refused(self, store):
        class Mixed(Arrays):
            def header(self, row):
                header = super().header(row)
                return type(header)(header.height, header.width, 2 + row % 3, header.mode)

        pixels = noise(6, 4, 4, 4)
        with pytest.raises(ConfigError, match="channels"):
            load(listed(Mixed(pixels, identity=1), 6), store)


class TestStreaming:
    @pytest.mark.parametrize("originals", [False, True])
    def test_streamed_pixels_are_the_stored_ones(self, files, store, originals):
        samples, pixels, _ = files()
        kept = load(samples, store, size=32, originals=originals)
        streamed = load(samples, store, size=32, originals=originals, cache_gib=0)
        assert streamed.streamed
        assert not kept.streamed
        for one, other in (
            (kept.images.train, streamed.images.train),
            (kept.images.val, streamed.images.val),
        ):
            assert np.array_equal(one.pixels, other.pixels)
        if originals:
            assert np.array_equal(streamed.images.train.originals[3], pixels[3])
        assert streamed.digest == kept.digest

    def test_uniform_images_are_streamed_as_they_are(self, store):
        samples, pixels = array()
        train = load(samples, store, cache_gib=0).images.train
        assert np.array_equal(train.pixels, pixels[train.rows])

    def test_it_is_said(self, files, store, caplog):
        samples, _, _ = files()
        load(samples, store, size=32, cache_gib=0)
        assert "read from their files in every pass" in caplog.text


class TestOnce:
    def test_decoded_images_are_shared_and_mapped(self, files, store):
        samples, _, _ = files()
        load(samples, store, size=32)
        made = {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")}
        again = load(samples, store, size=32)
        assert isinstance(again.images.train.pictures, np.memmap)
        assert {path: path.stat().st_mtime_ns for path in store.rglob("*.npy")} == made

    def test_a_changed_file_is_decoded_again(self, files, store):
        samples, _, root = files()
        before = load(samples, store, size=32).digest
        write_image(root / "000.png", noise(40, 60, 3))
        names = list(samples.ids)
        changed = listed(ImageFiles(root, names), 40, ids=names)
        assert load(changed, store, size=32).digest != before

    def test_the_digest_is_that_of_names_labels_and_pixels(self, files, store, tmp_path):
        samples, _, root = files()
        digest = load(samples, store, size=32).digest
        assert load(samples, store, size=16).digest == digest
        root.rename(tmp_path / "moved")
        names = list(samples.ids)
        moved = listed(ImageFiles(tmp_path / "moved", names), 40, ids=names)
        assert load(moved, store, size=32).digest == digest
        other = listed(moved.reader, 40, ids=names, labels=[*[1, 0], *(np.arange(38) % 2)])
        assert load(other, store, size=32).digest != digest

    def test_folds_are_cut_from_one_entry(self, store):
        samples, _ = array()
        parts = [load(samples, store, folds=4, fold=fold) for fold in range(4)]
        tested = sorted(name for data in parts for name in data.images.test.ids)
        assert tested == sorted(samples.ids)
        assert len(list(store.rglob("pixels.npy"))) == 1


class TestDamaged:
    def damaged(self, files):
        samples, _, root = files()
        (root / "003.png").write_bytes((root / "003.png").read_bytes()[:300])
        (root / "010.png").write_bytes(b"")
        (root / "011.png").write_text("text")
        names = list(samples.ids)
        return listed(ImageFiles(root, names), 40, ids=names)

    @pytest.mark.parametrize("originals", [False, True])
    @pytest.mark.parametrize("cache_gib", [0, 1])
    def test_all_are_named_before_anything_trains(self, files, store, originals, cache_gib):
        samples = self.damaged(files)
        with pytest.raises(ConfigError) as error:
            load(samples, store, size=32, originals=originals, cache_gib=cache_gib)
        text = str(error.value)
        assert "3 of 40 images cannot be read" in text
        for name, reason in (("010.png", "empty"), ("011.png", "not an image"), ("003.png", "")):
            assert name in text
            assert reason in text
        assert "data.on_bad=skip" in text

    @pytest.mark.parametrize("originals", [False, True])
    def test_skipped_ones_are_in_no_split_and_counted(self, files, store, originals, caplog):
        samples = self.damaged(files)
        data = load(samples, store, size=32, originals=originals, on_bad="skip")
        left = {name for split in data.images.splits.values() for name in split.ids}
        assert left == set(samples.ids) - {"003.png", "010.png", "011.png"}
        assert set(data.notes()["skipped"]) == {"003.png", "010.png", "011.png"}
        assert "3 of 40 images cannot be read and are left out" in caplog.text

    def test_damaged_ones_among_images_of_one_size(self, files, store):
        samples, pixels, root = files(shapes=((8, 8, 3),))
        (root / "000.png").write_bytes(b"")
        (root / "020.png").write_bytes((root / "020.png").read_bytes()[:100])
        names = list(samples.ids)
        broken = listed(ImageFiles(root, names), 40, ids=names)
        train = load(broken, store, on_bad="skip").images.train
        assert np.array_equal(train.pixels, np.stack([pixels[row] for row in train.rows]))

    def test_nothing_but_damaged_files(self, tmp_path, store):
        for row in range(4):
            (tmp_path / f"{row}.png").write_bytes(b"")
        names = [f"{row}.png" for row in range(4)]
        with pytest.raises(ConfigError, match="4 of 4 images cannot be read"):
            load(listed(ImageFiles(tmp_path, names), 4, ids=names), store, on_bad="skip")

    def test_many_are_counted_and_the_first_named(self, files, store):
        samples, _, root = files()
        for row in range(12):
            (root / f"{row:03d}.png").write_bytes(b"")
        names = list(samples.ids)
        with pytest.raises(ConfigError, match=r"12 of 40 .* and 7 more"):
            load(listed(ImageFiles(root, names), 40, ids=names), store, size=8)

    def test_a_file_that_the_system_withholds_stops_and_is_not_remembered(self, files, store):
        samples, _, _ = files()

        class Locked(ImageFiles):
            locked = True

            def image(self, row):
                if row == 5 and self.locked:
                    raise PermissionError(13, "Permission denied", "005.png")
                return super().image(row)

        reader = Locked(samples.reader.root, samples.ids)
        locked = listed(reader, 40, ids=samples.ids)
        with pytest.raises(ConfigError, match=r"005\.png cannot be read \(Permission denied\)"):
            load(locked, store, size=32, on_bad="skip")
        reader.locked = False
        assert not load(locked, store, size=32).index.bad

    def test_a_file_whose_header_is_wrong(self, files, store):
        samples, _, _ = files()

        class Wrong(ImageFiles):
            def header(self, row):
                header = super().header(row)
                return dataclasses.replace(header, height=header.height + (row == 7))

        wrong = listed(Wrong(samples.reader.root, samples.ids), 40, ids=samples.ids)
        with pytest.raises(ConfigError, match=r"1 of 40 .* 007\.png \(it is .* header differs\)"):
            load(wrong, store, size=32, originals=True)

    @pytest.mark.parametrize("cache_gib", [0, 1])
    def test_an_image_like_a_line_is_damaged_in_every_form(self, files, store, cache_gib):
        samples, _, root = files()
        write_image(root / "002.png", noise(2, 300, 3))
        names = list(samples.ids)
        with pytest.raises(ConfigError, match=r"002\.png \(it is too elongated \(300x2\)\)"):
            load(listed(ImageFiles(root, names), 40, ids=names), store, size=8, cache_gib=cache_gib)

    def test_a_file_that_goes_while_it_is_streamed(self, files, store):
        samples, _, root = files()
        train = load(samples, store, size=8, cache_gib=0).images.train
        (root / train.ids[0]).unlink()
        with pytest.raises(RunError, match=rf"{train.ids[0]} cannot be read any more"):
            train.batch(np.array([0]))

    def test_a_full_disk(self, files, store, monkeypatch):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        samples, _, _ = files()
        with pytest.raises(ConfigError, match=r"no room for 0 MiB .*No space left.*cache_gib"):
            load(samples, store, size=8)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"shrink": 50}, r"data\.shrink is 50, but no image has more .*at most 8\)"),
        ({"near_duplicates": "drop"}, r"near_duplicates=drop has no effect"),
    ],
)
def test_what_cannot_take_effect_is_refused(keys, message, store):
    with pytest.raises(ConfigError, match=message):
        load(array()[0], store, **keys)


def test_two_sets_whose_files_look_alike_from_outside(tmp_path, store):
    """Names, sizes and times are equal, as after unpacking archives; the pixels are not."""
    digests = []
    for name in ("one", "two"):
        for row in range(20):
            path = tmp_path / name / f"{row:02d}.bmp"
            write_image(path, noise(8, 8, 3))
            os.utime(path, ns=(0, 0))
        names = [f"{row:02d}.bmp" for row in range(20)]
        reader = ImageFiles(tmp_path / name, names)
        digests.append(load(listed(reader, 20, ids=names), store).digest)
    assert digests[0] != digests[1]


class TestDuplicates:
    def twins(self, **more):
        """40 images; 0 (train) equals 30 (test), 1 (train) 20 (val), 21 (val) 31 (test)."""
        pixels = noise(40, 8, 8, 3)
        pixels[30], pixels[20], pixels[31] = pixels[0], pixels[1], pixels[21]
        splits = ["train"] * 20 + ["val"] * 10 + ["test"] * 10
        return listed(Arrays(pixels, identity=pixels.tobytes()), 40, splits=splits, **more)

    def test_the_evaluated_one_stays(self, store, caplog):
        data = load(self.twins(), store)
        assert [len(split) for split in data.images.splits.values()] == [18, 9, 10]
        assert set(data.dropped) == {0, 1, 21}
        assert set(data.notes()["dropped"]) == {"000", "001", "021"}
        assert "3 images are left out because another split has them too" in caplog.text

    def test_both_stay_when_asked(self, store):
        data = load(self.twins(), store, duplicates="keep")
        assert [len(split) for split in data.images.splits.values()] == [20, 10, 10]
        assert not data.dropped
        assert len(data.exact) == 3
        kept = [sentence for sentence in data.warnings if "data.duplicates=keep" in sentence]
        assert [sentence.split(":")[0] for sentence in kept] == [
            "1 images of val are in train too (data.duplicates=keep)",
            "1 images of test are in train too (data.duplicates=keep)",
            "1 images of test are in val too (data.duplicates=keep)",
        ]

    def test_equal_images_with_other_labels_are_said(self, store):
        labels = np.arange(40) % 2
        labels[30] = 1 - labels[0]
        data = load(self.twins(labels=labels), store)
        assert any("another label" in sentence for sentence in data.warnings)


def test_the_call_is_the_same_with_a_preparation(store):
    samples, _ = array()
    data = assemble(
        samples, Preparation(), store=store, cache_gib=1, size=None, originals=False, fallback=224
    )
    assert data.images.size == (8, 8)


class TestClassesWithoutTraining:
    def test_taken_by_duplicates(self, store):
        pixels = noise(30, 8, 8, 3)
        labels = np.array([0] * 12 + [1] * 3 + [0, 1, 1, 1, 0] * 3)
        pixels[16:19] = pixels[12:15]  # all of train's second class is in test too
        splits = ["train"] * 15 + ["test"] * 10 + ["val"] * 5
        samples = listed(Arrays(pixels, identity=0), 30, splits=splits, labels=labels)
        with pytest.raises(
            ConfigError, match=r"class 'b' are in val or test too, .*duplicates=keep"
        ):
            load(samples, store)
        assert len(load(samples, store, duplicates="keep").images.train) == 15

    def test_taken_by_groups(self, store):
        samples, _ = array(40, labels=[0] * 36 + [1] * 4)
        groups = [*(f"g{row}" for row in range(36)), *["one"] * 4]
        grouped = dataclasses.replace(samples, groups=tuple(groups))

        def problem(seed):
            try:
                load(grouped, store, split_seed=seed)
            except ConfigError as error:
                return str(error)
            return ""

        found = {problem(seed) for seed in range(5)} - {""}
        assert all("all images of the class 'b' lie in val or test" in text for text in found)
