"""Populations of clients that live whole lives against our server and real ones.

The one thing to know: a population is drawn from a seed as so many clients of each behaviour, and
`Expected` says from that alone how often each message has to be said and who has to hold an
address at the end. The tester's counts, the server's own and its leases have to agree with it,
one by one. Only refusals (NAK) are the server's to choose; each costs a DISCOVER and a REQUEST.
"""

from __future__ import annotations

import contextlib
import csv
import io
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.ours import START_S, Finished, OurServer, OurTester, program, run_tester
from tests.peers.net import Namespace, Net, two_namespaces, wait_until
from tests.peers.servers import Dhcpd, Dnsmasq, Kea, Server

pytestmark = pytest.mark.root
START, END = "10.16.0.16", "10.16.3.255"
LEASE_S = 120
# A client's life passes so many times faster: its ten seconds after a DECLINE too.
SCALE = 60
# Renewed at 60 s and 120 s: once in a hold of 90 s, twice in 150 s.
HOLDS = {"0s": 0, "90s": 1, "150s": 2}
STAYS = ("stay", "decline", "reboot", "inform", "handover")
# They go without a word: the server keeps their lease until it ends.
SILENT = ("leave", "expire")
BEHAVIOURS = (*STAYS, *SILENT, "release", "flap", "discover-only")


class OurStore:
    """Our server with a lease file, seen as tests.peers.servers shows others."""

    def __init__(self, namespace: Namespace, folder: Path, *arguments: str,
                 lease_time_s: int = LEASE_S, start: str = START, end: str = END) -> None:
        self._file = folder / "ours.leases"
        self.server = OurServer(namespace, (
            "--start-ip", start, "--end-ip", end, "--lease-time", f"{lease_time_s}s",
            "--lease-file", str(self._file), *arguments))
        self._namespace = namespace

    def __enter__(self) -> OurStore:
        self.server.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        self.server.__exit__(*exc)

    def leases(self) -> dict[str, str]:
        told = self._namespace.run([*program("server"), "leases", "--csv", "--active",
                                    str(self._file)]).stdout
        return {row["chaddr"]: row["address"] for row in csv.DictReader(io.StringIO(told))}

    def heard(self) -> dict[str, int]:
        counts = self.server.stop()
        return {name: count for way in ("received", "sent")
                for name, count in counts[way].items() if count}


class CountingKea(Kea):
    """Its statistics by message type."""

    def heard(self) -> dict[str, int]:
        told = self.command("statistic-get-all")
        names = {f"pkt4-{kind}-{way}": kind for kind, way in (
            *((kind, "received") for kind in ("discover", "request", "release", "decline",
                                              "inform")),
            *((kind, "sent") for kind in ("offer", "ack", "nak")))}
        return {kind: count for name, kind in names.items() if (count := told[name][0][0])}


class Logged(Server):
    """Counts the lines that a server logs, one a message."""

    def heard(self) -> dict[str, int]:
        # Word for word: `DHCPACK(eth0)`, `DHCPACK on`, `DHCPINFORM from`; dnsmasq says DHCPNAK
        # and dhcpd DHCPNAK too.
        found: dict[str, int] = {}
        for kind in re.findall(r"^(?:dnsmasq-dhcp\[\d+\]: )?DHCP([A-Z]+)\b", self.log, re.M):
            found[kind.lower()] = found.get(kind.lower(), 0) + 1
        return found


@dataclass
class LoggingDnsmasq(Logged, Dnsmasq):
    """In sequence it would offer one address to all who ask at once, and refuse the rest."""

    keep_leases: bool = True
    sequential: bool = False
    words: tuple[str, ...] = ()

    def _command(self) -> list[str]:
        return [*super()._command(), *self.words]


@dataclass
class LoggingDhcpd(Logged, Dhcpd):
    """Each renewal extends the lease: by itself it would not before a quarter of it is over.

    settings: more statements for its configuration; the last of a kind counts.
    """

    settings: str = "dhcp-cache-threshold 0;"

    def _command(self) -> list[str]:
        command = super()._command()
        place = self.folder / "dhcpd.conf"
        place.write_text(f"{place.read_text()}{self.settings}\n")
        return command


def served(kind: str, net: Net, folder: Path) -> Any:
    if kind == "dhcp-server":
        return OurStore(net.server, folder)
    common: dict[str, Any] = {"start": START, "end": END, "lease_time_s": LEASE_S}
    if kind == "kea-dhcp4":
        return CountingKea(net.server, persist=True, **common)
    return {"dnsmasq": LoggingDnsmasq, "dhcpd": LoggingDhcpd}[kind](net.server, **common)


KINDS = ["dhcp-server", *(pytest.param(kind, marks=pytest.mark.peers(kind))
                          for kind in ("kea-dhcp4", "dnsmasq", "dhcpd"))]


@dataclass(frozen=True)
class Population:
    """So many clients of each behaviour, each of which lives `cycles` times, holding for `hold`."""

    counts: dict[str, int]
    hold: str
    cycles: int
    seed: int

    @property
    def clients(self) -> int:
        return sum(self.counts.values())

    def arguments(self) -> tuple[str, ...]:
        mix = ",".join(f"{name}={count}" for name, count in self.counts.items())
        return ("--clients", str(self.clients), "--mix", mix, "--hold", self.hold,
                "--cycles", str(self.cycles), "--return-after", "4s", "--time-scale", str(SCALE),
                "--timeout", "4s", "--retry", "--concurrency", "16", "--seed", str(self.seed))

    def of(self, *names: str) -> int:
        return sum(self.counts.get(name, 0) for name in names)


def drawn(seed: int) -> Population:
    """A population of all behaviours, or of some of them; the seed says which."""
    draw = random.Random(seed)
    names = BEHAVIOURS if seed % 2 else tuple(draw.sample(BEHAVIOURS, 5))
    return Population({name: draw.randint(1, 9) for name in names}, draw.choice([*HOLDS]),
                      draw.randint(1, 2), seed)


@dataclass
class Expected:
    """What a population says, with a server that answers everything and refuses nothing."""

    population: Population
    messages: dict[str, int] = field(init=False)
    exchanges: int = field(init=False)

    def __post_init__(self) -> None:
        people, cycles = self.population, self.population.cycles
        returns = cycles - 1
        self.exchanges = (
            people.clients + returns * people.of("release", "leave", "flap", "expire")
            + cycles * people.of("decline", "handover"))
        # Lives in which a lease is held and renewed; who declines holds one at last.
        holds = (people.of("stay", "decline")
                 + cycles * people.of("release", "leave", "flap", "reboot", "inform", "handover"))
        self.messages = {
            "discover": self.exchanges, "request": self.exchanges - people.of("discover-only"),
            "renew": holds * HOLDS[people.hold], "rebind": 0,
            "reboot": cycles * people.of("reboot"), "inform": cycles * people.of("inform"),
            "release": cycles * people.of("release", "flap", "handover"),
            "decline": cycles * people.of("decline")}


def closed(run: Finished) -> None:
    """Every leg has one end, and every answer one class."""
    document = run.document
    for name, leg in document["legs"].items():
        ends = sum(leg.get(end, 0) for end in ("answered", "refused", "lost", "ignored", "open"))
        assert leg["sent"] - leg["retransmitted"] == ends or name in ("release", "decline"), name
    for kind, classes in document["answers"].items():
        assert document["messages"][kind]["received"] == sum(classes.values())
    legs = document["legs"].values()
    accepted = document["answers"]
    assert sum(leg.get("answered", 0) for leg in legs) == (
        accepted["offer"]["accepted"] + accepted["ack"]["accepted"]
        + accepted["offer"]["not_chosen"])
    assert sum(leg.get("refused", 0) for leg in legs) == accepted["nak"]["accepted"]
    exchanges = document["exchanges"]
    assert (exchanges["started"] + exchanges["returned"]
            == exchanges["completed"] + exchanges["failed"] + exchanges["in_flight"])
    losses = {name: count for name, count in document["losses"].items() if count}
    assert losses == {}


def heard_all(server: Any, run: Finished) -> None:
    """What the server counted is what the tester counted, both ways."""
    messages = run.document["messages"]
    told = {kind: count for kind, row in messages.items()
            if (count := row["received"] if "received" in row else row["sent"])}
    assert server.heard() == told


def held_by(run: Finished) -> dict[str, str]:
    return {row["chaddr"]: row["yiaddr"] for row in run.clients if row["outcome"] == "bound"}


def check(run: Finished, people: Population) -> None:
    """The tester's counts are those of the population, and its refusals."""
    expected, document = Expected(people), run.document
    closed(run)
    legs, clients, exchanges = document["legs"], document["clients"], document["exchanges"]
    refused = legs["request"]["refused"]
    errors = {name: count for name, count in document["errors"].items() if count}
    assert errors == ({"nak": refused} if refused else {})
    more = {"discover": refused, "request": refused}
    assert {name: leg["sent"] for name, leg in legs.items()} == {
        name: count + more.get(name, 0) for name, count in expected.messages.items()}
    assert (run.code, document["verdict"]) == (0, "pass")
    assert exchanges["started"] == exchanges["planned"] == people.clients
    assert exchanges["completed"] == expected.exchanges and exchanges["failed"] == 0
    assert clients["bound"] == people.clients - people.of("discover-only")
    assert clients["silent_leaves"] == people.cycles * people.of("leave")
    assert clients["leases_expired"] == people.cycles * people.of("expire")
    assert clients["left"] == people.of("release", "flap", *SILENT)
    assert (clients["failed"], clients["leases_lost"]) == (0, 0)
    check_series(document, people, expected)
    outcomes = [row["outcome"] for row in run.clients]
    assert {name: outcomes.count(name) for name in set(outcomes)} == {
        name: count for name, count in (
            ("bound", people.of(*STAYS)), ("left", clients["left"]),
            ("offered", people.of("discover-only"))) if count}


def check_series(document: dict[str, Any], people: Population, expected: Expected) -> None:
    """Every leg that was answered is in its histogram, and none else."""
    series = {name: row["count"] for name, row in document["latency_us"].items()}
    legs = document["legs"]
    assert {name: series.get(name, 0) for name in (
        "discover_offer", "request_ack", "renew_ack", "reboot_ack", "inform_ack")} == {
        f"{name}_{'offer' if name == 'discover' else 'ack'}": legs[name]["answered"]
        for name in ("discover", "request", "renew", "reboot", "inform")}
    assert series["dora"] == series["dora_from_intended"] == expected.messages["request"]
    assert series.get("release_to_free", 0) == people.cycles * people.of("handover")


def check_store(run: Finished, people: Population, leases: dict[str, str]) -> None:
    """The server holds what clients hold, and what those left behind who went without a word."""
    held = held_by(run)
    left = {row["chaddr"]: row["yiaddr"] for row in run.clients if row["outcome"] == "left"}
    assert {mac: leases.get(mac) for mac in held} == held
    rest = {mac: address for mac, address in leases.items() if mac not in held}
    assert rest.items() <= left.items()
    assert len(rest) == people.of(*SILENT)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_no_count_of_a_population_is_unexplained(kind: str, seed: int, tmp_path: Path) -> None:
    people = drawn(seed)
    with two_namespaces() as net, served(kind, net, tmp_path) as server:
        run = run_tester(net.client, *people.arguments())
        try:
            check(run, people)
            check_store(run, people, server.leases())
            heard_all(server, run)
        except AssertionError as failed:
            failed.add_note(f"{people}\n{run.out}\n{run.err}")
            raise


def agreed(run: Finished, server: Any) -> None:
    """Legs close, and the server counted and holds what the tester says."""
    try:
        closed(run)
        assert server.leases() == held_by(run)
        heard_all(server, run)
    except AssertionError as failed:
        failed.add_note(f"{run.out}\n{run.err}")
        raise


@pytest.mark.parametrize("kind", [
    "dhcp-server", *(pytest.param(kind, marks=pytest.mark.peers(kind))
                     for kind in ("dnsmasq", "kea-dhcp4"))])
def test_an_ack_at_once_where_the_server_knows_rapid_commit(kind: str, tmp_path: Path) -> None:
    """RFC 4039; Kea does not know the option in DHCPv4, and offers."""
    with two_namespaces() as net, contextlib.ExitStack() as stack:
        server = stack.enter_context(
            OurStore(net.server, tmp_path, "--rapid-commit") if kind == "dhcp-server" else
            LoggingDnsmasq(net.server, words=("--dhcp-rapid-commit",)) if kind == "dnsmasq" else
            CountingKea(net.server, persist=True))
        run = run_tester(net.client, "--rapid-commit", "--clients", "20", "--mix",
                         "handover=5,stay=15", "--timeout", "4s")
        agreed(run, server)
    offers = 25 if kind == "kea-dhcp4" else 0
    document = run.document
    assert document["legs"]["request"]["sent"] == document["answers"]["offer"]["accepted"] == offers
    assert document["latency_us"].get("rapid_commit", {"count": 0})["count"] == 25 - offers
    assert document["latency_us"]["dora"]["count"] == 25
    assert (run.code, document["clients"]["bound"]) == (0, 20)
    # What did not happen is empty.
    assert {bool(row["request_ack_us"]) for row in run.clients} == {bool(offers)}


def first_and_second(kind: str, net: Net, folder: Path, first: str, second: str,
                     ) -> tuple[Any, Any]:
    """Two servers of a kind for the same wire that know nothing of one another, not yet entered.

    first, second: the first three octets of their pools; 10.16.* is not on the other's network.
    """
    servers: list[Any] = []
    for octets in (first, second):
        own = folder / octets
        own.mkdir()
        # The address of the interface is in the one and the other.
        subnet = "10.16.0.0/16" if octets.startswith("10.16.") else "10.16.0.0/12"
        common: dict[str, Any] = {"start": f"{octets}.16", "end": f"{octets}.99",
                                  "lease_time_s": LEASE_S}
        if kind == "dhcp-server":
            mask = ("--netmask", "255.255.0.0") if octets.startswith("10.16.") else ()
            servers.append(OurStore(net.server, own, *mask, **common))
        elif kind == "kea-dhcp4":
            servers.append(CountingKea(net.server, persist=True, extra={"authoritative": True},
                                       **common))
        elif kind == "dnsmasq":
            servers.append(LoggingDnsmasq(net.server, **common))
        else:
            servers.append(LoggingDhcpd(net.server, subnet=subnet, **common))
    return servers[0], servers[1]


def until_bound(server: Any, *runs: OurTester) -> None:
    """Return once the server has a lease for each of the six clients of each run."""

    def bound() -> bool:
        assert all(run.process.poll() is None for run in runs), [run.finish() for run in runs]
        return len(server.leases()) == 6 * len(runs)

    wait_until("all to be bound", bound, START_S)


# Who refuses a renewal of what it never gave; others leave it unanswered.
REFUSES_RENEWALS = ("dhcp-server", "dnsmasq")


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_refused_by_the_next_server_asks_it_for_another_address(
        kind: str, tmp_path: Path) -> None:
    """Some renew (T1), others ask again (INIT-REBOOT), for what the server before gave; RFC 2131
    sections 4.3.2 and 4.4.5."""
    common = ("--time-scale", "20", "--timeout", "1s", "--retry", "--max-request-retries", "9",
              "--concurrency", "4", "--clients", "6")
    with two_namespaces() as net, contextlib.ExitStack() as stack:
        first, second = first_and_second(kind, net, tmp_path, "10.20.0", "10.16.0")
        with first:
            renewing, rebooting = (
                stack.enter_context(OurTester(net.client, (*words, *common))) for words in (
                    ("--behaviour", "stay", "--hold", "80s", "--mac-base", "02:00:00:00:01:00"),
                    ("--behaviour", "reboot", "--hold", "50s", "--mac-base", "02:00:00:00:02:00")))
            until_bound(first, renewing, rebooting)
            refused_before = first.heard().get("nak", 0)
        with second:
            renewed, rebooted = renewing.finish(), rebooting.finish()
            leases, heard = second.leases(), second.heard()
    refuses = kind in REFUSES_RENEWALS
    for run in (renewed, rebooted):
        closed(run)
        moved = 6 if refuses or run is rebooted else 0
        exchanges, networks = run.document["exchanges"], {
            row["yiaddr"].rpartition(".")[0] for row in run.clients}
        # dnsmasq may offer one address to two who ask at once.
        naks = run.document["errors"]["nak"] - run.document["legs"]["request"]["refused"]
        assert naks == exchanges["returned"] == moved, run.out
        assert exchanges["completed"] == 6 + moved and networks == {
            "10.16.0" if moved else "10.20.0"}
    renew, reboot = renewed.document["legs"]["renew"], rebooted.document["legs"]["reboot"]
    assert (reboot["refused"], reboot["answered"], reboot["lost"]) == (6, 0, 0), rebooted.out
    assert (renew["refused"], renew["lost"]) == ((6, 0) if refuses else (0, 6)), renewed.out
    assert heard["nak"] + refused_before == sum(
        run.document["errors"]["nak"] for run in (renewed, rebooted))
    assert leases == held_by(rebooted) | (held_by(renewed) if refuses else {})
    # Who is refused a renewal has lost what it had.
    assert renewed.document["clients"]["leases_lost"] == (6 if refuses else 0)
    assert (renewed.code, rebooted.code) == (3, 0)


@pytest.mark.parametrize("kind", ["dhcp-server", pytest.param(
    "kea-dhcp4", marks=pytest.mark.peers("kea-dhcp4"))])
def test_leases_that_run_out_are_over_for_the_server_too(kind: str, tmp_path: Path) -> None:
    """Three clients for each address: each is given again when its lease is over, not before.

    Without dhcpd: by its clock of whole seconds a lease of one second can end at once, and the
    tester calls the address a duplicate, as it should.
    """
    common: dict[str, Any] = {"start": "10.16.0.16", "end": "10.16.0.25", "lease_time_s": 1}
    with two_namespaces() as net, contextlib.ExitStack() as stack:
        server = stack.enter_context(
            OurStore(net.server, tmp_path, "--min-lease-time", "1s", "--offer-hold", "500ms",
                     **common) if kind == "dhcp-server" else
            CountingKea(net.server, persist=True, **common))
        run = run_tester(net.client, "--clients", "30", "--behaviour", "expire", "--cycles", "1",
                         "--concurrency", "30", "--backoff", "200ms..400ms",
                         "--max-discover-retries", "40", "--max-request-retries", "5")
        closed(run)
        heard_all(server, run)
    document = run.document
    assert document["errors"]["duplicate_address"] == 0
    assert document["clients"]["leases_expired"] == document["clients"]["left"] == 30, run.out
    assert document["exchanges"]["completed"] == 30 and run.code == 0
    assert len({row["yiaddr"] for row in run.clients}) == 10
    assert document["messages"]["discover"]["retransmitted"] > 20


def test_what_was_lost_is_sent_again_and_counted(tmp_path: Path) -> None:
    """A server that loses a third, and answers the rest later than clients wait."""
    # Without handover: what a lost RELEASE did not free is never free.
    people = Population({name: 5 for name in BEHAVIOURS if name != "handover"}, "90s", 1, 3)
    with two_namespaces() as net, OurStore(
            net.server, tmp_path, "--drop-rate", "30%", "--response-delay", "60ms") as server:
        run = run_tester(net.client, *people.arguments(), "--backoff", "50ms..400ms",
                         "--max-discover-retries", "30", "--max-request-retries", "30")
        closed(run)
        counts = server.server.stop()
    document = run.document
    messages = document["messages"]
    for way, kinds in (("received", ("offer", "ack", "nak")), (
            "sent", ("discover", "request", "inform", "release", "decline"))):
        for kind in kinds:
            heard = counts["sent" if way == "received" else "received"].get(kind, 0)
            assert messages[kind][way] == heard, kind
    answers = document["answers"]
    assert answers["offer"]["duplicate"] + answers["offer"]["late"] > 0
    assert messages["discover"]["retransmitted"] > people.clients // 4
    exchanges = document["exchanges"]
    assert exchanges["completed"] == exchanges["started"] + exchanges["returned"]
    assert sum(int(row["retransmits"]) for row in run.clients) == sum(
        leg["retransmitted"] for leg in document["legs"].values())


@pytest.mark.peers("dhcpd")
def test_a_server_that_sends_by_its_own_stack_needs_the_clients_arp(tmp_path: Path) -> None:
    """ACKs to renewals are unicast; without an answer to ARP they stay with dhcpd's kernel."""
    for answers in (True, False):
        with two_namespaces() as net, LoggingDhcpd(net.server, lease_time_s=20) as server:
            run = run_tester(net.client, "--clients", "8", "--hold", "15s", "--time-scale", "15",
                             "--timeout", "450ms", "--concurrency", "2",
                             "--answer-arp" if answers else "--no-answer-arp")
            heard = server.heard()
        renew, arp = run.document["legs"]["renew"], run.document["neighbours"]["arp_answered"]
        assert (heard["request"], heard["ack"]) == (16, 16)
        assert (renew["answered"], renew["lost"]) == ((8, 0) if answers else (0, 8)), run.out
        assert (arp >= 8) == answers and run.code == (0 if answers else 3)


@pytest.mark.peers("dhcpd")
def test_an_address_that_answers_pings_is_not_offered(tmp_path: Path) -> None:
    """dhcpd has lost its leases; those who hold them still answer, and others get other ones."""
    words: dict[str, Any] = {"start": "10.16.0.16", "end": "10.16.0.99"}
    with two_namespaces() as net, contextlib.ExitStack() as stack:
        with LoggingDhcpd(net.server, **words) as before:
            holding = stack.enter_context(OurTester(net.client, (
                "--clients", "6", "--hold", "8s", "--mac-base", "02:00:00:00:01:00")))
            until_bound(before, holding)
        pings = "ping-check true;\nping-timeout 1;"
        with LoggingDhcpd(net.server, settings=pings, **words) as server:
            run = run_tester(net.client, "--clients", "6", "--timeout", "1500ms", "--retry")
            leases = server.leases()
        held = holding.finish()
    assert held.document["neighbours"]["pings_answered"] == 6, held.out
    assert not set(held_by(held).values()) & set(held_by(run).values())
    assert leases == held_by(run) and run.code == 0, run.out
