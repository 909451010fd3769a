"""Loaded tensors for another input: channels, positions, fully connected or convolutional."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import resample_abs_pos_embed
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table_simple
from torch import nn
from torchvision.models.vision_transformer import interpolate_embeddings

from warmstart.models.adapt import adapt, input_convolutions
from warmstart.models.layers import layer_groups

FLOAT = torch.float32


def numbers(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


class TestChannels:
    def adapted(self, weight, channels):
        shape = (weight.shape[0], channels, *weight.shape[2:])
        return adapt("conv1.weight", weight, shape, FLOAT, sees_image=True)

    def test_three_channels_are_summed_to_one(self):
        weight = torch.tensor([1.0, 10, 100]).reshape(1, 3, 1, 1)
        value, change = self.adapted(weight, 1)
        assert value.tolist() == [[[[111]]]]
        assert change == "3 input channels summed to 1"

    def test_channels_are_repeated_and_scaled(self):
        weight = torch.tensor([1.0, 10, 100]).reshape(1, 3, 1, 1)
        value, change = self.adapted(weight, 5)
        assert value.flatten().tolist() == pytest.approx([0.6, 6, 60, 0.6, 6])
        assert change == "3 input channels repeated for 5, times 3/5"

    def test_one_channel_is_shared_among_three(self):
        value, change = self.adapted(torch.full((2, 1, 1, 1), 6.0), 3)
        assert value.flatten().tolist() == [2] * 6
        assert change == "1 input channel repeated for 3, times 1/3"

    @pytest.mark.parametrize(("before", "after"), [(3, 1), (3, 6), (3, 12), (1, 3), (1, 4), (6, 1)])
    def test_a_gray_image_gets_the_same_response(self, before, after):
        weight, gray = numbers(4, before, 3, 3), numbers(2, 1, 8, 8)
        value, _ = self.adapted(weight, after)
        expected = F.conv2d(gray.expand(-1, before, -1, -1), weight)
        assert torch.allclose(F.conv2d(gray.expand(-1, after, -1, -1), value), expected, atol=1e-5)

    def test_half_precision_is_summed_in_full(self):
        weight = torch.tensor([2048.0, 1, 1]).half().reshape(1, 3, 1, 1)
        # In half precision 2048 + 1 is 2048.
        assert self.adapted(weight, 1)[0].tolist() == [[[[2050]]]]

    def test_only_the_channels_may_differ(self):
        for shape in ((8, 1, 3, 3), (4, 1, 5, 5), (4, 1, 3)):
            weight = numbers(4, 3, 3, 3)
            assert adapt("conv1.weight", weight, shape, FLOAT, sees_image=True) is None

    def test_bands_that_are_no_colours_do_not_become_others(self):
        assert self.adapted(numbers(4, 13, 3, 3), 10) is None
        assert self.adapted(numbers(4, 48, 3, 3), 16) is None  # a stem of 4 x 4 pixels in depth

    def test_a_later_convolution_keeps_its_channels(self):
        assert adapt("conv2.weight", numbers(4, 3, 3, 3), (4, 1, 3, 3), FLOAT) is None


def test_the_convolutions_on_the_image():
    model = nn.Sequential()
    model.stem = nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 8, 3),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Conv2d(8, 4, 3),
        nn.Conv2d(1, 4, 5),
    )
    model.body = nn.Conv2d(1, 4, 3)
    model.head = nn.Linear(4, 2)
    groups = layer_groups(model, {"stem": ["stem"], "body": ["body"], "head": ["head"]})
    # Two branches on the image; the depthwise one has a weight of one channel, too.
    assert input_convolutions(model, groups) == {"stem.1.weight", "stem.4.weight"}
    assert input_convolutions(model, groups[2:]) == frozenset()


class TestPositions:
    @pytest.mark.parametrize(("before", "after"), [(14, 4), (4, 7), (7, 8)])
    @pytest.mark.parametrize("prefix", [0, 1, 2, 5])
    def test_as_timm_does_it(self, before, after, prefix):
        embedding = numbers(1, before**2 + prefix, 6)
        shape = (1, after**2 + prefix, 6)
        value, change = adapt("pos_embed", embedding, shape, FLOAT)
        expected = resample_abs_pos_embed(embedding, [after, after], num_prefix_tokens=prefix)
        assert torch.allclose(value, expected, atol=1e-6)
        assert torch.equal(value[:, :prefix], embedding[:, :prefix])
        assert change == f"positions interpolated from {before}x{before} to {after}x{after}"

    def test_near_torchvision_which_aligns_the_corners(self):
        # A smooth field of positions, as learned ones are.
        rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, 14)] * 2, indexing="ij")
        grid = torch.stack([rows, columns, rows * columns, rows**2], dim=-1).reshape(1, 196, 4)
        embedding = torch.cat([torch.full((1, 1, 4), 9.0), grid], dim=1)
        name = "encoder.pos_embedding"
        value, _ = adapt(name, embedding, (1, 24**2 + 1, 4), FLOAT)
        theirs = interpolate_embeddings(24 * 16, 16, {name: embedding})[name]
        assert torch.equal(value[:, 0], theirs[:, 0])
        # The difference is the half pixel at the border: 1 / 14 of the range of 2.
        assert (value - theirs).abs().max() < 0.15
        assert (value - theirs).abs().mean() < 0.05

    @pytest.mark.parametrize(
        ("before", "after"), [((50, 4), (17, 4)), ((1, 7, 7, 4), (1, 5, 5, 4))]
    )
    def test_other_layouts_of_the_same_positions(self, before, after):
        embedding = numbers(*before)
        value, change = adapt("net.positional_embedding", embedding, after, FLOAT)
        assert value.shape == after
        assert change.startswith("positions interpolated from 7x7 to ")
        prefix = int(len(before) == 2)
        tokens = embedding.reshape(1, -1, 4)
        side = 4 if prefix else 5
        expected = resample_abs_pos_embed(tokens, [side, side], num_prefix_tokens=prefix)
        assert torch.allclose(value.reshape(1, -1, 4), expected, atol=1e-6)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ((1, 50, 4), (1, 17, 8)),  # another width
            ((1, 50, 4), (1, 12, 4)),  # not a square
            ((1, 51, 4), (1, 17, 4)),  # two tokens before the grid, then one
            ((2, 50, 4), (2, 17, 4)),  # two sets of positions
            ((1, 16, 49, 4), (1, 16, 16, 4)),  # blocks and places in them (NesT)
            ((1, 7, 7, 4), (1, 50, 4)),
        ],
    )
    def test_what_is_no_square_grid_of_the_same_kind(self, before, after):
        assert adapt("pos_embed", numbers(*before), after, FLOAT) is None

    def test_other_parameters_of_these_shapes_are_left_alone(self):
        assert adapt("queries", numbers(1, 50, 4), (1, 17, 4), FLOAT) is None

    @pytest.mark.parametrize(("before", "after"), [(7, 4), (7, 12)])
    @pytest.mark.parametrize("extra", [0, 3])
    def test_relative_positions_as_timm_does_it(self, before, after, extra):
        table = numbers((2 * before - 1) ** 2 + extra, 3)
        shape = ((2 * after - 1) ** 2 + extra, 3)
        value, change = adapt("attn.relative_position_bias_table", table, shape, FLOAT)
        expected = resize_rel_pos_bias_table_simple(table, (after, after), shape)
        assert torch.allclose(value, expected, atol=1e-6)
        sides = f"{2 * before - 1}x{2 * before - 1} to {2 * after - 1}x{2 * after - 1}"
        assert change == f"relative positions interpolated from {sides}"

    @pytest.mark.parametrize("shape", [(49, 4), (50, 3), (7, 7, 3)])
    def test_relative_positions_of_another_kind(self, shape):
        assert adapt("relative_position_bias_table", numbers(169, 3), shape, FLOAT) is None


class TestForms:
    def test_a_linear_layer_as_a_convolution_and_back(self):
        linear, features = numbers(5, 3 * 2 * 2), numbers(4, 3, 2, 2)
        value, change = adapt("classifier.1.weight", linear, (5, 3, 2, 2), FLOAT)
        assert change == "linear layer reshaped to a convolution"
        expected = F.linear(features.flatten(1), linear)
        assert torch.allclose(F.conv2d(features, value).flatten(1), expected, atol=1e-5)
        back, change = adapt("classifier.1.weight", value, (5, 12), FLOAT)
        assert torch.equal(back, linear)
        assert change == "convolution reshaped to a linear layer"

    @pytest.mark.parametrize("shape", [(5, 3, 3, 3), (10, 3, 2, 1), (5, 12, 1), (60,)])
    def test_other_reshapes_are_refused(self, shape):
        assert adapt("classifier.1.weight", numbers(5, 12), shape, FLOAT) is None

    def test_the_models_type_is_taken(self):
        value, change = adapt("weight", torch.tensor([0.5, 2.0], dtype=torch.bfloat16), (2,), FLOAT)
        assert (value.dtype, value.tolist(), change) == (FLOAT, [0.5, 2], "")

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.complex64, torch.bool])
    def test_other_kinds_of_numbers_are_no_weights(self, dtype):
        assert adapt("weight", torch.ones(2).to(dtype), (2,), FLOAT) is None
