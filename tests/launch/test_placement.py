"""Whose turn it is and on which devices: hand-made cases, and properties over random queues."""

import dataclasses
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from warmstart.launch.placement import Claim, place, wanted

GPUS = ("0", "1", "2", "3")
CORES = (0, 1, 2, 3, 4, 5)


def claim(number, devices=1.0, cpus=1, gpus=GPUS, cores=CORES):
    return Claim(number, devices, cpus, tuple(gpus), tuple(cores))


def given_to(request, claims):
    found = place(request, claims)
    assert found is not None
    return dataclasses.replace(request, gpus=found[0], cores=found[1])


def serve(claims):
    """Let each waiting claim look once, in order; return all as they are then."""
    for index, one in enumerate(claims):
        if one.gpus is None and place(one, claims) is not None:
            claims = [*claims[:index], given_to(one, claims), *claims[index + 1 :]]
    return claims


def test_the_least_loaded_device_comes_first_and_the_list_wraps_round():
    claims = []
    for number in range(1, 7):
        claims.append(given_to(claim(number, 0.5), claims))
    assert [one.gpus for one in claims] == [("0",), ("1",), ("2",), ("3",), ("0",), ("1",)]
    assert [one.cores for one in claims] == [(0,), (1,), (2,), (3,), (4,), (5,)]


def test_three_thirds_fit_on_one_gpu_and_a_fourth_does_not():
    claims = []
    for number in range(1, 4):
        claims.append(given_to(claim(number, 1 / 3, gpus=["0"]), claims))
    assert place(claim(4, 1 / 3, gpus=["0"]), claims) is None


def test_several_gpus_are_given_at_once_or_not_at_all():
    busy = given_to(claim(1), [])
    four, small = claim(2, 4.0), claim(3)
    assert place(four, [busy, four]) is None
    assert place(small, [busy, four, small]) is None  # the three that are free are kept
    assert place(small, [busy, small]) == (("1",), (1,))
    assert place(four, [four]) == (GPUS, (0, 1, 2, 3)[:1])


def test_a_run_without_gpus_goes_ahead_of_one_that_waits_for_them():
    busy = given_to(claim(1, 4.0), [])
    waits, light = claim(2, 1.0), claim(3, 0.0)
    assert place(light, [busy, waits, light]) == ((), (2,))  # core 1 is kept for the second


def test_cores_are_kept_for_who_asked_first():
    busy = given_to(claim(1, 0.0, cpus=4), [])
    large, small = claim(2, 0.0, cpus=4), claim(3, 0.0)
    assert place(small, [busy, large, small]) is None
    assert place(small, [busy, small]) == ((), (4,))


def test_a_lease_is_wanted_by_those_alone_who_could_use_it():
    on_gpu = given_to(claim(1, 1.0, gpus=["0"]), [])
    on_core = given_to(claim(2, 0.0), [on_gpu])
    waits = claim(3, 1.0, gpus=["0"])
    claims = [on_gpu, on_core, waits]
    assert wanted(on_gpu, claims)
    assert not wanted(on_core, claims)
    assert not wanted(on_gpu, [on_gpu, on_core])
    # One that finds a free device, or looks for others, wants nobody's.
    assert not wanted(on_gpu, [on_gpu, claim(4)])
    all_cores = claim(5, 0.0, cpus=6)
    assert wanted(on_core, [on_gpu, on_core, all_cores])


def test_a_claim_survives_json():
    full = given_to(claim(7, 2.0), [])
    assert Claim.read(dataclasses.asdict(full)) == full
    lists = {"gpus": ["0", "1"], "cores": [0], "from_gpus": list(GPUS), "from_cores": list(CORES)}
    assert Claim.read({**dataclasses.asdict(full), **lists}) == full


DEVICES = st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 1.0, 2.0, 3.0, 4.0])
WISHES = st.tuples(DEVICES, st.integers(1, 6))


@given(st.lists(st.one_of(WISHES, st.integers(0, 20)), max_size=40))
def test_nothing_is_given_twice(events):
    """A pair asks for devices; a number ends the lease with that index, if there is one."""
    claims: list[Claim] = []
    for number, event in enumerate(events, 1):
        if isinstance(event, tuple):
            claims.append(claim(number, *event))
        elif leases := [one for one in claims if one.gpus is not None]:
            claims.remove(leases[event % len(leases)])
        claims = serve(claims)
        load: Counter[str] = Counter()
        for one in claims:
            assert one.gpus is None or len(set(one.gpus)) == -(-one.devices // 1)
            for gpu in one.gpus or ():
                load[gpu] += min(one.devices, 1.0)
        assert all(value <= 1 + 1e-5 for value in load.values())
        cores = [core for one in claims for core in one.cores]
        assert len(cores) == len(set(cores))
        assert all(len(one.cores) == one.cpus for one in claims if one.gpus is not None)


WHOLE = st.tuples(st.sampled_from([0.0, 1.0, 2.0, 3.0, 4.0]), st.integers(1, 6))


@given(st.lists(WHOLE, max_size=8), WHOLE, st.lists(WHOLE, min_size=1, max_size=8), st.data())
def test_the_first_in_the_queue_waits_only_for_those_who_were_there_before(
    before, wish, later, data
):
    claims: list[Claim] = []
    for number, one in enumerate(before, 1):
        claims = [
            other for other in serve([*claims, claim(number, *one)]) if other.gpus is not None
        ]
    old = [one.number for one in claims]
    first = claim(50, *wish)
    claims = [*claims, first]
    for number, one in enumerate(later, 51):
        claims.append(claim(number, *one))
        # The worst order: who came last looks first.
        for request in reversed([one for one in claims if one.gpus is None]):
            if place(request, claims) is not None:
                index = claims.index(request)
                claims[index] = given_to(request, claims)
        if old:
            gone = old.pop(data.draw(st.integers(0, len(old) - 1)))
            claims = [one for one in claims if one.number != gone]
    claims = serve([one for one in claims if one.number not in old])
    assert next(one for one in claims if one.number == 50).gpus is not None


@given(st.lists(WISHES, min_size=4, max_size=12), WISHES, st.lists(st.integers(1, 3), min_size=4))
def test_nobody_starves_behind_shares_of_gpus(stream, wish, lifetimes):
    """Runs of 1 to 3 rounds arrive in every round; the first in the queue gets its turn."""
    claims, ends, first = [], {}, claim(1_000, *wish)
    for number in range(60):
        if number == 10:
            claims.append(first)
        later = number if number < 10 else number + 1_000
        claims.append(claim(later, *stream[number % len(stream)]))
        for request in reversed([one for one in claims if one.gpus is None]):
            if place(request, claims) is not None:
                claims[claims.index(request)] = given_to(request, claims)
                ends[request.number] = number + lifetimes[number % len(lifetimes)]
        if ends.get(first.number):
            return
        claims = [one for one in claims if ends.get(one.number, 999) > number]
    raise AssertionError("it never got its turn")
