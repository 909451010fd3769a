"""Cells of a sweep: composed once per choice of options, and yet as Hydra composes each of them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf.errors import OmegaConfBaseException

from warmstart.configs import folder, plain, resolved, without_hydra
from warmstart.errors import ConfigError
from warmstart.sweep import Composer, grid

# Each is one override of a cell; several of a list are drawn, in any order.
OVERRIDES = [
    *("seed=3", "steps=null", "optimizer.lr=1e-2", "keep='none'", "data.per_class=5"),
    *("out=here", "store=there", "store=${out}/s", "data={per_class: 3}", "model.widths=[4,8]"),
    *("scheduler=constant", "arm=yosinski/AnB", "init.groups=2", "init.head=copy"),
    *(
        "++epochs=3",
        "batch_size=8",
        'out="${oc.env:HOME}"',
        "data.rot=1",
        "eval.crops=ten",
        "eval={}",
    ),
]


@pytest.fixture(scope="module")
def loader() -> Iterator[ConfigLoader]:
    with initialize_config_dir(config_dir=str(folder()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        yield hydra.config_loader


@pytest.fixture(scope="module")
def compose(loader: ConfigLoader) -> Composer:
    return Composer(loader, loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(overrides=st.lists(st.sampled_from(OVERRIDES), max_size=6, unique=True))
def test_a_cell_is_what_hydra_composes(
    loader: ConfigLoader, compose: Composer, overrides: list[str]
) -> None:
    master = loader.load_configuration("train", [], run_mode=RunMode.MULTIRUN)
    try:
        whole = loader.load_sweep_config(master, overrides)
        expected = resolved(without_hydra(whole, whole.hydra, []))
    except (HydraException, OmegaConfBaseException, ConfigError):
        # Where Hydra sets the value itself, it wraps what OmegaConf raises.
        with pytest.raises((HydraException, OmegaConfBaseException, ConfigError)):
            compose(overrides)
        return
    # In the same order too: that is the order in which records and reports list keys.
    assert json.dumps(compose(overrides)) == json.dumps(expected)


def test_values_that_others_refer_to_carry_them_along(compose: Composer) -> None:
    config = compose(["arm=yosinski/AnB", "init.groups=2", "out=here"])
    assert config["strategy"]["frozen"] == 2
    assert config["store"] == "here/store"
    config = compose(["arm=yosinski/AnB", "init.groups=3", "strategy.frozen=1", "store=there"])
    assert (config["strategy"]["frozen"], config["store"]) == (1, "there")


def test_cells_share_what_is_equal_and_nothing_leaks(compose: Composer) -> None:
    first, second = compose(["seed=1"]), compose(["seed=2", "optimizer.lr=0.5"])
    assert first["augment"] is second["augment"]
    assert (first["seed"], second["seed"]) == (1, 2)
    assert first["optimizer"]["lr"] != second["optimizer"]["lr"] == 0.5
    assert compose(["seed=1"]) == first


@pytest.mark.parametrize("key", ["sede", "optimizer.rate", "optimizer.lr.x"])
def test_a_key_that_does_not_exist_is_refused(compose: Composer, key: str) -> None:
    compose([])  # what can be set is known by now
    with pytest.raises((OmegaConfBaseException, ConfigError)):
        compose([f"{key}=1"])


def test_a_broken_cell_is_named(compose: Composer) -> None:
    message = r"does not resolve: .*nope.* \(in the cell seed=0 out=.*nope.*\)"
    with pytest.raises(ConfigError, match=message):
        grid(compose, ["seed=0,1"], ["out=${nope},b"])


def test_a_plain_config_is_checked_as_a_composed_one(compose: Composer) -> None:
    assert plain(compose(["seed=1"]))["seed"] == 1
    with pytest.raises(ConfigError, match=r"data\.root has no value; give it one: data\.root="):
        plain(compose(["data=image_folder"]))
    with pytest.raises(ConfigError, match="there is no key 'sede'"):
        plain({**compose([]), "sede": 1})
    with pytest.raises(ConfigError, match=r"optimizer\.lr is 'fast', but must be a number"):
        plain(compose(["optimizer.lr=fast"]))
