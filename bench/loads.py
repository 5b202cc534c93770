"""The loads that figures are made of: one run of one generator against one server."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.ours import POOL, OurServer, OurTester, entered, program
from tests.peers.clients import perfdhcp
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces
from tests.peers.servers import Kea

WINDOWS = (1, 4, 16, 64, 256, 1024)
PERFDHCP_RATES = (10_000, 12_000, 14_000, 16_000, 18_000, 20_000, 22_000, 25_000)
_ETH_P_ALL = 3


@contextmanager
def place() -> Iterator[Net]:
    """Where all are measured: two namespaces, one veth pair."""
    with two_namespaces(client_address="10.16.0.2/12") as net:
        yield net


def our_server(net: Net) -> OurServer:
    return OurServer(net.server, POOL)


def kea(net: Net, **options: Any) -> Kea:
    """Kea at its best: memfile, multi-threaded; not persistent unless asked for.

    Two threads on two cores; with shorter queues it drops what a large window sends.
    """
    return Kea(net.server, start="10.16.1.0", end="10.31.255.254", threads=2, queue=256,
               **options)


def by_tester(net: Net, window: int, seconds: float, clients: int = 1_000_000) -> dict[str, Any]:
    """The result document of one closed-loop run of our tester."""
    with OurTester(net.client, ("--clients", str(clients), "--concurrency", str(window),
                                "--duration", f"{seconds}s"), clients_csv=False) as run:
        done = run.finish()
    if not done.document:
        raise RuntimeError(f"dhcp-tester ended with {done.code}: {done.err}{done.out}")
    return done.document


def by_perfdhcp(net: Net, rate_per_s: int, seconds: int) -> float:
    """DORA/s that perfdhcp completed at one offered rate."""
    report = perfdhcp(net.client, ["-r", str(rate_per_s), "-R", "1000000", "-p", str(seconds)])
    return report.completed_per_s


def best(choices: tuple[int, ...], measure: Callable[[int], float]) -> tuple[int, float]:
    """(choice, figure) of the choice that measures highest."""
    figures = {choice: measure(choice) for choice in choices}
    choice = max(figures, key=lambda c: figures[c])
    return choice, figures[choice]


def listen(namespace: Namespace) -> socket.socket:
    """A packet socket on eth0 inside `namespace`."""
    with entered(namespace):
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        sock.bind((INTERFACE, _ETH_P_ALL))
    return sock


def first_packet_s(net: Net) -> float:
    """Seconds from starting dhcp-tester to its first frame at the other end of the wire."""
    with listen(net.server) as ear:
        ear.settimeout(30)
        began = time.monotonic()
        process = net.client.popen([*program("tester"), "--interface", INTERFACE, "--clients", "1",
                                    "--timeout", "1ms"])
        ear.recv(2048)
        took = time.monotonic() - began
        process.wait(30)
    return took


def help_s(module: str) -> float:
    """Seconds that `--help` of one of our programs takes."""
    began = time.monotonic()
    subprocess.run([*program(module), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began
