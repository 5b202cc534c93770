"""What the tester makes of frames: malformed ones, stamps, tags, and rings with no room.

Times are microseconds from the beginning, as in test_turn.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fastpath import slots as layout
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wire import BOOTREQUEST, REASON_NAMES
from tester import cells
from tester.make import BATCH
from tests.simulated import (
    KICK_US,
    START_NS,
    US,
    Network,
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

DONE = {"discover": 1, "offer": 1, "request": 1, "ack": 1, "started": 1, "completed": 1, "bound": 1,
        "clients_bound": 1}
# Nothing but a DISCOVER that is not yet answered.
BEGUN = {"discover": 1, "started": 1, "in_flight": 1}


def edit(octets: bytes, at: int, value: int) -> bytes:
    return octets[:at] + bytes([value]) + octets[at + 1:]


def wrapped(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Change the DHCP message, and make the headers around it right."""
    def change_frame(octets: bytes) -> bytes:
        frame = Frame.decode(octets)
        frame.payload = change(frame.payload)
        return frame.encode()

    return change_frame


def repaired(at: int, value: int) -> Callable[[bytes], bytes]:
    """Change an octet of the IPv4 header, and make its checksum right."""
    def change_frame(octets: bytes) -> bytes:
        octets = edit(octets, at, value)
        header = octets[14:24] + b"\0\0" + octets[26:34]
        total = sum(int.from_bytes(header[i:i + 2], "big") for i in range(0, 20, 2))
        total = (total & 0xFFFF) + (total >> 16)
        return octets[:24] + (0xFFFF - total).to_bytes(2, "big") + octets[26:]

    return change_frame


def without(code: int) -> Callable[[bytes], bytes]:
    def change(payload: bytes) -> bytes:
        message = Message.decode(payload)
        message.remove(code)
        return message.encode()

    return wrapped(change)


def with_option(code: int, value: bytes) -> Callable[[bytes], bytes]:
    def change(payload: bytes) -> bytes:
        message = Message.decode(payload)
        message.options[code] = value
        return message.encode()

    return wrapped(change)


MALFORMED: dict[str, dict[str, Callable[[bytes], bytes]]] = {
    "ip_header": {"version": repaired(14, 0x65), "cut": lambda o: o[:100],
                  "header length": repaired(14, 0x44)},
    "ip_checksum": {"one bit": lambda o: edit(o, 24, o[24] ^ 1)},
    "fragment": {"more to come": repaired(20, 0x20), "a later one": repaired(21, 1)},
    "udp_length": {"longer": lambda o: edit(o, 38, 0x40),
                   "shorter": lambda o: edit(edit(o, 38, 0), 39, 7)},
    "udp_checksum": {"one bit": lambda o: edit(o, 40, o[40] ^ 1),
                     "of the payload": lambda o: edit(o, len(o) - 20, 1)},
    "bootp_short": {"239 octets": wrapped(lambda p: p[:239]), "none": wrapped(lambda p: b"")},
    "bootp_fields": {"op": wrapped(lambda p: edit(p, 0, 3)),
                     "hlen": wrapped(lambda p: edit(p, 2, 17))},
    "cookie": {"another": wrapped(lambda p: edit(p, 239, 0x64))},
    "option_truncated": {"too long": wrapped(lambda p: p[:240] + b"\x35\x01\x02\x36\x04\x0a"),
                         "no length": wrapped(lambda p: p[:240] + b"\x35")},
    "option_length": {"server id": with_option(54, b"\x0a\0\0"), "lease": with_option(51, b"\1"),
                      "type": with_option(53, b"\2\2")},
    "no_message_type": {"none": without(53), "unknown": with_option(53, b"\x63"),
                        "a client's": with_option(53, b"\1")},
    "incomplete": {"OFFER without server id": without(54),
                   "OFFER of 0.0.0.0": wrapped(lambda p: p[:16] + bytes(4) + p[20:])},
}


def test_every_reason_has_its_malformed_frame() -> None:
    """But for what is simply not ours: ARP and IPv6 pass on every segment."""
    assert set(MALFORMED) == set(REASON_NAMES) - {"ok", "not_dhcp", "not_ipv4"}


@pytest.mark.parametrize(("reason", "change"), [
    pytest.param(reason, change, id=f"{reason}: {what}")
    for reason, changes in MALFORMED.items() for what, change in changes.items()])
def test_malformed(reason: str, change: Callable[[bytes], bytes]) -> None:
    """Counted by its reason, and as if it had never come."""
    network = Network(config())
    network.turn(0)
    good = framed(reply(network.last(0).message, "OFFER", address_of(0)))
    network.put(change(good), 50)
    assert network.turn(52) == (1, 0)
    check_counts(network, discover=1, started=1, in_flight=1, **{reason: 1})
    network.put(good, 103)
    network.turn(105)
    acked(308).play(network)
    check_counts(network, **(DONE | {reason: 1}))
    check_latency(network, discover_offer=[100], request_ack=[200], dora=[305],
                  dora_from_intended=[308])


@pytest.mark.parametrize("change", [without(54), wrapped(lambda p: p[:16] + bytes(4) + p[20:])],
                         ids=["no server id", "no address"])
def test_incomplete_ack(change: Callable[[bytes], bytes]) -> None:
    network = play(config(), [offered(103)])
    network.put(change(framed(reply(network.last(0).message, "ACK", address_of(0)))), 200)
    network.turn(202)
    check_counts(network, discover=1, offer=1, request=1, started=1, in_flight=1, incomplete=1)
    assert states(network) == ["requesting"]


def test_options_of_one_frame_do_not_stand_for_those_of_the_next() -> None:
    network = play(config(), [offered(103)])
    request = network.last(0).message
    for change, reason in ((without(53), "no_message_type"), (without(54), "incomplete")):
        network.put(change(framed(reply(request, "ACK", address_of(0)))), 200)
        network.turn(202)
        check_counts(network, discover=1, offer=1, request=1, started=1, in_flight=1,
                     **{"no_message_type": 1, reason: 1})
    # Nor does the lease time of another (RFC 2131 table 3: an ACK has one).
    network.put(without(51)(framed(reply(request, "ACK", address_of(0)))), 300)
    network.turn(302)
    check_counts(network, discover=1, offer=1, request=1, started=1, in_flight=1,
                 no_message_type=1, incomplete=2)
    assert states(network) == ["requesting"]


def test_nak_needs_neither_address_nor_server() -> None:
    network = play(config(), [offered(103), refused(308, server=None)])
    check_counts(network, discover=1, offer=1, request=1, request_naked=1, nak=1, refusals=1,
                 started=1, failed=1)


def other_port(octets: bytes) -> bytes:
    frame = Frame.decode(octets)
    frame.dst_port = 67
    return frame.encode()


def tcp(octets: bytes) -> bytes:
    return repaired(23, 6)(octets)


@pytest.mark.parametrize("change", [
    other_port, tcp, wrapped(lambda p: edit(p, 0, BOOTREQUEST)),
    lambda o: edit(edit(o, 12, 0x86), 13, 0xDD), lambda o: o[:33], lambda o: o[:13]],
    ids=["to the server's port", "not UDP", "another client's request", "IPv6", "cut", "tiny"])
def test_not_for_us(change: Callable[[bytes], bytes]) -> None:
    """Read, and counted nowhere."""
    network = Network(config())
    network.turn(0)
    network.put(change(framed(reply(network.last(0).message, "OFFER", address_of(0)))), 50)
    assert network.turn(52) == (1, 0)
    check_counts(network, discover=1, started=1, in_flight=1)


def test_another_port() -> None:
    network = play(config(server_port=1067), [offered(103), acked(308)])
    check_counts(network, **DONE)
    assert {(sent.frame.src_port, sent.frame.dst_port) for sent in network.sent} == {(1068, 1067)}


@pytest.mark.parametrize(("status", "tag", "counted"), [
    (layout.RX_CSUM_NOT_READY, (0, 0), {"offer": 1, "request": 1}),
    (0, (0, 0), {"udp_checksum": 1}),
], ids=["not computed yet", "wrong"])
def test_udp_checksum_of_a_local_sender(status: int, tag: tuple[int, int],
                                        counted: dict[str, int]) -> None:
    """TP_STATUS_CSUMNOTREADY: a local socket left it to hardware, which there is not."""
    network = Network(config())
    network.turn(0)
    good = framed(reply(network.last(0).message, "OFFER", address_of(0)))
    network.put(edit(good, 40, good[40] ^ 1), 103, status, tag)
    network.turn(105)
    check_counts(network, discover=1, started=1, in_flight=1, **counted)


@pytest.mark.parametrize(("taken", "inside", "counted"), [
    ((0, 0), (5,), {"offer": 1, "request": 1}), ((0, 0), (5, 6), {"offer": 1, "request": 1}),
    ((0x8100, 5), (), {"offer": 1, "request": 1}), ((0x88A8, 5), (6,), {"offer": 1, "request": 1}),
    ((0x88A8, 5), (6, 7), {"offer": 1, "request": 1}), ((0x88A8, 5), (6, 7, 8), {}),
    ((0, 0), (5, 6, 7, 8), {})])
def test_vlan_tags(taken: tuple[int, int], inside: tuple[int, ...],
                   counted: dict[str, int]) -> None:
    """Three in all: one of them may have been taken off by the kernel."""
    network = Network(config())
    network.turn(0)
    frame = Frame.decode(framed(reply(network.last(0).message, "OFFER", address_of(0))))
    octets = frame.encode()
    tags = b"".join(b"\x81\0" + number.to_bytes(2, "big") for number in inside)
    network.put(octets[:12] + tags + octets[12:], 103,
                layout.RX_VLAN_VALID if taken[0] else 0, taken)
    network.turn(105)
    check_counts(network, discover=1, started=1, in_flight=1, **counted)


@pytest.mark.parametrize(("at_us", "read_us", "trusted_us", "latency_us", "untrusted"), [
    (103, 600, 0, 100, 0),
    # Older than the last step of the wall clock, or from a time to come: our own clock then.
    (103, 600, 104, 597, 1), (103, 600, 103, 100, 0),
    (1_600, 600, 0, 1_597, 0), (1_601, 600, 0, 597, 1),
    # Before it was asked: 1, the least there is.
    (0, 600, 0, 1, 0)])
def test_kernel_stamps(at_us: int, read_us: int, trusted_us: int, latency_us: int,
                       untrusted: int) -> None:
    network = Network(config())
    network.turn(0)
    network.trusted_from_ns = network.kicked_ns - KICK_US * US + trusted_us * US
    network.put(framed(reply(network.last(0).message, "OFFER", address_of(0))), at_us)
    network.turn(read_us)
    check_counts(network, discover=1, offer=1, request=1, started=1, in_flight=1,
                 untrusted=untrusted)
    check_latency(network, discover_offer=[latency_us])


def test_an_answer_that_came_in_time_is_no_timeout() -> None:
    """We may be stopped for longer than the timeout while answers wait in the ring."""
    clients = 2 * BATCH + 1
    network = Network(config(clients, window=clients))
    for _ in range(3):
        network.turn(0)
    requests = list(network.sent)
    assert len(requests) == clients
    for sent in requests:
        network.put(framed(reply(sent.message, "OFFER", address_of(sent.row))), 103)
    for turns, read in enumerate((BATCH, BATCH, 1)):
        # In batches, long after the last deadline.
        assert network.turn(60_000 + turns) == (read, read)
    check_counts(network, discover=clients, offer=clients, request=clients, started=clients,
                 in_flight=clients)
    check_latency(network, discover_offer=[100] * clients)
    # Who really got nothing is given up in turn.
    for turns in range(1, 5):
        network.turn(71_100 + turns)
    check_counts(network, discover=clients, offer=clients, request=clients, started=clients,
                 failed=clients, request_timeout=clients,
                 request_lost=clients)


def test_time_runs_from_the_kick() -> None:
    """We may also be stopped between a turn and its kick: until then nobody was asked."""
    network = Network(config(discover_tries=2))
    network.turn(0)
    for kicked_us in (60_000, 120_000):
        # The next turn learns that what the last one queued went out only then.
        network.kicked_ns = START_NS + kicked_us * US
        assert network.turn(kicked_us + 10_999) == (0, 0)
        network.turn(kicked_us + 11_000)
    check_counts(network, discover=2, discover_again=1, started=1, failed=1, discover_timeout=1,
                 discover_lost=1)


@pytest.mark.parametrize(("oldest_us", "given_up"), [(10_935, 0), (10_936, 1)])
@pytest.mark.parametrize("read_before", [0, BATCH])
def test_unread_answers_hold_only_what_is_later(oldest_us: int, given_up: int,
                                                read_before: int) -> None:
    """Time goes as far as the oldest unread answer: who was due before it is given up.

    It may wait in any slot, also in the first one (after 128 others).
    """
    network = Network(config(), rx_slots=2 * BATCH)
    network.turn(0)
    stranger = reply(network.last(0).message, "OFFER", address_of(0))
    stranger.xid ^= 0x0F0F0F0F
    for _ in range(read_before):
        network.put(framed(stranger), 50)
    network.turn(60)
    for i in range(BATCH + 1):
        network.put(framed(stranger), oldest_us + i)
    network.turn(30_000)
    strangers = read_before + BATCH
    check_counts(network, discover=1, offer_unknown_xid=strangers, started=1,
                 in_flight=1 - given_up, failed=given_up, discover_timeout=given_up,
                 discover_lost=given_up)
    assert network.turn(30_001) == (1, 0)
    check_counts(network, discover=1, offer_unknown_xid=strangers + 1, started=1,
                 failed=1, discover_timeout=1,
                 discover_lost=1)


def test_nothing_is_read_that_could_not_be_followed_up() -> None:
    """A transmit ring that is full stops the reading: no answer is dropped for it."""
    network = Network(config(8, window=8), tx_slots=4)
    assert network.turn(0, take=0) == (0, 4)
    assert network.turn(1, take=0) == (0, 0)
    network.take()
    assert [sent.row for sent in network.sent] == [0, 1, 2, 3]
    assert network.turn(2, take=0) == (0, 4)
    for row in range(4):
        network.put(framed(reply(network.sent[row].message, "OFFER", address_of(row))), 103)
    assert network.turn(105, take=0) == (0, 0)
    check_counts(network, discover=8, started=8, in_flight=8)
    network.take(2)
    # Two slots are free: two answers are read, and followed up.
    assert network.turn(200, take=0) == (2, 2)
    assert network.turn(201, take=None) == (0, 0)
    assert network.turn(202) == (2, 2)
    check_counts(network, discover=8, offer=4, request=4, started=8, in_flight=8)
    check_latency(network, discover_offer=[100] * 4)
    for row in range(4):
        acked(408, row).play(network)
    check_counts(network, discover=8, offer=4, request=4, ack=4, started=8, completed=4,
                 bound=4, clients_bound=4, in_flight=4)


def test_a_start_with_no_room_is_made_later() -> None:
    """Such a client has not begun: its time counts from when it does."""
    network = Network(config(3, window=3), tx_slots=2)
    assert network.turn(0, take=0) == (0, 2)
    assert states(network) == ["selecting", "selecting", "init"]
    network.take()
    assert network.turn(500) == (0, 1)
    offered(603, 2).play(network)
    acked(708, 2).play(network)
    check_counts(network, discover=3, offer=1, request=1, ack=1, started=3, completed=1,
                 bound=1, clients_bound=1, in_flight=2)
    check_latency(network, discover_offer=[100], request_ack=[100], dora=[205],
                  dora_from_intended=[208])


def test_a_repetition_with_no_room_is_made_a_tick_later() -> None:
    """And its try is not used up while it could not be made."""
    network = Network(config(1, discover_tries=3), tx_slots=1)
    network.turn(0, take=0)
    assert network.turn(11_000, take=0) == (0, 0)
    assert network.turn(11_500) == (0, 0)
    assert network.turn(11_999) == (0, 0)
    assert network.turn(12_000) == (0, 1)
    assert network.turn(22_999) == (0, 0)
    assert network.turn(23_000) == (0, 1)
    assert network.turn(34_000) == (0, 0)
    check_counts(network, discover=3, discover_again=2, started=1, failed=1, discover_timeout=1,
                 discover_lost=1)


def test_giving_up_needs_no_room() -> None:
    network = Network(config(2, window=2, discover_tries=2), tx_slots=2)
    network.turn(0)
    assert network.turn(11_000, take=0) == (0, 2)
    assert network.turn(22_000, take=0) == (0, 0)
    check_counts(network, discover=4, discover_again=2, started=2, failed=2, discover_timeout=2,
                 discover_lost=2)


def test_rings_are_walked_round_and_round() -> None:
    """Many more frames than slots, in rings of sizes that are no multiple of one another."""
    clients = 60
    network = Network(config(clients, window=5), rx_slots=7, tx_slots=6)
    now = 0
    answered = 0
    while network.test.counts[cells.N_BOUND] < clients and now < 100_000:
        network.turn(now, limit=3)
        now += 10
        while answered < len(network.sent) and network.room():
            sent = network.sent[answered]
            kind = "OFFER" if sent.kind == "DISCOVER" else "ACK"
            network.put(framed(reply(sent.message, kind, address_of(sent.row))), now)
            answered += 1
    check_counts(network, discover=clients, offer=clients, request=clients, ack=clients,
                 started=clients, completed=clients, bound=clients, clients_bound=clients)
