"""What the server decides, one row a rule: (state of the table, message, expected answer)."""

from __future__ import annotations

import numpy as np
import pytest

from fastpath.wire import MessageType
from server.decide import ABSENT, CAUSES, SILENT, Asked, decide
from server.leases import BY_CHADDR, FOREVER_S, NONE
from tests.deciding import (
    DECLINE_S,
    LEASE_S,
    NET,
    OFFER_S,
    OTHER,
    Expected,
    Said,
    Step,
    World,
    address,
    bound,
    declined,
    declining,
    discover,
    offered,
    rebooting,
    release,
    released,
    renewing,
    selecting,
    wait,
)
from tests.kernels import wraps

pytestmark = wraps

FULL = [bound("p", 10), bound("q", 11), bound("r", 12), bound("s", 13)]
EXPIRED = [bound("a", 12), wait(LEASE_S + 1)]
FAR = 0x0A000007  # 10.0.0.7: not on this network

ROWS: list[tuple[str, list[Step], Said, Expected]] = [
    # RFC 2131 section 4.3.1: which address is offered
    ("4.3.1 nobody has one: the oldest free", [], discover("a"), ("offer", 10, "ok")),
    ("4.3.1 the next client gets the next", [offered("b", 10)], discover("a"), ("offer", 11, "ok")),
    ("4.3.1 first: the client's current binding", [bound("a", 12)], discover("a"),
     ("offer", 12, "ok")),
    ("4.3.1 current goes before requested", [bound("a", 12)], discover("a", 11),
     ("offer", 12, "ok")),
    ("4.3.1 what was offered is offered again", [offered("a", 12)], discover("a", 11),
     ("offer", 12, "ok")),
    ("4.3.1 second: his previous, expired", EXPIRED, discover("a"), ("offer", 12, "ok")),
    ("4.3.1 second: his previous, released", [released("a", 12)], discover("a"),
     ("offer", 12, "ok")),
    ("4.3.1 previous goes before requested", EXPIRED, discover("a", 11), ("offer", 12, "ok")),
    ("4.3.1 his previous is another's now", [*EXPIRED, bound("b", 12)], discover("a"),
     ("offer", 10, "ok")),
    ("4.3.1 third: the requested one", [], discover("a", 13), ("offer", 13, "ok")),
    ("4.3.1 requested is bound", [bound("b", 13)], discover("a", 13), ("offer", 10, "ok")),
    ("4.3.1 requested is offered", [offered("b", 13)], discover("a", 13), ("offer", 10, "ok")),
    ("4.3.1 requested is declined", [declined("b", 13)], discover("a", 13), ("offer", 10, "ok")),
    ("4.3.1 requested is excluded", [], discover("a", 14), ("offer", 10, "ok")),
    ("4.3.1 requested is below the pool", [], discover("a", 9), ("offer", 10, "ok")),
    ("4.3.1 requested is above the pool", [], discover("a", 15), ("offer", 10, "ok")),
    ("4.3.1 requested is 0.0.0.0", [], discover("a", 0), ("offer", 10, "ok")),
    ("4.3.1 requested is far away", [], discover("a", FAR), ("offer", 10, "ok")),
    ("4.3.1 a free address that another had may be requested", EXPIRED, discover("b", 12),
     ("offer", 12, "ok")),
    ("4.3.1 fourth: what has rested longest, not what was freed last", [released("b", 10)],
     discover("a"), ("offer", 11, "ok")),
    ("4.3.1 the last one", FULL[1:], discover("a"), ("offer", 10, "ok")),
    ("4.3.1 none is left: no offer", FULL, discover("a"), (None, None, "no_free_address")),
    ("4.3.1 none is left, but he has one", FULL, discover("r"), ("offer", 12, "ok")),
    ("4.3.1 none is left until a lease ends", [*FULL, wait(LEASE_S + 1)], discover("a"),
     ("offer", 10, "ok")),
    ("4.3.1 a relayed one", [], discover("a", giaddr=NET + 200), ("offer", 10, "ok")),

    # RFC 2131 section 4.3.2: REQUEST in answer to an offer
    ("4.3.2 SELECTING: ours, as offered", [offered("a", 12)], selecting("a", 12),
     ("ack", 12, "ok")),
    ("4.3.2 SELECTING: sent again", [bound("a", 12)], selecting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 SELECTING: another address than offered", [offered("a", 12)], selecting("a", 11),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: another's address", [bound("b", 12)], selecting("a", 12),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: no offer was made", [], selecting("a", 12), ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: no address in it", [offered("a", 12)], selecting("a", None),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: not in the pool", [offered("a", 12)], selecting("a", 200),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: another server", [offered("a", 12)], selecting("a", 12, OTHER),
     (None, None, "other_server")),
    ("4.3.2 SELECTING: another server, unknown client", [], selecting("a", 99, OTHER),
     (None, None, "other_server")),
    ("4.3.2 SELECTING: too late, nobody else has it", [offered("a", 12), wait(OFFER_S + 1)],
     selecting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 SELECTING: too late, another has it",
     [offered("a", 12), wait(OFFER_S + 1), bound("b", 12)], selecting("a", 12),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING: after DECLINE the address is not his", [declined("a", 12)],
     selecting("a", 12), ("nak", None, "wrong_address")),

    # RFC 2131 section 4.3.2: INIT-REBOOT (no server identifier, no ciaddr)
    ("4.3.2 INIT-REBOOT: right", [bound("a", 12)], rebooting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 INIT-REBOOT: only offered", [offered("a", 12)], rebooting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 INIT-REBOOT: expired, nobody has it", EXPIRED, rebooting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 INIT-REBOOT: his record says another address", [bound("a", 12)], rebooting("a", 11),
     ("nak", None, "wrong_address")),
    ("4.3.2 INIT-REBOOT: his expired record says another address", EXPIRED, rebooting("a", 11),
     ("nak", None, "unknown_client")),
    ("4.3.2 INIT-REBOOT: no record: silence", [], rebooting("a", 12),
     (None, None, "unknown_client")),
    ("4.3.2 INIT-REBOOT: no record, another has it: silence", [bound("b", 12)],
     rebooting("a", 12), (None, None, "unknown_client")),
    ("4.3.2 INIT-REBOOT: wrong network", [], rebooting("a", FAR), ("nak", None, "wrong_address")),
    ("4.3.2 INIT-REBOOT: wrong network, with a record", [bound("a", 12)], rebooting("a", FAR),
     ("nak", None, "wrong_address")),
    ("4.3.2 INIT-REBOOT: wrong network, behind a relay", [],
     rebooting("a", FAR, giaddr=NET + 200), ("nak", None, "wrong_address")),
    ("4.3.2 INIT-REBOOT: neither address: nothing to answer", [bound("a", 12)],
     Said("request", "a"), (None, None, "wrong_address")),

    # RFC 2131 section 4.3.2: RENEWING and REBINDING (ciaddr, no server identifier)
    ("4.3.2 RENEWING: his lease", [bound("a", 12)], renewing("a", 12), ("ack", 12, "ok")),
    ("4.3.2 RENEWING: in the last second", [bound("a", 12), wait(LEASE_S)], renewing("a", 12),
     ("ack", 12, "ok")),
    ("4.3.2 RENEWING: another's address, with a record", [bound("a", 12), bound("b", 11)],
     renewing("a", 11), ("nak", None, "wrong_address")),
    ("4.3.2 RENEWING: another's address, no record", [bound("b", 11)], renewing("a", 11),
     ("nak", None, "address_in_use")),
    ("4.3.2 RENEWING: an offer to another is in use too", [offered("b", 11)], renewing("a", 11),
     ("nak", None, "address_in_use")),
    ("4.3.2 RENEWING: declined since", [declined("a", 12)], renewing("a", 12),
     ("nak", None, "address_in_use")),
    ("4.3.2 RENEWING: excluded", [], renewing("a", 14), ("nak", None, "address_in_use")),
    ("4.3.2 RENEWING: we have no record, the address is free", [], renewing("a", 13),
     ("ack", 13, "ok")),
    ("4.3.2 RENEWING: he had another, this one is free", EXPIRED, renewing("a", 13),
     ("ack", 13, "ok")),
    ("4.3.2 RENEWING: on the network, not in the pool", [], renewing("a", 77),
     ("nak", None, "unknown_client")),
    ("4.3.2 REBINDING: wrong network", [], renewing("a", FAR), ("nak", None, "wrong_address")),
    ("4.3.2 ciaddr goes before a requested address", [bound("a", 12)],
     renewing("a", 12, requested=11), ("ack", 12, "ok")),

    # RFC 2131 section 4.3.3: DECLINE
    ("4.3.3 DECLINE: his lease", [bound("a", 12)], declining("a", 12), (None, 12, "ok")),
    ("4.3.3 DECLINE: without a server identifier", [bound("a", 12)], declining("a", 12, None),
     (None, 12, "ok")),
    ("4.3.3 DECLINE: only offered", [offered("a", 12)], declining("a", 12), (None, 12, "ok")),
    ("4.3.3 DECLINE: another's", [bound("b", 12)], declining("a", 12), (None, None, "not_his")),
    ("4.3.3 DECLINE: he has another", [bound("a", 11), bound("b", 12)], declining("a", 12),
     (None, None, "not_his")),
    ("4.3.3 DECLINE: expired", EXPIRED, declining("a", 12), (None, None, "not_his")),
    ("4.3.3 DECLINE: twice", [declined("a", 12)], declining("a", 12), (None, None, "not_his")),
    ("4.3.3 DECLINE: no address in it", [bound("a", 12)], declining("a", None),
     (None, None, "not_his")),
    ("4.3.3 DECLINE: another server's", [bound("a", 12)], declining("a", 12, OTHER),
     (None, None, "other_server")),
    ("4.3.3 a declined address is offered to nobody", [*FULL[:3], declined("a", 13)],
     discover("b"), (None, None, "no_free_address")),
    ("4.3.3 also to him who declined it another", [declined("a", 10)], discover("a", 10),
     ("offer", 11, "ok")),
    ("4.3.3 until the hold ends", [*FULL[:3], declined("a", 13), wait(DECLINE_S)], discover("b"),
     (None, None, "no_free_address")),
    ("4.3.3 then it is free", [*FULL[:3], declined("a", 13), wait(DECLINE_S + 1)], discover("b"),
     ("offer", 13, "ok")),

    # RFC 2131 section 4.3.4: RELEASE
    ("4.3.4 RELEASE: his lease", [bound("a", 12)], release("a", 12), (None, 12, "ok")),
    ("4.3.4 RELEASE: without a server identifier", [bound("a", 12)], release("a", 12, None),
     (None, 12, "ok")),
    ("4.3.4 RELEASE: only offered", [offered("a", 12)], release("a", 12), (None, 12, "ok")),
    ("4.3.4 RELEASE: another's", [bound("b", 12)], release("a", 12), (None, None, "not_his")),
    ("4.3.4 RELEASE: twice", [released("a", 12)], release("a", 12), (None, None, "not_his")),
    ("4.3.4 RELEASE: no address", [bound("a", 12)], release("a", 0), (None, None, "not_his")),
    ("4.3.4 RELEASE: not ours", [bound("a", 12)], release("a", FAR), (None, None, "not_his")),
    ("4.3.4 RELEASE: another server's", [bound("a", 12)], release("a", 12, OTHER),
     (None, None, "other_server")),

    # RFC 2131 section 4.3.5: INFORM
    ("4.3.5 INFORM: options, no lease", [], Said("inform", "a", ciaddr=77), ("ack", None, "ok")),
    ("4.3.5 INFORM: with a lease", [bound("a", 12)], Said("inform", "a", ciaddr=12),
     ("ack", None, "ok")),
    ("4.3.5 INFORM: from nowhere", [], Said("inform", "a"), (None, None, "wrong_address")),

    # what servers send, and what we do not serve
    *((f"{kind} is not for us", [bound("a", 12)], Said(kind, "a", ciaddr=12, requested=12),
       (None, None, "unexpected_type")) for kind in ("offer", "ack", "nak", "9", "10", "13", "18")),
]


@pytest.mark.parametrize(("before", "said", "expected"), [row[1:] for row in ROWS],
                         ids=[row[0] for row in ROWS])
def test_rule(before: list[Step], said: Said, expected: Expected) -> None:
    world = World()
    for step in before:
        step(world)
    assert world.say(said) == expected


# The same where another server may be the authority: only what is certain is refused.
NOT_AUTHORITATIVE: list[tuple[str, list[Step], Said, Expected]] = [
    ("his lease", [bound("a", 12)], renewing("a", 12), ("ack", 12, "ok")),
    ("his record says another address", [bound("a", 12)], rebooting("a", 11),
     ("nak", None, "wrong_address")),
    ("his expired record says another address", EXPIRED, rebooting("a", 11),
     (None, None, "unknown_client")),
    ("no record, free", [], renewing("a", 13), (None, None, "unknown_client")),
    ("no record, in use", [bound("b", 13)], renewing("a", 13), (None, None, "unknown_client")),
    ("no record, not in the pool", [], renewing("a", 77), (None, None, "unknown_client")),
    ("wrong network is certain", [], rebooting("a", FAR), ("nak", None, "wrong_address")),
    ("an offer of ours, wrongly answered", [offered("a", 12)], selecting("a", 11),
     ("nak", None, "wrong_address")),
]


@pytest.mark.parametrize(("before", "said", "expected"), [row[1:] for row in NOT_AUTHORITATIVE],
                         ids=[row[0] for row in NOT_AUTHORITATIVE])
def test_rule_without_authority(before: list[Step], said: Said, expected: Expected) -> None:
    world = World(authoritative=False)
    for step in before:
        step(world)
    assert world.say(said) == expected


# What a message leaves in the table: {last octet: state} of what is not free.
LEFT: list[tuple[str, list[Step], Said, dict[int, str]]] = [
    ("an offer holds the address", [], discover("a"), {10: "offered"}),
    ("DISCOVER does not end a lease", [bound("a", 12)], discover("a"), {12: "bound"}),
    ("an ACK binds", [offered("a", 12)], selecting("a", 12), {12: "bound"}),
    ("another server chosen: our offer is free at once", [offered("a", 12)],
     selecting("a", 12, OTHER), {}),
    ("another server chosen: a lease of ours stays", [bound("a", 12)], selecting("a", 12, OTHER),
     {12: "bound"}),
    ("a NAK leaves the offer", [offered("a", 12)], selecting("a", 11), {12: "offered"}),
    ("a NAK leaves the other's lease", [bound("b", 12)], renewing("a", 12), {12: "bound"}),
    ("RELEASE frees", [bound("a", 12)], release("a", 12), {}),
    ("RELEASE of another's frees nothing", [bound("b", 12)], release("a", 12), {12: "bound"}),
    ("DECLINE locks", [bound("a", 12)], declining("a", 12), {12: "declined"}),
    ("DECLINE of another's locks nothing", [bound("b", 12)], declining("a", 12), {12: "bound"}),
    ("INFORM takes nothing", [], Said("inform", "a", ciaddr=12), {}),
    ("INFORM from another's address takes nothing", [bound("b", 12)],
     Said("inform", "a", ciaddr=12), {12: "bound"}),
    ("one client has one address: the old falls free", EXPIRED, renewing("a", 13),
     {13: "bound"}),
    ("an offer ends", [offered("a", 12), wait(OFFER_S + 1)], Said("inform", "z", ciaddr=9), {}),
    ("an offer lasts its whole time", [offered("a", 12), wait(OFFER_S)],
     Said("inform", "z", ciaddr=9), {12: "offered"}),
    ("a lease ends", [bound("a", 12), wait(LEASE_S + 1)], Said("inform", "z", ciaddr=9), {}),
    ("a lease lasts its whole time", [bound("a", 12), wait(LEASE_S)],
     Said("inform", "z", ciaddr=9), {12: "bound"}),
]


@pytest.mark.parametrize(("before", "said", "left"), [row[1:] for row in LEFT],
                         ids=[row[0] for row in LEFT])
def test_what_is_left(before: list[Step], said: Said, left: dict[int, str]) -> None:
    world = World()
    for step in before:
        step(world)
    world.say(said)
    assert world.states() == left


def test_renewal_starts_the_lease_anew() -> None:
    world = World()
    bound("a", 12)(world)
    for _ in range(5):
        world.wait(LEASE_S // 2)
        assert world.say(renewing("a", 12)) == ("ack", 12, "ok")
    world.wait(LEASE_S)
    assert world.states() == {12: "bound"}
    world.wait(1)
    assert world.states() == {}


def test_a_second_discover_holds_the_offer_anew() -> None:
    world = World()
    offered("a", 12)(world)
    world.wait(OFFER_S)
    offered("a", 12)(world)
    world.wait(OFFER_S)
    assert world.states() == {12: "offered"}


def test_a_lease_for_ever_does_not_end() -> None:
    world = World(lease_s=FOREVER_S)
    bound("a", 12)(world)
    for _ in range(4):
        world.wait(1 << 31)
        assert world.states() == {12: "bound"}
    assert world.say(release("a", 12)) == (None, 12, "ok")
    assert world.states() == {}


def test_what_waits_longest_is_given_first() -> None:
    world = World()
    for who, at in (("a", 13), ("b", 11), ("c", 10), ("d", 12)):
        bound(who, at)(world)
    for who, at in (("c", 10), ("a", 13), ("d", 12), ("b", 11)):
        assert world.say(release(who, at)) == (None, at, "ok")
    given = [world.say(discover(who))[1] for who in "wxyz"]
    assert given == [10, 13, 12, 11]


def test_nobody_without_an_identity_is_served() -> None:
    """hlen 0 and no client identifier: all such clients would be one (RFC 2131 section 4.2)."""
    world = World()
    rest = (0, ABSENT, ABSENT, False, ABSENT, False, False, 0, 0, 0, NONE, NONE)
    nobody = np.zeros(4, np.uint64)
    # The hardware type alone.
    nobody[0] = BY_CHADDR | 1 << 8 | 1 << 32
    for kind in (MessageType.DISCOVER, MessageType.REQUEST, MessageType.RELEASE):
        asked = Asked(int(kind), address(12), *rest)
        found = decide(world.world, asked, nobody, 7, world.now)
        assert found == (SILENT, NONE, CAUSES.index("no_identity"), 0)
    inform = Asked(int(MessageType.INFORM), address(12), *rest)
    assert decide(world.world, inform, nobody, 7, world.now)[0] == MessageType.ACK
    assert world.states() == {}
