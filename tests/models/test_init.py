"""The options of ``init=``: what they refuse, and which BatchNorm statistics they know."""

import pytest

from warmstart.errors import ConfigError
from warmstart.models.init import Autoencoder, Init, Pretrained, Scratch, known_statistics
from warmstart.models.layers import layer_groups
from warmstart.models.small import small_cnn


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Scratch(scheme="kaimin_normal"), "init.scheme is 'kaimin_normal', .*mean 'kai"),
        (lambda: Scratch(scheme="orthogonal", fan="in"), "init.fan=in has no effect under"),
        (lambda: Scratch(first_layer="gabr"), "init.first_layer is 'gabr', .*mean 'gabor'"),
        (lambda: Scratch(statistics="dat"), "init.statistics is 'dat', .*mean 'data'"),
        (lambda: Scratch(head="copy"), "init.head is 'copy', .*class_means, fresh, zero"),
        (lambda: Pretrained(head="frsh"), "init.head is 'frsh', .*copy.*mean 'fresh'"),
        (lambda: Pretrained(values="permutd"), "init.values is 'permutd', .*mean 'permuted'"),
        (lambda: Pretrained(scheme="he"), "init.scheme is 'he', but must be one of"),
        (lambda: Autoencoder(steps_per_group=0), "init.steps_per_group is 0, .*at least 1"),
        (lambda: Autoencoder(lr=0), "init.lr is 0, but must be a number above 0"),
    ],
)
def test_options_are_checked(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("init", "known"),
    [
        (Scratch(), []),
        (Scratch(statistics="data"), ["conv1", "conv2", "conv3", "conv4"]),
        (Pretrained(), ["conv1", "conv2", "conv3", "conv4"]),
        (Pretrained(groups=2), ["conv1", "conv2"]),
        (Pretrained(groups=-4), ["conv1"]),
        (Pretrained(groups=1, statistics="data"), ["conv1", "conv2", "conv3", "conv4"]),
        (Autoencoder(), ["conv1", "conv2", "conv3", "conv4"]),
    ],
)
def test_the_statistics_that_mean_something_at_step_0(init: Init, known: list[str]) -> None:
    architecture = small_cnn()
    groups = layer_groups(architecture.build(1, 3, None), architecture.layout)
    names = known_statistics(init, groups)
    assert sorted({name.split(".")[0] for name in names}) == known
    assert {name.rpartition(".")[2] for name in names} <= {
        *("running_mean", "running_var", "num_batches_tracked"),
    }
