"""A server on plain memory: frames go in and come out as octets, one at a time.

The one thing to know: `ask` goes through `engine.serve`, which is `engine.answer` between two
rings of slots. All memory around the slot that a reply may use holds canaries; with kernels
not compiled, every access is checked as it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import numpy as np

from fastpath.interface import Interface
from fastpath.message import Message
from fastpath.options import find
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.slots import (
    G_HEAD,
    H_LEN,
    H_MAC,
    H_SNAPLEN,
    H_TCI,
    H_TPID,
    RX_CSUM_NOT_READY,
    RX_USER,
    RX_VLAN_VALID,
    TX_AVAILABLE,
    TX_SEND_REQUEST,
    Slots,
    make_slots,
)
from fastpath.wire import REASON_NAMES, MessageType
from server.arrays import CAUSED, ELSEWHERE, RECEIVED, REFUSED, SENT, TYPES
from server.config import resolve
from server.decide import CAUSES
from server.engine import serve
from server.model import Config, Range, Settings
from server.stats import event_lines
from server.tables import make_link, make_tables
from tests.kernels import COMPILED, fenced, writable

IP = IPv4Address
SERVER, SERVER_MAC, CLIENT_MAC, RELAY_MAC = (IP("192.0.2.1"), b"\x02serve", b"\x02clien",
                                             b"\x02relay")
EVERYBODY, ALL_MACS = IP("255.255.255.255"), b"\xff" * 6
# Where AF_PACKET puts a frame in its slot, and where we put what we send.
RX_FRAME, TX_FRAME, LEAD = 66, 32, 10
# A slot for the reply, with canaries before and behind it.
COUNT, HEAD = 3, 1
CANARY = 0xA5


@dataclass
class Answer:
    """A reply, read by the readable codec, and its octets."""

    frame: Frame
    message: Message
    octets: bytes

    @property
    def payload(self) -> bytes:
        return self.frame.payload

    @property
    def main_codes(self) -> list[int]:
        """Option codes of the options field alone, pieces one by one."""
        codes, at = [], 240
        while self.payload[at] != 255:
            codes.append(self.payload[at])
            at += 2 + self.payload[at + 1]
        return codes

    @property
    def codes(self) -> list[int]:
        """Option codes in the order in which they stand on the wire."""
        return list(self.message.options)


def understood(octets: bytes, *, typed: bool = True) -> Answer:
    """A frame that the server sent; raises Malformed where a client would not understand it."""
    found = Frame.decode(octets, ports=range(1 << 16))
    return Answer(found, Message.decode(found.payload, require_type=typed), octets)


def request(kind: MessageType | int, mac: bytes = CLIENT_MAC, **fields: Any) -> Message:
    """A message of a client; `options` come after option 53."""
    options = {53: bytes([kind])} | fields.pop("options", {})
    defaults = {"xid": 0x11223344, "hlen": len(mac), "chaddr": mac, "options": options}
    return Message(**{**defaults, **fields})


def framed(message: Message | bytes, **fields: Any) -> bytes:
    payload = message if isinstance(message, bytes) else message.encode()
    return Frame(**{"src_mac": CLIENT_MAC, "payload": payload, **fields}).encode()


NAME_SERVERS = (IP("192.0.2.53"), IP("198.51.100.53"))


def told(fields: dict[str, Any]) -> Config:
    """A configuration as flags give it: fields of Range, Settings and Config in one."""
    given = {"start": IP("192.0.2.10"), "end": IP("192.0.2.99"), "lease_time_s": 3600,
             "gateway": IP("192.0.2.254"), "dns": NAME_SERVERS, **fields}
    options = {**given.pop("options", {})}
    if dns := given.pop("dns"):
        options[6] = find(6).encode(list(dns))
    pool = Range(**{name: given.pop(name) for name in ("start", "end", "netmask", "gateway")
                    if name in given})
    settings = Settings(options=options, **{name: given.pop(name) for name in list(given)
                                            if name in Settings.__dataclass_fields__})
    return Config(("eth7",), range=pool, settings=settings, **given)


@dataclass
class Served:
    """A server of 192.0.2.0/24 with the pool 192.0.2.10 to .99; `config` as for `told`."""

    config: dict[str, Any] | Config = field(default_factory=dict)
    mtu: int = 1500
    now_s: int = 0
    now_us: int = 0
    read: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        config = self.config if isinstance(self.config, Config) else told(self.config)
        addresses = (IPv4Interface("192.0.2.1/24"),)
        interface = Interface("eth7", 7, SERVER_MAC, self.mtu, addresses)
        self.resolved = resolve(config, [interface])
        self.port = config.port
        self.tables = make_tables(self.resolved, 16)
        self.leases = self.tables.world.leases
        self.link = make_link(self.resolved, self.resolved.served[0])
        self.rx = make_slots(np.zeros(SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
        self.tx = make_slots(np.zeros(COUNT * SLOT_SIZE, np.uint8), SLOT_SIZE, TX_FRAME, LEAD)

    def ask(self, frame: bytes | Message, *, outer: int | None = None,
            checksum_ready: bool = True, typed: bool = True) -> Answer | None:
        """The server's reply to `frame`, or None; proves that nothing else was written.

        outer: the tag that the kernel took off, `tpid << 16 | tci`. typed: that the reply has a
        message type is made sure of; BOOTP has none.
        """
        octets = self.answer(framed(frame) if isinstance(frame, Message) else frame, outer,
                             checksum_ready)
        return None if octets is None else understood(octets, typed=typed)

    def must(self, frame: bytes | Message, **how: Any) -> Answer:
        answer = self.ask(frame, **how)
        assert answer is not None, f"no answer: {self.causes()} {self.refused()}"
        return answer

    def answer(self, data: bytes, outer: int | None, checksum_ready: bool) -> bytes | None:
        rx, tx = self._rings(data, outer, checksum_ready)
        base = HEAD * SLOT_SIZE
        to = base + TX_FRAME + LEAD
        read, sent = serve(rx, tx, self.tables, self.link, self.now_s, self.now_us, 0, 1)
        assert read == 1 and self.rx.words[0] == 0
        length = 0
        if sent:
            assert self.tx.words[base >> 2] == TX_SEND_REQUEST
            length = int(self.tx.words[(base + H_LEN) >> 2]) - LEAD
        assert TX_FRAME + LEAD + length <= SLOT_SIZE
        around = self.tx.mem.copy()
        # A reply that turns out not to fit, or to fit better otherwise, may leave octets behind
        # its end, but never more than a packet with two tags has.
        around[base:to + 22 + min(self.mtu, 1500) if sent else base + SLOT_SIZE] = CANARY
        assert (around == CANARY).all(), "written outside the reply"
        return self.tx.mem[to:to + length].tobytes() if sent else None

    def batch(self, *frames: bytes | Message, slots: int = 8, limit: int = 256) -> list[bytes]:
        """What is sent in one call of `serve` to `frames`, none of which may be there at all.

        slots: of the transmit ring, all free. Fewer frames than given may be read: see `read`.
        """
        datas = [framed(frame) if isinstance(frame, Message) else frame for frame in frames]
        rx = make_slots(np.zeros((len(datas) + 1) * SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
        for i, data in enumerate(datas):
            base = i * SLOT_SIZE
            rx.mem[base + RX_FRAME:base + RX_FRAME + len(data)] = np.frombuffer(data, np.uint8)
            rx.words[base >> 2] = RX_USER
            rx.words[(base + H_SNAPLEN) >> 2] = len(data)
            rx.halves[(base + H_MAC) >> 1] = RX_FRAME
        tx = make_slots(np.full((slots + 1) * SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, TX_FRAME,
                        LEAD)
        for i in range(slots):
            tx.words[i * SLOT_SIZE >> 2] = TX_AVAILABLE
        self.read, sent = serve(rx, tx, self.tables, self.link, self.now_s, self.now_us, 0, limit)
        assert (tx.mem[slots * SLOT_SIZE:] == CANARY).all(), "written outside the ring"
        found = []
        for i in range(sent):
            base = i * SLOT_SIZE
            assert tx.words[base >> 2] == TX_SEND_REQUEST
            size = int(tx.words[(base + H_LEN) >> 2]) - LEAD
            to = base + TX_FRAME + LEAD
            found.append(tx.mem[to:to + size].tobytes())
        return found

    def _rings(self, data: bytes, outer: int | None, checksum_ready: bool) -> tuple[Slots, Slots]:
        rx, tx = self.rx, self.tx
        rx.mem[:] = np.random.default_rng(len(data)).integers(256, size=SLOT_SIZE)
        rx.mem[RX_FRAME:RX_FRAME + len(data)] = np.frombuffer(data, np.uint8)
        rx.words[0] = (RX_USER | (0 if outer is None else RX_VLAN_VALID)
                       | (0 if checksum_ready else RX_CSUM_NOT_READY))
        rx.words[H_SNAPLEN >> 2] = len(data)
        rx.halves[H_MAC >> 1] = RX_FRAME
        rx.halves[H_TCI >> 1] = (outer or 0) & 0xFFFF
        rx.halves[H_TPID >> 1] = (outer or 0) >> 16
        tx.mem[:] = CANARY
        tx.words[HEAD * SLOT_SIZE >> 2] = TX_AVAILABLE
        tx.geometry[G_HEAD] = HEAD
        if COMPILED:
            return rx, tx
        to = HEAD * SLOT_SIZE + TX_FRAME + LEAD
        return (rx._replace(mem=fenced(rx.mem, RX_FRAME, RX_FRAME + len(data))),
                tx._replace(mem=writable(tx.mem, to, (HEAD + 1) * SLOT_SIZE)))

    # What was counted, by name; zeros left out.

    def _named(self, first: int, names: tuple[str, ...]) -> dict[str, int]:
        counts = self.tables.counts[first:first + len(names)].tolist()
        return {name: count for name, count in zip(names, counts, strict=True) if count}

    def received(self) -> dict[str, int]:
        return self._named(RECEIVED, tuple(map(str, range(TYPES))))

    def sent(self) -> dict[str, int]:
        return self._named(SENT, tuple(map(str, range(TYPES))))

    def refused(self) -> dict[str, int]:
        return self._named(REFUSED, REASON_NAMES)

    def causes(self) -> dict[str, int]:
        return self._named(CAUSED, CAUSES)

    def elsewhere(self) -> int:
        return int(self.tables.counts[ELSEWHERE])

    def events(self) -> list[str]:
        return event_lines(self.tables, 0, 100)[0]


# What a client says who has chosen us.
OURS = {54: SERVER.packed}


def wants(address: IP) -> dict[int, bytes]:
    return {50: address.packed}


def bind(server: Served, mac: bytes = CLIENT_MAC, **fields: Any) -> IP:
    """DISCOVER to ACK; the address."""
    offer = server.must(request(MessageType.DISCOVER, mac, **fields)).message
    extra = fields.pop("options", {})
    chosen = {**wants(offer.yiaddr), **OURS, **extra}
    ack = server.must(request(MessageType.REQUEST, mac, options=chosen, **fields)).message
    assert (ack.type, ack.yiaddr) == (MessageType.ACK, offer.yiaddr)
    return ack.yiaddr
