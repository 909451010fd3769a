"""Every YAML in conf/ composes, instantiates and takes a training step, offline, on a CPU.

The tests are parametrized over the files themselves: a new file is covered by itself.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

import warmstart
from data.layouts import WRITERS, write
from data.samples import write_folder
from tiny import write_configs
from warmstart import ConfigError
from warmstart.cells import arm_of
from warmstart.configs import folder
from warmstart.run.preparing import prepare
from warmstart.sweep import Cell, Composer, grid

CONF = folder()
# Groups whose options are tried one by one; the others have tests of their own below.
PLAIN = (
    *("augment", "average", "init", "logger", "model", "optimizer", "regularization"),
    "scheduler",
    "strategy",
)

# What `warmstart compare` takes.
STUDIES = ("comparison", "experiment")

# Strategies without steps.
PROBES = ("knn", "logistic", "nearest_mean", "ridge", "svm")

# What some models need beside two images of 16 pixels.
MODELS = {
    "alexnet": ["data.size=64"],
    "vgg16": ["data.size=32"],
    "googlenet": ["data.size=64"],
    "inception_v3": ["data.size=299"],
    "timm": ["model.name=mobilenetv3_small_050"],
    "torchvision": ["model.name=squeezenet1_1", "data.size=32"],
}


def options(group: str) -> list[str]:
    """Return the options of a group, such as ``digits/full`` of ``arm``."""
    root = CONF / group
    names = (p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))
    # What other files of a group build on is no option.
    return sorted(name for name in names if not name.startswith("_"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with ``out``, ``configs`` and ``images`` that the tests here share."""
    root = tmp_path_factory.mktemp("conf")
    write_configs(root / "configs")
    counts = {"train": 20, "val": 2, "test": 2}
    folders = {f"{split}/{name}": count for split, count in counts.items() for name in "ab"}
    write_folder(root / "images", folders, shape=(16, 16, 3))
    return root


def train(base: Path, *overrides: str) -> warmstart.Record:
    """Train offline on a CPU, with a source of two steps where one is needed."""
    words = [f"out={base / 'out'}", "trainer=cpu", "keep=none", *overrides]
    configs = [str(base / "configs")]
    cfg = warmstart.compose(words, config_dirs=configs)
    weights = cfg.init.get("weights", "")
    # Those of 600 steps, or none of its own.
    if weights == "source:digits" or (
        weights is None and cfg.model.get("weights") == "source:glyphs"
    ):
        words.append("init.weights=source:tiny")
    record = warmstart.train(words, config_dirs=configs)
    assert record.status == "finished"
    assert record.metrics.keys() >= {"val/accuracy", "val/loss"}
    return record


def test_every_folder_of_conf_is_tested_here() -> None:
    tested = {*PLAIN, *STUDIES, "arm", "data", "hydra", "search", "source", "trainer"}
    assert {path.name for path in CONF.iterdir()} == tested | {"train.yaml"}


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text().splitlines()
    if path.parent.name != "help":
        assert any(line.startswith("# ") and "@package" not in line for line in lines[:2])
        assert len(lines) <= 64
    assert isinstance(yaml.safe_load(path.read_text()), dict)


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group in PLAIN for option in options(group)]
)
def test_option_takes_a_step(group: str, option: str, base: Path, tmp_path: Path) -> None:
    more = {
        # Some start a phase for each group, and need a step for each.
        "strategy": ["init=pretrained", "steps=10"],
        "model": [
            *("data=image_folder", f"data.root={base / 'images'}", "batch_size=2"),
            *MODELS.get(option, []),
        ],
        # Some need colours.
        "augment": ["data=image_folder", f"data.root={base / 'images'}", "batch_size=2"],
        # A warm restart for each cycle.
        "scheduler": ["steps=4"],
        # No part of a run's identity: a finished run of another option would be taken.
        "logger": [f"out={tmp_path}"],
    }.get(group, [])
    extra = {
        "wandb": ["logger.mode=offline"],
        "autoencoder": ["init.steps_per_group=1"],
        "l2_sp": ["init=pretrained"],
        # Of small nets, those with residual blocks take colours.
        "stochastic_depth": [
            *("model=resnet20", "data=image_folder", f"data.root={base / 'images'}"),
        ],
        # Two weights to average, and a step for each cycle.
        "swa": ["steps=8"],
    }.get(option, [])
    record = train(base, "steps=1", f"{group}={option}", *more, *extra)
    assert record.choices[group] == option
    if option in PROBES:
        assert record.probe["features"] > 0, "fitted, where others take a step"
        assert record.config["steps"] == 0
    else:
        assert record.curves["train"]["step"][-1] == record.config["steps"]


@pytest.mark.parametrize("option", options("search"))
def test_search_has_a_space_and_says_how(option: str) -> None:
    from warmstart.tuning.settings import read

    config = warmstart.compose([f"search={option}"])
    search = read(OmegaConf.to_container(config.search))
    assert search.sampler == option
    assert set(search.space) == {"optimizer.lr", "optimizer.weight_decay"}
    assert sum(search.trials) == 16, "the same effort, however it is spent"


def data_words(option: str, root: Path, patch: pytest.MonkeyPatch) -> list[str]:
    """Write a small version of a data set below `root`; return the overrides that read it."""
    content = yaml.safe_load((CONF / "data" / f"{option}.yaml").read_text())
    if option == "torchvision" or content["defaults"] == ["torchvision"]:
        name = "usps" if option == "torchvision" else content["name"]
        write(name, root, patch)
        words = [f"data.name={name}", f"data.root={root}", "data.size=16"]
        # Of two images of a class, one; of the three in no split, one for each.
        fractions = ["data.val_fraction=0.33", "data.test_fraction=0.33"]
        return [*words, *(fractions if option == "eurosat" else ["data.val_fraction=0.5"])]
    files = list(write_folder(root / "images", {"a": 20, "b": 20}, shape=(8, 8, 3)))
    if option == "image_folder":
        return [f"data.root={root / 'images'}"]
    if option in ("list_files", "table"):
        comma = option == "table"
        rows = [",".join([file, file[0]]) if comma else f"{file} {file[0]}" for file in files]
        path = root / f"list.{'csv' if comma else 'txt'}"
        path.write_text("\n".join([*(["path,label"] if comma else []), *rows]))
        return [f"data.{'file' if comma else 'train_file'}={path}", f"data.root={root / 'images'}"]
    if option in ("arrays", "medmnist"):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
        arrays = {"images": pixels, "labels": np.arange(40) % 2}
        if option == "medmnist":
            parts = {"train": slice(0, 20), "val": slice(20, 30), "test": slice(30, 40)}
            arrays = {f"{s}_{k}": v[p] for s, p in parts.items() for k, v in arrays.items()}
        np.savez(root / "set.npz", **arrays)
        return [f"data.file={root / 'set.npz'}"]
    if option == "huggingface":
        return [f"data.name={root / 'images'}"]
    return {"digits": [], "glyphs": ["data.variants=10"]}[option]


@pytest.mark.parametrize("option", options("data"))
def test_data_takes_a_step(
    option: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = train(base, "steps=1", f"data={option}", *data_words(option, tmp_path, monkeypatch))
    assert record.choices["data"] == option
    assert record.test_opened == 1


def test_every_set_of_torchvision_with_a_file_of_its_own_has_a_writer() -> None:
    named = (yaml.safe_load(path.read_text()).get("name") for path in (CONF / "data").glob("*"))
    assert {name for name in named if name not in (None, "???")} <= set(WRITERS)


@pytest.mark.parametrize("option", options("trainer"))
def test_trainer_takes_a_step_or_says_what_is_missing(
    option: str, base: Path, tmp_path: Path
) -> None:
    overrides = ["steps=1", f"out={tmp_path}", f"trainer={option}"]
    if option == "gpu" and not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"torch sees no GPU; use trainer=auto or =cpu"):
            train(base, *overrides)
    else:
        assert train(base, *overrides).choices["trainer"] == option


@pytest.mark.parametrize("option", options("source"))
def test_source_takes_a_step(option: str, base: Path) -> None:
    smaller = ["data.variants=10"] if option == "glyphs" else []
    record = train(base, f"source={option}", "steps=1", *smaller)
    assert record.test_opened == 0, "a source run needs no test"


@pytest.mark.parametrize("option", options("arm"))
def test_arm_takes_a_step(option: str, base: Path) -> None:
    record = train(base, f"arm={option}", "steps=4")
    assert record.curves["train"]["step"][-1] == 4


@pytest.fixture(scope="module")
def loader() -> ConfigLoader:
    """Return Hydra's loader of the shipped configs."""
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.config_loader


def studies() -> list[str]:
    """Return the overrides that choose one."""
    return [f"{group}={option}" for group in STUDIES for option in options(group)]


@cache
def cells_of(study: str, loader: ConfigLoader, base: Path) -> list[Cell]:
    overrides = [study, f"out={base / 'out'}"]
    master = loader.load_configuration("train", overrides, run_mode=RunMode.MULTIRUN)
    # Images of one's own, and sets that would be fetched.
    if OmegaConf.is_missing(master.data, "root") or "name" in master.data:
        overrides += ["data=image_folder", f"data.root={base / 'images'}", "data.size=64"]
    params = [f"{key}={value}" for key, value in master.hydra.sweeper.params.items()]
    return grid(Composer(loader, master), params, overrides)


@pytest.mark.parametrize("study", studies())
def test_the_cells_of_a_study_are_different_runs(
    study: str, loader: ConfigLoader, base: Path
) -> None:
    cells = cells_of(study, loader, base)
    keys = {prepare(cell.config).key for cell in cells}
    assert len(keys) == len(cells) > 1
    declared = cells[0].config["comparison"]
    assert declared["name"] == study.partition("=")[2]
    labels = {arm_of(cell) for cell in cells}
    reference = declared["reference"]
    assert reference is None or reference in {*labels, *(label.split()[0] for label in labels)}
    assert {cell.config["arm"] for cell in cells} - {None} <= set(options("arm"))


def test_every_arm_belongs_to_a_study() -> None:
    files = [CONF / f"{study.replace('=', '/')}.yaml" for study in studies()]
    swept = [yaml.safe_load(file.read_text())["hydra"]["sweeper"]["params"] for file in files]
    used = {arm for params in swept for arm in params.get("arm", "").split(",")}
    assert used - {""} == set(options("arm"))


@pytest.mark.parametrize("option", options("experiment"))
def test_an_experiment_says_what_it_claims_and_what_was_run(option: str) -> None:
    text = (CONF / "experiment" / f"{option}.yaml").read_text()
    header = text[: text.index("defaults:")]
    assert len(header.splitlines()) <= 16, "the package and 15 lines"
    for part in (f"# warmstart compare experiment={option}", "# Claim: ", "# Expected: "):
        assert part in header
    ran = header[header.index("# Ran here: ") :]
    assert f"warmstart compare experiment={option} " in ran
    for part in ("5 seeds", "CPU minutes", "[", "]"):
        assert part in ran
    assert f"| [`{option}`]" in (CONF.parent / "docs" / "experiments.md").read_text()
