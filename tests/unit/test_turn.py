"""One turn of the tester, by scenarios: every counter and every latency told in advance.

Times are microseconds from the beginning (see tests.simulated): the first DISCOVER of a closed
loop goes out at 3, an answer at t is read at t + 2, and what follows from it goes out at t + 5.
A row of a table is a rule, with the section of RFC 2131 where it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import pairwise
from typing import Any

import pytest

from fastpath.message import Message
from tester import cells
from tester.behaviour import Behaviour
from tester.config import Expectation
from tester.make import BATCH
from tests.kernels import wraps
from tests.simulated import (
    SERVER,
    Halt,
    Look,
    Network,
    Script,
    acked,
    address_of,
    check_counts,
    check_latency,
    config,
    offered,
    play,
    refused,
    states,
)

pytestmark = wraps

OTHER = IPv4Address("10.0.0.2")
INFINITE_S = 0xFFFFFFFF
MS = 1_000
# A client's second takes a millisecond.
FAST = {"time_scale": 1000.0}


def another_xid(bits: int) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        message.xid ^= bits

    return change


def another_chaddr(message: Message) -> None:
    message.chaddr = message.chaddr[:-1] + bytes([message.chaddr[-1] ^ 1])


def rapid(message: Message) -> None:
    message.options[80] = b""


@dataclass(frozen=True)
class Case:
    """name; script; counts beyond those of one granted exchange, or instead; state; messages."""

    name: str
    script: Script
    counts: dict[str, int]
    end: list[str]
    said: str = ""
    latency: dict[str, list[int]] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)


TRIES = {"discover_tries": 3, "request_tries": 3}
DONE = {"discover": 1, "offer": 1, "request": 1, "ack": 1, "started": 1, "completed": 1, "bound": 1,
        "clients_bound": 1}
TWO = dict.fromkeys(DONE, 2)
LOST = {"discover": 1, "started": 1, "failed": 1, "discover_timeout": 1, "discover_lost": 1}
ASKED = {"discover": 1, "offer": 1, "request": 1, "started": 1}
UNANSWERED = ASKED | {"failed": 1, "request_timeout": 1, "request_lost": 1}
REFUSED = ASKED | {"nak": 1, "refusals": 1, "request_naked": 1, "failed": 1}
CLEAN = {"discover_offer": [100], "request_ack": [200], "dora": [305], "dora_from_intended": [308]}
BIND = [offered(103), acked(308)]
EXCHANGES = [
    Case("4.4.1: DORA", BIND, DONE, ["bound"], "discover request", CLEAN),
    Case("an answer faster than a microsecond", [offered(3.2), acked(8.3)], DONE, ["bound"], "",
         {"discover_offer": [1], "request_ack": [1], "dora": [5], "dora_from_intended": [8]}),
    Case("two clients, crossed",
         [offered(203, 1), offered(303, 0), acked(403, 0), acked(503, 1)], TWO, ["bound"] * 2, "",
         {"discover_offer": [200, 300], "request_ack": [95, 295], "dora": [400, 500],
          "dora_from_intended": [403, 503]}, {"clients": 2}),
    Case("OFFER lost, not yet given up", [Look(10_999)],
         {"discover": 1, "started": 1, "in_flight": 1}, ["selecting"]),
    Case("OFFER lost", [Look(10_999), Look(11_000), Look(50_000)], LOST, ["timeout_discover"]),
    Case("OFFER lost twice: latency is what the client has waited",
         [Look(11_000), Look(21_999), Look(22_000), offered(22_503), acked(22_708)],
         DONE | {"discover": 3, "discover_again": 2}, ["bound"],
         "discover discover discover request",
         {"discover_offer": [22_500], "request_ack": [200], "dora": [22_705],
          "dora_from_intended": [22_708]}, TRIES),
    Case("OFFER lost for good", [Look(n * 11_000) for n in (1, 2, 3, 4)],
         LOST | {"discover": 3, "discover_again": 2}, ["timeout_discover"], "", {}, TRIES),
    Case("ACK lost for good", [offered(103), *(Look(n * 11_000) for n in (1, 2, 3, 4))],
         UNANSWERED | {"request": 3, "request_again": 2}, ["timeout_request"], "",
         {"discover_offer": [100]}, TRIES),
    Case("3.1: NAK", [offered(103), refused(308)], REFUSED, ["refused"], "",
         {"discover_offer": [100]}),
    Case("3.1: NAK, then all over again", [offered(103), refused(308), offered(413), acked(618)],
         DONE | {"discover": 2, "offer": 2, "request": 2, "nak": 1, "refusals": 1,
                 "request_naked": 1}, ["bound"], "discover request discover request",
         {"discover_offer": [100, 100], "request_ack": [200], "dora": [615],
          "dora_from_intended": [618]}, TRIES),
    Case("NAK to a client that has not asked", [refused(103), offered(203), acked(408)],
         DONE | {"nak_unexpected": 1}, ["bound"], "",
         {"discover_offer": [200], "request_ack": [200], "dora": [405],
          "dora_from_intended": [408]}),
    Case("NAK from a server that was not asked", [offered(103), refused(200, server=OTHER),
                                                  acked(308)],
         DONE | {"nak_wrong_server": 1}, ["bound"], "", CLEAN),
    Case("every answer twice", [offered(103), offered(110), acked(308), acked(320), offered(330)],
         DONE | {"offer_duplicate": 2, "ack_duplicate": 1}, ["bound"], "", CLEAN),
    Case("two servers: the first OFFER is taken",
         [offered(103), offered(110, server=OTHER), acked(308), acked(310, server=OTHER)],
         DONE | {"offer_not_chosen": 1, "ack_wrong_server": 1}, ["bound"], "", CLEAN),
    Case("ACK of another address", [offered(103), acked(200, yiaddr=address_of(9)), acked(308)],
         DONE | {"ack_wrong_address": 1}, ["bound"], "", CLEAN),
    Case("OFFER after its time", [Look(11_000), offered(11_001)], LOST | {"offer_late": 1},
         ["timeout_discover"]),
    Case("ACK and NAK after their time", [offered(103), Look(11_000), acked(11_001),
                                          refused(11_002)],
         UNANSWERED | {"ack_late": 1, "nak_late": 1}, ["timeout_request"], "",
         {"discover_offer": [100]}),
    Case("ACK after a NAK", [offered(103), refused(308), acked(320)], REFUSED | {"ack_late": 1},
         ["refused"], "", {"discover_offer": [100]}),
    Case("ACK with no OFFER before it", [acked(53), *BIND], DONE | {"ack_unexpected": 1},
         ["bound"], "", CLEAN),
    Case("an id of nobody", [offered(53, change=another_xid(0x5A5A5A5A)), *BIND],
         DONE | {"offer_unknown_xid": 1}, ["bound"], "", CLEAN),
    Case("the right id for another chaddr",
         [offered(53, change=another_chaddr), offered(103), acked(203, change=another_chaddr),
          acked(308)], DONE | {"offer_unknown_xid": 1, "ack_unknown_xid": 1}, ["bound"], "", CLEAN),
    Case("one address for two",
         [offered(103, 0), offered(203, 1, yiaddr=address_of(0)), acked(308, 0),
          acked(408, 1, yiaddr=address_of(0))],
         TWO | {"completed": 1, "bound": 1, "clients_bound": 1, "failed": 1, "duplicates": 1},
         ["bound", "duplicate"], "",
         {"discover_offer": [100, 200], "request_ack": [200, 200], "dora": [305],
          "dora_from_intended": [308]}, {"clients": 2}),
    Case("RFC 4039: rapid commit", [acked(103, change=rapid)],
         DONE | {"offer": 0, "request": 0}, ["bound"], "discover",
         {"rapid": [100], "dora": [100], "dora_from_intended": [103]}, {"rapid_commit": True}),
    Case("RFC 4039: not asked for", [acked(53, change=rapid), *BIND],
         DONE | {"ack_unexpected": 1}, ["bound"], "", CLEAN),
    Case("rapid commit while OFFERs are compared", [offered(103), acked(308, change=rapid)],
         DONE | {"request": 0}, ["bound"], "discover",
         {"discover_offer": [100], "rapid": [305], "dora": [305], "dora_from_intended": [308]},
         {"rapid_commit": True, "offer_policy": cells.OFFER_ALL, "offer_wait_s": 0.005}),
    Case("all OFFERs: the longest lease",
         [offered(103), offered(110, server=OTHER, lease_s=7200), Look(5_999), Look(6_000),
          acked(6_303, server=OTHER)],
         DONE | {"offer_not_chosen": 1}, ["bound"], "discover request",
         {"discover_offer": [100], "request_ack": [300], "dora": [6_300],
          "dora_from_intended": [6_303]},
         {"offer_policy": cells.OFFER_ALL, "offer_wait_s": 0.005}),
    Case("OFFERs of one server, and no other",
         [offered(53), offered(103, server=OTHER), acked(308, server=OTHER)],
         DONE | {"offer_not_chosen": 1}, ["bound"], "", CLEAN,
         {"offer_policy": cells.OFFER_SERVER, "offer_server": OTHER, "offer_wait_s": 0.005}),
    Case("discover-only", [offered(103), offered(110)],
         {"discover": 1, "offer": 1, "offer_duplicate": 1, "started": 1, "completed": 1},
         ["offered"], "discover", {"discover_offer": [100]},
         {"lives": Behaviour("discover-only", opening=cells.O_LOOK)}),
]


def stay(hold_s: float = math.inf) -> dict[str, Any]:
    return FAST | {"lives": Behaviour("stay", hold_s=hold_s)}


def ends(ending: int, *, hold_s: float = 10.0, **more: Any) -> dict[str, Any]:
    return FAST | {"lives": Behaviour("it", ending=ending, hold_s=hold_s, **more)}


TENTH = {"lease_s": 80}
HELD = [offered(103, **TENTH), acked(308, **TENTH)]
LIVES = [
    # A lease of 80 ms from 0: T1 at 40 ms, T2 at 70 ms.
    Case("4.4.5: T1 and not before", [*HELD, Look(39_999)], DONE, ["bound"], "discover request",
         CLEAN, stay()),
    Case("4.4.5: RENEWING by unicast", [*HELD, Look(40_000), acked(40_103, **TENTH)],
         DONE | {"ack": 2, "renew": 1}, ["bound"], "discover request renew",
         CLEAN | {"renew_ack": [100]}, stay()),
    Case("4.4.5: REBINDING by broadcast, granted by any server",
         [*HELD, Look(40_000), Look(51_000), Look(70_000), acked(70_103, server=OTHER)],
         DONE | {"ack": 2, "renew": 1, "renew_lost": 1, "rebind": 1}, ["bound"],
         "discover request renew rebind", CLEAN | {"rebind_ack": [100]}, stay()),
    Case("4.4.5: the lease ends", [*HELD, *(Look(n * MS) for n in (40, 51, 70, 79, 81, 82))],
         DONE | {"renew": 1, "renew_lost": 1, "rebind": 1, "rebind_lost": 1, "leases_lost": 1,
                 "returned": 1, "discover": 2, "in_flight": 1}, ["selecting"],
         "discover request renew rebind discover", CLEAN, stay()),
    Case("4.4.5: NAK in RENEWING", [*HELD, Look(40_000), refused(40_103)],
         DONE | {"renew": 1, "renew_naked": 1, "nak": 1, "refusals": 1, "leases_lost": 1,
                 "returned": 1, "discover": 2, "in_flight": 1}, ["selecting"],
         "discover request renew discover", CLEAN, stay()),
    Case("a renewal granted too late", [*HELD, Look(40_000), Look(51_000), acked(52_000)],
         DONE | {"renew": 1, "renew_lost": 1, "ack_late": 1}, ["bound"], "", CLEAN, stay()),
    Case("ACK of a renewal by another server", [*HELD, Look(40_000), acked(40_103, server=OTHER)],
         DONE | {"renew": 1, "ack_wrong_server": 1}, ["renewing"], "", CLEAN, stay()),
    Case("3.3: a lease for ever", [offered(103, lease_s=INFINITE_S),
                                   acked(308, lease_s=INFINITE_S), Look(9_000_000)],
         DONE, ["bound"], "discover request", CLEAN, stay()),
    Case("held long enough: no more renewals", [*HELD, Look(11_000), Look(100_000)], DONE,
         ["bound"], "discover request", CLEAN, stay(10.0)),
    Case("4.4.6: RELEASE", [*HELD, Look(10_000), Look(99_000)], DONE | {"release": 1}, ["left"],
         "discover request release", CLEAN, ends(cells.E_RELEASE)),
    Case("held for no time", [*HELD, Look(1_000)], DONE | {"release": 1}, ["left"],
         "discover request release", CLEAN, ends(cells.E_RELEASE, hold_s=0.0)),
    Case("flap", [*HELD, Look(10_000), Look(14_999), Look(15_000), offered(15_103), acked(15_308),
                  Look(25_000), Look(99_000)],
         TWO | {"started": 1, "returned": 1, "clients_bound": 1, "release": 2}, ["left"],
         "discover request release discover request release",
         {"discover_offer": [100, 100], "request_ack": [200, 200], "dora": [305, 305],
          "dora_from_intended": [308, 308]}, ends(cells.E_RELEASE, return_s=5.0, lives=2)),
    Case("leave without a word", [*HELD, Look(10_000)], DONE | {"silent_leaves": 1}, ["left"],
         "discover request", CLEAN, ends(cells.E_LEAVE)),
    Case("expire", [*HELD, Look(79_999), Look(80_000)], DONE | {"leases_expired": 1}, ["left"],
         "discover request", CLEAN, ends(cells.E_EXPIRE, hold_s=math.inf, renews=False)),
    Case("3.1 step 5: DECLINE, ten seconds, then again",
         [*HELD, Look(9_999), Look(10_000), offered(10_103), acked(10_308)],
         TWO | {"started": 1, "returned": 1, "bound": 1, "clients_bound": 1, "decline": 1},
         ["bound"], "discover request decline discover request",
         {"discover_offer": [100, 100], "request_ack": [200, 200], "dora": [305, 305],
          "dora_from_intended": [308, 308], "interval": [305]},
         ends(cells.E_DECLINE, hold_s=0.0)),
    Case("3.2: INIT-REBOOT", [*HELD, Look(10_000), acked(10_103)], DONE | {"reboot": 1, "ack": 2},
         ["bound"], "discover request reboot", CLEAN | {"reboot_ack": [100]},
         ends(cells.E_REBOOT)),
    Case("3.2: NAK in REBOOTING", [*HELD, Look(10_000), refused(10_103), offered(10_208),
                                   acked(10_413), Look(99_000)],
         TWO | {"started": 1, "returned": 1, "clients_bound": 1, "nak": 1, "refusals": 1,
                "reboot": 1, "reboot_naked": 1}, ["bound"],
         "discover request reboot discover request",
         {"discover_offer": [100, 100], "request_ack": [200, 200], "dora": [305, 305],
          "dora_from_intended": [308, 310]}, ends(cells.E_REBOOT)),
    Case("3.2: nobody confirms", [*HELD, Look(10_000), Look(21_000)],
         DONE | {"reboot": 1, "reboot_lost": 1, "returned": 1, "discover": 2, "in_flight": 1},
         ["selecting"], "discover request reboot discover", CLEAN, ends(cells.E_REBOOT)),
    Case("3.4: INFORM", [*HELD, Look(10_000), acked(10_103)], DONE | {"inform": 1, "ack": 2},
         ["bound"], "discover request inform", CLEAN | {"inform_ack": [100]},
         ends(cells.E_INFORM)),
    Case("3.4: NAK to an INFORM, and a late ACK",
         [*HELD, Look(10_000), refused(10_103), Look(21_000), acked(21_100)],
         DONE | {"inform": 1, "inform_lost": 1, "nak_unexpected": 1, "ack_late": 1}, ["bound"],
         "", CLEAN, ends(cells.E_INFORM)),
    Case("asked to stop, nobody comes back", [*HELD, Halt(), Look(10_000), Look(99_000)], DONE,
         ["bound"], "discover request", CLEAN, ends(cells.E_RELEASE, lives=3)),
    Case("asked to stop while away", [*HELD, Look(10_000), Halt(), Look(99_000)],
         DONE | {"release": 1}, ["left"], "", CLEAN, ends(cells.E_RELEASE, lives=3)),
    Case("--renew-rate and --release-rate", [*BIND, Look(1_000, renewals=1), acked(1_103),
                                             Look(2_000, releases=1, renewals=0),
                                             Look(3_000, renewals=1, releases=1)],
         DONE | {"ack": 2, "renew": 1, "release": 1, "nobody_to_renew": 1,
                 "nobody_to_release": 1}, ["left"], "discover request renew release",
         CLEAN | {"renew_ack": [100]}, {"renew_rate": 1.0}),
    Case("more exchanges than clients", [*BIND, offered(413), acked(618)],
         TWO | {"clients_bound": 1}, ["bound"], "discover request discover request",
         {"discover_offer": [100, 100], "request_ack": [200, 200], "dora": [305, 305],
          "dora_from_intended": [308, 308]}, {"exchanges": 2}),
]


@pytest.mark.parametrize("case", EXCHANGES + LIVES, ids=lambda case: case.name)
def test_scenario(case: Case) -> None:
    network = play(config(**case.setup), case.script)
    assert states(network) == case.end
    check_counts(network, **case.counts)
    check_latency(network, **case.latency)
    if case.said:
        assert " ".join(sent.does for sent in network.sent) == case.said


def test_handover() -> None:
    """The address given back is asked for under another name until it is given."""
    network = play(config(**ends(cells.E_HANDOVER)),
                   [*HELD, Look(10_000), Look(11_000), offered(11_103, yiaddr=address_of(5)),
                    Look(22_000), offered(22_103), acked(22_308)])
    assert [(sent.does, sent.alias) for sent in network.sent] == [
        ("discover", 0), ("request", 0), ("release", 0), ("discover", 1), ("discover", 2),
        ("request", 2)]
    check_counts(network, discover=3, offer=2, offer_not_chosen=1, request=2, ack=2, release=1,
                 probes=2, started=1, returned=1, completed=2, bound=2, clients_bound=1)
    # From the kick of the RELEASE, at 10,003.
    check_latency(network, discover_offer=[100, 100], request_ack=[200, 200], dora=[305, 305],
                  dora_from_intended=[308, 305], release_free=[12_100])


@pytest.mark.parametrize(("at_us", "outcome", "released"), [
    (1_900_000, "duplicate", False), (2_100_000, "bound", False), (1_900_000, "bound", True)])
def test_an_address_given_twice(at_us: int, outcome: str, released: bool) -> None:
    """By the server's clock: neither --time-scale nor a client's own timer ends a lease."""
    network = Network(config(2, rate_per_s=1.0, renew_rate=1.0, time_scale=1000.0))
    network.turn(0, 1, [0])
    for event in (offered(103, lease_s=2), acked(308, lease_s=2)):
        event.play(network)
    if released:
        network.turn(20_000, releases=1)
    network.turn(at_us - 500, 1, [at_us - 500])
    for event in (offered(at_us, 1, yiaddr=address_of(0)),
                  acked(at_us + 200, 1, yiaddr=address_of(0))):
        event.play(network)
    assert states(network)[1] == outcome


@pytest.mark.parametrize(("wanted", "different"), [("255.255.0.0", 0), ("255.0.0.0", 1)])
def test_expectations(wanted: str, different: int) -> None:
    expects = (Expectation("mask", 1, cells.X_EQUAL, IPv4Address(wanted).packed),
               Expectation("router", 3, cells.X_PRESENT), Expectation("dns", 6, cells.X_ABSENT))
    network = play(config(expects=expects), BIND)
    rows = network.test.expected.rows
    assert rows[:, cells.X_MISSING].tolist() == [0, 1, 0]
    assert rows[:, cells.X_DIFFERENT].tolist() == [different, 0, 0]
    assert network.test.counts[cells.UNEXPECTED_OPTION] == 1 + different


def test_backoff_and_secs() -> None:
    """RFC 2131 section 4.1: 4, 8, 16 seconds, each by up to one second more or less."""
    network = Network(config(discover_tries=4, backoff_s=(4.0, 64.0)))
    network.turn(0)
    for ms in range(0, 70_000, 100):
        network.turn(ms * MS)
    times = [sent.at_us / 1e6 for sent in network.sent]
    gaps = [after - before for before, after in pairwise(times)]
    assert len(gaps) == 3
    for gap, wanted in zip(gaps, (4, 8, 16), strict=True):
        assert wanted - 1 <= gap <= wanted + 1.2
    assert [sent.message.secs for sent in network.sent] == [int(t) for t in times]
    assert states(network) == ["timeout_discover"]


def test_secs_of_a_request_is_that_of_its_discover() -> None:
    network = play(config(timeout_s=2.0, discover_tries=3, request_tries=2),
                   [Look(2_001_000), Look(4_002_000), offered(5_500_000), Look(7_510_000),
                    refused(8_100_000), Look(8_200_000)])
    assert [(sent.kind, sent.message.secs) for sent in network.sent] == [
        ("DISCOVER", 0), ("DISCOVER", 2), ("DISCOVER", 4), ("REQUEST", 4), ("REQUEST", 4),
        ("DISCOVER", 8)]


def test_orders_without_room_are_left_over() -> None:
    network = Network(config(2, renew_rate=1.0), tx_slots=2)
    network.turn(0)
    for event in (offered(103, 0), offered(113, 1), acked(308, 0), acked(318, 1)):
        event.play(network)
    network.turn(1_000, renewals=1, releases=1, take=0)
    assert network.due.tolist() == [0, 0, 0]
    network.turn(2_000, renewals=3, take=0)
    assert network.due.tolist() == [0, 3, 0]


def test_per_server() -> None:
    network = play(config(), [offered(103), offered(110, server=OTHER), acked(308)])
    rows = network.test.servers[:2]
    assert rows[:, cells.S_ID].tolist() == [int(SERVER), int(OTHER)]
    assert rows[:, cells.S_OFFERS].tolist() == [1, 1]
    assert rows[:, cells.S_CHOSEN].tolist() == [1, 0]


def test_a_turn_starts_no_more_than_its_limit() -> None:
    network = Network(config(1000, window=1000))
    assert network.turn(0, limit=5) == (0, 5)
    assert network.turn(1, limit=5) == (0, 5)
    assert network.turn(2) == (0, BATCH)
    assert [sent.row for sent in network.sent] == list(range(10 + BATCH))


@pytest.mark.parametrize(("late_us", "missed"), [(0, 0), (9_999, 0), (10_000, 0), (10_001, 1)])
def test_missed_starts(late_us: int, missed: int) -> None:
    network = Network(config(1, rate_per_s=1.0))
    network.turn(1_000 + late_us, 1, [1_000])
    check_counts(network, discover=1, started=1, in_flight=1, missed=missed)
    offered(1_103 + late_us).play(network)
    acked(1_308 + late_us).play(network)
    check_latency(network, discover_offer=[100], request_ack=[200], dora=[305],
                  dora_from_intended=[308 + late_us])


def test_stop_finishes_what_was_begun() -> None:
    network = Network(config(10, window=2, request_tries=2))
    network.turn(0)
    network.stop()
    for event in (offered(103, 0), acked(308, 0), offered(503, 1), Look(11_000), acked(11_103, 1)):
        event.play(network)
    check_counts(network, **TWO | {"request": 3, "request_again": 1})
    assert states(network) == ["bound"] * 2 + ["init"] * 8
