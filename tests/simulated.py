"""A network in memory for the tester's kernel: slots, a clock that a test sets, answers that
the codec writes.

The one thing to know: times are microseconds from the beginning. A turn at t kicks the ring at
t + KICK_US, and an answer that comes at t is read by a turn at t + READ_US, so that every
latency of a script can be told in advance, exactly.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

import numpy as np

from fastpath import slots as layout
from fastpath.histogram import Histogram
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.wire import BOOTREPLY, REASON_NAMES, MessageType
from tester import cells, engine
from tester.behaviour import Behaviour
from tester.config import Identity, Limits, Patience, TestConfig, Where
from tester.make import BATCH, make_test
from tester.plan import ClosedLoop, ConstantRate, OpenLoop
from tests.invariants import check_invariants

US = 1_000
START_NS = 7_000_000_000
WALL_NS = 1_769_850_000_987_654_321  # wall clock minus monotonic
KICK_US, READ_US = 3, 2
TX_FRAME, TX_LEAD = 32, 10
# Where the kernel puts a frame is its own affair (tp_mac); any place in the slot must do.
RX_MAC = 82
SERVER = IPv4Address("10.0.0.1")
MAC_BASE = bytes.fromhex("02a0b0c0d000")
BROADCAST = b"\xff" * 6


def config(clients: int = 1, *, window: int = 64, rate_per_s: float | None = None,
           lives: Sequence[Behaviour] | Behaviour = (), **more: Any) -> TestConfig:
    """A test as `dhcp-tester` would make it, with answers awaited for 10 ms.

    lives: behaviours, in equal shares. The rest goes by its name to where it belongs.
    """
    lives = (lives,) if isinstance(lives, Behaviour) else lives
    mix = {"mix": tuple((life, 1 / len(lives)) for life in lives)} if lives else {}

    def taken(kind: type, **defaults: Any) -> Any:
        names = [name for name in more if name in kind.__dataclass_fields__]  # type: ignore[attr-defined]
        return kind(**defaults | {name: more.pop(name) for name in names})

    parts = {"where": taken(Where, interface="sim0"),
             "identity": taken(Identity, mac_base=MAC_BASE),
             "patience": taken(Patience, timeout_s=0.01), "limits": taken(Limits)}
    plan = OpenLoop(ConstantRate(rate_per_s)) if rate_per_s else ClosedLoop(window)
    return TestConfig(clients=clients, plan=plan, **parts | {"seed": 0xFFFFFF00} | mix | more)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the tester sent: when its ring was kicked for it, by whom, and what.

    alias: how many names the client has shed.
    """

    at_us: float
    row: int
    alias: int
    frame: Frame
    message: Message
    octets: bytes

    @property
    def kind(self) -> str:
        kind = self.message.type
        assert kind is not None
        return kind.name

    @property
    def does(self) -> str:
        """What a REQUEST is for, told by what it contains (RFC 2131 section 4.3.2)."""
        if self.kind != "REQUEST":
            return self.kind.lower()
        if 54 in self.message.options:
            return "request"
        if not int(self.message.ciaddr):
            return "reboot"
        return "rebind" if self.frame.dst_mac == BROADCAST else "renew"


class Network:
    """One Test with the kernel's side of its two rings."""

    def __init__(self, settings: TestConfig, *, rx_slots: int = 256, tx_slots: int = 256) -> None:
        self.config = settings
        self.test = make_test(settings, START_NS)
        self.rx = layout.make_slots(np.zeros(rx_slots * SLOT_SIZE, np.uint8), SLOT_SIZE, 0)
        self.tx = layout.make_slots(np.zeros(tx_slots * SLOT_SIZE, np.uint8), SLOT_SIZE, TX_FRAME,
                                    TX_LEAD)
        self.sent: list[Sent] = []
        self.trusted_from_ns = 0
        self._rx_at = self._tx_at = 0
        self.kicked_ns = START_NS

    def turn(self, at_us: float, due: int = 0, intended_us: Sequence[float] = (), *,
             renewals: int = 0, releases: int = 0, limit: int = BATCH, take: int | None = None,
             ) -> tuple[int, int]:
        """One turn and its kick; the wire then takes `take` frames (all). As `turn` returns."""
        now_ns = START_NS + round(at_us * US)
        intended = np.array([START_NS + round(t * US) for t in intended_us], np.int64)
        self.due = np.array([due, renewals, releases], np.int64)
        read, queued = engine.turn(self.test, self.rx, self.tx, now_ns, self.kicked_ns, WALL_NS,
                                   self.trusted_from_ns, self.due, intended, limit)
        check_invariants(self.test)
        if queued:
            self.kicked_ns = now_ns + KICK_US * US
        self.take(take)
        return int(read), int(queued)

    def take(self, count: int | None = None) -> None:
        """Move up to `count` frames (all) from the transmit ring to `sent`."""
        total = int(self.tx.geometry[layout.G_COUNT])
        for _ in range(total if count is None else count):
            base = self._tx_at * SLOT_SIZE
            if self.tx.words[base >> 2] != layout.TX_SEND_REQUEST:
                return
            length = int(self.tx.words[(base + layout.H_LEN) >> 2]) - TX_LEAD
            header = bytes(self.tx.mem[base + TX_FRAME:base + TX_FRAME + TX_LEAD])
            # struct virtio_net_hdr: nothing but hdr_len, the whole frame.
            assert header == struct.pack("=BBHHHH", 0, 0, length, 0, 0, 0)
            start = base + TX_FRAME + TX_LEAD
            self._note(bytes(self.tx.mem[start:start + length]))
            self.tx.words[base >> 2] = layout.TX_AVAILABLE
            self._tx_at = (self._tx_at + 1) % total

    def _note(self, octets: bytes) -> None:
        frame = Frame.decode(octets, ports=(self.config.where.server_port,))
        message = Message.decode(frame.payload, require_type=True)
        base = int.from_bytes(self.config.identity.mac_base, "big")
        alias, row = divmod(int.from_bytes(message.chaddr, "big") - base, self.config.clients)
        self.sent.append(Sent((self.kicked_ns - START_NS) / US, row, alias, frame, message,
                              octets))

    def last(self, row: int) -> Sent:
        """The newest message of a client."""
        return next(sent for sent in reversed(self.sent) if sent.row == row)

    def room(self) -> bool:
        """True when the receive ring can take another frame."""
        return int(self.rx.words[(self._rx_at * SLOT_SIZE) >> 2]) == 0

    def put(self, octets: bytes, at_us: float, status: int = layout.RX_USER,
            tag: tuple[int, int] = (0, 0)) -> None:
        """Receive a frame at a time. status: bits besides RX_USER; tag: tpid, tci."""
        assert self.room(), "the receive ring is full"
        base = self._rx_at * SLOT_SIZE
        seconds, nanoseconds = divmod(START_NS + round(at_us * US) + WALL_NS, 10**9)
        mem = self.rx.mem
        # What a slot held before must not matter.
        mem[base:base + SLOT_SIZE] = 0xA5
        header = struct.pack("=IIIHHIIHH4x", 0, len(octets), len(octets), RX_MAC, RX_MAC + 14,
                             seconds, nanoseconds, tag[1], tag[0])
        mem[base:base + len(header)] = np.frombuffer(header, np.uint8)
        mem[base + RX_MAC:base + RX_MAC + len(octets)] = np.frombuffer(octets, np.uint8)
        self.rx.words[base >> 2] = layout.RX_USER | status
        self._rx_at = (self._rx_at + 1) % int(self.rx.geometry[layout.G_COUNT])

    def stop(self) -> None:
        """Let nothing more begin."""
        self.test.plan[cells.P_STOP] = 1


def address_of(row: int) -> IPv4Address:
    """What the servers here give to a client."""
    return IPv4Address("10.0.1.0") + row


def reply(to: Message, kind: str, yiaddr: IPv4Address, server: IPv4Address | None = SERVER,
          lease_s: int = 3600, **options: Any) -> Message:
    """A server's answer to a client's message (RFC 2131 section 4.3.1, table 3).

    options: more of them, or instead of these, by name.
    """
    message = Message(op=BOOTREPLY, xid=to.xid, flags=to.flags, chaddr=to.chaddr)
    message.set("message-type", MessageType[kind])
    if kind != "NAK":
        message.yiaddr = yiaddr
        message.set("subnet-mask", "255.255.0.0")
        message.set("lease-time", lease_s)
    if server:
        message.set("server-identifier", server)
    for name, value in options.items():
        message.set(name.replace("_", "-"), value)
    return message


def mac_of_server(server: IPv4Address) -> bytes:
    return b"\x02\xff" + server.packed


def framed(message: Message, port: int = 68) -> bytes:
    """The message in a frame from the server that it names to everybody."""
    server = message.get("server-identifier", SERVER)
    return Frame(src_mac=mac_of_server(server), src_ip=server, src_port=67, dst_port=port,
                 payload=message.encode()).encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that comes at a time, to the newest message of a client unless told else.

    to: which message of that client, counted from 0. change: what is wrong with the answer.
    options: as `reply` takes them. alone: False leaves it in the ring until the next turn.
    """

    at_us: float
    kind: str
    row: int = 0
    yiaddr: IPv4Address | None = None
    server: IPv4Address | None = SERVER
    to: int = -1
    change: Callable[[Message], None] | None = None
    alone: bool = True
    lease_s: int = 3600
    options: Mapping[str, Any] = field(default_factory=dict)

    def play(self, network: Network) -> None:
        request = [sent.message for sent in network.sent if sent.row == self.row][self.to]
        message = reply(request, self.kind, self.yiaddr or address_of(self.row), self.server,
                        self.lease_s, **self.options)
        if self.change:
            self.change(message)
        network.put(framed(message, network.config.where.client_port), self.at_us)
        if self.alone:
            network.turn(self.at_us + READ_US)


@dataclass(frozen=True, slots=True)
class Look:
    """A turn at a time, with nothing new; starts due in an open loop, by intended times.

    renewals, releases: what the rates of bound clients want.
    """

    at_us: float
    intended_us: tuple[float, ...] = ()
    renewals: int = 0
    releases: int = 0

    def play(self, network: Network) -> None:
        network.turn(self.at_us, len(self.intended_us), self.intended_us,
                     renewals=self.renewals, releases=self.releases)


@dataclass(frozen=True, slots=True)
class Halt:
    """Let nothing more begin."""

    def play(self, network: Network) -> None:
        network.stop()


Script = Sequence[Answer | Look | Halt]


def offered(at_us: float, row: int = 0, **more: Any) -> Answer:
    return Answer(at_us, "OFFER", row, **more)


def acked(at_us: float, row: int = 0, **more: Any) -> Answer:
    return Answer(at_us, "ACK", row, **more)


def refused(at_us: float, row: int = 0, **more: Any) -> Answer:
    return Answer(at_us, "NAK", row, **more)


def play(settings: TestConfig, script: Script) -> Network:
    """Begin the test at 0, then play the script."""
    network = Network(settings)
    if isinstance(settings.plan, ClosedLoop):
        network.turn(0)
    for event in script:
        event.play(network)
    return network


def _phases() -> dict[str, int]:
    return {name: cells.PHASE + message * cells.PHASE_SIZE
            for message, name in enumerate(cells.MESSAGE_NAMES)}


PHASES = _phases()
# How a leg can end, and under which name a table says so, behind that of its message.
ENDINGS = {"answered": cells.ANSWERED, "naked": cells.NAKED, "lost": cells.LOST,
           "ignored": cells.IGNORED_LEGS}
# Answers that were taken have no second name.
CLASSES = {kind + ("" if name == "accepted" else f"_{name}"): cells.CLASS + i * cells.CLASSES + j
           for i, kind in enumerate(("offer", "ack", "nak"))
           for j, name in enumerate(cells.CLASS_NAMES)}
OTHERS = {name.lower(): getattr(cells, name) for name in (
    "STARTED", "RETURNED", "COMPLETED", "FAILED", "IN_FLIGHT", "CLIENTS_BOUND", "MISSED",
    "DISCOVER_TIMEOUT", "REQUEST_TIMEOUT", "REFUSALS", "DUPLICATES", "LEASES_LOST",
    "LEASES_EXPIRED", "SILENT_LEAVES", "MALFORMED_SENT", "MALFORMED_ANSWERED",
    "UNEXPECTED_OPTION", "PROBES", "UNTRUSTED", "ARP_ANSWERED", "PINGS_ANSWERED",
    "NOBODY_TO_RENEW", "NOBODY_TO_RELEASE")}
CELLS = CLASSES | OTHERS | {
    "bound": cells.N_BOUND,
    **{name: cells.MALFORMED + reason for reason, name in enumerate(REASON_NAMES)}}
# Not results: what is in work, and the moments that throughput is taken between. `in_flight` is
# told all the same; `awaited` is what `check_invariants` looks at.
WORKING = {cells.PENDING, cells.QUEUED, cells.FIRST_NS, cells.LAST_BOUND_NS, cells.AWAITED,
           cells.BEGUN, cells.CURSOR, cells.POOL_HEAD, cells.POOL_SIZE}
SERIES = {name: cells.H_LEG + row for row, name in enumerate(cells.LEG_NAMES)} | {
    "dora": cells.H_DORA, "dora_from_intended": cells.H_DORA_INTENDED, "rapid": cells.H_RAPID,
    "release_free": cells.H_RELEASE_FREE, "interval": cells.H_INTERVAL}
# Looked at where a test names them.
MORE_SERIES = {f"{name}_intended": cells.H_INTENDED + row
               for row, name in enumerate(cells.LEG_NAMES)} | {"timer_late": cells.H_TIMER_LATE}
STATES = ("init", "selecting", "requesting", "bound", "renewing", "rebinding", "rebooting",
          "informing", "waiting", "left", "offered", "ignored", "timeout_discover",
          "timeout_request", "refused", "duplicate")


def counts_of(network: Network) -> dict[str, int]:
    """Every counter that is not 0, by name.

    `discover`: all that were sent; `discover_again`: repetitions among them; `discover_lost` and
    the like: legs that ended so, but for those that were answered.
    """
    counts = network.test.counts
    named = {name: int(counts[cell]) for name, cell in CELLS.items()}
    for name, phase in PHASES.items():
        named[name] = int(counts[phase + cells.TIMES])
        named[f"{name}_again"] = int(counts[phase + cells.TIMES] - counts[phase + cells.LEGS])
        for ending in ("naked", "lost", "ignored"):
            named[f"{name}_{ending}"] = int(counts[phase + ENDINGS[ending]])
    return {name: count for name, count in named.items() if count}


def check_counts(network: Network, **expected: int) -> None:
    """Every counter that is not named is 0. Answered legs are what `check_invariants` adds up."""
    counts = network.test.counts
    assert counts_of(network) == {name: count for name, count in expected.items() if count}
    known = {*WORKING, *CELLS.values(), *range(cells.MESSAGES * cells.PHASE_SIZE)}
    assert set(np.flatnonzero(counts).tolist()) <= known


def check_latency(network: Network, **expected: list[int]) -> None:
    """The histograms are those of exactly these microseconds; of no series more."""
    wanted_of = {"interval": expected.get("dora", [])} | expected
    for name, row in (SERIES | MORE_SERIES).items():
        if name in MORE_SERIES and name not in expected:
            continue
        wanted = Histogram()
        for value in wanted_of.get(name, []):
            wanted.record(value)
        assert np.array_equal(network.test.histograms[row], wanted.data), (
            name, list(Histogram(network.test.histograms[row]).buckets()))


def states(network: Network) -> list[str]:
    return [STATES[number] for number in network.test.clients.state.tolist()]
