"""What notebooks call."""

from __future__ import annotations

from collections.abc import Sequence

from warmstart.configs import compose
from warmstart.results.record import Record


def train(overrides: Sequence[str] = (), *, config_dirs: Sequence[str] = ()) -> Record:
    """Run one config, or return the record of the finished run that it describes.

    Args:
        overrides: As on the command line, for example ``["data=digits", "steps=100"]``.
        config_dirs: Folders with configs of your own.

    Raises:
        ConfigError: The config, the data or the weights are wrong.
        RunError: The run failed.
    """
    from warmstart.plan import forget, prepare
    from warmstart.run import execute

    forget()
    return execute(prepare(compose(overrides, config_dirs=config_dirs)))
