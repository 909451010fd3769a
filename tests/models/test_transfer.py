"""What a load takes over, changes, leaves, reports and refuses."""

from __future__ import annotations

import json
from collections import OrderedDict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torchvision.models import swin_t, vit_b_32

from warmstart.errors import ConfigError
from warmstart.models.architecture import Architecture
from warmstart.models.cifar_resnet import cifar_resnet
from warmstart.models.layers import layer_groups
from warmstart.models.load_report import group_states
from warmstart.models.small import small_cnn
from warmstart.models.torchvision import torchvision_model
from warmstart.models.transfer import Take, load, taken

HEAD = ("head.weight", "head.bias")
GROUPS = ["conv1", "conv2", "conv3", "conv4", "head"]


def built(architecture, *, seed=1, classes=10, channels=3, size=None):
    """Return a model with random numbers in every tensor, the statistics of norms included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture.build(channels, classes, size)
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5) if "var" in name else tensor.normal_()
    return model


def small(seed=1, **sizes):
    return built(small_cnn(), seed=seed, **sizes)


def put(model, state, *, architecture=None, classes=None, seed=0, **take):
    """Load `state` into `model` and return the report and the state of each group."""
    architecture = architecture or small_cnn()
    groups = layer_groups(model, architecture.layout)
    report = load(
        model,
        state,
        groups=groups,
        take=Take(**take),
        auxiliary=architecture.auxiliary,
        classes=classes,
        seed=seed,
        origin="theirs.pt",
    )
    return report, group_states(groups, report)


def copy_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, state):
    return {n for n, t in model.state_dict().items() if n in state and torch.equal(t, state[n])}


def in_groups(model, *prefixes):
    return {name for name in model.state_dict() if name.split(".")[0] in prefixes}


class TestWhole:
    def test_a_load_replaces_all_but_the_head(self):
        model, before, theirs = small(), small().state_dict(), small(2).state_dict()
        report, states = put(model, theirs)
        assert report.fresh == dict.fromkeys(HEAD, "head")
        assert set(report.loaded) == set(theirs) - set(HEAD)
        assert report.unused == ()
        assert report.adapted == {}
        assert set(report.loaded) <= same(model, theirs)
        assert set(HEAD) <= same(model, before)
        assert states == ["loaded"] * 4 + ["fresh"]

    def test_a_load_takes_buffers_too(self):
        model, source = small(), small(2)
        source.conv2[1].running_mean.fill_(0.25)
        source.conv2[1].num_batches_tracked.fill_(9)
        put(model, source.state_dict())
        assert model.conv2[1].running_mean.unique().tolist() == [0.25]
        assert int(model.conv2[1].num_batches_tracked) == 9

    def test_files_without_the_batch_counter_are_complete(self):
        state = {k: v for k, v in small(2).state_dict().items() if "num_batches" not in k}
        report, states = put(small(), state, head="copy")
        assert report.fresh == {}
        assert states == ["loaded"] * 5

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_become_the_models(self, dtype):
        theirs = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in small(2).state_dict().items()
        }
        model = small()
        put(model, theirs)
        assert model.conv1[0].weight.dtype == torch.float32
        assert torch.equal(model.conv1[0].weight, theirs["conv1.0.weight"].float())

    def test_the_file_is_not_changed_by_training(self):
        model, theirs = small(), small(2).state_dict()
        before = theirs["conv1.0.weight"].clone()
        put(model, theirs)
        with torch.no_grad():
            model.conv1[0].weight.zero_()
        assert torch.equal(theirs["conv1.0.weight"], before)
        assert model.conv1[0].weight.requires_grad


class TestGroups:
    @pytest.mark.parametrize(("end", "count"), [(1, 1), (3, 3), (4, 4), (-1, 4), (-2, 3), (-4, 1)])
    def test_a_slice_of_the_groups(self, end, count):
        model, before, theirs = small(), small().state_dict(), small(2).state_dict()
        report, states = put(model, theirs, groups=end)
        floating = {n for n in theirs if "num_batches" not in n}
        assert same(model, theirs) & floating == in_groups(model, *GROUPS[:count]) & floating
        assert same(model, before) & floating == in_groups(model, *GROUPS[count:]) & floating
        assert set(report.loaded) == in_groups(model, *GROUPS[:count])
        assert set(report.fresh) == in_groups(model, *GROUPS[count:])
        assert states == ["loaded"] * count + ["fresh"] * (5 - count)
        if count < 4:
            assert report.fresh["conv4.0.weight"] == "group 3 (conv4) not taken"

    @given(end=st.integers(-12, 12))
    def test_the_end_is_that_of_a_slice(self, end):
        groups = layer_groups(small(), small_cnn().layout)
        expected = groups[:end]
        if 0 < len(expected) < len(groups) and end < len(groups):
            assert groups[: taken(groups, end)] == expected
        else:
            with pytest.raises(ConfigError):
                taken(groups, end)

    @pytest.mark.parametrize("end", [0, 5, -5, True, 1.0, None])
    def test_another_end_is_refused(self, end):
        model = small()
        before = copy_of(model)
        message = (
            rf"init\.groups is {end}, but the model has 5 layer groups \(conv1, conv2, conv3, "
            r"conv4, head\): give 1 to 4 for the first ones, or -1 to -4 for all but the last"
        )
        with pytest.raises(ConfigError, match=message):
            put(model, small(2).state_dict(), groups=end)
        assert same(model, before) == set(before)

    def test_groups_that_are_not_taken_may_be_of_other_shapes(self):
        # The deeper one has blocks in layer1 that the other has no place for; the stem is the same.
        shallow, deep = cifar_resnet(depth=8), cifar_resnet(depth=14)
        model, theirs = built(shallow), built(deep, seed=2).state_dict()
        report, states = put(model, theirs, architecture=shallow, groups=1)
        assert states == ["loaded"] + ["fresh"] * 4
        assert all("layer" in name for name in report.unused)
        with pytest.raises(ConfigError, match=r"layer1\.1\.conv1\.weight: - in the model"):
            put(model, theirs, architecture=shallow, groups=2)


class TestHead:
    @pytest.mark.parametrize("head", ["fresh", "zero", "class_means"])
    def test_others_take_nothing(self, head):
        model, before = small(), small().state_dict()
        report, states = put(model, small(2).state_dict(), head=head)
        assert set(HEAD) <= same(model, before)
        assert set(report.fresh) == set(HEAD)
        assert states[-1] == head

    def test_all_rows_without_names(self):
        model, theirs = small(), small(2).state_dict()
        report, _ = put(model, theirs, head="copy")
        assert report.fresh == {}
        assert report.head == "loaded"
        assert same(model, theirs) == set(theirs)

    def test_the_rows_of_classes_with_equal_names(self):
        model, before = small(classes=3), small(classes=3).state_dict()
        theirs = small(2, classes=4).state_dict()
        names = (["cat", "axolotl", "Dog"], ["dog", "bird", "cat, felis", "fish"])
        report, states = put(model, theirs, head="copy", classes=names)
        after = model.state_dict()
        for name in HEAD:
            for row, expected in enumerate([theirs[name][2], before[name][1], theirs[name][0]]):
                assert torch.equal(after[name][row], expected)
        assert report.head == "2 of 3 classes copied by name: cat, Dog"
        assert "head 2 of 3 classes copied by name: cat, Dog" in str(report)
        assert states[-1] == "2 of 3 classes copied by name"
        assert report.fresh == {}

    def test_all_classes_in_another_order(self):
        model, theirs = small(classes=3), small(2, classes=3).state_dict()
        report, states = put(model, theirs, head="copy", classes=("abc", "cab"))
        assert torch.equal(model.head.bias, theirs["head.bias"][[1, 2, 0]])
        assert (report.head, states[-1]) == ("loaded", "loaded")

    def test_no_common_class_is_refused(self):
        model = small(classes=2)
        before = copy_of(model)
        message = (
            r"init\.head=copy, but none of the 2 classes \(cat, dog\) is among the 8 of theirs\.pt "
            r"\(a, b, c, d, e, f and 2 more\); use init\.head=fresh"
        )
        with pytest.raises(ConfigError, match=message):
            put(model, small(2).state_dict(), head="copy", classes=(["cat", "dog"], "abcdefgh"))
        assert same(model, before) == set(before)

    @pytest.mark.parametrize("allow", [False, True])
    @pytest.mark.parametrize("fits", [(), ("head.bias",)])
    def test_a_head_that_does_not_fit_whole_is_refused(self, fits, allow):
        model, theirs = small(), small(2, classes=12).state_dict()
        before = copy_of(model)
        theirs.update({name: torch.zeros(10) for name in fits})
        message = (
            r"init\.head=copy, but the head of theirs\.pt does not fit the data's classes "
            r"\(head\.weight: 10x256 here, 12x256 there; .*init\.head=fresh"
        )
        with pytest.raises(ConfigError, match=message):
            put(model, theirs, head="copy", allow_partial=allow)
        assert same(model, before) == set(before)

    def test_class_names_that_are_not_those_of_the_head(self):
        theirs = small(2, classes=12).state_dict()
        with pytest.raises(ConfigError, match="does not fit the data's classes"):
            put(small(classes=2), theirs, head="copy", classes=("ab", "abc"))

    def test_a_classifier_of_another_name_is_no_misfit(self):
        theirs = {
            name.replace("head.", "fc."): tensor for name, tensor in small(2).state_dict().items()
        }
        report, _ = put(small(), theirs)
        assert report.unused == ("fc.weight", "fc.bias")


class TestAuxiliaryHeads:
    class Net(nn.Module):
        """A net with one auxiliary head of two layers."""

        def __init__(self, channels, classes, size):
            super().__init__()
            self.stem = nn.Conv2d(channels, 4, 3)
            self.aux1 = nn.Sequential(OrderedDict(fc1=nn.Linear(4, 8), fc2=nn.Linear(8, classes)))
            self.fc = nn.Linear(4, classes)

    architecture = Architecture(
        "auxiliary", Net, {"stem": ["stem", "aux1"], "head": ["fc"]}, auxiliary=("aux1",)
    )
    last = ("aux1.fc2.weight", "aux1.fc2.bias")

    def built(self, seed, classes=3):
        return built(self.architecture, seed=seed, classes=classes)

    def test_only_its_last_layer_is_fresh(self):
        model, theirs = self.built(1), self.built(2, classes=1000).state_dict()
        report, states = put(model, theirs, architecture=self.architecture)
        assert report.fresh == {
            **dict.fromkeys(self.last, "auxiliary head"),
            **dict.fromkeys(("fc.weight", "fc.bias"), "head"),
        }
        assert torch.equal(model.aux1.fc1.weight, theirs["aux1.fc1.weight"])
        assert states == ["partly loaded (2 of 6 tensors fresh)", "fresh"]

    def test_its_last_layer_is_fresh_for_the_same_number_of_classes_too(self):
        model, before, theirs = (self.built(seed) for seed in (1, 1, 2))
        put(model, theirs.state_dict(), architecture=self.architecture)
        assert torch.equal(model.aux1.fc2.weight, before.aux1.fc2.weight)

    def test_it_is_copied_with_the_head(self):
        model, theirs = self.built(1), self.built(2).state_dict()
        put(model, theirs, architecture=self.architecture, head="copy", classes=("abc", "cab"))
        assert torch.equal(model.aux1.fc2.bias, theirs["aux1.fc2.bias"][[1, 2, 0]])

    @pytest.mark.parametrize("head", ["fresh", "copy"])
    def test_a_file_may_lack_it(self, head):
        theirs = {n: t for n, t in self.built(2).state_dict().items() if "aux" not in n}
        report, _ = put(self.built(1), theirs, architecture=self.architecture, head=head)
        assert report.fresh["aux1.fc1.weight"] == "auxiliary head, not in the file"
        assert report.fresh["aux1.fc2.weight"] == "auxiliary head"

    def test_the_model_may_lack_it(self):
        theirs = small(2).state_dict() | {"AuxLogits.conv0.weight": torch.zeros(2)}
        report, _ = put(small(), theirs)
        assert report.unused == ("AuxLogits.conv0.weight",)


class TestAdapted:
    def test_gray_images(self):
        model, source = small(channels=1), small(2)
        report, states = put(model, source.state_dict())
        assert report.adapted == {"conv1.0.weight": "3 input channels summed to 1"}
        assert "conv1.0.weight" in report.loaded
        assert "1 changed to fit: conv1.0.weight (3 input channels summed to 1)" in str(report)
        assert states[0] == "loaded"
        gray = torch.rand(2, 1, 8, 8)
        with torch.no_grad():
            expected = source.eval()[:-1](gray.expand(-1, 3, -1, -1))
            assert torch.allclose(model.eval()[:-1](gray), expected, atol=1e-5)

    def test_a_vision_transformer_for_smaller_images(self):
        architecture = Architecture(
            "vit_b_32",
            lambda channels, classes, size: vit_b_32(num_classes=classes, image_size=size),
            {
                "stem": ["conv_proj", "class_token", "encoder.pos_embedding"],
                "encoder": ["encoder.layers", "encoder.ln"],
                "head": ["heads"],
            },
        )
        with torch.device("meta"):
            model, source = (architecture.build(3, 2, size) for size in (96, 224))
        groups = layer_groups(model, architecture.layout)
        theirs = {name: torch.zeros(t.shape) for name, t in source.state_dict().items()}
        report = load(model, theirs, groups=groups, take=Take(), origin="theirs.pt")
        assert report.adapted == {"encoder.pos_embedding": "positions interpolated from 7x7 to 3x3"}
        assert group_states(groups, report) == ["loaded", "loaded", "fresh"]

    def test_what_follows_from_the_size_is_the_models_own(self):
        class Windows(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(3))
                self.register_buffer("relative_position_index", torch.arange(size))
                self.register_buffer("attn_mask", torch.full((size,), float(size)))

        def net(size):
            model = nn.Sequential(OrderedDict(body=Windows(size), head=nn.Linear(2, 2)))
            return model, layer_groups(model, {"body": ["body"], "head": ["head"]})

        model, groups = net(3)
        theirs = net(4)[0].state_dict() | {"body.1.attn_mask": torch.zeros(2)}
        report = load(model, theirs, groups=groups, take=Take(), origin="theirs.pt")
        reason = "computed from the model's own input size"
        assert report.fresh["body.relative_position_index"] == reason
        assert report.fresh["body.attn_mask"] == reason
        assert model.body.attn_mask.tolist() == [3, 3, 3]
        assert group_states(groups, report) == ["loaded", "fresh"]

    def test_torchvisions_swin_is_loaded_whole(self):
        with torch.device("meta"):
            model = swin_t(num_classes=2)
        layout = {"body": ["features", "norm"], "head": ["head"]}
        groups = layer_groups(model, layout)
        theirs = {
            name: torch.zeros(t.shape, dtype=t.dtype) for name, t in model.state_dict().items()
        }
        report = load(model, theirs, groups=groups, take=Take(), origin="theirs.pt")
        assert set(report.fresh) == {"head.weight", "head.bias"}


class TestValues:
    def test_permuted_keeps_the_numbers_of_each_parameter(self):
        model, before, theirs = small(), small().state_dict(), small(2).state_dict()
        report, states = put(model, theirs, values="permuted", seed=3)
        for name, parameter in model.named_parameters():
            if name in HEAD:
                assert torch.equal(parameter, before[name])
                continue
            assert not torch.equal(parameter, theirs[name]), name
            assert torch.equal(parameter.flatten().sort()[0], theirs[name].flatten().sort()[0])
        buffers = dict(model.named_buffers())
        assert set(buffers) <= same(model, theirs)
        assert states == ["permuted"] * 4 + ["fresh"]
        assert report.as_dict()["values"] == "permuted"
        assert "the values of their parameters permuted" in str(report)

    def test_mean_var_keeps_mean_and_deviation(self):
        model, theirs = small(), small(2).state_dict()
        theirs["conv4.0.weight"].mul_(3).add_(5)
        theirs["conv2.1.weight"].fill_(0.5)
        _, states = put(model, theirs, values="mean_var")
        drawn, loaded = model.conv4[0].weight.detach(), theirs["conv4.0.weight"]
        # 27,648 numbers: their mean is known to 0.6 % of the deviation, which is to 0.4 %.
        assert float(drawn.mean()) == pytest.approx(
            float(loaded.mean()), abs=0.03 * float(loaded.std())
        )
        assert float(drawn.std()) == pytest.approx(float(loaded.std()), rel=0.02)
        # Normal (fourth moment 3), where the loaded numbers are uniform (1.8).
        z = (drawn - drawn.mean()) / drawn.std()
        assert float((z**4).mean()) == pytest.approx(3, rel=0.1)
        assert model.conv2[1].weight.unique().tolist() == [0.5]
        assert states == ["mean_var"] * 4 + ["fresh"]

    @pytest.mark.parametrize("values", ["permuted", "mean_var"])
    def test_the_numbers_depend_on_seed_and_name_only(self, values):
        theirs = small(2).state_dict()
        theirs["conv3.1.weight"] = theirs["conv3.1.bias"].clone()

        def weights(**options):
            model = small(**{k: options.pop(k) for k in ("classes",) if k in options})
            put(model, theirs, values=values, **options)
            return model.state_dict()

        expected, stream = weights(seed=5), torch.get_rng_state()
        assert torch.equal(
            weights(seed=5, groups=2, classes=3)["conv1.0.weight"], expected["conv1.0.weight"]
        )
        assert not torch.equal(weights(seed=6)["conv1.0.weight"], expected["conv1.0.weight"])
        # Two tensors of equal values become different ones.
        assert not torch.equal(expected["conv3.1.weight"], expected["conv3.1.bias"])
        assert torch.equal(torch.get_rng_state(), stream)

    def test_partly_permuted(self):
        theirs = small(2).state_dict()
        del theirs["conv3.1.bias"]
        _, states = put(small(), theirs, values="permuted", allow_partial=True)
        # A convolution's weight, two parameters and three buffers of a norm.
        assert states[2] == "partly permuted (1 of 6 tensors fresh)"

    def test_options_are_checked(self):
        with pytest.raises(ConfigError, match=r"init\.head.*'frsh'.*copy.*mean 'fresh'"):
            Take(head="frsh")
        with pytest.raises(ConfigError, match=r"init\.values.*'permute'.*exact.*mean 'permuted'"):
            Take(values="permute")


def refused(model, state, **options):
    """Return the lines of the refusal, and see that the model is as it was."""
    before = copy_of(model)
    with pytest.raises(ConfigError) as error:
        put(model, state, **options)
    assert same(model, before) == set(before)
    return str(error.value).splitlines()


class TestMisfits:
    def partial(self):
        state = small(2).state_dict()
        state["conv2.0.weight"] = torch.zeros(32, 16, 5, 5)
        state["conv4.0.weight"] = torch.zeros(64, 48, 3, 3, dtype=torch.int64)
        state["extra.weight"] = torch.zeros(2)
        state["scale"] = torch.tensor(1.0)
        del state["conv3.1.bias"]
        return state

    def test_each_is_listed_with_both_shapes(self):
        assert refused(small(), self.partial()) == [
            "theirs.pt does not fit the model: it lacks 3 of the 20 tensors to take over or has "
            "them in another shape, and holds 2 that the model has no place for; name the model "
            "that it was trained as, other weights, or init.allow_partial=true to take over what "
            "fits:",
            "  conv2.0.weight: 32x16x3x3 in the model, 32x16x5x5 in the file",
            "  conv3.1.bias: 48 in the model, - in the file",
            "  conv4.0.weight: 64x48x3x3 float32 in the model, 64x48x3x3 int64 in the file",
            "  extra.weight: - in the model, 2 in the file",
            "  scale: - in the model, scalar in the file",
        ]

    def test_what_fits_is_taken_if_allowed(self):
        model, before, theirs = small(), small().state_dict(), self.partial()
        report, states = put(model, theirs, allow_partial=True)
        misfits = {"conv2.0.weight", "conv3.1.bias", "conv4.0.weight"}
        assert set(report.fresh) == {*misfits, *HEAD}
        assert {*misfits, *HEAD} <= same(model, before)
        assert set(report.loaded) == set(before) - {*misfits, *HEAD}
        assert set(report.loaded) <= same(model, theirs)
        assert states == [
            "loaded",
            "partly loaded (1 of 6 tensors fresh)",
            "partly loaded (1 of 6 tensors fresh)",
            "partly loaded (1 of 6 tensors fresh)",
            "fresh",
        ]
        assert report.as_dict() == {
            "loaded": 19 + 4 - 3 + 1,
            "adapted": {},
            "fresh": {
                "conv2.0.weight": "32x16x5x5 in the file, 32x16x3x3 in the model",
                "conv3.1.bias": "not in the file",
                "conv4.0.weight": "64x48x3x3 int64 in the file, 64x48x3x3 float32 in the model",
                "head.weight": "head",
                "head.bias": "head",
            },
            "unused": ["extra.weight", "scale"],
            "head": "fresh",
            "values": "exact",
        }
        assert json.loads(json.dumps(report.as_dict())) == report.as_dict()
        for part in ("21 tensors loaded", "5 initialized", "conv3.1.bias (not in the file)"):
            assert part in str(report)
        assert str(report).endswith("; 2 in the file not used: extra.weight, scale")

    @pytest.mark.parametrize(
        ("own", "foreign"),
        [
            (cifar_resnet(depth=20), cifar_resnet(depth=56)),
            (cifar_resnet(depth=56), cifar_resnet(depth=20)),
        ],
        ids=lambda architecture: architecture.name,
    )
    def test_weights_of_another_depth_are_refused(self, own, foreign):
        model, state = own.build(3, 10, None), foreign.build(3, 10, None).state_dict()
        first, *lines = refused(model, state, architecture=own)
        assert first.startswith("theirs.pt does not fit the model: it lacks ")
        listed = {line.split(":")[0].strip() for line in lines}
        classifiers = tuple(f"{path}." for path in (*own.heads, *foreign.heads))

        def shapes(tensors):
            return {
                (name, tensor.shape)
                for name, tensor in tensors.items()
                if not name.startswith(classifiers) and "num_batches" not in name
            }

        # Every tensor whose name and shape are in one of the two only, and nothing else.
        assert listed == {name for name, _ in shapes(model.state_dict()) ^ shapes(state)}
        assert len(lines) == len(listed) > 20

    @pytest.mark.parametrize("allow", [False, True])
    @pytest.mark.parametrize("state", [{}, {"other.weight": torch.zeros(3)}])
    def test_nothing_in_common_is_refused_even_so(self, state, allow):
        (line,) = refused(small(), state, allow_partial=allow)
        assert line.startswith("theirs.pt fits none of the 20 tensors to take over, e.g. conv1.0.")
        assert "init.allow_partial" not in line

    @pytest.mark.parametrize(
        "own",
        [torchvision_model(name="mobilenet_v2"), cifar_resnet(depth=20)],
        ids=lambda architecture: architecture.name,
    )
    def test_weights_of_another_architecture_are_refused(self, own):
        state = torchvision_model(name="resnet18").build(3, 10, None).state_dict()
        (line,) = refused(own.build(3, 10, None), state, architecture=own)
        assert "it is of another architecture; name the model" in line

    def test_a_head_and_counters_alone_are_not_enough(self):
        theirs = small(2).state_dict()
        kept = {n: t for n, t in theirs.items() if n in HEAD or "num_batches" in n}
        (line,) = refused(small(), kept, head="copy", allow_partial=True)
        assert "fits none of the 20 tensors" in line

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["conv2.0.weight", "conv3.1.running_var", "head.bias"])
    def test_numbers_that_are_not_finite_are_refused(self, name, bad):
        theirs = small(2).state_dict()
        theirs[name].flatten()[3] = bad
        (line,) = refused(small(), theirs, head="copy")
        assert line == (
            f"theirs.pt has NaN or infinity in {name}; these weights are damaged, give others"
        )

    def test_numbers_beyond_the_models_type_are_refused(self):
        theirs = small(2).state_dict()
        theirs["conv1.0.weight"] = torch.full((16, 3, 3, 3), 1e300, dtype=torch.float64)
        (line,) = refused(small(), theirs)
        assert "infinity in conv1.0.weight" in line

    def test_a_damaged_tensor_that_is_not_taken_does_not_matter(self):
        theirs = small(2).state_dict()
        theirs["conv4.0.weight"].fill_(float("nan"))
        report, _ = put(small(), theirs, groups=2)
        assert len(report.loaded) == 12


def test_long_reports_are_summed_up():
    architecture = cifar_resnet(depth=20)
    model = architecture.build(3, 10, None)
    report, _ = put(
        model, architecture.build(3, 10, None).state_dict(), architecture=architecture, groups=1
    )
    text = str(report)
    assert "(group 1 (layer1) not taken)" in text
    assert " more (group 3 (layer3) not taken)" in text
    assert len(text) < 900
