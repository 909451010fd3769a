"""What the processes of `tests/test_ddp.py` do that import everything anew."""

import logging
import time

import torch

from warmstart.ranks import Ranks
from warmstart.run.beat import Report


def add_up(numbers: list[float], ranks: Ranks, report: Report) -> None:
    """Add up one number for each rank, log and report the sum, and wait to be asked to stop."""
    total = torch.tensor([numbers[ranks.rank]])
    ranks.add(total)
    logging.getLogger("warmstart").info("rank %d has %g", ranks.rank, total)
    report.step(int(total), 100)
    while ranks.leads and not ranks.asked():
        time.sleep(0.01)
    assert ranks.from_first(ranks.rank) == 0
