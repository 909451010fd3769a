"""The model of a run as it is before step 0."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from warmstart.data.batches import EvalBatches, TrainBatches
from warmstart.data.images import Split
from warmstart.data.preprocess import Preprocess
from warmstart.errors import ConfigError
from warmstart.models import autoencoder, calibration, layers, schemes, transfer
from warmstart.models.checkpoints import below_prefix
from warmstart.models.gabor import gabor_first_layer
from warmstart.models.heads import last_layer
from warmstart.models.init import Autoencoder, Pretrained, Scratch, known_statistics
from warmstart.models.load_report import LoadReport, group_states
from warmstart.models.residual import zero_gamma
from warmstart.randomness import derive
from warmstart.results.record import RESULT_VERSION
from warmstart.run.identity import identity
from warmstart.run.plan import Run
from warmstart.run.regularizing import model_part
from warmstart.store import once

# Batches whose average is BatchNorm's statistics under ``init.statistics=data``.
_STATISTICS_BATCHES = 50

Progress = Callable[[int, int], None]

_log = logging.getLogger(__name__)


class Pending(Exception):  # noqa: N818 - nothing is wrong
    """The model cannot be shown yet: something long has to run first.

    Attributes:
        reason: What that is.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Initial:
    """The model before step 0.

    Attributes:
        states: For each layer group, what its weights are: ``loaded``, ``fresh``, ...
        report: Of a load, or None.
        statistics: Names of the buffers whose values come from weights or data.
    """

    model: nn.Module
    groups: list[layers.LayerGroup]
    states: list[str]
    report: LoadReport | None
    statistics: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the plain form for the record."""
        names = [group.name for group in self.groups]
        loaded = self.report.as_dict() if self.report else {}
        return {**loaded, "groups": dict(zip(names, self.states, strict=True))}


def initial_model(
    run: Run, *, allow_work: bool = True, progress: Progress | None = None
) -> Initial:
    """Return the model as training gets it.

    Args:
        run: Its source run, if it has one, must be finished.
        allow_work: Do what may take long; otherwise only look whether it is done.
        progress: Called with the finished and all steps of a pretraining.

    Raises:
        ConfigError: The weights do not fit.
        Pending: With ``allow_work=False``, where something long has to run first.
    """
    if not allow_work and run.source is not None and run.source.finished() is None:
        raise Pending(f"{run.origins[0]} has to be trained first")
    seed, init = run.config["seed"], run.init
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "build"))
        model = run.build_model()
    groups = layers.layer_groups(model, run.architecture.layout)
    auxiliary = (last_layer(model, path) for path in run.architecture.auxiliary)
    heads = (*run.architecture.heads, *auxiliary)
    schemes.initialize(model, scheme=init.scheme, fan=init.fan, seed=seed, heads=heads)
    fresh, report = f"fresh ({init.scheme})", None
    states = [fresh] * len(groups)
    statistics = known_statistics(init, groups)
    if isinstance(init, Pretrained):
        report = _load(run, init, model, groups)
        states = [fresh if state == "fresh" else state for state in group_states(groups, report)]
        if init.statistics == "own":
            statistics = [name for name in statistics if name in report.loaded]
    elif isinstance(init, Autoencoder):
        _pretrain(run, init, model, groups, allow_work=allow_work, progress=progress)
        states = ["autoencoder"] * (len(groups) - 1) + states[-1:]
    else:
        states = _design(run, init, model, groups)
    from_data = _finish(run, model)
    if from_data:
        statistics = from_data
        report = report and report.without(from_data, "statistics of the training images")
    states[-1] = states[-1] if init.head in ("fresh", "copy") else init.head
    return Initial(model, groups, states, report, statistics)


def _load(
    run: Run, init: Pretrained, model: nn.Module, groups: list[layers.LayerGroup]
) -> LoadReport:
    assert run.weights is not None
    found = run.weights.read()
    prefix, state, outside = below_prefix(found.tensors, dict(model.state_dict()))
    entry = ", ".join(filter(None, [found.entry, f"{prefix}*" if prefix else ""]))
    classes = run.weights.classes
    gone = tuple(f"{path}." for path in run.architecture.gone)
    dropped = [name for name in state if f"{name}.".startswith(gone)] if gone else []
    state = {name: tensor for name, tensor in state.items() if name not in dropped}
    report = transfer.load(
        model,
        state,
        groups=groups,
        take=init.take,
        auxiliary=run.architecture.auxiliary,
        classes=(run.images.classes, classes) if classes else None,
        seed=run.config["seed"],
        origin=" ".join([run.weights.origin, *([f"({entry})"] if entry else [])]),
    )
    return dataclasses.replace(report, unused=(*report.unused, *dropped, *outside))


def _design(
    run: Run, init: Scratch, model: nn.Module, groups: list[layers.LayerGroup]
) -> list[str]:
    """Apply what a scheme cannot do layer by layer; return the state of each group."""
    words = [init.scheme]
    if init.first_layer == "gabor":
        gabor_first_layer(model, groups=groups)
    if init.lsuv or init.zero_gamma:
        x, _ = _Examples(run, run.images.train).batch(0)
        if init.lsuv:
            calibration.lsuv(model, x)
            words.append("lsuv")
        if init.zero_gamma:
            zero_gamma(model, x)
            words.append("zero gamma")
    if init.statistics == "data":
        words.append("data statistics")
    states = [f"fresh ({', '.join(words)})"] * len(groups)
    if init.first_layer == "gabor":
        states[0] = "designed (gabor)"
    return states


def _finish(run: Run, model: nn.Module) -> list[str]:
    """Set what is computed from the training images with all other weights in place.

    Returns the names of the statistics that were set.
    """
    examples, statistics = _Examples(run, run.images.train), []
    if getattr(run.init, "statistics", "own") == "data":
        statistics = calibration.estimate_statistics(model, (x for x, _ in examples.one_pass()))
        if not statistics and isinstance(run.init, Scratch):
            raise ConfigError(
                f"init.statistics=data, but {run.architecture.name} has no BatchNorm with running "
                "statistics; use init.statistics=own"
            )
    for path in run.architecture.heads:
        head = model.get_submodule(path)
        if run.init.head == "zero":
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        elif run.init.head == "class_means":
            classes = len(run.images.classes)
            calibration.class_means(model, path, examples.whole(), classes=classes)
    return statistics


def _pretrain(
    run: Run,
    init: Autoencoder,
    model: nn.Module,
    groups: list[layers.LayerGroup],
    *,
    allow_work: bool,
    progress: Progress | None,
) -> None:
    """Load the weights of the layer-wise pretraining, which is done once for all runs alike."""
    split, images = run.images.train, "\n".join([run.dataset.digest, *run.images.train.ids])
    if run.unlabelled is not None:
        split, images = run.unlabelled
    own = identity(run.config)
    content = {
        **{name: own[name] for name in ("model", "batch_size", "seed", "trainer")},
        "init": {name: value for name, value in own["init"].items() if name != "head"},
        "input": dataclasses.asdict(run.input),
        "images": images,
        "shrink": run.config["data"]["shrink"],
        "group": [run.config["group"], run.config["features"]["pool"]],
        "version": RESULT_VERSION,
        **model_part(run.config),
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    folder, key = Path(run.config["store"]) / "autoencoders", digest[:16]
    if not allow_work and not (folder / f"{key}-{len(groups) - 2}").is_dir():
        raise Pending("the pretraining without labels has to run first")
    examples = _Examples(run, split)
    # An entry for each group: a killed pretraining goes on with the group that it was at.
    for group in groups[:-1]:

        def make(part: Path, group: layers.LayerGroup = group) -> None:
            _log.info("pretraining %s without labels, once", group.name)
            curves = autoencoder.pretrain(
                model,
                groups,
                lambda step: examples.batch(step)[0],
                steps=init.steps_per_group,
                lr=init.lr,
                seed=run.config["seed"],
                only=group,
                progress=progress,
            )
            safetensors.torch.save_file(_tensors(group), part / "weights.safetensors")
            (part / "losses.json").write_text(json.dumps(curves[0]))

        path = once(folder, f"{key}-{group.index}", make) / "weights.safetensors"
        found = safetensors.torch.load_file(path)
        with torch.no_grad():
            for name, tensor in (group.parameters | group.buffers).items():
                tensor.copy_(found[name])


def _tensors(group: layers.LayerGroup) -> dict[str, Tensor]:
    return {
        name: tensor.detach().contiguous()
        for name, tensor in (group.parameters | group.buffers).items()
    }


class _Examples:
    """Training images as the model sees them without augmentation, in counted batches."""

    def __init__(self, run: Run, split: Split) -> None:
        self._split = split
        self._batches = TrainBatches(
            split, batch_size=run.config["batch_size"], seed=run.config["seed"]
        )
        self._preprocess = Preprocess(run.input, augment=None, channels_last=False)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Return images [b, c, h, w] and labels [b] of a training step."""
        pixels, labels, uniforms = self._batches[step]
        return self._preprocess(pixels, uniforms, train=False), labels

    def one_pass(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches that show each training image about once, at most 50."""
        count = -(-len(self._split) // self._batches.batch_size)
        return (self.batch(step) for step in range(min(count, _STATISTICS_BATCHES)))

    def whole(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every training image once."""
        batches = EvalBatches(self._split)
        for pixels, labels, uniforms in (batches[index] for index in range(len(batches))):
            yield self._preprocess(pixels, uniforms, train=False), labels
