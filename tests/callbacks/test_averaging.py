"""Averages of the weights, against their formulas and in a fit."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel

from callbacks.three_groups import LAYOUT, fit, net
from warmstart.callbacks.averaging import Average, Averaging, ema, none, swa
from warmstart.callbacks.phases import PhaseSchedule
from warmstart.errors import ConfigError
from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import sgd
from warmstart.optim.schedules import constant
from warmstart.strategies.phases import Phase


def averages(average: Average, weights: list[float]) -> list[float]:
    """Return the average after each step of a model of one number."""
    model = torch.nn.Linear(1, 1, bias=False)
    averaged = AveragedModel(model, multi_avg_fn=average.blend, use_buffers=True)
    found = []
    for done, weight in enumerate(weights, start=1):
        torch.nn.init.constant_(model.weight, weight)
        if average.takes(done):
            averaged.update_parameters(model)
        found.append(averaged.module.weight.item() if averaged.n_averaged else weight)
    return found


def test_the_moving_average_by_hand():
    # 4, then 0.75 * 4 + 0.25 * 8 = 5, then 0.75 * 5 + 0.25 * 1 = 4.
    assert averages(ema(decay=0.75, warmup=False), [4.0, 8.0, 1.0]) == [4.0, 5.0, 4.0]


def test_the_moving_average_at_first_forgets_faster():
    # 2/11 of 11, then 3/12 of 2 and 9/12 of 4; where the decay is lower, it is the decay.
    assert averages(ema(), [11.0, 0.0, 4.0]) == pytest.approx([11.0, 2.0, 3.5])
    assert averages(ema(decay=0.2), [11.0, 0.0, 4.0]) == pytest.approx([11.0, 2.0, 3.6])


def test_the_equal_average_by_hand():
    # Half of eight steps leave four: the weights after steps 6 and 8.
    average = swa(steps=8, steps_per_epoch=1, start=0.5, every_steps=2)
    given = [9.0, 9.0, 9.0, 9.0, 5.0, 2.0, 7.0, 4.0]
    assert averages(average, given) == [9.0, 9.0, 9.0, 9.0, 5.0, 2.0, 2.0, 3.0]


def test_the_equal_average_is_the_mean_of_all_that_is_taken():
    average = swa(steps=10, steps_per_epoch=99, start=0.5)  # passes too long: every step
    given = [float(2**step) for step in range(10)]
    assert averages(average, given)[-1] == pytest.approx(sum(given[5:]) / 5)


def test_a_pass_over_the_images_lies_between_two_weights():
    taken = [
        done for done in range(1, 41) if swa(steps=40, steps_per_epoch=4, start=0.5).takes(done)
    ]
    assert taken == [24, 28, 32, 36, 40]


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=20),
    st.floats(0.001, 0.999),
    st.integers(1, 9),
)
def test_what_is_equal_stays_equal_to_the_bit(values, decay, taken):
    tensor, counts = torch.tensor(values), torch.arange(len(values))
    for average in (Average(decay), Average(None)):
        for current in (tensor, counts):
            averaged = current.clone()
            average.blend([averaged], [current], torch.tensor(taken))
            assert torch.equal(averaged, current)


def test_counts_are_those_of_now():
    averaged, current = torch.tensor([3]), torch.tensor([8])
    Average(0.9).blend([averaged], [current], 5)
    assert averaged.item() == 8


def test_without_an_average():
    assert none() is None


@pytest.mark.parametrize("decay", [0, 1, -0.5, 1.5, True, "0.9"])
def test_a_decay_that_cannot_be(decay):
    sentence = (
        f"average.decay is {decay!r}, but must be a number between 0 (the weights themselves; "
        "that is average=none) and 1 (those of the first step for good)"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        ema(decay=decay)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"start": 1},
            "average.start is 1, but must be a fraction of the run, at least 0 and below 1",
        ),
        (
            {"every_steps": 0},
            "average.every_steps is 0, but must be a whole number of at least 1, or null",
        ),
        (
            {"every_steps": 6},
            "average.start is 0.75, which leaves 10 of 40 steps, too few for two weights to "
            "average, 6 steps apart; lower average.start or average.every_steps, or give a longer "
            "run",
        ),
    ],
)
def test_equal_averages_that_cannot_be(options, sentence):
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}$"):
        swa(steps=40, steps_per_epoch=4, **options)


class Seen(torch.nn.Module):
    """Note the head's weights in the forward passes of training and of validation."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.training_weights, self.validation_weights = [], []
        model.register_forward_pre_hook(self.note)

    def note(self, model, _):
        kept = self.training_weights if model.head.training else self.validation_weights
        kept.append({k: v.detach().clone() for k, v in model.state_dict().items()})


def fitted(make_split, average, *, trains=3, steps=6):
    model = net()
    groups = layer_groups(model, LAYOUT)
    averaging = Averaging(average)
    phases = PhaseSchedule([Phase(0, trains)], constant(steps=steps), groups, lr=0.1)
    seen = Seen(model)
    fit(
        model,
        [phases, averaging],
        make_split,
        optimizer=lambda: sgd(groups, lr=0.1),
        steps=steps,
    )
    return model, averaging, seen


def test_validations_see_the_average_and_training_goes_on_without(make_split):
    plain, _, alone = fitted(make_split, Average(0.5, first=99))
    model, averaging, seen = fitted(make_split, Average(0.5))
    # Validations change nothing in the training.
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    # The first validation is after three steps: the weights before steps 1, 2 and 3 are those
    # after the steps 0, 1 and 2.
    after = seen.training_weights[1:4]
    expected = copy.deepcopy(after[0])
    for later in after[1:]:
        for name, tensor in expected.items():
            if tensor.is_floating_point():
                expected[name] = 0.5 * tensor + 0.5 * later[name]
    for name in ("head.weight", "stem.1.running_mean", "body.0.weight"):
        torch.testing.assert_close(seen.validation_weights[0][name], expected[name])
        assert not torch.equal(seen.validation_weights[0][name], alone.validation_weights[0][name])
    # The last one, after the last step, is what is kept.
    kept = averaging.weights(model)
    assert all(torch.equal(kept[name], seen.validation_weights[-1][name]) for name in kept)


def test_frozen_groups_stay_what_they_are(make_split):
    before = net().state_dict()
    model, averaging, _ = fitted(make_split, Average(0.995), trains=1)
    kept = averaging.weights(model)
    for name, tensor in kept.items():
        assert torch.equal(tensor, before[name]) == (not name.startswith("head")), name


def test_before_its_start_an_average_is_the_weights(make_split):
    model, averaging, seen = fitted(make_split, Average(None, first=5, every=1))
    assert torch.equal(
        seen.validation_weights[0]["head.weight"], seen.training_weights[3]["head.weight"]
    )
    mean = (seen.training_weights[5]["head.weight"] + model.head.weight) / 2
    torch.testing.assert_close(averaging.weights(model)["head.weight"], mean)
