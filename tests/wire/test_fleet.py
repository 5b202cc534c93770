"""One dhcp-tester over several interfaces of several namespaces, against our own server.

The server's namespace has a bridge with a port for each of them; ports hear no other port, so that
each interface is a segment of its own, as behind a relay.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from fastpath import elsewhere, interface
from fastpath.errors import SystemRefused
from fastpath.ring import Ring
from tests.ours import START_S, Finished, OurServer, OurTester, program
from tests.peers.net import RUN_NETNS, Namespace, quiet, wait_until

pytestmark = pytest.mark.root

MANY = 200


@dataclass(frozen=True)
class Segments:
    """Namespaces of clients with their interfaces, and that of the server, with bridge br0."""

    clients: list[Namespace]
    names: list[str]
    server: Namespace


@contextlib.contextmanager
def segments(*counts: int) -> Iterator[Segments]:
    """So many interfaces, c0 and so on, in each of so many namespaces; everything is up."""
    token = f"dnt{os.getpid()}x{secrets.token_hex(3)}"
    made = [Namespace(f"{token}{role}") for role in ("server", *"abc"[:len(counts)])]
    try:
        for namespace in made:
            quiet(namespace)
        server, *clients = made
        server.ip("link add br0 type bridge stp_state 0 forward_delay 0\n"
                  "addr add 10.16.0.1/12 dev br0\nlink set br0 up\n")
        names, ports = [], 0
        for namespace, count in zip(clients, counts, strict=True):
            namespace.ip("".join(
                f"link add c{i} index {100 + i} type veth peer name p{ports + i} "
                f"index {10_000 + ports + i} netns {server.name}\nlink set c{i} up\n"
                for i in range(count)))
            names += [f"{namespace.name}:c{i}" for i in range(count)]
            ports += count
        server.ip("".join(f"link set p{i} master br0 up\nlink set p{i} type bridge_slave "
                          "isolated on\n" for i in range(ports)))
        wait_until("carrier", lambda: all(link["operstate"] == "UP" for name, link
                                          in server.links().items() if name != "lo"), 10.0)
        yield Segments(clients, names, server)
    finally:
        with contextlib.ExitStack() as stack:
            for namespace in made:
                if (RUN_NETNS / namespace.name).exists():
                    stack.callback(namespace.close)


@pytest.fixture(scope="module")
def three() -> Iterator[Segments]:
    with segments(2, 1) as net, OurServer(net.server, interface="br0"):
        yield net


def run(net: Segments, names: Sequence[str], *arguments: str) -> Finished:
    """dhcp-tester in the server's namespace, which has none of these interfaces."""
    with OurTester(net.server, arguments, interface=",".join(names)) as tester:
        return tester.finish()


def refused(*arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run([*program("tester"), *arguments], capture_output=True, text=True,
                          timeout=START_S)
    return done.returncode, done.stderr.splitlines()


def test_clients_are_spread_over_namespaces(three: Segments) -> None:
    done = run(three, three.names, "--clients", "100", "--hostname", "h{index}")
    assert done.code == 0, done.err
    rows = done.document["interfaces"]
    assert [(row["interface"], row["planned"], row["bound"], row["failed"]) for row in rows] == [
        (name, count, count, 0) for name, count in zip(three.names, (34, 33, 33), strict=True)]
    assert [int(row["client"]) for row in done.clients] == list(range(100))
    assert {row["outcome"] for row in done.clients} == {"bound"}
    for column in ("chaddr", "yiaddr"):
        assert len({row[column] for row in done.clients}) == 100
    assert [row["interface"] for row in done.clients] == [three.names[i % 3] for i in range(100)]
    assert done.document["losses"]["rx_ring"] == done.document["losses"]["interface"] == 0
    assert done.document["config"]["interface"] == ",".join(three.names)
    assert "all 3 interfaces bound all their clients" in done.out


def test_a_rate_over_three(three: Segments) -> None:
    done = run(three, three.names, "--rate", "300", "--duration", "1s",
               "--mac-base", "02:01:00:00:00:00")
    assert done.code == 0, done.err
    assert done.document["clients"]["bound"] == done.document["clients"]["planned"] == 300


def test_one_in_another_namespace_is_one_alone(three: Segments) -> None:
    done = run(three, three.names[2:], "--clients", "5", "--mac-base", "02:02:00:00:00:00")
    assert done.code == 0, done.err
    assert "interfaces" not in done.document
    assert done.document["config"]["interface"] == three.names[2]
    assert "interface" not in done.clients[0]


def test_by_path_and_from_the_environment(three: Segments) -> None:
    items = [f"{RUN_NETNS}/{three.names[0]}", three.names[2]]
    with OurTester(three.server, ["--clients", "4", "--mac-base", "02:03:00:00:00:00"],
                   interface=",".join(items)) as tester:
        done = tester.finish()
    assert [row["interface"] for row in done.document["interfaces"]] == items


def test_an_interface_that_goes_down_is_named(three: Segments) -> None:
    with OurTester(three.server, ["--rate", "50", "--clients", "100000", "--progress",
                                  "--mac-base", "02:04:00:00:00:00"],
                   interface=",".join(three.names)) as tester:
        try:
            assert tester.process.stderr is not None
            while "completed" not in (line := tester.process.stderr.readline()):
                assert line, "it ended"
            three.clients[0].ip("link set c1 down\n")
            done = tester.finish()
        finally:
            three.clients[0].ip("link set c1 up\n")
    assert done.code == 1
    assert f"interface '{three.names[1]}' went down or away while in use" in done.err
    assert done.document["stopped"] and done.document["clients"]["bound"] > 0


def test_ctrl_c_finishes_what_was_begun(three: Segments) -> None:
    with OurTester(three.server, ["--rate", "50", "--clients", "100000", "--progress",
                                  "--mac-base", "02:05:00:00:00:00"],
                   interface=",".join(three.names)) as tester:
        assert tester.process.stderr is not None
        while "completed" not in (line := tester.process.stderr.readline()):
            assert line, "it ended"
        tester.process.send_signal(signal.SIGINT)
        done = tester.finish()
    exchanges = done.document["exchanges"]
    assert done.code == 3 and done.document["interrupted"]
    assert exchanges["started"] == exchanges["completed"] > 0


@pytest.mark.parametrize(("items", "code", "said"), [
    ("{0},nope:c0", 1, "dhcp-tester: no network namespace 'nope'"),
    ("{0},{1},{a}:c7", 1, "dhcp-tester: {a}:c7: no interface 'c7' in this network namespace"),
    ("{0},{0}", 2, "dhcp-tester: Invalid value for --interface: interface '{0}' is given twice; "
                   "give each once"),
    ("{0},/run/netns/{0}", 2, "dhcp-tester: {0} and /run/netns/{0} are the same interface"),
    ("{0},/etc/passwd:c0", 1, "dhcp-tester: '/etc/passwd' is not a network namespace")])
def test_what_is_refused(three: Segments, items: str, code: int, said: str) -> None:
    names = {"a": three.clients[0].name}
    given = items.format(*three.names, **names)
    found, lines = refused("--interface", given, "-n", "10")
    assert (found, lines[0]) == (code, said.format(*three.names, **names).replace('"', "'"))
    assert len(lines) == 2


def test_two_hundred() -> None:
    """In one namespace, as the client's of a star; it is quick to begin and to end."""
    with segments(MANY) as net, OurServer(net.server, interface="br0"):
        local = ",".join(f"c{i}" for i in range(MANY))
        with OurTester(net.clients[0], ["--clients", "1000", "-c", "400", "--timeout", "30s"],
                       interface=local) as tester:
            done = tester.finish()
        assert done.code in (0, 4), done.err
        rows = done.document["interfaces"]
        assert len(rows) == MANY and {row["bound"] for row in rows} == {5}
        assert len({row["yiaddr"] for row in done.clients}) == 1000
        began = time.monotonic()
        found, lines = refused("--interface", ",".join([*net.names, f"{net.names[0]}x"]))
        assert found == 1 and "c0x" in lines[0] and time.monotonic() - began < 20


# Going elsewhere.

def test_only_a_thread_goes_elsewhere(three: Segments) -> None:
    before = Path("/proc/thread-self/ns/net").stat().st_ino
    found = elsewhere.within(three.clients[0].name, lambda: interface.find("c1"))
    assert (found.name, found.index) == ("c1", 101)
    assert Path("/proc/thread-self/ns/net").stat().st_ino == before
    with pytest.raises(SystemRefused, match="no interface 'c1'"):
        interface.find("c1")


def test_who_fails_leaves_nothing_open(three: Segments) -> None:
    opened: list[Ring] = []
    closed: list[Ring] = []

    def ring(name: str) -> Ring:
        opened.append(Ring(name, (68,), slots=64))
        return opened[-1]

    namespace = three.clients[0].name
    with pytest.raises(SystemRefused, match="no interface 'c9'"):
        elsewhere.side_by_side([(namespace, lambda: ring("c0")), (namespace, lambda: ring("c9")),
                                (namespace, lambda: ring("c1"))],
                               lambda made: (closed.append(made), made.close()))
    assert len(opened) == 2 and set(map(id, closed)) == set(map(id, opened))


def test_the_addresses_of_an_interface(three: Segments) -> None:
    """Those of it alone, with a peer's left out."""
    first, second = three.clients[:2]
    first.ip("addr add 192.0.2.7/25 dev c0\naddr add 198.51.100.9 peer 198.51.100.1/32 dev c0\n"
             "addr add 203.0.113.1/24 dev c1\n")
    try:
        found = elsewhere.within(first.name, lambda: interface.find("c0")).addresses
        assert sorted(map(str, found)) == ["192.0.2.7/25", "198.51.100.9/32"]
        assert elsewhere.within(second.name, lambda: interface.find("c0")).addresses == ()
    finally:
        first.ip("addr flush dev c0\naddr flush dev c1\n")


def test_what_was_done_elsewhere_comes_in_order(three: Segments) -> None:
    """Threads are used again: one that went away comes back for what is to be done here."""
    here = Path("/proc/thread-self/ns/net")
    names = [three.clients[i % 2].name if i % 3 else "" for i in range(200)]
    told = elsewhere.side_by_side([(name, lambda: here.stat().st_ino) for name in names])
    assert told == [(RUN_NETNS / name if name else here).stat().st_ino for name in names]
