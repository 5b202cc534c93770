"""Two network namespaces with a wire between them, for tests and benchmarks of real programs.

The one thing to know: names are `dnt<pid>x<hex>...`, so what a killed run left behind tells
whose it was (`sweep` removes it), and nothing depends on the project's own `netlab`. Both veth
ends are made inside their namespaces; the root namespace never sees one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN_NETNS = Path("/run/netns")
INTERFACE = "eth0"
STOP_S = 2.0
_NAME = re.compile(r"dnt(\d+)x[0-9a-f]{6}[a-z]+")
_NO_IPV6 = ("for f in all default; do p=/proc/sys/net/ipv6/conf/$f/disable_ipv6; "
            "[ ! -e $p ] || echo 1 > $p; done")


def wait_until(what: str, ready: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Return once `ready()` holds, looked at every 2 ms. Raises TimeoutError naming `what`."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not seen in {timeout_s:g} s")
        time.sleep(0.002)


def _ip(commands: str, namespace: str = "") -> None:
    """Run one `ip -batch`. Raises RuntimeError with ip's own words."""
    place = ["-n", namespace] if namespace else []
    done = subprocess.run(["ip", *place, "-batch", "-"], input=commands, text=True,
                          capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ip: {done.stderr.strip()}")


@dataclass
class Namespace:
    """One network namespace and the processes started in it."""

    name: str
    processes: list[subprocess.Popen[Any]] = field(default_factory=list)

    def argv(self, argv: Sequence[str]) -> list[str]:
        """`ip netns exec` ends in an exec, so the pid is the program's own."""
        return ["ip", "netns", "exec", self.name, *argv]

    def popen(self, argv: Sequence[str], log: Path | None = None,
              **options: Any) -> subprocess.Popen[Any]:
        """Start `argv` inside; killed by pid when the network is taken down.

        log: file for both of its outputs; without one they are dropped, unless `options`
        (those of subprocess.Popen) say otherwise.
        """
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(log.open("ab")) if log else subprocess.DEVNULL
            options = {"stdin": subprocess.DEVNULL, "stdout": sink, "stderr": sink} | options
            process = subprocess.Popen(self.argv(argv), **options)
        self.processes.append(process)
        return process

    def run(self, argv: Sequence[str], timeout_s: float = 30.0, check: bool = True,
            ) -> subprocess.CompletedProcess[str]:
        """Run `argv` inside to its end and return its output as text.

        check: raise RuntimeError with what it printed where it ended with another code than 0.
        """
        done = subprocess.run(self.argv(argv), stdin=subprocess.DEVNULL, text=True,
                              capture_output=True, timeout=timeout_s)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: ended with {done.returncode}: "
                               f"{(done.stderr or done.stdout).strip()}")
        return done

    def ip(self, commands: str) -> None:
        """Run `ip` commands inside, one a line."""
        _ip(commands, self.name)

    def links(self) -> dict[str, dict[str, Any]]:
        """Every link, as `ip -json link` tells it, by name."""
        told = subprocess.run(["ip", "-n", self.name, "-json", "link"], check=True,
                              capture_output=True, text=True).stdout
        return {link["ifname"]: link for link in json.loads(told)}

    def mac(self, interface: str = INTERFACE) -> str:
        return str(self.links()[interface]["address"])

    def holds(self, pid: int) -> bool:
        """Whether the process is inside: not so between its fork and its setns."""
        try:
            return os.stat(f"/proc/{pid}/ns/net").st_ino == (RUN_NETNS / self.name).stat().st_ino
        except OSError:
            return False

    def pids(self) -> list[int]:
        """Every process inside, those that daemons forked too."""
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if self.holds(int(p.name))]

    def close(self) -> None:
        """End what runs inside, by pid, and remove the namespace with its links."""
        for process in self.processes:
            stop(process)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(f"processes in {self.name} to end", lambda: not self.pids())
        subprocess.run(["ip", "netns", "del", self.name], check=True, capture_output=True)


def stop(process: subprocess.Popen[Any], how: int = signal.SIGTERM) -> int:
    """End `process` by pid, with SIGKILL where it does not go by itself in a few seconds."""
    if process.poll() is None:
        process.send_signal(how)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def quiet(namespace: Namespace) -> None:
    """Make the namespace, with IPv6 off: nothing in it speaks by itself."""
    _ip(f"netns add {namespace.name}\n")
    namespace.run(["sh", "-c", _NO_IPV6])


@dataclass(frozen=True)
class Net:
    """What `two_namespaces` built: `eth0` in the client's and in the server's namespace.

    tap: where a capture sees both directions of every frame. Without a bridge that is the
    client's own interface, which misses frames that an AF_PACKET socket with
    PACKET_QDISC_BYPASS sends from there; the bridge's port towards the client misses none.
    """

    client: Namespace
    server: Namespace
    bridge: Namespace | None
    server_address: str
    client_address: str
    interface: str = INTERFACE

    @property
    def tap(self) -> tuple[Namespace, str]:
        return (self.bridge, "client") if self.bridge else (self.client, INTERFACE)


def _wire(net: Net) -> None:
    pairs = [(net.client, INTERFACE, net.server, INTERFACE)]
    if net.bridge:
        net.bridge.ip("link add br0 type bridge stp_state 0 forward_delay 0\n")
        pairs = [(net.client, INTERFACE, net.bridge, "client"),
                 (net.server, INTERFACE, net.bridge, "server")]
    for i, (a, end_a, b, end_b) in enumerate(pairs):
        # Ends with equal numbers look like no veth to the kernel's link watch, which then
        # reports their carrier up to one second late (net/core/link_watch.c).
        a.ip(f"link add {end_a} index {10 + i} type veth "
             f"peer name {end_b} index {20 + i} netns {b.name}\n")
    for namespace, address in ((net.client, net.client_address), (net.server, net.server_address)):
        given = f"addr add {address} dev {INTERFACE}\n" if address else ""
        namespace.ip(f"link set lo up\n{given}link set {INTERFACE} up\n")
    if net.bridge:
        ends = "".join(f"link set {end} master br0 up\n" for end in ("client", "server"))
        net.bridge.ip(f"{ends}link set br0 up\n")


def _carries(net: Net) -> bool:
    ends = [net.client.links()[INTERFACE], net.server.links()[INTERFACE]]
    if net.bridge:
        ends += [net.bridge.links()[end] for end in ("client", "server")]
    return all(end["operstate"] == "UP" for end in ends)


@contextlib.contextmanager
def two_namespaces(bridge: bool = False, server_address: str = "10.16.0.1/12",
                   client_address: str = "") -> Iterator[Net]:
    """A client's and a server's namespace, joined by a veth pair or through a bridge in a third.

    IPv6 is off in all of them; carrier is up on return. Addresses are `A.B.C.D/prefix`, or ""
    for none. At the end every process inside is killed and everything is removed.
    """
    token = f"dnt{os.getpid()}x{secrets.token_hex(3)}"
    roles = ("client", "server", "bridge") if bridge else ("client", "server")
    made = [Namespace(token + role) for role in roles]
    try:
        for namespace in made:
            quiet(namespace)
        net = Net(made[0], made[1], made[2] if bridge else None, server_address, client_address)
        _wire(net)
        wait_until("carrier", lambda: _carries(net))
        yield net
    finally:
        with contextlib.ExitStack() as stack:  # every one, whatever happens to the others
            for namespace in made:
                if (RUN_NETNS / namespace.name).exists():
                    stack.callback(namespace.close)


def sweep() -> list[str]:
    """Remove namespaces of runs that were killed (their pid is gone); returns their names."""
    gone = []
    for place in RUN_NETNS.glob("dnt*x*"):
        whose = _NAME.fullmatch(place.name)
        if whose and not Path("/proc", whose[1]).exists():
            Namespace(place.name).close()
            gone.append(place.name)
    return gone
