"""When a trial is hopeless: numbers by hand."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from warmstart.results import pruning

CURVES = [
    {"step": [5, 10, 15, 20], "accuracy": [0.1, 0.5, 0.4, 0.9]},
    {"step": [5, 10, 15, 20], "accuracy": [0.2, 0.2, 0.6, 0.7]},
    {"step": [5, 10, 15, 20], "accuracy": [0.3, 0.4, 0.8, 0.8]},
    {"step": [5, 10, 15, 20], "accuracy": [0.4, 0.1, 0.1, 0.1]},
]


def test_a_threshold_is_the_median_of_the_best_so_far() -> None:
    # At 5: 0.1 0.2 0.3 0.4; at 10: 0.5 0.2 0.4 0.4; at 15: 0.5 0.6 0.8 0.4; none at the last step.
    assert pruning.thresholds(CURVES, 20) == [[5, 0.25], [10, 0.4], [15, 0.55]]


def test_none_while_few_have_finished_nor_in_the_first_quarter() -> None:
    assert pruning.thresholds(CURVES[:3], 20) == []
    assert [step for step, _ in pruning.thresholds(CURVES, 40)] == [10, 15, 20]


def test_a_trial_that_stopped_early_keeps_what_it_had_reached() -> None:
    early = [{"step": curve["step"][:2], "accuracy": curve["accuracy"][:2]} for curve in CURVES[:3]]
    # At 15: 0.5 0.2 0.4, and the 0.4 of the last one.
    assert pruning.thresholds([*early, CURVES[3]], 20) == [[5, 0.25], [10, 0.4], [15, 0.4]]


def rows(*accuracies: float) -> list[dict[str, float]]:
    return [
        {"step": 5 * (i + 1), "accuracy": value, "loss": 1.0} for i, value in enumerate(accuracies)
    ]


def test_a_trial_ends_at_the_first_step_where_its_best_is_below() -> None:
    limits = [[5, 0.25], [10, 0.4]]
    assert pruning.pruned_at(rows(0.3, 0.3, 0.9), limits) == 10
    assert pruning.pruned_at(rows(0.2, 0.5), limits) == 5
    assert pruning.pruned_at(rows(0.5, 0.1), limits) is None, "its best counts"
    assert pruning.pruned_at(rows(0.25, 0.4), limits) is None, "as good as the median is enough"
    assert pruning.pruned_at(rows(0.0), []) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(1, 8), st.floats(0, 1))
def test_more_rows_never_change_where_it_ends(
    accuracies: list[float], place: int, limit: float
) -> None:
    limits = [[5 * place, limit]]
    ends = [pruning.pruned_at(rows(*accuracies[:n]), limits) for n in range(len(accuracies) + 1)]
    first = next((end for end in ends if end is not None), None)
    assert all(end in (None, first) for end in ends)
    assert first is None or ends[-1] == first


def test_the_file(tmp_path: Path) -> None:
    assert pruning.read(tmp_path) is None
    pruning.write(tmp_path, 10, rows(0.5, 0.25))
    assert pruning.read(tmp_path) == {
        "step": 10,
        "curve": {"step": [5, 10], "accuracy": [0.5, 0.25], "loss": [1.0, 1.0]},
    }
    pruning.forget(tmp_path)
    pruning.forget(tmp_path)
    assert pruning.read(tmp_path) is None
