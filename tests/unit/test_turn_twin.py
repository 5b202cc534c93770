"""The tester's kernel against its twin: clients that are Python objects, one deadline each.

The twin knows no slots, arrays, wheel or scrambled ids: it is told what the wire carries. Both
get the same answers, stalls, full rings and stops, made up by Hypothesis, and after every turn
must have counted, measured and sent the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any, NamedTuple

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from tester import engine
from tester.config import TestConfig as Config
from tester.plan import ClosedLoop
from tests.simulated import (
    KICK_US,
    Network,
    Sent,
    address_of,
    check_counts,
    check_latency,
    config,
    framed,
    reply,
    states,
)

COMPILED = hasattr(engine.turn, "py_func")
TICK_US = 1_000
MISSED_US = 10_000
TX_SLOTS = (1, 2, 3, 64)


class Came(NamedTuple):
    """An answer as a person would write it down."""

    at_us: int
    kind: str
    xid: int
    row_of_chaddr: int
    yiaddr: int
    server: int


@dataclass
class Client:
    """One client of the twin."""

    row: int
    state: str = "init"
    exchange: int = 0
    tries: int = 0
    retransmits: int = 0
    intended_us: int = 0
    started_us: int = 0
    leg_us: int = 0
    secs: int = 0
    address: int = 0
    server: int = 0
    deadline: tuple[int, int] | None = None  # tick, and who was first


class Message(NamedTuple):
    """What a client sends."""

    kind: str
    row: int
    exchange: int
    secs: int
    address: int = 0
    server: int = 0


@dataclass
class Twin:
    """The whole test, naively."""

    config: Config
    now_us: int = 0
    seen_us: int = 0
    stopped: bool = False
    room: int = 0
    armed: int = 0
    clients: list[Client] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    latency: dict[str, list[int]] = field(default_factory=dict)
    waiting: list[Came] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    fresh: list[tuple[Client, bool]] = field(default_factory=list)
    ids: dict[int, tuple[int, int]] = field(default_factory=dict)
    owners: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clients = [Client(row) for row in range(self.config.clients)]

    def turn(self, now_us: int, kicked_us: int, intended_us: list[int], limit: int) -> None:
        self.now_us = now_us
        for client, again in self.fresh:
            self.arm(client, (kicked_us + round(self.config.timeout_s * 1e6)) // TICK_US + 1)
            if not again:
                client.leg_us = kicked_us
            if not client.started_us:
                client.started_us = kicked_us
        self.fresh = []
        for _ in range(limit):
            if not (self.room and self.waiting):
                break
            self.take_in(self.waiting.pop(0))
        # As late as the oldest unread answer; what has been seen is not unseen.
        self.seen_us = max(self.seen_us, min([now_us, *(c.at_us for c in self.waiting[:1])]))
        for client in sorted((c for c in self.clients if c.deadline
                              and c.deadline[0] <= self.seen_us // TICK_US),
                             key=lambda c: c.deadline or (0, 0))[:limit]:
            self.time_out(client)
        self.begin(intended_us, limit)

    def send(self, client: Client) -> bool:
        if not self.room:
            return False
        self.room -= 1
        asks = client.state == "requesting"
        if not asks and (client.exchange or client.tries):
            client.secs = (self.now_us - client.started_us) // 1_000_000
        kind = "request" if asks else "discover"
        self.counts[kind] += 1
        if client.tries:
            self.counts[f"{kind}_again"] += 1
            client.retransmits += 1
        self.fresh.append((client, client.tries > 0))
        client.tries += 1
        client.deadline = None
        self.sent.append(Message(kind, client.row, client.exchange, client.secs,
                                 *((client.address, client.server) if asks else ())))
        return True

    def arm(self, client: Client, tick: int) -> None:
        self.armed += 1
        client.deadline = (tick, self.armed)

    def take_in(self, came: Came) -> None:
        kind = came.kind.lower()
        if kind != "nak" and not (came.yiaddr and came.server):
            self.counts["incomplete"] += 1
            return
        self.counts[kind] += 1
        row, exchange = self.ids.get(came.xid, (-1, -1))
        if row < 0 or came.row_of_chaddr != row:
            self.counts["unknown_xid"] += 1
            return
        client = self.clients[row]
        if exchange < client.exchange or client.state in ("timeout_discover", "timeout_request",
                                                          "refused"):
            self.counts["late"] += 1
            return
        does = {("selecting", "offer"): self.offered, ("requesting", "ack"): self.acked,
                ("requesting", "nak"): self.refused}.get((client.state, kind))
        if does:
            does(client, came)
        else:
            self.counts["repeated"] += 1

    def measure(self, series: str, came: Came, since_us: int) -> None:
        self.latency.setdefault(series, []).append(max(came.at_us - since_us, 0))

    def offered(self, client: Client, came: Came) -> None:
        self.measure("discover_offer", came, client.leg_us)
        client.state, client.tries = "requesting", 0
        client.address, client.server = came.yiaddr, came.server
        assert self.send(client)

    def acked(self, client: Client, came: Came) -> None:
        self.measure("request_ack", came, client.leg_us)
        client.address, client.server = came.yiaddr, came.server
        if self.owners.setdefault(came.yiaddr, client.row) != client.row:
            self.counts["duplicate"] += 1
            self.end(client, "duplicate")
            return
        self.measure("dora", came, client.started_us)
        self.measure("dora_from_intended", came, client.intended_us)
        self.end(client, "bound")

    def refused(self, client: Client, came: Came) -> None:
        self.counts["refused"] += 1
        if client.exchange + 1 >= self.config.discover_tries:
            self.end(client, "refused")
            return
        client.exchange += 1
        client.state, client.tries = "selecting", 0
        assert self.send(client)

    def time_out(self, client: Client) -> None:
        leg = "request" if client.state == "requesting" else "discover"
        if client.tries < getattr(self.config, f"{leg}_tries"):
            if not self.send(client):
                self.arm(client, self.now_us // TICK_US + 1)
            return
        self.counts[f"{leg}_timeout"] += 1
        self.end(client, f"timeout_{leg}")

    def end(self, client: Client, state: str) -> None:
        client.state, client.deadline = state, None
        self.counts["in_flight"] -= 1
        self.counts["bound" if state == "bound" else "failed"] += 1

    def begin(self, intended_us: list[int], limit: int) -> None:
        closed = isinstance(self.config.plan, ClosedLoop)
        due = (self.config.plan.window - self.counts["in_flight"]
               if isinstance(self.config.plan, ClosedLoop) else len(intended_us))
        idle = [client for client in self.clients if client.state == "init"]
        for i, client in enumerate(idle[:max(0, min(due, limit))]):
            if self.stopped or not self.room:
                return
            client.state = "selecting"
            client.intended_us = self.now_us if closed else intended_us[i]
            self.send(client)
            self.counts["missed"] += self.now_us - client.intended_us > MISSED_US
            self.counts["started"] += 1
            self.counts["in_flight"] += 1


class Both:
    """The kernel and its twin side by side."""

    def __init__(self, settings: Config, tx_slots: int) -> None:
        self.network = Network(settings, rx_slots=64, tx_slots=tx_slots)
        self.twin = Twin(settings)
        self.now_us = 0
        self.kicked_us = 0
        self.tx_slots = tx_slots

    def step(self, after_us: int, answers: list[dict[str, Any]], take: int | None, due: int,
             late_us: int, limit: int) -> None:
        # No turn begins before the kick of the one before it.
        self.now_us = max(self.now_us + after_us, self.kicked_us)
        for answer in sorted(answers, key=lambda a: -int(a["age_us"])):
            self.answer(**answer)
        intended = [max(self.now_us - late_us, 0)] * due
        self.twin.room = self.tx_slots - self.in_ring()
        before = len(self.twin.sent)
        self.twin.turn(self.now_us, self.kicked_us, intended, limit)
        _, queued = self.network.turn(self.now_us, due, intended, limit=limit, take=take)
        assert queued == len(self.twin.sent) - before
        if queued:
            self.kicked_us = self.now_us + KICK_US
        self.check()

    def in_ring(self) -> int:
        return len(self.twin.sent) - len(self.network.sent)

    def answer(self, age_us: int, kind: str, which: int, foreign: bool, chaddr: int, address: int,
               server: int) -> None:
        """Let an answer to one of the messages sent so far come, `age_us` ago."""
        if not (self.network.sent and self.network.room()):
            return
        request: Sent = self.network.sent[-1 - which % len(self.network.sent)]
        kind = kind or ("OFFER" if request.kind == "DISCOVER" else "ACK")
        yiaddr = address_of(address) if address else IPv4Address(0)
        at_us = max(self.now_us - age_us, 0)
        message = reply(request.message, kind, yiaddr,
                        IPv4Address(f"10.0.0.{server}") if server else None)
        message.xid ^= 0x10000001 * foreign
        row = (request.row + chaddr) % self.twin.config.clients
        base = int.from_bytes(self.twin.config.mac_base, "big")
        message.chaddr = (base + row).to_bytes(6, "big")
        self.network.put(framed(message), at_us)
        self.twin.waiting.append(Came(at_us, kind, message.xid, row, int(message.yiaddr),
                                      int(IPv4Address(f"10.0.0.{server}")) if server else 0))

    def check(self) -> None:
        twin, network = self.twin, self.network
        for message, sent in zip(twin.sent, network.sent, strict=False):
            asked = [int(sent.message.get(code, IPv4Address(0))) for code in (50, 54)]
            assert (sent.kind.lower(), sent.row, sent.message.secs, *asked) == (
                message.kind, message.row, message.secs, message.address, message.server)
            # An id belongs to one exchange of one client, for ever.
            assert twin.ids.setdefault(sent.message.xid, (message.row, message.exchange)) == (
                message.row, message.exchange)
        assert len(set(twin.ids.values())) == len(twin.ids)
        check_counts(network, **twin.counts)
        assert states(network) == [client.state for client in twin.clients]
        table = network.test.clients
        assert table.retransmits.tolist() == [client.retransmits for client in twin.clients]
        for name in ("yiaddr", "server"):
            attribute = "address" if name == "yiaddr" else name
            assert getattr(table, name).tolist() == [getattr(c, attribute) for c in twin.clients]
        assert np.count_nonzero(network.test.wheel.next[:len(twin.clients)] >= 0) == sum(
            client.deadline is not None for client in twin.clients)


answers = st.fixed_dictionaries({
    "age_us": st.sampled_from([0, 0, 1, 40, 3000]),
    "kind": st.sampled_from([""] * 8 + ["NAK"] * 2 + ["OFFER", "ACK"]),  # "": what is wanted
    "which": st.sampled_from([0, 0, 0, 1, 2, 3, 7]),
    "foreign": st.sampled_from([False] * 11 + [True]),
    "chaddr": st.sampled_from([0] * 11 + [1]),
    "address": st.sampled_from([1, 1, 1, 2, 2, 3, 3, 4, 5, 0]),
    "server": st.sampled_from([1] * 8 + [2, 0])})
steps = st.fixed_dictionaries({
    "after_us": st.sampled_from([0, 1, 7, 100, 100, 999, 1000, 3000, 3000, 12_000, 1_100_000]),
    "answers": st.lists(answers, max_size=3),
    "take": st.sampled_from([None] * 5 + [0, 1]),
    "due": st.sampled_from([0, 0, 1, 2]),
    "late_us": st.sampled_from([0, 10, 9_999, 10_001]),
    "limit": st.sampled_from([1, 2, 64, 64])})
tests = st.fixed_dictionaries({
    "clients": st.integers(1, 5), "window": st.integers(1, 4),
    "rate_per_s": st.sampled_from([None, None, 1.0]),
    "timeout_s": st.sampled_from([0.001, 0.003, 0.0105]),
    "discover_tries": st.integers(1, 3), "request_tries": st.integers(1, 3),
    "seed": st.sampled_from([0, 1, 0xFFFFFFFE])})


@settings(deadline=None, max_examples=300 if COMPILED else 40)
@given(tests, st.sampled_from(TX_SLOTS), st.lists(steps, min_size=1, max_size=40),
       st.integers(0, 80))
def test_kernel_and_twin_agree(test: dict[str, Any], tx_slots: int, script: list[dict[str, Any]],
                               stop_after: int) -> None:
    both = Both(config(**test), tx_slots)
    for number, step in enumerate(script):
        if number == stop_after:
            both.twin.stopped = True
            both.network.stop()
        both.step(**step)
    check_latency(both.network, **both.twin.latency)
    for name in ("bound", "duplicate", "refused", "request_again", "late", "request_timeout"):
        if both.twin.counts[name]:
            event(f"saw {name}")
