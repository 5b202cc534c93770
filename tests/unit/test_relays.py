"""Relays: where a client is, as whom we answer, and what goes back to the relay.

RFC 3046 (option 82), RFC 3527 (link selection), RFC 3011 (subnet selection), RFC 5107 (server
identifier override), RFC 1542 section 4 (hops).
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from fastpath.message import Message
from fastpath.wire import MessageType
from server.model import Config, Pool, Settings, SharedNetwork, Subnet
from tests.kernels import several, wraps
from tests.serving import (
    ALL_MACS,
    EVERYBODY,
    OURS,
    RELAY_MAC,
    SERVER,
    Served,
    bind,
    framed,
    request,
    told,
    wants,
)

pytestmark = wraps

IP = IPv4Address
DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = MessageType
NOWHERE = IP("203.0.113.1")


def subnet(prefix: str, first: str, last: str, **settings: Any) -> Subnet:
    return Subnet(IPv4Network(prefix), (Pool(IP(first), IP(last)),),
                  settings=Settings(**settings))


LOCAL = subnet("192.0.2.0/24", "192.0.2.10", "192.0.2.99")
FAR = subnet("10.1.0.0/16", "10.1.0.10", "10.1.0.99", lease_time_s=700)
V6_MOSTLY = subnet("10.2.0.0/16", "10.2.0.10", "10.2.0.99", options={108: bytes([0, 0, 7, 8])})
EAST = subnet("10.3.0.0/24", "10.3.0.10", "10.3.0.10")
WEST = subnet("10.3.1.0/24", "10.3.1.10", "10.3.1.19")
EVERYWHERE = Config(("eth7",), networks=(
    SharedNetwork("local", (LOCAL,)), SharedNetwork("far", (FAR,)),
    SharedNetwork("v6", (V6_MOSTLY,)), SharedNetwork("wire", (EAST, WEST))),
    settings=Settings(lease_time_s=3600))
FIRST_LOCAL, FIRST_FAR, FIRST_V6 = IP("192.0.2.10"), IP("10.1.0.10"), IP("10.2.0.10")
FIRST_EAST, FIRST_WEST = IP("10.3.0.10"), IP("10.3.1.10")


def sub(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def link(address: IPv4Address) -> bytes:
    return sub(5, address.packed)


def override(address: IPv4Address) -> bytes:
    return sub(11, address.packed)


# --- where the client is -------------------------------------------------------------------------

# name, giaddr, options, the address offered or None for silence
PLACES: list[tuple[str, IPv4Address, dict[int, bytes], IPv4Address | None]] = [
    ("no relay: the interface's own", IP(0), {}, FIRST_LOCAL),
    ("RFC 2131 4.3.1: giaddr", IP("10.1.0.1"), {}, FIRST_FAR),
    ("giaddr need not be a gateway", IP("10.1.255.254"), {}, FIRST_FAR),
    ("first address of a subnet", IP("10.1.0.0"), {}, FIRST_FAR),
    ("last address of a subnet", IP("10.1.255.255"), {}, FIRST_FAR),
    ("one before", IP("10.0.255.255"), {}, None),
    ("unknown giaddr", NOWHERE, {}, None),
    ("giaddr 255.255.255.255", EVERYBODY, {}, None),
    ("giaddr 0.0.0.1", IP(1), {}, None),
    ("RFC 3527: link selection before giaddr", NOWHERE, {82: link(IP("10.1.0.0"))}, FIRST_FAR),
    ("link selection behind other sub-options", NOWHERE,
     {82: sub(1, b"eth0") + sub(2, b"") + link(IP("10.1.7.7")) + sub(9, b"x")}, FIRST_FAR),
    ("the first of two counts", NOWHERE, {82: link(IP("10.1.0.0")) + link(IP("192.0.2.0"))},
     FIRST_FAR),
    ("unknown link", IP("10.1.0.1"), {82: link(NOWHERE)}, None),
    ("a link that no relay can have named", IP(0), {82: link(IP("10.1.0.0"))}, FIRST_LOCAL),
    ("a link of three octets is none", IP("10.1.0.1"), {82: sub(5, b"\n\2\0")}, FIRST_FAR),
    ("a link of five octets is none", IP("10.1.0.1"), {82: sub(5, b"\n\2\0\0\0")}, FIRST_FAR),
    ("a cut-off link is none", IP("10.1.0.1"), {82: link(IP("10.2.0.0"))[:-1]}, FIRST_FAR),
    ("a link in a sub-option is none", IP("10.1.0.1"), {82: sub(1, link(IP("10.2.0.0")))},
     FIRST_FAR),
    ("behind damage nothing is read", IP("10.1.0.1"), {82: b"\1\xff" + link(IP("10.2.0.0"))},
     FIRST_FAR),
    ("RFC 3011: subnet selection before giaddr", NOWHERE, {118: IP("10.1.0.0").packed}, FIRST_FAR),
    ("subnet selection without a relay", IP(0), {118: IP("10.1.0.0").packed}, FIRST_FAR),
    ("unknown subnet", IP("10.1.0.1"), {118: NOWHERE.packed}, None),
    ("RFC 3527 section 2: the relay's word before the client's", NOWHERE,
     {82: link(IP("10.1.0.0")), 118: IP("10.2.0.0").packed}, FIRST_FAR),
    ("shared network: his own subnet first", IP("10.3.1.1"), {}, FIRST_WEST),
    ("shared network: the other subnet", IP("10.3.0.1"), {}, FIRST_EAST),
    ("shared network, by link", NOWHERE, {82: link(IP("10.3.1.0"))}, FIRST_WEST),
]


@pytest.mark.parametrize(("giaddr", "options", "offered"), [row[1:] for row in PLACES],
                         ids=[row[0] for row in PLACES])
def test_where_a_client_is(giaddr: IPv4Address, options: dict[int, bytes],
                           offered: IPv4Address | None) -> None:
    server = Served(EVERYWHERE)
    reply = server.ask(request(DISCOVER, giaddr=giaddr, options=options))
    if offered is None:
        assert (reply, server.causes()) == (None, {"no_subnet": 1})
        assert not server.leases.identity.any()
        return
    assert reply is not None
    assert (reply.message.type, reply.message.yiaddr) == (OFFER, offered)
    # RFC 3527 section 2: giaddr stays where the answer goes, whatever selects the subnet.
    assert (reply.message.giaddr, reply.frame.dst_port) == (giaddr, 67 if giaddr != IP(0) else 68)
    for code in (82, 118):
        assert reply.message.options.get(code) == options.get(code)


def test_a_full_subnet_borrows_from_its_wire_alone() -> None:
    server = Served(EVERYWHERE)
    offers = [server.ask(request(DISCOVER, bytes([2, 0, 0, 0, 0, i]), giaddr=IP("10.3.0.1")))
              for i in range(12)]
    assert [o.message.yiaddr for o in offers if o] == [
        FIRST_EAST, *(IP(int(FIRST_WEST) + i) for i in range(10))]
    assert server.causes() == {"ok": 11, "no_free_address": 1}


def test_one_client_on_two_networks_has_two_leases() -> None:
    server = Served(EVERYWHERE)
    assert bind(server) == FIRST_LOCAL
    assert bind(server, giaddr=IP("10.1.0.1")) == FIRST_FAR
    assert server.must(request(REQUEST, ciaddr=FIRST_LOCAL)).message.type == ACK


def test_settings_follow_the_subnet() -> None:
    server = Served(EVERYWHERE)
    far = server.must(request(DISCOVER, giaddr=IP("10.1.0.1"))).message.options
    near = server.must(request(DISCOVER)).message.options
    assert (far[1], far[51], near[1], near[51]) == (
        b"\xff\xff\0\0", (700).to_bytes(4, "big"), b"\xff\xff\xff\0", (3600).to_bytes(4, "big"))


def test_rfc8925_where_it_is_configured_and_nowhere_else() -> None:
    """Option 108 (section 3.3.1): no address for who can do without; not by his predecessor's."""
    server = Served(EVERYWHERE)
    asks = {55: b"\x6c\1"}
    for giaddr, offered in ((IP("10.2.0.1"), IP(0)), (IP("10.1.0.1"), FIRST_FAR),
                            (IP("10.2.0.1"), IP(0)), (IP(0), FIRST_LOCAL)):
        reply = server.must(request(DISCOVER, giaddr=giaddr, options=asks)).message
        assert (reply.yiaddr, 108 in reply.options) == (offered, offered == IP(0)), giaddr
    plain = server.must(request(DISCOVER, giaddr=IP("10.2.0.1"))).message
    assert (plain.yiaddr, 108 in plain.options) == (FIRST_V6, False)


# --- RFC 2131 section 4.3.2: a client that is elsewhere now --------------------------------------


@pytest.mark.parametrize(("target", "giaddr", "answer"), [
    (SERVER, IP(0), ACK),  # RENEWING: routed from afar
    (SERVER, IP("10.1.0.1"), ACK),
    (EVERYBODY, IP("10.1.0.1"), ACK),  # REBINDING through the relay there
    (EVERYBODY, IP(0), NAK),  # REBINDING on this wire, where his address is wrong
    (EVERYBODY, IP("10.2.0.1"), NAK),
])
def test_a_moved_client(target: IPv4Address, giaddr: IPv4Address, answer: MessageType) -> None:
    server = Served(EVERYWHERE)
    assert bind(server, giaddr=IP("10.1.0.1")) == FIRST_FAR
    asked = request(REQUEST, ciaddr=FIRST_FAR, giaddr=giaddr)
    assert server.must(framed(asked, dst_ip=target, src_ip=FIRST_FAR)).message.type == answer


def test_a_broadcast_in_another_subnet_of_the_same_wire_is_at_home() -> None:
    config = replace(EVERYWHERE, networks=(
        SharedNetwork("here", (LOCAL, FAR)), SharedNetwork("v6", (V6_MOSTLY,))))
    server = Served(config)
    asked = request(INFORM, ciaddr=IP("10.1.0.200"), options={55: b"\1"})
    assert server.must(asked).message.options[1] == b"\xff\xff\0\0"


# --- RFC 3046: option 82 -------------------------------------------------------------------------

MALFORMED = {
    "no room for a length": b"\1\2ab\2", "longer than there is": b"\1\x10ab",
    "zeros": bytes(7), "all ones": b"\xff" * 9, "empty sub-options": b"\1\0\2\0",
    "an end inside": b"\xff\0\1\3abc", "a pad before": b"\0\1\3abc",
    "another option inside": b"\x35\1\6\x36\4\1\2\3\4",
}


@pytest.mark.parametrize("info", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("kind", [DISCOVER, REQUEST])
def test_malformed_contents_go_back_verbatim(kind: MessageType, info: bytes) -> None:
    server = Served(EVERYWHERE)
    for size in (len(info), 255, 256, 300):
        whole = info + bytes(random.Random(size).randbytes(size - len(info)))
        asked = request(kind, giaddr=IP("10.1.0.1"),
                        options={82: whole, **(OURS | wants(IP("10.1.0.77")) if kind == REQUEST
                                               else {})})
        reply = server.must(asked)
        pieces = [whole[i:i + 255] for i in range(0, len(whole), 255)]
        last = b"".join(bytes([82, len(piece)]) + piece for piece in pieces) + b"\xff"
        assert reply.payload.rstrip(b"\0").endswith(last)


@pytest.mark.parametrize("info", [b"", b"\1"])
def test_option_82_of_no_sub_option_is_refused(info: bytes) -> None:
    """RFC 3046 section 2.0: at least one sub-option, so two octets."""
    server = Served(EVERYWHERE)
    assert server.ask(request(DISCOVER, giaddr=IP("10.1.0.1"), options={82: info})) is None
    assert server.refused() == {"option_length": 1}


@pytest.mark.parametrize("size", [2, 100, 254, 255, 256, 400, 600])
def test_last_in_the_options_field_though_others_overflow(size: int) -> None:
    """RFC 3046 section 2.1: relays look for it in the options field only."""
    info = sub(1, b"x" * 40)[:size].ljust(size, b"\2")
    names = {code: bytes([code]) * 24 for code in range(128, 150)}
    server = Served({"options": names})
    asked = request(DISCOVER, giaddr=IP("192.0.2.200"), options={82: info})
    reply = server.must(asked)
    assert 52 in reply.main_codes
    assert reply.main_codes[-1] == 82 and reply.message.options[82] == info
    assert {code: reply.message.options.get(code, value) for code, value in names.items()} == names


def test_two_pieces_on_the_way_in_are_joined() -> None:
    """RFC 3396: the link selection may be cut in half."""
    payload = request(DISCOVER, giaddr=NOWHERE).encode()
    cut = payload.index(b"\xff", 240)
    info = sub(1, b"eth0") + link(IP("10.1.0.0"))
    for at in range(1, len(info)):
        both = bytes([82, at]) + info[:at] + bytes([82, len(info) - at]) + info[at:]
        reply = Served(EVERYWHERE).must(framed(payload[:cut] + both + b"\xff"))
        assert (reply.message.yiaddr, reply.message.options[82]) == (FIRST_FAR, info)


# --- RFC 5107: as whom we answer -----------------------------------------------------------------

RELAY = IP("10.1.0.1")


def test_override_is_the_server_identifier_of_every_reply() -> None:
    server = Served(EVERYWHERE)
    through = {82: sub(1, b"eth0") + override(RELAY)}
    offer = server.must(request(DISCOVER, giaddr=RELAY, options=through))
    chosen = {54: RELAY.packed, **wants(offer.message.yiaddr), **through}
    ack = server.must(request(REQUEST, giaddr=RELAY, options=chosen))
    wrong = {54: RELAY.packed, **wants(IP("10.1.0.55")), **through}
    nak = server.must(request(REQUEST, giaddr=RELAY, options=wrong))
    inform = server.must(request(INFORM, giaddr=RELAY, ciaddr=FIRST_FAR, options=through))
    for reply, kind in ((offer, OFFER), (ack, ACK), (nak, NAK), (inform, ACK)):
        assert (reply.message.type, reply.message.options[54]) == (kind, RELAY.packed)
        # We still send from an address of our own.
        assert (reply.frame.src_ip, reply.frame.dst_ip) == (SERVER, RELAY)


def test_only_a_relay_says_as_whom_we_answer() -> None:
    reply = Served(EVERYWHERE).must(request(DISCOVER, options={82: override(NOWHERE)}))
    assert reply.message.options[54] == SERVER.packed


@pytest.mark.parametrize("kind", [RELEASE, DECLINE])
@pytest.mark.parametrize(("named", "says", "taken"), [
    (RELAY, True, True), (RELAY, False, False), (SERVER, False, True), (SERVER, True, False),
    (NOWHERE, True, False)])
def test_override_in_release_and_decline(kind: MessageType, named: IPv4Address, says: bool,
                                         taken: bool) -> None:
    """Section 4: what the client names is compared with what the relay says."""
    server = Served(EVERYWHERE)
    address = bind(server, giaddr=RELAY)
    options = {54: named.packed, **({82: override(RELAY)} if says else {82: sub(1, b"x")})}
    if kind == DECLINE:
        options |= wants(address)
    server.ask(request(kind, giaddr=RELAY, options=options,
                       ciaddr=address if kind == RELEASE else IP(0)))
    assert server.causes() == {"ok": 3 if taken else 2, **({} if taken else {"other_server": 1})}


def test_override_of_another_length_is_none() -> None:
    server = Served(EVERYWHERE)
    for value in (b"", b"\n\1\0", b"\n\1\0\1\0"):
        offer = server.must(request(DISCOVER, giaddr=RELAY, options={82: sub(11, value)}))
        assert offer.message.options[54] == SERVER.packed


# --- RFC 1542 section 4.1.1: hops, and whether relays are served at all --------------------------


@pytest.mark.parametrize(("most", "hops", "served"), [
    (4, 0, True), (4, 4, True), (4, 5, False), (4, 255, False), (0, 0, True), (0, 1, False),
    (16, 16, True), (16, 17, False), (1, 2, False)])
@pytest.mark.parametrize("giaddr", [IP(0), IP("192.0.2.200")])
def test_max_hops(most: int, hops: int, served: bool, giaddr: IPv4Address) -> None:
    server = Served({"max_hops": most})
    reply = server.ask(request(DISCOVER, hops=hops, giaddr=giaddr))
    assert ((reply is not None), server.causes()) == (
        served, {"ok": 1} if served else {"max_hops": 1})
    assert server.received() == {"1": 1}
    assert reply is None or reply.message.hops == 0
    assert served == bool(server.leases.identity.any())


@pytest.mark.parametrize("kind", [DISCOVER, REQUEST, RELEASE, DECLINE, INFORM])
def test_relays_are_not_served(kind: MessageType) -> None:
    server = Served({"relay": False})
    asked = request(kind, giaddr=IP("192.0.2.200"), ciaddr=IP("192.0.2.50"))
    assert server.ask(asked) is None
    assert server.causes() == {"relayed": 1}
    assert not server.leases.identity.any()
    assert bind(server) == FIRST_LOCAL


# --- replies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [67, 6700])
def test_the_relay_is_answered_on_the_servers_port(port: int) -> None:
    server = Served({"port": port})
    giaddr = IP("192.0.2.200")
    asked = request(DISCOVER, giaddr=giaddr)
    frame = server.must(framed(asked, dst_port=port, src_port=1234, src_mac=RELAY_MAC)).frame
    assert (frame.dst_mac, frame.dst_ip, frame.dst_port, frame.src_port) == (
        RELAY_MAC, giaddr, port, port)


def test_nak_through_a_relay_asks_it_to_broadcast() -> None:
    """RFC 2131 section 4.3.2; and the relay gets its option back."""
    server = Served(EVERYWHERE)
    info = sub(1, b"eth0")
    asked = request(REQUEST, giaddr=RELAY, options={**OURS, **wants(FIRST_FAR), 82: info})
    nak = server.must(framed(asked, src_mac=RELAY_MAC, src_ip=RELAY, src_port=67))
    assert (nak.message.type, nak.message.flags, nak.message.options[82]) == (NAK, 0x8000, info)
    assert (nak.frame.dst_mac, nak.frame.dst_ip, nak.frame.dst_port) == (RELAY_MAC, RELAY, 67)


# --- UDP sockets ---------------------------------------------------------------------------------

CAME_FROM, CLIENT_PORT = IP("192.0.2.77"), 4011
LISTENING = told({"transport": "udp"})
ANYWHERE = replace(LISTENING, interfaces=())


def heard(message: Message, source: IPv4Address = CAME_FROM, target: IPv4Address = SERVER,
          port: int = CLIENT_PORT) -> bytes:
    """As a datagram comes out of a socket: Ethernet addresses are not known."""
    return framed(message, src_mac=bytes(6), dst_mac=bytes(6), src_ip=source, dst_ip=target,
                  src_port=port)


# name, message, from where, answered to which address and port
SENDERS: list[tuple[str, Message, IPv4Address, tuple[IPv4Address, int]]] = [
    ("to the sender", request(DISCOVER), CAME_FROM, (CAME_FROM, CLIENT_PORT)),
    ("whatever the flag", request(DISCOVER, flags=0x8000), CAME_FROM, (CAME_FROM, CLIENT_PORT)),
    ("before ciaddr", request(INFORM, ciaddr=IP("192.0.2.60")), CAME_FROM,
     (CAME_FROM, CLIENT_PORT)),
    ("a NAK too", request(REQUEST, options={**OURS, **wants(IP("192.0.2.66"))}), CAME_FROM,
     (CAME_FROM, CLIENT_PORT)),
    ("giaddr is the sender: a tester as relay on any port", request(DISCOVER, giaddr=CAME_FROM),
     CAME_FROM, (CAME_FROM, CLIENT_PORT)),
    ("giaddr is another: to giaddr", request(DISCOVER, giaddr=IP("192.0.2.200")), CAME_FROM,
     (IP("192.0.2.200"), 67)),
    ("no address yet: to everybody", request(DISCOVER), IP(0), (EVERYBODY, 68)),
    ("no address yet, ciaddr", request(INFORM, ciaddr=IP("192.0.2.60")), IP(0),
     (IP("192.0.2.60"), 68)),
]


@pytest.mark.parametrize("config", [LISTENING, ANYWHERE], ids=["one address", "all addresses"])
@pytest.mark.parametrize(("asked", "source", "expected"), [row[1:] for row in SENDERS],
                         ids=[row[0] for row in SENDERS])
def test_sockets_answer_the_sender(config: Config, asked: Message, source: IPv4Address,
                                   expected: tuple[IPv4Address, int]) -> None:
    server = Served(config)
    reply = server.must(heard(asked, source))
    assert (reply.frame.dst_ip, reply.frame.dst_port) == expected
    # A station's address in the frame would have the socket broadcast it.
    assert reply.frame.dst_mac == (ALL_MACS if expected[0] == EVERYBODY else bytes(6))
    assert (reply.frame.src_ip, reply.message.options[54]) == (SERVER, SERVER.packed)


@pytest.mark.parametrize("target", ["192.0.2.1", "127.0.0.1", "10.255.0.7"])
def test_all_addresses_the_one_written_to_is_the_server(target: str) -> None:
    server = Served(ANYWHERE)
    written = IP(target)
    offer = server.must(heard(request(DISCOVER), target=written))
    assert (offer.frame.src_ip, offer.message.options[54]) == (written, written.packed)
    chosen = request(REQUEST, options={54: written.packed, **wants(offer.message.yiaddr)})
    assert server.must(heard(chosen, target=written)).message.type == ACK
    other = request(REQUEST, b"\2other", options={54: SERVER.packed, **wants(FIRST_LOCAL)})
    if written != SERVER:
        assert server.ask(heard(other, target=written)) is None


@pytest.mark.parametrize("target", ["255.255.255.255", "192.0.2.255", "224.0.0.1"])
def test_a_broadcast_address_is_nobodys_source(target: str) -> None:
    reply = Served(ANYWHERE).must(heard(request(DISCOVER), target=IP(target)))
    assert reply.frame.src_ip != IP(target)
    assert reply.message.options[54] != IP(target).packed


def test_on_a_socket_we_send_from_our_own_address_whatever_the_relay_says() -> None:
    """A socket refuses to send from an address that is not its host's."""
    asked = request(DISCOVER, giaddr=CAME_FROM, options={82: override(CAME_FROM)})
    reply = Served(ANYWHERE).must(heard(asked))
    assert (reply.frame.src_ip, reply.message.options[54]) == (SERVER, CAME_FROM.packed)


def test_option_82_of_any_octets_is_survived_and_returned() -> None:
    chance = random.Random(82)
    server = Served(replace(EVERYWHERE, offer_hold_s=0))
    for i in range(several(3000, 150)):
        info = bytes(chance.choice([1, 2, 4, 5, 11, 82, 255, 0, chance.randrange(256)])
                     for _ in range(chance.choice([2, 3, 7, 30, 300])))
        server.now_s = i
        reply = server.ask(request(DISCOVER, giaddr=RELAY, options={82: info}))
        if reply is not None:
            assert reply.message.options[82] == info
            assert reply.main_codes[-1] == 82
