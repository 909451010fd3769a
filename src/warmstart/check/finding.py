"""A finding of a check: a verdict and a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

OK, LOOK, WRONG = "ok", "look", "wrong"


@dataclasses.dataclass(frozen=True)
class Finding:
    """What was found about one thing.

    Attributes:
        name: Of what was looked at.
        verdict: ``ok``, ``look`` (a person should) or ``wrong``.
        sentence: What was measured, what was expected, and what to do.
    """

    name: str
    verdict: str
    sentence: str


def worst(findings: Sequence[Finding]) -> str:
    """Return the worst verdict."""
    return max((finding.verdict for finding in findings), key=(OK, LOOK, WRONG).index)
