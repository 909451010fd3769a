"""The classifier is found by what the classes change, and replaced with nothing else touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.heads import class_dependent, replace_first_convolution, replace_head
from warmstart.models.timm import timm_model
from warmstart.models.torchvision import torchvision_model


@pytest.mark.parametrize(
    ("make", "name", "size"),
    [
        (torchvision_model, "squeezenet1_1", 64),
        (torchvision_model, "mobilenet_v3_small", 64),
        (torchvision_model, "googlenet", 64),
        (timm_model, "vit_tiny_patch16_224", 32),
        (timm_model, "levit_128s", 224),
        (timm_model, "regnetx_002", 64),
    ],
)
def test_another_number_of_classes_changes_the_classifiers_alone(make, name, size):
    architecture = make(name=name)
    states = []
    for classes in (3, 1000):
        torch.manual_seed(5)
        model = architecture.build(3, classes, size)
        states.append(model.state_dict())
        # What is drawn after the model is the same as well.
        states[-1]["next"] = torch.rand(3)
    few, many = states
    assert few.keys() == many.keys()
    changed = {n for n in few if few[n].shape != many[n].shape}
    assert all(torch.equal(few[n], many[n]) for n in few.keys() - changed)
    classifiers = {n.rpartition(".")[0] for n in changed}
    auxiliary = {f"{path}.fc2" for path in architecture.auxiliary}
    assert classifiers == {*architecture.heads, *auxiliary}
    with torch.no_grad():
        assert model.eval()(torch.rand(1, 3, size, size)).shape == (1, 1000)


def test_a_new_head_is_like_the_old_in_all_but_the_classes():
    model = nn.Sequential(nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), nn.Linear(4, 6))
    model.num_classes = 5
    model[0].double()
    before = torch.random.get_rng_state()
    replace_head(model, "0", 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    new = model[0]
    assert (new.out_channels, new.stride, new.padding, new.bias) == (2, (2, 2), (1, 1), None)
    assert new.weight.shape == (2, 3, 3, 3)
    assert new.weight.dtype == torch.float64
    assert model.num_classes == 2
    replace_head(model, "1", 2)
    assert (model[1].out_features, model[1].bias.shape) == (2, (2,))


def test_another_classifier_than_a_layer_is_refused():
    model = nn.Sequential(nn.Bilinear(2, 2, 3))
    with pytest.raises(ConfigError, match=r"classifier 0 is a Bilinear.*linear layer.*another"):
        replace_head(model, "0", 2)


def test_the_classes_show_where_the_classifiers_are():
    def build(classes):
        body, side = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, classes))
        return nn.ModuleDict({"side": side, "top": nn.Linear(4, classes), "body": body})

    assert class_dependent(build(5), build(6)) == ("side.1", "top")
    assert class_dependent(build(5), build(5)) == ()


def test_a_first_convolution_takes_other_channels():
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.Conv2d(8, 4, 1))
    second = model[1].weight
    replace_first_convolution(model, "0", 4)
    assert model[0].weight.shape == (8, 4, 5, 5)
    assert model[0].stride == (2, 2)
    assert model[1].weight is second
    assert model(torch.rand(1, 4, 8, 8)).shape == (1, 4, 4, 4)
