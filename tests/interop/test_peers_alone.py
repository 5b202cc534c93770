"""Real servers, clients and tools among themselves: the ground our own programs are tested on.

None of our programs runs here. What fails here is the fault of the test's own machinery.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.peers import unpack
from tests.peers.capture import Capture, fields, problems
from tests.peers.clients import Client, Dhclient, Dhcpcd, Udhcpc, perfdhcp
from tests.peers.net import RUN_NETNS, Namespace, sweep, two_namespaces, wait_until
from tests.peers.servers import Dhcpd, Dnsmasq, Kea, Server, Udhcpd
from tests.peers.unpack import PeersUnavailable, ensure, program

needs = pytest.mark.peers
root = pytest.mark.root
REPOSITORY = Path(__file__).resolve().parents[2]
LEASE_S = 600


def server_of(kind: str, namespace: Namespace) -> Server:
    """Each server so configured that its leases can be read."""
    if kind == "kea-dhcp4":
        return Kea(namespace, lease_time_s=LEASE_S, persist=True)
    if kind == "dnsmasq":
        return Dnsmasq(namespace, lease_time_s=LEASE_S, keep_leases=True)
    known = {"dhcpd": Dhcpd, "udhcpd": Udhcpd}
    return known[kind](namespace, lease_time_s=LEASE_S)


def client_of(kind: str, namespace: Namespace) -> Client:
    if kind == "dhclient":
        return Dhclient(namespace, renew_after_s=1)
    return Udhcpc(namespace) if kind == "udhcpc" else Dhcpcd(namespace)


@root
@pytest.mark.parametrize(("server_kind", "client_kind"), [
    pytest.param(server, client, marks=needs(server, client), id=f"{server}-{client}")
    for server, client in (("kea-dhcp4", "udhcpc"), ("dnsmasq", "dhclient"),
                           ("kea-dhcp4", "dhcpcd"), ("udhcpd", "dhclient"), ("dhcpd", "udhcpc"))])
def test_a_client_gets_renews_and_releases(server_kind: str, client_kind: str) -> None:
    with two_namespaces() as net, server_of(server_kind, net.server) as server, \
            client_of(client_kind, net.client) as client:
        got = client.get()
        assert (got.what, got.server_id, got.lease_time_s) == ("bound", "10.16.0.1", LEASE_S)
        assert (got.netmask, got.router, got.dns) == ("255.240.0.0", "10.16.0.1", "10.16.0.1")
        assert f" {got.address}/12 " in net.client.run(["ip", "-4", "-br", "addr"]).stdout
        assert server.leases() == {net.client.mac(): got.address}

        renewed = client.renew()
        assert (renewed.what, renewed.address) == ("renew", got.address)
        if isinstance(client, Dhcpcd):
            assert client.rebind().address == got.address
        client.release()
        wait_until(f"{server_kind} to note the release", lambda: server.leases() == {})


@root
@needs("kea-dhcp4", "udhcpc", "tshark", "dumpcap")
@pytest.mark.parametrize("bridge", [False, True], ids=["direct", "bridge"])
def test_a_captured_exchange_is_whole_and_sound(bridge: bool, tmp_path: Path) -> None:
    with two_namespaces(bridge=bridge) as net, Kea(net.server), \
            Capture(tmp_path / "dora.pcapng", *net.tap) as capture, Udhcpc(net.client) as client:
        address = client.get().address
        client.renew()
        client.release()
        capture.stop()
    told = fields(capture.path, ["frame.number", "dhcp.option.dhcp", "ip.src"])
    types = "".join(frame["dhcp.option.dhcp"] for frame in told)
    assert re.fullmatch("1235(35)+7", types)  # see Udhcpc: it may have to renew twice
    assert (capture.seen, capture.dropped) == (len(types), 0)
    found = problems(capture.path)
    assert not found.wrong
    # Renewal and release go through a UDP socket, whose checksum veth leaves to "hardware".
    unicast = {int(frame["frame.number"]) for frame in told if frame["ip.src"] == address}
    assert {5, len(types)} <= set(found.unfinished_udp) <= unicast


@root
@needs("kea-dhcp4", "udhcpc", "tshark", "dumpcap")
def test_a_damaged_capture_is_not_called_sound(tmp_path: Path) -> None:
    with two_namespaces() as net, Kea(net.server), Udhcpc(net.client) as client, \
            Capture(tmp_path / "dora.pcapng", *net.tap) as capture:
        client.get()
    content = bytearray(capture.path.read_bytes())
    cookies = [at for at in range(len(content)) if content.startswith(b"\x63\x82\x53\x63", at)]
    option_length, chaddr, ip_checksum = cookies[0] + 5, cookies[1] - 208, cookies[2] - 254
    content[option_length] = 200
    content[chaddr] ^= 1
    content[ip_checksum] ^= 1
    (tmp_path / "damaged.pcapng").write_bytes(content)
    found = problems(tmp_path / "damaged.pcapng")
    assert found.wrong
    assert found.malformed == [1]
    assert found.bad_udp_checksum == [1, 2]
    assert found.bad_ip_checksum == [3]


@root
@needs("dhcpd", "perfdhcp")
def test_perfdhcp_loads_isc_dhcpd() -> None:
    with two_namespaces(client_address="10.16.0.2/12") as net, Dhcpd(net.server) as server:
        report = perfdhcp(net.client, ["-r", "200", "-R", "100000", "-p", "1"])
        leases = server.leases()
    assert (report.code, report.malformed, report.request_ack.drops) == (0, 0, 0)
    assert 190 <= report.request_ack.received <= 201
    assert len(leases) == len(set(leases.values())) == report.request_ack.received


@root
@needs("kea-dhcp4", "perfdhcp")
@pytest.mark.parametrize(("socket_type", "arguments"), [
    ("raw", []), ("udp", ["-l", "10.16.0.2", "10.16.0.1"])], ids=["raw", "udp"])
def test_perfdhcp_loads_kea_over_both_kinds_of_socket(
        socket_type: str, arguments: list[str]) -> None:
    with two_namespaces(client_address="10.16.0.2/12") as net, \
            Kea(net.server, socket_type=socket_type) as kea:
        report = perfdhcp(net.client, ["-r", "500", "-R", "100000", "-n", "200", *arguments])
        counted = kea.command("statistic-get-all")
    assert report.request_ack.received == report.discover_offer.received == 200
    assert counted["pkt4-ack-sent"][0][0] == 200


@root
@needs("kea-dhcp4")
def test_a_server_that_cannot_start_says_why() -> None:
    with two_namespaces() as net, pytest.raises(RuntimeError, match="Kea ended with 1") as caught, \
            Kea(net.server, start="10.16.0.999"):
        pass
    assert "10.16.0.999" in "".join(caught.value.__notes__)


@root
@needs("udhcpc")
def test_a_client_without_a_server_gets_nothing() -> None:
    with two_namespaces() as net, Udhcpc(net.client) as client, pytest.raises(TimeoutError):
        client.get(timeout_s=1.2)


@pytest.mark.parametrize(("name", "arguments", "word"), [
    pytest.param(name, arguments, word, marks=needs(name), id=name)
    for name, arguments, word in (
        ("kea-dhcp4", ["-v"], "."), ("perfdhcp", ["-v"], "VERSION"),
        ("dhcpd", ["--version"], "isc-dhcpd-"), ("dhclient", ["--version"], "isc-dhclient-"),
        ("dhcrelay", ["--version"], "isc-dhcrelay-"), ("dnsmasq", ["--version"], "Dnsmasq"),
        ("dhcpcd", ["--version"], "dhcpcd"), ("udhcpc", ["--help"], "udhcpc"),
        ("udhcpd", ["--help"], "udhcpd"), ("tshark", ["--version"], "TShark"))])
def test_every_program_finds_its_libraries(name: str, arguments: list[str], word: str) -> None:
    done = subprocess.run(program(name).argv(*arguments), capture_output=True, text=True)
    assert word in done.stdout + done.stderr
    assert program(name).path.is_absolute()


# --- what fetching does to the machine: nothing


def host_state() -> dict[str, object]:
    """What installing a package would change: files, package database, daemons."""
    state: dict[str, object] = {}
    for root_folder in ("/etc", "/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt"):
        for place in Path(root_folder).rglob("*"):
            about = place.lstat()  # no write goes by without another change time
            state[str(place)] = (about.st_ino, about.st_mode, about.st_size, about.st_ctime_ns)
    for folder in ("/run", "/var/lib", "/var/log", "/usr/sbin", "/usr/bin"):
        state[folder] = sorted(set(os.listdir(folder)) - {"netns"})
    here = os.stat("/proc/self/ns/net").st_ino
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program_path = (process / "exe").readlink()
            if (process / "ns/net").stat().st_ino == here and \
                    program_path.name in {*unpack.PACKAGE_OF, "busybox"}:
                state[f"pid {process.name}"] = str(program_path)
        except OSError:
            continue
    return state


@root
@pytest.mark.peers
def test_fetching_and_using_peers_changes_nothing_on_the_host(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unpack.CACHE_ENV, str(tmp_path))
    before = host_state()
    trees = ensure("isc-dhcp-server", "dhcpcd-base")
    assert trees.is_relative_to(tmp_path)
    with two_namespaces() as net, Dhcpd(net.server) as server, Dhcpcd(net.client) as client:
        address = client.get().address
        assert server.leases() == {net.client.mac(): address}
        client.release()
    assert host_state() == before


@pytest.mark.peers
def test_two_runs_at_once_fetch_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.peers.unpack", "udhcpd"]
    settings = os.environ | {unpack.CACHE_ENV: str(tmp_path)}
    runs = [subprocess.Popen(command, cwd=REPOSITORY, env=settings, text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    told = [run.communicate(timeout=120) for run in runs]
    if any(run.returncode for run in runs):
        raise PeersUnavailable(told[0][1].strip().rpartition("\n")[2])
    assert all("udhcpd  " in out for out, _ in told)
    assert "".join(errors for _, errors in told).count("fetching udhcpd") == 1


@needs("kea-dhcp4", "perfdhcp", "dhcpd", "dnsmasq", "udhcpc")
def test_what_is_there_is_found_at_once() -> None:
    began = time.perf_counter()
    ensure("kea-dhcp4-server", "kea-admin", "isc-dhcp-server", "dnsmasq-base", "udhcpc")
    assert time.perf_counter() - began < 0.05


def test_a_machine_without_apt_is_refused_by_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unpack.CACHE_ENV, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeersUnavailable, match="no apt-get on this machine"):
        ensure("udhcpd")


@pytest.mark.peers
def test_an_unknown_package_is_refused_by_name(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(unpack.CACHE_ENV, str(tmp_path))
    if not any(unpack.LISTS_ON_HOST.glob("*_Packages*")):
        raise PeersUnavailable("the host has no package lists")
    # Its own lists, empty and new: no second try over the network.
    own = unpack.cache_folder() / "apt/state/lists"
    own.mkdir(parents=True)
    (own / "none_Packages").touch()
    with pytest.raises(PeersUnavailable, match="package no-such-dhcp not found"):
        ensure("no-such-dhcp")
    assert not (unpack.cache_folder() / "trees/no-such-dhcp").exists()


# --- what the namespaces leave behind: nothing


@root
def test_a_network_is_removed_when_a_test_fails_in_it() -> None:
    links = set(os.listdir("/sys/class/net"))
    with pytest.raises(ZeroDivisionError), two_namespaces(bridge=True) as net:
        assert set(os.listdir("/sys/class/net")) == links  # no end ever stands outside
        stubborn = net.server.popen(["sh", "-c", "trap '' TERM; sleep 60 & sleep 60"])
        names = [net.client.name, net.server.name, net.bridge.name if net.bridge else ""]
        raise ZeroDivisionError
    assert stubborn.poll() == -signal.SIGKILL
    assert not any((RUN_NETNS / name).exists() for name in names)
    assert set(os.listdir("/sys/class/net")) == links


@root
def test_what_a_killed_run_left_is_swept() -> None:
    code = ("import os; from tests.peers.net import two_namespaces\n"
            "with two_namespaces() as net:\n"
            "    p = net.server.popen(['sleep', '60'])\n"
            "    while not net.server.holds(p.pid): pass\n"
            "    print(net.client.name, net.server.name, p.pid, flush=True)\n"
            "    os.kill(os.getpid(), 9)\n")
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True,
                          text=True)
    client, server, pid = done.stdout.split()
    assert (RUN_NETNS / client).exists()
    assert {client, server} <= set(sweep())
    assert not (RUN_NETNS / server).exists()
    state = Path("/proc", pid, "stat")
    assert not state.exists() or " Z " in state.read_text()  # ended, if not yet waited for
