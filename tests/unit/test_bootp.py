"""BOOTP clients: RFC 951, RFC 1497 (vendor area), RFC 1534 (BOOTP and DHCP together)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from fastpath.faultmodel import Fault
from fastpath.message import Message
from fastpath.wire import MessageType
from server.leases import BOUND, FOREVER_S
from server.model import Config, Pool, Reservation, Settings, SharedNetwork, Subnet
from server.stats import snapshot
from tests.kernels import wraps
from tests.serving import CLIENT_MAC, OURS, Answer, Served, framed, request, wants

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
HIS, IN_POOL = IP("192.0.2.200"), IP("192.0.2.20")
OLD = b"\2old\1\2"
OPTIONS = {3: bytes([192, 0, 2, 254]), 6: bytes([192, 0, 2, 53]), 12: b"old"}


def config(**fields: Any) -> Config:
    subnet = Subnet(
        IPv4Network("192.0.2.0/24"), (Pool(IP("192.0.2.10"), IP("192.0.2.99")),),
        (Reservation(HIS, "chaddr", CLIENT_MAC, Settings(boot_file="old.img", options=OPTIONS)),
         Reservation(IN_POOL, "chaddr", OLD)))
    base = Config(("eth7",), networks=(SharedNetwork("one", (subnet,)),),
                  settings=Settings(lease_time_s=3600, next_server=IP("192.0.2.3")), bootp=True)
    return replace(base, **fields)


def bootp(mac: bytes = CLIENT_MAC, cookie: bool = True, options: dict[int, bytes] | None = None,
          **fields: Any) -> bytes:
    """A BOOTREQUEST of 300 octets: no option 53; without the cookie, no options at all."""
    payload = Message(xid=0x51, hlen=len(mac), chaddr=mac, options=options or {}, **fields).encode()
    return framed(payload if cookie else payload[:236] + bytes(64))


def answered(server: Served, frame: bytes) -> Answer:
    return server.must(frame, typed=False)


@pytest.mark.parametrize("cookie", [True, False])
@pytest.mark.parametrize(("mac", "address"), [(CLIENT_MAC, HIS), (OLD, IN_POOL)])
def test_a_reserved_client_gets_his_address(cookie: bool, mac: bytes, address: IPv4Address) -> None:
    server = Served(config())
    for _ in range(2):
        reply = answered(server, bootp(mac, cookie))
        message = reply.message
        assert (message.op, message.xid, message.yiaddr, message.siaddr, message.chaddr) == (
            2, 0x51, address, IP("192.0.2.3"), mac)
        assert len(reply.payload) == 300
        # RFC 1534 section 2: nothing of DHCP in it.
        assert not set(message.options) & {50, 51, 52, 53, 54, 55, 57, 58, 59, 61, 80}
        assert message.options[1] == b"\xff\xff\xff\0"
    assert server.received() == {"0": 2} and server.sent() == {"0": 2}
    assert server.leases.state.tolist().count(BOUND) == 1
    assert FOREVER_S in server.leases.expires_s.tolist()


def test_options_and_boot_file_of_the_reservation() -> None:
    message = answered(Served(config()), bootp()).message
    assert message.file == b"old.img"
    assert {code: message.options.get(code) for code in OPTIONS} == OPTIONS


@pytest.mark.parametrize("cookie", [True, False])
def test_others_get_nothing(cookie: bool) -> None:
    """A BOOTP client keeps its address for ever: never one out of a pool."""
    server = Served(config())
    assert server.ask(bootp(b"\2newer", cookie)) is None
    assert server.causes() == {"unknown_client": 1}
    assert not server.leases.identity.any()


@pytest.mark.parametrize(("cookie", "reason"), [(True, "no_message_type"), (False, "cookie")])
def test_switched_off(cookie: bool, reason: str) -> None:
    server = Served(config(bootp=False))
    assert server.ask(bootp(cookie=cookie)) is None
    assert (server.refused(), server.received()) == ({reason: 1}, {})


@pytest.mark.parametrize("kind", [b"\0", b"\x13", b"\xff"])
def test_a_wrong_type_is_not_bootp(kind: bytes) -> None:
    server = Served(config())
    assert server.ask(bootp(options={53: kind})) is None
    assert server.refused() == {"no_message_type": 1}


def test_300_octets_however_many_options() -> None:
    """RFC 1542 section 2.1; RFC 1497: the vendor area has 64 octets; no overload."""
    many = {code: bytes(10) for code in range(128, 160)}
    server = Served(config(settings=Settings(lease_time_s=3600, options=many)))
    reply = answered(server, bootp(OLD, options={55: bytes(range(1, 200)), 57: b"\5\xdc"}))
    assert len(reply.payload) == 300
    assert not any(reply.payload[44:236])
    assert reply.codes == [1, 28, 128, 129, 130]


def test_vendor_area_without_cookie_is_not_read() -> None:
    """What looks like an option there is none, nor is it refused."""
    frame = bytearray(bootp(cookie=False))
    for junk in (b"\x35\1\3\xff", b"\x35\x80", b"\xff" * 64, b"\x3d\7\1abcdef\xff"):
        payload = bytes(frame[42:42 + 236]) + b"\1\2\3\4" + junk.ljust(60, b"\x35")
        assert answered(Served(config()), framed(payload)).message.yiaddr == HIS


@pytest.mark.parametrize("extra", [{51: b"\0\0\0\x3c"}, {50: IP("192.0.2.11").packed},
                                   {54: b"\1\1\1\1"}, {80: b""}])
def test_options_of_dhcp_in_it_change_nothing(extra: dict[int, bytes]) -> None:
    reply = answered(Served(config(rapid_commit=True)), bootp(options=extra))
    assert reply.message.yiaddr == HIS
    assert not set(reply.message.options) & {50, 51, 53, 54, 80}


def test_where_it_goes() -> None:
    server = Served(config())
    relay = IP("192.0.2.250")
    assert answered(server, bootp()).frame.dst_ip == HIS
    assert answered(server, bootp(flags=0x8000)).frame.dst_ip == IP("255.255.255.255")
    through = answered(server, bootp(giaddr=relay, options={82: b"\1\1x"})).frame
    assert (through.dst_ip, through.dst_port) == (relay, 67)


def test_bootp_then_dhcp() -> None:
    """RFC 1534: the same machine asks by BOOTP in its ROM, then by DHCP; one address."""
    server = Served(config())
    assert answered(server, bootp()).message.yiaddr == HIS
    offer = server.must(request(DISCOVER)).message
    ack = server.must(request(REQUEST, options={**wants(HIS), **OURS})).message
    assert (offer.yiaddr, ack.type, ack.yiaddr) == (HIS, ACK, HIS)
    assert answered(server, bootp()).message.yiaddr == HIS


def test_statistics_know_bootp() -> None:
    server = Served(config(faults=(Fault("duplicate", rate=0.0), Fault("drop", from_s=1))))
    assert len(server.batch(bootp())) == 1
    server.now_us = 2_000_000
    assert server.batch(bootp()) == []
    counted = snapshot(server.tables, server.resolved)
    assert (counted["received"]["bootp"], counted["sent"]["bootp"]) == (2, 1)
    assert counted["outcomes"]["bootp"]["ack"] == 1
    assert counted["sent"]["ack"] == 0


def test_too_short_for_bootp() -> None:
    server = Served(config())
    assert server.ask(framed(bytes(236))) is None
    assert server.refused() == {"bootp_short": 1}
