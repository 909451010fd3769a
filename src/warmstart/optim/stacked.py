"""Many linear classifiers on the same features, trained as one computation.

Softmax regression needs no graph: its gradient is known in closed form, so that a step costs two
matrix products and a few passes over memory. What a classifier becomes does not depend, to the
bit, on which others stand beside it (with one thread, as measured with torch's MKL on AVX-512).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from warmstart.optim.samples import LANES, Batch, Layout, Place, Room, Samples, padded
from warmstart.optim.stacked_updates import Gradient, Update

# MKL computes products with both sides of this length or more in another way.
_LONG = 192
# Steps to lay out at a time, and the numbers that they may take.
STEPS, _AHEAD = 8, 2**20


@dataclasses.dataclass(frozen=True)
class Member:
    """One of the classifiers.

    Attributes:
        weight: float32 [classes, features].
        bias: float32 [classes]; None where it has none.
        rate: The base learning rate.
        decay: The weight decay of the weight, and of the bias.
        slots: What the optimizer keeps, by name: of the weight and, where there is one, of the
            bias. Nothing before the first step.
        sums: See `Stack.sums`; None for zeros.
    """

    weight: Tensor
    bias: Tensor | None
    rate: float
    decay: tuple[float, float] = (0.0, 0.0)
    slots: Mapping[str, Sequence[Tensor]] = dataclasses.field(default_factory=dict)
    sums: Tensor | None = None


@dataclasses.dataclass(frozen=True)
class _Piece:
    """Neighbouring classifiers: their places, and what is theirs as [streams, p, ...]."""

    place: Place
    weight: Tensor
    slots: list[Tensor]
    spare: Tensor
    rate: Tensor
    decay: Tensor | None


class Stack:
    """Linear classifiers that take their steps together.

    A stream is a sequence of batches. The classifiers of one stream differ in their weights, rates
    and decays alone; the batches of all streams have one size.

    Args:
        streams: The classifiers of each stream; all of one shape.
        update: The optimizer's step.
        class_weights: Of each stream in its training loss, float32 [classes]; None for ones.
    """

    def __init__(
        self,
        streams: Sequence[Sequence[Member]],
        update: Update,
        *,
        class_weights: Sequence[Tensor | None] | None = None,
    ) -> None:
        self.update = update
        members = [member for stream in streams for member in stream]
        weight, bias = members[0].weight, members[0].bias is not None
        self.classes, self.features = weight.shape
        self._bias = bias
        self._own = [(i, j) for i, stream in enumerate(streams) for j in range(len(stream))]
        # A weight and its bias are one matrix: the bias is the weight of a feature that is 1. The
        # products have a register's rows at least.
        longest = max(-(-LANES // self.classes), *map(len, streams))
        shape = (len(streams), longest, self.classes, padded(self.features + bias))
        self._weights = [weight.new_zeros(shape) for _ in ("", *update.slots)]
        self._rates = weight.new_zeros((*shape[:2], 1, 1), dtype=torch.float64)
        self._rate, self._factor = self._rates.float(), math.nan
        self._decays = weight.new_zeros((*shape[:2], 1, shape[3]))
        self._tallies, self._count = weight.new_zeros(2, *shape[:2]), 0
        for place, member in zip(self._own, members, strict=True):
            self._put(place, member)
        pieces = self._cut(shape[3])
        self._spare = torch.empty_like(max((self._weights[0][p] for p in pieces), key=torch.numel))
        self._pieces = [self._piece(place) for place in pieces]
        self._class_weights = class_weights or [None] * len(streams)
        self._rooms: dict[tuple[int, bool], Room] = {}

    def __len__(self) -> int:
        return len(self._own)

    @torch.inference_mode()
    def run(
        self, batches: Sequence[Sequence[Batch]], *, factors: Sequence[float], step: int
    ) -> None:
        """Take some steps, each stream with its batches.

        Args:
            batches: For each step the features and labels of each stream.
            factors: On the base rates, for each step.
            step: The first of them; from 0 on.
        """
        room = self._room(batches[0][0], training=True)
        each = len(room.products)
        for start in range(0, len(batches), each):
            for slot, samples in enumerate(room.layout(batches[start : start + each])):
                number = start + slot
                self._step(room, slot, samples, factors[number], step + number)

    @property
    def sums(self) -> Tensor:
        """What `measure` returns, of the batches of all steps since `clear` was called."""
        return self._table(self._tallies, self._count)

    def clear(self) -> None:
        """Set `sums` to zero."""
        self._tallies.zero_()
        self._count = 0

    @torch.inference_mode()
    def measure(self, batch: Batch) -> Tensor:
        """Return for each classifier the sums over samples of its loss, right answers, and ones.

        Args:
            batch: Features and labels, the same for all of them; no class weighs more.

        Returns:
            float32 [classifiers, 3].
        """
        room = self._room(batch, training=False)
        (samples,) = room.layout([[batch]])
        _, tallies = self._forward(room, 0, samples)
        return self._table(tallies, room.layout.count)

    def member(self, index: int) -> Member:
        """Return a copy of a classifier as it is now."""
        place = self._own[index]
        weights = [tensor[place][:, : self.features].clone() for tensor in self._weights]
        biases = [tensor[place][:, self.features].clone() for tensor in self._weights]
        kept = zip(weights[1:], biases[1:], strict=True) if self._bias else zip(weights[1:])
        decays = self._decays[place][0]
        return Member(
            weight=weights[0],
            bias=biases[0] if self._bias else None,
            rate=float(self._rates[place]),
            decay=(float(decays[0]), float(decays[self.features]) if self._bias else 0.0),
            slots=dict(zip(self.update.slots, map(list, kept), strict=True)),
            sums=self.sums[index],
        )

    def _put(self, place: tuple[int, int], member: Member) -> None:
        kept = [member.slots[name] for name in self.update.slots] if member.slots else []
        own = [member.weight] if member.bias is None else [member.weight, member.bias]
        for into, tensors in zip(self._weights, [own, *kept], strict=False):
            into[place][:, : self.features] = tensors[0]
            if member.bias is not None:
                into[place][:, self.features] = tensors[1]
        self._rates[place] = member.rate
        self._decays[place][:, : self.features] = member.decay[0]
        if member.bias is not None:
            self._decays[place][:, self.features] = member.decay[1]
        if member.sums is not None:
            self._tallies[:, *place] = member.sums[:2] * self._tallies.new_tensor([1, -1])
            self._count = int(member.sums[2])

    def _cut(self, side: int) -> list[Place]:
        """Return the pieces in which products with another side of this length are computed."""
        streams, members = self._weights[0].shape[:2]
        if side < _LONG or members * self.classes < _LONG:
            return [(slice(0, streams), slice(0, members))]
        count = -(-members // max(1, (_LONG - 1) // self.classes))
        bounds = [members * index // count for index in range(count + 1)]
        rows = [slice(start, stop) for start, stop in pairwise(bounds)]
        return [(slice(i, i + 1), own) for i in range(streams) for own in rows]

    def _piece(self, place: Place) -> _Piece:
        weight, *slots = (tensor[place] for tensor in self._weights)
        spare = self._spare[: len(weight), : weight.shape[1]]
        decay = self._decays[place] if self._decays.any() else None
        return _Piece(place, weight, slots, spare, self._rate[place], decay)

    def _step(self, room: Room, slot: int, samples: Samples, factor: float, step: int) -> None:
        totals, tallies = self._forward(room, slot, samples)
        self._tallies.add_(tallies)
        self._count += room.layout.count
        # The gradient with respect to the logits: share * (softmax - one hot).
        scales = torch.div(samples.shares, totals, out=totals)[:, :, None]
        torch.addcmul(samples.masses, room.logits, scales, out=room.logits)
        if factor != self._factor:
            self._rate.copy_(self._rates * factor)
            self._factor = factor
        for piece, gradient in zip(self._pieces, room.gradients[slot], strict=True):
            self.update(
                piece.weight,
                piece.slots,
                _product(*gradient),
                piece.spare,
                rate=piece.rate,
                decay=piece.decay,
                step=step,
            )

    def _forward(self, room: Room, slot: int, samples: Samples) -> tuple[Tensor, Tensor]:
        """Put exp(logits - their largest) into the room's logits.

        Returns:
            Their sums over classes, [streams, members, samples]; the losses, and minus the right
            answers, summed over samples: [2, streams, members].
        """
        z, own = room.logits, room.own
        for weights, columns, logits in room.products[slot]:
            torch.bmm(weights, columns, out=logits)
        z.sub_(z.amax(2, keepdim=True))
        for (lines, values), places in zip(room.lines, samples.places, strict=True):
            torch.index_select(lines, 1, places, out=values)
        # Of equal logits the first is the prediction, as of torch.argmax: so none of the classes
        # before the own one may be at 0. By signs, as booleans are slower to add up.
        earlier = torch.add(z, samples.others, out=room.earlier).amax(2).sign_()
        totals = z.exp_().sum(2)
        torch.mul(totals.log().sub_(own), samples.weights, out=room.tallies[0])
        torch.addcmul(earlier, own.sign_(), earlier, out=room.tallies[1])
        return totals, room.tallies.sum(3)

    def _table(self, tallies: Tensor, count: int) -> Tensor:
        """Return the sums of all places as those of the classifiers."""
        losses, right = tallies
        table = torch.stack([losses, right.abs(), torch.full_like(losses, count)], dim=2)
        streams, members = zip(*self._own, strict=True)
        return table[list(streams), list(members)]

    def _room(self, batch: Batch, *, training: bool) -> Room:
        """Return the room for batches of a size; in a measurement all streams share theirs."""
        count = len(batch[1])
        if (count, training) not in self._rooms:
            weights = self._weights[0]
            given = self._class_weights if training else [None]
            each = len(given) * padded(count) * weights.shape[3]
            layout = Layout(
                count,
                self.features,
                self.classes,
                bias=self._bias,
                class_weights=given,
                steps=max(1, min(STEPS, _AHEAD // each)) if training else 1,
                device=weights.device,
            )
            cut = self._cut(padded(count))
            self._rooms[count, training] = Room(
                layout, weights, cut, [piece.place for piece in self._pieces]
            )
        return self._rooms[count, training]


def _product(gradient: Tensor, rows: Tensor) -> Gradient:
    """Return what adds the gradient of weights: of the logits, [streams, c, n], times `rows`."""

    def add(into: Tensor, factor: float) -> None:
        into.flatten(1, 2).baddbmm_(gradient, rows, beta=factor)

    return add
