"""What a relay hop costs: dhcp-relay and ISC dhcrelay in the same place, one after the other."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import NamedTuple

from bench import loads
from bench.figures import Figure
from tests.ours import POOL, OurServer, OurTester
from tests.peers.net import INTERFACE, Namespace, quiet, wait_until
from tests.peers.relays import DOWN, UP, Dhcrelay, Relay
from tests.relaying import OurRelay

# dhcrelay is at its best in a narrow range: beyond it its socket overflows.
WINDOWS = (16, 32, 48, 64, 96, 128, 256, 1024)
# A shorter run says more about its beginning than about the relay.
_LEAST_S = 3
_SERVER, _UP, _DOWN = "10.33.0.1", "10.33.0.2", "10.16.0.1"


class Line(NamedTuple):
    """client `eth0` - `down` relay `up` - `eth0` server, nothing else in between."""

    client: Namespace
    relay: Namespace
    server: Namespace


@contextmanager
def line() -> Iterator[Line]:
    """Three namespaces in a row, removed at the end. Clients belong to 10.16.0.0/12."""
    token = f"dnt{os.getpid()}x{secrets.token_hex(3)}"
    made = Line(*(Namespace(token + role) for role in Line._fields))
    with ExitStack() as stack:
        for namespace in made:
            quiet(namespace)
            stack.callback(namespace.close)
            namespace.ip("link set lo up\n")
        for number, (one, end, other, far) in enumerate((
                (made.relay, DOWN, made.client, INTERFACE),
                (made.relay, UP, made.server, INTERFACE))):
            one.ip(f"link add name {end} index {10 + number} type veth peer name {far} "
                   f"index {20 + number} netns {other.name}\n")
        for namespace, address, end in ((made.relay, f"{_DOWN}/12", DOWN),
                                        (made.relay, f"{_UP}/24", UP),
                                        (made.server, f"{_SERVER}/24", INTERFACE)):
            namespace.ip(f"addr add {address} dev {end}\nlink set dev {end} up\n")
        made.client.ip(f"link set dev {INTERFACE} up\n")
        made.server.ip(f"route add 10.16.0.0/12 via {_UP}\n")
        wait_until("carrier", lambda: all(link["operstate"] in ("UP", "UNKNOWN")
                                          for each in made for link in each.links().values()))
        yield made


def dora_per_s(kind: type[Relay], window: int, seconds: float) -> float:
    """DORA/s of dhcp-tester through a relay to dhcp-server; raises RuntimeError."""
    with line() as net, OurServer(net.server, (*POOL, "--netmask", "255.240.0.0")), \
            kind(net.relay, _SERVER, ["-a"]), \
            OurTester(net.client, ("--clients", "1000000", "--concurrency", str(window),
                                   "--duration", f"{seconds}s"), clients_csv=False) as run:
        done = run.finish()
    if not done.document:
        raise RuntimeError(f"dhcp-tester ended with {done.code}: {done.err}{done.out}")
    return float(done.document["dora_per_s"])


def _try(kind: type[Relay], window: int) -> float:
    return dora_per_s(kind, window, 1)


def relay_vs_dhcrelay(rounds: int, seconds: int) -> list[Figure]:
    """Each at the window that suits it best, in turn; dhcp-tester before, dhcp-server behind."""
    ratio = Figure("relay_vs_dhcrelay", "ratio", "highest DORA/s through dhcp-relay over those "
                   "through ISC dhcrelay, both with option 82, between dhcp-tester and dhcp-server",
                   "at least 4")
    ours = Figure("relay_dora_per_s", "DORA/s", "through dhcp-relay", "at least 60,000")
    theirs = Figure("dhcrelay_dora_per_s", "DORA/s", "through ISC dhcrelay")
    kinds: tuple[type[Relay], ...] = (OurRelay, Dhcrelay)
    windows = {kind: loads.best(WINDOWS, partial(_try, kind))[0] for kind in kinds}
    for _ in range(rounds):
        for kind, figure in ((OurRelay, ours), (Dhcrelay, theirs)):
            figure.runs.append(dora_per_s(kind, windows[kind], max(seconds, _LEAST_S)))
    ratio.runs = [mine / other for mine, other in zip(ours.runs, theirs.runs, strict=True)]
    ratio.more = {"window": windows[OurRelay], "dhcrelay_window": windows[Dhcrelay],
                  "relay_dora_per_s": [round(run) for run in ours.runs],
                  "dhcrelay_dora_per_s": [round(run) for run in theirs.runs]}
    return [ratio, ours, theirs]
