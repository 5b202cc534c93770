"""Who on the link takes what goes to a server: routes from the kernel, MACs by ARP (RFC 826).

The one thing to know: nothing here waits. `tick` asks when it is time to, `hear` takes what has
been answered, and kernels read what is known from the rows of `Tables.hops`. We ask ourselves,
with frames of our own, because the kernel's table of neighbours can be made to ask only by who
may change it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

from fastpath import bpf, wire
from fastpath.build import BROADCAST_MAC
from fastpath.errors import SystemRefused
from fastpath.interface import Interface
from relay.arrays import H_MAC, H_PORT, H_SOURCE, UNKNOWN, Int64s
from relay.places import Place
from relay.routes import Route, Routes

_SOL_PACKET, _IGNORE_OUTGOING = 263, 23
_ETH_P_ALL, _ETH_P_ARP = 0x0003, 0x0806
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_FORM = (wire.HTYPE_ETHERNET, wire.ETH_P_IP, 6, 4)
_ASKS, _ANSWERS = 1, 2
_EVERYBODY = IPv4Address(0xFFFFFFFF)
_NOBODY = IPv4Address(0)

# A route is looked up anew so often; a known MAC is asked for again so long after it was heard.
ROUTE_S, REFRESH_S = 2.0, 30.0
# Between two questions, the first few and all others; and how many without an answer it takes
# to forget what was known.
FIRST_S, AGAIN_S, FEW, MOST_ASKED = 0.1, 1.0, 5, 3
_MOST_HEARD = 64


@dataclass(slots=True)
class Neighbour:
    """Somebody on a link. mac: 48 bits, or UNKNOWN. asked: questions since the last answer."""

    place: Place
    address: IPv4Address
    mac: int = UNKNOWN
    asked: int = 0
    ask_s: float = 0.0


@dataclass(slots=True)
class _Way:
    """How a server is reached now; port None: not at all."""

    port: int | None = None
    neighbour: Neighbour | None = None
    source: IPv4Address = _NOBODY


class NextHops:
    """Keeps the rows of `hops` (one a server) right; a context manager.

    places: all interfaces of the relay, by number of their port. changed: lines to log, what
    became known or was lost since they were taken. Raises SystemRefused as sockets do.
    """

    def __init__(self, servers: Sequence[IPv4Address], places: Sequence[Place], hops: Int64s,
                 routes: Routes) -> None:
        self._servers, self._places, self._hops, self._routes = servers, places, hops, routes
        self._ways = [_Way() for _ in servers]
        self._neighbours: dict[tuple[int, IPv4Address], Neighbour] = {}
        self._route_s = 0.0
        self._sockets: dict[int, socket.socket] = {}
        self.changed: list[str] = []
        try:
            for place in places:
                if place.up:
                    self._sockets[place.interface.index] = _listen(place.interface)
        except BaseException:
            self.close()
            raise

    @property
    def sockets(self) -> list[socket.socket]:
        """Readable when ARP was heard."""
        return list(self._sockets.values())

    @property
    def complete(self) -> bool:
        """Whether the way to every server is known."""
        return bool((self._hops[:, H_MAC] != UNKNOWN).all())

    @property
    def due_s(self) -> float:
        """When `tick` has something to do again, on the clock of its `now_s`."""
        return min([self._route_s, *(each.ask_s for each in self._neighbours.values())])

    def tick(self, now_s: float) -> None:
        """Look at routes and ask where it is time to; now_s: of a monotonic clock."""
        if now_s >= self._route_s:
            self._route_s = now_s + ROUTE_S
            self._ways = [self._find(server) for server in self._servers]
            used = {id(way.neighbour) for way in self._ways}
            self._neighbours = {key: each for key, each in self._neighbours.items()
                                if id(each) in used}
        for neighbour in self._neighbours.values():
            if now_s >= neighbour.ask_s:
                self._ask(neighbour, now_s)
        self._publish()

    def hear(self, now_s: float) -> None:
        """Take in what was heard on all links; never waits."""
        for index, sock in self._sockets.items():
            for _ in range(_MOST_HEARD):
                try:
                    frame = sock.recv(256)
                except OSError:
                    # Nothing more, or the link is gone: the ring of that interface says so.
                    break
                self._take(index, frame, now_s)
        self._publish()

    def _find(self, server: IPv4Address) -> _Way:
        """The way to a server as the routes are now."""
        ups = {place.interface.index: port for port, place in enumerate(self._places)
               if place.up}
        route = None if server == _EVERYBODY else self._routes.find(server)
        if route is None or route.index not in ups:
            # Named uplinks count more than what the kernel would do.
            index, route = next(((index, found) for index in ups
                                 if (found := self._routes.find(server, index))),
                                (next(iter(ups)), None))
        else:
            index = route.index
        return self._way(server, route or Route(index), ups[index])

    def _way(self, server: IPv4Address, route: Route, port: int) -> _Way:
        place = self._places[port]
        own = {each.ip for each in place.interface.addresses}
        source = route.source if route.source in own else place.address
        if source is None:
            # An uplink without an address: as the first of our downlinks.
            source = next((each.giaddr for each in self._places if each.giaddr), _NOBODY)
        casts = {each.network.broadcast_address for each in place.interface.addresses}
        if server == _EVERYBODY or route.broadcast or server in casts:
            return _Way(port, None, source)
        key = place.interface.index, route.gateway or server
        neighbour = self._neighbours.setdefault(key, Neighbour(place, key[1]))
        return _Way(port, neighbour, source)

    def _ask(self, neighbour: Neighbour, now_s: float) -> None:
        if neighbour.mac != UNKNOWN and neighbour.asked >= MOST_ASKED:
            self.changed.append(f"{neighbour.address} on {neighbour.place.interface.name} "
                                "does not answer ARP any more")
            neighbour.mac = UNKNOWN
        neighbour.asked += 1
        neighbour.ask_s = now_s + (FIRST_S if neighbour.mac == UNKNOWN and neighbour.asked <= FEW
                                   else AGAIN_S)
        interface = neighbour.place.interface
        source = neighbour.place.address or _NOBODY
        frame = b"\xff" * 6 + interface.mac + _ETH_P_ARP.to_bytes(2, "big") + _ARP.pack(
            *_FORM, _ASKS, interface.mac, source.packed, bytes(6), neighbour.address.packed)
        with contextlib.suppress(OSError):
            self._sockets[interface.index].send(frame)

    def _take(self, index: int, frame: bytes, now_s: float) -> None:
        """Learn from one frame: whoever says where he is (RFC 826, "merge")."""
        if len(frame) < wire.ETH_HEADER + _ARP.size or frame[12:14] != b"\x08\x06":
            return
        *form, op, mac, sender, _, _ = _ARP.unpack_from(frame, wire.ETH_HEADER)
        neighbour = self._neighbours.get((index, IPv4Address(sender)))
        # A group address is nobody's (RFC 1812 section 3.3.2).
        if (neighbour is None or tuple(form) != _FORM or op not in (_ASKS, _ANSWERS)
                or mac[0] & 1 or not any(mac)):
            return
        number = int.from_bytes(mac, "big")
        if number != neighbour.mac:
            was = "is" if neighbour.mac == UNKNOWN else "is now"
            self.changed.append(f"{neighbour.address} on {neighbour.place.interface.name} {was} "
                                f"{mac.hex(':')}")
        neighbour.mac, neighbour.asked, neighbour.ask_s = number, 0, now_s + REFRESH_S

    def _publish(self) -> None:
        for row, way in zip(self._hops, self._ways, strict=True):
            row[H_PORT] = UNKNOWN if way.port is None else way.port
            row[H_MAC] = UNKNOWN if way.port is None else \
                BROADCAST_MAC if way.neighbour is None else way.neighbour.mac
            row[H_SOURCE] = int(way.source)

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _listen(interface: Interface) -> socket.socket:
    """A packet socket that hears ARP on an interface, and never waits."""
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise SystemRefused("cannot open a packet socket: operation not permitted",
                            "run with sudo (CAP_NET_RAW)") from None
    sock.setblocking(False)
    bpf.attach(sock, bpf.dhcp_filter((), neighbours=True, tags=0))
    sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
    sock.bind((interface.name, _ETH_P_ALL))
    return sock
