"""The study of an arm: its trials as Optuna keeps them, in a file that survives a kill.

The file is a journal, to which every change is appended. Only one controller at a time opens it:
the lock of the tuning's folder is held.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from warmstart.errors import ConfigError
from warmstart.results import pruning
from warmstart.results import record as records
from warmstart.tuning.sampling import distributions
from warmstart.tuning.space import Space
from warmstart.tuning.trials import FAILED, FINISHED, PRUNED, RUNNING, Trial

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

FILE = "study.journal"
RUN = "run"  # of what may not change: the key of an arm's run before any search


def open_storage(folder: Path) -> BaseStorage:
    """Return the storage in a tuning's folder; a line that a power cut has torn is taken off."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = folder / FILE
    if path.exists():
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as file:
                file.truncate(len(whole))
    # A lock that a killed controller of this folder has left is nobody's.
    Path(f"{path}.lock").unlink(missing_ok=True)
    backend = JournalFileBackend(str(path), JournalFileOpenLock(str(path)))
    return optuna.storages.JournalStorage(backend)


class ArmStudy:
    """The trials of an arm's two rounds.

    Args:
        storage: As `open_storage` returns it.
        arm: Its label.
        fixed: What may not change when the search goes on: by name, as plain data.
        runs: The folder of all runs, where the curves are.
        hint: What to do about a study of other settings.

    Raises:
        ConfigError: The study was begun with other settings.
    """

    def __init__(
        self, storage: BaseStorage, arm: str, fixed: dict[str, Any], runs: Path, hint: str
    ) -> None:
        import optuna

        self.arm = arm
        self._storage = storage
        self._study = optuna.create_study(
            storage=storage, study_name=arm, direction="maximize", load_if_exists=True
        )
        begun = self._study.user_attrs.get("fixed")
        if begun is None:
            self._study.set_user_attr("fixed", fixed)
        elif begun != fixed:
            other = next(name for name in fixed if begun.get(name) != fixed[name])
            change = f"{other} {begun.get(other)!r}, and now it is {fixed[other]!r}"
            if other == RUN:
                change = "other data, another model or other options of its runs"
            raise ConfigError(f"the search of {arm} was begun with {change}; {hint}")
        self.trials = [_trial(arm, frozen, runs) for frozen in self._study.trials]

    def add(self, trial: Trial, space: Space) -> None:
        """Take up a trial, which is under way from now on; written down in one piece."""
        from optuna.trial import TrialState, create_trial

        trial.state = RUNNING
        attributes = {name: getattr(trial, name) for name in ("round", "seed", "steps", "key")}
        self._study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=trial.values,
                distributions=distributions(space),
                user_attrs=attributes,
            )
        )
        self.trials.append(trial)

    def end(self, trial: Trial) -> None:
        """Write down how a trial has ended."""
        from optuna.trial import TrialState

        states = {
            FINISHED: TrialState.COMPLETE,
            PRUNED: TrialState.PRUNED,
            FAILED: TrialState.FAIL,
        }
        study = self._storage.get_study_id_from_name(self.arm)
        place = self._storage.get_trial_id_from_study_id_trial_number(study, trial.number)
        for name in ("key", "value", "loss", "pruned_at", "error"):
            self._storage.set_trial_user_attr(place, name, getattr(trial, name))
        value = trial.value if trial.state == FINISHED else None
        self._study.tell(trial.number, value, state=states[trial.state])


def read_end(trial: Trial, folder: Path) -> None:
    """Fill in how a trial has ended, from the files of its run; it stays under way without any.

    Raises:
        ConfigError: A record is damaged.
    """
    record, ended = records.read(folder), pruning.read(folder)
    if record is not None and record.status == "finished":
        trial.state, trial.curve = FINISHED, _curve(record.curves.get("val", {}))
        trial.value = record.metrics["val/accuracy"]
        trial.loss = record.metrics["val/loss"]
    elif ended is not None:
        trial.state, trial.curve, trial.pruned_at = PRUNED, _curve(ended["curve"]), ended["step"]
        trial.value = max(trial.curve["accuracy"])
    elif record is not None:
        trial.state, trial.error, trial.curve = (
            FAILED,
            record.error,
            _curve(record.curves.get("val", {})),
        )


def _trial(arm: str, frozen: Any, runs: Path) -> Trial:
    """Return a trial of the study, with its curve from its run's files."""
    attributes = frozen.user_attrs
    trial = Trial(arm, frozen.number, values=dict(frozen.params), state=RUNNING, **attributes)
    if frozen.state.name != "RUNNING":
        told = {"COMPLETE": FINISHED, "PRUNED": PRUNED, "FAIL": FAILED}[frozen.state.name]
        seen = Trial(arm, frozen.number, trial.round, trial.values, trial.seed, trial.steps)
        read_end(seen, runs / trial.key)
        trial.state, trial.curve = told, seen.curve
    return trial


def _curve(curve: dict[str, list[float]]) -> dict[str, list[float]]:
    """Return the lists that a tuning keeps; none for a probe, which takes no steps."""
    return {name: list(curve.get(name, ())) for name in ("step", "accuracy", "loss")}
