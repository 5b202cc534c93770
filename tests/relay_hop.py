"""A relay on plain memory: frames go in at a port, and come out as octets at others.

The one thing to know: `Hop.hear` is what `relay.app` does with one batch. With kernels not
compiled, every access to a received frame is checked as it is made.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import numpy as np

from fastpath.delay import make_delay
from fastpath.interface import Interface
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.slots import (
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
from fastpath.wire import MessageType
from relay.arrays import CAUSED, CAUSES, H_PORT, H_SOURCE, REFUSED
from relay.arrays import H_MAC as HOP_MAC
from relay.incoming import look
from relay.model import Config
from relay.outgoing import send, send_due
from relay.places import resolve
from relay.stats import snapshot
from relay.tables import delay_rows, make_tables
from tests.kernels import COMPILED, fenced

IP = IPv4Address
DOWN, OTHER, UP = range(3)
NAMES = ("down", "other", "up")
MACS = (b"\x02down.", b"\x02other", b"\x02upup.")
OURS = (IP("10.20.0.1"), IP("10.21.0.1"), IP("10.16.0.2"))
SERVERS = (IP("10.16.0.1"), IP("192.0.2.1"))
SERVER_MACS = (b"\x02srv-1", b"\x02gate.")
CLIENT_MAC, EVERYBODY, ALL_MACS = b"\x02clien", IP("255.255.255.255"), b"\xff" * 6
RX_FRAME, TX_FRAME, LEAD = 66, 32, 10
CANARY = 0xA5


def told(**fields: Any) -> Config:
    given = {"downlinks": ("down", "other"), "uplinks": ("up",), "servers": SERVERS[:1], **fields}
    return Config(**given)


def message(kind: MessageType | int | None = 1, **fields: Any) -> Message:
    """A message of or for a client; `options` come after option 53."""
    options = ({} if kind is None else {53: bytes([kind])}) | fields.pop("options", {})
    defaults = {"xid": 0x11223344, "chaddr": CLIENT_MAC, "options": options}
    return Message(**{**defaults, **fields})


def from_client(payload: bytes | Message, **fields: Any) -> bytes:
    octets = payload if isinstance(payload, bytes) else payload.encode()
    return Frame(**{"src_mac": CLIENT_MAC, "payload": octets, **fields}).encode()


def from_server(payload: bytes | Message, **fields: Any) -> bytes:
    octets = payload if isinstance(payload, bytes) else payload.encode()
    return Frame(**{"src_mac": SERVER_MACS[0], "dst_mac": MACS[UP], "src_ip": SERVERS[0],
                    "dst_ip": OURS[DOWN], "src_port": 67, "payload": octets, **fields}).encode()


@dataclass
class Hop:
    """A relay with the downlinks `down` and `other` and the uplink `up`.

    mtus: of the three. known: MACs of the next hops towards the servers, None for not known.
    """

    config: Config = field(default_factory=told)
    mtus: tuple[int, int, int] = (1500, 1500, 1500)
    known: tuple[bytes | None, ...] = SERVER_MACS
    now_us: int = 0

    def __post_init__(self) -> None:
        self.interfaces = [Interface(name, 7 + i, MACS[i], self.mtus[i],
                                     (IPv4Interface(f"{OURS[i]}/24"),))
                           for i, name in enumerate(NAMES)]
        self.resolved = resolve(self.config, self.interfaces, self.config.uplinks)
        self.tables = make_tables(self.resolved, 16)
        for hop, mac in zip(self.tables.hops, self.known, strict=False):
            hop[H_PORT], hop[H_SOURCE] = UP, int(OURS[UP])
            hop[HOP_MAC] = -1 if mac is None else int.from_bytes(mac, "big")
        self.delays = [make_delay(delay_rows(self.config)) for _ in NAMES]
        self.rx = [make_slots(np.zeros(0, np.uint8), SLOT_SIZE, 0) for _ in NAMES]

    def hear(self, frame: bytes | Message, port: int = DOWN, *, outer: int | None = None,
             checksum_ready: bool = True, slots: int = 4) -> list[tuple[int, bytes]]:
        """(port, frame) of everything that leaves when `frame` is heard; slots: to send from."""
        data = from_client(frame) if isinstance(frame, Message) else frame
        rx = self._received(data, outer, checksum_ready)
        read, requests, targets = look(rx, self.tables, port, 1)
        assert read == 1
        if requests:
            targets |= sum({1 << int(hop[H_PORT]) for hop in self.tables.hops})
        out: list[tuple[int, bytes]] = []
        for to in range(len(NAMES)):
            if targets >> to & 1:
                tx = _sending(slots)
                sent = send(rx.mem, tx, self.tables, self.delays[to], to, read, self.now_us)
                out += [(to, octets) for octets in _sent(tx, int(sent))]
        return out

    def due(self, port: int) -> list[bytes]:
        """Frames that waited, and leave now."""
        tx = _sending(64)
        return _sent(tx, int(send_due(tx, self.tables, self.delays[port], self.now_us, 64)))

    def _received(self, data: bytes, outer: int | None, checksum_ready: bool) -> Slots:
        rx = make_slots(np.full(SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, 0)
        rx.mem[RX_FRAME:RX_FRAME + len(data)] = np.frombuffer(data, np.uint8)
        rx.words[0] = (RX_USER | (0 if outer is None else RX_VLAN_VALID)
                       | (0 if checksum_ready else RX_CSUM_NOT_READY))
        rx.words[H_SNAPLEN >> 2] = len(data)
        rx.halves[H_MAC >> 1] = RX_FRAME
        rx.halves[H_TCI >> 1] = (outer or 0) & 0xFFFF
        rx.halves[H_TPID >> 1] = (outer or 0) >> 16
        return rx if COMPILED else rx._replace(
            mem=fenced(rx.mem, RX_FRAME, RX_FRAME + len(data)))

    def cause(self) -> str:
        """Why the only message so far was (not) relayed, or why its frame was refused."""
        counts = self.tables.counts
        said = [name for i, name in enumerate(CAUSES) if counts[CAUSED + i]]
        said += [f"refused {i}" for i in range(1, 15) if counts[REFUSED + i]]
        return " ".join(said) or "elsewhere"

    def stats(self) -> dict[str, Any]:
        return snapshot(self.tables, self.resolved)


def _sending(slots: int) -> Slots:
    """A transmit ring with so many free slots, and one behind them that is not free."""
    tx = make_slots(np.full((slots + 1) * SLOT_SIZE, CANARY, np.uint8), SLOT_SIZE, TX_FRAME, LEAD)
    for i in range(slots):
        tx.words[i * SLOT_SIZE >> 2] = TX_AVAILABLE
    return tx


def _sent(tx: Slots, count: int) -> list[bytes]:
    slots = len(tx.mem) // SLOT_SIZE - 1
    assert (tx.mem[slots * SLOT_SIZE:] == CANARY).all(), "written outside the ring"
    found = []
    for i in range(count):
        base = i * SLOT_SIZE
        assert tx.words[base >> 2] == TX_SEND_REQUEST
        size = int(tx.words[(base + H_LEN) >> 2]) - LEAD
        to = base + TX_FRAME + LEAD
        assert (tx.mem[to + size + 1:base + SLOT_SIZE] == CANARY).all(), "written past the frame"
        found.append(tx.mem[to:to + size].tobytes())
    return found
