"""What the server decides beside addresses: lease times, levels of settings, and special ways.

Rapid commit (RFC 4039), clients that need no address (RFC 8925), BOOTP (RFC 1534), a lease
file that cannot be written.
"""

from __future__ import annotations

from typing import Any

import pytest

from server.leases import FOREVER_S
from server.model import ClientClass, Config, Settings, SharedNetwork
from tests.deciding import (
    CLASSES,
    LEASE_S,
    NET,
    OFFER_S,
    OTHER,
    Expected,
    Said,
    Step,
    World,
    bootp,
    bound,
    chaddr,
    configured,
    declined,
    declining,
    discover,
    offered,
    one_pool,
    pool,
    rebooting,
    release,
    renewing,
    reserved,
    selecting,
    subnet,
    wait,
)
from tests.kernels import wraps

pytestmark = wraps

CIRCUIT = b"slot 3 port 17"
AT: dict[str, Any] = {"circuit": CIRCUIT}
# .12 for the hardware of "a", .99 (outside the pool) for a circuit.
RESERVED = one_pool((reserved(12, "chaddr", chaddr("a")), reserved(99, "circuit-id", CIRCUIT)))


def played(before: list[Step], config: Config) -> World:
    world = World(config=config)
    for step in before:
        step(world)
    return world


# --- lease times and levels --------------------------------------------------------------------

Times = dict[str, Any]


def granted(wanted: int | None, **settings: Any) -> tuple[int, int, int]:
    """(lease time, T1, T2) with these settings of the whole server, where asked for `wanted`."""
    world = World(config=one_pool(settings=Settings(**settings)))
    assert world.say(discover("a", lease_s=wanted)) == ("offer", 10, "ok")
    offer = world.times()
    assert world.say(selecting("a", 10, lease_s=wanted)) == ("ack", 10, "ok")
    assert world.times() == offer
    return offer


BOUNDS = {"lease_time_s": 1000, "min_lease_time_s": 200, "max_lease_time_s": 5000}
LEASE_TIMES: list[tuple[str, int | None, Times, tuple[int, int, int]]] = [
    ("2132 9.2 as asked", 2000, BOUNDS, (2000, 1000, 1750)),
    ("2132 9.2 not asked", None, BOUNDS, (1000, 500, 875)),
    ("2132 9.2 the minimum itself", 200, BOUNDS, (200, 100, 175)),
    ("2132 9.2 below the minimum", 199, BOUNDS, (200, 100, 175)),
    ("2132 9.2 nothing at all", 0, BOUNDS, (200, 100, 175)),
    ("2132 9.2 the maximum itself", 5000, BOUNDS, (5000, 2500, 4375)),
    ("2132 9.2 above the maximum", 5001, BOUNDS, (5000, 2500, 4375)),
    ("2132 9.2 for ever, where there is a maximum", FOREVER_S, BOUNDS, (5000, 2500, 4375)),
    ("2131 3.3 for ever, where there is none", FOREVER_S, {"lease_time_s": FOREVER_S},
     (FOREVER_S, 0, 0)),
    ("2131 3.3 for ever, not asked", None, {"lease_time_s": FOREVER_S}, (FOREVER_S, 0, 0)),
    ("2131 3.3 almost for ever", FOREVER_S - 1, {"lease_time_s": FOREVER_S},
     (FOREVER_S - 1, (FOREVER_S - 1) // 2, (FOREVER_S - 1) * 7 // 8)),
    ("without bounds the lease time is the most", 2000, {"lease_time_s": 1000}, (1000, 500, 875)),
    ("without bounds a minute is the least", 1, {"lease_time_s": 1000}, (60, 30, 52)),
    ("a lease time below a minute is the least itself", 1, {"lease_time_s": 40}, (40, 20, 35)),
    ("a minimum above the lease time is the most too", 9999,
     {"lease_time_s": 10, "min_lease_time_s": 30}, (30, 15, 26)),
    ("a maximum below a minute", 50, {"lease_time_s": 20, "max_lease_time_s": 30}, (30, 15, 26)),
    ("4.4.5 T1 and T2 as configured", None,
     {**BOUNDS, "renewal_time_s": 300, "rebinding_time_s": 600}, (1000, 300, 600)),
    ("4.4.5 T2 not before the end", 500,
     {**BOUNDS, "renewal_time_s": 300, "rebinding_time_s": 600}, (500, 300, 437)),
    ("4.4.5 T1 neither", 250, {**BOUNDS, "renewal_time_s": 300, "rebinding_time_s": 600},
     (250, 125, 218)),
    ("4.4.5 T2 exactly at the end", 600,
     {**BOUNDS, "renewal_time_s": 300, "rebinding_time_s": 600}, (600, 300, 525)),
    ("4.4.5 T1 alone", None, {**BOUNDS, "renewal_time_s": 100}, (1000, 100, 875)),
    ("4.4.5 T2 alone, before the half", None, {**BOUNDS, "rebinding_time_s": 400},
     (1000, 399, 400)),
    ("4.4.5 too short to be renewed", None, {"lease_time_s": 1}, (1, 0, 0)),
]


@pytest.mark.parametrize(("wanted", "settings", "expected"), [row[1:] for row in LEASE_TIMES],
                         ids=[row[0] for row in LEASE_TIMES])
def test_lease_time(wanted: int | None, settings: Times, expected: tuple[int, int, int]) -> None:
    assert granted(wanted, **settings) == expected


# Seconds by level; each level that is left out, the next one counts.
LEVELS = ("server", "class", "network", "subnet", "pool", "reservation")


def leveled(present: set[str]) -> Config:
    def said(level: str) -> Times:
        return {"lease_time_s": 100 + LEVELS.index(level)} if level in present else {}

    inside = subnet(0, pool(10, 10, **said("pool")), reservations=(
        reserved(10, "chaddr", chaddr("a"), **said("reservation")),), **said("subnet"))
    return configured(
        SharedNetwork("one", (inside,), Settings(**said("network"))),
        classes=(ClientClass("one", CLASSES[0].matches, Settings(**said("class"))),),
        settings=Settings(**said("server")))


@pytest.mark.parametrize("level", range(1, len(LEVELS)))
def test_the_most_specific_level_counts(level: int) -> None:
    """Reservation, pool, subnet, network, class, server."""
    for below in (set(LEVELS[:level + 1]), {"server", LEVELS[level]}):
        world = World(config=leveled(below))
        assert world.say(discover("a", classes=1)) == ("offer", 10, "ok")
        assert world.lease_s == 100 + level
        # Without bounds nobody gets more for asking, and nobody less than he would without.
        assert world.say(selecting("a", 10, classes=1, lease_s=5000)) == ("ack", 10, "ok")
        assert world.lease_s == 100 + level
        assert world.say(renewing("a", 10, classes=1, lease_s=100 + level))[0] == "ack"
        assert world.lease_s == 100 + level


def test_a_class_that_he_is_not_in_does_not_count() -> None:
    world = World(config=leveled({"server", "class"}))
    assert world.say(discover("a"))[0] == "offer" and world.lease_s == 100
    world.say(discover("a", classes=2))
    assert world.lease_s == 100


def test_of_two_classes_the_first_counts() -> None:
    classes = (ClientClass("x", (), Settings(options={6: b"xxxx"})),
               ClientClass("y", (), Settings(lease_time_s=50, options={6: b"yyyy"})))
    world = World(config=one_pool(classes=classes))
    world.say(discover("a", classes=3))
    assert (world.option(6), world.lease_s) == (b"xxxx", 50)
    world.say(discover("b", classes=2))
    assert (world.option(6), world.lease_s) == (b"yyyy", 50)


def test_a_reservation_s_settings_go_with_its_address_only() -> None:
    config = one_pool((reserved(12, "circuit-id", CIRCUIT, lease_time_s=7777),))
    world = World(config=config)
    assert world.say(discover("a", **AT)) == ("offer", 12, "ok") and world.lease_s == 7777
    assert world.say(discover("b", **AT)) == ("offer", 10, "ok") and world.lease_s == LEASE_S


def test_an_expected_end_is_kept() -> None:
    """A lease of exactly the time granted: the last second is still the client's."""
    world = World(config=one_pool(settings=Settings(lease_time_s=100, max_lease_time_s=1000)))
    bound("a", 10, lease_s=500)(world)
    world.wait(500)
    assert world.states() == {10: "bound"}
    world.wait(1)
    assert world.states() == {}


def test_a_lease_of_more_than_the_clock_has_does_not_end_at_once() -> None:
    world = World(config=one_pool(settings=Settings(lease_time_s=FOREVER_S)))
    world.wait(1_800_000_000)
    for lease_s in (FOREVER_S - 1, FOREVER_S // 2, 3_000_000_000):
        bound("a", 10, lease_s=lease_s)(world)
        world.wait(100_000)
        assert world.states() == {10: "bound"}


# --- rapid commit, option 108, BOOTP, no lease file, leases about to end -----------------------

def test_rapid_commit() -> None:
    """RFC 4039 section 3.1: an ACK at once, and the lease is bound."""
    world = World(config=one_pool(rapid_commit=True))
    assert world.say(discover("a", rapid=True)) == ("ack", 10, "ok")
    assert world.states() == {10: "bound"} and world.lease_s == LEASE_S
    assert world.say(renewing("a", 10)) == ("ack", 10, "ok")
    assert world.say(discover("b")) == ("offer", 11, "ok")
    assert world.say(discover("b", rapid=True)) == ("ack", 11, "ok")
    world.wait(LEASE_S)
    assert world.states() == {10: "bound", 11: "bound"}


def test_rapid_commit_where_it_is_off() -> None:
    world = World()
    assert world.say(discover("a", rapid=True)) == ("offer", 10, "ok")
    assert world.states() == {10: "offered"}


def test_rapid_commit_with_nothing_left() -> None:
    world = World(config=one_pool(rapid_commit=True))
    for number in range(4):
        assert world.say(discover(f"c{number}", rapid=True))[0] == "ack"
    assert world.say(discover("a", rapid=True)) == (None, None, "no_free_address")


def test_a_client_that_can_do_without_an_address_gets_none() -> None:
    """RFC 8925 section 3.3: nothing is held for it."""
    world = World()
    assert world.say(discover("a", no_address=True)) == ("offer", None, "ok")
    assert world.states() == {} and world.lease_s == LEASE_S
    # Also where the pool is used up, and for one that has a lease.
    for number in range(4):
        bound(f"c{number}", 10 + number)(world)
    assert world.say(discover("a", no_address=True)) == ("offer", None, "ok")
    assert world.say(discover("c0", no_address=True)) == ("offer", None, "ok")
    assert world.states() == dict.fromkeys(range(10, 14), "bound")
    assert world.say(renewing("c0", 10)) == ("ack", 10, "ok")


BOOTP: list[tuple[str, list[Step], Said, Expected]] = [
    ("1534 2 what is reserved for him", [], bootp("a"), ("ack", 12, "ok")),
    ("1534 2 again", [bound("a", 12)], bootp("a"), ("ack", 12, "ok")),
    ("1534 2 nothing is reserved: silence", [], bootp("b"), (None, None, "unknown_client")),
    ("1534 2 nothing is reserved, though he has a lease", [bound("b", 10)], bootp("b"),
     (None, None, "unknown_client")),
    ("1534 2 in use by another", [bound("c", 99, **AT)], bootp("b", **AT),
     (None, None, "unknown_client")),
    ("1534 2 declined", [declined("a", 12)], bootp("a"), (None, None, "unknown_client")),
]


@pytest.mark.parametrize(("before", "said", "expected"), [row[1:] for row in BOOTP],
                         ids=[row[0] for row in BOOTP])
def test_bootp(before: list[Step], said: Said, expected: Expected) -> None:
    world = played(before, RESERVED)
    assert world.say(said) == expected
    if expected[0]:
        world.wait(1_000_000)
        assert world.states() == {12: "bound"}, "a BOOTP client does not renew"
        # Its ROM speaks BOOTP, its system DHCP.
        assert world.say(discover("a", client_id=b"\0system")) == ("offer", 12, "ok")
        assert world.say(selecting("a", 12, client_id=b"\0system")) == ("ack", 12, "ok")
        world.wait(LEASE_S + 1)
        assert world.states() == {}


def test_a_lease_about_to_end_is_held_for_him_who_discovers() -> None:
    world = played([bound("a", 12), wait(LEASE_S - 1)], one_pool())
    assert world.say(discover("a")) == ("offer", 12, "ok")
    world.wait(OFFER_S)
    assert world.states() == {12: "bound"}
    assert world.say(selecting("a", 12)) == ("ack", 12, "ok")
    world.wait(LEASE_S)
    assert world.states() == {12: "bound"}


def test_discover_does_not_shorten_a_lease() -> None:
    world = played([bound("a", 12), offered("a", 12), wait(LEASE_S)], one_pool())
    assert world.states() == {12: "bound"}
    forever = World(lease_s=FOREVER_S)
    bound("a", 12)(forever)
    offered("a", 12)(forever)
    forever.wait(100_000)
    assert forever.states() == {12: "bound"}


NOT_STORED: list[tuple[str, Said]] = [
    ("DISCOVER", discover("b")), ("DISCOVER, rapid", discover("b", rapid=True)),
    ("DISCOVER, no address", discover("b", no_address=True)), ("SELECTING", selecting("a", 12)),
    ("SELECTING another server", selecting("a", 12, OTHER)), ("INIT-REBOOT", rebooting("a", 12)),
    ("INIT-REBOOT elsewhere", rebooting("a", NET + 5000)), ("RENEWING", renewing("a", 12)),
    ("RELEASE", release("a", 12)), ("DECLINE", declining("a", 12)), ("BOOTP", bootp("a")),
]


@pytest.mark.parametrize("said", [row[1] for row in NOT_STORED], ids=[row[0] for row in NOT_STORED])
def test_nothing_is_promised_that_cannot_be_stored(said: Said) -> None:
    world = played([offered("a", 12)], RESERVED)
    world.storing(False)
    assert world.say(said) == (None, None, "not_stored")
    assert world.states() == {12: "offered"}
    assert world.say(Said("inform", "a", ciaddr=12)) == ("ack", None, "ok")
    world.storing(True)
    assert world.say(selecting("a", 12)) == ("ack", 12, "ok")
