"""Bad input ends with exit code 2 and one sentence: the bad value, what is allowed, the fix."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from data.samples import write_folder, write_image
from tiny import write_configs
from warmstart.cli import main

Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return a function that runs a command, which must be refused, and returns the sentence."""

    def run(*words: str, command: str = "train") -> str:
        out = tmp_path / "out"
        own = [] if any(word.startswith("out=") for word in words) else [f"out={out}"]
        assert main([command, *words, *own]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert re.fullmatch(r"warmstart: [^\n]+\n", output.err), output.err
        assert "Traceback" not in output.err
        assert not (out / "runs").exists()
        return output.err.removeprefix("warmstart: ").removesuffix("\n")

    return run


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        # names
        ("data=digit", "data is 'digit', but must be one of .*digits.*; did you mean 'digits'?"),
        ("arm=digits/probes", "arm is 'digits/probes', .*; did you mean 'digits/probe'?"),
        ("source=glyph", "source is 'glyph', .*; did you mean 'glyphs'?"),
        ("model=", "model is '', but must be one of .*small_cnn.*"),
        ("init=[scratch,pretained]", "'init=.*' gives several options, but init takes .*"),
        ("stepz=3", "there is no key 'stepz'; allowed are .*steps.*; did you mean 'steps'?"),
        ("+stepz=3", "there is no key 'stepz'; allowed are .*steps.*; did you mean 'steps'?"),
        ("++stepz=3", "there is no key 'stepz'; allowed are .*steps.*; did you mean 'steps'?"),
        ("optimizer.lrr=3", "there is no key 'optimizer.lrr'; .*; did you mean 'lr'?"),
        ("+optimizer.lrr=3", "there is no key 'optimizer.lrr'; .*; did you mean 'lr'?"),
        ("++optimizer.lrr=3", "there is no key 'optimizer.lrr'; .*; did you mean 'lr'?"),
        (
            "data.root=photos",
            "there is no key 'data.root'; allowed are duplicates, fold, folds, fraction, "
            "group_pattern, near_duplicates, on_bad, per_class, shrink, size, split_seed, "
            "test_fraction, val_fraction",
        ),
        ("~seed", "'~seed' deletes a key, but a run needs every key; give it another value"),
        ("~optimizer.lr", "'~optimizer.lr' deletes a key, .*"),
        ("arm={a:1}", "arm takes the name of an option, but got something else; give arm=NAME"),
        ("average.decay=0.9", "there is no key 'average.decay', and .* (average=NAME), or .*"),
        ("logger.x=3", "there is no key 'logger.x', and what was chosen .*"),
        # groups that are no option
        ("init=null", "'init=null' gives a config group something else than .*; choose .*"),
        (
            "regularization=[dropout,l2]",
            "'regularization=[dropout,l2]' gives several options, but regularization takes one; "
            "give regularization=NAME, and what is to differ from it as regularization.KEY=VALUE",
        ),
        ("augment=[flip,noise]", "'augment=.*' gives several options, but augment takes one; .*"),
        ("optimizer=3", "'optimizer=3' gives a config group something else than .*; choose .*"),
        # syntax
        ("steps", "'steps' does not parse; write KEY=VALUE, .*"),
        ("optimizer.lr=[1", "'optimizer.lr=[1.*' does not parse; write KEY=VALUE, .*"),
        ("seed=0,1", "'seed=0,1' gives several values to one run; sweep over them with .* -m"),
        ("seed=???", "seed has no value; give it one: seed=VALUE"),
        ("seed=${nope}", "the config does not resolve: .*nope.*"),
        # the data
        ("data.per_class=88", "data.per_class is 88, but class '8' has only 87 .* at most 87"),
        ("data.per_class=0", "data.per_class is 0, but must be a whole number of at least 1"),
        ("data.per_class=few", "data.per_class is 'few', but must be a whole number .*"),
        ("data.per_class=1.5", "data.per_class is 1.5, but must be a whole number .*"),
        (
            "augment=mixup batch_size=1",
            "batch_size is 1, but augment.mixup and augment.cutmix mix the images of a batch; "
            "give a batch_size of at least 2",
        ),
        (
            "data.size=1",
            "images of 1x1 pixels are too small for small_cnn; give a larger data.size, for "
            "example data.size=64",
        ),
        ("data=image_folder data.root=", "data.root is '', but must be a path"),
        (
            "data=list_files data.train_file=list.txt data.strip=2024",
            "data.strip is 2024, but must be text (a number in quotes: '\"5\"') or null",
        ),
        ("data=_shared", "data must name one of the options of conf/data; choose one"),
        ("cache_gib=-1", "cache_gib is -1, but must be a number of at least 0"),
        ("cache_gib=null", "cache_gib is None, but must be a number of at least 0"),
        ("features=3", "features is 3, but must have the keys cache, dtype, gib, pool, views; .*"),
        ("features.cache=on", "features.cache is 'on', but must be one of auto, off"),
        ("features.dtype=half", "features.dtype is 'half', but must be one of float16, float32.*"),
        ("features.gib=-1", "features.gib is -1, but must be a number of at least 0"),
        ("features.views=0", "features.views is 0, but must be a whole number of at least 1, .*"),
        (
            "features.views=4 features.cache=off augment=crop",
            "features.views is 4, but features.cache=off computes no features; leave out one of .*",
        ),
        (
            "features.views=4",
            "features.views is 4, but the augmentation draws nothing, so that all views of an "
            "image are one; leave it out, or give an augmentation, for example augment=crop",
        ),
        ("data=image_folder", "data.root has no value; give it one: data.root=VALUE"),
        # length and rates
        ("steps=3 epochs=4", "steps is 3 and epochs is 4; give exactly one of them .*"),
        ("steps=null", "steps is None and epochs is None; give exactly one of them .*"),
        ("optimizer.lr=-0.1", "optimizer.lr is -0.1, but must be a number of at least 0"),
        (
            "scheduler.warmup_steps=400",
            "scheduler.warmup_steps is 400, but the schedule has only 400 .*",
        ),
        (
            "scheduler=step scheduler.at_epochs=[3]",
            "scheduler.at is [0.5, 0.75] and scheduler.at_epochs is [3]; give exactly one of .*",
        ),
        (
            "scheduler=one_cycle scheduler.warmup_steps=5",
            "there is no key 'scheduler.warmup_steps'; allowed are final, initial, peak_at",
        ),
        ("scheduler=sgdr steps=3", "scheduler.cycles is 4 with .* 3 steps are too few .*"),
        # phases and groups
        (
            "strategy=lp_ft strategy.batchnorm=train strategy.restart_schedule=true "
            "scheduler=constant",
            "strategy.restart_schedule is true, but changes no rate of the run; leave it out, .*",
        ),
        (
            "strategy=lp_ft strategy.probe_until=1.0",
            "phase 1 starts at step 400, but the last step is 399; start it earlier, .*",
        ),
        (
            "strategy=partial strategy.top=6",
            "phase 0 trains the top 6 groups, but the model has 5; give at most 5, .*",
        ),
        (
            "strategy=gradual steps=3",
            "phase 1 starts at step 0, not after phase 0 at step 0; give the run more steps, .*",
        ),
        ("strategy.group_decay=1.5", "strategy.group_decay is 1.5, but must be in (0, 1]"),
        # weights
        ("init=pretrained init.weights=source:glyp", "source is 'glyp', .*'glyphs'?"),
        ("init=pretrained init.weights=no.pt", "init.weights is 'no.pt', but there is no such .*"),
        ("init=pretrained model=resnet20", "init=pretrained, but this model has no weights of .*"),
        (
            "init=pretrained init.weights=source:glyphs model=resnet20",
            "init.weights=source:glyphs is of another net .*model.depth is None there and 20 .*",
        ),
    ],
)
def test_overrides(words: str, expected: str, refused: Refused) -> None:
    assert re.fullmatch(_pattern(expected), refused(*words.split()))


def _pattern(text: str) -> str:
    """Return `text` as a regular expression in which only ``.*`` is special."""
    return ".*".join(re.escape(part) for part in text.split(".*"))


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("seed", ["-1", "1.5", "x", "true", "null", "[1]"], "a whole number of at least 0"),
        ("steps", ["-1", "1.5", "x", "true"], "a whole number of at least 0"),
        ("steps=null epochs", ["-1", "1.5", "x"], "a whole number of at least 0"),
        ("batch_size", ["0", "1.5", "x", "null"], "a whole number of at least 1"),
        ("val_every_steps", ["0", "x", "true"], "a whole number of at least 1"),
        ("log_every_steps", ["0", "x", "1.5"], "a whole number of at least 1"),
        ("test", ["3", "x", "null"], "true or false"),
        ("keep", ["all", "null", "3"], "best or none"),
        ("checkpoint_seconds", ["-1", "x", "null", "true"], "a number of at least 0"),
        ("out", ["3", "null", "{a: 1}", "''"], "the path of a folder"),
        ("store", ["3", "null", "[a]", "''"], "the path of a folder"),
    ],
)
def test_scalars_of_a_wrong_type(
    key: str, values: list[str], expected: str, refused: Refused
) -> None:
    name = key.split()[-1]
    for value in values:
        *before, last = key.split()
        sentence = refused(*before, f"{last}={value}")
        assert re.fullmatch(rf"{name} is .*, but must be {expected}", sentence), value


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("optimizer.lr=fast", "optimizer.lr is 'fast', but must be a number"),
        ("optimizer.lr=true", "optimizer.lr is True, but must be a number"),
        ("optimizer.nesterov=1", "optimizer.nesterov is 1, but must be true or false"),
        ("data.size=8.5", "data.size is 8.5, but must be a whole number or null"),
        ("data=glyphs data.seed=x", "data.seed is 'x', but must be a whole number"),
        ("data=cifar10 data.root=3", "data.root is 3, but must be a path"),
        ("data=image_folder data.root=[a]", "data.root is ['a'], but must be a path"),
        ("model.widths=16", "model.widths is 16, but must be a list"),
        ("augment=resized_crop augment.scale=1", "augment.scale is 1, but must be a list or null"),
        ("scheduler.warmup_steps=x", "scheduler.warmup_steps is 'x', but must be a whole number"),
        (
            "trainer.deterministic=x",
            "trainer.deterministic is 'x', but must be true or false or null",
        ),
    ],
)
def test_options_of_a_wrong_type(words: str, expected: str, refused: Refused) -> None:
    assert refused(*words.split()) == expected


def test_a_config_that_leaves_out_what_its_target_needs(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "configs" / "optimizer" / "mine.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("_target_: warmstart.optim.optimizers.sgd\nmomentum: 0.5\n")
    sentence = refused("--config-dir", str(tmp_path / "configs"), "optimizer=mine")
    assert sentence == "optimizer.lr has no value; give it one: optimizer.lr=VALUE"


def test_out_is_a_file(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "file").write_text("")
    sentence = refused(f"out={tmp_path / 'file'}")
    assert sentence == f"out is '{tmp_path / 'file'}', a file, but must be a folder"


class TestTargets:
    """Only callables of the group's own modules are imported and called."""

    @pytest.mark.parametrize("form", ["{}", "++{}"])
    @pytest.mark.parametrize(
        "target",
        [
            "builtins.open",
            "os.system",
            "functools.partial",
            "warmstart.store.os.system",
            "warmstart.data.digits.digits",
            "warmstart.optim.optimizers.torch.load",
            "warmstart.optim.optimizers",
            "warmstart.optim.optimizers.nope",
            "trap.spring",
        ],
    )
    def test_refused(
        self,
        target: str,
        form: str,
        tmp_path: Path,
        refused: Refused,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sprung = tmp_path / "sprung"
        (tmp_path / "trap.py").write_text(
            f"open({str(sprung)!r}, 'w')\ndef spring(*args, **kwargs): pass\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr("os.system", lambda *args: sprung.touch())
        sentence = refused(form.format(f"optimizer._target_={target}"))
        assert sentence.startswith(f"optimizer._target_ is '{target}', ")
        assert not sprung.exists()

    @pytest.mark.parametrize("sign", ["", "+", "++"])
    def test_callbacks_of_hydra_are_refused(self, sign: str, refused: Refused) -> None:
        word = f"{sign}hydra.callbacks.x._target_=os.system"
        assert refused(word).startswith(f"{word!r} sets a part of Hydra that runs or reads other")

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("arm/x", "# @package _global_\nhydra: {callbacks: {x: {_target_: trap.spring}}}"),
            ("arm/x", "# @package hydra.callbacks.x\n_target_: trap.spring"),
            ("arm/x", "# @package _global_\nhydra: {searchpath: [file:///tmp]}"),
            ("arm/x", "defaults:\n- /other@hydra.callbacks: y\n"),
            ("hydra/callbacks/x", "_target_: trap.spring"),
        ],
    )
    def test_files_that_configure_hydra_are_refused(
        self, name: str, text: str, tmp_path: Path, refused: Refused
    ) -> None:
        path = tmp_path / "configs" / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
        sentence = refused("--config-dir", str(tmp_path / "configs"))
        assert sentence.startswith(f"{path} configures Hydra itself, which could run any code")


def test_a_config_of_ones_own_that_is_no_yaml(tmp_path: Path, refused: Refused) -> None:
    path = tmp_path / "configs" / "arm" / "x.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("steps: [1\n")
    sentence = refused("--config-dir", str(tmp_path / "configs"))
    assert sentence.startswith(f"{path} is not valid YAML (")
    assert sentence.endswith("; correct it")


class TestFolders:
    def test_missing(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "photos").mkdir()
        sentence = refused("data=image_folder", f"data.root={tmp_path / 'fotos'}")
        assert sentence.startswith(f"data.root is '{tmp_path / 'fotos'}', but ")
        assert sentence.endswith("; did you mean 'photos'?")

    def test_empty(self, tmp_path: Path, refused: Refused) -> None:
        (tmp_path / "photos").mkdir()
        sentence = refused("data=image_folder", f"data.root={tmp_path / 'photos'}")
        assert f"{tmp_path / 'photos'} holds no images" in sentence
        assert sentence.endswith("add some")

    def test_one_class(self, tmp_path: Path, refused: Refused) -> None:
        write_folder(tmp_path / "photos", {"cat": 9})
        sentence = refused("data=image_folder", f"data.root={tmp_path / 'photos'}")
        assert "one class only (cat)" in sentence

    def test_a_truncated_image_is_named_with_the_count(
        self, tmp_path: Path, refused: Refused
    ) -> None:
        root = tmp_path / "photos"
        write_folder(root, {"cat": 10, "dog": 10}, shape=(32, 32, 3))
        for name in ("cat/03.png", "dog/01.png"):
            (root / name).write_bytes((root / name).read_bytes()[:200])
        sentence = refused("data=image_folder", f"data.root={root}")
        assert sentence.startswith("2 of 20 images cannot be read: cat/03.png (")
        assert "; dog/01.png (" in sentence
        assert sentence.endswith("data.on_bad=skip (warmstart look lists them all)")

    def test_images_of_different_sizes(self, tmp_path: Path, refused: Refused) -> None:
        root = tmp_path / "photos"
        for name, written in write_folder(root, {"cat": 10, "dog": 10}).items():
            if name == "dog/04.png":
                write_image(root / name, written[:4])
        assert "set data.size" in refused("data=image_folder", f"data.root={root}")


def test_weights_of_another_architecture(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shared_data / "weights" / "resnet56-4bfd9763.th"
    words = ["init=pretrained", f"init.weights={weights}", "model=small_cnn", "steps=1"]
    assert main(["train", *words, f"out={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"warmstart: {weights.name} (state_dict) fits none of the 20")
    assert "it is of another architecture; name the model" in error
    assert error.count("\n") == 1


def test_weights_that_fit_in_part_are_listed(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = shared_data / "weights" / "resnet56-4bfd9763.th"
    words = ["init=pretrained", f"init.weights={weights}", "model=resnet20", "steps=1"]
    assert main(["train", *words, f"out={tmp_path}"]) == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert "init.allow_partial=true" in first
    # ResNet-56 has six more blocks of ten tensors in each of three stages.
    assert len(lines) == 3 * 6 * 10
    assert "  layer3.8.conv2.weight: - in the model, 64x64x3x3 in the file" in lines


class TestCompare:
    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (
                "",
                "compare takes one comparison or experiment, but got none; use comparison=NAME or "
                "experiment=NAME, shipped are .*comparison=digits, .*experiment=lp_ft.*",
            ),
            ("comparison=", "compare takes one comparison or experiment, but got none; .*"),
            ("experiment=", "compare takes one comparison or experiment, but got none; .*"),
            ("comparison=digits,digits", "compare takes one .*, but got digits,digits; .*"),
            ("experiment=lp_ft,lp_ft", "compare takes one .*, but got lp_ft,lp_ft; .*"),
            ("comparison=digits comparison=digits", "compare takes one .*, but got .*"),
            (
                "comparison=digits experiment=lp_ft",
                "compare takes one .*, but got digits, lp_ft;.*",
            ),
            ("comparison=digit", "comparison is 'digit', .*; did you mean 'digits'?"),
            ("experiment=lp_f", "experiment is 'lp_f', .*; did you mean 'lp_ft'?"),
            ("experiment=lp_ft", "data.root has no value; .* (in the cell arm=lp_ft/full seed=0)"),
            (
                "experiment=update_ratios seed=0 comparison.reference=scratch",
                "comparison.reference is 'scratch', but must be one of scratch/full .*",
            ),
            (
                "experiment=longer_scratch optimizer.lr=3",
                "'optimizer.lr=3' overrides what the arm longer_scratch/pretrained sets .*",
            ),
            ("comparison=digits arm=digits/nope", "arm is 'digits/nope', but must be one of .*"),
            (
                "comparison=digits init=scratch",
                "'init=scratch' overrides what the arm .* (init); .*",
            ),
            (
                "comparison=digits optimizer.lr=3",
                "'optimizer.lr=3' overrides what the arm .* sets (optimizer.lr); .*",
            ),
            (
                "comparison=digits ++steps=3",
                "'++steps=3' overrides what the arm .* sets (steps); .*",
            ),
            (
                "comparison=digits optimizer=adam",
                "'optimizer=adam' overrides what the arm .* sets (optimizer.lr); .*",
            ),
            (
                "comparison=digits seed=interval(0,1)",
                "'seed=interval(0,1)' is no list of values; sweep over values with commas, .*",
            ),
            (
                "comparison=digits data.per_class=1,1000",
                "data.per_class is 1000, .* at most 87 (in the cell arm=.* data.per_class=1000 .*)",
            ),
            ("comparison=tiny comparison.name=../x", "comparison.name is '../x', but .*"),
        ],
    )
    def test_overrides(self, words: str, expected: str, tmp_path: Path, refused: Refused) -> None:
        flags = ["--config-dir", str(write_configs(tmp_path / "configs"))]
        sentence = refused(*flags, *words.split(), command="compare")
        assert re.fullmatch(_pattern(expected), sentence)

    @pytest.mark.parametrize(
        ("group", "node", "expected"),
        [
            ("experiment", "", "experiment=mine declares nothing to compare, but must declare .*"),
            ("comparison", "", "the comparison declares nothing to compare, but must declare .*"),
            (
                "experiment",
                "comparison: {name: mine, metric: test/accuracy}",
                "experiment=mine declares metric, name to compare, but must declare name, "
                "reference, metric; give comparison: {name: NAME, reference: ARM, .*} in .*",
            ),
            ("experiment", "comparison: mine", "experiment=mine declares nothing to compare, .*"),
        ],
    )
    def test_a_study_that_declares_too_little(
        self, group: str, node: str, expected: str, tmp_path: Path, refused: Refused
    ) -> None:
        path = tmp_path / group / "mine.yaml"
        path.parent.mkdir()
        path.write_text(f"# @package _global_\nsteps: 4\n{node}\n")
        words = ["--config-dir", str(tmp_path), f"{group}=mine"]
        assert re.fullmatch(_pattern(expected), refused(*words, command="compare"))

    def test_an_arm_that_builds_on_another_keeps_its_keys(
        self, tmp_path: Path, refused: Refused
    ) -> None:
        configs = write_configs(tmp_path / "configs")
        (configs / "arm" / "heir.yaml").write_text(
            "# @package _global_\ndefaults: [short/scratch]\nbatch_size: 4\n"
        )
        words = ["--config-dir", str(configs), "comparison=tiny", "arm=heir", "optimizer.lr=1"]
        sentence = refused(*words, command="compare")
        assert sentence.startswith("'optimizer.lr=1' overrides what the arm heir sets")
