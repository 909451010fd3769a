"""The final evaluation of one run."""

from __future__ import annotations

from warmstart import stopping
from warmstart.callbacks.recorder import Recorder
from warmstart.data.images import openings
from warmstart.predict import OPENINGS, evaluate
from warmstart.ranks import Ranks
from warmstart.results import predictions
from warmstart.run.beat import Progress
from warmstart.run.out_of_memory import evaluation_error, is_out_of_memory
from warmstart.run.plan import Run
from warmstart.run.shortcuts import Shortcuts
from warmstart.task import Classification


def evaluation(
    run: Run,
    task: Classification,
    recorder: Recorder,
    shortcuts: Shortcuts,
    weights: str,
    ranks: Ranks,
) -> dict[str, float]:
    """Return the metrics of val and test, of which test is opened once.

    Args:
        run: Which.
        task: With the weights to evaluate.
        recorder: Of the training, which is kept should the evaluation be asked to stop.
        shortcuts: Know what the batches hold.
        weights: Digest of the weights.
        ranks: This process among those of the run.

    Raises:
        RunError: Memory does not suffice.
        Stopped: On request, before test was opened; the training is kept.
    """
    names = ("val", "test") if run.config["test"] else ("val",)
    try:
        return evaluate(
            task,
            {name: run.images.splits[name] for name in names},
            trainer=run.hardware.trainer(steps=0, val_every=1, callbacks=[], ranks=ranks),
            classes=run.images.classes,
            weights=weights,
            path=run.folder / predictions.FILE,
            loader_of=shortcuts.evaluation,
            crops=run.crops,
            snapshots=[snapshot["model"] for snapshot in recorder.snapshots],
            # One of several processes cannot leave alone.
            progress=None if ranks.world > 1 else _heed_stop(run, task, recorder),
            ranks=ranks,
        )
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise evaluation_error(error) from error
        raise


def _heed_stop(run: Run, task: Classification, recorder: Recorder) -> Progress:
    """Return what keeps the training on a request to stop, and ends the evaluation.

    Not that of test, which is opened once: it goes on for as long as it is let.
    """
    kept = False

    def progress(done: int, images: int) -> None:
        nonlocal kept
        if stopping.requested() and not kept:
            recorder.save_trained(task)
            kept = True
            if not openings(run.folder / OPENINGS):
                stopping.check()

    return progress
