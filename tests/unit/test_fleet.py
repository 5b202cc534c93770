"""A test over several interfaces: what is shared out adds up, and what is merged is what was.

The rings are in memory and answer within the kick; each is readable, as a packet ring is, while
frames wait in it. Times are those of the real clock, so none is compared but with the plan's.
"""

from __future__ import annotations

import os
import select
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath import slots as layout
from fastpath.clock import Clock
from fastpath.errors import SystemRefused, UserError
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from tester import cells
from tester.behaviour import Behaviour
from tester.cells import BEGUN, MOST_SERVERS, S_ACKS, S_EXPECTED, S_ID, S_MAC, S_OFFERS
from tester.cli import main_command
from tester.clients import row_of as row_of_xid
from tester.clients import xid_of
from tester.collect import collect
from tester.compose import mac_of
from tester.config import Field, TestConfig, mask_of
from tester.fleet import make_fleet
from tester.gather import duplicates, gather, rows_of
from tester.listing import write_clients_csv
from tester.make import BATCH, assign, make_test
from tester.measuring import Outcome
from tester.place import interfaces_of, where_from
from tester.plan import Avalanche, OpenLoop
from tester.report import render
from tester.rounds import FleetRunner
from tester.run import touch
from tester.share import row_of, share, shares
from tester.template import parse
from tests.invariants import check_invariants
from tests.kernels import examples, several, wraps
from tests.simulated import (
    SERVER,
    START_NS,
    US,
    WALL_NS,
    Network,
    Sent,
    address_of,
    config,
    framed,
    reply,
)

pytestmark = wraps

LOSSES = {"rx_ring": 0, "interface": 0, "softnet": 0, "server_socket": None, "tx_ring": 0}


def over(parts: int, clients: int, **more: Any) -> TestConfig:
    """A test over so many interfaces."""
    made = config(clients, timeout_s=more.pop("timeout_s", 5.0), **more)
    names = tuple(f"sim{part}" for part in range(parts))
    return replace(made, where=replace(made.where, interface=",".join(names), interfaces=names))


# What is shared out.

@given(st.integers(0, 1 << 41), st.integers(1, 2000))
def test_shares_add_up(total: int, parts: int) -> None:
    found = shares(total, parts)
    assert int(found.sum()) == total and found.max() - found.min() <= 1
    for part in {0, parts // 2, parts - 1}:
        assert found[part] == share(total, parts, part)


@given(st.integers(1, 60), st.integers(1, 12))
def test_shares_are_of_every_so_manieth(total: int, parts: int) -> None:
    numbers = [list(range(part, total, parts)) for part in range(parts)]
    assert shares(total, parts).tolist() == [len(part) for part in numbers]
    table = [number for part in numbers for number in part]
    rows = row_of(np.arange(total), total, parts)
    assert [table[row] for row in rows] == list(range(total))


@given(st.integers(1, 9), st.integers(9, 40), st.integers(0, 100), st.integers(1, 90))
def test_plans_of_interfaces_add_up(parts: int, clients: int, exchanges: int, window: int) -> None:
    fleet = make_fleet(over(parts, clients, exchanges=exchanges, window=max(window, parts)),
                       START_NS)
    assert fleet.plans[:, cells.P_EXCHANGES].sum() == exchanges
    assert fleet.plans[:, cells.P_WINDOW].sum() == max(window, parts)
    assert fleet.plans[:, cells.P_WINDOW].min() >= 1
    assert sum(len(lane.clients.state) for lane in fleet.lanes) == clients


def test_a_preload_of_fewer_than_there_are_interfaces() -> None:
    """A window of 0 would be an open loop."""
    fleet = make_fleet(over(3, 10, rate_per_s=5.0), START_NS)
    assert not fleet.plans[:, cells.P_WINDOW].any()
    fleet.whole.plan[[cells.P_WINDOW, cells.P_EXCHANGES]] = 2, 2
    fleet.tell()
    assert fleet.plans[:, cells.P_WINDOW].tolist() == [1, 1, 1]
    assert fleet.plans[:, cells.P_EXCHANGES].tolist() == [1, 1, 0]


def test_behaviours_are_shared_out_as_on_one_interface() -> None:
    lives = [Behaviour(name, lives=1 + i) for i, name in enumerate("abc")]
    settings = over(7, 100, lives=lives)
    wanted = np.zeros(100, np.uint8)
    assign(settings, wanted)
    fleet = make_fleet(settings, START_NS)
    rows = row_of(np.arange(100), 100, 7)
    assert fleet.whole.clients.behaviour[rows].tolist() == wanted.tolist()


# Who clients are.

def identities(test: Any, xid_clients: int) -> list[tuple[int, int]]:
    rows = len(test.clients.state)
    return [(int(mac_of(test, row)), int(xid_of(row, 0, rows, test.plan[cells.P_SEED])))
            for row in range(rows)]


@examples(60, 12)
@given(st.integers(2, 7), st.integers(7, 30), st.integers(1, 300), st.booleans(), st.booleans())
def test_clients_are_who_they_would_be_on_one_interface(
        parts: int, clients: int, step: int, carry: bool, listed: bool) -> None:
    macs = tuple(0x02AA00000000 + 7 * i for i in range(clients)) if listed else ()
    settings = over(parts, clients, mac_step=step, mac_carry=carry, macs=macs)
    fleet = make_fleet(settings, START_NS)
    xids = set()
    for part, lane in enumerate(fleet.lanes):
        for row, (mac, xid) in enumerate(identities(lane, clients)):
            assert mac == int.from_bytes(settings.mac_of(row * parts + part), "big")
            assert row_of_xid(xid, len(lane.clients.state), lane.plan[cells.P_SEED])[0] == row
            xids.add(xid)
    assert len(xids) == clients


def test_transaction_ids_stay_apart_for_as_long_as_one_client_has_new_ones() -> None:
    parts, clients = 50, 1000
    fleet = make_fleet(over(parts, clients), START_NS)
    seen: set[int] = set()
    epochs = [0, 1, 2, 1000, (1 << 32) // clients - 1]
    for lane in fleet.lanes:
        rows = len(lane.clients.state)
        seen |= {int(xid_of(row, epoch, rows, lane.plan[cells.P_SEED]))
                 for row in range(rows) for epoch in epochs}
    assert len(seen) == clients * len(epochs)


def test_names_taken_after_a_handover_are_nobody_s() -> None:
    parts, clients = 3, 11
    fleet = make_fleet(over(parts, clients), START_NS)
    names = [int(mac_of(lane, row)) for alias in range(4) for lane in fleet.lanes
             for row in range(len(lane.clients.state)) if not lane.clients.alias.fill(alias)]
    assert len(set(names)) == len(names)


def said(test: Any, settings: TestConfig) -> list[tuple[bytes, bytes | None, bytes | None, bytes]]:
    """chaddr, host name, client identifier and tags of all DISCOVERs that a test begins with."""
    network = Network(replace(settings, where=replace(settings.where, interfaces=())))
    network.test = test
    found = []
    for _ in range(2 + settings.clients // BATCH):
        network.turn(0)
    for sent in network.sent:
        found.append((sent.message.chaddr, sent.message.options.get(12),
                      sent.message.options.get(61), sent.octets[12:18]))
    return found


def test_templates_count_clients_of_the_whole() -> None:
    hostname = Field(mask_of("discover"), 12, -1, parse("s{index//4}-{index%4}-{index}-{mac}", ""))
    client_id = Field(mask_of("discover"), 61, -1, parse("hex:00{index:4}", ""))
    settings = over(5, 33, window=1000, fields=(hostname, client_id))
    settings = replace(settings, where=replace(settings.where, answers_arp=False))
    alone = said(make_test(settings, START_NS), settings)
    fleet = make_fleet(settings, START_NS)
    together = [one for lane in fleet.lanes for one in said(lane, settings)]
    assert len(alone) == 33 and Counter(together) == Counter(alone)
    for part, lane in enumerate(make_fleet(settings, START_NS).lanes):
        assert said(lane, settings) == alone[part::5]


def test_one_table_and_no_more() -> None:
    """Rows of interfaces are stretches of one table; the histograms are the same for all."""
    fleet = make_fleet(over(3, 10), START_NS)
    for lane in fleet.lanes:
        assert np.shares_memory(lane.clients.yiaddr, fleet.whole.clients.yiaddr)
        assert lane.histograms is fleet.whole.histograms
        assert not np.shares_memory(lane.servers, fleet.whole.servers)
    ends = [lane.clients.state.__array_interface__["data"][0] for lane in fleet.lanes]
    assert ends == sorted(ends) and sum(len(lane.wheel.due) for lane in fleet.lanes) == 10


# What is merged.

SERVERS = st.lists(st.tuples(st.integers(1, 80), st.integers(0, 5), st.integers(0, 5)), max_size=70,
                   unique_by=lambda row: row[0])


@examples(40, 20)
@given(st.lists(SERVERS, min_size=2, max_size=4))
def test_servers_by_their_identifier(tables: list[list[tuple[int, int, int]]]) -> None:
    fleet = make_fleet(over(len(tables), 80, expect_servers=(IPv4Address(3),)), START_NS)
    wanted: Counter[int] = Counter()
    for lane, table in zip(fleet.lanes, tables, strict=True):
        lane.servers[:] = 0
        for at, (server, offers, acks) in enumerate(table[:MOST_SERVERS - 1]):
            lane.servers[at, [S_ID, S_MAC, S_OFFERS, S_ACKS]] = server, server + 9, offers, acks
            wanted[server] += offers + acks
        lane.servers[-1, S_OFFERS] = 4
        lane.clients.server[:] = 0
    gather(fleet, 0)
    found = fleet.whole.servers
    by_id = {int(row[S_ID]): row for row in found[:-1] if row[S_ID]}
    rest = sum(count for server, count in wanted.items() if server not in by_id)
    for server, row in by_id.items():
        assert row[S_OFFERS] + row[S_ACKS] == wanted[server]
        assert row[S_MAC] in (0, server + 9) and row[S_EXPECTED] == (server == 3)
    assert found[-1, S_OFFERS] + found[-1, S_ACKS] == rest + 4 * len(tables)
    for lane, table in zip(fleet.lanes, tables, strict=True):
        # A client still refers to the server that it chose.
        if table and table[0][0] in by_id:
            assert {int(found[row, S_ID]) for row in lane.clients.server} == {table[0][0]}


LEASE = st.tuples(st.integers(0, 4), st.integers(0, 20), st.integers(0, 9).map(
    lambda s: 0xFFFFFFFF if s == 9 else s))


def naive_duplicates(leases: Sequence[tuple[int, int, int]]) -> set[int]:
    """One after another, as they were given; of two at one time the first row has it."""
    holders: dict[int, float] = {}
    found = set()
    for row in sorted(range(len(leases)), key=lambda row: (leases[row][1], row)):
        address, at_s, lease_s = leases[row]
        if not address:
            continue
        if at_s < holders.get(address, -1):
            found.add(row)
        else:
            holders[address] = float("inf") if lease_s == 0xFFFFFFFF else at_s + lease_s
    return found


@given(st.lists(LEASE, max_size=30))
def test_addresses_given_twice(leases: list[tuple[int, int, int]]) -> None:
    columns = np.array(leases, np.uint32).reshape(-1, 3).T
    found = duplicates(columns[0], columns[1] * np.uint32(1000), columns[2])
    assert len(found) == len(set(found)) and set(found) == naive_duplicates(leases)


@given(st.lists(st.tuples(*[st.integers(0, 1 << 40)] * 4), min_size=2, max_size=5))
def test_counts_add_up(rows: list[tuple[int, int, int, int]]) -> None:
    fleet = make_fleet(over(len(rows), 9), START_NS)
    named = [cells.STARTED, cells.N_BOUND, cells.FIRST_NS, cells.LAST_BOUND_NS]
    fleet.counts[:, named] = rows
    fleet.add_up()
    started, bound, first, last = zip(*rows, strict=True)
    assert fleet.whole.counts[named].tolist() == [
        sum(started), sum(bound), min(filter(None, first), default=0), max(last)]
    assert np.count_nonzero(fleet.whole.counts) <= 4


# Whole tests.

class Answering:
    """A Ring in memory whose other end answers what `answers` says, readable as a ring is."""

    def __init__(self, network: Network, label: str, answers: Callable[[Sent], str],
                 clock: Clock, address: Callable[[int], IPv4Address]) -> None:
        self.network, self.label, self.answers, self.address = network, label, answers, address
        self.tx, self.clock, self.congested, self.seen = network.tx, clock, False, 0
        self.gone = ""
        self.on_kick: Callable[[], None] = lambda: None
        self._read, self._write = os.pipe2(os.O_NONBLOCK)

    @property
    def rx(self) -> layout.Slots:
        # Until the turn after the last frame was read, so that one too many is made at most.
        while (layout.rx_peek(self.network.rx, 0) < 0
               and select.select([self._read], [], [], 0)[0]):
            os.read(self._read, 4096)
        return self.network.rx

    def fileno(self) -> int:
        return self._read

    def kick(self) -> None:
        if self.gone:
            raise SystemRefused(f"interface {self.label!r} {self.gone}")
        check_invariants(self.network.test, measured_from_start=False)
        self.network.take()
        for sent in self.network.sent[self.seen:]:
            if kind := self.answers(sent):
                now_us = (self.clock.now_ns() + self.clock.offset_ns() - WALL_NS - START_NS) / US
                self.network.put(framed(reply(sent.message, kind, self.address(sent.row))), now_us)
                os.write(self._write, b"x")
        self.seen = len(self.network.sent)
        self.on_kick()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


def willing(sent: Sent) -> str:
    return {"DISCOVER": "OFFER", "REQUEST": "ACK"}.get(sent.kind, "")


class Run:
    """A finished test; `rings` are those it spoke through."""

    def __init__(self, settings: TestConfig, answers: Callable[[int], Callable[[Sent], str]] =
                 lambda part: willing, prepare: Callable[[Run], None] = lambda run: None,
                 address: Callable[[int], IPv4Address] = address_of) -> None:
        clock = Clock()
        self.settings, self.fleet = settings, make_fleet(settings, clock.now_ns())
        touch(self.fleet.lanes[0])
        self.rings = []
        for part, lane in enumerate(self.fleet.lanes):
            network = Network(settings, rx_slots=4096, tx_slots=128)
            network.test = lane
            self.rings.append(Answering(network, f"sim{part}", answers(part), clock, address))
        prepare(self)
        self.refused = ""
        with (select.epoll() as epoll, Stop() as stop,
              Panel(lambda before, now: "", False) as panel):
            runner = FleetRunner(settings, self.fleet, cast(list[Ring], self.rings), stop, epoll,
                                 progress=False, panel=panel)
            try:
                self.outcome: Outcome = runner.run()
            except SystemRefused as error:
                self.refused, self.outcome = error.what, runner.cut_short(error.what)
            self.measured_from_ns, self.began_ns = runner.measured_from_ns, runner._began
        for ring in self.rings:
            ring.close()

    def document(self) -> dict[str, Any]:
        gather(self.fleet, self.measured_from_ns)
        document = collect(self.settings, self.fleet.whole, self.outcome,
                           datetime.now(UTC), LOSSES)
        document["interfaces"] = rows_of(self.settings.where.interfaces, self.fleet.lanes,
                                         [0] * len(self.rings), self.measured_from_ns)
        return document


MANY = several(20, 5)


@pytest.mark.parametrize(("parts", "clients", "window"), [
    (2, 3, 64), (3, 100, 3), (5, 41, 7), (MANY, 3 * MANY + 1, MANY)])
def test_everybody_is_served(parts: int, clients: int, window: int) -> None:
    run = Run(over(parts, clients, window=window))
    document = run.document()
    assert document["verdict"] == "pass" and not document["interrupted"]
    assert document["clients"]["bound"] == document["exchanges"]["completed"] == clients
    assert document["latency_us"]["dora"]["count"] == clients
    assert sum(row["bound"] for row in document["intervals"]) == clients
    assert document["messages"]["discover"]["sent"] == clients
    rows = document["interfaces"]
    assert [row["interface"] for row in rows] == [f"sim{part}" for part in range(parts)]
    assert [row["bound"] for row in rows] == [row["planned"] for row in rows] == \
        shares(clients, parts).tolist()
    assert document["servers"][0]["acks"] == clients and len(document["servers"]) == 1
    for part, ring in enumerate(run.rings):
        assert {sent.row % parts for sent in ring.network.sent} == {part}


def test_starts_are_when_the_plan_wants_them() -> None:
    """Start i on interface i modulo their number, at i / rate, as on one."""
    parts, clients, rate = 4, 61, several(2000, 300)
    run = Run(over(parts, clients, rate_per_s=float(rate)))
    table = run.fleet.whole.clients
    wanted = run.began_ns + (np.arange(clients) / rate * 1e9).astype(np.int64)
    rows = row_of(np.arange(clients), clients, parts)
    assert table.intended_ns[rows].tolist() == wanted.tolist()
    assert (table.started_ns[rows] >= wanted).all()
    assert run.document()["exchanges"]["completed"] == clients


def test_a_dead_segment_delays_nobody_else() -> None:
    """Its starts wait for no answer, and those of the others not for it."""
    parts, clients = 3, 60
    run = Run(over(parts, clients, rate_per_s=600.0, timeout_s=1.0),
              lambda part: willing if part else lambda sent: "")
    document = run.document()
    assert [row["failed"] for row in document["interfaces"]] == [20, 0, 0]
    assert document["errors"]["discover_timeout"] == document["exchanges"]["failed"] == 20
    assert document["interfaces"][0]["dora_p99_us"] == 0 < document["interfaces"][1]["dora_p50_us"]


def test_an_avalanche() -> None:
    run = Run(replace(over(3, several(9000, 300)), plan=OpenLoop(Avalanche())))
    assert run.document()["exchanges"]["completed"] == several(9000, 300)


def test_exchanges_before_measuring_are_shared_out_too() -> None:
    """Each client makes one, whichever part of the test it comes to be in."""
    for preload in (1, 4, 9):
        run = Run(over(3, 10, preload=preload, window=3))
        document = run.document()
        assert document["exchanges"]["started"] == 10 - preload
        assert document["clients"]["bound"] == 10 and document["verdict"] == "pass"
        assert run.fleet.counts[:, BEGUN].tolist() == [4, 3, 3]
        run = Run(over(3, 10, preload=preload, rate_per_s=500.0))
        assert run.document()["clients"]["bound"] == 10


def test_warm_up_counts_nothing() -> None:
    run = Run(over(3, several(400, 60), rate_per_s=several(1000.0, 150.0), warm_up_s=0.2))
    document = run.document()
    started, clients = document["exchanges"]["started"], several(400, 60)
    assert 0 < started < clients and document["clients"]["bound"] == clients
    assert document["latency_us"]["dora"]["count"] == started
    assert sum(row["bound"] for row in document["intervals"]) == started


def test_renewals_go_where_clients_are_bound() -> None:
    """Two interfaces whose clients nobody answers have none."""
    settings = over(3, 30, rate_per_s=1000.0, timeout_s=0.05, renew_rate=200.0, duration_s=0.5)
    run = Run(settings, lambda part: willing if part == 1 else lambda sent: "")
    legs = run.document()["legs"]["renew"]
    assert legs["answered"] == legs["sent"] > 50


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c(times: int) -> None:
    """Once: what was begun is finished; twice: nobody is waited for."""
    def prepare(run: Run) -> None:
        def kicked() -> None:
            if run.rings[1].seen == 1:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
        run.rings[1].on_kick = kicked

    settings = over(3, 1000, rate_per_s=50.0, timeout_s=0.3 if times == 1 else 600.0)
    run = Run(settings, lambda part: lambda sent: "", prepare)
    document = run.document()
    assert document["interrupted"] and document["exchanges"]["started"] < 100
    assert bool(document["exchanges"]["in_flight"]) == (times == 2)


def test_an_interface_that_goes_away_ends_the_test() -> None:
    def prepare(run: Run) -> None:
        def kicked() -> None:
            if run.rings[2].seen > 5:
                run.rings[2].gone = "went down"
        run.rings[2].on_kick = kicked

    run = Run(over(3, 10_000, window=6), prepare=prepare)
    document = run.document()
    assert run.refused == document["stopped"] == "interface 'sim2' went down"
    assert document["verdict"] == "incomplete" and document["clients"]["bound"] > 0


def test_max_drop_is_of_all_together() -> None:
    settings = over(4, 1000, window=40, timeout_s=0.02, max_drop=30)
    document = Run(settings, lambda part: lambda sent: "").document()
    assert "--max-drop" in document["stopped"] and document["exchanges"]["started"] < 1000


def test_one_address_on_two_interfaces() -> None:
    """Of 12 clients each address goes to two, on neighbouring interfaces."""
    run = Run(over(2, 12), address=lambda row: address_of(row // 2))
    assert run.fleet.counts[:, cells.DUPLICATES].sum() == 0
    document = run.document()
    assert document["errors"]["duplicate_address"] == document["exchanges"]["failed"] == 6
    assert document["exchanges"]["completed"] == document["clients"]["bound"] == 6
    assert document["clients"]["failed"] == 6 and document["verdict"] == "incomplete"
    assert sum(row["failed"] for row in document["interfaces"]) == 6


def test_the_same_seed_says_the_same() -> None:
    def octets(seed: int) -> list[list[bytes]]:
        run = Run(replace(over(3, 12, window=3), seed=seed))
        return [[sent.octets for sent in ring.network.sent if sent.kind == "DISCOVER"]
                for ring in run.rings]

    assert octets(7) == octets(7) != octets(8)


def test_the_list_of_clients(tmp_path: Path) -> None:
    run = Run(over(3, 7))
    run.document()
    write_clients_csv(tmp_path / "c.csv", run.settings, run.fleet.whole)
    header, *lines = (tmp_path / "c.csv").read_text().splitlines()
    assert header.endswith(",retransmits,interface")
    for client, line in enumerate(lines):
        number, chaddr, outcome, yiaddr, server, *_, interface = line.split(",")
        assert (number, outcome, server) == (str(client), "bound", str(SERVER))
        assert chaddr == run.settings.mac_of(client).hex(":")
        assert (yiaddr, interface) == (str(address_of(client)), f"sim{client % 3}")
    assert len(lines) == 7


# What is said of it.

def report(document: dict[str, Any], lang: str = "en") -> str:
    from rich.console import Console

    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(document, lang))
    return console.export_text()


def test_the_report_names_the_worst() -> None:
    document = Run(over(3, 30)).document()
    assert "all 3 interfaces bound all their clients" in report(document)
    assert "인터페이스 3개 모두에서" in report(document, "ko")
    assert "ring engine on 3 interfaces" in report(document)
    good = document["interfaces"][0]
    document["interfaces"] = [good | {"interface": f"veth{i}", "failed": i} for i in range(14)]
    text = report(document)
    shown = [line.split()[0] for line in text.splitlines() if line.startswith("veth")]
    assert shown == [f"veth{i}" for i in range(13, 3, -1)]
    assert "and 3 more" in text and "all 14" in text
    document["interfaces"] = [good | {"rx_ring": 9}, good]
    assert "ring lost" in report(document)
    document["interfaces"] = [good | {"bound": 0}] * 2
    assert "no client failed on any of 2 interfaces" in report(document)
    document["interfaces"] = [good | {"interface": "[red]x", "failed": 1}] * 2
    assert "[red]x" in report(document)


# How interfaces are given.

@pytest.mark.parametrize(("text", "found"), [
    ("eth0", ("eth0",)), ("eth0,eth1", ("eth0", "eth1")), (" a , n:b ", ("a", "n:b")),
    ("/proc/7/ns/net:eth0,x:eth0", ("/proc/7/ns/net:eth0", "x:eth0"))])
def test_interfaces(text: str, found: tuple[str, ...]) -> None:
    assert interfaces_of(text) == found


@pytest.mark.parametrize(("text", "said"), [
    ("a,b,a", "interface \"a\" is given twice"), ("a,,b", "\"\" is no interface"),
    ("a,", "is no interface"), ("n:", "\"n:\" is no interface"), (":a", "\":a\" is no interface"),
    (",".join(f"e{i}" for i in range(2001)), "2,001 interfaces, 2,000 is the most")])
def test_interfaces_that_cannot_be(text: str, said: str) -> None:
    with pytest.raises(click.BadParameter) as refused:
        interfaces_of(text)
    assert said.replace('"', "'") in refused.value.message.replace('"', "'")


def where(*args: str) -> Any:
    return where_from(main_command.make_context("dhcp-tester", list(args)).params)


def test_given_at_once_or_one_by_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    together = ("a", "n:b", "c")
    assert where("-i", "a,n:b", "-i=c").interfaces == together
    one = where("-i", "n:a")
    assert (one.interface, one.interfaces, one.parts) == ("n:a", (), 1)
    (tmp_path / "t.yaml").write_text("interface: [a, 'n:b', c]\n")
    assert where(f"--config={tmp_path / 't.yaml'}").interfaces == together
    monkeypatch.setenv("DHCP_INTERFACE", "a,n:b,c")
    assert where().interfaces == together and where("-i=x").interface == "x"


@pytest.mark.parametrize("more", [
    ("--server=127.0.0.1",), ("--server=127.0.0.1", "--relay=10.1.0.1"),
    ("--server=127.0.0.1", "--relay=self")])
def test_one_speaker_is_on_one_interface(more: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="on one"):
        where("-i=a,b", *more)


def configured(*args: str) -> TestConfig:
    from tester.configure import configure

    with main_command.make_context("dhcp-tester", list(args)) as ctx:
        return configure(ctx.params, ctx)


def test_fewer_clients_than_interfaces() -> None:
    names = ",".join(f"e{i}" for i in range(1200))
    assert configured(f"-i={names}").clients == 1200
    with pytest.raises(UserError, match="1,200 interfaces are more than 7 clients"):
        configured(f"-i={names}", "-n=7")


def test_a_window_of_less_than_one_each() -> None:
    """What is in flight is what the document will say."""
    made = configured("-i=a,b,c", "-c=2")
    assert made.plan.describe()["concurrency"] == 3
    assert "one exchange in flight on each, 3 in all" in made.notes[0]
    made = configured("-i=a,b,c", "-c=3")
    assert (made.plan.describe()["concurrency"], made.notes) == (3, ())


def test_new_names_need_numbers_that_count() -> None:
    with pytest.raises(UserError, match="over several interfaces"):
        configured("-i=a,b", "--behaviour=handover", "--no-mac-carry")
    assert configured("-i=a,b", "--behaviour=handover").where.parts == 2
