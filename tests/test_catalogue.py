"""``warmstart models``: counts against published numbers, patterns, and what is printed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torchvision import models

from warmstart import catalogue, configs
from warmstart.errors import ConfigError
from warmstart.models.libraries import LIBRARIES

PAGE = Path(__file__).parents[1] / "docs" / "models.md"


def printed(pattern: str | None = None, *, terminal: bool = False, width: int = 80) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=terminal, color_system=None)
    catalogue.show(pattern, console=console)
    assert console.width == width
    return file.getvalue()


def only(pattern: str) -> dict:
    (row,) = catalogue.rows(pattern)
    return row


@pytest.mark.parametrize(
    ("name", "parameters", "auxiliary"),
    [
        ("alexnet", 61_100_840, 0),
        ("vgg16", 138_357_544, 0),
        ("googlenet", 6_624_904, 6_379_984),
        ("inception_v3", 23_834_568, 3_326_696),
        ("resnet50", 25_557_032, 0),
        ("regnet_y_400mf", 4_344_144, 0),  # its constructor computes with real tensors
        ("vit_b_16", 86_567_656, 0),
        ("swin_t", 28_288_354, 0),
    ],
)
def test_torchvision_models_are_counted_as_published(name, parameters, auxiliary):
    row = only(f"torchvision/{name}")
    assert (row["parameters"], row["auxiliary_parameters"]) == (parameters, auxiliary)
    published = models.get_model_weights(name)
    assert parameters == published.DEFAULT.meta["num_params"] - (
        3_326_696 if name == "inception_v3" else 0  # where torchvision's number has them
    )
    assert row["weights"] == [weights.name for weights in published]
    assert row["size"] == row["counted_at"] == published.DEFAULT.transforms().crop_size[0]
    # Their word for a multiply-add is an operation, too.
    operations = published.DEFAULT.meta["_ops"] * 1e9
    assert row["multiply_adds"] == pytest.approx(operations, rel=0.02)


def test_a_small_net_is_counted_by_hand():
    row = only("small_cnn")
    body = sum(9 * a * b + 2 * b for a, b in [(3, 16), (16, 32), (32, 48), (48, 64)])
    assert row["parameters"] == body + 256 * 10 + 10
    # Two convolutions at 32 x 32 pixels, two at 16 x 16, and the head.
    work = 32**2 * 9 * (3 * 16 + 16 * 32) + 16**2 * 9 * (32 * 48 + 48 * 64) + 256 * 10
    assert row["multiply_adds"] == work
    assert row["size"] is None
    assert row["counted_at"] == 32
    assert row["weights"] == []
    assert row["groups"]["stage"] == ["conv1", "conv2", "conv3", "conv4", "head"]


def test_a_cifar_resnet_has_one_group_per_block():
    row = only("resnet20")
    assert row["parameters"] == 269_722
    assert row["groups"]["stage"] == ["stem", "layer1", "layer2", "layer3", "head"]
    assert len(row["groups"]["block"]) == 1 + 9 + 1
    assert row["use"] == "model=resnet20"
    assert only("resnet110")["use"] == "model=resnet20 model.depth=110"


def test_a_timm_model_is_counted_and_its_tags_are_named():
    row = only("timm/resnet18")
    assert row["parameters"] == 11_689_512
    assert row["multiply_adds"] == pytest.approx(1.814e9, rel=0.02)
    assert {"a1_in1k", "tv_in1k"} <= set(row["weights"])


def test_counting_leaves_the_random_numbers_alone():
    state = torch.get_rng_state()
    only("torchvision/shufflenet_v2_x0_5")
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_a_classifier_does_not_hide_the_others():
    with pytest.raises(ConfigError, match="without a classifier"):
        catalogue.rows("timm/mobilenetv5_300m_enc")
    rows = {row["name"]: row for row in catalogue.rows("timm/mobilenetv5*")}
    assert "without a classifier" in rows["mobilenetv5_300m_enc"]["problem"]
    assert rows["mobilenetv5_base"]["parameters"] == 82_647_976
    text = printed("timm/mobilenetv5*")
    assert "timm/mobilenetv5_300m_enc: model.name is 'mobilenetv5_300m_enc'" in text
    assert "\n mobilenetv5_base " in text


@pytest.mark.parametrize("library", LIBRARIES)
def test_what_a_row_says_to_write_chooses_that_model(library):
    name = {"warmstart": "resnet32", "torchvision": "vgg11", "timm": "levit_128s"}[library]
    row = only(f"{library}/{name}")
    model = configs.compose(row["use"].split()).model
    assert model["depth" if library == "warmstart" else "name"] in (name, 32)
    assert model["_target_"].startswith("warmstart.models.")


def test_the_shortest_way_to_a_model_is_its_own_config():
    assert only("torchvision/resnet18")["use"] == "model=resnet18"
    assert only("small_cnn")["use"] == "model=small_cnn"


def names(pattern: str) -> list[str]:
    return [f"{library}/{name}" for library, name in catalogue.matching(pattern)]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("RESNET18", ["torchvision/resnet18", "timm/resnet18"]),  # a complete name: no resnet18d
        ("torchvision/resnet18", ["torchvision/resnet18"]),
        ("Torchvision/vgg1[13]", ["torchvision/vgg11", "torchvision/vgg13"]),
        ("warmstart/*", [f"warmstart/{name}" for name in LIBRARIES["warmstart"].names()]),
        ("mall_cn", ["warmstart/small_cnn"]),
        ("torchvision/vit_?_32", ["torchvision/vit_b_32", "torchvision/vit_l_32"]),
    ],
)
def test_patterns(pattern, found):
    assert names(pattern) == found


def test_a_part_of_names_is_looked_for_in_all_libraries():
    assert {name.partition("/")[0] for name in names("resnet")} == set(LIBRARIES)
    assert len(names("torchvision/")) == 80


def test_more_than_20_are_names_alone():
    rows = catalogue.rows("timm/vit*")
    assert len(rows) > 200
    assert set(rows[0]) == {"library", "name", "use"}
    text = printed("timm/vit*")
    assert "timm/vit_base_patch16_224\n" in text
    assert f"{len(rows)} models; for at most 20 more is shown: narrow the pattern\n" in text
    lines = printed("timm/vit*", terminal=True, width=160).splitlines()
    assert len(lines) < len(rows)  # several names a line
    assert max(map(len, lines)) <= 160


def test_all_names_in_short():
    text = printed(terminal=True)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 60
    assert "torchvision: 80 models" in text
    assert "timm: 1," in text
    assert "vit:" in text
    words = set(text.replace(",", " ").replace(".", " ").split())
    assert set(LIBRARIES["torchvision"].names()) | {"small_cnn", "resnet20"} <= words
    assert "model=torchvision model.name=NAME" in text
    assert len(catalogue.rows()) > 1400


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_the_table_is_readable(terminal):
    text = printed("torchvision/*[lz]enet*", terminal=terminal)
    lines = text.splitlines()
    if terminal:
        assert max(map(len, lines)) <= 80
    cells = {line.split()[0]: line.split()[1:] for line in lines if len(line.split()) == 6}
    groups = only("torchvision/googlenet")["groups"]
    count = f"{len(groups['stage'])}/{len(groups['block'])}"
    assert cells["googlenet"] == ["6.6", "6.4", "224", "1.5", count]
    assert cells["squeezenet1_1"][:4] == ["1.2", "-", "224", "0.349"]
    assert "\ntorchvision/squeezenet1_1: model=torchvision model.name=squeezenet1_1" in text
    assert "  init.weights: IMAGENET1K_V1" in text
    assert "groups at model.granularity" not in text  # of one model, or of a few


def test_models_of_one_name_are_told_apart():
    text = printed("inception_v3", terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "\n torchvision/inception_v3 " in text
    assert "\n timm/inception_v3 " in text


def test_long_names_and_many_weights_fit_80_columns():
    text = printed("vit_base_patch16_clip_quickgelu_224", terminal=True)
    assert max(map(len, text.splitlines())) <= 80
    assert "timm/vit_base_patch16_clip_quickgelu_224" in text
    assert max(map(len, printed("timm/resnet50", terminal=True).splitlines())) <= 80


def test_a_complete_name_tells_of_the_longer_ones_and_its_groups():
    text = printed("torchvision/resnext50_32x4d")
    assert "hold it" not in text
    assert "groups at model.granularity=stage: " in text
    more = len([name for name in LIBRARIES["torchvision"].names() if "vgg16" in name]) - 1
    assert f"more names hold it ({more}): warmstart models 'torchvision/*vgg16*'" in printed(
        "torchvision/vgg16"
    )


def test_json_is_what_rows_returns(capsys):
    catalogue.show("small_cnn", as_json=True)
    assert json.loads(capsys.readouterr().out) == catalogue.rows("small_cnn")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            "torchvision/resnet51",
            r"'torchvision/resnet51'; the nearest are resnet50, resnet18, resnet152",
        ),
        ("small_cn2", r"like 'small_cn2'; the nearest are small_cnn"),
        ("123456789", r"like '123456789'; `warmstart models` lists all"),
        ("tim/vit*", r"library of the pattern 'tim/vit\*' is 'tim'.* mean 'timm'"),
    ],
)
def test_a_pattern_without_a_match_is_refused(pattern, message):
    with pytest.raises(ConfigError, match=message):
        catalogue.rows(pattern)


def test_without_timm_the_rest_is_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "timm: not installed; pip install 'warmstart[timm]'" in printed()
    assert names("resnet18") == ["torchvision/resnet18"]
    with pytest.raises(ConfigError, match=r"'timm/vit\*' needs timm.*warmstart\[timm\]"):
        catalogue.rows("timm/vit*")


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg16", "googlenet", "inception_v3", "resnet50", "vit_b_16"]
)
def test_the_page_about_models_tells_what_is_printed(name):
    page, row = PAGE.read_text(encoding="utf-8"), only(f"torchvision/{name}")
    lines = [line for line in page.splitlines() if line.endswith(f"| `{name}` |")]
    for line in lines:
        assert f"| {row['parameters'] / 1e6:.1f} M |" in line
        auxiliary = row["auxiliary_parameters"]
        assert not auxiliary or f"| {auxiliary / 1e6:.1f} M |" in line
    assert len(lines) == (name != "vit_b_16")
    stages, blocks = row["groups"]["stage"], row["groups"]["block"]
    if not row["auxiliary_parameters"]:
        assert f" {len(blocks)} (block) |" in page or stages == blocks
        assert (
            f"| {len(stages)} (stage{' and block' * (stages == blocks)}) | {', '.join(stages)} |"
            in page
        )
