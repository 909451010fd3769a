"""Records read by the thousand: equal to what was written, and equal parts kept once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ConfigError
from warmstart.results.record import FILE, Record, read
from warmstart.results.sharing import Reader

_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(0, 2), st.sampled_from([0.0, 1.0]), st.text()),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=5,
)
_MAPPINGS = st.dictionaries(st.text(max_size=3), _VALUES, max_size=3)


def record_of(key: str, **fields: Any) -> Record:
    known: dict[str, Any] = {"status": "finished", "seed": 0, "config": {}, "choices": {}}
    return Record(key=key, **(known | fields))


@given(st.lists(st.tuples(_MAPPINGS, _MAPPINGS, _MAPPINGS), max_size=4))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, found: list[tuple[dict[str, Any], ...]]
) -> None:
    reader, folder = Reader(), tmp_path_factory.mktemp("runs")
    for number, (config, data, environment) in enumerate(found):
        record = record_of(str(number), config=config, data=data, environment=environment)
        record.write(folder / str(number))
        # As text: 1, 1.0 and true are equal for Python, but not for a reader of settings.
        expected = json.dumps(dataclasses.asdict(read(folder / str(number)) or record))
        assert json.dumps(dataclasses.asdict(reader(folder / str(number)) or record)) == expected


def test_equal_parts_are_one_object_and_training_curves_are_left_out(tmp_path: Path) -> None:
    curves = {"train": {"step": [1], "loss": [2.0]}, "val": {"step": [1, 2], "loss": [3.0, 4.0]}}
    timing = {"total_seconds": 1.5, "curves": {"train": [0.1], "val": [0.2, 0.3]}}
    reader, found = Reader(), []
    for seed in (0, 1):
        config = {"seed": seed, "augment": {"flip": 0.5}}
        record_of(str(seed), config=config, curves=curves, timing=timing).write(tmp_path / "run")
        record = reader(tmp_path / "run")
        assert record is not None
        assert record.config == config
        assert record.curves == {"val": curves["val"]}
        assert record.timing == {"total_seconds": 1.5, "curves": {"val": [0.2, 0.3]}}
        found.append(record)
    first, second = found
    assert first.config["augment"] is second.config["augment"]
    assert first.curves["val"]["step"] is second.curves["val"]["step"]


def test_no_record_and_damaged_ones(tmp_path: Path) -> None:
    assert Reader()(tmp_path) is None
    (tmp_path / FILE).write_text('{"key": "a"}')
    with pytest.raises(ConfigError, match="is not a record of warmstart"):
        Reader()(tmp_path)
    odd = {"key": "a", "status": "failed", "seed": 0, "config": 3, "choices": [], "curves": "x"}
    (tmp_path / FILE).write_text(json.dumps(odd))
    record = Reader()(tmp_path)
    assert record is not None
    assert (record.config, record.curves) == (3, "x")
