"""Whole frames through the server: who gets a reply, where it goes, what is counted."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wire import MessageType
from tests.kernels import wraps
from tests.serving import (
    ALL_MACS,
    CLIENT_MAC,
    EVERYBODY,
    OURS,
    RELAY_MAC,
    SERVER,
    SERVER_MAC,
    Served,
    bind,
    framed,
    request,
    wants,
)

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
RELAY, FIRST = IP("192.0.2.200"), IP("192.0.2.10")
CIRCUIT = bytes.fromhex("0104") + b"eth0" + bytes.fromhex("0206") + b"remote"


# --- RFC 2131 section 4.1: where replies go ------------------------------------------------------

FLAG = 0x8000
# name, request, source MAC, expected: type, destination MAC, address, port
WAYS: list[tuple[str, Message, bytes, tuple[MessageType, bytes, IPv4Address, int]]] = [
    ("OFFER by unicast to chaddr and yiaddr", request(DISCOVER), CLIENT_MAC,
     (OFFER, CLIENT_MAC, FIRST, 68)),
    ("to chaddr, whoever sent the frame", request(DISCOVER), b"\2other",
     (OFFER, CLIENT_MAC, FIRST, 68)),
    ("OFFER by broadcast where the client asks for it", request(DISCOVER, flags=FLAG), CLIENT_MAC,
     (OFFER, ALL_MACS, EVERYBODY, 68)),
    ("other flags are no broadcast flag", request(DISCOVER, flags=0x7FFF), CLIENT_MAC,
     (OFFER, CLIENT_MAC, FIRST, 68)),
    ("to the relay that sent it", request(DISCOVER, giaddr=RELAY), RELAY_MAC,
     (OFFER, RELAY_MAC, RELAY, 67)),
    ("to the relay, whatever the flag", request(DISCOVER, giaddr=RELAY, flags=FLAG), RELAY_MAC,
     (OFFER, RELAY_MAC, RELAY, 67)),
    ("to the relay before ciaddr", request(REQUEST, giaddr=RELAY, ciaddr=FIRST), RELAY_MAC,
     (ACK, RELAY_MAC, RELAY, 67)),
    ("ACK to ciaddr, back where it came from", request(REQUEST, ciaddr=FIRST), RELAY_MAC,
     (ACK, RELAY_MAC, FIRST, 68)),
    ("to ciaddr before the flag", request(REQUEST, ciaddr=FIRST, flags=FLAG), CLIENT_MAC,
     (ACK, CLIENT_MAC, FIRST, 68)),
    ("ACK to INFORM goes to ciaddr", request(INFORM, ciaddr=IP("192.0.2.250")), CLIENT_MAC,
     (ACK, CLIENT_MAC, IP("192.0.2.250"), 68)),
    ("NAK by broadcast", request(REQUEST, options={**wants(FIRST), **OURS}), CLIENT_MAC,
     (NAK, ALL_MACS, EVERYBODY, 68)),
    ("NAK by broadcast, even with ciaddr", request(REQUEST, ciaddr=IP("10.9.9.9")), CLIENT_MAC,
     (NAK, ALL_MACS, EVERYBODY, 68)),
    ("NAK to the relay", request(REQUEST, giaddr=RELAY, options={**wants(FIRST), **OURS}),
     RELAY_MAC, (NAK, RELAY_MAC, RELAY, 67)),
    ("no Ethernet address to unicast to: 16 octets", request(DISCOVER, bytes(range(16))),
     CLIENT_MAC, (OFFER, ALL_MACS, EVERYBODY, 68)),
    ("no Ethernet address to unicast to: none", request(DISCOVER, b"", options={61: b"\0id"}),
     CLIENT_MAC, (OFFER, ALL_MACS, EVERYBODY, 68)),
]


@pytest.mark.parametrize(("asked", "source", "expected"), [row[1:] for row in WAYS],
                         ids=[row[0] for row in WAYS])
def test_rfc2131_section_4_1(asked: Message, source: bytes,
                             expected: tuple[MessageType, bytes, IPv4Address, int]) -> None:
    reply = Served().must(framed(asked, src_mac=source))
    frame = reply.frame
    assert (reply.message.type, frame.dst_mac, frame.dst_ip, frame.dst_port) == expected
    assert (frame.src_mac, frame.src_ip, frame.src_port) == (SERVER_MAC, SERVER, 67)


def test_nak_through_a_relay_sets_the_broadcast_bit() -> None:
    """RFC 2131 section 4.3.2: the client has no address that the relay could unicast to."""
    asked = request(REQUEST, options={**wants(FIRST), **OURS})
    for giaddr, before, after in ((RELAY, 0, FLAG), (RELAY, 0x1234, 0x9234), (IP(0), 0, 0)):
        asked.giaddr, asked.flags = giaddr, before
        assert Served().must(asked).message.flags == after


def test_other_ports() -> None:
    """--port moves both: clients are answered on the next one."""
    server = Served({"port": 1067})
    assert server.ask(framed(request(DISCOVER))) is None
    assert server.refused() == {"not_dhcp": 1}
    frame = server.must(framed(request(DISCOVER), dst_port=1067)).frame
    assert (frame.src_port, frame.dst_port) == (1067, 1068)
    relayed = server.answer(framed(request(DISCOVER, giaddr=RELAY), dst_port=1067), None, True)
    assert relayed is not None
    assert Frame.decode(relayed, ports=(1067,)).dst_ip == RELAY


# --- VLAN tags -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("outer", "vlans", "tags"), [
    (None, (), ""), (None, (5,), "81000005"), (None, (5, 6), "88a8000581000006"),
    (0x8100E005, (), "8100e005"), (0x88A80005, (6,), "88a8000581000006"),
])
def test_tags_are_carried_back(outer: int | None, vlans: tuple[int, ...], tags: str) -> None:
    """The one that the kernel took off goes outside of those in the frame."""
    for asked in (request(DISCOVER), request(DISCOVER, giaddr=RELAY, options={82: CIRCUIT})):
        reply = Served().must(framed(asked, vlans=vlans), outer=outer)
        assert reply.octets[12:12 + len(tags) // 2 + 2].hex() == tags + "0800"


def test_three_tags_are_too_many() -> None:
    server = Served()
    assert server.ask(framed(request(DISCOVER), vlans=(1, 2)), outer=0x88A80003) is None
    assert server.refused() == {"not_ipv4": 1}


# --- what is not answered ------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "ours"), [
    ("255.255.255.255", True), ("192.0.2.1", True), ("192.0.2.255", True), ("192.0.2.2", False),
    ("192.0.3.255", False), ("192.0.2.0", False), ("198.51.100.1", False), ("0.0.0.0", False)])
def test_sent_to_another_server(target: str, ours: bool) -> None:
    """A bridge floods what is meant for a machine it does not know."""
    server = Served()
    reply = server.ask(framed(request(DISCOVER), dst_ip=IP(target)))
    assert ((reply is not None), server.elsewhere()) == (ours, 0 if ours else 1)
    assert server.received() == ({"1": 1} if ours else {})


@pytest.mark.parametrize("kind", [OFFER, ACK, NAK])
def test_replies_are_not_answered(kind: MessageType) -> None:
    server = Served()
    assert server.ask(request(kind, op=2)) is None
    assert (server.elsewhere(), server.received(), server.causes()) == (1, {}, {})
    # One that says it is a request is counted by its type.
    assert server.ask(request(kind)) is None
    assert server.causes() == {"unexpected_type": 1}


@pytest.mark.parametrize(("options", "reason"), [
    ({}, "no_message_type"), ({53: b"\0"}, "no_message_type"), ({53: b"\x13"}, "no_message_type"),
    ({53: b"\xff"}, "no_message_type"), ({53: b"\1\1"}, "option_length"),
    ({53: b"\3", 54: b"abc"}, "option_length")])
def test_no_sound_message(options: dict[int, bytes], reason: str) -> None:
    server = Served()
    assert server.ask(Message(options=options)) is None
    assert (server.refused(), server.received()) == ({reason: 1}, {})


def test_bad_checksums_are_refused_unless_nobody_finished_them() -> None:
    server = Served()
    data = framed(request(DISCOVER))
    wrong = data[:40] + b"\x12\x34" + data[42:]
    assert server.ask(wrong) is None
    assert server.refused() == {"udp_checksum": 1}
    assert server.ask(wrong, checksum_ready=False) is not None


# --- what is said about it -----------------------------------------------------------------------


def test_events() -> None:
    server = Served({"end": IP("192.0.2.10")})
    bind(server)
    server.ask(request(DISCOVER, b"\2other"))
    server.ask(request(RELEASE, ciaddr=FIRST, options=OURS))
    server.ask(request(14))
    server.ask(request(REQUEST, b"\2other", ciaddr=IP("192.0.2.77")))
    server.ask(Message(options={53: b"\0"}))
    assert server.events() == [
        "02:63:6c:69:65:6e discover -> offer 192.0.2.10",
        "02:63:6c:69:65:6e request -> ack 192.0.2.10",
        "02:6f:74:68:65:72 discover -> no answer (no free address)",
        "02:63:6c:69:65:6e release -> no answer 192.0.2.10",
        "02:63:6c:69:65:6e type 14 -> no answer (unexpected type)",
        "02:6f:74:68:65:72 request -> nak (unknown client)"]


def test_events_are_a_bounded_ring() -> None:
    server = Served()
    for i in range(40):
        server.ask(request(DISCOVER, bytes([2, 0, 0, 0, 0, i])))
    lines = server.events()
    assert lines[0] == "… 24 more" and len(lines) == 17
    assert lines[-1] == "02:00:00:00:00:27 discover -> offer 192.0.2.49"


def test_time_ends_leases() -> None:
    server = Served({"end": FIRST})
    bind(server)
    other = request(DISCOVER, b"\2other")
    server.now_s = 3600
    assert server.ask(other) is None
    server.now_s = 3601
    assert server.must(other).message.yiaddr == FIRST
    assert server.causes() == {"ok": 3, "no_free_address": 1}
