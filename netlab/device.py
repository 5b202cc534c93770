"""An interface of the machine: all that is lost when it moves to another network namespace.

The kernel takes away addresses and routes and brings it down. They are kept as the kernel
told them, octet for octet, and given back the same way, as `ip route save` and `restore` do:
what is not understood here is not lost here. Sources: rtnetlink(7), linux/rtnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from netlab.messages import DUMP, NEWLINK, REQUEST, LinkState, Message, attributes, read_link

_EXCL, _REPLACE, _CREATE = 0x200, 0x100, 0x400
_DELLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 17, 18, 20, 22, 24, 26
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ADDRESS = struct.Struct("=BBBBI")  # struct ifaddrmsg
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_HOP = struct.Struct("=HBBi")  # struct rtnexthop: length, flags, weight, interface
_ATTRIBUTE, _U32 = struct.Struct("=HH"), struct.Struct("=I")
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_NET_NS_FD, _IFLA_LINK_NETNSID = 18, 20, 28, 37
_INFO_KIND, _INFO_DATA, _MACVLAN_MODE, _MACVLAN_MODE_BRIDGE = 1, 2, 1, 4
_IFF_UP, _IFF_LOOPBACK = 0x1, 0x8
_RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_VIA = 4, 5, 9, 18
_IFA_FLAGS, _IFA_F_TEMPORARY = 8, 0x01
# Routes that come by themselves with an address, by an ICMP redirect, by an advertisement.
_OF_THEMSELVES = frozenset({1, 2, 9})  # RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA
# Of the flags of a route or next hop, what a user may set; the kernel refuses others.
_RTNH_F_PERVASIVE, _RTNH_F_ONLINK = 2, 4
_OURS_TO_SET = _RTNH_F_PERVASIVE | _RTNH_F_ONLINK
_RT_TABLE_MAIN = 254
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Talk(Protocol):
    """What is needed of an `Rtnl`."""

    def change(self, *changes: Message) -> None: ...


@dataclass(frozen=True, slots=True)
class Device:
    """An interface now. master: the index of its bridge or bond, 0 when it has none.

    under: the index of the interface it stands on (a VLAN's, a macvlan's), 0 when none here.
    """

    state: LinkState
    loopback: bool
    master: int
    under: int


@dataclass(frozen=True, slots=True)
class Before:
    """What an interface was. addresses, routes: messages of the kernel's, in hexadecimal."""

    ifname: str
    index: int
    mac: str
    mtu: int
    up: bool
    alias: str
    addresses: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()


def read_device(body: bytes) -> Device:
    """What an RTM_NEWLINK says."""
    _, _, _, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body, _LINK.size))
    state = read_link(body)
    # The other end of a veth is not below it; what is elsewhere cannot be a bar here.
    stands = (_IFLA_LINK in found and _IFLA_LINK_NETNSID not in found and state.kind != "veth")
    under = _number(found[_IFLA_LINK]) if stands else 0
    return Device(state, bool(flags & _IFF_LOOPBACK), _number(found.get(_IFLA_MASTER, bytes(4))),
                  0 if under == state.index else under)


def get_devices() -> Message:
    """Ask for every interface; `read_device` reads the answers."""
    return Message(_GETLINK, REQUEST | DUMP, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def get_addresses() -> Message:
    """Ask for every address, of every family."""
    return Message(_GETADDR, REQUEST | DUMP, _ADDRESS.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def get_routes() -> Message:
    """Ask for every route, of every family and table."""
    return Message(_GETROUTE, REQUEST | DUMP, _ROUTE.pack(socket.AF_UNSPEC, *bytes(8)))


def before(device: Device, addresses: list[bytes], routes: list[bytes]) -> Before:
    """What is to be kept of `device`, out of all addresses and routes of its namespace."""
    state = device.state
    return Before(
        state.ifname, state.index, state.mac, state.mtu, state.up, state.alias,
        tuple(body.hex() for body in addresses
              if body[0] in _FAMILIES and _ADDRESS.unpack_from(body)[4] == state.index
              and not _temporary(body)),
        tuple(body.hex() for body in routes
              if body[0] in _FAMILIES and state.index in _leads_over(body)
              and _ROUTE.unpack_from(body)[5] not in _OF_THEMSELVES))


def carries_default(device: Device, routes: Iterable[bytes]) -> bool:
    """Whether a default route of the machine leads over `device`."""
    return any(_ROUTE.unpack_from(body)[1] == 0 and _ROUTE.unpack_from(body)[4] == _RT_TABLE_MAIN
               and device.state.index in _leads_over(body) for body in routes)


def set_alias(index: int, alias: str) -> Message:
    """Name the interface's owner; an empty one takes the name away."""
    return _set(index, _attribute(_IFLA_IFALIAS, alias.encode()))


def move(index: int, namespace: int, name_if_taken: str) -> Message:
    """Move an interface into the namespace behind that descriptor.

    It keeps its name where that is free, else it gets the other one (a `%d` in it becomes a
    number); the kernel's EEXIST when that is taken too.
    """
    return _set(index, _attribute(_IFLA_NET_NS_FD, _U32.pack(namespace))
                + _text(_IFLA_IFNAME, name_if_taken))


def settle(index: int, ifname: str = "", *, up: bool, mtu: int = 0, mac: str = "") -> Message:
    """Give an interface another name, MTU or MAC; then bring it up if it is to be.

    For a name or a MAC it has to be down: before Linux 6.2 one that is up is refused (EBUSY) even
    the name that it has (dev_change_name, net/core/dev.c).
    """
    body = _text(_IFLA_IFNAME, ifname) if ifname else b""
    if mtu:
        body += _attribute(_IFLA_MTU, _U32.pack(mtu))
    if mac:
        body += _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    return _set(index, body, up)


def bring_down(index: int) -> Message:
    """Take an interface down."""
    return _set(index, b"", up=False)


def new_macvlan(ifname: str, parent: int, namespace: int) -> Message:
    """A second interface on the wire of `parent`, with a MAC of its own, born elsewhere.

    Its name has to be free here and there: before Linux 6.15 it is looked for where the parent is
    (rtnl_newlink, net/core/rtnetlink.c).
    """
    data = _attribute(_MACVLAN_MODE, _U32.pack(_MACVLAN_MODE_BRIDGE))
    info = _text(_INFO_KIND, "macvlan") + _attribute(_INFO_DATA, data)
    return Message(NEWLINK, REQUEST | _CREATE | _EXCL, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
                   + _text(_IFLA_IFNAME, ifname) + _attribute(_IFLA_LINK, _U32.pack(parent))
                   + _attribute(_IFLA_NET_NS_FD, _U32.pack(namespace))
                   + _attribute(_IFLA_LINKINFO, info))


def delete(index: int) -> Message:
    """End an interface that somebody made."""
    return Message(_DELLINK, REQUEST, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0))


def give_back(rtnl: Talk, index: int, was: Before) -> list[str]:
    """Addresses and routes as they were; what the kernel would not take, in words.

    Those that are there already are left alone, so it may be done again.
    """
    wrong = []
    for text in was.addresses:
        wrong += _try(rtnl, f"an address of {was.ifname}", _address(bytes.fromhex(text), index))
    # A gateway has to be reachable first.
    for body in sorted(map(bytes.fromhex, was.routes), key=_has_gateway):
        wrong += _try(rtnl, f"a route over {was.ifname}", _route(body, was.index, index))
    return wrong


def _try(rtnl: Talk, what: str, message: Message) -> list[str]:
    try:
        rtnl.change(message)
    except OSError as error:
        if error.errno != errno.EEXIST:
            return [f"{what} could not be given back: {(error.strerror or '').lower()}"]
    return []


def _set(index: int, body: bytes, up: bool | None = None) -> Message:
    flags, change = (0, 0) if up is None else (up * _IFF_UP, _IFF_UP)
    return Message(NEWLINK, REQUEST, _LINK.pack(socket.AF_UNSPEC, 0, index, flags, change) + body)


def _address(body: bytes, index: int) -> Message:
    family, prefix, flags, scope, _ = _ADDRESS.unpack_from(body)
    return Message(_NEWADDR, REQUEST | _CREATE | _EXCL,
                   _ADDRESS.pack(family, prefix, flags, scope, index) + body[_ADDRESS.size:])


def _route(body: bytes, old_index: int, index: int) -> Message:
    *fixed, flags = _ROUTE.unpack_from(body)
    packed, several = b"", False
    for kind, payload in attributes(body, _ROUTE.size):
        if kind == _RTA_OIF:
            payload = _U32.pack(index)
        elif kind == _RTA_MULTIPATH:
            # With the interface only its own next hop went: the rest of the route is there.
            payload, several = _hops(payload, old_index, index), True
        packed += _attribute(kind, payload)
    return Message(_NEWROUTE, REQUEST | _CREATE | (_REPLACE if several else _EXCL),
                   _ROUTE.pack(*fixed, flags & _OURS_TO_SET) + packed)


def _hops(payload: bytes, old_index: int, index: int) -> bytes:
    """Next hops with the flags that one may set, over the interface by its new index."""
    changed, at = bytearray(payload), 0
    while at + _HOP.size <= len(payload):
        size, flags, weight, interface = _HOP.unpack_from(payload, at)
        if size < _HOP.size:
            break
        _HOP.pack_into(changed, at, size, flags & _OURS_TO_SET, weight,
                       index if interface == old_index else interface)
        at += size + 3 & ~3
    return bytes(changed)


def _has_gateway(body: bytes) -> bool:
    return any(kind in (_RTA_GATEWAY, _RTA_VIA, _RTA_MULTIPATH)
               for kind, _ in attributes(body, _ROUTE.size))


def _leads_over(body: bytes) -> set[int]:
    """The indices of the interfaces that a route leads over."""
    found = dict(attributes(body, _ROUTE.size))
    over = {_number(found[_RTA_OIF])} if _RTA_OIF in found else set()
    hops, at = found.get(_RTA_MULTIPATH, b""), 0
    while at + _HOP.size <= len(hops):
        size, _, _, interface = _HOP.unpack_from(hops, at)
        over.add(interface)
        at += max(size, _HOP.size) + 3 & ~3
    return over


def _temporary(body: bytes) -> bool:
    """Whether the kernel makes such an address by itself, and takes none from a user."""
    flags = dict(attributes(body, _ADDRESS.size)).get(_IFA_FLAGS)
    return bool(flags and body[0] == socket.AF_INET6 and _number(flags) & _IFA_F_TEMPORARY)


def _number(payload: bytes) -> int:
    number: int = _U32.unpack_from(payload)[0]
    return number


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")
