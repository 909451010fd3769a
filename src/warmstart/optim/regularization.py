"""The options of ``regularization=``: what keeps a model from fitting its training images alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from warmstart.errors import ConfigError

# What changes the model; all else concerns the loss and its gradient.
OF_THE_MODEL = ("dropout", "drop_connect", "stochastic_depth", "fractional_max_pool")


@dataclasses.dataclass(frozen=True)
class Regularization:
    """What is added to a training besides weight decay and augmentation.

    The objective of a step is the loss plus ``l1 |w|_1 + l2/2 |w|^2`` over the weights that weight
    decay decays, plus ``l2_sp/2 |w - w0|^2`` over the weights that were transferred and
    ``l2_sp_head/2 |w|^2`` over the new ones. The penalties are no part of the loss that is shown.

    Attributes:
        l2: Factor of the L2 penalty.
        l1: Factor of the L1 penalty (Zou and Hastie, Regularization and variable selection via the
            elastic net, JRSS B 2005, for both).
        l2_sp: Pull towards the weights before step 0, on all numbers that came from pretrained
            weights (Li et al., Explicit Inductive Bias for Transfer Learning with Convolutional
            Networks, ICML 2018, eq. 2, alpha).
        l2_sp_head: Pull towards zero, on those matrices and convolutions that did not (beta there).
        label_smoothing: e: the target is 1 - e (K - 1) / K for the right one of K classes and e / K
            for the others (Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, 7).
        dropout: Rate of all dropout layers, or of a new one before the head where the model has
            none; or by the path of a head, on its input alone, in the place of a dropout layer
            there. None leaves them as the model has them.
        drop_connect: Rate at which weights of the head are dropped.
        stochastic_depth: Rate of the last residual block; it grows linearly with the depth. None
            leaves the model as it is.
        fractional_max_pool: Pool at random places in small_cnn.
        clip_norm: Longest gradient over all that trains, None for any.
        clip_value: Largest number in it, likewise.
    """

    l2: float = 0.0
    l1: float = 0.0
    l2_sp: float = 0.0
    l2_sp_head: float = 0.0
    label_smoothing: float = 0.0
    dropout: float | Mapping[str, float] | None = None
    drop_connect: float = 0.0
    stochastic_depth: float | None = None
    fractional_max_pool: bool = False
    clip_norm: float | None = None
    clip_value: float | None = None

    def __post_init__(self) -> None:
        for name in ("l2", "l1", "l2_sp", "l2_sp_head"):
            _check(name, getattr(self, name), "of at least 0", lambda value: value >= 0)
        for name in ("label_smoothing", "drop_connect", "dropout", "stochastic_depth"):
            given = getattr(self, name)
            rates = given if isinstance(given, Mapping) else {"": given}
            for path, rate in rates.items():
                if rate is not None or path:
                    label = f"{name}.{path}" if path else name
                    _check(label, rate, "in [0, 1)", lambda value: 0 <= value < 1)
        if self.dropout == {}:
            raise ConfigError(
                "regularization.dropout is {}, but must be a number in [0, 1), rates of heads "
                "({head: 0.5}), or null"
            )
        for name in ("clip_norm", "clip_value"):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), "above 0, or null", lambda value: value > 0)
        if self.clip_norm is not None and self.clip_value is not None:
            raise ConfigError(
                f"regularization.clip_norm is {self.clip_norm} and regularization.clip_value is "
                f"{self.clip_value}, but only one of them can clip; leave out the other"
            )

    @property
    def given(self) -> dict[str, object]:
        """The options that are not as in ``regularization=none``, by name."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }


def _check(name: str, value: Any, wanted: str, fits: Callable[[float], bool]) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and fits(value)):
        raise ConfigError(f"regularization.{name} is {value!r}, but must be a number {wanted}")
