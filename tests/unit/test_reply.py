"""What stands in a reply, to the octet: RFC 2131 table 3, options asked for, options echoed."""

from __future__ import annotations

import random
from ipaddress import IPv4Address

import pytest

from fastpath.message import Message
from fastpath.wire import MessageType
from tests.kernels import wraps
from tests.serving import CLIENT_MAC, OURS, SERVER, Served, bind, framed, request, wants

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
RELAY, FIRST = IP("192.0.2.200"), IP("192.0.2.10")
CIRCUIT = bytes.fromhex("0104") + b"eth0" + bytes.fromhex("0206") + b"remote"


# --- RFC 2131 section 4.3.1, table 3: what replies hold ------------------------------------------


def fields_of(message: Message) -> tuple[object, ...]:
    return (message.op, message.htype, message.hlen, message.hops, message.xid, message.secs,
            message.flags, message.giaddr, message.chaddr, message.siaddr)


@pytest.mark.parametrize("giaddr", [IP(0), RELAY])
@pytest.mark.parametrize("mac", [CLIENT_MAC, b"\x02\0\0\0\0\0\0\x07", bytes(range(1, 17)), b"\1"])
def test_fields_come_back(giaddr: IPv4Address, mac: bytes) -> None:
    server = Served()
    asked = request(DISCOVER, mac, xid=0xFEDCBA98, flags=0x8001, giaddr=giaddr, hops=3, secs=77,
                    htype=6)
    reply = server.must(asked)
    assert fields_of(reply.message) == (
        2, 6, len(mac), 0, 0xFEDCBA98, 0, 0x8001, giaddr, mac, IP(0))
    assert (reply.message.yiaddr, reply.message.ciaddr) == (FIRST, IP(0))
    # chaddr is padded with what the client had there.
    assert reply.payload[28:44] == asked.encode()[28:44]
    assert not any(reply.payload[44:236])


def test_offer_and_ack() -> None:
    server = Served()
    for reply in (server.must(request(DISCOVER)),
                  server.must(request(REQUEST, options={**wants(FIRST), **OURS}))):
        assert reply.message.options == {
            53: bytes([reply.message.type or 0]), 54: SERVER.packed, 51: (3600).to_bytes(4, "big"),
            58: (1800).to_bytes(4, "big"), 59: (3150).to_bytes(4, "big"),
            1: bytes([255, 255, 255, 0]), 3: bytes([192, 0, 2, 254]),
            6: bytes([192, 0, 2, 53, 198, 51, 100, 53]), 28: bytes([192, 0, 2, 255])}
        assert reply.codes[0] == 53
        assert reply.message.yiaddr == FIRST
        assert len(reply.payload) >= 300
    assert server.sent() == {"2": 1, "5": 1} and server.causes() == {"ok": 2}


def test_ack_to_a_renewal_has_ciaddr() -> None:
    server = Served()
    address = bind(server)
    renewed = server.must(request(REQUEST, ciaddr=address)).message
    assert (renewed.type, renewed.ciaddr, renewed.yiaddr) == (ACK, address, address)


def test_nak_has_nothing_but_what_table_3_allows() -> None:
    asked = request(REQUEST, options={**wants(FIRST), **OURS, 55: b"\1\3", 61: b"\0abc",
                                      82: CIRCUIT}, ciaddr=IP(0), giaddr=RELAY)
    nak = Served().must(asked).message
    assert nak.options == {53: bytes([NAK]), 54: SERVER.packed, 61: b"\0abc", 82: CIRCUIT}
    assert (nak.yiaddr, nak.ciaddr, nak.siaddr) == (IP(0), IP(0), IP(0))


def test_inform_gets_no_address_and_no_lease() -> None:
    """RFC 2131 section 4.3.5."""
    server = Served()
    asked = request(INFORM, ciaddr=IP("192.0.2.250"), options={55: b"\3\6\x33\x3a"})
    ack = server.must(asked).message
    assert (ack.type, ack.yiaddr, ack.ciaddr) == (ACK, IP(0), IP("192.0.2.250"))
    assert list(ack.options) == [53, 54, 3, 6]
    assert server.leases.state.max() == 0


def test_a_lease_for_ever_has_no_times_to_renew() -> None:
    offer = Served({"lease_time_s": 0xFFFFFFFF}).must(request(DISCOVER)).message
    assert offer.options[51] == b"\xff" * 4
    assert not {58, 59} & offer.options.keys()


# --- the parameter request list (RFC 2132 section 9.8) -------------------------------------------

ALWAYS = [53, 54, 51, 58, 59]


@pytest.mark.parametrize(("asked", "given"), [
    (b"\6\1", [6, 1]),
    (b"\x1c\6\1\3", [28, 6, 1, 3]),
    (b"\1\1\6\1\6", [1, 6]),
    (b"\x0f\x77\x2a", []),
    (b"\x35\x36\x33\x3a\x3b\x3d\x52", []),
    (b"\0\xff\6", [6]),
    (bytes(range(256)), [1, 3, 6, 28]),
    (b"\6" * 255, [6]),
    # RFC 2132 section 3.3: where both are sent, the mask MUST be first.
    (b"\3\1", [1, 3]),
    (b"\6\3\x1c\1", [6, 1, 3, 28]),
    (b"\3\6", [3, 6]),
])
def test_order_and_filter(asked: bytes, given: list[int]) -> None:
    assert Served().must(request(DISCOVER, options={55: asked})).codes == ALWAYS + given


def test_nobody_inherits_what_the_last_one_asked_for() -> None:
    server = Served()
    assert server.must(request(DISCOVER, options={55: b"\6"})).codes == [*ALWAYS, 6]
    assert server.must(request(DISCOVER, options={55: b"\6\1"})).codes == [*ALWAYS, 6, 1]
    assert server.must(request(DISCOVER)).codes == [*ALWAYS, 1, 3, 6, 28]


def test_a_list_in_two_pieces() -> None:
    payload = request(DISCOVER, options={}).encode()
    cut = payload.index(b"\xff", 240)
    payload = payload[:cut] + b"\x37\1\6\x37\2\1\3\xff"
    assert Served().must(framed(payload)).codes == [*ALWAYS, 6, 1, 3]


# --- echoed options ------------------------------------------------------------------------------


def test_relay_information_comes_back_last_and_verbatim() -> None:
    """RFC 3046 section 2.2."""
    server = Served()
    for options in ({82: CIRCUIT}, {82: CIRCUIT, 61: b"\0abc", 55: b"\1\3"},
                    {82: b"\1" + bytes([253]) + bytes(253)}):
        reply = server.must(framed(request(DISCOVER, giaddr=RELAY, options=options)))
        assert reply.message.options[82] == options[82]
        assert reply.codes[-1] == 82
        assert reply.payload.rstrip(b"\0").endswith(options[82] + b"\xff")


@pytest.mark.parametrize("size", [2, 6, 7, 29, 30, 31, 32, 33, 40, 128, 254, 255, 256, 300, 511])
def test_client_identifier_comes_back(size: int) -> None:
    """RFC 6842; over 255 octets in pieces (RFC 3396). Each length is another client."""
    server = Served()
    own = bytes(i * 7 & 0xFF for i in range(size))
    reply = server.must(request(DISCOVER, options={61: own}))
    assert reply.message.options[61] == own
    pieces = [own[i:i + 255] for i in range(0, size, 255)]
    last = b"".join(bytes([61, len(piece)]) + piece for piece in pieces) + b"\xff"
    assert reply.payload.rstrip(b"\0").endswith(last)
    assert server.must(request(DISCOVER, options={61: own})).message.yiaddr == FIRST
    for other in (own[:-1] + bytes([own[-1] ^ 1]), own + b"\0", bytes([own[0] ^ 1]) + own[1:]):
        assert server.must(request(DISCOVER, options={61: other})).message.yiaddr != FIRST


CLIENTS = {
    "by chaddr": request(DISCOVER),
    "another htype": request(DISCOVER, htype=6),
    "a longer chaddr": request(DISCOVER, CLIENT_MAC + b"\0"),
    "16 octets": request(DISCOVER, bytes(range(16))),
    "16 octets, the last differs": request(DISCOVER, bytes(range(15)) + b"\0"),
    "an identifier": request(DISCOVER, options={61: b"\1" + CLIENT_MAC}),
    "an identifier and no chaddr": request(DISCOVER, b"", options={61: b"\0abc"}),
    "an identifier as long as there is room": request(DISCOVER, options={61: b"\xfe" * 30}),
    "one octet more": request(DISCOVER, options={61: b"\xfe" * 31}),
    "two octets more": request(DISCOVER, options={61: b"\xfe" * 32}),
    "more than one piece": request(DISCOVER, options={61: b"\xfe" * 300}),
}


def test_who_a_client_is() -> None:
    """RFC 2131 section 4.2: the identifier where there is one, else htype and chaddr.

    Whoever was served before leaves no trace in it.
    """
    server = Served()
    known = {name: server.must(asked).message.yiaddr for name, asked in CLIENTS.items()}
    assert len(set(known.values())) == len(CLIENTS), "two clients are taken for one"
    names = list(CLIENTS) * 4
    random.Random(5).shuffle(names)
    for name in names:
        assert server.must(CLIENTS[name]).message.yiaddr == known[name], name
    same = request(DISCOVER, b"\2elsew", options={61: b"\1" + CLIENT_MAC})
    assert server.must(same).message.yiaddr == known["an identifier"]


def test_no_chaddr_and_no_identifier_is_nobody() -> None:
    server = Served()
    assert server.ask(request(DISCOVER, b"")) is None
    assert server.causes() == {"no_identity": 1}


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "most"), [(None, 576), (576, 576), (0, 576), (300, 576),
                                             (577, 577), (800, 800), (1500, 1500), (65535, 1500)])
def test_the_largest_reply(limit: int | None, most: int) -> None:
    """Option 57 (RFC 2132 section 9.10) speaks of the IP datagram; 576 is the least."""
    options = {61: b"\0" * 230, 55: bytes(range(1, 100)) + b"\6" * 150}
    if limit is not None:
        options[57] = limit.to_bytes(2, "big")
    server = Served({"dns": tuple(IP(0x0A000000 + i) for i in range(40))})
    reply = server.must(request(DISCOVER, options=options))
    assert len(reply.octets) - 14 <= most
    # 53, 54, 51, 58, 59 and the identifier take 259 of the 308 octets that 576 leave.
    assert reply.codes == [*ALWAYS, 1, 3, *([6] if most >= 715 else []), 28, 61]


@pytest.mark.parametrize("size", [2, 253, 254, 255, 256, 257, 508, 509, 510, 511])
def test_an_option_that_does_not_fit_is_left_out(size: int) -> None:
    """To the octet: what just fits is sent, what would make one octet too many is not."""
    own = {61: b"\0" * size}
    fixed = 20 + 8 + 240 + 3 + 4 * 6 + size + 2 * -(-size // 255) + 1
    # Nor is there room in `file` and `sname`.
    server = Served({"dns": (), "boot_file": "pxe.0", "server_name": "boot"})
    for limit in range(max(576, fixed - 2), max(576, fixed) + 22):
        options = {**own, 57: limit.to_bytes(2, "big"), 55: b"\1\x1c\3"}
        reply = server.must(request(DISCOVER, options=options))
        fitting = max(0, limit - fixed) // 6
        assert reply.codes == [*ALWAYS, *[1, 28, 3][:fitting], 61], limit
        assert len(reply.octets) - 14 == max(20 + 8 + 300, fixed + 6 * min(3, fitting))


def test_what_the_relay_wants_back_is_not_the_clients_to_limit() -> None:
    info = b"\1\xc8" + bytes(200) + b"\2\xc8" + bytes(200)
    reply = Served().must(framed(request(DISCOVER, giaddr=RELAY, options={82: info})))
    assert reply.message.options[82] == info
    assert reply.codes == [*ALWAYS, 1, 3, 6, 28, 82]
    assert len(reply.octets) - 14 > 576


@pytest.mark.parametrize(("mtu", "sent"), [(1500, True), (900, True), (640, False)])
def test_too_large_for_a_packet_is_not_sent(mtu: int, sent: bool) -> None:
    server = Served(mtu=mtu)
    reply = server.ask(framed(request(DISCOVER, giaddr=RELAY, options={82: bytes(400)})))
    assert (reply is not None) == sent
    assert server.causes() == ({"ok": 1} if sent else {"reply_too_large": 1})
    assert reply is None or len(reply.octets) - 14 <= mtu


def test_as_large_as_a_packet_is_sent() -> None:
    sizes = []
    for size in range(330, 350):
        asked = request(DISCOVER, giaddr=RELAY, options={82: bytes(size), 55: b"\x0f"})
        reply = Served(mtu=640).ask(asked)
        sizes += [len(reply.octets) - 14] if reply else []
    assert sizes[-1] == 640 and len(sizes) < 20


@pytest.mark.parametrize("mtu", [1500, 1900, 2048, 9000, 65536])
@pytest.mark.parametrize("vlans", [(), (1, 2)])
def test_never_more_than_a_slot(mtu: int, vlans: tuple[int, ...]) -> None:
    """A frame that fills its slot with options to be echoed, on an interface for jumbo frames."""
    server = Served({"dns": (SERVER,) * 40}, mtu=mtu)
    for size in range(1000, 1680, 20):
        asked = request(DISCOVER, giaddr=RELAY, options={57: b"\xff\xff", 82: bytes(size)})
        server.ask(framed(asked.encode(min_size=0), vlans=vlans))
    assert server.received() == {"1": 34}
