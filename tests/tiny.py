"""A user's own folder of configs with short runs, for tests of the whole program."""

from pathlib import Path

_FILES = {
    "source/tiny": """
        # @package _global_
        defaults:
          - override /data: glyphs
          - override /model: small_cnn
        steps: 2
        data: {variants: 10}
        test: false
        """,
    "arm/short/scratch": """
        # @package _global_
        defaults:
          - override /init: scratch
          - override /strategy: full
        steps: 6
        optimizer: {lr: 0.05}
        """,
    "arm/short/probe": """
        # @package _global_
        defaults:
          - override /init: pretrained
          - override /strategy: linear_probe
        init: {weights: source:tiny}
        steps: 6
        optimizer: {lr: 0.1}
        """,
    "arm/short/broken": """
        # @package _global_
        defaults:
          - override /init: scratch
          - override /strategy: full
        steps: 6
        optimizer: {lr: 1.0e20}
        """,
    "comparison/tiny": """
        # @package _global_
        comparison: {name: tiny, reference: short/scratch, metric: test/accuracy}
        model: {weights: source:tiny}
        hydra:
          sweeper:
            params:
              arm: short/scratch,short/probe
              data.per_class: 1,2
              seed: 0,1
        """,
    "comparison/broken": """
        # @package _global_
        comparison: {name: broken, reference: short/scratch, metric: test/accuracy}
        hydra:
          sweeper:
            params:
              arm: short/broken,short/scratch
              data.per_class: 2
              seed: 0,1
        """,
}


def write_configs(root: Path) -> Path:
    """Write the folder: a source ``tiny``, arms ``short/*``, comparisons ``tiny``, ``broken``."""
    for name, text in _FILES.items():
        path = root / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [line[8:] for line in text.splitlines()[1:]]
        path.write_text("\n".join(lines))
    return root
