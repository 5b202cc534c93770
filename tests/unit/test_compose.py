"""What clients put on the wire, octet for octet, against a naive client made with the codec.

The one thing to know: `Expected` says what a message ought to be as RFC 2131 table 5 has it,
from the configuration alone; a frame is then built from that with `Frame` and `Message`, and
has to be the one in the transmit slot.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import slots as layout
from fastpath import wire
from fastpath.jit import kernel
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.slots import Slots
from fastpath.wire import MessageType
from tester import cells
from tester.arrays import Test
from tester.behaviour import STAY, Behaviour, malformed
from tester.cells import (
    AGAIN,
    DIRECT,
    FIRST,
    INSTANCE,
    LEG,
    M_DECLINE,
    M_DISCOVER,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RELEASE,
    M_RENEW,
    M_REQUEST,
    MESSAGE_NAMES,
    RELAYS,
    SILENT,
    SOCKET,
    WHOLE,
)
from tester.clients import epochs_of, row_of, scramble
from tester.compose import put_all
from tester.config import ALL_MESSAGES, Captured, Field, Identity, TestConfig, Where, mask_of
from tester.make import make_test
from tester.malform import malform
from tester.malformations import NAMES
from tester.outbox import say, stamp_sent
from tester.speech import typed
from tester.template import Template, parse, parse_number
from tests.kernels import examples, wraps

pytestmark = wraps

SLOT, TX_FRAME, TX_LEAD, SLOTS = 2048, 32, 10, 4
CANARY = 0xA5
START_NS = 7_000_000_000
SECOND = 1_000_000_000
MTU, MOST_TAGS_SIZE = 1500, 12
# Octets of options, with the end, that fit in an IPv4 packet of 1500.
ROOM = MTU - 28 - wire.OPTIONS
SERVER, SERVER_ID = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.7")
SERVER_MAC, ROUTER_MAC = bytes.fromhex("02ffffffff01"), bytes.fromhex("02ffffffff02")
OWN_MAC = bytes.fromhex("020a0b0c0d0e")
HELD, OFFERED = IPv4Address("10.1.2.3"), IPv4Address("10.9.8.7")
EVERYBODY, NOBODY = IPv4Address("255.255.255.255"), IPv4Address(0)
RELAY_IPS = tuple(IPv4Address(f"10.{i}.0.1") for i in range(1, 4))


@kernel
def speak(test: Test, tx: Slots, row: int, message: int, what: int, now_ns: int) -> bool:
    """Say one thing and write it; one call site, so that it is compiled once."""
    said = say(test, tx, row, message, what)
    put_all(test, tx, now_ns)
    return said


class Wire:
    """A Test with a small transmit ring that holds rubbish."""

    def __init__(self, config: TestConfig, **more: Any) -> None:
        self.config = config
        self.test = make_test(config, START_NS, mac=OWN_MAC, **more)
        mem = np.full(SLOTS * SLOT, CANARY, np.uint8)
        self.tx = layout.make_slots(mem, SLOT, TX_FRAME, TX_LEAD)
        self.tx.words[::SLOT // 4] = layout.TX_AVAILABLE
        self._at = 0
        for row in range(config.clients):
            self.hold(row)
        self.test.servers[1, cells.S_ID] = int(SERVER_ID)
        self.test.servers[1, cells.S_MAC] = int.from_bytes(SERVER_MAC, "big")

    def hold(self, row: int) -> None:
        """Have a client hold one address and have been offered another."""
        clients = self.test.clients
        clients.yiaddr[row], clients.offered[row] = int(HELD), int(OFFERED)
        clients.server[row] = 1

    def say(self, message: int, what: int | None = None, row: int = 0,
            now_ns: int = START_NS) -> bytes:
        """The frame that a message becomes; it is kicked at once. what: a DISCOVER is FIRST."""
        if what is None:
            what = FIRST if message == M_DISCOVER else LEG
        clients = self.test.clients
        if message == M_RELEASE:
            # As `lease.release` does.
            clients.offered[row], clients.yiaddr[row] = clients.yiaddr[row], 0
        assert speak(self.test, self.tx, row, message, what, now_ns)
        stamp_sent(self.test, now_ns)
        if message == M_RELEASE:
            self.hold(row)
        return self._take()

    def _take(self) -> bytes:
        base = self._at * SLOT
        assert self.tx.words[base >> 2] == layout.TX_SEND_REQUEST
        length = int(self.tx.words[(base + layout.H_LEN) >> 2]) - TX_LEAD
        start = base + TX_FRAME + TX_LEAD
        octets = bytes(self.tx.mem[start:start + length])
        # What `malform` may scribble on stays in the slot.
        behind = self.tx.mem[start + 14 + MOST_TAGS_SIZE + MTU + 64:base + SLOT]
        assert (behind == CANARY).all()
        self.tx.mem[start:base + SLOT] = CANARY
        self.tx.words[base >> 2] = layout.TX_AVAILABLE
        self._at = (self._at + 1) % SLOTS
        return octets


@dataclass(frozen=True)
class Client:
    """What templates can refer to."""

    index: int
    mac: int
    relay: int
    vlan: int


class Made(NamedTuple):
    """A template and the same in Python."""

    parsed: Template
    octets: Callable[[Client], bytes]


class Number(NamedTuple):
    parsed: Template
    value: Callable[[Client], int]


def _octets(mac: int) -> bytes:
    return mac.to_bytes(6, "big")


TEXTS = (
    Made(parse("x", "it"), lambda c: b"x"),
    Made(parse("sw{index//48}-p{index%48}", "it"), lambda c: b"sw%d-p%d" % divmod(c.index, 48)),
    Made(parse("hex:01{mac}", "it"), lambda c: b"\1" + _octets(c.mac)),
    Made(parse("{mac}", "it"), lambda c: _octets(c.mac).hex(":").encode()),
    Made(parse("r{relay:02d}.{vlan}", "it"), lambda c: b"r%02d.%d" % (c.relay, c.vlan)),
    Made(parse("hex:{relay:1}{vlan:2}00ff", "it"),
         lambda c: struct.pack(">BHH", c.relay, c.vlan, 255)),
    Made(parse("y" * 60, "it"), lambda c: b"y" * 60),
    Made(parse("hex:" + "fe" * 20 + "{mac}", "it"), lambda c: b"\xfe" * 20 + _octets(c.mac)),
    # Short by their looks, long for these clients.
    Made(parse("{mac+0}" * 25, "it"), lambda c: b"%d" % c.mac * 25),
    Made(parse("{index*0+9999}" * 60, "it"), lambda c: b"9999" * 60),
    Made(parse("{index*0+99999}" * 51, "it"), lambda c: b"99999" * 51),
)
TCIS = (
    Number(parse_number("100", "it"), lambda c: 100),
    Number(parse_number("{index%4094+1}", "it"), lambda c: c.index % 4094 + 1),
    Number(parse_number("relay + 10", "it"), lambda c: c.relay + 10),
    Number(parse_number("{vlan+1}", "it"), lambda c: c.vlan + 1),
    # More than 16 bits.
    Number(parse_number("mac | 7 << 13", "it"), lambda c: (c.mac | 7 << 13) & 0xFFFF),
)
TPIDS = (wire.ETH_P_8021Q, wire.ETH_P_8021AD, 0x9100)


@dataclass(frozen=True)
class Spoken:
    """What is generated: a configuration in both forms."""

    where: Where
    tags: tuple[tuple[int, Number], ...]
    fields: tuple[tuple[int, int, int, Made], ...]  # messages, code, sub
    identity: Identity
    clients: int = 60
    secs_s: tuple[int, int] = (0, 0)
    mix: tuple[tuple[Behaviour, float], ...] = ((STAY, 1.0),)
    seed: int = 0

    @property
    def config(self) -> TestConfig:
        fields = tuple(Field(messages, code, sub, typed(made.parsed, 0) if code == 61
                             else made.parsed) for messages, code, sub, made in self.fields)
        tags = tuple((tpid, number.parsed) for tpid, number in self.tags)
        return TestConfig(
            self.clients, where=replace(self.where, tags=tags), mix=self.mix, seed=self.seed,
            identity=replace(self.identity, fields=fields),
            secs_from_s=self.secs_s[0], secs_to_s=self.secs_s[1])


# The naive client.

ASKING = (M_DISCOVER, M_REQUEST, M_REBOOT, M_RENEW, M_REBIND, M_INFORM)
UNICAST = (M_RENEW, M_INFORM, M_RELEASE)
HAS_CIADDR = (*UNICAST, M_REBIND)
TYPES = {M_DISCOVER: "DISCOVER", M_REQUEST: "REQUEST", M_REBOOT: "REQUEST", M_RENEW: "REQUEST",
         M_REBIND: "REQUEST", M_INFORM: "INFORM", M_RELEASE: "RELEASE", M_DECLINE: "DECLINE"}


def joined(pieces: Sequence[tuple[int, bytes]]) -> bytes:
    """Sub-options or instances in one option of 255 octets."""
    value = b""
    for sub, octets in pieces:
        room = 255 - len(value)
        if room >= 3:
            octets = octets[:room - (1 if sub == INSTANCE else 2)]
            value += bytes([len(octets)] if sub == INSTANCE else [sub, len(octets)]) + octets
    return value


@dataclass
class Expected:
    """One client's message by the configuration."""

    spoken: Spoken
    message: int
    row: int
    alias: int = 0
    probing: bool = False
    secs: int = 0
    xid: int = 0
    tags: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        where, identity = self.spoken.where, self.spoken.identity
        number = self.row + self.alias * self.spoken.clients
        base, added = identity.mac_base, number * identity.mac_step
        self.mac = (int.from_bytes(base, "big") + added) % 2**48
        if not identity.mac_carry:
            self.mac = int.from_bytes(bytes((a + b) % 256 for a, b in zip(
                base, _octets(added), strict=True)), "big")
        if identity.macs:
            self.mac = identity.macs[self.row]
        relay = self.row // where.relay_block % max(len(where.relays), 1)
        self.client = Client(number, self.mac, relay, 0)
        for i, (tpid, tci) in enumerate(self.spoken.tags):
            value = tci.value(self.client)
            self.tags.append(struct.pack(">HH", tpid, value))
            if i == 0:
                self.client = replace(self.client, vlan=value & 0xFFF)

    @property
    def bypasses(self) -> bool:
        """Past the relay agent."""
        return self.message in UNICAST and self.spoken.where.mode != SOCKET

    @property
    def giaddr(self) -> IPv4Address:
        relays = self.spoken.where.relays
        return NOBODY if self.bypasses or not relays else relays[self.client.relay]

    def made(self) -> dict[int, bytes]:
        """Options of templates."""
        groups: dict[int, list[tuple[int, bytes]]] = {}
        for messages, code, sub, made in self.spoken.fields:
            if messages >> self.message & 1:
                octets = made.octets(self.client)
                groups.setdefault(code, []).append((sub, b"\0" * (code == 61) + octets))
        return {code: pieces[0][1][:255] if pieces[0][0] == WHOLE else joined(pieces)
                for code, pieces in groups.items()}

    def options(self) -> dict[int, bytes]:
        identity, name = self.spoken.identity, MESSAGE_NAMES[self.message]
        said = {53: bytes([MessageType[TYPES[self.message]]])}
        if self.message in ASKING:
            said |= {55: bytes(identity.wanted)} if identity.wanted else {}
            said |= {57: struct.pack(">H", identity.max_message)} if identity.max_message else {}
        if name in identity.bases:
            said = Message.decode(b"".join(identity.bases[name])).options
        if self.message == M_DISCOVER and identity.rapid_commit:
            said[80] = b""
        for messages, code, octets in identity.options:
            if messages >> self.message & 1:
                said[code] = octets
        if self.message in (M_REQUEST, M_DECLINE) or (
                self.message == M_DISCOVER and self.probing):
            said[50] = OFFERED.packed
        if self.message == M_REBOOT:
            said[50] = HELD.packed
        if self.message in (M_REQUEST, M_DECLINE, M_RELEASE):
            said[54] = SERVER_ID.packed
        return said | self.made()

    def header(self) -> bytes:
        identity, name = self.spoken.identity, MESSAGE_NAMES[self.message]
        flag = identity.broadcast_flag and self.message in (M_DISCOVER, M_REQUEST, M_REBOOT)
        fixed = Message()
        if name in identity.bases:
            fixed = Message.decode(b"".join(identity.bases[name]))
        return replace(
            fixed, hops=0 if self.giaddr == NOBODY else 1, xid=self.xid, secs=self.secs,
            flags=fixed.flags | (0x8000 if flag else 0), chaddr=_octets(self.mac),
            ciaddr=HELD if self.message in HAS_CIADDR else NOBODY, giaddr=self.giaddr,
            options={}).encode(min_size=0)[:-1]

    def envelope(self) -> Frame:
        """The frame without tags and without what it carries."""
        where = self.spoken.where
        frame = Frame(src_mac=_octets(self.mac), src_ip=HELD if self.message in HAS_CIADDR
                      else NOBODY, src_port=where.client_port, dst_port=where.server_port)
        if where.mode == RELAYS:
            frame.src_mac, frame.dst_mac = OWN_MAC, where.server_mac or b"\xff" * 6
        elif self.message in UNICAST:
            frame.dst_mac = SERVER_MAC
        if self.bypasses:
            frame.dst_ip = SERVER_ID
        elif where.mode != DIRECT:
            frame.dst_ip = where.server or NOBODY
        if where.mode == SOCKET:
            frame.src_ip = NOBODY
        if self.giaddr != NOBODY:
            frame.src_ip, frame.src_port = self.giaddr, where.server_port
        return frame


def walked(options: bytes) -> list[tuple[int, bytes]]:
    """Options as they stand on the wire, repeated ones apart; pads only behind the end."""
    found, at = [], 0
    while options[at] != 255:
        assert options[at] != 0
        found.append((options[at], options[at + 2:at + 2 + options[at + 1]]))
        at += 2 + options[at + 1]
    assert not any(options[at + 1:])
    return found


def check(octets: bytes, expected: Expected, limit: int = MTU) -> Message:
    """The frame is the expected one; its message, for more questions."""
    size = len(b"".join(expected.tags))
    assert octets[12:12 + size] == b"".join(expected.tags)
    untagged = octets[:12] + octets[12 + size:]
    where = expected.spoken.where
    frame = Frame.decode(untagged, ports=(where.server_port,))
    message = Message.decode(frame.payload, require_type=True)

    # Checksums, lengths and addresses: encoded anew it is the same frame.
    clients = expected.spoken.clients
    expected.xid = message.xid
    payload = expected.header() + frame.payload[wire.OPTIONS:]
    assert replace(expected.envelope(), payload=payload).encode() == untagged

    options = walked(frame.payload[wire.OPTIONS:])
    wanted = expected.options()
    assert [code for code, _ in options if code == 82] == \
        [code for code, _ in options[-1:] if code == 82] or len(wanted[82]) > 255
    assert len(untagged) - 14 <= limit
    least = sum(len(value) + 2 * max(-(-len(value) // 255), 1) for value in wanted.values()) + 1
    if least + 4 <= ROOM - (MTU - limit):
        assert message.options == wanted
        assert len(frame.payload) == max(wire.OPTIONS + least, 300)
    else:
        check_cut(message.options, wanted, {77: INSTANCE, 82: 0}, len(untagged) - 14, limit)
    assert row_of(message.xid, clients, expected.spoken.seed)[0] == expected.row
    return message


def check_cut(said: dict[int, bytes], wanted: dict[int, bytes], nested: dict[int, int], size: int,
              limit: int) -> None:
    """Where not all of it fits: some of it, none spoilt, and not without need."""
    assert size > limit - 8
    for code, value in said.items():
        if code in nested:
            ours, theirs = (pieces(octets, nested[code]) for octets in (value, wanted[code]))
            assert all(whole[1].startswith(cut[1]) and whole[0] == cut[0]
                       for cut, whole in zip(ours, theirs, strict=False))
            assert len(ours) <= len(theirs)
        else:
            assert wanted[code].startswith(value)


def pieces(value: bytes, sub: int) -> list[tuple[int, bytes]]:
    """What `joined` has joined; fails where it is not sound."""
    found, at = [], 0
    while at < len(value):
        code = sub
        if sub != INSTANCE:
            code, at = value[at], at + 1
        end = at + 1 + value[at]
        assert end <= len(value)
        found.append((code, value[at + 1:end]))
        at = end
    return found


# Generated configurations.

MASKS = st.sampled_from([ALL_MESSAGES, mask_of("discover"), mask_of("discover", "request")]) \
    | st.integers(1, ALL_MESSAGES)


@st.composite
def wheres(draw: st.DrawFn, modes: Sequence[int] = (DIRECT, RELAYS, SOCKET)) -> Where:
    mode = draw(st.sampled_from(modes))
    least = {DIRECT: 0, SOCKET: 0, RELAYS: 1}[mode]
    count = draw(st.integers(least, 3))
    return Where(mode=mode, interface="" if mode == SOCKET else "sim0",
                 server=None if mode == DIRECT else SERVER,
                 server_port=draw(st.sampled_from([67, 6700])),
                 server_mac=draw(st.sampled_from([None, ROUTER_MAC])),
                 relays=RELAY_IPS[:count], relay_block=draw(st.integers(1, 40)))


@st.composite
def tagged(draw: st.DrawFn, where: Where) -> tuple[tuple[int, Number], ...]:
    most = 0 if where.mode == SOCKET else 3
    return tuple(draw(st.lists(st.tuples(st.sampled_from(TPIDS), st.sampled_from(TCIS)),
                               max_size=most)))


@st.composite
def fieldings(draw: st.DrawFn, texts: Sequence[Made] = TEXTS,
              ) -> tuple[tuple[int, int, int, Made], ...]:
    made = st.sampled_from(texts)
    chosen = [(draw(MASKS), code, WHOLE, draw(made))
              for code in draw(st.sets(st.sampled_from([12, 60, 61, 224])))]
    chosen += [(draw(MASKS), 77, INSTANCE, draw(made)) for _ in range(draw(st.integers(0, 4)))]
    chosen += [(draw(MASKS), 82, sub, draw(made))
               for sub in draw(st.lists(st.sampled_from([1, 2, 6, 0]), unique=True))]
    return tuple(draw(st.permutations(chosen)))


GIVEN = st.sampled_from([43, 60, 93, 82, 81, 80, 12]).flatmap(lambda code: st.tuples(
    MASKS, st.just(code), st.just(b"") if code == 80 else st.binary(min_size=2, max_size=40))) \
    | st.tuples(MASKS, st.just(57), st.binary(min_size=2, max_size=2)) \
    | st.tuples(MASKS, st.just(55), st.binary(min_size=1, max_size=30)) \
    | st.tuples(MASKS, st.just(43), st.binary(min_size=250, max_size=520))


@st.composite
def based(draw: st.DrawFn) -> dict[str, tuple[bytes, bytes]]:
    """Fixed part and options of some messages, as `payloads.message_parts` has them."""
    bases = {}
    for name in draw(st.sets(st.sampled_from(MESSAGE_NAMES), max_size=3)):
        kind = TYPES[MESSAGE_NAMES.index(name)]
        message = Message(flags=draw(st.sampled_from([0, 0x8000, 1])),
                          siaddr=draw(st.sampled_from([NOBODY, SERVER])),
                          sname=draw(st.sampled_from([b"", b"s" * 64])),
                          file=draw(st.sampled_from([b"", b"boot"])))
        message.options = {53: bytes([MessageType[kind]])} | draw(st.dictionaries(
            st.sampled_from([12, 43, 60, 81, 93, 55]), st.binary(min_size=1, max_size=30)))
        payload = message.encode(min_size=0)[:-1]
        bases[name] = payload[:wire.OPTIONS], payload[wire.OPTIONS:]
    return bases


@st.composite
def identities(draw: st.DrawFn) -> Identity:
    first = draw(st.sampled_from([0, 0, 0x0200_0000_0001, 0xFC00_1234_5678]))
    return Identity(
        mac_base=draw(st.sampled_from([b"\2\0\0\0\0\0", bytes.fromhex("a2fffffffff0")])),
        mac_step=draw(st.sampled_from([1, 2, 256, 0x10305])), mac_carry=draw(st.booleans()),
        macs=tuple(first + i * i for i in range(60)) if first else (),
        wanted=tuple(draw(st.sampled_from([(), (1, 3, 6), tuple(range(1, 255)), (1,) * 300]))),
        max_message=draw(st.sampled_from([0, 576, 1500, 65535])),
        broadcast_flag=draw(st.booleans()), rapid_commit=draw(st.booleans()),
        options=tuple(draw(st.lists(GIVEN, max_size=4))), bases=draw(based()))


@st.composite
def spoken(draw: st.DrawFn) -> Spoken:
    where = draw(wheres())
    return Spoken(where, draw(tagged(where)), draw(fieldings()), draw(identities()),
                  seed=draw(st.sampled_from([0, 1, 0xFFFFFFFF, 0x12345678])))


@given(said=spoken(), row=st.integers(0, 59), alias=st.sampled_from([0, 1, 1000]),
       epoch=st.sampled_from([0, 1, 2**31, 2**32 - 1]), probing=st.booleans())
@examples(400, 40)
def test_any_message_of_any_client(said: Spoken, row: int, alias: int, epoch: int,
                                   probing: bool) -> None:
    alias = 0 if said.identity.macs else alias
    network = Wire(said.config)
    clients = network.test.clients
    clients.alias[row], clients.epoch[row] = alias, epoch
    clients.flags[row] = cells.F_PROBING if probing else 0
    for message in range(cells.MESSAGES):
        octets = network.say(message, row=row)
        decoded = check(octets, Expected(said, message, row, alias, probing))
        assert row_of(decoded.xid, said.clients, said.seed) == (
            row, epoch % epochs_of(said.clients))
        assert not clients.flags[row] & cells.F_SAYS


def simple(mode: int = DIRECT, **more: Any) -> Spoken:
    relays = RELAY_IPS if mode == RELAYS else ()
    where = Where(mode=mode, server=None if mode == DIRECT else SERVER, relays=relays)
    return replace(Spoken(where, (), (), Identity()), **more)


# RFC 2131 table 5: message, type, ciaddr, requested address, server identifier, asks, broadcast.
TABLE_5 = [
    (M_DISCOVER, "DISCOVER", False, None, False, True, True),
    (M_REQUEST, "REQUEST", False, OFFERED, True, True, True),
    (M_REBOOT, "REQUEST", False, HELD, False, True, True),
    (M_RENEW, "REQUEST", True, None, False, True, False),
    (M_REBIND, "REQUEST", True, None, False, True, True),
    (M_INFORM, "INFORM", True, None, False, True, False),
    (M_RELEASE, "RELEASE", True, None, True, False, False),
    (M_DECLINE, "DECLINE", False, OFFERED, True, False, True),
]


@pytest.mark.parametrize("row", TABLE_5, ids=[MESSAGE_NAMES[row[0]] for row in TABLE_5])
def test_table_5(row: tuple[Any, ...]) -> None:
    message, kind, has_ciaddr, requested, names_server, asks, broadcast = row
    frame = Frame.decode(Wire(simple().config).say(message))
    said = Message.decode(frame.payload)
    assert (said.op, said.htype, said.hlen, said.hops) == (1, 1, 6, 0)
    assert said.type == MessageType[kind]
    assert said.ciaddr == (HELD if has_ciaddr else NOBODY)
    assert (said.yiaddr, said.siaddr, said.giaddr) == (NOBODY,) * 3
    assert said.get("requested-address") == requested
    assert said.get("server-id") == (SERVER_ID if names_server else None)
    assert (said.get("parameter-request-list") is not None) == asks
    assert (said.get("max-message-size") is not None) == asks
    assert said.get("lease-time") is None
    assert (said.flags, said.secs) == (0, 0)
    assert frame.dst_ip == (EVERYBODY if broadcast else SERVER_ID)
    assert frame.dst_mac == (b"\xff" * 6 if broadcast else SERVER_MAC)
    assert (frame.src_port, frame.dst_port) == (68, 67)
    assert frame.src_mac == said.chaddr == b"\2\0\0\0\0\0"
    assert frame.src_ip == said.ciaddr


@pytest.mark.parametrize("message", range(cells.MESSAGES), ids=MESSAGE_NAMES)
def test_behind_a_relay_agent(message: int) -> None:
    """RFC 2131 section 4.3.2: what goes to a server by unicast does not pass the relay agent."""
    said = simple(RELAYS)
    for row, giaddr in ((0, RELAY_IPS[0]), (1, RELAY_IPS[1]), (3, RELAY_IPS[0])):
        frame = Frame.decode(Wire(said.config).say(message, row=row))
        sent = Message.decode(frame.payload)
        assert frame.src_mac == OWN_MAC and frame.dst_port == 67
        if message in UNICAST:
            assert (sent.giaddr, sent.hops, frame.src_port) == (NOBODY, 0, 68)
            assert (frame.src_ip, frame.dst_ip) == (HELD, SERVER_ID)
        else:
            assert (sent.giaddr, sent.hops, frame.src_port) == (giaddr, 1, 67)
            assert (frame.src_ip, frame.dst_ip) == (giaddr, SERVER)


@pytest.mark.parametrize("message", range(cells.MESSAGES), ids=MESSAGE_NAMES)
@pytest.mark.parametrize("relays", [(), RELAY_IPS[:1]], ids=["alone", "giaddr"])
def test_a_socket_sends_from_no_address_of_a_client(message: int,
                                                    relays: tuple[IPv4Address, ...]) -> None:
    """The kernel refuses a source that the machine does not have."""
    where = Where(mode=SOCKET, server=SERVER, server_port=6700, relays=relays)
    frame = Frame.decode(Wire(simple(where=where).config, local_port=5000).say(message),
                         ports=(6700,))
    assert (frame.src_ip, frame.dst_ip) == (relays[0] if relays else NOBODY, SERVER)
    assert Message.decode(frame.payload).giaddr == (relays[0] if relays else NOBODY)


# Options that would not fit.

@pytest.mark.parametrize("first", range(244, 256))
@pytest.mark.parametrize("code, subs", [(82, (1, 2, 6)), (77, (INSTANCE,) * 3)])
def test_sub_options_up_to_the_end_of_their_option(code: int, subs: tuple[int, ...], first: int,
                                                   ) -> None:
    # Of octets that are there only once the number is known.
    long = Made(parse("{index*0+999999}" * 40 + "a" * (first - 240), "it"),
                lambda c: b"999999" * 40 + b"a" * (first - 240))
    texts = (long, TEXTS[0], TEXTS[1])
    fields = tuple((ALL_MESSAGES, code, sub, made)
                   for sub, made in zip(subs, texts, strict=True))
    said = simple(fields=fields)
    message = check(Wire(said.config).say(M_RENEW), Expected(said, M_RENEW, 0))
    assert 240 < len(message.options[code]) <= 255


@pytest.mark.parametrize("spoilt", [False, True], ids=["sound", "malformed"])
@pytest.mark.parametrize("more", [*range(60, 116, 5), *range(120, 150)])
def test_never_a_packet_over_the_mtu(more: int, spoilt: bool) -> None:
    """The last option that fits, in every way in which the packet can be nearly full."""
    given = (ALL_MESSAGES, 43, b"g" * 800), (ALL_MESSAGES, 93, b"h" * more)
    fields = ((ALL_MESSAGES, 12, WHOLE, TEXTS[9]), (ALL_MESSAGES, 82, 1, TEXTS[2]),
              (ALL_MESSAGES, 82, 2, TEXTS[6]))
    mix = ((malformed("junk-after-end"), 1.0),) if spoilt else ((STAY, 1.0),)
    said = simple(fields=fields, identity=Identity(options=given), mix=mix)
    network = Wire(said.config)
    check(network.say(M_REQUEST), Expected(said, M_REQUEST, 0))
    octets = network.say(M_DISCOVER)
    if not spoilt:
        check(octets, Expected(said, M_DISCOVER, 0))
    assert len(octets) - 14 <= MTU
    Message.decode(Frame.decode(octets).payload)


# Who says it.

def test_another_name() -> None:
    """Handover: the address that was given back is asked for under a new hardware address."""
    said = simple(clients=5, fields=((ALL_MESSAGES, 12, WHOLE, TEXTS[1]),),
                  tags=((0x8100, TCIS[1]),))
    network = Wire(said.config)
    before = check(network.say(M_RELEASE, row=3), Expected(said, M_RELEASE, 3))
    clients = network.test.clients
    clients.alias[3], clients.flags[3] = 2, cells.F_PROBING
    clients.epoch[3] += 1
    after = check(network.say(M_DISCOVER, row=3), Expected(said, M_DISCOVER, 3, 2, True))
    assert (before.chaddr, after.chaddr) == (b"\2\0\0\0\0\3", b"\2\0\0\0\0\x0d")
    assert after.get("requested-address") == OFFERED and before.xid != after.xid
    assert after.get("host-name") == "sw0-p13"


@pytest.mark.parametrize("macs", [(), tuple(0x020000000000 + 7 * i for i in range(70))])
@pytest.mark.parametrize("carry", [False, True], ids=["octets", "carry"])
def test_hardware_addresses_are_those_of_the_configuration(macs: tuple[int, ...], carry: bool,
                                                           ) -> None:
    config = TestConfig(50, identity=Identity(mac_base=b"\2\x7f\xfe\x80\xff\xd0",
                                              mac_step=0x8109, mac_carry=carry, macs=macs))
    network = Wire(config)
    for row in (0, 1, 49):
        message = Message.decode(Frame.decode(network.say(M_DISCOVER, row=row)).payload)
        assert message.chaddr == config.mac_of(row)


def test_transaction_ids_are_of_one_client_each() -> None:
    network = Wire(simple(clients=3, seed=0xFFFFFFFF).config)
    seen = set()
    for epoch in (0, 1, 5, epochs_of(3) - 1):
        for row in range(3):
            network.test.clients.epoch[row] = epoch
            message = Message.decode(Frame.decode(network.say(M_INFORM, row=row)).payload)
            assert row_of(message.xid, 3, 0xFFFFFFFF) == (row, epoch)
            seen.add(message.xid)
    assert len(seen) == 12


# Seconds since the client began.

def secs_of(octets: bytes) -> int:
    return Message.decode(Frame.decode(octets).payload).secs


def told(network: Wire, *script: tuple[int, int, float]) -> list[int]:
    """secs of messages: (message, what, at which second)."""
    return [secs_of(network.say(message, what, now_ns=START_NS + round(at_s * SECOND)))
            for message, what, at_s in script]


def test_a_request_repeats_the_secs_of_its_discover() -> None:
    """RFC 2131 section 4.4.1; table 5 for DECLINE and RELEASE."""
    assert told(Wire(simple().config), (M_DISCOVER, FIRST, 3), (M_DISCOVER, AGAIN, 7.9),
                (M_DISCOVER, AGAIN, 15.0), (M_REQUEST, LEG, 15.2), (M_REQUEST, AGAIN, 90.0),
                (M_DECLINE, SILENT, 91), (M_DISCOVER, FIRST, 101), (M_REQUEST, LEG, 102),
                (M_RENEW, LEG, 200), (M_RENEW, AGAIN, 260), (M_REBIND, LEG, 300),
                (M_REBIND, AGAIN, 301.5), (M_RELEASE, SILENT, 400)) == \
        [0, 4, 12, 12, 12, 0, 0, 0, 0, 60, 0, 1, 0]


def test_after_a_nak_time_goes_on() -> None:
    assert told(Wire(simple().config), (M_DISCOVER, FIRST, 0), (M_REQUEST, LEG, 1),
                (M_DISCOVER, LEG, 2), (M_REQUEST, LEG, 3), (M_DISCOVER, AGAIN, 70_000),
                (M_REQUEST, LEG, 70_001)) == [0, 0, 2, 2, 65535, 65535]


def test_the_secs_of_clients_that_wait_longer_and_longer() -> None:
    """As perfdhcp's -y and -Y."""
    network = Wire(simple(secs_s=(10, 20)).config)
    assert told(network, (M_DISCOVER, FIRST, 9.999), (M_DISCOVER, FIRST, 10), (M_REQUEST, LEG, 15),
                (M_DISCOVER, FIRST, 10.9), (M_DISCOVER, FIRST, 11), (M_DISCOVER, AGAIN, 19.999),
                (M_REQUEST, AGAIN, 30), (M_DISCOVER, FIRST, 20), (M_DECLINE, SILENT, 12),
                (M_RELEASE, SILENT, 12)) == [0, 1, 1, 1, 2, 10, 10, 0, 0, 0]


def test_secs_end_at_their_greatest() -> None:
    network = Wire(simple(secs_s=(0, 200_000)).config)
    assert told(network, (M_DISCOVER, FIRST, 65_533.5), (M_DISCOVER, FIRST, 65_534),
                (M_DISCOVER, FIRST, 150_000)) == [65534, 65535, 65535]


# As captured.

def captured(payload: bytes, *names: str, **offsets: int | None) -> Identity:
    return Identity(captured={name: Captured(payload, **offsets) for name in names})


FLAT = bytes(range(1, 200)) + bytes(60)


@pytest.mark.parametrize("message", range(cells.MESSAGES), ids=MESSAGE_NAMES)
def test_a_captured_message_is_patched_where_it_is_told(message: int) -> None:
    offsets = {"xid": 200, "chaddr_end": 209, "secs": 211, "server": 220, "address": 230}
    said = simple(identity=captured(FLAT, MESSAGE_NAMES[message], **offsets))
    octets = Wire(said.config).say(message, AGAIN, now_ns=START_NS + 5 * SECOND)
    frame = Frame.decode(octets)
    assert len(frame.payload) == len(FLAT)
    patched = bytearray(frame.payload)
    for at, size in ((200, 4), (204, 6), (211, 2), (220, 4), (230, 4)):
        patched[at:at + size] = FLAT[at:at + size]
    assert patched == FLAT
    xid, chaddr, secs = struct.unpack_from(">I6sxH", frame.payload, 200)
    assert row_of(xid, said.clients, 0) == (0, 0) and chaddr == b"\2\0\0\0\0\0"
    assert secs == {M_REQUEST: 0, M_DECLINE: 0, M_RELEASE: 0}.get(message, 12 if message ==
                                                                  M_DISCOVER else secs)
    held = message in (M_REBOOT, M_RENEW, M_REBIND, M_INFORM, M_RELEASE)
    assert frame.payload[220:224] == SERVER_ID.packed
    assert frame.payload[230:234] == (HELD if held else OFFERED).packed
    # Where it goes is not what it says.
    assert (frame.src_ip, frame.dst_ip) == ((HELD, SERVER_ID) if message in UNICAST else
                                            (HELD if message == M_REBIND else NOBODY, EVERYBODY))


@pytest.mark.parametrize("size", [0, 1, 27, 235, 236, 240, 300, 1371, 1372])
def test_a_captured_message_of_any_length(size: int) -> None:
    """Through a relay agent too, whose fields it keeps as they were."""
    payload = bytes(i * 7 % 251 for i in range(size))
    nowhere: dict[str, int | None] = dict.fromkeys(("xid", "chaddr_end", "secs"))
    said = simple(RELAYS, identity=captured(payload, "discover", **nowhere))
    frame = Frame.decode(Wire(said.config).say(M_DISCOVER, row=1))
    assert frame.payload == payload
    assert (frame.src_ip, frame.src_port, frame.dst_ip) == (RELAY_IPS[1], 67, SERVER)


# Malformed on purpose.

@pytest.mark.parametrize("row", NAMES, ids=[row.name for row in NAMES])
@pytest.mark.parametrize("many", [False, True], ids=["small", "full"])
def test_malformed_discovers(row: Any, many: bool) -> None:
    """The sound frame, spoilt; everything else that the client says is sound."""
    given = ((ALL_MESSAGES, 43, b"g" * 1100),) if many else ()
    said = simple(identity=Identity(options=given), tags=((0x8100, TCIS[0]),),
                  fields=((ALL_MESSAGES, 12, WHOLE, TEXTS[6]),), seed=77)
    network = Wire(replace(said, mix=((malformed(row.name), 1.0),)).config)
    sound = Wire(said.config)
    sound.test.plan[cells.P_LIMIT] -= 17
    for tries, what in ((1, FIRST), (2, AGAIN), (255, AGAIN)):
        for one in (network, sound):
            one.test.clients.tries[5] = tries - 1
        octets, whole = (one.say(M_DISCOVER, what, row=5) for one in (network, sound))
        mem = np.frombuffer(whole + bytes(64), np.uint8).copy()
        end = malform(mem, 0, 18, len(whole), NAMES.index(row), scramble(5 ^ tries << 24 ^ 77))
        assert octets == bytes(mem[:end])
        assert len(octets) - 18 <= MTU
    check(network.say(M_REQUEST, row=5), Expected(said, M_REQUEST, 5))
    assert network.test.counts[cells.MALFORMED_SENT] == 3


# What `say` notes.

def test_nothing_is_said_without_room() -> None:
    test, tx = (network := Wire(simple().config)).test, network.tx
    for row in range(SLOTS):
        assert say(test, tx, row, M_DISCOVER, FIRST)
    before = test.counts.copy(), test.clients.flags.copy()
    assert not say(test, tx, SLOTS, M_DISCOVER, FIRST)
    assert (test.counts == before[0]).all() and (test.clients.flags == before[1]).all()
    put_all(test, tx, START_NS)
    assert test.counts[cells.QUEUED] == test.counts[cells.PENDING] == SLOTS
    stamp_sent(test, START_NS)
    # Not yet sent by the kernel: the ring is as full as before.
    assert not say(test, tx, 0, M_DISCOVER, AGAIN)
    assert test.counts[cells.PENDING] == 0


def test_no_more_is_said_in_a_turn_than_the_outbox_holds() -> None:
    test = make_test(simple().config, START_NS)._replace(outbox=np.zeros(2, np.int64))
    tx = Wire(simple().config).tx
    assert [say(test, tx, row, M_INFORM, LEG) for row in range(3)] == [True, True, False]


def test_what_is_counted() -> None:
    network = Wire(simple().config)
    for message, what in ((M_RENEW, LEG), (M_RENEW, AGAIN), (M_RENEW, AGAIN), (M_RELEASE, SILENT),
                          (M_DISCOVER, FIRST)):
        network.say(message, what, row=7, now_ns=START_NS + 5)
    counts, clients = network.test.counts, network.test.clients

    def phase(message: int) -> tuple[int, int]:
        at = cells.PHASE + message * cells.PHASE_SIZE
        return int(counts[at + cells.LEGS]), int(counts[at + cells.TIMES])

    assert [phase(message) for message in (M_RENEW, M_RELEASE, M_DISCOVER, M_REQUEST)] == \
        [(1, 3), (1, 1), (1, 1), (0, 0)]
    assert (counts[cells.AWAITED], counts[cells.QUEUED], counts[cells.PENDING]) == (2, 5, 0)
    assert (clients.tries[7], clients.retransmits[7]) == (1, 2)
    assert counts[cells.FIRST_NS] == clients.started_ns[7] == clients.leg_ns[7] == START_NS + 5
