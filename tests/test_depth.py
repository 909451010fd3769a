"""Real weights on images unlike their own: the best features are not the last ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import warmstart

pytestmark = pytest.mark.slow


def test_earlier_features_serve_hands_better(
    shared_data: Path, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    """15 images of a class: about 0.85 behind block 13, and 0.75 behind the last one."""
    words = [
        *("data=image_folder", f"data.root={unpacked('signdigits')}"),
        *("data.size=96", "data.per_class=15", "model=mobilenet_v2", "model.granularity=block"),
        *("init=pretrained", "strategy=logistic", "trainer=cpu", f"out={tmp_path}", "keep=none"),
        f"init.weights={shared_data / 'weights' / 'mobilenet_v2_imagenet.safetensors'}",
    ]
    found = {group: warmstart.train([*words, f"group={group}"]).metrics for group in (13, 18)}
    assert found[13]["test/accuracy"] > found[18]["test/accuracy"] + 0.04
