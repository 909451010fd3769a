"""Gradients of penalties by hand and by autograd, and what is clipped."""

import pytest
import torch
from torch import nn

from warmstart.models.layers import layer_groups
from warmstart.optim.optimizers import adamw, sgd
from warmstart.optim.penalties import GradientRegularizer
from warmstart.optim.regularization import Regularization


@pytest.fixture
def model():
    """Return two layers with the weights [[1, -2], [0, 3]] and [[-1, 4]]."""
    model = nn.Sequential()
    model.body, model.head = nn.Linear(2, 2), nn.Linear(2, 1)
    with torch.no_grad():
        model.body.weight.copy_(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
        model.body.bias.copy_(torch.tensor([5.0, -6.0]))
        model.head.weight.copy_(torch.tensor([[-1.0, 4.0]]))
        model.head.bias.copy_(torch.tensor([7.0]))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model


def groups_of(model):
    return layer_groups(model, {"body": ["body"], "head": ["head"]})


def regularizer(model, *, fresh=(), decay_all=False, **options):
    groups = groups_of(model)
    return GradientRegularizer(Regularization(**options), groups, fresh=fresh, decay_all=decay_all)


def gradients(model):
    return {name: p.grad.tolist() for name, p in model.named_parameters()}


def test_l2_by_hand(model):
    regularizer(model, l2=0.5).penalize()
    assert gradients(model) == {
        "body.weight": [[0.5, -1.0], [0.0, 1.5]],
        "body.bias": [0.0, 0.0],
        "head.weight": [[-0.5, 2.0]],
        "head.bias": [0.0],
    }


def test_l1_by_hand(model):
    regularizer(model, l1=0.25, decay_all=True).penalize()
    assert gradients(model) == {
        "body.weight": [[0.25, -0.25], [0.0, 0.25]],
        "body.bias": [0.25, -0.25],
        "head.weight": [[-0.25, 0.25]],
        "head.bias": [0.25],
    }


def test_l2_sp_by_hand(model):
    pull = regularizer(model, l2_sp=2.0, l2_sp_head=0.5, fresh=("head.weight", "head.bias"))
    pull.penalize()
    assert gradients(model)["body.weight"] == [[0.0, 0.0], [0.0, 0.0]], "it is where it started"
    assert gradients(model)["head.weight"] == [[-0.5, 2.0]]
    with torch.no_grad():
        model.body.weight += 0.25
        model.body.bias -= 1
    for parameter in model.parameters():
        parameter.grad.zero_()
    pull.penalize()
    # 2 (w - w0) on all that was transferred, biases too; 0.5 w on the new matrix.
    assert gradients(model) == {
        "body.weight": [[0.5, 0.5], [0.5, 0.5]],
        "body.bias": [-2.0, -2.0],
        "head.weight": [[-0.5, 2.0]],
        "head.bias": [0.0],
    }


def test_the_gradient_is_that_of_the_objective(model):
    pull = regularizer(model, l1=0.3, l2=0.7, l2_sp=0.9, l2_sp_head=0.2, fresh=("head.weight",))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.manual_seed(0))
    pull.penalize()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    body, head = model.body, model.head
    objective = sum(
        0.3 * w.abs().sum() + 0.7 / 2 * w.square().sum() for w in (body.weight, head.weight)
    )
    objective = objective + 0.2 / 2 * head.weight.square().sum()
    for name, parameter in model.named_parameters():
        if name != "head.weight":
            objective = objective + 0.9 / 2 * (parameter - start[name]).square().sum()
    objective.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


@pytest.mark.parametrize(("make", "equal"), [(sgd, True), (adamw, False)])
def test_l2_is_the_weight_decay_of_sgd_alone(model, make, equal):
    ends = []
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for decay, penalty in ((0.1, 0.0), (0.0, 0.1)):
        model.load_state_dict(before)
        optimizer = make(groups_of(model), lr=0.1, weight_decay=decay)
        pull = regularizer(model, l2=penalty)
        for step in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 1.0 + step)
            pull.penalize()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*ends, atol=1e-6) == equal


def test_frozen_weights_and_those_without_a_gradient_take_no_part(model):
    model.body.weight.requires_grad_(False)
    model.head.weight.grad = None
    regularizer(model, l1=1.0, l2=1.0, l2_sp=1.0).penalize()
    assert model.body.weight.grad.abs().sum() == 0
    assert model.head.weight.grad is None


def test_the_norm_is_that_of_all_that_trains(model):
    model.body.weight.grad = None
    model.body.bias.grad = torch.tensor([3.0, 0.0])
    model.head.bias.grad = torch.tensor([-4.0])
    regularizer(model, clip_norm=10.0).clip()
    assert model.head.bias.grad.tolist() == [-4.0], "shorter ones stay"
    regularizer(model, clip_norm=1.0).clip()
    assert model.body.bias.grad.tolist() == pytest.approx([0.6, 0.0], rel=1e-5)
    assert model.head.bias.grad.tolist() == pytest.approx([-0.8], rel=1e-5)


def test_each_number_is_bounded_by_itself(model):
    model.body.bias.grad = torch.tensor([3.0, -0.1])
    regularizer(model, clip_value=0.5).clip()
    assert model.body.bias.grad.tolist() == pytest.approx([0.5, -0.1])
