"""What a comparison or an experiment declares: its name, the reference arm and the metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from warmstart.errors import ConfigError, choose
from warmstart.results.metric import mixture

_KEYS = ("name", "reference", "metric")


def check_node(config: Mapping[str, Any], *, needed: bool) -> None:
    """Refuse a study that does not say what it compares.

    Args:
        config: Of any of its cells.
        needed: Whether there must be something to compare (``warmstart compare``).

    Raises:
        ConfigError: The node ``comparison`` is missing, or has other keys than it should.
    """
    declared = config["comparison"]
    if declared is None and not needed:
        return
    keys = sorted(map(str, declared)) if isinstance(declared, Mapping) else []
    if keys != sorted(_KEYS):
        study = f"experiment={config['experiment']}" if config["experiment"] else "the comparison"
        raise ConfigError(
            f"{study} declares {', '.join(keys) or 'nothing'} to compare, but must declare "
            f"{', '.join(_KEYS)}; give comparison: {{name: NAME, reference: ARM, metric: "
            "test/accuracy} in its file, below the line # @package _global_"
        )


def check_cells(config: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a comparison whose report could not say anything.

    Args:
        config: Of any of its cells.
        entries: The cells, as the plan on disk has them.

    Raises:
        ConfigError: Its sizes or folds cannot be compared, no arm is the reference, or the metric
            is one that no run will have.
    """
    declared = config["comparison"]
    if declared is None:
        return
    if problem := mixture([e["size"] for e in entries], [e["fold"] for e in entries]):
        raise ConfigError(f"the comparison {declared['name']} cannot be compared: {problem}")
    arms = [entry["arm"] for entry in entries]
    # A label is the arm's name, followed by what else was swept.
    names = {arm.split(" ")[0] for arm in arms}
    if declared["reference"] is not None and declared["reference"] not in {*arms, *names}:
        raise choose("comparison.reference", declared["reference"], set(arms))
    if str(declared["metric"]).startswith("test/") and not config["test"]:
        raise ConfigError(
            f"comparison.metric is {declared['metric']}, but test=false never evaluates the test "
            "split; give test=true or comparison.metric=val/accuracy"
        )
