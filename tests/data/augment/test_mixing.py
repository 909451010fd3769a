"""Mixed images and their labels, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from warmstart.data.augment.mixing import Mix

X = torch.arange(4 * 2 * 6 * 6.0).reshape(4, 2, 6, 6)
LABELS = torch.tensor([2, 0, 1, 2])


def beta(alpha, seed):
    """Return the first number that torch draws from the symmetric beta distribution."""
    torch.manual_seed(seed)
    alpha = torch.tensor([alpha])
    return float(torch.distributions.Beta(alpha, alpha).sample())


def mixed(mix, seed, *, classes=3):
    torch.manual_seed(seed)
    x, soft = mix(X.clone(), LABELS, classes)
    assert x.shape == X.shape
    assert soft.shape == (4, classes)
    torch.testing.assert_close(soft.sum(dim=1), torch.ones(4))
    return x, soft


def test_mixup_by_hand():
    share = beta(0.4, 7)
    x, soft = mixed(Mix(mixup=0.4, cutmix=0), 7)
    for i in range(4):
        other = i - 1  # the image before; the last one for the first
        torch.testing.assert_close(x[i], share * X[i] + (1 - share) * X[other])
        expected = torch.zeros(3)
        expected[LABELS[i]] += share
        expected[LABELS[other]] += 1 - share
        torch.testing.assert_close(soft[i], expected)
    assert soft[0].tolist() == pytest.approx([0, 0, 1])  # both of class 2


def test_cutmix_by_hand():
    x, soft = mixed(Mix(mixup=0, cutmix=1.0), 3)
    pasted = (x != X).all(dim=1)
    assert torch.equal(pasted, pasted[:1].expand(4, 6, 6))
    rows, columns = pasted[0].any(dim=1), pasted[0].any(dim=0)
    assert torch.equal(pasted[0], rows[:, None] & columns)  # a rectangle
    area = int(rows.sum() * columns.sum())
    assert 0 < area < 36
    for i in range(4):
        assert torch.equal(x[i], torch.where(pasted[0], X[i - 1], X[i]))
        expected = torch.zeros(3)
        expected[LABELS[i]] += 1 - area / 36
        expected[LABELS[i - 1]] += area / 36
        torch.testing.assert_close(soft[i], expected)


def test_the_loss_is_the_shared_one_of_both_labels():
    share = beta(0.4, 7)
    _, soft = mixed(Mix(mixup=0.4, cutmix=0), 7)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    own, other = F.cross_entropy(logits, LABELS), F.cross_entropy(logits, LABELS.roll(1))
    torch.testing.assert_close(F.cross_entropy(logits, soft), share * own + (1 - share) * other)


def test_the_same_seed_mixes_alike():
    mix = Mix(mixup=0.3, cutmix=1.0)
    for first, second in zip(mixed(mix, 5), mixed(mix, 5), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(mixed(mix, 5)[0], mixed(mix, 6)[0])


def test_with_both_each_batch_gets_one():
    both = Mix(mixup=1.0, cutmix=1.0)
    blended = 0
    for seed in range(200):
        x, _ = mixed(both, seed)
        # A pasted pixel is one of the two, a blended one lies between them.
        blended += not bool(((x == X) | (x == X.roll(1, 0))).all())
    assert 75 < blended < 125


def test_the_share_follows_the_beta_distribution():
    # For alpha = 0.2 the variance is 1 / (4 (2 * 0.2 + 1)).
    shares = torch.tensor([float(mixed(Mix(mixup=0.2, cutmix=0), s)[1][1, 0]) for s in range(400)])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.07)
    assert float(shares.var()) == pytest.approx(1 / 5.6, rel=0.15)
