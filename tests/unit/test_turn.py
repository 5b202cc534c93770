"""One turn of the tester, by scenarios: every counter and every latency told in advance.

Times are microseconds from the beginning (see tests.simulated): the first DISCOVER of a closed
loop goes out at 3, an answer at t is read at t + 2, and what follows from it goes out at t + 5.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import pytest

from fastpath.message import Message
from fastpath.wire import BOOTREQUEST
from tester import engine
from tester.config import BATCH
from tests.simulated import (
    MAC_BASE,
    SERVER,
    Look,
    Network,
    Script,
    acked,
    address_of,
    check_counts,
    check_latency,
    config,
    framed,
    offered,
    play,
    refused,
    reply,
    states,
)

OTHER_SERVER = IPv4Address("10.0.0.2")
def another_xid(bits: int) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        message.xid ^= bits

    return change


def another_chaddr(message: Message) -> None:
    message.chaddr = message.chaddr[:-1] + bytes([message.chaddr[-1] ^ 1])


@dataclass(frozen=True)
class Case:
    """name; script; what comes of it. One client unless told else."""

    name: str
    script: Script
    counts: dict[str, int]
    end: list[str]
    latency: dict[str, list[int]] = field(default_factory=dict)
    setup: dict[str, Any] = field(default_factory=dict)
    retransmits: list[int] | None = None


TRIES = {"discover_tries": 3, "request_tries": 3}
DONE = {"discover": 1, "offer": 1, "request": 1, "ack": 1, "started": 1, "bound": 1}
CLEAN = {"discover_offer": [100], "request_ack": [200], "dora": [305], "dora_from_intended": [308]}
CASES = [
    Case("clean", [offered(103), acked(308)], DONE, ["bound"], CLEAN),
    Case("two clients, crossed",
         [offered(203, 1), offered(303, 0), acked(403, 0), acked(503, 1)],
         {"discover": 2, "offer": 2, "request": 2, "ack": 2, "started": 2, "bound": 2},
         ["bound", "bound"],
         {"discover_offer": [200, 300], "request_ack": [95, 295], "dora": [400, 500],
          "dora_from_intended": [403, 503]}, {"clients": 2}),
    Case("two answers in one turn",
         [offered(103, 0, alone=False), offered(110, 1), acked(215, 0, alone=False),
          acked(315, 1)],
         {"discover": 2, "offer": 2, "request": 2, "ack": 2, "started": 2, "bound": 2},
         ["bound", "bound"],
         # Both REQUESTs go out with the kick at 115, both ACKs are read at 317.
         {"discover_offer": [100, 107], "request_ack": [100, 200], "dora": [212, 312],
          "dora_from_intended": [215, 315]}, {"clients": 2}),
    Case("an answer faster than a microsecond", [offered(3.2), acked(8.3)], DONE, ["bound"],
         {"discover_offer": [1], "request_ack": [1], "dora": [5], "dora_from_intended": [8]}),

    Case("OFFER lost", [Look(10_999), Look(11_000), Look(50_000)],
         {"discover": 1, "started": 1, "failed": 1, "discover_timeout": 1}, ["timeout_discover"]),
    Case("OFFER lost, not yet given up", [Look(10_999)],
         {"discover": 1, "started": 1, "in_flight": 1}, ["selecting"]),
    Case("OFFER lost twice",
         [Look(11_000), Look(21_999), Look(22_000), offered(22_503), acked(22_708)],
         DONE | {"discover": 3, "discover_again": 2}, ["bound"],
         # Latency is from the first DISCOVER: what the client has waited.
         {"discover_offer": [22_500], "request_ack": [200], "dora": [22_705],
          "dora_from_intended": [22_708]}, TRIES, [2]),
    Case("OFFER lost for good", [Look(11_000), Look(22_000), Look(33_000), Look(44_000)],
         {"discover": 3, "discover_again": 2, "started": 1, "failed": 1, "discover_timeout": 1},
         ["timeout_discover"], {}, TRIES, [2]),
    Case("ACK lost", [offered(103), Look(10_999), Look(11_000)],
         {"discover": 1, "offer": 1, "request": 1, "started": 1, "failed": 1,
          "request_timeout": 1}, ["timeout_request"], {"discover_offer": [100]}),
    Case("ACK lost once", [offered(103), Look(11_000), acked(11_208)],
         DONE | {"request": 2, "request_again": 1}, ["bound"],
         {"discover_offer": [100], "request_ack": [11_100], "dora": [11_205],
          "dora_from_intended": [11_208]}, TRIES, [1]),
    Case("ACK lost for good",
         [offered(103), Look(11_000), Look(22_000), Look(33_000)],
         {"discover": 1, "offer": 1, "request": 3, "request_again": 2, "started": 1, "failed": 1,
          "request_timeout": 1}, ["timeout_request"], {"discover_offer": [100]}, TRIES, [2]),
    Case("both lost once: tries are counted for each message",
         [Look(11_000), offered(11_503), Look(22_000), acked(22_508)],
         DONE | {"discover": 2, "discover_again": 1, "request": 2, "request_again": 1}, ["bound"],
         {"discover_offer": [11_500], "request_ack": [11_000], "dora": [22_505],
          "dora_from_intended": [22_508]}, {"discover_tries": 2, "request_tries": 2}, [2]),

    Case("NAK", [offered(103), refused(308)],
         {"discover": 1, "offer": 1, "request": 1, "nak": 1, "refused": 1, "started": 1,
          "failed": 1}, ["refused"], {"discover_offer": [100]}),
    Case("NAK, then all over again",
         [offered(103), refused(308), offered(413), acked(618)],
         {"discover": 2, "offer": 2, "request": 2, "ack": 1, "nak": 1, "refused": 1, "started": 1,
          "bound": 1}, ["bound"],
         {"discover_offer": [100, 100], "request_ack": [200], "dora": [615],
          "dora_from_intended": [618]}, TRIES, [0]),
    Case("NAK until the tries are used up",
         [offered(103), refused(208), offered(313), refused(418), offered(523), refused(628)],
         {"discover": 3, "offer": 3, "request": 3, "nak": 3, "refused": 3, "started": 1,
          "failed": 1}, ["refused"], {"discover_offer": [100, 100, 100]}, TRIES, [0]),
    Case("NAK to a client that has not asked", [refused(103), offered(203), acked(408)],
         DONE | {"nak": 1, "repeated": 1}, ["bound"],
         {"discover_offer": [200], "request_ack": [200], "dora": [405],
          "dora_from_intended": [408]}),
    Case("a second NAK to what the first has ended",
         [offered(103), refused(308), refused(320, to=1), offered(413), acked(618)],
         {"discover": 2, "offer": 2, "request": 2, "ack": 1, "nak": 2, "refused": 1, "late": 1,
          "started": 1, "bound": 1}, ["bound"],
         {"discover_offer": [100, 100], "request_ack": [200], "dora": [615],
          "dora_from_intended": [618]}, TRIES),

    Case("every answer twice",
         [offered(103), offered(110), acked(308), acked(320), offered(330)],
         DONE | {"offer": 3, "ack": 2, "repeated": 3}, ["bound"], CLEAN),
    Case("two servers: the first OFFER is taken",
         [offered(103), offered(110, server=OTHER_SERVER, yiaddr=IPv4Address("10.0.2.9")),
          acked(308)],
         DONE | {"offer": 2, "repeated": 1}, ["bound"], CLEAN),
    Case("both answers to a DISCOVER sent twice",
         [Look(11_000), offered(11_503), offered(11_600), acked(11_708)],
         DONE | {"discover": 2, "discover_again": 1, "offer": 2, "repeated": 1}, ["bound"],
         {"discover_offer": [11_500], "request_ack": [200], "dora": [11_705],
          "dora_from_intended": [11_708]}, TRIES, [1]),
    Case("OFFER after its time", [Look(11_000), offered(11_001)],
         {"discover": 1, "offer": 1, "started": 1, "failed": 1, "discover_timeout": 1, "late": 1},
         ["timeout_discover"]),
    Case("ACK after its time", [offered(103), Look(11_000), acked(11_001), refused(11_002)],
         {"discover": 1, "offer": 1, "request": 1, "ack": 1, "nak": 1, "started": 1, "failed": 1,
          "request_timeout": 1, "late": 2}, ["timeout_request"], {"discover_offer": [100]}),
    Case("ACK after a NAK", [offered(103), refused(308), acked(320)],
         {"discover": 1, "offer": 1, "request": 1, "ack": 1, "nak": 1, "refused": 1, "started": 1,
          "failed": 1, "late": 1}, ["refused"], {"discover_offer": [100]}),
    Case("ACK with no OFFER before it", [acked(103), offered(110), acked(315)],
         DONE | {"ack": 2, "repeated": 1}, ["bound"],
         {"discover_offer": [107], "request_ack": [200], "dora": [312],
          "dora_from_intended": [315]}),

    Case("an id of nobody", [offered(103, change=another_xid(0x5A5A5A5A)), Look(11_000)],
         {"discover": 1, "offer": 1, "unknown_xid": 1, "started": 1, "failed": 1,
          "discover_timeout": 1}, ["timeout_discover"]),
    Case("an id one bit off, in a large table",
         [offered(103, change=another_xid(1)), offered(203), acked(408)],
         DONE | {"offer": 2, "unknown_xid": 1}, ["bound"] + ["init"] * 999,
         {"discover_offer": [200], "request_ack": [200], "dora": [405],
          "dora_from_intended": [408]}, {"clients": 1000, "stopped": True}),
    Case("the right id for another chaddr",
         [offered(103, change=another_chaddr), offered(203), acked(303, change=another_chaddr),
          acked(408)],
         DONE | {"offer": 2, "ack": 2, "unknown_xid": 2}, ["bound"],
         {"discover_offer": [200], "request_ack": [200], "dora": [405],
          "dora_from_intended": [408]}),

    Case("one address for two",
         [offered(103, 0), offered(203, 1, yiaddr=address_of(0)), acked(308, 0),
          acked(408, 1, yiaddr=address_of(0))],
         {"discover": 2, "offer": 2, "request": 2, "ack": 2, "started": 2, "bound": 1, "failed": 1,
          "duplicate": 1}, ["bound", "duplicate"],
         {"discover_offer": [100, 200], "request_ack": [200, 200], "dora": [305],
          "dora_from_intended": [308]}, {"clients": 2}),
    Case("one address offered to two, given to one",
         [offered(103, 0), offered(203, 1, yiaddr=address_of(0)), acked(308, 0), acked(408, 1)],
         {"discover": 2, "offer": 2, "request": 2, "ack": 2, "started": 2, "bound": 2},
         ["bound", "bound"],
         {"discover_offer": [100, 200], "request_ack": [200, 200], "dora": [305, 405],
          "dora_from_intended": [308, 408]}, {"clients": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scenario(case: Case) -> None:
    setup = dict(case.setup)
    stopped = setup.pop("stopped", False)
    settings = config(setup.pop("clients", 1), window=1 if stopped else 64, **setup)
    network = Network(settings)
    network.turn(0)
    if stopped:
        network.stop()
    for event in case.script:
        event.play(network)
    check_counts(network, **case.counts)
    check_latency(network, **case.latency)
    assert states(network) == case.end
    if case.retransmits is not None:
        assert network.test.clients.retransmits.tolist() == case.retransmits


def test_a_bound_client_keeps_what_it_was_given() -> None:
    """The ACK counts, not the OFFER (RFC 2131 section 3.1, step 4)."""
    given = IPv4Address("10.0.7.7")
    network = play(config(), [offered(103), acked(308, yiaddr=given)])
    clients = network.test.clients
    assert (clients.yiaddr[0], clients.server[0]) == (int(given), int(SERVER))
    assert clients.lease_s[0] == 3600
    assert (clients.discover_offer_us[0], clients.request_ack_us[0], clients.dora_us[0]) == (
        100, 200, 305)
    # Later answers, also of others, change nothing.
    before = [column.tolist() for column in clients]
    for late in (acked(400), offered(410, server=OTHER_SERVER), refused(420)):
        late.play(network)
    assert [column.tolist() for column in clients] == before


def test_what_is_sent() -> None:
    """DISCOVER and REQUEST as RFC 2131 table 5 wants them, from every client in its name."""
    settings = config(2, broadcast_flag=True)
    network = play(settings, [offered(103, 1, server=OTHER_SERVER)])
    kinds = [(sent.kind, sent.row, sent.at_us) for sent in network.sent]
    assert kinds == [("DISCOVER", 0, 3), ("DISCOVER", 1, 3), ("REQUEST", 1, 108)]
    for sent in network.sent:
        frame, message = sent.frame, sent.message
        assert frame.dst_mac == b"\xff" * 6 and frame.src_mac == message.chaddr
        assert message.chaddr == MAC_BASE[:-1] + bytes([sent.row])
        assert (frame.src_ip, frame.dst_ip) == (IPv4Address(0), IPv4Address("255.255.255.255"))
        assert (frame.src_port, frame.dst_port) == (68, 67)
        assert (message.op, message.htype, message.hlen, message.hops) == (BOOTREQUEST, 1, 6, 0)
        assert message.flags == 0x8000 and message.secs == 0
        assert {message.ciaddr, message.yiaddr, message.siaddr, message.giaddr} == {IPv4Address(0)}
        assert message.get("parameter-request-list") == [1, 3, 6, 15, 51, 58, 59]
        assert message.get("max-message-size") == 1500
        assert len(frame.payload) >= 300  # RFC 1542 section 2.1
    first, second, request = (sent.message for sent in network.sent)
    assert first.xid != second.xid and request.xid == second.xid
    asked = {50: address_of(1), 54: OTHER_SERVER}
    assert {code: request.get(code) for code in asked} == asked
    assert set(request.options) == set(second.options) | set(asked)


def test_a_client_after_a_nak_takes_another_id() -> None:
    network = play(config(discover_tries=2), [offered(103), refused(308)])
    kinds = [sent.kind for sent in network.sent]
    assert kinds == ["DISCOVER", "REQUEST", "DISCOVER"]
    ids = [sent.message.xid for sent in network.sent]
    assert ids[0] == ids[1] != ids[2]
    # It asks for nothing that it was refused.
    assert not {50, 54} & set(network.sent[2].message.options)


def test_secs() -> None:
    """Seconds since the client began; a REQUEST says what its DISCOVER said.

    RFC 2131 section 4.4.1, and section 3.1 step 3 for the REQUEST.
    """
    settings = config(timeout_s=2.0, discover_tries=3, request_tries=2)
    network = play(settings, [Look(2_001_000), Look(4_002_000), offered(5_500_000),
                              Look(7_510_000), refused(8_100_000), Look(8_200_000)])
    found = [(sent.kind, sent.message.secs) for sent in network.sent]
    assert found == [("DISCOVER", 0), ("DISCOVER", 2), ("DISCOVER", 4), ("REQUEST", 4),
                     ("REQUEST", 4), ("DISCOVER", 8)]


def test_secs_ends_where_its_field_ends() -> None:
    network = play(config(discover_tries=3), [Look(10)])
    for hours in (18, 19):
        network.test.clients.started_ns[0] = network.kicked_ns - hours * 3600 * 10**9
        network.turn(network.last(0).at_us + 11_000)
    assert [sent.message.secs for sent in network.sent] == [0, 18 * 3600, 0xFFFF]


def test_closed_loop_never_exceeds_its_window() -> None:
    """A new one begins when one ends, however it ends: here by ACK, NAK and timeout."""
    clients, window = 40, 7
    network = Network(config(clients, window=window))
    counts, now = network.test.counts, 0
    answered = 0
    for _ in range(400):
        network.turn(now)
        in_flight = counts[engine.STARTED] - counts[engine.N_BOUND] - counts[engine.FAILED]
        assert in_flight == counts[engine.IN_FLIGHT] == min(
            window, clients - counts[engine.N_BOUND] - counts[engine.FAILED])
        now += 250
        for sent in network.sent[answered:]:
            fate = sent.row % 4
            kind = "OFFER" if sent.kind == "DISCOVER" else "NAK" if fate == 1 else "ACK"
            if fate != 2 and (fate != 3 or sent.kind == "DISCOVER"):
                network.put(framed(reply(sent.message, kind, address_of(sent.row))), now)
        answered = len(network.sent)
    check_counts(network, discover=40, offer=30, request=30, ack=10, nak=10, refused=10,
                 started=40, bound=10, failed=30, discover_timeout=10, request_timeout=10)


def test_a_turn_starts_no_more_than_its_limit() -> None:
    network = Network(config(1000, window=1000))
    assert network.turn(0, limit=5) == (0, 5)
    assert network.turn(1, limit=5) == (0, 5)
    assert network.turn(2) == (0, BATCH)
    assert [sent.row for sent in network.sent] == list(range(10 + BATCH))


def test_open_loop() -> None:
    """Starts what is due, when it is due, whatever is in flight; never beyond the table."""
    network = Network(config(5, rate_per_s=10_000.0))
    assert network.turn(0) == (0, 0)
    assert network.turn(50, 1, [0]) == (0, 1)
    assert network.turn(150, 2, [100, 140]) == (0, 2)
    assert network.turn(400, 9, [300] * 9) == (0, 2)
    assert network.turn(500, 9, [400] * 9) == (0, 0)
    check_counts(network, discover=5, started=5, in_flight=5)
    offered(553, 0).play(network)
    acked(758, 0).play(network)
    offered(803, 2).play(network)
    acked(908, 2).play(network)
    check_latency(network, discover_offer=[500, 650], request_ack=[200, 100],
                  # Sent at 53 and 153, meant for 0 and 140.
                  dora=[705, 755], dora_from_intended=[758, 768])


@pytest.mark.parametrize(("late_us", "missed"), [(0, 0), (9_999, 0), (10_000, 0), (10_001, 1)])
def test_missed_starts(late_us: int, missed: int) -> None:
    network = Network(config(1, rate_per_s=1.0))
    network.turn(1_000 + late_us, 1, [1_000])
    check_counts(network, discover=1, started=1, in_flight=1, missed=missed)
    # The delay is ours, and it is told: it counts from the intended start only.
    offered(1_103 + late_us).play(network)
    acked(1_308 + late_us).play(network)
    check_latency(network, discover_offer=[100], request_ack=[200], dora=[305],
                  dora_from_intended=[308 + late_us])


def test_stop_starts_nothing_and_finishes_what_was_begun() -> None:
    network = Network(config(10, window=2, request_tries=2))
    network.turn(0)
    network.stop()
    for event in (offered(103, 0), acked(308, 0), offered(503, 1), Look(11_000), acked(11_103, 1)):
        event.play(network)
    check_counts(network, discover=2, offer=2, request=3, request_again=1, ack=2, started=2,
                 bound=2)
    assert states(network) == ["bound"] * 2 + ["init"] * 8


def test_stop_in_an_open_loop() -> None:
    network = Network(config(4, rate_per_s=1.0))
    network.turn(0, 1, [0])
    network.stop()
    assert network.turn(10, 3, [1, 2, 3]) == (0, 0)
    check_counts(network, discover=1, started=1, in_flight=1)
