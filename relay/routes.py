"""Which way the kernel would send to an address: one question over rtnetlink, no privilege.

Sources: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Self

_NEW_ROUTE, _GET_ROUTE = 24, 26
_REQUEST = 1
_DST, _OIF, _GATEWAY, _PREFSRC = 1, 4, 5, 7
_UNICAST, _LOCAL, _BROADCAST, _MULTICAST = 1, 2, 3, 5
_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """The next step towards an address. index: of the interface. gateway: None on its own link.

    source: what the kernel would send from, or None. local: the address is this machine's.
    broadcast: it is everybody's on that link.
    """

    index: int
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    local: bool = False
    broadcast: bool = False


class Routes:
    """Asks the kernel of the namespace that it was opened in; a context manager."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                                     socket.NETLINK_ROUTE)
        self._socket.settimeout(_TIMEOUT_S)
        self._number = 0

    def find(self, address: IPv4Address, index: int = 0) -> Route | None:
        """The route to `address`, through interface `index` if one is given; None for none."""
        body = _ROUTE.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
        body += _ATTRIBUTE.pack(8, _DST) + address.packed
        if index:
            body += _ATTRIBUTE.pack(8, _OIF) + struct.pack("=i", index)
        self._number += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), _GET_ROUTE, _REQUEST,
                                       self._number, 0) + body)
        while True:
            try:
                answer = self._socket.recv(8192)
            except OSError:
                return None
            size, kind, _, number, _ = _HEADER.unpack_from(answer)
            if number == self._number:
                return _parse(answer[_HEADER.size:size]) if kind == _NEW_ROUTE else None

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _parse(body: bytes) -> Route | None:
    kind = _ROUTE.unpack_from(body)[7]
    found: dict[int, bytes] = {}
    at = _ROUTE.size
    while at + _ATTRIBUTE.size <= len(body):
        size, code = _ATTRIBUTE.unpack_from(body, at)
        if size < _ATTRIBUTE.size:
            break
        found[code] = body[at + _ATTRIBUTE.size:at + size]
        at += size + 3 & ~3
    if kind not in (_UNICAST, _LOCAL, _BROADCAST, _MULTICAST) or _OIF not in found:
        return None
    gateway, source = found.get(_GATEWAY), found.get(_PREFSRC)
    return Route(struct.unpack("=i", found[_OIF])[0], IPv4Address(gateway) if gateway else None,
                 IPv4Address(source) if source else None, kind == _LOCAL, kind == _BROADCAST)
