"""The queue that slots share: order, needs, failures."""

import threading
from pathlib import Path

from warmstart.launch.board import Board
from warmstart.launch.jobs import Job, Outcome


def job(key: str, *needs: str, seconds: float = 0.0) -> Job:
    return Job(key, f"run {key}", Path(key), {}, needs=needs, seconds=seconds)


def test_what_others_need_comes_first_then_the_longest():
    board = Board([job("a", seconds=1), job("b", "s", seconds=2), job("c", seconds=9), job("s")])
    assert [board.take(wait=False).key for _ in range(3)] == ["s", "c", "a"]
    assert board.take(wait=False) is None
    assert not board.empty
    board.end(Outcome(job("s")))
    assert board.take(wait=False).key == "b"
    assert board.empty


def test_what_needs_a_failed_one_fails_too_and_is_never_given_out():
    jobs = [job("s"), job("t", "s"), job("u", "t"), job("v")]
    board = Board(jobs)
    assert board.take(wait=False).key == "s"
    board.end(Outcome(jobs[0], error="no images"))
    assert board.take(wait=False).key == "v"
    board.end(Outcome(jobs[3]))
    outcomes = {outcome.job.key: outcome.error for outcome in board.outcomes()}
    assert outcomes == {
        "s": "no images",
        "t": "it starts from run s, which failed",
        "u": "it starts from run t, which failed",
        "v": None,
    }


def test_a_slot_waits_until_what_is_needed_has_ended():
    jobs = [job("s"), job("t", "s")]
    board, taken = Board(jobs), []
    assert board.take(wait=True).key == "s"
    slot = threading.Thread(target=lambda: taken.append(board.take(wait=True)))
    slot.start()
    slot.join(timeout=0.1)
    assert slot.is_alive()
    board.end(Outcome(jobs[0]))
    slot.join(timeout=5)
    assert taken[0].key == "t"


def test_a_closed_board_gives_out_nothing_and_wakes_who_waits():
    board = Board([job("s"), job("t", "s")])
    assert board.take(wait=False).key == "s"
    taken = []
    slot = threading.Thread(target=lambda: taken.append(board.take(wait=True)))
    slot.start()
    board.close()
    slot.join(timeout=5)
    assert taken == [None]
    assert board.take(wait=False) is None
