"""rtnetlink messages as octets: what a lab asks of the kernel, and what it reads in answers.

A large lab sends and reads thousands of them, so they are packed here and not by a library
that makes an object of each attribute. Whoever makes an interface says which index it gets:
nobody has to ask for it afterwards. Sources: linux/rtnetlink.h, if_link.h, if_addr.h, if_bridge.h.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

REQUEST, MULTI, ACK, DUMP, DUMP_INTERRUPTED = 0x1, 0x2, 0x4, 0x300, 0x10
_EXCL, _CREATE = 0x200, 0x400
NEWLINK, _GETLINK, _NEWADDR, _GETADDR, _NEWROUTE, _GETROUTE = 16, 18, 20, 22, 24, 26

# struct nlmsghdr: length, type, flags, sequence, port.
HEADER = struct.Struct("=IHHII")
# struct ifinfomsg: family, type, index, flags, mask of flags to change.
_LINK = struct.Struct("=BxHiII")
# struct ifaddrmsg: family, prefix length, flags, scope, index.
_ADDRESS = struct.Struct("=BBBBI")
# struct rtmsg: family, destination and source length, TOS, table, protocol, scope, type, flags.
_ROUTE = struct.Struct("=8BI")
# struct rtattr: length, type.
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_OPERSTATE = 1, 3, 4, 10, 16
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_STATS64, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 18, 20, 23, 28, 29
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_KIND, _INFO_SLAVE_DATA = 1, 2, 4, 5
_VETH_INFO_PEER = 1
_BR_FORWARD_DELAY, _BR_STP_STATE, _BR_MCAST_SNOOPING = 1, 5, 23
_BRPORT_STATE, _BRPORT_LEARNING = 1, 8
_BR_STATE_FORWARDING = 3
_SKIP_STATS = 1 << 3  # RTEXT_FILTER_SKIP_STATS
_NESTED = 0x8000  # NLA_F_NESTED, set by some kernels in what they tell
_IFF_UP = 1
_OPERSTATES = ("UNKNOWN", "NOTPRESENT", "DOWN", "LOWERLAYERDOWN", "TESTING", "DORMANT", "UP")
# struct rtnl_link_stats64: the fields we show, by their place among its 64-bit numbers.
_STATS = {"rx_packets": 0, "tx_packets": 1, "rx_bytes": 2, "tx_bytes": 3, "rx_dropped": 6,
          "tx_dropped": 7}
_STATS64 = struct.Struct("=8Q")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST = 1, 2, 4
_RTA_DST, _RTA_GATEWAY, _RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 1, 5, 254, 4, 1


class Message(NamedTuple):
    """A request without its sequence number, which the socket that sends it gives it."""

    kind: int
    flags: int
    body: bytes

    def pack(self, sequence: int, more_flags: int = 0) -> bytes:
        """The octets of it, a multiple of four."""
        return HEADER.pack(HEADER.size + len(self.body), self.kind, self.flags | more_flags,
                           sequence, 0) + self.body


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as the kernel describes it. port_state is None unless a bridge has it.

    counters: empty where they were not asked for.
    """

    index: int
    ifname: str
    kind: str
    up: bool
    operstate: str
    mac: str
    mtu: int
    alias: str
    port_state: int | None
    counters: dict[str, int]

    @property
    def carries(self) -> bool:
        """Whether a frame sent now would pass."""
        return (self.up and self.operstate == "UP"
                and self.port_state in (None, _BR_STATE_FORWARDING))


def _attribute(kind: int, payload: bytes) -> bytes:
    size = _ATTRIBUTE.size + len(payload)
    return _ATTRIBUTE.pack(size, kind) + payload + bytes(-size % 4)


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _u32(kind: int, number: int) -> bytes:
    return _attribute(kind, _U32.pack(number))


def _new_link(kind: str, index: int, data: bytes, attributes: bytes, up: bool) -> Message:
    info = _text(_INFO_KIND, kind) + _attribute(_INFO_DATA, data)
    return Message(NEWLINK, REQUEST | _CREATE | _EXCL,
                   _LINK.pack(socket.AF_UNSPEC, 0, index, up * _IFF_UP, up * _IFF_UP) + attributes
                   + _attribute(_IFLA_LINKINFO, info))


def new_bridge(ifname: str, index: int, mtu: int) -> Message:
    """A bridge that is up and adds nothing of its own to the wire: no STP, no snooping."""
    quiet = (_u32(_BR_STP_STATE, 0) + _u32(_BR_FORWARD_DELAY, 0)
             + _attribute(_BR_MCAST_SNOOPING, bytes(1)))
    return _new_link("bridge", index, quiet, _text(_IFLA_IFNAME, ifname) + _u32(_IFLA_MTU, mtu),
                     up=True)


def new_veth(ifname: str, index: int, peer: str, peer_index: int, peer_namespace: int, mtu: int,
             bridge: int = 0) -> Message:
    """A veth pair: `ifname` here and `peer` in the namespace behind that descriptor.

    bridge: index of the bridge that `ifname` joins, and then it is up; 0 is none. The peer is
    down at first: the kernel would open it before the two know of each other
    (drivers/net/veth.c).
    """
    other = (_LINK.pack(socket.AF_UNSPEC, 0, peer_index, 0, 0) + _text(_IFLA_IFNAME, peer)
             + _u32(_IFLA_MTU, mtu) + _u32(_IFLA_NET_NS_FD, peer_namespace))
    attributes = _text(_IFLA_IFNAME, ifname) + _u32(_IFLA_MTU, mtu)
    if bridge:
        attributes += _u32(_IFLA_MASTER, bridge)
    return _new_link("veth", index, _attribute(_VETH_INFO_PEER, other), attributes,
                     up=bool(bridge))


def set_link(index: int, *, up: bool = False, alias: str = "", learning: bool | None = None,
             bridge: int = 0) -> Message:
    """Bring the interface with that index up, name its owner, set whether its bridge learns from
    it, or which bridge it is in."""
    body = _LINK.pack(socket.AF_UNSPEC, 0, index, up * _IFF_UP, up * _IFF_UP)
    if alias:
        body += _text(_IFLA_IFALIAS, alias)
    if bridge:
        body += _u32(_IFLA_MASTER, bridge)
    if learning is not None:
        port = _attribute(_BRPORT_LEARNING, bytes([learning]))
        body += _attribute(_IFLA_LINKINFO, _text(_INFO_SLAVE_KIND, "bridge")
                           + _attribute(_INFO_SLAVE_DATA, port))
    return Message(NEWLINK, REQUEST, body)


def new_address(index: int, address: ipaddress.IPv4Interface) -> Message:
    """`address` on the interface with that index."""
    own = address.ip.packed
    return Message(_NEWADDR, REQUEST | _CREATE | _EXCL,
                   _ADDRESS.pack(socket.AF_INET, address.network.prefixlen, 0, 0, index)
                   + _attribute(_IFA_LOCAL, own) + _attribute(_IFA_ADDRESS, own)
                   + _attribute(_IFA_BROADCAST, address.network.broadcast_address.packed))


def new_route(network: ipaddress.IPv4Network, via: ipaddress.IPv4Address) -> Message:
    """A route in the main table."""
    body = _ROUTE.pack(socket.AF_INET, network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, 0,
                       _RTN_UNICAST, 0) + _attribute(_RTA_GATEWAY, via.packed)
    if network.prefixlen:
        body += _attribute(_RTA_DST, network.network_address.packed)
    return Message(_NEWROUTE, REQUEST | _CREATE | _EXCL, body)


def get_links(counters: bool) -> Message:
    """All interfaces; their counters cost the kernel more than the rest."""
    wanted = b"" if counters else _u32(_IFLA_EXT_MASK, _SKIP_STATS)
    return Message(_GETLINK, REQUEST | DUMP, _LINK.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + wanted)


def get_link(index: int) -> Message:
    """One interface, without counters."""
    return Message(_GETLINK, REQUEST, _LINK.pack(socket.AF_UNSPEC, 0, index, 0, 0)
                   + _u32(_IFLA_EXT_MASK, _SKIP_STATS))


def get_addresses() -> Message:
    """All IPv4 addresses."""
    return Message(_GETADDR, REQUEST | DUMP, _ADDRESS.pack(socket.AF_INET, 0, 0, 0, 0))


def get_routes() -> Message:
    """All IPv4 routes."""
    return Message(_GETROUTE, REQUEST | DUMP, _ROUTE.pack(socket.AF_INET, *bytes(8)))


def attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each attribute from `at` on; ends at one that cannot be."""
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size:
            return
        yield kind & ~_NESTED, data[at + _ATTRIBUTE.size:at + size]
        at += size + 3 & ~3


def _string(payload: bytes) -> str:
    return payload.rstrip(b"\0").decode(errors="replace")


def read_link(body: bytes) -> LinkState:
    """What an RTM_NEWLINK says; `body` is what follows its header."""
    _, _, index, flags, _ = _LINK.unpack_from(body)
    found = dict(attributes(body, _LINK.size))
    info = dict(attributes(found.get(_IFLA_LINKINFO, b""), 0))
    port = None
    if _string(info.get(_INFO_SLAVE_KIND, b"")) == "bridge":
        state = dict(attributes(info.get(_INFO_SLAVE_DATA, b""), 0)).get(_BRPORT_STATE)
        port = state[0] if state else None
    operstate = found.get(_IFLA_OPERSTATE, b"\0")[0]
    numbers = (_STATS64.unpack_from(found[_IFLA_STATS64]) if _IFLA_STATS64 in found else None)
    return LinkState(
        index=index, ifname=_string(found[_IFLA_IFNAME]),
        kind=_string(info.get(_INFO_KIND, b"")), up=bool(flags & _IFF_UP),
        operstate=_OPERSTATES[operstate] if operstate < len(_OPERSTATES) else "UNKNOWN",
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"), mtu=_U32.unpack(found[_IFLA_MTU])[0],
        alias=_string(found.get(_IFLA_IFALIAS, b"")), port_state=port,
        counters={name: numbers[at] for name, at in _STATS.items()} if numbers else {})


def read_address(body: bytes) -> tuple[int, ipaddress.IPv4Interface]:
    """What an RTM_NEWADDR says: (index, address)."""
    _, prefix, _, _, index = _ADDRESS.unpack_from(body)
    found = dict(attributes(body, _ADDRESS.size))
    # Of a link with a peer, IFA_ADDRESS is the peer's.
    own = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return index, ipaddress.IPv4Interface((own, prefix))


def read_route(body: bytes) -> tuple[ipaddress.IPv4Network, ipaddress.IPv4Address] | None:
    """What an RTM_NEWROUTE says: (network, gateway); None where it is not one of `new_route`."""
    _, prefix, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(body)
    found = dict(attributes(body, _ROUTE.size))
    if (table, kind) != (_RT_TABLE_MAIN, _RTN_UNICAST) or _RTA_GATEWAY not in found:
        return None
    network = ipaddress.IPv4Network((found.get(_RTA_DST, bytes(4)), prefix))
    return network, ipaddress.IPv4Address(found[_RTA_GATEWAY])
