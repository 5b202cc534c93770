"""What the server decides where there is more than one pool: one row a rule.

Reservations, pools for classes, shared networks.
"""

from __future__ import annotations

from typing import Any

import pytest

from server.model import Config, SharedNetwork
from tests.deciding import (
    DECLINE_S,
    LEASE_S,
    PHONE,
    PRINTER,
    Expected,
    Said,
    Step,
    World,
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
    refused,
    release,
    released,
    renewing,
    reserved,
    selecting,
    subnet,
    wait,
    wired,
)
from tests.kernels import wraps

pytestmark = wraps

Rows = list[tuple[str, list[Step], Said, Expected]]


def played(before: list[Step], config: Config) -> World:
    world = World(config=config)
    for step in before:
        step(world)
    return world


def rows(table: Rows) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("before", "said", "expected"), [row[1:] for row in table],
                                   ids=[row[0] for row in table])


# --- reservations ------------------------------------------------------------------------------

# .12 for the hardware of "a", .13 for an identifier, .99 (outside the pool) for a circuit,
# .98 for the hardware of "x".
IDENTIFIER, CIRCUIT, LONG_CIRCUIT = b"\0server-room", b"slot 3 port 17", b"c" * 200
RESERVED = one_pool((reserved(12, "chaddr", chaddr("a")), reserved(13, "client-id", IDENTIFIER),
                     reserved(99, "circuit-id", CIRCUIT), reserved(98, "chaddr", chaddr("x")),
                     reserved(97, "circuit-id", LONG_CIRCUIT)))
BY_ID: dict[str, Any] = {"client_id": IDENTIFIER}
AT: dict[str, Any] = {"circuit": CIRCUIT}
# What the others of the pool's are: .10 and .11.
TAKEN = [bound("p", 10), bound("q", 11)]

RESERVATIONS: Rows = [
    ("4.3.1 by chaddr", [], discover("a"), ("offer", 12, "ok")),
    ("4.3.1 by chaddr, whatever identifier he gives", [], discover("a", client_id=b"\0other"),
     ("offer", 12, "ok")),
    ("4.3.1 by client identifier", [], discover("b", **BY_ID), ("offer", 13, "ok")),
    ("4.3.1 by client identifier, on any hardware", [], discover("c", **BY_ID),
     ("offer", 13, "ok")),
    ("4.3.1 by circuit", [], discover("b", **AT), ("offer", 99, "ok")),
    ("4.3.1 by a long circuit-id", [], discover("b", circuit=LONG_CIRCUIT), ("offer", 97, "ok")),
    ("a circuit-id one octet shorter is another", [], discover("b", circuit=LONG_CIRCUIT[1:]),
     ("offer", 10, "ok")),
    ("a client identifier like a circuit-id is none", [], discover("b", client_id=CIRCUIT),
     ("offer", 10, "ok")),
    ("a client identifier like hardware is none", [],
     discover("b", client_id=b"\1" + chaddr("a")), ("offer", 10, "ok")),
    ("identifier goes before hardware", [], discover("a", **BY_ID), ("offer", 13, "ok")),
    ("hardware goes before circuit", [], discover("a", **AT), ("offer", 12, "ok")),
    ("reserved goes before requested", [], discover("a", 10), ("offer", 12, "ok")),
    ("his lease goes before reserved: a DISCOVER may be anybody's", [bound("b", 10)],
     discover("b", **AT), ("offer", 10, "ok")),
    ("reserved, once his lease was refused", [bound("b", 10), refused("b", 10, **AT)],
     discover("b", **AT), ("offer", 99, "ok")),
    ("reserved goes before his previous lease", [released("b", 10)], discover("b", **AT),
     ("offer", 99, "ok")),
    ("the others get what is not reserved", TAKEN, discover("b"),
     (None, None, "no_free_address")),
    ("outside the pool, and the pool is empty", TAKEN, discover("x"), ("offer", 98, "ok")),

    ("4.3.2 SELECTING: reserved", [offered("a", 12)], selecting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 SELECTING: what others were offered is not it", [offered("a", 12)],
     selecting("b", 12), ("nak", None, "wrong_address")),
    ("4.3.2 INIT-REBOOT: a reservation is a record", [], rebooting("a", 12), ("ack", 12, "ok")),
    ("4.3.2 INIT-REBOOT: to another address than his", [], rebooting("a", 10),
     ("nak", None, "wrong_address")),
    ("4.3.2 RENEWING: reserved", [bound("a", 12)], renewing("a", 12), ("ack", 12, "ok")),
    ("4.3.2 RENEWING: reserved, after its end", [bound("a", 12), wait(LEASE_S + 1)],
     renewing("a", 12), ("ack", 12, "ok")),
    ("4.3.2 RENEWING: reserved, no record of a lease", [], renewing("a", 12), ("ack", 12, "ok")),
    ("4.3.2 RENEWING: he has another, his own is free: start over", [bound("b", 10)],
     renewing("b", 10, **AT), ("nak", None, "wrong_address")),
    ("4.3.2 RENEWING: he has another, and asks for his own", [bound("b", 10)],
     renewing("b", 99, **AT), ("ack", 99, "ok")),
    ("4.3.2 RENEWING: his own is in use: he keeps what he has",
     [bound("c", 99, **AT), bound("b", 10)], renewing("b", 10, **AT), ("ack", 10, "ok")),

    # nobody else gets it
    ("requested by another", [], discover("b", 12), ("offer", 10, "ok")),
    ("INIT-REBOOT by another", [], rebooting("b", 12), (None, None, "unknown_client")),
    ("INIT-REBOOT by another, whose lease has ended", [bound("b", 10), wait(LEASE_S + 1)],
     rebooting("b", 12), ("nak", None, "unknown_client")),
    ("RENEWING by another", [], renewing("b", 12), ("nak", None, "unknown_client")),
    ("RENEWING by another, outside the pool", [], renewing("b", 99),
     ("nak", None, "unknown_client")),
    ("RENEWING by another with a lease", [bound("b", 10)], renewing("b", 12),
     ("nak", None, "wrong_address")),
    ("RELEASE by another", [bound("a", 12)], release("b", 12), (None, None, "not_his")),
    ("DECLINE by another", [bound("a", 12)], declining("b", 12), (None, None, "not_his")),
    ("released, it waits for its owner", [*TAKEN, released("a", 12)], discover("b", 12),
     (None, None, "no_free_address")),
    ("expired, it waits for its owner", [bound("a", 12), wait(LEASE_S + 1), *TAKEN],
     discover("b", 12), (None, None, "no_free_address")),

    # it is held by another
    ("in use by the last one at the circuit", [bound("c", 99, **AT)], discover("b", **AT),
     ("offer", 10, "ok")),
    ("free again at the circuit", [released("c", 99, **AT)], discover("b", **AT),
     ("offer", 99, "ok")),
    ("who has left the circuit keeps its address until he renews", [bound("c", 99, **AT)],
     discover("c"), ("offer", 99, "ok")),
    ("and then loses it", [bound("c", 99, **AT), refused("c", 99)], discover("c"),
     ("offer", 10, "ok")),
    ("who has left the circuit is told so", [bound("c", 99, **AT)], renewing("c", 99),
     ("nak", None, "wrong_address")),
    ("4.2 the same machine under another identifier", [bound("a", 12, client_id=b"\0pxe rom")],
     discover("a"), ("offer", 12, "ok")),
    ("4.2 and its REQUEST", [bound("a", 12, client_id=b"\0pxe rom"), offered("a", 12)],
     selecting("a", 12), ("ack", 12, "ok")),
    ("declined: another until the hold ends", [declined("a", 12)], discover("a"),
     ("offer", 10, "ok")),
    ("declined: a machine's other identifier does not unlock it", [declined("a", 12)],
     discover("a", client_id=b"\0other"), ("offer", 10, "ok")),
    ("declined: his again", [declined("a", 12), wait(DECLINE_S + 1)], discover("a"),
     ("offer", 12, "ok")),
    ("declined, and given to nobody afterwards", [*TAKEN, declined("a", 12), wait(DECLINE_S + 1)],
     discover("b", 12), (None, None, "no_free_address")),
]


@rows(RESERVATIONS)
def test_reservation(before: list[Step], said: Said, expected: Expected) -> None:
    assert played(before, RESERVED).say(said) == expected


def test_a_discover_takes_nothing_away() -> None:
    """Not by a class, not by a circuit: it may be sent by anybody in his name."""
    for config, fields in ((RESERVED, AT), (one_pool(), {"classes": PHONE})):
        world = played([bound("b", 10), offered("b", 10, **fields)], config)
        assert world.states() == {10: "bound"}


def test_the_lease_that_a_reservation_replaces_is_given_up() -> None:
    world = played([bound("b", 10), refused("b", 10, **AT)], RESERVED)
    assert world.states() == {}
    bound("b", 99, **AT)(world)
    assert world.states() == {99: "bound"}
    assert played([], RESERVED).states() == {}


def test_without_authority_a_reservation_is_a_record() -> None:
    config = one_pool((reserved(99, "chaddr", chaddr("a")),), authoritative=False)
    assert World(config=config).say(rebooting("a", 99)) == ("ack", 99, "ok")
    assert World(config=config).say(renewing("a", 99)) == ("ack", 99, "ok")
    assert World(config=config).say(renewing("b", 99)) == (None, None, "unknown_client")


def test_who_has_left_the_circuit_does_not_keep_an_address_inside_the_pool() -> None:
    """It is of the pool by its number only."""
    config = one_pool((reserved(13, "circuit-id", CIRCUIT),))
    for before in ([bound("c", 13, **AT), refused("c", 13)], [released("c", 13, **AT)]):
        assert played(before, config).say(discover("c", 13)) == ("offer", 10, "ok")
        assert played(before, config).say(renewing("c", 13)) == ("nak", None, "wrong_address")
        assert played(before, config).say(rebooting("c", 13)) == ("nak", None, "wrong_address")
        assert played(before, config).say(selecting("c", 13)) == ("nak", None, "wrong_address")


def test_a_reservation_counts_on_its_own_network_only() -> None:
    inside = subnet(0, pool(10, 11), reservations=(reserved(50, "chaddr", chaddr("a")),))
    config = configured(SharedNetwork("a", (inside,)),
                        SharedNetwork("b", (subnet(1, pool(266, 267)),)))
    world = World(config=config)
    assert world.say(discover("a", 50, giaddr=257)) == ("offer", 266, "ok")
    assert world.say(discover("a", giaddr=1)) == ("offer", 50, "ok")
    assert world.states() == {266: "offered", 50: "offered"}


# --- pools for classes -------------------------------------------------------------------------

P: dict[str, Any] = {"classes": PHONE}
CLASS_POOLS: Rows = [
    ("a member gets of the class's pool", [], discover("a", **P), ("offer", 20, "ok")),
    ("who is in both classes too", [], discover("a", classes=PHONE | PRINTER),
     ("offer", 20, "ok")),
    ("another class does not", [], discover("a", classes=PRINTER), ("offer", 10, "ok")),
    ("no class does not", [], discover("a"), ("offer", 10, "ok")),
    ("a member may ask for what is open to all", [], discover("a", 11, **P), ("offer", 11, "ok")),
    ("others ask for it in vain", [], discover("a", 20), ("offer", 10, "ok")),
    ("the class's pool is used up: what is open to all",
     [bound("p", 20, **P), bound("q", 21, **P)], discover("a", **P), ("offer", 10, "ok")),
    ("only the class's pool has any left: not for others",
     [bound(str(n), n) for n in (10, 11, 266, 267)], discover("a"),
     (None, None, "no_free_address")),
    ("RENEWING: a member", [bound("a", 20, **P)], renewing("a", 20, **P), ("ack", 20, "ok")),
    ("RENEWING: no longer a member", [bound("a", 20, **P)], renewing("a", 20),
     ("nak", None, "wrong_address")),
    ("RENEWING: no record, not a member", [], renewing("a", 20),
     ("nak", None, "unknown_client")),
    ("RENEWING: no record, a member", [], renewing("a", 20, **P), ("ack", 20, "ok")),
    ("INIT-REBOOT: no longer a member", [bound("a", 20, **P)], rebooting("a", 20),
     ("nak", None, "wrong_address")),
    ("SELECTING: no longer a member", [offered("a", 20, **P)], selecting("a", 20),
     ("nak", None, "wrong_address")),
    ("DISCOVER: no longer a member, and no NAK yet", [bound("a", 20, **P)], discover("a"),
     ("offer", 20, "ok")),
    ("DISCOVER: no longer a member", [bound("a", 20, **P), refused("a", 20)], discover("a"),
     ("offer", 10, "ok")),
    ("RELEASE needs no class", [bound("a", 20, **P)], release("a", 20), (None, 20, "ok")),
]


@rows(CLASS_POOLS)
def test_pools_for_classes(before: list[Step], said: Said, expected: Expected) -> None:
    assert played(before, wired()).say(said) == expected


# --- shared networks ---------------------------------------------------------------------------

# giaddr in the first subnet, the second on the same wire, and on the other wire.
S0, S1, S2 = ({"giaddr": at} for at in (1, 257, 513))
FULL_0 = [bound("p", 10), bound("q", 11)]
FULL_1 = [bound("r", 266, **S1), bound("s", 267, **S1)]
FULL_2 = [bound("t", 522, **S2), bound("u", 523, **S2)]

SHARED: Rows = [
    ("his own subnet first", [], discover("a", **S1), ("offer", 266, "ok")),
    ("his own subnet is full: another on the wire", FULL_1, discover("a", **S1),
     ("offer", 10, "ok")),
    ("the other way round", FULL_0, discover("a", **S0), ("offer", 266, "ok")),
    ("both are full: nothing of another wire", [*FULL_0, *FULL_1], discover("a", **S0),
     (None, None, "no_free_address")),
    ("the other wire is full: nothing of this one", FULL_2, discover("a", **S2),
     (None, None, "no_free_address")),
    ("4.3.1 he may ask for another subnet's", [], discover("a", 267, **S0), ("offer", 267, "ok")),
    ("4.3.1 not for another wire's", [], discover("a", 522, **S0), ("offer", 10, "ok")),
    ("4.3.1 his binding anywhere on the wire is kept", [bound("a", 10, **S0)],
     discover("a", **S1), ("offer", 10, "ok")),
    ("4.3.1 his previous binding likewise", [released("a", 10, **S0)], discover("a", **S1),
     ("offer", 10, "ok")),
    ("4.3.2 SELECTING by another relay", [offered("a", 10, **S0)], selecting("a", 10, **S1),
     ("ack", 10, "ok")),
    ("4.3.2 RENEWING by another relay", [bound("a", 10, **S0)], renewing("a", 10, **S1),
     ("ack", 10, "ok")),
    ("4.3.2 INIT-REBOOT by another relay", [bound("a", 10, **S0)], rebooting("a", 10, **S1),
     ("ack", 10, "ok")),
    ("4.3.2 INIT-REBOOT on another wire", [bound("a", 10, **S0)], rebooting("a", 10, **S2),
     ("nak", None, "wrong_address")),
    ("4.3.2 REBINDING on another wire", [bound("a", 10, **S0)], renewing("a", 10, **S2),
     ("nak", None, "wrong_address")),
    ("4.3.2 SELECTING on another wire", [offered("a", 10, **S0)], selecting("a", 10, **S2),
     ("nak", None, "wrong_address")),
    ("4.3.3 DECLINE on another wire", [bound("a", 10, **S0)], declining("a", 10, **S2),
     (None, None, "not_his")),
    ("4.3.4 RELEASE on another wire", [bound("a", 10, **S0)], release("a", 10, **S2),
     (None, None, "not_his")),
    ("the same client is another on another wire", [bound("a", 10, **S0)], discover("a", **S2),
     ("offer", 522, "ok")),
]


@rows(SHARED)
def test_shared_networks(before: list[Step], said: Said, expected: Expected) -> None:
    assert played(before, wired()).say(said) == expected


def test_a_client_on_two_networks_has_two_leases() -> None:
    world = played([bound("a", 10, **S0), bound("a", 522, **S2)], wired())
    assert world.states() == {10: "bound", 522: "bound"}
    assert world.say(renewing("a", 10, **S0)) == ("ack", 10, "ok")
    assert world.say(renewing("a", 522, **S2)) == ("ack", 522, "ok")
    assert world.say(release("a", 10, **S0)) == (None, 10, "ok")
    assert world.states() == {522: "bound"}


def test_a_client_on_one_wire_has_one_lease() -> None:
    assert played([bound("a", 10, **S0), bound("a", 10, **S1)], wired()).states() == {10: "bound"}


def test_the_settings_are_those_of_the_address() -> None:
    """On a shared wire netmask and router go by the address, not by the relay."""
    world = World(config=configured(SharedNetwork("wire", (
        subnet(0, pool(10, 10), options={3: b"\xc0\0\2\1"}),
        subnet(1, pool(266, 266), reservations=(reserved(400, "chaddr", chaddr("x")),),
               options={3: b"\xc0\0\3\1"}, lease_time_s=77)))))
    for who, at, router in (("a", 10, b"\xc0\0\2\1"), ("b", 266, b"\xc0\0\3\1"),
                            ("x", 400, b"\xc0\0\3\1")):
        for said in (discover(who), selecting(who, at), renewing(who, at), rebooting(who, at)):
            assert world.say(said)[1] == at
            assert world.option(3) == router
            assert world.lease_s == (100 if at == 10 else 77)
        # RFC 2131 section 4.3.5: whichever relay it comes by.
        assert world.say(Said("inform", who, ciaddr=at)) == ("ack", None, "ok")
        assert world.option(3) == router


def test_inform_gets_what_its_address_would() -> None:
    """RFC 2131 section 4.3.5: of pool and subnet; nothing of another network's."""
    world = World(config=configured(
        SharedNetwork("a", (subnet(0, pool(10, 11, options={6: b"pool"}), options={6: b"net0"}),)),
        SharedNetwork("b", (subnet(1, pool(266, 267), options={6: b"net1"}),))))
    for at, servers in ((10, b"pool"), (11, b"pool"), (12, b"net0"), (266, b"net0"), (0x0A000001,
                                                                                   b"net0")):
        assert world.say(Said("inform", "a", ciaddr=at)) == ("ack", None, "ok")
        assert world.option(6) == servers
    assert world.states() == {}
