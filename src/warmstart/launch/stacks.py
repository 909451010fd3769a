"""Runs that train together as one job, and back again. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from warmstart.errors import ConfigError
from warmstart.launch.jobs import Job, Outcome
from warmstart.launch.work import outcome_line
from warmstart.results import record as records

_MOST = 64
"""Runs of one job."""
_LEAST = 8
"""So few are not shared out: each job needs the frozen layers' model."""


def merged(jobs: Sequence[Job], *, slots: int = 1) -> list[Job]:
    """Return jobs with those as one whose runs train together, at the place of their first.

    Args:
        jobs: Of single runs.
        slots: How many jobs can run at a time, over which large groups are shared out.
    """
    groups: dict[object, list[Job]] = {}
    for index, job in enumerate(jobs):
        kind = (job.stack, job.resources, job.needs) if job.stack else index
        groups.setdefault(kind, []).append(job)
    found = []
    for group in groups.values():
        most = min(_MOST, max(_LEAST, -(-len(group) // slots)))
        found += [one_job(group[start : start + most]) for start in range(0, len(group), most)]
    return found


def one_job(group: Sequence[Job]) -> Job:
    """Return one job for all runs of a group."""
    if len(group) == 1:
        return group[0]
    first = group[0]
    return dataclasses.replace(
        first,
        label=f"{first.label} and {len(group) - 1} more",
        # Together they take little more than one of them.
        seconds=max(job.seconds for job in group),
        members=tuple(group),
    )


def outcomes(outcome: Outcome) -> list[Outcome]:
    """Return how each run of a job has ended; where the job died, by their records."""
    job = outcome.job
    if not job.members or outcome.members:
        return list(outcome.members) or [outcome]
    return [_outcome(member, outcome) for member in job.members]


def _outcome(job: Job, of_all: Outcome) -> Outcome:
    try:
        record = records.read(job.folder)
    except ConfigError as error:
        return Outcome(job, error=str(error))
    if record is not None and record.status == "finished":
        return Outcome(job, text=outcome_line(record))
    return dataclasses.replace(of_all, job=job)
