"""Changes of colour agree with torchvision's image by image, and with numbers computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from warmstart.data.augment.colour import (
    Jitter,
    Lighting,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    principal_colours,
)

OURS = {
    "brightness": adjust_brightness,
    "contrast": adjust_contrast,
    "saturation": adjust_saturation,
    "hue": adjust_hue,
}


def images(count=40, *, channels=3, size=9):
    shape = (count, channels, size, size)
    pixels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()
    pixels[0] = 77.0  # gray
    pixels[1] = 0.0
    pixels[2, :, :4] = 255.0
    return pixels


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_operation_is_torchvisions(name, channels):
    if name in ("saturation", "hue") and channels == 1:
        return  # refused, see test_pipeline.py
    x = images(channels=channels)
    low, high = (-0.5, 0.5) if name == "hue" else (0.0, 2.5)
    factors = torch.linspace(low, high, len(x))
    result = OURS[name](x, factors[:, None, None, None])
    operation = getattr(reference, f"adjust_{name}")
    for image, factor, ours in zip(x, factors, result, strict=True):
        expected = 255 * operation(image / 255, float(factor))
        torch.testing.assert_close(ours, expected, atol=0.01, rtol=0)


def pixel(*values):
    """Return one pixel as a batch [1, channels, 1, 1]."""
    return torch.tensor(values, dtype=torch.float32)[None, :, None, None]


def factor(value):
    return torch.tensor([[[[value]]]])


def test_operations_by_hand():
    # 0.2989 * 100 + 0.587 * 200 + 0.114 * 50 = 152.99 is the gray of the pixel.
    colour = pixel(100, 200, 50)
    assert adjust_brightness(colour, factor(1.5)).flatten().tolist() == [150, 255, 75]
    gray = adjust_saturation(colour, factor(0.0)).flatten()
    assert gray.tolist() == pytest.approx([152.99] * 3)
    half = adjust_saturation(colour, factor(0.5)).flatten()
    assert half.tolist() == pytest.approx([126.495, 176.495, 101.495])
    # Of two pixels the mean gray is 50; twice the contrast moves them away from it.
    pair = torch.tensor([40.0, 60.0]).reshape(1, 1, 1, 2)
    assert adjust_contrast(pair, factor(2.0)).flatten().tolist() == [30, 70]


def test_hues_by_hand():
    red = pixel(200, 0, 0)
    for turn, expected in [
        (0.0, (200, 0, 0)),
        (1 / 6, (200, 200, 0)),
        (1 / 3, (0, 200, 0)),
        (-1 / 3, (0, 0, 200)),
        (1 / 2, (0, 200, 200)),
        (-1 / 12, (200, 0, 100)),
    ]:
        found = adjust_hue(red, factor(turn)).flatten().tolist()
        assert found == pytest.approx(expected, abs=1e-3)
    assert adjust_hue(pixel(90, 90, 90), factor(0.3)).flatten().tolist() == [90] * 3


def test_the_mean_of_an_image_does_not_depend_on_threads_and_batch():
    """In single precision it does: threads share one image, or else the images of a batch."""
    x = images(24, size=224)
    factors = torch.full((24, 1, 1, 1), 1.5)
    torch.set_num_threads(2)  # conftest.py sets it back
    whole = adjust_contrast(x, factors)
    single = torch.cat([adjust_contrast(x[i : i + 1], factors[:1]) for i in range(24)])
    assert torch.equal(whole, single)


def test_factors_come_evenly_from_their_range():
    jitter = Jitter(brightness=0.4, contrast=0, saturation=0, hue=0)
    assert jitter.columns == 1
    x = torch.full((3, 1, 2, 2), 100.0)
    result = jitter(x, torch.tensor([[0.0], [0.5], [0.75]]))
    assert result[:, 0, 0, 0].tolist() == pytest.approx([60, 100, 120])
    # Not below 0: the range of a strength of 3 is [0, 4].
    strong = Jitter(brightness=3, contrast=0, saturation=0, hue=0)
    assert strong(x, torch.tensor([[0.0], [0.25], [0.5]]))[:, 0, 0, 0].tolist() == [0, 100, 200]
    turned = Jitter(brightness=0, contrast=0, saturation=0, hue=0.5)
    cyan = turned(pixel(200, 0, 0), torch.tensor([[0.0]]))
    assert cyan.flatten().tolist() == pytest.approx([0, 200, 200], abs=1e-3)


def test_the_order_is_fixed():
    x = images(8)
    uniforms = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
    strengths = {"brightness": 0.6, "contrast": 0.5, "saturation": 0.4, "hue": 0.3}
    expected = x
    for column, (name, strength) in enumerate(strengths.items()):
        alone = {**dict.fromkeys(strengths, 0.0), name: strength}
        expected = Jitter(**alone)(expected, uniforms[:, [column]])
    assert torch.equal(Jitter(**strengths)(x, uniforms), expected)


def test_principal_colours_by_hand():
    # Variance 0.04 along gray and 0.01 along (1, -1, 0), both as unit vectors.
    gray, contrast = np.ones(3) / 3**0.5, np.array([1, -1, 0]) / 2**0.5
    values, vectors = principal_colours(
        0.04 * np.outer(gray, gray) + 0.01 * np.outer(contrast, contrast)
    )
    assert values == pytest.approx([0.04, 0.01, 0.0], abs=1e-12)
    assert vectors[:, 0] == pytest.approx(gray)
    assert np.abs(vectors[:, 1]) == pytest.approx(np.abs(contrast))
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()


def test_lighting_by_hand():
    light = Lighting(0.1, np.diag([0.02, 0.08, 0.05]))
    # Uniforms of 0.975 are deviations of 1.96; columns go by falling eigenvalues.
    x = torch.full((3, 3, 2, 2), 100.0)
    low, high = 0.025, 0.975
    result = light(x, torch.tensor([[high, 0.5, 0.5], [0.5, low, 0.5], [0.5, 0.5, high]]))
    shift = 1.959964 * 0.1 * 255
    expected = [[0, 0.08 * shift, 0], [0, 0, -0.05 * shift], [0.02 * shift, 0, 0]]
    for image, shifts in zip(result, expected, strict=True):
        assert (image[:, 1, 1] - 100).tolist() == pytest.approx(shifts, abs=1e-3)
        assert torch.equal(image[:, :1, :1].expand(3, 2, 2), image)


def test_lighting_has_the_deviation_of_the_paper():
    light = Lighting(0.1, np.diag([0.2, 0.1, 0.05]))
    x = torch.full((20_000, 3, 1, 1), 128.0)
    uniforms = torch.rand(20_000, 3, generator=torch.Generator().manual_seed(2))
    found = light(x, uniforms)[:, :, 0, 0].std(dim=0)
    assert found.tolist() == pytest.approx([5.1, 2.55, 1.275], rel=0.03)
    # The least and the largest uniform give no infinite number.
    ends = light(x[:2], torch.tensor([[0.0] * 3, [1 - 2**-24] * 3]))
    assert torch.isfinite(ends).all()
