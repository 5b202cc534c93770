"""Behaviours by name, their shares, and which client gets which."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from tester import cells
from tester.behaviour import BEHAVIOURS, STAY, Behaviour, Times, balanced, malformed, parse_mix
from tester.config import TestConfig
from tester.make import assign
from tester.malformations import NAMES

NOTHING = Times()


def shares(text: str) -> dict[str, float]:
    return {behaviour.name: share for behaviour, share in parse_mix(text, NOTHING)}


@pytest.mark.parametrize(("text", "found"), [
    ("stay", {"stay": 1.0}), ("stay=70", {"stay": 1.0}), ("stay,leave", {"stay": .5, "leave": .5}),
    ("stay=70,release=20,leave=10", {"stay": 0.7, "release": 0.2, "leave": 0.1}),
    (" stay = 70% , release=30 % ", {"stay": 0.7, "release": 0.3}), ("stay=1,leave=0", {"stay": 1}),
    ("stay=.5,leave=1.5", {"stay": 0.25, "leave": 0.75}), ("stay=1e-3", {"stay": 1.0}),
    ("stay=1e9,leave=1e9", {"stay": 0.5, "leave": 0.5}),
    ("stay=3,leave", {"stay": 0.75, "leave": 0.25}),
    (",".join(BEHAVIOURS), dict.fromkeys(BEHAVIOURS, 0.1))])
def test_mixes(text: str, found: dict[str, float]) -> None:
    assert shares(text) == pytest.approx(found)


@pytest.mark.parametrize(("text", "said"), [
    ("", "no behaviour is called ''"), ("sit", "no behaviour is called 'sit'"),
    ("stay,", "no behaviour is called ''"), ("Stay", "no behaviour is called 'Stay'"),
    ("stay;leave", "no behaviour is called 'stay;leave'"), ("=1", "no behaviour is called ''"),
    ("stay=1,leave=2,stay=3", "behaviour 'stay' comes twice"), ("stay=", "'' is no share"),
    ("stay=x", "'stay=x': 'x' is no share"), ("stay=-1", "'-1' is no share"),
    ("stay=nan", "'nan' is no share"), ("stay=inf", "'inf' is no share"),
    ("stay=1e10", "'1e10' is no share"), ("stay=1e308,leave=1e308", "'1e308' is no share"),
    ("stay=5%%", "'5%%' is no share"), ("stay=1=2", "'1=2' is no share"),
    ("stay=0", "all shares are 0"), ("stay=-0,leave=0%", "all shares are 0"),
    ("stay=1e-999", "all shares are 0")])
def test_no_mixes(text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_mix(text, NOTHING)
    assert said in refused.value.what and refused.value.remedy


@given(st.dictionaries(st.sampled_from(sorted(BEHAVIOURS)), st.floats(0, 1e9), min_size=1))
@settings(deadline=None)
def test_shares_are_as_given_and_add_up_to_one(given_shares: dict[str, float]) -> None:
    total = sum(given_shares.values())
    text = ",".join(f"{name}={share!r}" for name, share in given_shares.items())
    if total == 0:
        with pytest.raises(UserError):
            shares(text)
        return
    found = shares(text)
    assert math.isclose(sum(found.values()), 1.0)
    # In the order in which they are given, without those of nobody.
    assert list(found) == [name for name, share in given_shares.items() if share]
    assert all(math.isclose(found[name], given_shares[name] / total, abs_tol=1e-300)
               for name in found)


@pytest.mark.parametrize(("name", "times", "made"), [
    ("stay", NOTHING, STAY), ("stay", Times(9.0, 5.0, 3), Behaviour("stay", hold_s=9.0, lives=3)),
    ("discover-only", Times(9.0, 5.0, 3), Behaviour("discover-only", opening=cells.O_LOOK)),
    ("release", NOTHING, Behaviour("release", ending=cells.E_RELEASE)),
    ("leave", Times(return_s=0.0), Behaviour("leave", ending=cells.E_LEAVE, return_s=0, lives=2)),
    ("leave", Times(2.0, 3.0, 0),
     Behaviour("leave", ending=cells.E_LEAVE, hold_s=2.0, return_s=3.0, lives=0)),
    ("flap", NOTHING, Behaviour("flap", ending=cells.E_RELEASE, hold_s=1.0, lives=3)),
    ("flap", Times(0.0, 9.0), Behaviour("flap", ending=cells.E_RELEASE, return_s=9.0, lives=3)),
    ("decline", Times(cycles=4), Behaviour("decline", ending=cells.E_DECLINE, lives=4)),
    ("reboot", Times(1.0), Behaviour("reboot", ending=cells.E_REBOOT, hold_s=1.0)),
    ("inform", NOTHING, Behaviour("inform", ending=cells.E_INFORM)),
    ("expire", NOTHING, Behaviour("expire", hold_s=math.inf, renews=False, ending=cells.E_EXPIRE,
                                  return_s=0.0, lives=2)),
    ("expire", Times(1.0, 7.0, 1), Behaviour("expire", hold_s=math.inf, renews=False,
                                             ending=cells.E_EXPIRE, return_s=7.0)),
    ("handover", NOTHING, Behaviour("handover", ending=cells.E_HANDOVER))])
def test_what_a_behaviour_is(name: str, times: Times, made: Behaviour) -> None:
    assert parse_mix(name, times) == ((made, 1.0),)


def test_names_are_those_of_the_table() -> None:
    assert all(make(NOTHING).name == name for name, (_, make) in BEHAVIOURS.items())


def test_malformations_are_behaviours() -> None:
    found = [malformed(row.name) for row in NAMES]
    assert [each.opening - cells.O_MALFORMED for each in found] == list(range(len(NAMES)))
    for name in ("", "odd", "no_cookie", "malformed hops"):
        with pytest.raises(UserError, match="no malformation is called") as refused:
            malformed(name)
        assert "no-cookie" in refused.value.remedy


# Which client gets which.

def assigned(given_shares: list[float], clients: int) -> tuple[np.ndarray, list[float]]:
    """The behaviour of each client, and how many clients each has for its share."""
    mix = balanced([(STAY, share) for share in given_shares])
    rows = np.zeros(clients, np.uint8)
    assign(TestConfig(clients, mix=mix), rows)
    return rows, [share * clients for _, share in mix]


SHARES = st.lists(st.floats(0, 1e9) | st.integers(0, 100), min_size=1, max_size=40).filter(any)


@given(SHARES, st.integers(1, 5000))
@example([70, 20, 10], 100)
@example([1, 1e9], 5000)
@example([1 / 3] * 3, 1000)
@example([1] * 40, 1)
@example([1] * 40, 41)
@settings(deadline=None)
def test_there_are_as_many_of_each_as_its_share_says(given_shares: list[float], clients: int,
                                                     ) -> None:
    rows, wanted = assigned(given_shares, clients)
    counts = np.bincount(rows, minlength=len(wanted))
    assert len(counts) == len(wanted) and counts.sum() == clients
    assert all(abs(count - share) < 1 + 1e-6 for count, share in zip(counts, wanted, strict=True))


def test_round_shares_come_out_exactly() -> None:
    for clients in (10, 100, 1000, 12_340):
        rows, _ = assigned([70, 20, 10], clients)
        assert np.bincount(rows).tolist() == [clients * 7 // 10, clients // 5, clients // 10]


@given(SHARES, st.integers(1, 5000), st.data())
@settings(deadline=None)
def test_any_clients_in_a_row_are_mixed_alike(given_shares: list[float], clients: int,
                                              data: st.DataObject) -> None:
    """Whatever part of the clients begins first: as many of each as their share, within a few."""
    rows, wanted = assigned(given_shares, clients)
    first = data.draw(st.integers(0, clients - 1))
    last = data.draw(st.integers(first + 1, clients))
    counts = np.bincount(rows[first:last], minlength=len(wanted))
    for count, share in zip(counts, wanted, strict=True):
        assert abs(count - share * (last - first) / clients) < 8


@given(st.integers(2, 60), st.integers(200, 3000))
@settings(deadline=None)
def test_a_rare_behaviour_is_not_bunched(one_in: int, clients: int) -> None:
    rows, _ = assigned([1, one_in - 1], clients)
    gaps = [later - sooner for sooner, later in pairwise(np.flatnonzero(rows == 0).tolist())]
    assert all(one_in / 3 - 1 <= gap <= 3 * one_in + 1 for gap in gaps)
