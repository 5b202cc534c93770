"""Real relay agents, and the networks with routers in which they stand.

The one thing to know: every relay is a router too, so that what a server sends to a giaddr, and
what a bound client sends to its server, passes it as on a real network. The server's segment is
a bridge in a namespace of its own.

    with relayed(2) as net, OurServer(net.server, ...), \\
            Dhcrelay(net.relays[0][0], net.towards[0][0]), \\
            Dhcrelay(net.relays[0][1], net.towards[0][1]), Udhcpc(net.clients[0]) as client:
        assert client.get().address.startswith("10.20.0.")
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.net import INTERFACE, RUN_NETNS, Namespace, quiet, stop, wait_until
from tests.peers.unpack import program

DOWN, UP = "down", "up"
SERVER = "10.16.0.1"


@dataclass(frozen=True)
class Relayed:
    """What `relayed` built. Branch b is clients[b] - relays[b][0] - ... - relays[b][-1] - server.

    Clients have `eth0` without an address; relays `down` and `up`; the server `eth0` with
    10.16.0.1/24. The segment of branch b's clients is 10.(20+b).0.0/24, its router .1; without a
    relay it is the server's own.
    towards[b][k]: the address to which relay k of branch b passes requests on.
    """

    clients: list[Namespace]
    relays: list[list[Namespace]]
    server: Namespace
    wire: Namespace
    towards: list[list[str]]

    @property
    def tap(self) -> tuple[Namespace, str]:
        """Where a capture sees every frame from and to the server."""
        return self.wire, "server"


@dataclass(frozen=True)
class _End:
    namespace: Namespace
    interface: str
    address: str = ""


def _join(a: _End, b: _End, number: int) -> None:
    """A veth pair, up, from `a` to `b`; see tests.peers.net about the interface indices."""
    a.namespace.ip(f"link add name {a.interface} index {100 + 2 * number} type veth peer name "
                   f"{b.interface} index {201 + 2 * number} netns {b.namespace.name}\n")
    for end in (a, b):
        given = f"addr add {end.address}/24 dev {end.interface}\n" if end.address else ""
        end.namespace.ip(f"link set lo up\n{given}link set dev {end.interface} up\n")


def _branch(number: int, client: Namespace, relays: Sequence[Namespace], wire: Namespace,
            server: Namespace) -> list[str]:
    """Wire one branch and its routes; returns what its relays pass requests on to."""
    if not relays:
        _join(_End(client, INTERFACE), _End(wire, f"branch{number}"), 10 * number)
        wire.ip(f"link set branch{number} master br0\n")
        return []
    segment, last = f"10.{20 + number}.0", len(relays) - 1
    exit_address = f"10.16.0.{2 + number}"
    _join(_End(client, INTERFACE), _End(relays[0], DOWN, f"{segment}.1"), 10 * number)
    towards = []
    for k, relay in enumerate(relays):
        relay.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        between = f"10.{30 + number}.{k}"
        if k == last:
            _join(_End(relay, UP, exit_address), _End(wire, f"branch{number}"),
                  10 * number + k + 1)
            wire.ip(f"link set branch{number} master br0\n")
            towards.append(SERVER)
        else:
            _join(_End(relay, UP, f"{between}.2"), _End(relays[k + 1], DOWN, f"{between}.1"),
                  10 * number + k + 1)
            relay.ip(f"route add default via {between}.1\n")
            towards.append(f"{between}.1")
        if k:
            below = f"10.{30 + number}.{k - 1}"
            relay.ip(f"route add {segment}.0/24 via {below}.2\n")
            for lower in range(k - 1):
                relay.ip(f"route add 10.{30 + number}.{lower}.0/24 via {below}.2\n")
    for place in (segment, *(f"10.{30 + number}.{k}" for k in range(last))):
        server.ip(f"route add {place}.0/24 via {exit_address}\n")
    return towards


@contextlib.contextmanager
def relayed(*hops: int) -> Iterator[Relayed]:
    """A server, and for every b one branch with a client behind `hops[b]` routers, or none.

    IPv6 is off everywhere; carrier is up on return. At the end every process inside is killed
    and everything is removed.
    """
    token = f"dnt{os.getpid()}x{secrets.token_hex(3)}"
    letters = "abcdefgh"
    clients = [Namespace(f"{token}client{letters[b]}") for b in range(len(hops))]
    relays = [[Namespace(f"{token}relay{letters[b]}{letters[k]}") for k in range(count)]
              for b, count in enumerate(hops)]
    server, wire = Namespace(f"{token}server"), Namespace(f"{token}wire")
    made = [*clients, *(relay for branch in relays for relay in branch), server, wire]
    try:
        for namespace in made:
            quiet(namespace)
        wire.ip("link add br0 type bridge stp_state 0 forward_delay 0\nlink set br0 up\n")
        _join(_End(server, INTERFACE, SERVER), _End(wire, "server"), 90)
        wire.ip("link set server master br0\n")
        towards = [_branch(b, clients[b], relays[b], wire, server) for b in range(len(hops))]
        wait_until("carrier", lambda: all(
            link["operstate"] in ("UP", "UNKNOWN") for one in made
            for link in one.links().values()))
        yield Relayed(clients, relays, server, wire, towards)
    finally:
        with contextlib.ExitStack() as stack:  # every one, whatever happens to the others
            for namespace in made:
                if (RUN_NETNS / namespace.name).exists():
                    stack.callback(namespace.close)


@dataclass
class Relay(ABC):
    """A relay agent between `down` and `up` of its namespace, passing requests on to `server`.

    arguments: further command-line words.
    """

    namespace: Namespace
    server: str = SERVER
    arguments: Sequence[str] = ()
    folder: Path = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that stays in front, its files in `folder`."""

    @abstractmethod
    def _serves(self) -> bool:
        """Whether its sockets are open."""

    def _sockets(self, kind: str) -> list[str]:
        return Path(f"/proc/{self.process.pid}/net/{kind}").read_text().splitlines()[1:]

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{type(self).__name__} ended with {self.process.returncode}")
        return self.namespace.holds(self.process.pid) and self._serves()

    @property
    def log(self) -> str:
        place = self.folder / "log"
        return place.read_text(errors="replace") if place.exists() else ""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"dnt-{type(self).__name__.lower()}-"))
        try:
            self.process = self.namespace.popen(self._command(), log=self.folder / "log")
            wait_until(f"{type(self).__name__} to be ready", self._ready)
        except BaseException as failed:
            failed.add_note(f"{type(self).__name__} said:\n{self.log}")
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if value is not None:
            value.add_note(f"{type(self).__name__} said:\n{self.log}")
        self._end()

    def _end(self) -> None:
        if hasattr(self, "process"):
            stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


class Dhcrelay(Relay):
    """ISC dhcrelay. `-a` adds option 82: circuit-id is the name of the interface, `down`.

    `-U up` takes the place of `-iu up`: with both it hears every frame twice.
    """

    def _command(self) -> list[str]:
        upstream = [] if "-U" in self.arguments else ["-iu", UP]
        return program("dhcrelay").argv(
            "-4", "-d", "--no-pid", *self.arguments, "-id", DOWN, *upstream, self.server)

    def _serves(self) -> bool:
        # A packet socket for each interface, with its filter, then the one for unicast.
        return len(self._sockets("packet")) >= 2 and "Sending on   Socket" in self.log


class DnsmasqRelay(Relay):
    """dnsmasq as a relay only. It adds no option 82 and knows no limit of hops."""

    def _command(self) -> list[str]:
        return program("dnsmasq").argv(
            "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--port=0",
            "--user=root", "--group=root", "--pid-file=", "--log-dhcp",
            f"--dhcp-relay={self._down_address()},{self.server}", *self.arguments)

    def _down_address(self) -> str:
        told = self.namespace.run(["ip", "-4", "-br", "addr", "show", "dev", DOWN]).stdout
        return told.split()[2].partition("/")[0]

    def _serves(self) -> bool:
        return any(int(line.split()[1].rpartition(":")[2], 16) == 67
                   for line in self._sockets("udp"))
