"""Building and removing large networks: `lab` beside a generated script for `ip`.

The script is the fastest we could write: one `ip -batch` for all namespaces and veth pairs, each
end born where it belongs, then one for each namespace that has IPv6 off before anything comes up.
Both make the same links, addresses and routes, which is looked at each time. The kernel ends
namespaces in the background: nothing is timed before it has done with those of the run before.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure
from netlab import namespaces, plan, topology
from netlab.messages import LinkState
from netlab.netlink import Rtnl
from netlab.plan import (
    AddRoutes,
    GiveAddress,
    JoinBridges,
    MakeBridge,
    MakeCable,
    MakeLink,
    MakeNamespace,
    Plan,
    Step,
)
from netlab.state import STATE_ENV

_LAB, _SCRIPTED, _MARK = "bench-lab", "bench-ip", "bench-mark"
# What a star has beside its relays: client, switch, server.
_OTHERS = 3
_NODES = 500
_SIZES = (125, 250, 500, 1000, 2000)
_COMMAND = [sys.executable, "-m", "netlab.cli"]
_PATIENCE_S = 120.0


@dataclass(slots=True)
class _Times:
    """Seconds, one each run. gone: until the kernel had ended what `removed` let go of."""

    built: list[float] = field(default_factory=list)
    removed: list[float] = field(default_factory=list)
    gone: list[float] = field(default_factory=list)


def lab_vs_ip(rounds: int, seconds: int) -> list[Figure]:
    """`lab setup` and `lab teardown`, the whole commands, beside the script; and larger stars."""
    by_lab: dict[int, _Times] = {nodes: _Times() for nodes in _SIZES}
    by_script = _Times()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        environment = os.environ | {STATE_ENV: str(place / "state")}
        script = _Script(plan.make(_star(_NODES), _SCRIPTED), place)
        for _ in range(rounds):
            for nodes, times in by_lab.items():
                words = ["star", "--segments", str(nodes - _OTHERS), "--name", _LAB]
                with _time(times, [*_COMMAND, "teardown", "--name", _LAB], environment):
                    times.built.append(_run([*_COMMAND, "setup", *words], environment))
                    seen = _see(plan.make(_star(nodes), _LAB)) if nodes == _NODES else None
                if seen is None:
                    continue
                with _time(by_script, script.teardown, environment):
                    by_script.built.append(_run(script.setup, environment))
                    if _see(script.plan) != seen:
                        raise RuntimeError("lab and the script made two different networks")
    return _figures(by_lab, by_script)


def _figures(by_lab: dict[int, _Times], by_script: _Times) -> list[Figure]:
    ours = by_lab[_NODES]
    more = {"lab_s": ours.built, "ip_s": by_script.built, "lab_teardown_s": ours.removed,
            "ip_teardown_s": by_script.removed, "lab_gone_s": ours.gone,
            "ip_gone_s": by_script.gone}
    figures = [
        Figure("lab_vs_ip", "ratio", f"time of `lab setup` of a {_NODES}-node star over the same "
               "network made by a generated `ip -batch` script", "at most 0.5",
               _over(ours.built, by_script.built),
               {key: [round(run, 3) for run in runs] for key, runs in more.items()}),
        Figure("teardown_vs_ip", "ratio", "time of `lab teardown` over `ip -batch` with `netns "
               "del`, until the kernel has ended the namespaces", "",
               _over(ours.gone, by_script.gone)),
    ]
    readings: dict[str, tuple[str, Callable[[_Times], list[float]]]] = {
        "setup": ("`lab setup`", lambda times: times.built),
        "teardown": ("`lab teardown`, until names are gone", lambda times: times.removed),
        "gone": ("`lab teardown`, until the kernel has ended all", lambda times: times.gone)}
    for key, (what, read) in readings.items():
        figures += [Figure(f"{key}_s_{nodes}_nodes", "s", f"{what} of a star of {nodes:,} nodes",
                           runs=read(times)) for nodes, times in by_lab.items()]
        # Time a node, of many over that of few.
        growth = _over([run / 2000 for run in read(by_lab[2000])],
                       [run / 250 for run in read(by_lab[250])])
        figures.append(Figure(f"{key}_linear", "ratio", f"{what}: time a node at 2,000 nodes over "
                              "that at 250", "about 1", growth))
    return figures


def _over(some: list[float], others: list[float]) -> list[float]:
    return [one / other for one, other in zip(some, others, strict=True)]


@contextmanager
def _time(times: _Times, teardown: list[str], environment: dict[str, str]) -> Iterator[None]:
    """After the block, time the teardown; before it, wait for a quiet kernel."""
    _settle()
    try:
        yield
    finally:
        began = time.monotonic()
        times.removed.append(_run(teardown, environment))
        _settle()
        times.gone.append(time.monotonic() - began)


def _star(nodes: int) -> topology.Topology:
    return topology.star(nodes - _OTHERS)


def _run(argv: list[str], environment: dict[str, str]) -> float:
    """Seconds that a command takes; CalledProcessError if it fails."""
    began = time.monotonic()
    subprocess.run(argv, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def _settle() -> None:
    """Until the kernel has ended all namespaces that were let go before.

    It ends them in order, one work queue for the machine (net/core/net_namespace.c): once a
    veth is gone whose other end was in a namespace let go just now, so are all the others.
    """
    here, there = f"{_MARK}-here", f"{_MARK}-there"
    for name in (here, there):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        subprocess.run(["ip", "link", "add", "name", "mark0", "netns", here, "type", "veth",
                        "peer", "name", "mark1", "netns", there], check=True)
    finally:
        subprocess.run(["ip", "netns", "del", there], check=True)
    try:
        deadline = time.monotonic() + _PATIENCE_S
        while any(link.ifname == "mark0" for link in _links(here)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"namespaces are not gone after {_PATIENCE_S:g} s")
            time.sleep(0.005)
    finally:
        subprocess.run(["ip", "netns", "del", here], check=True)


def _links(namespace: str) -> list[LinkState]:
    (seen,) = namespaces.look_into([namespace], Rtnl.links)
    if isinstance(seen, OSError):
        raise seen
    return seen


def _see(made: Plan) -> dict[str, object]:
    """By node: its links, their addresses, whether they carry, and the routes."""

    def look(rtnl: Rtnl) -> object:
        addresses = rtnl.addresses()
        links = {(link.ifname, link.kind, link.up, link.mtu,
                  frozenset(addresses.get(link.index, ()))) for link in rtnl.links()}
        return links, rtnl.routes()

    names = made.namespaces
    seen = dict(zip(names, namespaces.look_into(names.values(), look), strict=True))
    for node, found in seen.items():
        if isinstance(found, OSError):
            raise RuntimeError(f"node {node} is not there") from found
    return seen


class _Script:
    """A shell script that makes with `ip` what a plan says, and a batch that removes it."""

    def __init__(self, made: Plan, place: Path) -> None:
        self.plan, self._place = made, place
        self._names = made.namespaces
        # One batch for the machine, and one for each namespace.
        self._first: list[str] = []
        self._inside: dict[str, list[str]] = {name: ["link set lo up"] for name in self._names}
        for step in made.steps:
            self._add(step)
        forwarding = {step.node for step in made.steps
                      if isinstance(step, MakeNamespace) and step.forwards}
        script = ["set -e", f"ip -batch {self._write('first', self._first)}"]
        for node, lines in self._inside.items():
            settings = "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6; "
            if node in forwarding:
                settings += "echo 1 >/proc/sys/net/ipv4/ip_forward; "
            inner = f"{settings}exec ip -batch {self._write(node, lines)}"
            script.append(f"nsenter --net=/run/netns/{self._names[node]} "
                          f"sh -c {shlex.quote(inner)}")
        self.setup = ["sh", str(self._write("setup.sh", script))]
        self.teardown = ["ip", "-batch", str(self._write(
            "teardown", [f"netns del {name}" for name in self._names.values()]))]

    def _write(self, name: str, lines: list[str]) -> Path:
        path = self._place / name
        path.write_text("\n".join(lines) + "\n")
        return path

    def _add(self, step: Step) -> None:
        if isinstance(step, MakeNamespace):
            self._first.append(f"netns add {step.namespace}")
        elif isinstance(step, MakeBridge):
            self._first.append(f"link add name {step.name} netns {self._names[step.node]} "
                               f"mtu {step.mtu} type bridge")
            self._inside[step.node].append(f"link set {step.name} up")
        elif isinstance(step, MakeLink):
            self._veth(step.bridge_node, step.port, step.node, step.ifname)
            self._inside[step.bridge_node].append(
                f"link set {step.port} master {step.bridge} up")
            self._inside[step.node].append(f"link set {step.ifname} up")
        elif isinstance(step, MakeCable):
            self._veth(step.node, step.ifname, step.peer_node, step.peer_ifname)
            self._inside[step.node].append(f"link set {step.ifname} up")
            self._inside[step.peer_node].append(f"link set {step.peer_ifname} up")
        elif isinstance(step, GiveAddress):
            self._inside[step.node].append(f"addr add {step.address} brd + dev {step.ifname}")
        elif isinstance(step, AddRoutes):
            self._inside[step.node] += [f"route add {route.network} via {route.via}"
                                        for route in step.routes]
        elif isinstance(step, JoinBridges):
            raise NotImplementedError("a star this large takes several bridges")

    def _veth(self, node: str, ifname: str, peer_node: str, peer_ifname: str) -> None:
        self._first.append(f"link add name {ifname} netns {self._names[node]} type veth peer name "
                           f"{peer_ifname} netns {self._names[peer_node]}")
