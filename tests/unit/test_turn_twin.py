"""The tester's kernels against their twin: whole lives of clients, from event to event.

Both get the same answers, stalls, full rings, orders and stops, made up by Hypothesis, and
after every turn must have counted, measured and sent the same. The twin is tests.living.
"""

from __future__ import annotations

import math
from ipaddress import IPv4Address
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from fastpath.message import Message
from fastpath.wire import MessageType
from tester import cells
from tester.behaviour import Behaviour
from tester.clients import row_of
from tester.config import Expectation
from tester.config import TestConfig as Config
from tests.kernels import examples, wraps
from tests.living import Came, Twin, counted
from tests.simulated import (
    BROADCAST,
    ENDINGS,
    KICK_US,
    MORE_SERIES,
    PHASES,
    SERVER,
    Network,
    Sent,
    address_of,
    check_latency,
    config,
    counts_of,
    framed,
    mac_of_server,
    reply,
    states,
)

pytestmark = wraps

TX_SLOTS = (1, 2, 3, 64, 64)
MASK = "255.255.0.0"
INFINITE_S = 0xFFFFFFFF
EXPECTS = (Expectation("subnet-mask", 1, cells.X_EQUAL, IPv4Address(MASK).packed),)


def server_of(number: int) -> IPv4Address:
    return SERVER + number - 1


class Both:
    """The kernels and their twin side by side."""

    def __init__(self, settings: Config, tx_slots: int) -> None:
        self.network = Network(settings, rx_slots=64, tx_slots=tx_slots)
        self.twin = Twin(settings)
        self.twin.add_clients([settings.mix[int(i)][0]
                               for i in self.network.test.clients.behaviour])
        self.now_us = self.kicked_us = self.checked = self.served = 0
        self.tx_slots = tx_slots

    def stop(self) -> None:
        self.network.stop()
        self.twin.stopped = True

    def step(self, *, after_us: int, served: int, odd: list[dict[str, Any]], take: int | None,
             due: int, late_us: int, renewals: int, releases: int, limit: int) -> None:
        """Let time pass, answers come, and a turn be made of it.

        served: how many of the messages not yet answered are, as a server would; odd: other
        answers. take: how many frames the kernel sends. due: starts wanted in open loop.
        """
        # No turn begins before the kick of the one before it.
        self.now_us = max(self.now_us + after_us, self.kicked_us)
        for answer in sorted(odd, key=lambda a: -int(a["age_us"])):
            self.answer(**answer)
        for _ in range(served):
            if self.served < len(self.network.sent):
                self.served += 1
                self.answer(which=len(self.network.sent) - self.served)
        intended = [max(self.now_us - late_us, 0)] * due
        twin, network = self.twin, self.network
        twin.room = self.tx_slots - (len(twin.said) - len(network.sent))
        before = len(twin.said)
        twin.turn(self.now_us, self.kicked_us, intended, renewals, releases, limit,
                  network.test.clients.epoch.tolist())
        _, queued = network.turn(self.now_us, due, intended, renewals=renewals, releases=releases,
                                 limit=limit, take=take)
        assert queued == len(twin.said) - before
        assert network.due[1:].tolist() == twin.left_over
        if queued:
            self.kicked_us = self.now_us + KICK_US
        self.check()

    def answer(self, which: int = 0, age_us: int = 0, kind: str = "", foreign: bool = False,
               chaddr: int = 0, address: int = 0, server: int = 0, lease_s: int = 4,
               times_s: tuple[int, int] | None = None, rapid: bool = True, mask: str = MASK,
               ) -> None:
        """Let an answer come, `age_us` ago, to the message `which` before the last one sent."""
        network, settings = self.network, self.network.config
        if not (network.sent and network.room()):
            return
        request = network.sent[-1 - which % len(network.sent)]
        given = natural(request, kind)
        if address:
            given = address_of(address % 8) if address < 8 else IPv4Address(0)
        if foreign and not int(given):
            given = address_of(0)
        # 9: none is named; what the server cannot know, the first one answers.
        named = request.message.get("server-identifier") or SERVER
        by = None if server == 9 else server_of(server) if server else named
        message = reply(request.message, kind or usual(request), given, by, lease_s)
        if message.type is MessageType.NAK:
            message.yiaddr = IPv4Address(0)
        else:
            dress(message, times_s, rapid, mask)
        message.xid ^= 0x10000001 * foreign
        row, alias = (request.row + chaddr) % settings.clients, request.alias
        base = int.from_bytes(settings.identity.mac_base, "big")
        message.chaddr = (base + row + alias * settings.clients).to_bytes(6, "big")
        if message.xid not in self.twin.ids:
            self.twin.strangers[message.xid] = int(
                row_of(message.xid, settings.clients, settings.seed & 0xFFFFFFFF)[0])
        at_us = max(self.now_us - age_us, 0)
        network.put(framed(message), at_us)
        self.twin.waiting.append(Came(
            at_us, (kind or usual(request)), message.xid, row, alias, int(message.yiaddr),
            int(by) if by else 0, lease_s, times_s, rapid, mask))

    def check(self) -> None:
        twin, network = self.twin, self.network
        new = slice(self.checked, len(network.sent))
        for said, sent in zip(twin.said[new], network.sent[new], strict=True):
            assert seen(sent) == (said.kind, said.row, said.alias, said.secs, said.ciaddr,
                                  said.wanted, said.server), sent
            check_addresses(sent, self.network)
            # An id belongs to one transaction of one client, for ever.
            known = twin.ids.setdefault(sent.message.xid, (said.row, said.transaction))
            assert known == (said.row, said.transaction)
        assert len(set(twin.ids.values())) == len(twin.ids)
        self.checked = new.stop
        check_counted(twin, network)
        check_rows(twin, network)


def usual(request: Sent) -> str:
    """What a server answers."""
    return "OFFER" if request.kind == "DISCOVER" else "ACK"


def natural(request: Sent, kind: str) -> IPv4Address:
    """What a server would give: what is asked for, or has been before; to each its own."""
    message = request.message
    asked = message.get("requested-address") or message.ciaddr
    return asked if int(asked) else address_of(request.row)


def dress(message: Message, times_s: tuple[int, int] | None, rapid: bool, mask: str) -> None:
    if times_s:
        message.set("renewal-time", times_s[0])
        message.set("rebinding-time", times_s[1])
    if rapid:
        message.options[80] = b""
    message.remove(1)
    if mask:
        message.set("subnet-mask", mask)


def seen(sent: Sent) -> tuple[Any, ...]:
    message = sent.message
    wanted, server = (int(message.get(code, IPv4Address(0))) for code in (50, 54))
    return (sent.does, sent.row, sent.alias, message.secs, int(message.ciaddr), wanted, server)


def check_addresses(sent: Sent, network: Network) -> None:
    """From whom and to whom (RFC 2131 sections 4.4.4 to 4.4.6)."""
    frame, message = sent.frame, sent.message
    assert frame.src_mac == message.chaddr and frame.src_ip == message.ciaddr
    if sent.does in ("renew", "inform", "release"):
        assert frame.dst_mac == mac_of_server(frame.dst_ip)
    else:
        assert (frame.dst_mac, frame.dst_ip) == (BROADCAST, IPv4Address("255.255.255.255"))


def check_counted(twin: Twin, network: Network) -> None:
    found = counts_of(network)
    for name, phase in PHASES.items():
        found[f"{name}_answered"] = int(network.test.counts[phase + ENDINGS["answered"]])
    assert {name: count for name, count in found.items() if count} == counted(twin)
    table = network.test.servers
    for row in table[table[:, cells.S_ID] != 0]:
        for name, cell in (("offers", cells.S_OFFERS), ("acks", cells.S_ACKS),
                           ("naks", cells.S_NAKS), ("chosen", cells.S_CHOSEN),
                           ("refused", cells.S_REFUSED)):
            assert row[cell] == twin.servers[int(row[cells.S_ID]), name], name


def check_rows(twin: Twin, network: Network) -> None:
    table, clients = network.test.clients, twin.clients
    assert states(network) == [client.state for client in clients]
    for name, wanted in (("yiaddr", "address"), ("retransmits", "retransmits"),
                         ("lives", "lives"), ("alias", "alias"), ("naks", "naks")):
        assert getattr(table, name).tolist() == [getattr(c, wanted) for c in clients], name
    rows = len(clients)
    wheel = network.test.wheel
    assert (wheel.next[:rows] >= 0).tolist() == [c.deadline is not None for c in clients]
    for client in clients:
        if client.deadline:
            assert wheel.due[client.row] == client.deadline[0]


def life(name: str, ending: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({
        "name": st.just(name), "ending": st.just(ending),
        "hold_ms": st.sampled_from([0, 0, 3, 20, 400, 30_000]),
        "return_ms": st.sampled_from([0, 5, 50]), "lives": st.sampled_from([0, 1, 1, 2, 3])})


ENDS = (("stay", cells.E_STAY), ("release", cells.E_RELEASE), ("leave", cells.E_LEAVE),
        ("decline", cells.E_DECLINE), ("reboot", cells.E_REBOOT), ("inform", cells.E_INFORM),
        ("handover", cells.E_HANDOVER))
lives = st.one_of(*(life(name, ending) for name, ending in ENDS),
                  st.just({"name": "hold", "ending": cells.E_STAY, "hold_ms": math.inf}),
                  st.just({"name": "discover-only", "opening": cells.O_LOOK}),
                  st.sampled_from([0, 1, 2]).map(lambda n: {
                      "name": "expire", "ending": cells.E_EXPIRE, "hold_ms": math.inf,
                      "renews": False, "return_ms": 1, "lives": n}))
odd_answers = st.fixed_dictionaries({
    "age_us": st.sampled_from([0, 0, 1, 40, 3000]),
    "kind": st.sampled_from([""] * 6 + ["NAK"] * 3 + ["OFFER", "ACK"]),  # "": what is wanted
    "which": st.sampled_from([0, 0, 0, 1, 2, 3, 7]),
    "foreign": st.sampled_from([False] * 11 + [True]),
    "chaddr": st.sampled_from([0] * 11 + [1]),
    "address": st.sampled_from([0] * 6 + [1, 2, 3, 8]),
    "server": st.sampled_from([0] * 6 + [2, 2, 3, 9]),
    "lease_s": st.sampled_from([1, 2, 3, 4, 10, 60, INFINITE_S]),
    "times_s": st.sampled_from([None, None, None, (1, 2), (2, 2), (3, 1), (0, 5), (5, 70)]),
    "rapid": st.booleans(),
    "mask": st.sampled_from([MASK, MASK, "255.0.0.0", ""])})
steps = st.fixed_dictionaries({
    "after_us": st.sampled_from([0, 1, 7, 100, 100, 999, 1000, 3000, 3000, 12_000, 60_000,
                                 1_100_000, 5_000_000]),
    "served": st.sampled_from([0, 0, 1, 2, 9, 9, 9]),
    "odd": st.lists(odd_answers, max_size=2),
    "take": st.sampled_from([None] * 5 + [0, 1]),
    "due": st.sampled_from([0, 0, 1, 2]),
    "late_us": st.sampled_from([0, 10, 9_999, 10_001]),
    "renewals": st.sampled_from([0, 0, 1, 3]), "releases": st.sampled_from([0, 0, 0, 1]),
    "limit": st.sampled_from([1, 2, 64, 64, 64])})
tests = st.fixed_dictionaries({
    "clients": st.integers(1, 5), "window": st.integers(1, 4),
    "rate_per_s": st.sampled_from([None, None, 1.0]),
    "timeout_s": st.sampled_from([0.001, 0.003, 0.0105]),
    "discover_tries": st.integers(1, 3), "request_tries": st.integers(1, 3),
    "backoff_s": st.sampled_from([None, None, (0.004, 0.016)]),
    "exchanges": st.sampled_from([None, 3, 20]),
    "rapid_commit": st.sampled_from([False, False, True]),
    "renew_rate": st.sampled_from([0.0, 1.0]), "release_rate": st.sampled_from([0.0, 0.0, 1.0]),
    "time_scale": st.sampled_from([1.0, 20.0, 100.0, 1000.0, 0.5]),
    "offer_policy": st.sampled_from([cells.OFFER_FIRST] * 3 + [cells.OFFER_ALL,
                                                               cells.OFFER_SERVER]),
    "offer_wait_s": st.sampled_from([0.0, 0.0005, 0.004]),
    "expects": st.sampled_from([(), EXPECTS]),
    "seed": st.sampled_from([0, 1, 0xFFFFFFFE])})


def lived(time_scale: float, hold_ms: float = 0.0, return_ms: float = 1.0, **more: Any,
          ) -> Behaviour:
    """A behaviour with times as they pass in the test."""
    return Behaviour(hold_s=hold_ms / 1000 * time_scale, return_s=return_ms / 1000 * time_scale,
                     **more)


def agree(test: dict[str, Any], mix: list[dict[str, Any]], tx_slots: int,
          script: list[dict[str, Any]], stop_after: int) -> None:
    settings = config(lives=[lived(test["time_scale"], **one) for one in mix],
                      offer_server=server_of(2), **test)
    both = Both(settings, tx_slots)
    for number, step in enumerate(script):
        if number == stop_after:
            both.stop()
        both.step(**step)
    check_latency(both.network, **{name: [] for name in MORE_SERIES} | {"interval": []}
                  | both.twin.latency)
    for name in both.twin.counts:
        event(name)


@examples(compiled=400, interpreted=20)
@given(tests, st.lists(lives, min_size=1, max_size=3), st.sampled_from(TX_SLOTS),
       st.lists(steps, min_size=20, max_size=60), st.integers(0, 160))
def test_kernels_and_twin_agree(test: dict[str, Any], mix: list[dict[str, Any]], tx_slots: int,
                                script: list[dict[str, Any]], stop_after: int) -> None:
    agree(test, mix, tx_slots, script, stop_after)


# Time passes in steps of which several make a lease, so that T1, T2 and its end are all met.
quiet_steps = st.fixed_dictionaries({
    "after_us": st.sampled_from([3000, 7000, 12_000, 20_000, 20_000]),
    "served": st.sampled_from([0, 0, 0, 9]), "odd": st.lists(odd_answers, max_size=1),
    "take": st.sampled_from([None] * 9 + [0]), "due": st.just(0), "late_us": st.just(0),
    "renewals": st.just(0), "releases": st.just(0), "limit": st.just(64)})


@examples(compiled=300, interpreted=15)
@given(st.integers(1, 3), st.sampled_from([None, (0.004, 0.016)]), st.integers(1, 3),
       st.sampled_from([20.0, 40.0]), st.lists(quiet_steps, min_size=20, max_size=60))
def test_kernels_and_twin_agree_on_leases(clients: int, backoff_s: tuple[float, float] | None,
                                          tries: int, time_scale: float,
                                          script: list[dict[str, Any]]) -> None:
    """Held for ever: renewed, rebound, lost and looked for again."""
    test = {"clients": clients, "timeout_s": 0.003, "backoff_s": backoff_s,
            "discover_tries": 3, "request_tries": tries, "time_scale": time_scale}
    first = [{**script[0], "served": 9, "odd": []}] * 4
    agree(test, [{"name": "hold", "hold_ms": math.inf}], 64, first + script, len(script) + 4)
