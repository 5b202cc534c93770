"""Where the server hears and answers: packet rings on interfaces, or UDP sockets.

Beside rings stands a socket on loopback, for who speaks to this server on its own machine: a
ring does not hear that. It is looked at when nothing else is to be done, or every millisecond.

Every port has what belongs to its own frames (replies that wait, response times of a batch);
leases, settings and counts are one and the same for all.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastpath.delay import TICK_US, make_delay, waiting
from fastpath.errors import SystemRefused
from fastpath.interface import Interface, choose, find
from fastpath.process import hold_port
from fastpath.ring import Ring
from fastpath.udp import Udp, bound_interface
from fastpath.wheel import next_deadline
from server.arrays import Tables, make_sent
from server.config import Resolved
from server.model import Config
from server.reply import Link
from server.tables import delay_rows, make_link

_LOOPBACK = "lo"
_USUAL_PORT = 67
# Replies on their way: a few batches. The kernel takes them in the kick that follows each.
_MOST_UNSENT = 1024
_LOOPBACK_SLOTS = 256
LOOK_S = 0.001


@dataclass(slots=True)
class Port:
    """One interface or socket. done_ns: CLOCK_REALTIME when its last replies were sent.

    aside: it rarely has anything. look_s: monotonic, before which it is not looked at.
    """

    ring: Ring | Udp
    tables: Tables
    link: Link
    done_ns: int = 0
    aside: bool = False
    look_s: float = 0.0


def transport_of(config: Config) -> str:
    """"packet" or "udp": what is asked for, else by what the interface and the port allow."""
    if config.transport:
        return config.transport
    if config.port != _USUAL_PORT or config.interfaces == (_LOOPBACK,):
        return "udp"
    if not config.interfaces and config.listen is not None and config.listen.is_loopback:
        return "udp"
    return "packet"


@contextlib.contextmanager
def open_rings(config: Config) -> Iterator[list[Ring | Udp]]:
    """The rings, or the socket, that a configuration asks for; closed at the end.

    Raises SystemRefused and UserError as `Ring`, `Udp` and `choose` do.
    """
    with contextlib.ExitStack() as stack:
        rings: list[Ring | Udp] = []
        if transport_of(config) == "udp":
            names = config.interfaces or ("",)
            # A socket of one address hears no broadcasts; one of an interface does.
            address = None if config.interfaces else config.listen
            rings += [stack.enter_context(Udp(address, config.port, interface=name,
                                              slots=config.ring_slots)) for name in names]
        else:
            for name in config.interfaces or (choose(config.listen),):
                rings.append(stack.enter_context(
                    Ring(name, (config.port,), slots=config.ring_slots, most_unsent=_MOST_UNSENT)))
                stack.enter_context(hold_port(config.port, name))
            if config.port == _USUAL_PORT and _LOOPBACK not in config.interfaces:
                # Where there is none, or another server has it, nothing is missed.
                with contextlib.suppress(SystemRefused):
                    rings.append(stack.enter_context(Udp(
                        None, config.port, interface=_LOOPBACK, slots=_LOOPBACK_SLOTS)))
        yield rings


def beside(rings: Sequence[Ring | Udp]) -> bool:
    """Whether the last of them is the socket beside rings."""
    return isinstance(rings[0], Ring) and isinstance(rings[-1], Udp)


def served_interfaces(rings: Sequence[Ring | Udp]) -> list[Interface]:
    """The interfaces that are served, without the loopback beside them."""
    return [ring.interface for ring in (rings[:-1] if beside(rings) else rings)]


def find_interfaces(config: Config) -> list[Interface]:
    """The interfaces that `open_rings` would open; raises SystemRefused and UserError likewise."""
    if config.interfaces:
        return [find(name) for name in config.interfaces]
    if transport_of(config) == "udp":
        return [bound_interface(config.listen)]
    return [find(choose(config.listen))]


def make_ports(rings: Sequence[Ring | Udp], resolved: Resolved, tables: Tables,
               before: Sequence[Port] = ()) -> list[Port]:
    """A port for each ring. before: those to succeed: what waits there goes on waiting."""
    ports = []
    everywhere = list(resolved.served)
    if beside(rings):
        everywhere.append(replace(everywhere[0], interface=rings[-1].interface, server=None))
    for i, (ring, served) in enumerate(zip(rings, everywhere, strict=True)):
        delay = tables.delay if i == 0 else make_delay(delay_rows(resolved.config))
        sent, done_ns = make_sent(), 0
        if before:
            sent, done_ns = before[i].tables.sent, before[i].done_ns
            if waiting(before[i].tables.delay) or not delay_rows(resolved.config):
                delay = before[i].tables.delay
        own = tables._replace(delay=delay, sent=sent)
        ports.append(Port(ring, own, make_link(resolved, served), done_ns,
                          aside=i >= len(resolved.served)))
    return ports


def wait_for(ports: Sequence[Port], timeout_s: float, now_us: int, also: int) -> None:
    """Sleep until a frame is there, a reply is due, `also` is readable, or time is up."""
    for port in ports:
        if waiting(port.tables.delay):
            due_us = next_deadline(port.tables.delay.wheel, 1 << 12) * TICK_US
            timeout_s = min(timeout_s, max(0.0, (due_us - now_us) * 1e-6))
    if len(ports) == 1:
        ports[0].ring.wait(timeout_s, also)
        return
    if any(port.ring.congested for port in ports):
        timeout_s = 0.0
    readable, _, _ = select.select([*(port.ring for port in ports), also], [], [], timeout_s)
    for port in ports:
        if port.ring in readable or port.ring.congested:
            # It looks for errors of the interface, and sends what was left.
            port.ring.wait(0.0)
            port.look_s = 0.0


def ring_counts(ports: Sequence[Port]) -> dict[str, Any]:
    """Losses of each ring, by interface, and all in one."""
    rows = []
    for port in ports:
        row = {"name": port.ring.interface.name, "rx_ring_drops": port.ring.statistics(),
               "tx_congested": port.ring.tx_congested}
        if isinstance(port.ring, Udp):
            row["send_failed"] = dict(port.ring.send_failed)
        rows.append(row)
    return {"interfaces": rows,
            "rx_ring_drops": sum(row["rx_ring_drops"] for row in rows),
            "tx_congested": sum(row["tx_congested"] for row in rows)}
