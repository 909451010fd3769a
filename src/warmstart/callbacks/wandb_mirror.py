"""Weights & Biases as a mirror: the record holds all that it shows, and its failures stay in it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from warmstart.callbacks.recorder import Row

_INIT_SECONDS = 20


class WandbMirror:
    """Mirror the rows and metrics of one run.

    Offline when there is no login; then the command to sync is printed at the end. After the
    first failure the mirror is dark for the rest of the run, and says so once.

    Args:
        folder: Of the run; the offline files lie in it.
        name: Of the run.
        labels: ``group`` (the comparison), ``tags`` and ``config``.
        project: Of Weights & Biases.
        entity: Team or user; None takes the login's own.
        mode: ``online``, ``offline``, or None: ``$WANDB_MODE``, else online when there is a login.
        identity: Of the run there; None takes the name of the folder, which is the run's key.
    """

    def __init__(
        self,
        *,
        folder: Path,
        name: str,
        labels: dict[str, Any],
        project: str = "warmstart",
        entity: str | None = None,
        mode: str | None = None,
        identity: str | None = None,
    ) -> None:
        self._run: Any = None
        self._sent = {"train": 0, "val": 0, "watch": 0}
        self._dark = False
        with self._guard():
            import wandb

            # Without `verify`, since that would wait for a network that may not be there.
            has_login = wandb.login(prompt=False, verify=False)
            mode = mode or os.environ.get("WANDB_MODE") or ("online" if has_login else "offline")
            folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=project,
                entity=entity,
                mode=mode,  # type: ignore[arg-type]
                dir=str(folder),
                id=(identity or folder.name)[:32],
                name=name,
                resume="allow" if mode == "online" else None,
                # The runs of one process must not merge: facts of the library, see the tests.
                reinit="finish_previous",
                settings=wandb.Settings(
                    silent=True, console="off", init_timeout=_INIT_SECONDS, save_code=False
                ),
                **labels,
            )
            for split in self._sent:
                self._run.define_metric(f"{split}/*", step_metric=f"{split}/step")

    @staticmethod
    def destination(
        folder: Path,
        *,
        project: str = "warmstart",
        entity: str | None = None,
        mode: str | None = None,
    ) -> str:
        """Return where the rows of the run in `folder` go, in words; the options as above."""
        place = f"{entity}/{project}" if entity else project
        mode = mode or os.environ.get("WANDB_MODE") or "online if logged in, else offline"
        return f"Weights & Biases, project {place} ({mode})"

    @classmethod
    def keep_page(
        cls, folder: Path, *, page: Path, name: str, created: str, **options: str | None
    ) -> None:
        """Mirror the page of a tuning, as a panel of a run of its own in the tuning's group.

        Args:
            folder: Of the tuning; the offline files lie in it.
            page: An HTML file that needs nothing but itself.
            name: Of the tuning.
            created: When it began. With the name it tells one tuning from all others, so that the
                page of one that goes on replaces its earlier one.
            options: ``project``, ``entity`` and ``mode``, as above.
        """
        identity = hashlib.sha256(f"{name} {created}".encode()).hexdigest()
        labels = {"group": name, "job_type": "tuning", "config": {"created": created}}
        mirror = cls(
            folder=folder,
            name=f"tuning of {name}",
            labels=labels,
            identity=identity,
            **options,  # type: ignore[arg-type]
        )
        if not mirror._dark:
            with mirror._guard():
                import wandb

                mirror._run.log({"tuning": wandb.Html(str(page), inject=False)})
        mirror.finish({}, {})

    def log(self, rows: dict[str, list[Row]]) -> None:
        with self._guard():
            for split, entries in rows.items():
                for entry in entries[self._sent[split] :]:
                    self._run.log({f"{split}/{key}": value for key, value in entry.items()})
                self._sent[split] = len(entries)

    def finish(self, rows: dict[str, list[Row]], metrics: dict[str, float]) -> None:
        self.log(rows)
        with self._guard():
            self._run.summary.update(metrics)
            folder, offline = Path(self._run.dir).parent, self._run.settings.mode == "offline"
            self._run.finish()
            if offline:
                print(f"to sync with Weights & Biases: wandb sync {folder}")

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Let nothing that the library raises reach the run."""
        if self._dark:
            # An empty context, of which the body still runs, against a run that takes everything.
            self._run = _Nothing()
        try:
            yield
        except Exception as error:
            self._dark, self._run = True, _Nothing()
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            warnings.warn(
                f"Weights & Biases failed ({reason}); the run goes on without", stacklevel=3
            )


class _Nothing:
    """Takes any call and gives nothing back."""

    dir = "."

    def __getattr__(self, name: str) -> _Nothing:
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> _Nothing:
        return self
