"""What a model takes over from loaded weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor, nn

from warmstart.errors import ConfigError, choose
from warmstart.models.adapt import input_convolutions
from warmstart.models.classes import copied, matching_rows
from warmstart.models.fitting import Target, search
from warmstart.models.layers import LayerGroup
from warmstart.models.load_report import LoadReport, some
from warmstart.models.misfits import Misfit, refusal, strays
from warmstart.randomness import torch_generator

HEADS = ("fresh", "zero", "copy", "class_means")


def _exact(values: Tensor, generator: Generator) -> Tensor:
    return values


def _permuted(values: Tensor, generator: Generator) -> Tensor:
    order = torch.randperm(values.numel(), generator=generator)
    return values.flatten()[order].reshape(values.shape)


def _mean_var(values: Tensor, generator: Generator) -> Tensor:
    numbers = torch.randn(values.shape, generator=generator).to(values.dtype)
    return numbers * values.std(correction=0) + values.mean()


VALUES: dict[str, Callable[[Tensor, Generator], Tensor]] = {
    "exact": _exact,
    "permuted": _permuted,
    "mean_var": _mean_var,
}


@dataclasses.dataclass(frozen=True)
class Take:
    """What to take over.

    Attributes:
        groups: The end of a slice over the layer groups: -1 all but the head, 3 the first three,
            -2 all but the last two.
        head: ``copy`` takes the rows of classes with equal names, or all rows where the weights do
            not name their classes. ``fresh``, ``zero`` and ``class_means`` take nothing.
        values: ``exact``; ``permuted``, each parameter's numbers in random order; ``mean_var``,
            random normal numbers of each parameter's mean and standard deviation (Raghu et al.,
            Transfusion, NeurIPS 2019, section 4). Buffers stay exact under all of them: statistics
            of BatchNorm that fit the new function are estimated from data.
        allow_partial: Take over what fits, where not everything does.
    """

    groups: int = -1
    head: str = "fresh"
    values: str = "exact"
    allow_partial: bool = False

    def __post_init__(self) -> None:
        if self.head not in HEADS:
            raise choose("init.head", self.head, HEADS)
        if self.values not in VALUES:
            raise choose("init.values", self.values, VALUES)


def taken(groups: Sequence[LayerGroup], end: int) -> int:
    """Return how many of the first groups ``init.groups=end`` takes over.

    Raises:
        ConfigError: None of them, or the head too.
    """
    most = len(groups) - 1
    if isinstance(end, bool) or not isinstance(end, int) or end == 0 or not -most <= end <= most:
        names = ", ".join(group.name for group in groups)
        raise ConfigError(
            f"init.groups is {end!r}, but the model has {len(groups)} layer groups ({names}): give "
            f"1 to {most} for the first ones, or -1 to -{most} for all but the last ones"
        )
    return end % len(groups)


def load(
    model: nn.Module,
    state: Mapping[str, Tensor],
    *,
    groups: Sequence[LayerGroup],
    take: Take,
    auxiliary: Sequence[str] = (),
    classes: tuple[Sequence[str], Sequence[str]] | None = None,
    seed: int = 0,
    origin: str,
) -> LoadReport:
    """Copy tensors of `state` into `model`, in place, and say what became of each.

    Args:
        model: Already initialized: what is not loaded stays as it is.
        state: Tensor names without wrappers' prefixes.
        groups: Of the model; the last holds the classifier alone.
        take: What to take over.
        auxiliary: Paths of the auxiliary heads. Their last layers follow `take.head`, and what is
            missing of them is no misfit.
        classes: Names of the data's and of the weights' classes, for ``init.head=copy``; None where
            the weights do not say.
        seed: Of the controls; a tensor's numbers depend on it and on its name only.
        origin: The name of the weights, for messages.

    Raises:
        ConfigError: Tensors to take over are missing in the file or of another shape, or it holds
            tensors that the model has no place for; nothing fits; the head does not fit; there are
            numbers that are not finite. The model is as it was.
    """
    count = taken(groups, take.groups)
    target = Target.of(model, groups, count, auxiliary)
    found = search(target, state, input_convolutions(model, groups))
    optional = [*groups[count:-1], groups[-1]]
    misfits = found.misfits + strays(model, state, optional=optional, auxiliary=auxiliary)
    learned = found.values.keys() & target.parameters
    if not learned or (misfits and not take.allow_partial):
        wanted = [name for name in target.tensors if name not in target.untaken]
        raise refusal(misfits, wanted=wanted, fitting=bool(learned), origin=origin)
    copies: dict[str, Tensor] = {}
    said = take.head
    if take.head == "copy":
        copies, said = _copied_classifiers(target, state, classes, origin)
    _check_finite(found.values | copies, origin)
    for name in learned:
        generator = torch_generator(seed, take.values, name)
        found.values[name] = VALUES[take.values](found.values[name], generator)
    values = found.values | copies
    with torch.no_grad():
        for name, value in values.items():
            target.tensors[name].copy_(value)
    places = model.state_dict()
    return LoadReport(
        loaded=tuple(name for name in target.tensors if name in values),
        adapted=found.adapted,
        fresh={name: reason for name, reason in found.fresh.items() if name not in copies},
        unused=tuple(name for name in state if name not in places),
        head=said,
        values=take.values,
    )


def _copied_classifiers(
    target: Target,
    state: Mapping[str, Tensor],
    classes: tuple[Sequence[str], Sequence[str]] | None,
    origin: str,
) -> tuple[dict[str, Tensor], str]:
    """Return the values of the head and of auxiliary heads, and which classes have them."""
    rows, count, said = None, None, "loaded"
    if classes is not None:
        ours, theirs = classes
        rows, count = matching_rows(ours, theirs), len(theirs)
        names = [ours[row] for row in rows]
        if not rows:
            raise ConfigError(
                f"init.head=copy, but none of the {len(ours)} classes ({some(ours)}) is among the "
                f"{count} of {origin} ({some(theirs)}); use init.head=fresh"
            )
        if len(rows) < len(ours):
            said = f"{len(rows)} of {len(ours)} classes copied by name: {some(names)}"
    head, *auxiliary = (
        copied(classifier, state, rows=rows, classes=count) for classifier in target.classifiers
    )
    if head is None:
        misfits = (Misfit.of(n, t, state.get(n)) for n, t in target.classifiers[0].items())
        shapes = "; ".join(f"{m.name}: {m.model} here, {m.file} there" for m in misfits)
        raise ConfigError(
            f"init.head=copy, but the head of {origin} does not fit the data's classes ({shapes}); "
            "use init.head=fresh"
        )
    for layer in auxiliary:
        head |= layer or {}
    return head, said


def _check_finite(values: Mapping[str, Tensor], origin: str) -> None:
    broken = [n for n, t in values.items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise ConfigError(
            f"{origin} has NaN or infinity in {', '.join(broken)}; these weights are damaged, "
            "give others"
        )
