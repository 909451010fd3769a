"""Features of a split at cuts of a model: what the model says, computed once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from warmstart.data.augment.pipeline import Augment
from warmstart.data.batches import EvalBatches, TrainBatches, train_loader
from warmstart.data.preprocess import Preprocess
from warmstart.features import forms
from warmstart.features.extraction import Views, extract, extract_all
from warmstart.models.architecture import Input
from warmstart.models.cuts import Cut
from warmstart.store import trim

GIB = 2**30
MAPS, POOLED, HEAD = Cut("3", 0, (6, 8, 8)), Cut("6", 0, (6, 4, 4)), Cut("9", 0, (5,))


@pytest.fixture
def model():
    """A small net: what is given to "3" is changed in place at once."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),  # 0
        nn.BatchNorm2d(6),
        nn.Identity(),
        nn.ReLU(inplace=True),  # 3
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1),
        nn.Flatten(),  # 6
        nn.Dropout(),
        nn.Linear(96, 5),
        nn.Linear(5, 2),  # 9
    )
    net[1].running_mean.uniform_(-1, 1)
    return net


@pytest.fixture
def split(make_split):
    return make_split(300, size=8, channels=3)


@pytest.fixture
def options(tmp_path):
    return {"folder": tmp_path / "features", "limit": GIB, "title": "features of the test"}


def preprocess(augment=None):
    wanted = Input(8, 3, (0.4, 0.5, 0.6), (0.2, 0.2, 0.3))
    return Preprocess(wanted, augment=augment, channels_last=False)


def expected(model, layers, split):
    """Return what the first layers make of a split, in the batches of an evaluation."""
    model.eval()
    batches, prepare = EvalBatches(split), preprocess()
    with torch.no_grad():
        found = [
            model[:layers](prepare(*batches[turn][::2], train=False)).clone()
            for turn in range(len(batches))
        ]
    model.train()
    return torch.cat(found)


def counted(module):
    """Return a list that grows by the images of each call of a module."""
    calls = []
    module.register_forward_hook(lambda _, args, __: calls.append(len(args[0])))
    return calls


def test_features_are_the_activations_in_eval_mode(model, split, options):
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for cut, layers in ((MAPS, 3), (POOLED, 6), (HEAD, 9)):
        features = extract(model, cut, split, preprocess(), key=cut.module, **options)
        model[1].train()
        wanted = expected(model, layers, split)
        model[1].eval()
        assert features.shape == (300, *cut.shape)
        assert torch.equal(features[np.arange(300)], wanted)
        assert not features[np.arange(3)].requires_grad
    assert [module.training for module in model] == [True, False, *[True] * 8]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_random_stream_goes_on_as_if_nothing_had_been(model, split, options):
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    extract(model, HEAD, split, preprocess(), key="key", **options)
    assert torch.equal(torch.rand(4), wanted)


def test_the_model_runs_once_and_no_further_than_the_cut(model, split, options):
    first, last = counted(model[0]), counted(model[6])
    for _ in range(2):
        extract(model, POOLED, split, preprocess(), key="key", **options)
    assert first == [256, 44]
    assert last == []


def test_several_cuts_take_one_pass_and_give_what_each_gives_alone(model, split, options):
    first, last = counted(model[0]), counted(model[9])
    cuts = [HEAD, MAPS, POOLED]
    together = extract_all(model, cuts, split, preprocess(), keys=["h", "m", "p"], **options)
    assert first == [256, 44]
    assert last == []
    rows = np.arange(300)
    for cut, features in zip(cuts, together, strict=True):
        alone = extract(model, cut, split, preprocess(), key=f"alone-{cut.module}", **options)
        assert torch.equal(features[rows], alone[rows])
    # And they are the same entries.
    calls = counted(model[0])
    extract(model, MAPS, split, preprocess(), key="m", **options)
    assert calls == []


def test_batches_do_not_hang_on_what_is_there_already(model, split, options, monkeypatch):
    monkeypatch.setattr(forms, "_SHARD_BYTES", 1)  # a batch is a shard
    calls, rows = counted(model[0]), np.arange(300)
    features = extract(model, POOLED, split, preprocess(), key="key", **options)
    before = features[rows]
    trim(options["folder"], limit=0)
    again = extract(model, POOLED, split, preprocess(), key="key", **options)
    trim(options["folder"], limit=0, keep=["key-00000"])
    once_more = extract(model, POOLED, split, preprocess(), key="key", **options)
    assert calls == [256, 44, 256, 44, 44]
    assert torch.equal(again[rows], before)
    assert torch.equal(once_more[rows], before)


def test_pools_are_applied_before_anything_is_kept(model, split, options):
    pools = [lambda maps: maps.mean((2, 3)), None]
    keys = ["mean", "whole"]
    pooled, whole = extract_all(
        model, [MAPS, MAPS], split, preprocess(), keys=keys, pools=pools, **options
    )
    rows = np.arange(300)
    assert pooled.shape == (300, 6)
    assert torch.equal(whole[rows].mean((2, 3)), pooled[rows])


def test_float16_takes_half_the_room(model, split, options):
    full = extract(model, HEAD, split, preprocess(), key="full", **options)
    half = extract(model, HEAD, split, preprocess(), key="half", dtype=torch.float16, **options)
    rows, sizes = np.arange(300), {}
    for key in ("full", "half"):
        sizes[key] = (options["folder"] / f"{key}-00000" / "features.bin").stat().st_size
    assert sizes == {"full": 300 * 5 * 4, "half": 300 * 5 * 2}
    assert torch.equal(half[rows], full[rows].half().float())


def test_mixed_precision_keeps_what_the_model_computes(model, split, options):
    prepare = preprocess()
    mixed = {"precision": "bf16-mixed", **options}
    features = extract(model, HEAD, split, prepare, key="bf16", **mixed)
    wide = extract(model, HEAD, split, prepare, key="wide", dtype=torch.float32, **mixed)
    model.eval()
    pixels, _, uniforms = EvalBatches(split)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model[:9](prepare(pixels, uniforms, train=False))
    rows = np.arange(256)
    assert wanted.dtype is torch.bfloat16
    assert torch.equal(features[rows], wanted)
    assert torch.equal(wide[rows], wanted.float())


def test_workers_change_nothing(model, split, options):
    alone = extract(model, HEAD, split, preprocess(), key="alone", **options)
    helped = extract(model, HEAD, split, preprocess(), key="helped", workers=1, **options)
    assert torch.equal(alone[np.arange(300)], helped[np.arange(300)])


class TestViews:
    @pytest.fixture
    def augment(self, split):
        return Augment(crop="shift", flip=0.5, cutout=0.5).bind(split)

    def test_they_are_those_of_the_first_passes_of_training(self, model, split, options, augment):
        prepare = preprocess(augment)
        views = Views(3, augment, seed=7)
        features = extract(model, POOLED, split, prepare, key="key", views=views, **options)
        assert features.shape == (900, 6, 4, 4)
        model.eval()
        batches = TrainBatches(split, batch_size=50, seed=7, augment=augment)
        for step, batch in enumerate(train_loader(batches, first=0, steps=18, workers=0)):
            indices, before = batches.places(step)
            with torch.no_grad():
                wanted = model[:6](prepare(batch[0], batch[2], train=True))
            found = features[before * len(split) + indices]
            # In batches of another size, sums may come in another order.
            torch.testing.assert_close(found, wanted)
        rows = np.arange(300)
        assert not torch.equal(features[rows], features[rows + 300])

    def test_another_augmentation_in_the_preprocessing(self, model, split, options, augment):
        views = Views(3, augment, seed=7)
        with pytest.raises(ValueError, match="another augmentation than the views"):
            extract(model, POOLED, split, preprocess(), key="key", views=views, **options)
