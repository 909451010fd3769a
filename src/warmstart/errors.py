"""The two ways a command ends badly: the user's input is wrong, or a run failed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """Wrong usage, configuration or data: one sentence for the user, exit code 2.

    The message names the bad value, what was expected, and the fix.
    """


class RunError(RuntimeError):
    """A run started and could not finish: one sentence for the user, exit code 1."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest allowed name, or an empty string."""
    match = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.55)
    return f"; did you mean {match[0]!r}?" if match else ""


def choose(what: str, name: object, allowed: Iterable[str]) -> ConfigError:
    """Return the error for a `name` that is not among the `allowed` ones."""
    names = sorted(allowed)
    return ConfigError(
        f"{what} is {name!r}, but must be one of {', '.join(names)}{nearest(str(name), names)}"
    )
