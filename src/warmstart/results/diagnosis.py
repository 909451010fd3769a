"""What the curves of a run say about its recipe, in plain sentences. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from warmstart.results.smoothing import SURE, Columns, Curve, medians, smooth, tenth

# Losses are compared with log(classes), what guessing costs: a number of nats means nothing alone.
# Fewer points than these have no shape.
FEWEST_TRAIN, FEWEST_VAL = 10, 5
# A loss that has come up by so much of a guess's is no noise: each point is a mean over steps.
RISE = 0.25
# No initialization that is in order starts so many times above a guess, and stays beside it.
BLOWN_UP, STAYS = 3.0, 0.5
# Typical distance of a point from its neighbours' median, of a guess's loss. Training sees another
# batch at each point, validation always the same images: there only the weights' jumps are left.
OSCILLATION_TRAIN, OSCILLATION_VAL = 0.25, 0.15
# A fall that is less than this of a guess's loss is none.
NO_FALL = 0.02
# The loss over the sum of the rates is about a line where the slope of its end is that of its
# start, up to these factors (at a good rate it is a hundredth); slow: so much of the loss is left.
STRAIGHT, SLOW = (0.3, 4.0), 0.5
# A start is slow where the first tenth of the whole fall takes a fifth of the run; a line would
# take a tenth. What falls by less than a third learns too little for its start to be the cause.
FIRST_FALL, SLOW_START, LEARNS = 0.1, 0.2, 0.3
# Flat: so close to the end's level, of a guess's loss, from so early on, and so far above zero.
FLAT, EARLY, HIGH = 0.03, 0.4, 0.3
# Validation has turned where its loss is so far above its lowest, of that and of a guess's, and
# was lowest before the last fifth. Below it, the noise of a small split looks the same.
TURNED, TURNED_AT_ALL, BEFORE_END = 0.1, 0.03, 0.8
# Shares of right answers in training and validation that lie so far apart are a gap; most runs on
# few images have some.
GAP = 0.2
# Underfitting: both losses keep so much of a guess's, and the accuracies lie so close together.
UNDERFIT, CLOSE = 0.4, 0.1
# A fall by so much of its level in the last fifth of the run goes on behind it, unless the level
# is so close to zero that nothing is left to gain.
IMPROVES, TAIL, NEAR_ZERO = 0.05, 0.3, 0.05
_CAUSES = (
    "the rate may be far off, the labels wrong, or what should learn frozen: warmstart check looks "
    "for the cause"
)


def diagnose(curves: Mapping[str, Columns], *, classes: int, steps: int) -> list[str]:
    """Return what stands out in the curves of a run, the most important first.

    Args:
        curves: As in a record: ``train`` with step, loss, accuracy and lr, and ``val`` with step,
            loss and accuracy.
        classes: Their number.
        steps: Of the run; without any there is nothing to say.

    Returns:
        Sentences; none for curves that look healthy, or have too few points to look at.
    """
    if not steps or not len(curves.get("train", {}).get("step", ())):
        return []
    guess = math.log(max(2, classes))
    lost = _lost(curves["train"])
    if lost:
        return [lost]
    train, val = smooth(curves["train"], FEWEST_TRAIN), smooth(curves.get("val", {}), FEWEST_VAL)
    if train is None:
        return []
    # What comes of a rate that is too high looks like anything else.
    high = _too_high(train, val, guess)
    if high:
        return [high]
    # Mixed images and smoothed labels keep the training loss up, whatever the model can do.
    learned = val is not None and val.end < HIGH * guess
    stuck = None if learned else _nothing(train, guess) or _too_low(train, guess)
    still = None if learned or stuck else _plateau(train, guess)
    over = _overfits(train, val, guess)
    longer = None if stuck or over else _improves(val or train, guess)
    under = None if stuck or over or still or longer else _underfits(train, val, guess)
    found = [stuck, _slow_start(train), over, still, under, longer]
    return [sentence for sentence in found if sentence]


def _lost(columns: Columns) -> str | None:
    for step, loss in zip(columns["step"], columns["loss"], strict=True):
        if loss is None or not math.isfinite(loss):
            return (
                f"rate too high: the training loss is no number any more at step {step:.0f}; lower "
                "optimizer.lr, or add scheduler.warmup_steps"
            )
    return None


def _too_high(train: Curve, val: Curve | None, guess: float) -> str | None:
    cure = "lower optimizer.lr, or add scheduler.warmup_steps"
    lowest = int(train.level.argmin())
    if train.end - train.level[lowest] > max(RISE * guess, train.unsure):
        return (
            f"rate too high: the training loss rises from {train.level[lowest]:.2f} at step "
            f"{train.step[lowest]:.0f} to {train.end:.2f} at the end; {cure}"
        )
    highest = int(train.loss.argmax())
    if train.loss[highest] > BLOWN_UP * guess and train.end > STAYS * guess:
        return (
            f"rate too high: the training loss went up to {train.loss[highest]:.3g} at step "
            f"{train.step[highest]:.0f}, where guessing costs {guess:.2f}; {cure}"
        )
    limits = ((train, OSCILLATION_TRAIN, "training"), (val, OSCILLATION_VAL, "validation"))
    for curve, limit, name in limits:
        if curve is not None:
            swing = 1.4826 * float(np.median(np.abs(curve.loss - medians(curve.loss, 2))))
            if swing > limit * guess:
                return (
                    f"rate too high: the {name} loss jumps up and down by about {swing:.2f} from "
                    f"point to point, where guessing costs {guess:.2f}; {cure}"
                )
    return None


def _nothing(train: Curve, guess: float) -> str | None:
    if train.end < HIGH * guess:
        return None
    # A fast fall is over in the first tenth; of a slow one more points are surer.
    for count in (tenth(len(train.loss)), 2 * tenth(len(train.loss))):
        fall = float(train.loss[:count].mean() - train.loss[-count:].mean())
        if fall > max(NO_FALL * guess, SURE * train.noise * math.sqrt(2 / count)):
            return None
    return (
        f"nothing is learned: the training loss stays at {train.end:.2f}, where guessing costs "
        f"{guess:.2f}; {_CAUSES}"
    )


def _too_low(train: Curve, guess: float) -> str | None:
    # Over the sum of the rates, not over steps: a slow loss falls in proportion to it, whatever
    # the schedule does.
    way = np.cumsum(train.rate * np.diff(train.step, prepend=0.0))
    if not way[-1] > 0 or train.end < SLOW * train.level[0]:
        return None
    bend, slope, _ = np.polyfit(way / way[-1], train.loss, 2)
    if slope >= 0 or not STRAIGHT[0] < (slope + 2 * bend) / slope < STRAIGHT[1]:
        return None
    if -(slope + bend) < max(NO_FALL * guess, train.unsure):
        return None
    return (
        f"rate too low: the training loss falls slowly, and as steadily at the end as at the start "
        f"(from {train.level[0]:.2f} to {train.end:.2f}); raise optimizer.lr, by a factor of 3 to "
        "10 at first"
    )


def _slow_start(train: Curve) -> str | None:
    first, lowest = float(train.level[0]), float(train.level.min())
    if first - lowest < max(LEARNS * first, train.unsure):
        return None
    falls = int(np.argmax(train.level < first - FIRST_FALL * (first - lowest)))
    if train.part[falls] < SLOW_START:
        return None
    warming = train.rate[0] < 0.5 * train.rate.max() <= train.rate[max(0, falls - 1)]
    cure = (
        "the warm-up is long for this run: lower scheduler.warmup_steps"
        if warming
        else "look at the initialization (init=, init.scheme=) and its scale, or raise optimizer.lr"
    )
    return (
        f"slow start: the training loss stays at {first:.2f} up to step {train.step[falls]:.0f} "
        f"({train.part[falls]:.0%} of the run) and falls only then; {cure}"
    )


def _plateau(train: Curve, guess: float) -> str | None:
    last = float(train.loss[train.part > 0.8].mean())
    off = np.abs(train.level - last) > max(FLAT * guess, train.unsure)
    start = int(np.flatnonzero(off)[-1]) + 1 if off.any() else 0
    if start >= len(off) or train.part[start] > EARLY or last < HIGH * guess:
        return None
    # What falls slowly through much noise is no plateau.
    half = (len(off) - start) // 2
    fall = float(train.loss[start : start + half].mean() - train.loss[-half:].mean())
    if fall > max(FLAT * guess, SURE * train.noise * math.sqrt(2 / half)):
        return None
    if last > guess:
        # It fell from a start that was worse, and no smaller rate or larger model makes it learn.
        return (
            f"nothing is learned: from step {train.step[start]:.0f} on the training loss stands "
            f"still at {last:.2f}, where guessing costs {guess:.2f}; {_CAUSES}"
        )
    return (
        f"plateau: from step {train.step[start]:.0f} ({train.part[start]:.0%} of the run) on the "
        f"training loss stands still at {last:.2f}; let the rate fall there (scheduler=cosine or "
        "step), train more groups, or take a larger model"
    )


def _overfits(train: Curve, val: Curve | None, guess: float) -> str | None:
    if val is None:
        return None
    cure = (
        "more images, augmentation (augment=), optimizer.weight_decay, fewer groups that train, or "
        "a shorter run"
    )
    lowest = int(val.level.argmin())
    low, end = float(val.level[lowest]), val.end
    before = float(np.interp(val.step[lowest], train.step, train.level))
    turned = end - low > max(TURNED * low, TURNED_AT_ALL * guess, val.unsure)
    if turned and val.part[lowest] < BEFORE_END and train.end < before:
        return (
            f"overfitting: the validation loss rises from {low:.2f} at step "
            f"{val.step[lowest]:.0f} to {end:.2f} at the end, while that of training falls to "
            f"{train.end:.2f}; try {cure}"
        )
    if train.end_accuracy - val.end_accuracy > GAP:
        return (
            f"overfitting: at the end {train.end_accuracy:.0%} of the training images are right, "
            f"but {val.end_accuracy:.0%} of those of validation; try {cure}"
        )
    return None


def _underfits(train: Curve, val: Curve | None, guess: float) -> str | None:
    if val is None or min(train.end, val.end) < UNDERFIT * guess:
        return None
    if abs(train.end_accuracy - val.end_accuracy) > CLOSE:
        return None
    return (
        f"underfitting: at the end {train.end_accuracy:.0%} of the training images are right, and "
        f"{val.end_accuracy:.0%} of those of validation; train more groups, take a larger model "
        "or a higher rate, or less augmentation and weight decay"
    )


def _improves(curve: Curve, guess: float) -> str | None:
    tail = curve.part > 1 - TAIL
    if tail.sum() < 3:
        return None
    part, loss = curve.part[tail], curve.loss[tail]
    slope, start = np.polyfit(part, loss, 1)
    fall, level = -0.2 * float(slope), float(loss.mean())
    # A few points say little about their noise: the larger of both estimates.
    rest = math.sqrt(float(((loss - slope * part - start) ** 2).sum()) / (len(loss) - 2))
    error = 0.2 * max(curve.noise, rest) / math.sqrt(float(((part - part.mean()) ** 2).sum()))
    if level < NEAR_ZERO * guess or fall < max(IMPROVES * level, SURE * error):
        return None
    return (
        f"still improving: the loss falls by {fall / level:.0%} in the last fifth of the run; "
        "train longer (steps=, epochs=)"
    )
