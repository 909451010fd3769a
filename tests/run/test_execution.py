"""One run, from its config to what lies on disk."""

import csv
import dataclasses
import json
import threading
from pathlib import Path

import hydra
import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file

import warmstart
from data.samples import write_folder
from tiny import write_configs
from warmstart import Record
from warmstart.cli import main
from warmstart.run.preparing import prepare

SHORT = ["steps=12", "val_every_steps=4", "data.per_class=5", "batch_size=8"]


def folder_of(record: Record, out: Path) -> Path:
    return out / "runs" / record.key


def result(record: Record) -> Record:
    """Return the record without the state of the checkout, which somebody may be working in."""
    return dataclasses.replace(record, versions={})


def weights_of(record: Record, out: Path) -> bytes:
    return (folder_of(record, out) / "best.safetensors").read_bytes()


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return write_configs(tmp_path / "configs")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of a short run on the digits."""
    out = tmp_path_factory.mktemp("pretrained")
    record = warmstart.train([*SHORT, "seed=9", f"out={out}"])
    return folder_of(record, out) / "best.safetensors"


class TestSameSeedSameResult:
    def test_records_and_weights_are_equal_with_any_number_of_workers(self, tmp_path: Path) -> None:
        outs = [tmp_path / name for name in ("one", "two", "workers")]
        more = [[], [], ["trainer.workers=2"]]
        records = [
            warmstart.train([*SHORT, "augment=crop", f"out={out}", *words])
            for out, words in zip(outs, more, strict=True)
        ]
        assert result(records[0]) == result(records[1]) == result(records[2])
        assert records[0].versions.keys() == records[1].versions.keys() != set()
        assert records[2].environment["workers"] == 2
        weights = [weights_of(record, out) for record, out in zip(records, outs, strict=True)]
        assert weights[0] == weights[1] == weights[2]

    def test_another_seed_gives_another(self, tmp_path: Path) -> None:
        one, two = (warmstart.train([*SHORT, f"seed={s}", f"out={tmp_path}"]) for s in (0, 1))
        for name in ("split", "order", "init", "weights"):
            assert one.digests[name] != two.digests[name], name
        assert one.digests["data"] == two.digests["data"]

    def test_the_generators_of_the_process_do_not_matter(self, tmp_path: Path) -> None:
        one = warmstart.train([*SHORT, f"out={tmp_path / 'one'}"])
        torch.manual_seed(123)
        np.random.seed(123)
        assert warmstart.train([*SHORT, f"out={tmp_path / 'two'}"]) == one


class TestPairing:
    def test_arms_of_a_seed_see_the_same_split_order_and_augmentation(
        self, tmp_path: Path, configs: Path
    ) -> None:
        def digests(seed: int, *words: str) -> tuple[str, ...]:
            overrides = [*SHORT, "augment=crop", f"seed={seed}", f"out={tmp_path}", *words]
            record = warmstart.train(overrides, config_dirs=[str(configs)])
            return tuple(record.digests[name] for name in ("split", "order", "augment"))

        source = ["init=pretrained", "init.weights=source:tiny"]
        arms = [
            digests(0),
            digests(0, *source, "strategy=linear_probe", "optimizer=adam"),
            digests(0, *source, "strategy=partial"),
        ]
        assert arms[0] == arms[1] == arms[2]
        other = digests(1)
        assert all(a != b for a, b in zip(arms[0], other, strict=True))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="module")
def record(out: Path) -> Record:
    # A rate at which the accuracy goes up and down: the best is not the last.
    words = ["steps=40", "val_every_steps=2", "optimizer.lr=1.0", "optimizer.momentum=0"]
    return warmstart.train([*words, "scheduler=constant", "data.per_class=3", f"out={out}"])


class TestWhatIsKept:
    def test_files(self, record: Record, out: Path) -> None:
        names = {path.name for path in folder_of(record, out).iterdir()}
        assert names == {
            *("result.json", "predictions.npz", "test_openings", "best.safetensors", "metrics.csv"),
            "state.json",
        }
        assert json.loads((folder_of(record, out) / "result.json").read_text())["key"] == record.key

    def test_the_best_of_validation_is_what_is_evaluated(self, record: Record) -> None:
        curve = record.curves["val"]
        assert curve["step"] == list(range(2, 41, 2))
        assert record.metrics["val/accuracy"] == pytest.approx(max(curve["accuracy"]))
        assert max(curve["accuracy"]) > curve["accuracy"][-1]
        # Of equal accuracies the lower loss is the better.
        best = [
            loss
            for loss, accuracy in zip(curve["loss"], curve["accuracy"], strict=True)
            if accuracy == max(curve["accuracy"])
        ]
        assert record.metrics["val/loss"] == pytest.approx(min(best), rel=1e-5)

    def test_predictions_give_the_metrics(self, record: Record, out: Path) -> None:
        with np.load(folder_of(record, out) / "predictions.npz") as file:
            arrays = dict(file)
        assert arrays["classes"].tolist() == list("0123456789")
        for split, count in (("val", 359), ("test", 539)):
            logits, labels = arrays[f"{split}_logits"], arrays[f"{split}_labels"]
            assert len(arrays[f"{split}_ids"]) == len(set(arrays[f"{split}_ids"])) == len(labels)
            assert abs(len(labels) - count) < 20
            right = logits.argmax(axis=1) == labels
            assert record.metrics[f"{split}/accuracy"] == pytest.approx(right.mean())
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            log_sums = np.log(np.exp(shifted).sum(axis=1))
            losses = log_sums - shifted[np.arange(len(labels)), labels]
            assert record.metrics[f"{split}/loss"] == pytest.approx(losses.mean(), rel=1e-5)
            f1 = []
            for index in range(10):
                hits = (right & (labels == index)).sum()
                chosen = (logits.argmax(axis=1) == index).sum()
                f1.append(2 * hits / (chosen + (labels == index).sum()))
            assert record.metrics[f"{split}/macro_f1"] == pytest.approx(np.mean(f1), rel=1e-5)

    def test_the_weights_on_disk_make_the_predictions(self, record: Record, out: Path) -> None:
        words = ["init=pretrained", f"init.weights={folder_of(record, out) / 'best.safetensors'}"]
        words += ["init.head=copy", "steps=0", "data.per_class=3", f"out={out}"]
        again = warmstart.train(words)
        assert again.digests["weights"] == record.digests["weights"]
        assert again.metrics == record.metrics

    def test_metrics_csv_holds_the_curves(self, record: Record, out: Path) -> None:
        with (folder_of(record, out) / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        accuracy = [float(row["val/accuracy"]) for row in rows if row["val/accuracy"]]
        assert accuracy == record.curves["val"]["accuracy"]
        losses = [float(row["train/loss"]) for row in rows if row["train/loss"]]
        assert losses == record.curves["train"]["loss"]

    def test_times_are_aligned_with_the_curves(self, record: Record) -> None:
        for split in ("train", "val"):
            seconds = record.timing["curves"][split]
            assert len(seconds) == len(record.curves[split]["step"])
            assert seconds == sorted(seconds)
        assert record.timing["train_seconds"] <= record.timing["total_seconds"]

    def test_keep_none_keeps_no_weights(self, tmp_path: Path) -> None:
        record = warmstart.train(["steps=2", "keep=none", f"out={tmp_path}"])
        names = {path.name for path in folder_of(record, tmp_path).iterdir()}
        assert names == {
            *("result.json", "predictions.npz", "test_openings", "metrics.csv", "state.json")
        }

    def test_without_test_the_test_split_stays_closed(self, tmp_path: Path) -> None:
        record = warmstart.train(["steps=2", "test=false", f"out={tmp_path}"])
        assert record.test_opened == 0
        assert not any(name.startswith("test/") for name in record.metrics)
        with np.load(folder_of(record, tmp_path) / "predictions.npz") as file:
            assert set(file.files) == {"classes", "weights", "val_ids", "val_labels", "val_logits"}


class TestLength:
    def test_no_steps_evaluate_the_initialization(self, tmp_path: Path) -> None:
        record = warmstart.train(["steps=0", f"out={tmp_path}"])
        assert record.status == "finished"
        assert record.digests["init"] == record.digests["weights"]
        assert record.curves == {"train": {}, "val": {}}
        assert 0 <= record.metrics["test/accuracy"] < 0.5

    def test_an_epoch_is_a_pass_over_the_training_images(self, tmp_path: Path) -> None:
        # 10 classes x 3 images, batches of 8: 3 passes are 90 / 8 = 11.25 steps, rounded up.
        words = ["steps=null", "epochs=3", "data.per_class=3", "batch_size=8", f"out={tmp_path}"]
        record = warmstart.train(words)
        assert (record.config["steps"], record.config["epochs"]) == (12, None)
        assert record.curves["train"]["step"][-1] == record.curves["val"]["step"][-1] == 12

    def test_a_batch_larger_than_the_data_is_the_data(self, tmp_path: Path) -> None:
        words = ["steps=null", "epochs=2", "data.per_class=1", "batch_size=64", f"out={tmp_path}"]
        assert warmstart.train(words).config["steps"] == 2

    def test_steps_and_epochs_of_one_length_are_one_run(self, tmp_path: Path) -> None:
        base = ["data.per_class=3", "batch_size=8", f"out={tmp_path}"]
        by_steps = prepare(warmstart.compose([*base, "steps=12"]))
        by_epochs = prepare(warmstart.compose([*base, "steps=null", "epochs=3"]))
        assert by_steps.key == by_epochs.key

    def test_the_last_step_is_validated(self, tmp_path: Path) -> None:
        words = ["steps=7", "val_every_steps=3", "log_every_steps=2", f"out={tmp_path}"]
        record = warmstart.train(words)
        assert record.curves["val"]["step"] == [3, 6, 7]
        assert record.curves["train"]["step"] == [2, 4, 6, 7]


class TestKey:
    def key(self, *words: str) -> str:
        return prepare(warmstart.compose([*words])).key

    @pytest.mark.parametrize(
        "word",
        [
            *("seed=1", "steps=401", "batch_size=16", "val_every_steps=7", "log_every_steps=3"),
            *("test=false", "data.per_class=5", "data.size=10", "augment=crop", "scheduler=linear"),
            *("scheduler.warmup_steps=1", "optimizer=adam", "optimizer.lr=0.04", "model=resnet20"),
            *("init.scheme=xavier_normal", "init.head=zero", "strategy.group_decay=0.9"),
            *("strategy.batchnorm=train", "trainer.precision=bf16-mixed"),
            *("trainer.channels_last=true", "model.granularity=block", "data=glyphs"),
            *("accumulate=2", "features.cache=off", "features.dtype=float16", "features.gib=1"),
        ],
    )
    def test_changes_with_what_changes_the_result(self, word: str, tmp_path: Path) -> None:
        out = f"out={tmp_path}"
        assert self.key(word, out) != self.key(out)

    @pytest.mark.parametrize(
        "word",
        [
            *("out=elsewhere", "store=elsewhere", "trainer.workers=2", "logger=wandb"),
            *("keep=none", "checkpoint_seconds=1", "trainer=cpu", "comparison=digits +x=1"),
            *("on_oom=fail", "resources.cpus=2", "resources.timeout=60"),
        ],
    )
    def test_stays_with_what_cannot(
        self, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        # A comparison may set a key of the run itself: only its name must not count.
        words = ["comparison.name=other", "comparison=digits"] if "comparison" in word else [word]
        base = ["comparison=digits"] if "comparison" in word else []
        # Where there is a GPU, trainer=auto means it, and its numbers are others.
        another_device = torch.cuda.is_available() and word == "trainer=cpu"
        assert (self.key(*words) == self.key(*base)) is not another_device

    def test_stays_with_the_name_of_the_arm(self, configs: Path, tmp_path: Path) -> None:
        (configs / "arm" / "same.yaml").write_text(
            (configs / "arm" / "short" / "scratch.yaml").read_text()
        )
        keys = {
            prepare(
                warmstart.compose([f"arm={arm}", f"out={tmp_path}"], config_dirs=[str(configs)])
            ).key
            for arm in ("same", "short/scratch")
        }
        assert len(keys) == 1

    def test_goes_with_the_content_of_the_data_not_with_its_place(self, tmp_path: Path) -> None:
        counts = {f"{split}/{name}": 3 for split in ("train", "val", "test") for name in "ab"}
        keys = []
        for name, seed in (("here", 0), ("there", 0), ("other", 1)):
            write_folder(tmp_path / name, counts, seed=seed)
            words = ["data=image_folder", f"data.root={tmp_path / name}", f"out={tmp_path}"]
            keys.append(self.key(*words))
        assert keys[0] == keys[1] != keys[2]

    def test_goes_with_the_content_of_the_weights_not_with_their_place(
        self, tmp_path: Path, pretrained: Path
    ) -> None:
        copy = tmp_path / "moved.safetensors"
        copy.write_bytes(pretrained.read_bytes())
        words = ["init=pretrained", f"out={tmp_path}"]
        here, there = (self.key(*words, f"init.weights={path}") for path in (pretrained, copy))
        other = warmstart.train([*SHORT, "seed=8", f"out={tmp_path}"])
        other_path = folder_of(other, tmp_path) / "best.safetensors"
        assert here == there != self.key(*words, f"init.weights={other_path}")


class TestFreezing:
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    def test_a_linear_probe_leaves_the_body_as_it_was_loaded(
        self, optimizer: str, tmp_path: Path, pretrained: Path
    ) -> None:
        words = ["init=pretrained", f"init.weights={pretrained}", "strategy=linear_probe"]
        # Weight decay on everything, and a rate at which a leak would show.
        words += [f"optimizer={optimizer}", "optimizer.lr=0.5", "optimizer.weight_decay=0.1"]
        record = warmstart.train([*SHORT, *words, "optimizer.decay_all=true", f"out={tmp_path}"])
        loaded = load_file(pretrained)
        trained = load_file(folder_of(record, tmp_path) / "best.safetensors")
        assert loaded.keys() == trained.keys()
        changed = {name for name in loaded if not torch.equal(loaded[name], trained[name])}
        head = {name for name in loaded if name.startswith("head.")}
        assert changed == head != set()
        assert record.init["loaded"] == len(loaded) - len(head)
        assert set(record.init["fresh"]) == head

    def test_full_changes_every_trainable_tensor(self, tmp_path: Path, pretrained: Path) -> None:
        words = ["init=pretrained", f"init.weights={pretrained}", "strategy=full"]
        record = warmstart.train([*SHORT, *words, f"out={tmp_path}"])
        trained = load_file(folder_of(record, tmp_path) / "best.safetensors")
        same = {n for n, tensor in load_file(pretrained).items() if torch.equal(tensor, trained[n])}
        assert same == set()


class TestAgain:
    def test_a_finished_run_is_not_trained_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = ["steps=3", f"out={tmp_path}"]
        record = warmstart.train(words)
        files = {p: p.stat().st_mtime_ns for p in folder_of(record, tmp_path).iterdir()}
        monkeypatch.setattr(
            "warmstart.run.execution._train", lambda *args: pytest.fail("it trains again")
        )
        assert warmstart.train(words) == record
        assert files == {p: p.stat().st_mtime_ns for p in folder_of(record, tmp_path).iterdir()}

    def test_a_failed_run_is_tried_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ["steps=3", f"out={tmp_path}"]
        with monkeypatch.context() as patch:
            patch.setattr("warmstart.run.stages.fit", lambda *args, **options: 1 / 0)
            assert main(["train", *words]) == 1
        assert capsys.readouterr().err == "warmstart: ZeroDivisionError: division by zero\n"
        key = prepare(warmstart.compose(words)).key
        content = json.loads((tmp_path / "runs" / key / "result.json").read_text())
        assert (content["status"], content["key"]) == ("failed", key)
        assert "ZeroDivisionError" in content["error"]
        assert "in _train" in content["environment"]["traceback"]
        assert main(["train", *words]) == 0
        assert warmstart.train(words).status == "finished"

    def test_threads_and_hydra_jobs_may_train(self, tmp_path: Path) -> None:
        """A notebook calls as often as it likes, also where Hydra is running a job."""
        assert not GlobalHydra.instance().is_initialized()
        records = []

        def job(cfg: object) -> None:
            assert warmstart.compose(["steps=3"]).steps == 3
            records.append(warmstart.train(["steps=2", f"out={tmp_path}"]))
            assert GlobalHydra.instance().is_initialized()

        (tmp_path / "conf").mkdir()
        (tmp_path / "conf" / "job.yaml").write_text(
            "x: 1\nhydra:\n  run: {dir: .}\n  output_subdir: null\n"
            "defaults: [_self_, {override hydra/job_logging: none}]\n"
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["job"])
            hydra.main(str(tmp_path / "conf"), "job", version_base="1.3")(job)()
        assert len(records) == 1
        assert not GlobalHydra.instance().is_initialized()

        thread = threading.Thread(
            target=lambda: records.append(warmstart.train(["steps=2", f"out={tmp_path / 'two'}"]))
        )
        thread.start()
        thread.join()
        assert records[0] == records[1]
