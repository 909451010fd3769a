"""Runs of a model that is cut off behind a layer group."""

from __future__ import annotations

import pytest

import warmstart
from warmstart import ConfigError
from warmstart.run.preparing import prepare

WORDS = ["trainer=cpu", "model.widths=[2, 3, 4]", "batch_size=8"]


def planned(out, *overrides):
    return prepare(warmstart.compose([f"out={out}", *WORDS, "steps=2", *overrides]))


def test_a_run_trains_what_is_left(tmp_path):
    whole = warmstart.train([f"out={tmp_path}", *WORDS, "steps=2", "test=false"])
    words = [f"out={tmp_path}", *WORDS, "steps=4", "group=conv2", "test=false"]
    start = ["init=pretrained", f"init.weights=run:{whole.key}"]
    for strategy in ("linear_probe", "full", "lp_ft", "gradual"):
        record = warmstart.train([*words, *start, f"strategy={strategy}"])
        assert record.status == "finished"
        assert [group["group"] for group in record.groups] == ["conv1", "conv2", "head"]
        assert record.init["groups"]["conv2"] == "loaded"
        assert "conv3.0.weight" in record.init["unused"]
        assert record.config["group"] == "conv2"


def test_the_group_is_part_of_the_key_and_its_index_is_its_name(tmp_path):
    keys = [planned(tmp_path, *words).key for words in ([], ["group=0"], ["group=1"])]
    assert len(set(keys)) == 3
    assert planned(tmp_path, "group=conv2").key == keys[2]
    assert planned(tmp_path, "group=conv2", "features.pool=flatten").key not in keys


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["features.pool=gap"], r"^features\.pool is 'gap', but no group is named"),
        (["group=conv9"], r"^group is 'conv9', but must be.*0 conv1, 1 conv2, 2 conv3; did you"),
        (["group=3"], r"^group is 3, but must be the name or the index"),
        (["group=true"], r"^group is True, but must be"),
        (["group=[1]"], r"^group is \[1\], but must be"),
        (["group=1", "features.pool=max"], r"^features\.pool is 'max', but must be one of"),
        (["group=1", "features.pool=cls"], r"^features\.pool is 'cls'.*has no tokens"),
    ],
)
def test_what_cannot_be(tmp_path, words, message):
    with pytest.raises(ConfigError, match=message):
        planned(tmp_path, *words)
