"""The hand-designed first layer: responses to gratings and colours, norms by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from warmstart.errors import ConfigError
from warmstart.models.gabor import gabor_first_layer
from warmstart.models.layers import layer_groups


def filled(*, out=64, channels=3, size=7):
    """Return the first layer's weights [out, channels, size, size], in double precision."""
    model = nn.Sequential(nn.Conv2d(channels, out, size), nn.Flatten(), nn.Linear(8, 2))
    assert gabor_first_layer(model, groups=layer_groups(model, {"a": ["0"], "head": ["2"]})) == "0"
    assert not model[0].bias.any()
    return model[0].weight.detach().double()


def energies(pair, *, wavelength, degrees):
    """Return the energy of an even and odd filter [2, h, w] for a grating of each direction."""
    height, width = pair.shape[1:]
    y = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2
    angles = torch.tensor(degrees, dtype=torch.float64)[:, None, None] * math.pi / 180
    phase = 2 * math.pi / wavelength * (x * angles.cos() + y * angles.sin())
    # Both phases of the grating, as it drifts past.
    waves = torch.stack((phase.cos(), phase.sin()))
    return torch.einsum("fhw,pahw->fpa", pair, waves).pow(2).sum(dim=(0, 1))


@pytest.mark.parametrize(
    ("out", "size", "orientations"),
    # Wavelength to the number of orientations. Of 63 filters 42 are Gabor's: 21 pairs.
    [(63, 7, {7.0: 11, 3.5: 10}), (24, 3, {3.0: 8}), (24, 16, {16.0: 3, 8.0: 3, 4.0: 2})],
)
def test_filters_answer_most_to_gratings_of_their_orientation(out, size, orientations):
    edges = filled(out=out, size=size)[: out - out // 3, 0]
    expected = [(w, 180 * turn / n) for w, n in orientations.items() for turn in range(n)]
    for pair, (wavelength, own) in zip(edges.split(2), expected, strict=True):
        peak = int(energies(pair, wavelength=wavelength, degrees=range(180)).argmax())
        assert min(abs(peak - own), 180 - abs(peak - own)) <= 1, (wavelength, own)


@pytest.mark.parametrize(("out", "size"), [(64, 7), (16, 3), (96, 4), (24, 16)])
def test_edges_ignore_light_and_colour(out, size):
    weights = filled(out=out, size=size)
    edges = weights[: out - out // 3]
    assert torch.equal(edges[:, :1].expand(-1, 3, -1, -1), edges)  # the same on every channel
    constant = edges.sum(dim=(1, 2, 3)).abs()
    assert float(constant.max()) < 1e-6
    # Even and odd in turn: point symmetric, or antisymmetric.
    flipped = edges.flip(2, 3)
    assert torch.allclose(edges[0::2], flipped[0::2], atol=1e-7)
    assert torch.allclose(edges[1::2], -flipped[1::2], atol=1e-7)


def test_blobs_answer_to_colour_and_not_to_gray():
    blobs = filled(out=64, size=7)[43:]
    generator = torch.Generator().manual_seed(0)
    gray = torch.rand(7, 7, generator=generator).double().expand(3, 7, 7)
    assert float((blobs * gray).sum(dim=(1, 2, 3)).abs().max()) < 1e-6
    # Response = colour . opponent: red-green, blue-yellow and their negatives take turns.
    red, green, blue = torch.eye(3, dtype=torch.float64)[:, :, None, None]
    signs = {}
    for name, colour in {"red": red, "green": green, "blue": blue, "yellow": red + green}.items():
        signs[name] = [round(float(r)) for r in (blobs * colour).sum(dim=(1, 2, 3)).sign()[:4]]
    assert signs["red"] == [1, -1, -1, 1]
    assert signs["green"] == [-1, -1, 1, 1]
    assert signs["blue"][1::2] == [1, -1]
    assert signs["yellow"][1::2] == [-1, 1]
    assert float((blobs[0::2] * blue).abs().max()) == 0
    assert float((blobs[0::2] * (red + green)).sum(dim=(1, 2, 3)).abs().max()) < 1e-6


def test_other_numbers_of_channels_have_no_blobs():
    for channels in (1, 4):
        weights = filled(out=16, channels=channels, size=5)
        assert torch.equal(weights[:, :1].expand(-1, channels, -1, -1), weights)
        assert float(weights.sum(dim=(1, 2, 3)).abs().max()) < 1e-6


@pytest.mark.parametrize(
    ("out", "channels", "size", "norm"),
    # sqrt(2 * channels / out): Kaiming's variance 2 / (out * size^2), times channels * size^2.
    [(64, 3, 7, 0.306186), (16, 3, 3, 0.612372), (2, 1, 3, 1.0), (96, 3, 16, 0.25)],
)
def test_norms_by_hand(out, channels, size, norm):
    norms = filled(out=out, channels=channels, size=size).flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full((out,), norm, dtype=torch.float64), atol=1e-5)


@pytest.mark.parametrize(
    ("out", "size", "cosine"), [(64, 7, 0.995), (16, 3, 0.8), (64, 3, 0.995), (768, 16, 0.99999)]
)
def test_no_two_filters_are_equal(out, size, cosine):
    unit = nn.functional.normalize(filled(out=out, size=size).flatten(1))
    similar = unit @ unit.T
    similar.fill_diagonal_(-1)
    assert float(similar.max()) < cosine


def test_the_first_convolution_of_the_first_group_is_taken_and_nothing_else():
    model = nn.ModuleDict(
        {
            "head": nn.Linear(4, 2),
            "stem": nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 4), nn.Conv2d(8, 8, 3)),
        }
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(0)
    stream = torch.get_rng_state()
    groups = layer_groups(model, {"stem": ["stem"], "head": ["head"]})
    assert gabor_first_layer(model, groups=groups) == "stem.1"
    changed = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"stem.1.weight", "stem.1.bias"}
    assert torch.equal(torch.get_rng_state(), stream)
    first = model["stem"][1].weight.clone()
    gabor_first_layer(model, groups=groups)
    assert torch.equal(model["stem"][1].weight, first)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Linear(4, 4), "in the first layer group, but stem has none"),
        (nn.Conv1d(3, 8, 7), "in the first layer group, but stem has none"),
        (nn.Conv2d(3, 8, 1), "first.0 has 1 x 1 and 1; use init.first_layer=scheme"),
        (nn.Conv2d(3, 8, (2, 5)), "first.0 has 2 x 5 and 1;"),
        (nn.Conv2d(3, 9, 7, groups=3), "first.0 has 7 x 7 and 3;"),
    ],
)
def test_other_first_layers_are_refused(layer, message):
    model = nn.ModuleDict({"first": nn.Sequential(layer), "head": nn.Linear(4, 2)})
    groups = layer_groups(model, {"stem": ["first"], "head": ["head"]})
    with pytest.raises(ConfigError, match=message):
        gabor_first_layer(model, groups=groups)
