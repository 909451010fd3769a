"""Initialization from data against numbers worked out by hand, and what it must leave alone."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.calibration import class_means, estimate_statistics, lsuv
from warmstart.models.cifar_resnet import cifar_resnet


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def chain(*layers):
    names = ("a", "b", "c", "d", "e", "f")
    return nn.Sequential(OrderedDict(zip(names, layers, strict=False)))


def plain(layer, *, scale=1.0):
    """Return the layer with its weights drawn by `scale` and without a bias."""
    with torch.no_grad():
        layer.weight.copy_(scale * numbers(*layer.weight.shape, seed=7))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def outputs(model, x):
    """Return the output of each convolution and linear layer in the mode that the model has."""
    found = {}

    def keep(name):
        def hook(layer, inputs, output):
            if name not in found:
                found[name] = output.clone()

        return hook

    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(keep(name))
    with torch.no_grad():
        model(x)
    return found


def test_lsuv_gives_every_layer_unit_variance():
    def net():
        layers = (plain(nn.Conv2d(1, 4, 3), scale=50), nn.ReLU(inplace=True), nn.Flatten())
        return chain(
            *layers, plain(nn.Linear(144, 8), scale=1e-3), nn.Tanh(), plain(nn.Linear(8, 3))
        )

    model, before, x = net(), net(), numbers(16, 1, 8, 8)
    reached = lsuv(model, x)
    assert list(reached) == ["a", "d", "f"]
    for name, output in outputs(model, x).items():
        assert float(output.var(correction=0)) == pytest.approx(1, abs=1e-4)
        assert reached[name] == pytest.approx(1, abs=1e-4)
        weight = model.get_submodule(name).weight
        ratio = weight / before.get_submodule(name).weight
        assert torch.allclose(ratio, ratio.flatten()[0], rtol=1e-4), "only a factor may change"


def test_lsuv_by_hand():
    layer = nn.Linear(1, 1)
    with torch.no_grad():
        layer.weight.fill_(3)
        layer.bias.fill_(5)
    # Inputs 1 and 5: outputs 8 and 20, variance 36; divided by 6 the weight is 0.5.
    assert lsuv(chain(layer), torch.tensor([[1.0], [5.0]])) == {"a": 1.0}
    assert (layer.weight.item(), layer.bias.item()) == (0.5, 5)


def test_lsuv_goes_by_the_order_of_execution_and_the_first_call():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.first = plain(nn.Linear(4, 4)), plain(nn.Linear(4, 4))
            self.never = plain(nn.Linear(4, 4), scale=3)

        def forward(self, x):
            return self.first(10 * self.second(self.first(x)))

    model = Net()
    assert list(lsuv(model, numbers(32, 4))) == ["first", "second"]
    assert torch.equal(model.never.weight, plain(nn.Linear(4, 4), scale=3).weight)
    for output in outputs(model, numbers(32, 4)).values():
        assert float(output.var(correction=0)) == pytest.approx(1, abs=1e-4)


def test_lsuv_leaves_what_scaling_cannot_help():
    zero = plain(nn.Linear(4, 2), scale=0)
    biased = plain(nn.Linear(4, 2))
    with torch.no_grad():
        biased.bias.copy_(torch.tensor([-3.0, 3.0]))  # varies by 9 alone
    itself = nn.utils.parametrizations.weight_norm(plain(nn.Linear(4, 2), scale=3))
    for layer in (zero, biased, itself):
        weight, x = layer.weight.detach().clone(), numbers(64, 4)
        variance = layer(x).double().var(correction=0).item()
        assert lsuv(chain(layer), x) == {"a": pytest.approx(variance)}
        assert torch.equal(layer.weight, weight)


def test_lsuv_stops_within_the_tolerance():
    x = numbers(64, 4)
    layer = plain(nn.Linear(4, 4))
    lsuv(chain(layer), x)
    with torch.no_grad():
        layer.weight.mul_(1.02)  # variance 1.0404
    weight = layer.weight.detach().clone()
    assert lsuv(chain(layer), x)["a"] == pytest.approx(1.0404, abs=1e-3)
    assert torch.equal(layer.weight, weight)
    assert lsuv(chain(layer), x, tolerance=0.01)["a"] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_lsuv_moves_nothing_but_weights(train):
    torch.manual_seed(0)
    model = chain(cifar_resnet(depth=20).build(1, 8, None), nn.Dropout(0.9), nn.Linear(8, 2))
    model.train(train)
    model.a.layer2.eval()
    modes = [module.training for module in model.modules()]
    buffers = [buffer.clone() for buffer in model.buffers()]
    norms = [p.clone() for name, p in model.named_parameters() if p.ndim == 1]
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    reached = lsuv(model, numbers(8, 1, 8, 8), tolerance=1e-4)
    assert torch.equal(torch.rand(2), expected)
    assert len(reached) == 21
    assert [module.training for module in model.modules()] == modes
    assert all(map(torch.equal, model.buffers(), buffers))
    assert all(map(torch.equal, (p for p in model.parameters() if p.ndim == 1), norms))
    # Without dropout the head's input has the variance that it will have in evaluation.
    assert reached["c"] == pytest.approx(1, abs=1e-4)
    model.b.eval()
    assert float(outputs(model, numbers(8, 1, 8, 8))["c"].var(correction=0)) == pytest.approx(
        1, abs=1e-3
    )


class Auxiliary(nn.Module):
    """Has a branch that only training uses, as Inception has."""

    def __init__(self):
        super().__init__()
        self.norm, self.auxiliary, self.unused = (nn.BatchNorm1d(1) for _ in range(3))
        self.drop, self.own = nn.Dropout(0.5), nn.BatchNorm1d(1, track_running_stats=False)

    def forward(self, x):
        y = self.norm(self.drop(x))
        return (self.own(y), self.auxiliary(x)) if self.training else self.own(y)


def test_statistics_are_the_plain_average_over_batches():
    model = Auxiliary().eval()
    model.norm.momentum = 0.25
    model.unused.running_mean.fill_(4)
    names = estimate_statistics(
        model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[6.0], [12.0]])]
    )
    assert names == [
        f"{layer}.{buffer}"
        for layer in ("norm", "auxiliary")
        for buffer in ("running_mean", "running_var", "num_batches_tracked")
    ]
    for norm in (model.norm, model.auxiliary):
        # Means 2 and 9, variances (of a sample) 2 and 18, dropout or not.
        assert norm.running_mean.tolist() == pytest.approx([5.5])
        assert norm.running_var.tolist() == pytest.approx([10])
        assert norm.num_batches_tracked.item() == 2
    assert model.unused.running_mean.item() == 4
    assert (model.norm.momentum, model.auxiliary.momentum) == (0.25, 0.1)
    assert not any(module.training for module in model.modules())


def test_statistics_do_not_depend_on_earlier_ones_and_leave_weights():
    model = cifar_resnet(depth=20).build(1, 3, None)
    weights = [parameter.clone() for parameter in model.parameters()]
    batches = [numbers(8, 1, 8, 8, seed=seed) for seed in range(2)]
    names = estimate_statistics(model, batches)
    assert names == [name for name, _ in model.named_buffers()]
    first = [buffer.clone() for buffer in model.buffers()]
    model.layer1.eval()
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.fill_(3)
    estimate_statistics(model, batches)
    assert all(map(torch.equal, model.buffers(), first))
    assert all(map(torch.equal, model.parameters(), weights))
    assert model.training
    assert not model.layer1.training


def test_no_batches_set_no_statistics():
    model = nn.BatchNorm1d(1)
    model.running_mean.fill_(4)
    assert estimate_statistics(chain(model), []) == []
    assert model.running_mean.item() == 4


def headed(dimensions, classes, **options):
    return chain(nn.Flatten(), nn.Dropout(), nn.Linear(dimensions, classes, **options))


def test_class_means_by_hand():
    model = headed(2, 2)
    x = torch.tensor([[0.0, 1.0], [0.0, 3.0], [5.0, 2.0], [7.0, 2.0]])
    labels = torch.tensor([0, 0, 1, 1])
    class_means(model, "c", [(x[1:], labels[1:]), (x[:1], labels[:1])], classes=2)
    # Means (0, 2) and (6, 2), together (3, 2). Squares within classes 1+1+1+1, by 4-2 images and
    # 2 dimensions: variance 1.
    assert torch.allclose(model.c.weight, torch.tensor([[-3.0, 0.0], [3.0, 0.0]]))
    # -(4 - 13) / 2 and -(40 - 13) / 2.
    assert torch.allclose(model.c.bias, torch.tensor([4.5, -13.5]))
    assert model.training
    assert model.b.training


@pytest.mark.parametrize("copies", [1, 2])
def test_one_image_per_class_takes_the_variance_of_all(copies):
    model = headed(1, 3)
    x = torch.tensor([[1.0], [2.0], [6.0]]).repeat(copies, 1)
    class_means(model, "c", [(x, torch.tensor([0, 1, 2]).repeat(copies))], classes=3)
    # Mean 3, squares 4 + 1 + 9 = 14 by 3-1 images: 7; each image twice: 28 by 6-1.
    variance = {1: 7, 2: 28 / 5}[copies]
    expected = torch.tensor([[-2.0], [-1.0], [3.0]]) / variance
    assert torch.allclose(model.c.weight, expected)


def test_class_means_predict_the_nearest_mean():
    x, labels = numbers(60, 5) + 100, torch.arange(60) % 4
    model = headed(5, 4).eval()
    class_means(model, "c", [(x, labels)], classes=4)
    means = torch.stack([x[labels == label].mean(0) for label in range(4)])
    queries = numbers(200, 5, seed=1) + 100
    with torch.no_grad():
        logits = model(queries)
    distances = torch.cdist(queries.double(), means.double())
    assert torch.equal(logits.argmax(1), distances.argmin(1))
    # The softmax is the posterior: logits differ by half the squared distances over the variance.
    residuals = x - means[labels]
    variance = float(residuals.square().sum()) / (56 * 5)
    expected = torch.log_softmax(-distances.square() / (2 * variance), 1)
    assert torch.allclose(torch.log_softmax(logits.double(), 1), expected, atol=1e-3)


def test_class_means_do_not_depend_on_the_cut_into_batches():
    x, labels = numbers(12, 3), torch.arange(12) % 2
    whole, cut = headed(3, 2), headed(3, 2)
    class_means(whole, "c", [(x, labels)], classes=2)
    class_means(cut, "c", zip(x.split(5), labels.split(5), strict=True), classes=2)
    assert torch.allclose(whole.c.weight, cut.c.weight, rtol=1e-5)
    assert torch.allclose(whole.c.bias, cut.c.bias, rtol=1e-5)


def test_class_means_refuse_what_has_none():
    x, labels = numbers(4, 3), torch.tensor([0, 0, 2, 2])
    with pytest.raises(ConfigError, match=r"every class, but class 1 has none \(2 such\); add"):
        class_means(headed(3, 4), "c", [(x, labels)], classes=4)
    with pytest.raises(ConfigError, match=r"class 0 has none \(3 such\)"):
        class_means(headed(3, 3), "c", [], classes=3)
    with pytest.raises(ConfigError, match=r"a linear classifier with a bias, but 'c' is Conv2d;"):
        class_means(chain(nn.Identity(), nn.Identity(), nn.Conv2d(1, 2, 1)), "c", [], classes=2)
    with pytest.raises(ConfigError, match=r"'c' is a Linear without a bias; use init\.head=fresh"):
        class_means(headed(3, 2, bias=False), "c", [], classes=2)
    with pytest.raises(ConfigError, match=r"features that differ.*all equal"):
        class_means(headed(3, 2), "c", [(torch.ones(4, 3) / 3, labels // 2)], classes=2)
