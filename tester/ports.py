"""What a test speaks through: a ring on each of its interfaces, or one UDP socket.

Each is opened in the namespace of its interface, many at a time: opening one ring, and closing it,
takes the kernel some hundredths of a second, most of which is waiting.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address

from fastpath import elsewhere
from fastpath.errors import SystemRefused, UserError
from fastpath.ring import Ring
from fastpath.udp import Udp
from tester.cells import SOCKET
from tester.config import MOST_TAGS, TestConfig

Port = Ring | Udp

_LOWEST_FREE_PORT = 1024
# Of a ring that is one of many; a turn handles as many frames.
_FEWEST_SLOTS = 64
# Sockets of a ring, and files besides rings.
_FILES_A_RING, _FILES_BESIDES = 2, 64


@contextlib.contextmanager
def opened(config: TestConfig) -> Iterator[list[Port]]:
    """One port, or one on each of where.interfaces. Raises SystemRefused, naming the interface."""
    where = config.where
    if not where.interfaces:
        open_port = _socket if where.mode == SOCKET else _ring
        namespace, _ = elsewhere.split(where.interface)
        with _named(where.interface):
            port = elsewhere.within(namespace, lambda: open_port(config, where.interface))
        with port:
            yield [port]
        return
    _allow_files(where.parts)
    rings = elsewhere.side_by_side(
        [(elsewhere.split(item)[0], partial(_one_of_many, config, item))
         for item in where.interfaces], lambda made: made[0].close())
    try:
        _check_distinct(where.interfaces, [place for _, place in rings])
        yield [ring for ring, _ in rings]
    finally:
        elsewhere.side_by_side([("", ring.close) for ring, _ in rings])


def slots_of(config: TestConfig) -> int:
    """Frames that each receive ring holds: of many, their part of what one alone would hold."""
    parts = config.where.parts
    if parts == 1:
        return config.ring_slots
    return max(1 << (config.ring_slots // parts or 1).bit_length() - 1, _FEWEST_SLOTS)


def _ring(config: TestConfig, item: str) -> Ring:
    where, (_, name) = config.where, elsewhere.split(item)
    ports = (where.client_port, where.server_port) if where.relays else (where.client_port,)
    return Ring(name, ports, slots=slots_of(config), promiscuous=True,
                queued=where.queued, neighbours=where.answers_arp or where.answers_ping,
                tags=MOST_TAGS, label=item)


def _one_of_many(config: TestConfig, item: str) -> tuple[Ring, tuple[int, int, int]]:
    """The ring on `item`, whose namespace the calling thread is in, and which interface it is."""
    with _named(item):
        ring = _ring(config, item)
        return ring, elsewhere.identity(ring.interface.index)


@contextlib.contextmanager
def _named(item: str) -> Iterator[None]:
    """Say of which interface an error is, where that is in another namespace."""
    try:
        yield
    except SystemRefused as error:
        if not elsewhere.split(item)[0]:
            raise
        raise SystemRefused(f"{item}: {error.what}", error.remedy) from None


def _check_distinct(items: tuple[str, ...], places: list[tuple[int, int, int]]) -> None:
    """Raise UserError where two items are one interface: a namespace has more names than one."""
    seen: dict[tuple[int, int, int], str] = {}
    for item, place in zip(items, places, strict=True):
        if place in seen:
            raise UserError(f"{seen[place]} and {item} are the same interface", "give each once")
        seen[place] = item


def _allow_files(rings: int) -> None:
    """Raise our own limit of open files as far as so many rings need it; or SystemRefused."""
    needed = rings * _FILES_A_RING + _FILES_BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemRefused(f"{rings:,} interfaces take {needed:,} open files, and {hard:,} are "
                            "allowed", f"raise that: ulimit -Hn {needed}, or prlimit --nofile")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def _socket(config: TestConfig, item: str) -> Udp:
    """A socket to speak from: the port of clients, or of relays, or where that is not for us any.
    """
    where, (_, name) = config.where, elsewhere.split(item)
    port = where.local_port or (where.server_port if where.relays else where.client_port)
    address: IPv4Address | None = where.local_address
    try:
        return Udp(address, port, interface=name, slots=config.ring_slots)
    except SystemRefused:
        if port >= _LOWEST_FREE_PORT or where.local_port is not None:
            raise
    opened = Udp(address, 0, interface=name, slots=config.ring_slots)
    print(f"dhcp-tester: port {port} is not for us; speaking from port {opened.port}: a server "
          f"that answers to port {port} will not be heard (sudo, or --local-port)",
          file=sys.stderr)
    return opened
