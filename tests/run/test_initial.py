"""What a run starts from: every option of ``init=``, and where its weights come from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import warmstart
from data.samples import write_folder
from processes import start, trained
from tiny import write_configs
from warmstart import Record
from warmstart.errors import ConfigError
from warmstart.models.layers import LayerGroup
from warmstart.run.initial import initial_model
from warmstart.run.plan import Run
from warmstart.run.preparing import prepare

DIGITS = ["steps=3", "data.per_class=4", "batch_size=16", "trainer=cpu"]
TINY = "init.weights=source:tiny"
GROUPS = ["conv1", "conv2", "conv3", "conv4", "head"]


class Bench:
    """A folder with the user's configs and the results."""

    def __init__(self, root: Path) -> None:
        self.out = root / "out"
        self.configs = write_configs(root / "configs")

    def words(self, *overrides: str) -> list[str]:
        return [*DIGITS, f"out={self.out}", *overrides]

    def train(self, *overrides: str) -> Record:
        return warmstart.train(self.words(*overrides), config_dirs=[str(self.configs)])

    def prepare(self, *overrides: str) -> Run:
        cfg = warmstart.compose(self.words(*overrides), config_dirs=[str(self.configs)])
        return prepare(cfg)

    def weights(self, record: Record) -> dict[str, torch.Tensor]:
        return load_file(self.out / "runs" / record.key / "best.safetensors")

    def write(self, name: str, text: str) -> None:
        path = self.configs / name
        path.write_text("# @package _global_\n" + text)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def states(record: Record) -> list[str]:
    assert list(record.init["groups"]) == GROUPS
    return list(record.init["groups"].values())


SCHEME, OWN = "fresh (kaiming_normal)", "fresh (default)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["init=scratch"], [SCHEME] * 5),
        (["init=scratch", "init.scheme=lecun_uniform"], ["fresh (lecun_uniform)"] * 5),
        (["init=scratch", "init.head=zero"], [*[SCHEME] * 4, "zero"]),
        (["init=lsuv"], ["fresh (orthogonal, lsuv)"] * 5),
        (["init=gabor"], ["designed (gabor)", *[SCHEME] * 4]),
        (["init=random_features"], ["fresh (kaiming_normal, data statistics)"] * 5),
        (["init=autoencoder", "init.steps_per_group=2"], [*["autoencoder"] * 4, SCHEME]),
        (["init=pretrained", TINY], [*["loaded"] * 4, OWN]),
        (["init=first_k", TINY], ["loaded", "loaded", SCHEME, SCHEME, SCHEME]),
        (["init=first_k", TINY, "init.groups=4"], [*["loaded"] * 4, SCHEME]),
        (["init=all_but_last_k", TINY], [*["loaded"] * 3, SCHEME, SCHEME]),
        (["init=permuted", TINY], [*["permuted"] * 4, OWN]),
        (["init=mean_var", TINY], [*["mean_var"] * 4, OWN]),
        (["init=class_means", TINY], [*["loaded"] * 4, "class_means"]),
    ],
    ids=lambda value: " ".join(value).replace("init.weights=", "") if "=" in str(value) else "",
)
def test_the_record_says_what_each_group_was(
    words: list[str], expected: list[str], bench: Bench
) -> None:
    assert states(bench.train(*words)) == expected


@pytest.mark.parametrize("words", [["init=lsuv"], ["init=autoencoder", "init.steps_per_group=2"]])
def test_the_threads_of_the_process_do_not_matter(words: list[str], bench: Bench) -> None:
    digests = set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        more = ["steps=0", "test=false", f"store={bench.out}/{threads}"]
        digests.add(bench.train(*words, "model=resnet20", *more).digests["init"])
        bench.out = bench.out / "again"
    assert len(digests) == 1


@pytest.mark.parametrize("option", ["random_features", "class_means", "lsuv", "gabor"])
def test_the_random_stream_of_the_caller_is_left_alone(option: str, bench: Bench) -> None:
    run = bench.prepare(f"init={option}", *([TINY] if option == "class_means" else []))
    if run.source is not None:
        warmstart.run.execution.execute(run.source)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    initial_model(run)
    assert torch.equal(torch.get_rng_state(), before)


class TestTakenOver:
    def test_only_the_first_groups_are_those_of_the_source(self, bench: Bench) -> None:
        run = bench.prepare("init=first_k", "init.groups=3", TINY)
        assert run.source is not None
        warmstart.run.execution.execute(run.source)
        theirs = load_file(run.source.weights_file)
        ours = initial_model(run).model.state_dict()
        same = {name.split(".")[0] for name in ours if torch.equal(ours[name], theirs[name])}
        # The other BatchNorm statistics start where the source's once did.
        other = [name for name in ours if name.endswith("0.weight") and name[:5] > "conv3"]
        assert {"conv1", "conv2", "conv3"} <= same
        assert other == ["conv4.0.weight"]
        assert not torch.equal(ours["conv4.0.weight"], theirs["conv4.0.weight"])

    def test_the_rest_is_that_of_a_run_from_scratch(self, bench: Bench) -> None:
        first = initial_model(self.ready(bench, "init=first_k", TINY)).model.state_dict()
        scratch = initial_model(bench.prepare("init=scratch")).model.state_dict()
        for name in ("conv3.0.weight", "conv4.0.weight", "head.weight"):
            assert torch.equal(first[name], scratch[name]), name

    @pytest.mark.parametrize("groups", [0, 5, -5, 7])
    def test_a_number_beyond_the_model_is_refused(self, groups: int, bench: Bench) -> None:
        message = rf"init\.groups is {groups}, but the model has 5 layer groups \(conv1, .*head\)"
        with pytest.raises(ConfigError, match=message):
            bench.prepare("init=pretrained", TINY, f"init.groups={groups}")

    def test_the_first_groups_frozen_is_a_strategy(self, bench: Bench) -> None:
        words = ["strategy=partial", "strategy.top=null", "strategy.frozen=${init.groups}"]
        record = bench.train("init=first_k", TINY, *words)
        assert record.config["strategy"]["frozen"] == 2
        assert [list(entry["groups"]) for entry in record.freeze_proof] == [["conv1", "conv2"]]

    @staticmethod
    def ready(bench: Bench, *words: str) -> Run:
        run = bench.prepare(*words)
        assert run.source is not None
        warmstart.run.execution.execute(run.source)
        return run


class TestFrozenFreshWeights:
    def test_random_features_can_be_probed(self, bench: Bench) -> None:
        record = bench.train("init=random_features", "strategy=linear_probe")
        assert len(record.freeze_proof[0]["groups"]) == 4

    def test_a_net_without_batchnorm_has_no_statistics(self, bench: Bench) -> None:
        words = ["model=torchvision", "model.name=squeezenet1_1", "data.size=32"]
        with pytest.raises(ConfigError, match=r"squeezenet1_1 has no BatchNorm.*=own"):
            bench.train("init=random_features", *words)

    def test_statistics_of_the_images_are_not_called_loaded(self, bench: Bench) -> None:
        record = bench.train("init=permuted", TINY)
        reason = record.init["fresh"]["conv1.1.running_mean"]
        assert reason == "statistics of the training images"

    def test_without_statistics_they_cannot(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="BatchNorm in group conv1 would use running stat"):
            bench.train("init=scratch", "strategy=linear_probe")

    def test_fresh_groups_above_loaded_ones_cannot(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match="BatchNorm in group conv3 would use running stat"):
            bench.prepare("init=first_k", TINY, "strategy=linear_probe")


class TestOrigins:
    def test_another_run_by_the_start_of_its_key(self, bench: Bench) -> None:
        first = bench.train("seed=5")
        record = bench.train("init=pretrained", f"init.weights=run:{first.key[:8]}", "steps=0")
        assert record.init["weights"] == [f"run:{first.key[:12]}"]
        ours, theirs = bench.weights(record), bench.weights(first)
        assert torch.equal(ours["conv2.0.weight"], theirs["conv2.0.weight"])
        assert not torch.equal(ours["head.weight"], theirs["head.weight"])

    def test_a_run_that_is_not_there(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match=r"init.weights is 'run:123', but no run"):
            bench.prepare("init=pretrained", "init.weights=run:123")

    def test_a_run_that_kept_no_weights(self, bench: Bench) -> None:
        key = bench.train("keep=none").key
        with pytest.raises(ConfigError, match=f"run:{key}.*no weights.*keep=best"):
            bench.prepare("init=pretrained", f"init.weights=run:{key}")

    def test_an_address_needs_no_quotes(self, bench: Bench) -> None:
        digest = "ab" * 32
        address = f"https://localhost:1/net.pth#sha256={digest}"
        run = bench.prepare("init=pretrained", f"init.weights={address}")
        assert run.weights is not None
        assert (run.weights.origin, run.weights.digest) == (address.partition("#")[0], digest)

    def test_a_run_that_is_in_the_store_too(self, bench: Bench) -> None:
        words = ["source=tiny", f"store={bench.out}"]
        cfg = warmstart.compose([*words, f"out={bench.out}"], config_dirs=[str(bench.configs)])
        key = warmstart.run.execution.execute(prepare(cfg)).key
        loaded = bench.prepare("init=pretrained", f"init.weights=run:{key}", f"store={bench.out}")
        assert loaded.weights is not None
        assert loaded.weights.digest == key

    def test_a_source_that_keeps_no_weights(self, bench: Bench) -> None:
        bench.write("source/bare.yaml", "steps: 2\nkeep: none\ntest: false\n")
        with pytest.raises(ConfigError, match=r"source/bare.yaml has keep=none.*keep: best"):
            bench.prepare("init=pretrained", "init.weights=source:bare")

    def test_a_run_of_another_net(self, bench: Bench) -> None:
        key = bench.train("model.widths=[8,8]").key
        with pytest.raises(ConfigError, match=r"another net \(model\.widths is \[8, 8\] there"):
            bench.prepare("init=pretrained", f"init.weights=run:{key}")

    def test_a_chain_of_sources(self, bench: Bench) -> None:
        bench.write(
            "source/second.yaml",
            "defaults:\n  - override /data: digits\n  - override /init: pretrained\n"
            "init: {weights: source:tiny}\nsteps: 2\ntest: false\n",
        )
        record = bench.train("init=pretrained", "init.weights=source:second")
        assert record.init["weights"] == ["source:second", "source:tiny"]
        assert len(list((bench.out / "store" / "runs").glob("*/result.json"))) == 2

    def test_a_source_that_starts_from_itself(self, bench: Bench) -> None:
        for name, other in (("one", "two"), ("two", "one")):
            bench.write(
                f"source/{name}.yaml",
                "defaults:\n  - override /init: pretrained\n"
                f"init: {{weights: source:{other}}}\nsteps: 2\n",
            )
        with pytest.raises(
            ConfigError, match=r"source one starts from itself \(one -> two -> one\)"
        ):
            bench.prepare("init=pretrained", "init.weights=source:one")

    @pytest.mark.slow
    def test_eight_processes_train_one_source_once(self, bench: Bench, tmp_path: Path) -> None:
        log = tmp_path / "log"
        command = ["train", "--config-dir", str(bench.configs)]
        words = bench.words("init=pretrained", TINY, "strategy=linear_probe")
        processes = [start([*command, *words, f"seed={seed}"], log) for seed in range(8)]
        for process in processes:
            process.join(timeout=300)
        assert [process.exitcode for process in processes] == [0] * 8
        keys = trained(log)
        assert len(keys) == len(set(keys)) == 9, "eight runs and their source, each once"


class TestPreprocessing:
    def test_alone_a_run_from_scratch_takes_that_of_its_images(self, bench: Bench) -> None:
        alone, loaded = bench.prepare("init=scratch"), bench.prepare("init=pretrained", TINY)
        assert alone.input.mean != loaded.input.mean

    def test_in_a_comparison_all_arms_share_that_of_the_weights(self, bench: Bench) -> None:
        words = ["comparison=tiny", "model.weights=source:tiny"]
        runs = [
            bench.prepare(*words, f"init={name}") for name in ("scratch", "gabor", "pretrained")
        ]
        assert runs[0].input == runs[1].input == runs[2].input != bench.prepare().input
        assert len({run.key for run in (*runs, bench.prepare())}) == 4
        assert runs[0].weights is runs[0].source is None

    @pytest.mark.parametrize(("channels", "shape"), [(1, (16, 1, 3, 3)), (3, (16, 3, 3, 3))])
    def test_channels(self, channels: int, shape: tuple[int, ...], bench: Bench) -> None:
        record = bench.train("init=pretrained", TINY, f"model.channels={channels}")
        assert record.input["channels"] == channels == len(record.input["mean"])
        assert bench.weights(record)["conv1.0.weight"].shape == shape
        assert bool(record.init["adapted"]) == (channels == 3)
        assert states(record)[0] == "loaded"

    def test_channels_that_the_images_do_not_have(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match=r"model.channels is 4, but the images have 1; .*3"):
            bench.prepare("model.channels=4")


class TestHeads:
    def test_rows_of_classes_with_the_same_name(self, bench: Bench) -> None:
        source = bench.train("seed=7", "steps=4")
        record = bench.train(
            "init=pretrained", f"init.weights=run:{source.key}", "init.head=copy", "steps=0"
        )
        assert torch.equal(
            bench.weights(record)["head.weight"], bench.weights(source)["head.weight"]
        )

    def test_no_class_of_the_same_name(self, bench: Bench) -> None:
        with pytest.raises(ConfigError, match=r"init\.head"):
            bench.train("init=pretrained", TINY, "init.head=copy")

    def test_class_means_beat_chance_without_training(self, bench: Bench) -> None:
        means = bench.train("init=class_means", TINY, "data.per_class=40", "steps=0")
        zero = bench.train("init=pretrained", "init.head=zero", TINY, "steps=0")
        assert means.metrics["val/accuracy"] > 0.5
        assert zero.metrics["val/loss"] == pytest.approx(np.log(10), abs=1e-5)


class TestPartialMatches:
    def test_it_stops_and_lists_both_shapes(self, bench: Bench, tmp_path: Path) -> None:
        file = self.write(bench, tmp_path)
        with pytest.raises(ConfigError) as error:
            bench.train("init=pretrained", f"init.weights={file}")
        text = str(error.value)
        assert "init.allow_partial=true" in text
        assert "conv3.0.weight" in text
        assert "48x32x3x3" in text
        assert "48x32x5x5" in text

    def test_on_demand_it_takes_what_fits(self, bench: Bench, tmp_path: Path) -> None:
        file = self.write(bench, tmp_path)
        words = ["init=pretrained", f"init.weights={file}", "init.allow_partial=true"]
        record = bench.train(*words)
        assert states(record)[2].startswith("partly loaded")
        assert "conv3.0.weight" in record.init["fresh"]

    @staticmethod
    def write(bench: Bench, tmp_path: Path) -> Path:
        state = bench.weights(bench.train())
        state["conv3.0.weight"] = torch.zeros(48, 32, 5, 5)
        save_file(state, tmp_path / "other.safetensors")
        return tmp_path / "other.safetensors"


class TestAutoencoder:
    WORDS = ("init=autoencoder", "init.steps_per_group=3")

    def test_runs_alike_share_one_pretraining(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from warmstart.models import autoencoder

        calls = []
        real: Callable[..., object] = autoencoder.pretrain

        def counted(*args: object, **named: object) -> object:
            calls.append(args)
            return real(*args, **named)

        monkeypatch.setattr(autoencoder, "pretrain", counted)
        full = bench.train(*self.WORDS)
        probe = bench.train(*self.WORDS, "strategy=linear_probe")
        assert len(calls) == 4, "one for each group"
        assert full.digests["init"] == probe.digests["init"]
        bench.train(*self.WORDS, "seed=1")
        assert len(calls) == 8

    def test_a_killed_pretraining_goes_on_with_the_group_it_was_at(
        self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from warmstart.models import autoencoder

        real = autoencoder.pretrain
        groups: list[str] = []

        def dies(*args: object, only: LayerGroup, **named: object) -> object:
            groups.append(only.name)
            if groups.count("conv3") == 1 and only.name == "conv3":
                raise KeyboardInterrupt
            return real(*args, only=only, **named)  # type: ignore[arg-type]

        monkeypatch.setattr(autoencoder, "pretrain", dies)
        with pytest.raises(KeyboardInterrupt):
            bench.train(*self.WORDS)
        broken = bench.train(*self.WORDS)
        assert groups == ["conv1", "conv2", "conv3", "conv3", "conv4"]
        monkeypatch.setattr(autoencoder, "pretrain", real)
        unbroken = Bench(tmp_path / "other").train(*self.WORDS)
        assert broken.digests == unbroken.digests

    def test_a_folder_without_labels(self, bench: Bench, tmp_path: Path) -> None:
        write_folder(tmp_path / "images", {"deep/down": 3, "up": 2}, shape=(12, 10, 3))
        own = bench.train(*self.WORDS)
        words = [*self.WORDS, f"init.unlabelled={tmp_path / 'images'}"]
        theirs = bench.train(*words)
        assert own.digests["init"] != theirs.digests["init"]
        assert own.digests["split"] == theirs.digests["split"]
        assert own.key != theirs.key

    def test_a_folder_without_images(self, bench: Bench, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigError, match="empty"):
            bench.prepare(*self.WORDS, f"init.unlabelled={tmp_path / 'empty'}")
