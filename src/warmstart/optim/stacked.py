"""Many linear classifiers on the same features, trained as one computation.

Softmax regression needs no graph: its gradient is known in closed form, so that a step costs two
matrix products and a few passes over memory. What a classifier becomes does not depend, to the
bit, on which others stand beside it (with one thread, as measured with torch's MKL on AVX-512).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from warmstart.optim.samples import LANES, Samples, padded
from warmstart.optim.stacked_updates import Gradient, Update

# Parameters that are updated at a time: with what belongs to them they stay in a core's cache of
# 2 MiB. With 64 classifiers of 512 features it saves an eighth of a step.
_PIECE = 98_304
# Rows of a product: MKL goes another way from 192 on, and below a register's numbers.
_MOST_ROWS = 176


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
    """Neighbouring classifiers of a stream: their rows, and their weights as [p, numbers]."""

    rows: slice
    weight: Tensor
    slots: list[Tensor]
    spare: Tensor
    decay: Tensor | None


class _Place:
    """Where the logits of some classifiers are computed: views that are made once."""

    def __init__(self, room: _Room, weights: Tensor, rows: slice, pieces: Sequence[slice]) -> None:
        self.rows = rows
        self.logits, self.earlier, self.own = (
            tensor[rows] for tensor in (room.logits, room.earlier, room.own)
        )
        self.lines = self.logits.flatten(1)
        self.products = [
            (weights[piece].flatten(0, 1), room.logits[piece].flatten(0, 1)) for piece in pieces
        ]


class _Room:
    """Where the logits of so many samples are computed.

    Attributes:
        logits: [classifiers, classes, samples].
        earlier: Likewise.
        own: [classifiers, samples].
        places: Those of each stream.
    """

    def __init__(
        self, weights: Tensor, size: int, streams: Sequence[tuple[slice, Sequence[slice]]]
    ) -> None:
        count, classes, _ = weights.shape
        self.logits, self.earlier = weights.new_empty(2, count, classes, size)
        self.own = weights.new_empty(count, size)
        self.places = [_Place(self, weights, rows, pieces) for rows, pieces in streams]


class Stack:
    """Linear classifiers that take their steps together.

    A stream is a sequence of batches. The classifiers of one stream differ in their weights, rates
    and decays alone; the batches of all streams have one size.

    Args:
        streams: The classifiers of each stream; all of one shape.
        update: The optimizer's step.
    """

    def __init__(self, streams: Sequence[Sequence[Member]], update: Update) -> None:
        self.update = update
        members = [member for stream in streams for member in stream]
        weight, bias = members[0].weight, members[0].bias
        self.classes, self.features = weight.shape
        # The products of a stream have a register's rows at least.
        self._least = -(-LANES // self.classes)
        bounds = list(accumulate((max(len(s), self._least) for s in streams), initial=0))
        self._streams = [slice(start, stop) for start, stop in pairwise(bounds)]
        self._rows = [a + i for a, s in zip(bounds, streams, strict=False) for i in range(len(s))]
        kinds, total = ("", *update.slots), bounds[-1]
        shape = (total, self.classes, padded(self.features))
        self._weights = [weight.new_zeros(shape) for _ in kinds]
        narrow = (total, padded(self.classes))
        self._biases = [weight.new_zeros(narrow) for _ in kinds] if bias is not None else []
        self._rates = weight.new_zeros(total, 1, dtype=torch.float64)
        self._decays = weight.new_zeros(2, total, 1)
        self._losses, self._right, self._count = weight.new_zeros(total), weight.new_zeros(total), 0
        for row, member in zip(self._rows, members, strict=True):
            self._put(row, member)
        decaying, bias_decaying = (any(m.decay[i] for m in members) for i in (0, 1))
        self._bias_decay = self._decays[1] if bias_decaying else None
        longest = max(r.stop - r.start for stream in self._streams for r in self._cut(stream))
        self._spare = weight.new_empty(longest, shape[1] * shape[2])
        self._pieces = [
            [self._piece(rows, decaying=decaying) for rows in self._cut(stream)]
            for stream in self._streams
        ]
        self._rooms: dict[tuple[int, bool], _Room] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def step(self, batches: Sequence[Samples], *, factor: float, step: int) -> None:
        """Take one step, each stream with its batch.

        Args:
            batches: One for each stream.
            factor: On the base rates.
            step: From 0 on.
        """
        room = self._room(batches[0], training=True)
        totals, means, right = self._forward(batches, room)
        self._losses.add_(means, alpha=batches[0].count)
        self._right.add_(right)
        self._count += batches[0].count
        for stream, batch in zip(self._streams, batches, strict=True):
            torch.div(batch.weights, totals[stream], out=totals[stream])
        # The gradient with respect to the logits: weight * (softmax - one hot).
        gradient = room.logits
        for place, batch in zip(room.places, batches, strict=True):
            scales = totals[place.rows][:, None]
            torch.addcmul(batch.masses, place.logits, scales, out=place.logits)
        rates = (self._rates * factor).float()
        if self._biases:
            self._move_biases(gradient, rates, step)
        for pieces, batch in zip(self._pieces, batches, strict=True):
            for piece in pieces:
                self._move(piece, gradient[piece.rows].flatten(0, 1), batch.rows, rates, step)

    @property
    def sums(self) -> Tensor:
        """What `measure` returns, of the batches of all steps since `clear` was called."""
        return self._table(self._losses, self._right, self._count)

    def clear(self) -> None:
        """Set `sums` to zero."""
        self._losses.zero_()
        self._right.zero_()
        self._count = 0

    def measure(self, batch: Samples) -> Tensor:
        """Return for each classifier the sums over samples of its loss, right answers, and ones.

        Args:
            batch: The same for all of them.

        Returns:
            float32 [classifiers, 3].
        """
        _, means, right = self._forward([batch], self._room(batch, training=False))
        return self._table(means * batch.count, right, batch.count)

    def member(self, index: int) -> Member:
        """Return a copy of a classifier as it is now."""
        row = self._rows[index]
        weights = [tensor[row, :, : self.features].clone() for tensor in self._weights]
        biases = [tensor[row, : self.classes].clone() for tensor in self._biases]
        kept = zip(weights[1:], biases[1:], strict=True) if biases else zip(weights[1:])
        return Member(
            weight=weights[0],
            bias=biases[0] if biases else None,
            rate=float(self._rates[row]),
            decay=(float(self._decays[0, row]), float(self._decays[1, row])),
            slots=dict(zip(self.update.slots, map(list, kept), strict=True)),
            sums=self.sums[index],
        )

    def _put(self, row: int, member: Member) -> None:
        kept = [member.slots[name] for name in self.update.slots] if member.slots else []
        weights = [member.weight, *(tensors[0] for tensors in kept)]
        for into, tensor in zip(self._weights, weights, strict=False):
            into[row, :, : self.features] = tensor
        if member.bias is not None:
            biases = [member.bias, *(tensors[1] for tensors in kept)]
            for into, tensor in zip(self._biases, biases, strict=False):
                into[row, : self.classes] = tensor
        self._rates[row] = member.rate
        self._decays[0, row], self._decays[1, row] = member.decay
        if member.sums is not None:
            self._losses[row], self._right[row] = member.sums[0], member.sums[1]
            self._count = int(member.sums[2])

    def _cut(self, rows: slice) -> list[slice]:
        """Return neighbouring classifiers in pieces of about equal size."""
        count, each = rows.stop - rows.start, self._weights[0][0].numel()
        most = max(1, min(_PIECE // each, _MOST_ROWS // self.classes))
        pieces = max(1, min(-(-count // most), count // self._least))
        bounds = [rows.start + count * index // pieces for index in range(pieces + 1)]
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def _piece(self, rows: slice, *, decaying: bool) -> _Piece:
        weight, *slots = (tensor[rows].flatten(1) for tensor in self._weights)
        decay = self._decays[0, rows] if decaying else None
        return _Piece(rows, weight, slots, self._spare[: len(weight)], decay)

    def _forward(self, batches: Sequence[Samples], room: _Room) -> tuple[Tensor, Tensor, Tensor]:
        """Put exp(logits - their largest) into the room's logits.

        Returns:
            Their sums over classes, [p, samples]; the loss, and the right answers, both [p].
        """
        z, own = room.logits, room.own
        for place, batch in zip(room.places, batches, strict=True):
            for weights, logits in place.products:
                torch.mm(weights, batch.columns, out=logits)
        if self._biases:
            z.add_(self._biases[0][:, : self.classes, None])
        z.sub_(z.amax(1, keepdim=True))
        for place, batch in zip(room.places, batches, strict=True):
            torch.index_select(place.lines, 1, batch.places, out=place.own)
            torch.add(place.logits, batch.others, out=place.earlier)
        # Of equal logits the first is the prediction, as of torch.argmax: so none of the classes
        # before the own one may be at 0. By signs, as booleans are slower to add up.
        earlier = room.earlier.amax(1).sign_()
        totals = z.exp_().sum(1)
        losses = totals.log().sub_(own)
        right = earlier.addcmul_(own.sign_(), earlier).sum(1).neg_()
        for place, batch in zip(room.places, batches, strict=True):
            losses[place.rows].mul_(batch.weights)
        return totals, losses.sum(1), right

    def _table(self, losses: Tensor, right: Tensor, count: int) -> Tensor:
        """Return sums of all rows as those of the classifiers."""
        return torch.stack([losses, right, torch.full_like(losses, count)], dim=1)[self._rows]

    def _room(self, batch: Samples, *, training: bool) -> _Room:
        """Return the room for batches of a size; in a measurement all share one batch."""
        size = batch.columns.shape[1]
        if (size, training) not in self._rooms:
            streams = self._streams if training else [slice(0, len(self._rates))]
            cut = [(stream, self._cut(stream)) for stream in streams]
            self._rooms[size, training] = _Room(self._weights[0], size, cut)
        return self._rooms[size, training]

    def _move_biases(self, gradient: Tensor, rates: Tensor, step: int) -> None:
        bias, *slots = self._biases
        slopes = gradient.sum(-1)

        def add(into: Tensor, factor: float) -> None:
            into.mul_(factor) if factor else into.zero_()
            into[:, : self.classes].add_(slopes)

        spare, decay = torch.empty_like(bias), self._bias_decay
        self.update(bias, slots, add, spare, rate=rates, decay=decay, step=step)

    def _move(
        self, piece: _Piece, gradient: Tensor, rows: Tensor, rates: Tensor, step: int
    ) -> None:
        product, rate = _product(gradient, rows), rates[piece.rows]
        weight, slots, spare, decay = piece.weight, piece.slots, piece.spare, piece.decay
        self.update(weight, slots, product, spare, rate=rate, decay=decay, step=step)


def _product(gradient: Tensor, rows: Tensor) -> Gradient:
    """Return what adds the gradient of weights: of the logits, [p * classes, n], times `rows`."""

    def add(into: Tensor, factor: float) -> None:
        out = into.view(len(gradient), -1)
        if factor:
            torch.addmm(out, gradient, rows, beta=factor, out=out)
        else:
            torch.mm(gradient, rows, out=out)

    return add
