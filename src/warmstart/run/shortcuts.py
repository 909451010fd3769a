"""What the batches of a run hold: stored features where its frozen layers run once, else pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence

from torch import nn
from torch.utils.data import DataLoader, Dataset

from warmstart.data.batches import Batch, TrainBatches, eval_loader, loader, train_loader
from warmstart.data.images import Split
from warmstart.features.batches import EvalFeatures, TrainFeatures
from warmstart.features.forms import Features
from warmstart.models.cuts import Cut, Tail
from warmstart.ranks import ALONE, Ranks
from warmstart.run.beat import Report
from warmstart.run.caching import Decision, features_of
from warmstart.run.out_of_memory import evaluation_error, is_out_of_memory
from warmstart.run.plan import Run

Known = dict[tuple[Cut, str, bytes, int | None], Features]
"""By the cut, the name of the split, its rows, and of augmented views the run's seed."""


class Shortcuts:
    """For each phase of a run, the batches of its steps and the part of the model that takes them.

    Args:
        run: Which.
        model: Of the run.
        batches: Of training images: item k is the batch of step k.
        decisions: By phase, as `caching.decide` made them for the model.
        report: Is told how far the features are.
        ranks: This process among those of the run.
        known: Features that runs with the same model share; None where there are no others.

    Attributes:
        decisions: By phase.
        known: The features that were asked for so far.
    """

    def __init__(
        self,
        run: Run,
        model: nn.Module,
        batches: TrainBatches,
        decisions: Sequence[Decision],
        report: Report,
        ranks: Ranks = ALONE,
        *,
        known: Known | None = None,
    ) -> None:
        self.decisions = decisions
        self.known: Known = {} if known is None else known
        self._run, self._model, self._report, self._ranks = run, model, report, ranks
        train, val = run.images.train, run.images.val
        workers = run.hardware.loaders(busy=True) if run.dataset.streamed else 0
        self._train: dict[Cut | None, Dataset[Batch]] = {None: batches}
        self._val: dict[Cut | None, DataLoader[Batch]] = {}
        self._val[None] = eval_loader(val, workers=workers, ranks=ranks)
        for cut in dict.fromkeys(decision.cut for decision in decisions):
            if cut is not None:
                self._train[cut] = TrainFeatures(batches, self._features(cut, "train", train))
                self._val[cut] = self._stored(cut, "val", val)

    def tail_at(self, step: int | None) -> Tail | None:
        """Return what takes the batches of a step, and of the validation after it.

        Args:
            step: None is the final evaluation.

        Returns:
            The part of the model behind stored features; None where batches hold pixels.
        """
        return None if step is None and self._run.crops is not None else self._at(step).tail

    def training(self, first: int) -> Iterable[Batch]:
        """Return the batches of the steps from `first` on, in their order."""
        run, stretches = self._run, list[DataLoader[Batch]]()
        cropped = run.augment.needs_originals and run.images.train.originals is not None
        workers = run.hardware.loaders(busy=run.dataset.streamed or run.augment.draws or cropped)
        ends = [phase.start for phase in run.phases[1:]] + [run.steps]
        phases = zip(run.phases, ends, self.decisions, strict=True)
        for cut, same in itertools.groupby(phases, key=lambda entry: entry[2].cut):
            parts = list(same)
            start, end = max(first, parts[0][0].start), parts[-1][1]
            if start < end:
                count = workers if cut is None else 0
                part = train_loader(self._train[cut], first=start, steps=end, workers=count)
                stretches.append(part)
        return stretches[0] if len(stretches) == 1 else _Chain(stretches)

    def validation(self, last_step: Callable[[], int]) -> Iterable[Batch]:
        """Return the batches of every validation: what they hold goes with the step before it.

        Args:
            last_step: Returns that step.
        """
        if len(self._val) == 1:
            return self._val[None]
        return _Choice(lambda: self._val[self._at(last_step()).cut])

    def evaluation(self, name: str, split: Split) -> DataLoader[Batch]:
        """Return the batches of the final evaluation of a split.

        Args:
            name: ``val`` or ``test``.
            split: The images.
        """
        run, cut = self._run, self._at(None).cut
        if cut is not None and run.crops is None:
            return self._stored(cut, name, split)
        workers = run.hardware.loaders(busy=run.dataset.streamed or run.crops is not None)
        return eval_loader(split, workers=workers, crops=run.crops, ranks=self._ranks)

    def _at(self, step: int | None) -> Decision:
        if step is None:
            return self.decisions[-1]
        return self.decisions[sum(phase.start <= step for phase in self._run.phases) - 1]

    def _stored(self, cut: Cut, name: str, split: Split) -> DataLoader[Batch]:
        batches = EvalFeatures(split, self._features(cut, name, split))
        return loader(batches, workers=0, sampler=range(len(batches)))

    def stored(self, cut: Cut) -> tuple[TrainFeatures, EvalFeatures]:
        """Return the batches of training and of a validation at the cut of a phase."""
        train, val = self._train[cut], self._val[cut].dataset
        assert isinstance(train, TrainFeatures)
        assert isinstance(val, EvalFeatures)
        return train, val

    def _features(self, cut: Cut, name: str, split: Split) -> Features:
        config = self._run.config
        place = (cut, name, split.rows.tobytes(), config["features"]["views"] and config["seed"])
        if place not in self.known:
            self.known[place] = self._extracted(cut, name, split)
        return self.known[place]

    def _extracted(self, cut: Cut, name: str, split: Split) -> Features:
        self._report.stage(f"features of {name}")
        step = self._report.step
        try:
            return features_of(self._run, self._model, cut, name, split, progress=step)
        except (MemoryError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise evaluation_error(error, during=f"the features of {name}") from error
            raise


class _Chain:
    """Several loaders, one after the other; each starts its workers when its turn comes."""

    def __init__(self, parts: Sequence[DataLoader[Batch]]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    def __iter__(self) -> Iterator[Batch]:
        return itertools.chain.from_iterable(self._parts)


class _Choice:
    """The loader that is right when a pass over it begins; all are equally long."""

    def __init__(self, choose: Callable[[], DataLoader[Batch]]) -> None:
        self._choose = choose

    def __len__(self) -> int:
        return len(self._choose())

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._choose())
