"""Which phases of a run train on stored features, from where on, and the features themselves.

Where frozen layers give the same for an image in every pass, they run once: what they put out is
kept in the store, and training, validation and the last evaluation run the tail behind them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.data.images import Split
from warmstart.errors import ConfigError
from warmstart.features.entries import KIND
from warmstart.features.extraction import Views, extract_all
from warmstart.features.forms import Features
from warmstart.features.keys import feature_key, images_digest, prefix_digest
from warmstart.models.activations import same_modes
from warmstart.models.cuts import Cut, NoCut, Tail, frozen_cut, group_cut
from warmstart.models.layers import LayerGroup
from warmstart.models.pooling import Pooling
from warmstart.run.beat import Progress
from warmstart.run.obstacles import standing_reason
from warmstart.run.plan import Run
from warmstart.strategies.phases import Phase

# So many images show where a model can be cut.
_SHOWN = 2


@dataclasses.dataclass(frozen=True)
class Decision:
    """Whether the frozen layers of a phase run once.

    Attributes:
        phase: Its number.
        cut: Up to where they do; None where they run at every step.
        tail: What runs at every step in place of the whole model; None likewise.
        reason: Why there is no cut, as a clause; None where there is one.
        views: Of each training image; None shows the images as they are.
    """

    phase: int
    cut: Cut | None
    tail: Tail | None
    reason: str | None
    views: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for the record."""
        return {
            "phase": self.phase,
            "cached": self.cut is not None,
            "reason": self.reason,
            "at": self.cut and self.cut.module,
            "shape": self.cut and list(self.cut.shape),
            "views": self.views,
        }


def decide(run: Run, model: nn.Module, groups: Sequence[LayerGroup]) -> list[Decision]:
    """Return for each phase of a run whether its frozen layers run once; nothing is computed.

    Args:
        run: Which.
        model: As it is before step 0, on a device with numbers; it is left as it was.
        groups: Its layer groups.

    Raises:
        ConfigError: There should be views of the training images, but no phase takes any.
    """
    budget, decisions = _Budget(run), list[Decision]()
    x = first_images(run, model)
    with _as_before(model):
        for number, phase in enumerate(run.phases):
            reason = standing_reason(run, groups, number)
            cut, tail = None, None
            if reason is None:
                try:
                    cut = _cut(run, model, groups, phase, x)
                    tail = Tail(model, cut, x)
                    budget.take(cut)
                except NoCut as error:
                    cut, tail, reason = None, None, error.reason
            views = run.config["features"]["views"] if cut else None
            decisions.append(Decision(number, cut, tail, reason, views))
    _check_views(run, decisions)
    return decisions


def decide_like(
    run: Run, groups: Sequence[LayerGroup], decisions: Sequence[Decision]
) -> list[Decision]:
    """Return what `decide` would, from its decisions for a run with the same model.

    Args:
        run: Whose config differs in what concerns the head and the training images alone.
        groups: Of the model that both share.
        decisions: Of the other run, all of whose phases have a cut.
    """
    budget, found = _Budget(run), list[Decision]()
    for decision in decisions:
        reason = standing_reason(run, groups, decision.phase)
        if reason is None and decision.cut is not None:
            try:
                budget.take(decision.cut)
            except NoCut as error:
                reason = error.reason
        without = Decision(decision.phase, None, None, reason, None)
        found.append(decision if reason is None else without)
    _check_views(run, found)
    return found


def _cut(run: Run, model: nn.Module, groups: Sequence[LayerGroup], phase: Phase, x: Tensor) -> Cut:
    """Return where the frozen layers of a phase end, and leave the model in the modes of then."""
    if run.probe is not None:
        return group_cut(model.eval(), groups, len(groups) - 2, x)
    run.phase_schedule(groups).apply(model, phase.start)
    return frozen_cut(model, groups, phase.groups, x)


class _Budget:
    """The room of the store that is left for the features of a run."""

    def __init__(self, run: Run) -> None:
        node, images = run.config["features"], run.images
        self._gib, self._left = node["gib"], _limit(run)
        self._bytes = 2 if node["dtype"] == "float16" else 4
        tested = len(images.test) if run.config["test"] else 0
        self._rows = len(images.train) * (node["views"] or 1) + len(images.val) + tested
        self._cuts: set[Cut] = set()

    def take(self, cut: Cut) -> None:
        """Take the room of the features at a cut, which several phases may share.

        Raises:
            NoCut: There is not enough.
        """
        need = self._rows * math.prod(cut.shape) * self._bytes
        if cut in self._cuts:
            return
        if need > self._left:
            raise NoCut(f"the features need more room than features.gib={self._gib:g}")
        self._left -= need
        self._cuts.add(cut)


def _check_views(run: Run, decisions: Sequence[Decision]) -> None:
    views = run.config["features"]["views"]
    if views is not None and all(decision.cut is None for decision in decisions):
        raise ConfigError(
            f"features.views is {views}, but no phase of the run trains on stored features: "
            f"{decisions[0].reason}; leave it out"
        )


def features_of(
    run: Run,
    model: nn.Module,
    cut: Cut,
    name: str,
    split: Split,
    *,
    progress: Progress | None = None,
) -> Features:
    """Return the features of a split at a cut, from the store or computed into it.

    Args:
        run: Whose preprocessing, precision and device count.
        model: Whose tensors before the cut are what they were at step 0; it is moved to the device
            of the run.
        cut: Of the model, as `warmstart.models.cuts` finds it.
        name: Of the split. Under ``features.views``, ``train`` is shown in so many augmented views,
            which come one after the other.
        split: The images.
        progress: Called with the images that are done, and all images.

    Raises:
        ConfigError: There is no room for them.
    """
    return features_at(run, model, [cut], name, split, progress=progress)[0]


def features_at(
    run: Run,
    model: nn.Module,
    cuts: Sequence[Cut],
    name: str,
    split: Split,
    *,
    pools: Sequence[Pooling | None] | None = None,
    progress: Progress | None = None,
) -> list[Features]:
    """Return the features of a split at several cuts from one pass: see `features_of`.

    Args:
        run: As there; so are `model`, `name`, `split` and `progress`.
        cuts: Of the model, likewise.
        pools: By cut: what is kept of the features; None keeps them whole.
    """
    pools = pools or [None] * len(cuts)
    views = _views(run) if name == "train" else None
    half = run.config["features"]["dtype"] == "float16"
    dtype = torch.float16 if half else None
    return extract_all(
        model,
        cuts,
        split,
        run.preprocess(None if views is None else run.augment),
        keys=[
            _key(run, model, cut, split, dtype=dtype, views=views, pool=pool)
            for cut, pool in zip(cuts, pools, strict=True)
        ],
        pools=pools,
        folder=Path(run.config["store"]) / KIND,
        limit=_limit(run),
        title=f"Features of {name}",
        dtype=dtype,
        device="cuda" if run.hardware.device == "gpu" else "cpu",
        precision=run.hardware.precision,
        views=views,
        workers=run.hardware.loaders(busy=run.dataset.streamed or views is not None),
        progress=progress,
    )


def _key(
    run: Run,
    model: nn.Module,
    cut: Cut,
    split: Split,
    *,
    dtype: torch.dtype | None,
    views: Views | None,
    pool: Pooling | None,
) -> str:
    trainer, node = run.hardware.resolved(), run.config["model"]
    exact = ("accelerator", "precision", "channels_last", "deterministic", "threads")
    # Where its weights are from, and how it is cut into groups, is nothing to a forward pass.
    outside = ("weights", "channels", "granularity")
    group, pooled = run.config["group"], run.regularization.fractional_max_pool
    shorter = {} if group is None else {"group": group, "pool": run.config["features"]["pool"]}
    # The one regularization that is felt in evaluation.
    shorter |= {"fractional_max_pool": True} if pooled else {}
    return feature_key(
        prefix=prefix_digest(model, cut, first_images(run, model)),
        cut=cut,
        model={name: value for name, value in node.items() if name not in outside} | shorter,
        input=dataclasses.asdict(run.input),
        images=images_digest(run.dataset.index, split, shrink=run.config["data"]["shrink"]),
        arithmetic={name: trainer[name] for name in exact},
        dtype=dtype,
        pool=None if pool is None else pool.name,
        views=None
        if views is None
        else {"count": views.count, "seed": views.seed, "augment": run.config["augment"]},
        rows=split.rows,
    )


def _views(run: Run) -> Views | None:
    count = run.config["features"]["views"]
    return None if count is None else Views(count, run.augment, run.config["seed"])


def _limit(run: Run) -> int:
    return int(run.config["features"]["gib"] * 2**30)


def first_images(run: Run, model: nn.Module, count: int = _SHOWN) -> Tensor:
    """Return the first training images as the model gets them, on its device."""
    device, split = next(model.parameters()).device, run.images.train
    pixels = torch.from_numpy(split.batch(np.arange(min(count, len(split))))).to(device)
    x: Tensor = run.preprocess(None).to(device)(pixels, torch.empty(0), train=False)
    return x


@contextlib.contextmanager
def _as_before(model: nn.Module) -> Iterator[None]:
    """Give modes, and what requires gradients, back as they were."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with same_modes(model):
        try:
            yield
        finally:
            for parameter, flag in flags:
                parameter.requires_grad_(flag)
