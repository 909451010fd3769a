"""Policies and noise: torchvision's, from seeds of each image."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms import v2

from warmstart.data.augment.drawn import POLICIES, Noise, Policy, seeds
from warmstart.errors import ConfigError

REFERENCE = {
    "aug_mix": v2.AugMix(),
    "auto_augment": v2.AutoAugment(),
    "auto_augment_cifar10": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "auto_augment_svhn": v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
    "rand_augment": v2.RandAugment(),
    "trivial_augment": v2.TrivialAugmentWide(),
}


def policy(name, operations=None, magnitude=None):
    return Policy(name, operations=operations, magnitude=magnitude)


def images(count=24, *, size=17, channels=3):
    shape = (count, size, size, channels)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).byte()


def table(count=24):
    return torch.rand(count, 2, generator=torch.Generator().manual_seed(1))


def by_reference(transform, pixels, uniforms):
    results = []
    for image, seed in zip(pixels, seeds(uniforms), strict=True):
        torch.manual_seed(seed)
        results.append(transform(image.permute(2, 0, 1)).permute(1, 2, 0))
    return torch.stack(results)


def test_seeds_by_hand():
    uniforms = torch.tensor([[0.0, 0.0], [2**-24, 0.5], [1 - 2**-24, 1 - 2**-24]])
    assert seeds(uniforms) == [0, 2**24 + 2**23, 2**48 - 1]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_policy_is_torchvisions(name, channels):
    pixels, uniforms = images(channels=channels), table()
    result = policy(name)(pixels, uniforms)
    assert result.dtype == torch.uint8
    assert torch.equal(result, by_reference(REFERENCE[name], pixels, uniforms))
    assert (result != pixels).flatten(1).any(dim=1).float().mean() > 0.4


def test_strengths_reach_torchvision():
    pixels, uniforms = images(), table()
    for ours, theirs in [
        (policy("rand_augment", 3, 20), v2.RandAugment(3, 20)),
        (policy("aug_mix", None, 9), v2.AugMix(9)),
    ]:
        assert torch.equal(ours(pixels, uniforms), by_reference(theirs, pixels, uniforms))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_leaves_the_generator_as_it_was(name):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    policy(name)(images(2), table(2))
    assert torch.equal(torch.rand(3), expected)


def test_a_policy_works_on_the_smallest_images():
    for size in (1, 2):
        for name in POLICIES:
            assert policy(name)(images(size=size), table()).shape == (24, size, size, 3)


def test_noise_by_hand():
    before = torch.arange(0, 255, 5, dtype=torch.uint8)
    uniforms = table(len(before))
    result = Noise(0.8)(before.reshape(-1, 1, 1, 1), uniforms).flatten().tolist()
    assert {0, 255} < set(result)  # clipped at both ends
    for shade, old, seed in zip(result, before.tolist(), seeds(uniforms), strict=True):
        drawn = torch.empty(1).normal_(generator=torch.Generator().manual_seed(seed))
        assert shade == min(max(round(old + 204 * float(drawn)), 0), 255)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_noise_has_its_deviation_everywhere(channels):
    pixels = torch.full((50, 20, 20, channels), 128, dtype=torch.uint8)
    noise = Noise(0.05)(pixels, table(50)).float() - 128
    assert float(noise.std()) == pytest.approx(12.75, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.5)
    # Independent between images, pixels and channels.
    flat = noise.flatten(1)
    assert torch.unique(flat, dim=0).shape == flat.shape
    assert abs(float(torch.corrcoef(torch.stack([flat[:, 0], flat[:, 1]]))[0, 1])) < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("randaugment",), "policy is 'randaugment', but must be one of .*mean 'rand_augment'"),
        (("rand_augment", 0), "operations is 0, but must be a whole number, 1 or more"),
        (("rand_augment", 2, 31), "magnitude is 31, but must be a whole number, from 0 to 30"),
        (("aug_mix", None, 0), "magnitude is 0, but must be a whole number, from 1 to 10"),
        (("aug_mix", 2), "operations is 2, .*only with augment.policy=rand_augment"),
        (("trivial_augment", None, 5), "magnitude is 5, .*=rand_augment or aug_mix"),
        (("auto_augment", 2), "operations is 2, .*leave augment.operations at null"),
    ],
)
def test_impossible_values_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        policy(*arguments)
