"""Each adapter with its program, started by hand as the lab starts it.

Every client is bound, in its own subnet, and the store that the adapter reads back says exactly
what the clients say.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from netlab import programs, relays, servers, sockets
from netlab.adapter import Adapter, Port, RelayJob, Report, Scope, ServerJob
from netlab.topology import RelayPolicy
from tests.ours import START_S, Talker, entered, run_tester
from tests.peers.bin import peers_bin
from tests.peers.net import Namespace, stop, two_namespaces, wait_until
from tests.peers.relays import DOWN, SERVER, UP, Relayed, relayed

pytestmark = pytest.mark.root
CLIENTS = 20
PROGRAMS = {"dhcp-server": "dhcp-server", "kea": "kea-dhcp4", "isc-dhcpd": "dhcpd",
            "dnsmasq": "dnsmasq", "udhcpd": "udhcpd"}
RELAYS = {"dhcp-relay": "dhcp-relay", "dhcrelay": "dhcrelay", "dnsmasq": "dnsmasq"}


@dataclass
class Play:
    """A started program. `finish` settles and ends it, and returns its report."""

    adapter: Adapter[Any]
    job: Any
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def finish(self) -> Report:
        self.adapter.settle(self.job, self)
        stop(self.process)
        return self.adapter.report(self.job)


@contextlib.contextmanager
def playing(namespace: Namespace, adapter: Adapter[Any], job: Any) -> Iterator[Play]:
    job.directory.mkdir(parents=True, exist_ok=True)
    adapter.prepare(job)
    where = programs.find(adapter.program or job.options[0], adapter.package)
    log = job.directory / "log"
    process = namespace.popen(adapter.command(where, job), log=log, cwd="/",
                              env={**os.environ, **adapter.environment(job)})
    play = Play(adapter, job, process)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        if adapter.notifies:
            return "serving" in log.read_text() or "relaying" in log.read_text()
        return namespace.holds(process.pid) and adapter.ready(job, play)

    try:
        wait_until(f"{adapter.program} to be ready", ready, START_S)
        yield play
    except BaseException as failed:
        failed.add_note(log.read_text(errors="replace")[-2000:])
        raise
    finally:
        stop(process)


@pytest.fixture(autouse=True)
def found(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs of a test's parameters, where `programs.find` looks first."""
    names = {**PROGRAMS, **RELAYS}
    asked = [str(value) for value in request.node.callspec.params.values()] \
        if hasattr(request.node, "callspec") else []
    wanted = {names[one] for one in asked if one in names} | {"dhcp-server"}
    monkeypatch.setenv(programs.BIN_ENV, str(peers_bin(*sorted(wanted))))


def scope(network: str, first: int, last: int, router: int | None, hops: int) -> Scope:
    net = IPv4Network(network)
    base = net.network_address
    return Scope(net, base + first, base + last, base + router if router else None, hops)


def held(rows: Sequence[dict[str, str]]) -> dict[str, str]:
    return {row["yiaddr"]: row["chaddr"] for row in rows if row["outcome"] == "bound"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_server_on_its_own_segment(name: str, tmp_path: Path) -> None:
    adapter = servers.find(name)
    with two_namespaces() as net:
        job = ServerJob("server", (Port("eth0", IPv4Interface(net.server_address)),),
                        (scope("10.16.0.0/12", 256, 256 + 1_000_000, 1, 0),), 600,
                        tmp_path / "server")
        with playing(net.server, adapter, job) as play:
            run = run_tester(net.client, "--clients", str(CLIENTS))
            assert run.document["clients"]["bound"] == CLIENTS, run.err
            assert sockets.drops(play.pid, name not in ("dnsmasq", "udhcpd")) in (0, None)
            with Talker(net.client) as talker:
                offer = talker.ask("discover", "02:aa:00:00:00:01")
            assert offer is not None
            assert (offer.get("router"), offer.get("lease-time")) == ([IPv4Address("10.16.0.1")],
                                                                      600)
            report = play.finish()
        stored = adapter.leases(job)
    assert stored is not None
    # An offer may stand in the store of a server that holds it for its client.
    assert {a: m for a, m in stored.items() if not m.startswith("02:aa")} == held(run.clients)
    assert report.version or name == "udhcpd"
    assert (report.ring_drops == 0) is (name == "dhcp-server")


def started_relays(net: Relayed, name: str, policy: RelayPolicy, folder: Path,
                   stack: contextlib.ExitStack) -> list[Play]:
    """One in every router of every branch."""
    adapter, plays = relays.find(name), []
    for branch, (routers, towards) in enumerate(zip(net.relays, net.towards, strict=True)):
        for k, (router, target) in enumerate(zip(routers, towards, strict=True)):
            ports = []
            for ifname in (DOWN, UP):
                told = router.run(["ip", "-4", "-br", "addr", "show", "dev", ifname]).stdout
                ports.append(Port(ifname, IPv4Interface(told.split()[2])))
            job = RelayJob(f"relay{branch}{k}", (ports[0],), ports[1], (IPv4Address(target),),
                           policy, folder / f"relay{branch}{k}")
            plays.append(stack.enter_context(playing(router, adapter, job)))
    return plays


@pytest.mark.parametrize(("relay", "server"), [
    ("dhcp-relay", "kea"), ("dhcrelay", "dhcp-server"), ("dnsmasq", "isc-dhcpd"),
    ("dhcrelay", "dnsmasq")])
def test_relays_with_two_scopes(relay: str, server: str, tmp_path: Path) -> None:
    """One branch with two hops, one with one, max-hops just high enough for both."""
    adapter = servers.find(server)
    policy = RelayPolicy() if relay == "dnsmasq" else RelayPolicy(1, "append")
    with relayed(2, 1) as net, contextlib.ExitStack() as stack:
        job = ServerJob("server", (Port("eth0", IPv4Interface(f"{SERVER}/24")),),
                        (scope("10.20.0.0/24", 16, 250, 1, 2),
                         scope("10.21.0.0/24", 16, 250, 1, 1)), 600, tmp_path / "server")
        serving = stack.enter_context(playing(net.server, adapter, job))
        plays = started_relays(net, relay, policy, tmp_path, stack)
        rows = []
        for number, client in enumerate(net.clients):
            # The same client behind another relay is another client to nobody but us.
            run = run_tester(client, "--clients", str(CLIENTS),
                             "--mac-base", f"02:00:00:0{number}:00:00")
            assert run.document["clients"]["bound"] == CLIENTS, run.err
            rows += run.clients
            assert {row["yiaddr"].rpartition(".")[0] for row in run.clients} == {
                f"10.2{number}.0"}
        reports = [play.finish() for play in plays]
        serving.finish()
        assert adapter.leases(job) == held(rows)
    assert all(report.version for report in reports)
    if relay == "dhcp-relay":
        assert all(report.ring_drops == 0 for report in reports)
        assert all(set(report.discarded or {"": 1}) >= {"hops_exceeded"} for report in reports)


@pytest.mark.parametrize("relay", ["dhcrelay"])
def test_dhcrelay_discards_beyond_max_hops(relay: str, tmp_path: Path) -> None:
    """RFC 1542 section 4.1.1: the second relay hears of one hop, more than the none allowed."""
    with relayed(2, 1) as net, contextlib.ExitStack() as stack:
        job = ServerJob("server", (Port("eth0", IPv4Interface(f"{SERVER}/24")),),
                        (scope("10.20.0.0/24", 16, 250, 1, 2),
                         scope("10.21.0.0/24", 16, 250, None, 1)), 600, tmp_path / "server")
        stack.enter_context(playing(net.server, servers.find("dhcp-server"), job))
        started_relays(net, relay, RelayPolicy(0), tmp_path, stack)
        with Talker(net.clients[1]) as near, Talker(net.clients[0]) as far:
            assert near.ask("discover", "02:aa:00:00:00:02") is not None
            assert far.ask("discover", "02:aa:00:00:00:03", timeout_s=0.5) is None


def test_command_serves(tmp_path: Path) -> None:
    """A program from a template, ready through a shell that does not exec it."""
    adapter = servers.find("command")
    with two_namespaces() as net:
        where = programs.find("dhcp-server", "")
        job = ServerJob("server", (Port("eth0", IPv4Interface(net.server_address)),),
                        (scope("10.16.0.0/12", 256, 300, 1, 0),), 600, tmp_path / "server",
                        ("sh", "-c", f"{where} --interface {{interface}} --start-ip {{first}} "
                         "--end-ip {last} --netmask {netmask} --lease-time {lease_time}s; exit 0"))
        with playing(net.server, adapter, job) as play, Talker(net.client) as talker:
            # Its sockets are open a moment before it reads them; a client would ask again.
            wait_until("an offer", lambda: talker.ask("discover", "02:aa:00:00:00:04", 0.2)
                       is not None)
            found = sockets.opened(play.pid)
            assert found is not None and found.packet
            for child in Path(f"/proc/{play.pid}/task/{play.pid}/children").read_text().split():
                os.kill(int(child), signal.SIGTERM)
            play.process.wait(10)
        assert adapter.leases(job) is None


def test_drops_of_a_udp_socket_and_of_a_packet_socket() -> None:
    """Counted by the kernel, in the namespace of the program, while it does not read."""
    import socket

    def full(family: int, kind: int) -> socket.socket:
        made = socket.socket(family, kind, socket.htons(3) if family == socket.AF_PACKET else 0)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        return made

    with two_namespaces() as net, contextlib.ExitStack() as stack:
        with entered(net.server):
            heard = stack.enter_context(full(socket.AF_INET, socket.SOCK_DGRAM))
            heard.bind(("127.0.0.1", 6767))
            talking = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        # A program of its own inside: /proc/PID/net is what is read.
        sleeper = net.server.popen(["sleep", "60"], pass_fds=[heard.fileno()])
        wait_until("it to be inside", lambda: net.server.holds(sleeper.pid))
        for _ in range(50):
            talking.sendto(bytes(500), ("127.0.0.1", 6767))
        found = sockets.socket_drops(sleeper.pid)
        assert found is not None and found.packet is None
        assert 40 <= found.udp == found.lost(False) <= 50
        with entered(net.server):
            raw = stack.enter_context(full(socket.AF_PACKET, socket.SOCK_RAW))
            raw.bind(("lo", 3))
        reader = net.server.popen(["sleep", "60"], pass_fds=[raw.fileno()])
        wait_until("it to be inside", lambda: net.server.holds(reader.pid))
        for _ in range(50):
            talking.sendto(bytes(500), ("127.0.0.1", 6767))
        found = sockets.socket_drops(reader.pid)
        # Each crosses lo twice over: as it is sent and as it is received.
        assert found is not None and found.udp == 0
        assert found.packet is not None and 90 <= found.packet == found.lost(True) <= 100
        pid = reader.pid
        stop(reader)
        assert sockets.drops(pid, True) is None
