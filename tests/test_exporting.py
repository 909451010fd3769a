"""``warmstart features``: what is exported, how it is pooled, and when test is opened."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

import warmstart
from data.samples import write_folder
from warmstart import ConfigError, feature_files
from warmstart.cli import main
from warmstart.configs import compose
from warmstart.data.images import Vault
from warmstart.run.initial import initial_model
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

SMALL = ["data=digits", "data.per_class=3", "trainer=cpu"]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def run(out: Path) -> Run:
    return prepare(compose([*SMALL, f"out={out}"]))


def activations(run: Run, path: str, split: str = "val") -> torch.Tensor:
    """Return what the module at `path` is given, by a hook of torch's own."""
    model = initial_model(run).model.eval()
    found = []
    model.get_submodule(path).register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    pixels = torch.from_numpy(run.images.splits[split].pixels)
    with torch.no_grad():
        model(run.preprocess(None)(pixels, torch.empty(0), train=False))
    return found[0]


class TestFromPython:
    def test_all_groups_by_hand(self, run: Run, out: Path) -> None:
        export = warmstart.extract_features([*SMALL, f"out={out}"])
        names = list(run.architecture.layout)
        assert [group.group for group in export.groups] == names[:-1]
        assert export.classes == run.images.classes
        assert export.ids["val"] == run.images.val.ids
        np.testing.assert_array_equal(export.labels["train"], run.images.train.labels)
        for group, above in zip(export.groups, names[1:], strict=True):
            (path, *_) = run.architecture.layout[above]
            expected = activations(run, path)
            assert group.activation == tuple(expected.shape[1:])
            assert group.rectified == bool((expected >= 0).all())
            if expected.ndim == 4:
                assert group.pool == "gap"
                expected = expected.mean((2, 3))
            found = group.splits["val"][np.arange(len(expected))]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_one_group_flattened(self, run: Run, out: Path) -> None:
        export = warmstart.extract_features([*SMALL, f"out={out}"], group=0, pool="flatten")
        (group,) = export.groups
        name, above = list(run.architecture.layout)[:2]
        (path, *_) = run.architecture.layout[above]
        assert (group.group, group.pool) == (name, "flatten")
        expected = activations(run, path).flatten(1)
        found = group.splits["val"][np.arange(len(expected))]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_not_rectified_is_said(self, out: Path) -> None:
        # The residual stream of a transformer takes any sign.
        export = warmstart.extract_features(
            [
                *(*SMALL, "test=false", f"out={out}", "data.size=32", "model=torchvision"),
                *("model.name=vit_b_16", "model.weights=null"),
            ],
            group=0,
            pool="cls",
        )
        (group,) = export.groups
        assert (group.rectified, group.pool) == (False, "cls")
        assert group.activation == (5, 768)

    def test_every_opening_of_test_is_written_down(self, tmp_path: Path) -> None:
        words, log = [*SMALL, f"out={tmp_path}"], tmp_path / "log"
        for count in (1, 2):  # also where all features are in the store
            export = warmstart.extract_features(words, group=0, log=log)
            assert len(log.read_text().splitlines()) == count
        assert len(export.groups[0].splits["test"]) == len(export.labels["test"])
        warmstart.extract_features(words, group=0)
        (default,) = (tmp_path / "features").glob("*.test_openings")
        assert len(default.read_text().splitlines()) == 1

    def test_without_test_it_stays_closed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Vault, "open", lambda *_: pytest.fail("test was opened"))
        export = warmstart.extract_features([*SMALL, f"out={tmp_path}", "test=false"], group=0)
        assert set(export.labels) == {"train", "val"}

    def test_weights_of_a_run(self, tmp_path: Path) -> None:
        words = [*SMALL, f"out={tmp_path}"]
        record = warmstart.train([*words, "steps=4"])
        start = ["init=pretrained", f"init.weights=run:{record.key[:10]}"]
        trained = warmstart.extract_features([*words, *start], group=0).groups[0].splits["val"]
        fresh = warmstart.extract_features(words, group=0).groups[0].splits["val"]
        assert not torch.equal(trained[np.arange(9)], fresh[np.arange(9)])

    @pytest.mark.parametrize(
        ("words", "options", "expected"),
        [
            ([], {"group": "nose"}, "group is 'nose', but must be all or one of "),
            ([], {"group": "head"}, "is the head"),
            ([], {"group": 9}, "group is '9', but must be"),
            ([], {"pool": "max"}, "features.pool is 'max', but must be one of cls, flatten, gap"),
            ([], {"group": 0, "pool": "cls"}, "features.pool is 'cls', but"),
            (["features.views=2", "augment=crop"], {}, "features.views is 2, but is of training"),
            (["features.cache=off"], {}, "features.cache is off, but here features are read"),
        ],
    )
    def test_what_is_wrong(
        self, words: list[str], options: dict[str, str], expected: str, out: Path
    ) -> None:
        with pytest.raises(ConfigError) as error:
            warmstart.extract_features([*SMALL, f"out={out}", *words], **options)
        assert expected in str(error.value)


class TestCommand:
    def test_npz(self, run: Run, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = out / "all.npz"
        assert main(["features", *SMALL, "group=all", f"out={out}", "--out", str(path)]) == 0
        text = capsys.readouterr().out
        assert f"features: {path}\n" in text
        assert f"test was opened for this file once ({out / 'all.test_openings'})" in text
        export = warmstart.extract_features([*SMALL, f"out={out}"])
        with np.load(path) as file:
            arrays = dict(file)
        assert arrays["classes"].tolist() == list(export.classes)
        for split, labels in export.labels.items():
            assert arrays[f"{split}_ids"].tolist() == list(export.ids[split])
            np.testing.assert_array_equal(arrays[f"{split}_labels"], labels)
            for group in export.groups:
                expected = group.splits[split][np.arange(len(labels))].numpy()
                found = arrays[f"{split}_features_{group.group}"]
                assert found.dtype == np.float32
                np.testing.assert_array_equal(found, expected)

    def test_float16_by_default_in_the_output_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["features", *SMALL, "group=0", f"out={tmp_path}", "--float16"]) == 0
        (path,) = (tmp_path / "features").glob("*.0.npz")
        with np.load(path) as file:
            half = file["val_features"]
        assert half.dtype == np.float16
        whole = warmstart.extract_features([*SMALL, f"out={tmp_path}"], group=0).groups[0]
        np.testing.assert_allclose(
            half, whole.splits["val"][np.arange(len(half))].numpy(), rtol=1e-3, atol=1e-3
        )
        assert "float16" in capsys.readouterr().out

    def test_parquet_in_parts(
        self, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = [*SMALL, f"out={out}", "test=false"]
        export = warmstart.extract_features(words, group=1)
        (group,) = export.groups
        count = sum(map(len, export.labels.values()))
        width = group.splits["val"].shape[1]
        monkeypatch.setattr(feature_files, "_FILE_BYTES", 4 * width * 100 + 3)  # 100 images
        monkeypatch.setattr(feature_files, "_BLOCK_ROWS", 7)
        path = tmp_path / "f.parquet"
        assert main(["features", *words, "group=1", "--out", str(path)]) == 0
        files = sorted(tmp_path.glob("f*"))
        parts = -(-count // 100)
        assert [file.name for file in files] == [
            f"f-{number:05d}-of-{parts:05d}.parquet" for number in range(parts)
        ]
        tables = [parquet.read_table(file) for file in files]
        assert [len(table) for table in tables[:-1]] == [100] * (parts - 1)
        assert json.loads(tables[0].schema.metadata[b"classes"]) == list(export.classes)
        rows = [row for table in tables for row in table.to_pylist()]
        place = 0
        for split, labels in export.labels.items():
            part = rows[place : place + len(labels)]
            place += len(labels)
            assert {row["split"] for row in part} == {split}
            assert [row["id"] for row in part] == list(export.ids[split])
            assert [row["label"] for row in part] == labels.tolist()
            expected = group.splits[split][np.arange(len(labels))].numpy()
            found = np.array([row["feature"] for row in part], np.float32)
            np.testing.assert_array_equal(found, expected)
        assert place == len(rows)

    def test_names_of_images_are_their_paths(self, tmp_path: Path) -> None:
        write_folder(tmp_path / "photos", {"cat": 8, "dog": 8})
        words = ["data=image_folder", f"data.root={tmp_path / 'photos'}", "data.size=8"]
        path = tmp_path / "f.npz"
        more = ["trainer=cpu", "group=0", f"out={tmp_path / 'out'}", "--out", str(path)]
        assert main(["features", *words, *more]) == 0
        with np.load(path) as file:
            names = [*file["train_ids"], *file["val_ids"], *file["test_ids"]]
        assert all((tmp_path / "photos" / name).is_file() for name in names)

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ([], "features takes one layer group, but got none; give group=NAME, or group=all"),
            (["group=0", "group=1"], "group=0 and group=1 are given; give one"),
            (
                ["group=0", "--out", "x.csv"],
                "--out is x.csv, but must be a file *.npz or *.parquet",
            ),
        ],
    )
    def test_what_is_wrong(
        self, words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["features", *SMALL, *words]) == 2
        assert capsys.readouterr().err == f"warmstart: {expected}\n"

    def test_parquet_needs_its_library(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        assert main(["features", *SMALL, "group=0", "--out", "x.parquet"]) == 2
        assert "need pyarrow; run pip install 'warmstart[datasets]'" in capsys.readouterr().err
