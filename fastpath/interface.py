"""A network interface of the current namespace: what a ring has to know before it opens."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import ipaddress
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from fastpath.errors import SystemRefused, UserError

# linux/sockios.h, linux/if.h, linux/if_arp.h
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFMTU = 0x8913, 0x8927, 0x8921
_IFF_UP = 0x1
# linux/sockios.h, linux/ethtool.h: struct ethtool_drvinfo begins with cmd and driver[32].
_SIOCETHTOOL, _ETHTOOL_GDRVINFO, _DRVINFO_OCTETS = 0x8946, 3, 196
_ETHERNET_LIKE = {1: "Ethernet", 772: "loopback"}
# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_SOL_NETLINK, _GET_STRICT_CHK = 270, 12
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
# struct nlmsghdr: length, type, flags, sequence, port; struct ifaddrmsg: family, prefix length,
# flags, scope, index; struct rtattr: length, type.
_HEADER, _ADDRESS = struct.Struct("=IHHII"), struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")


@dataclass(frozen=True, slots=True)
class Interface:
    """A named interface; `mac` is 6 octets, `addresses` its IPv4 addresses with prefixes."""

    name: str
    index: int
    mac: bytes
    mtu: int
    addresses: tuple[ipaddress.IPv4Interface, ...]


def _names() -> str:
    return ", ".join(sorted(name for _, name in socket.if_nameindex())) or "none"


def find(name: str) -> Interface:
    """The interface `name`; raises SystemRefused when it is missing, down or not Ethernet."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        raise SystemRefused(f"no interface {name!r} in this network namespace",
                            f"there is: {_names()}") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:

        def ask(request: int) -> bytes:
            return fcntl.ioctl(probe, request, struct.pack("16s24x", name.encode()))[16:]

        flags = struct.unpack_from("=h", ask(_SIOCGIFFLAGS))[0]
        hardware, mac = struct.unpack_from("=H6s", ask(_SIOCGIFHWADDR))
        mtu = struct.unpack_from("=i", ask(_SIOCGIFMTU))[0]
    if not flags & _IFF_UP:
        raise SystemRefused(f"interface {name!r} is down", f"ip link set {name} up")
    if hardware not in _ETHERNET_LIKE:
        raise SystemRefused(f"interface {name!r} is not Ethernet (ARP type {hardware})",
                            "DHCP rings need an Ethernet, veth, bridge or VLAN interface")
    return Interface(name, index, mac, mtu, _addresses(name))


def _addresses(name: str) -> tuple[ipaddress.IPv4Interface, ...]:
    """Its addresses with prefixes, in the namespace of the calling thread (rtnetlink(7)).

    Only this one's are asked for: of a machine with thousands of interfaces each opens a ring.
    """
    index = socket.if_nametoindex(name)
    found: list[ipaddress.IPv4Interface] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
        with contextlib.suppress(OSError):
            # A kernel before 4.20 tells all of them.
            sock.setsockopt(_SOL_NETLINK, _GET_STRICT_CHK, 1)
        sock.send(_HEADER.pack(_HEADER.size + _ADDRESS.size, _RTM_GETADDR, _REQUEST_DUMP, 1, 0)
                  + _ADDRESS.pack(socket.AF_INET, 0, 0, 0, index))
        while True:
            data = sock.recv(1 << 16)
            at = 0
            while at + _HEADER.size <= len(data):
                size, kind, _, _, _ = _HEADER.unpack_from(data, at)
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return tuple(found)
                if kind == _RTM_NEWADDR:
                    found += _address(data[at + _HEADER.size:at + size], index)
                at += max(size + 3 & ~3, _HEADER.size)


def _address(message: bytes, index: int) -> Iterator[ipaddress.IPv4Interface]:
    """The address in an RTM_NEWADDR, where it is one of interface `index`."""
    family, prefix, _, _, whose = _ADDRESS.unpack_from(message)
    values: dict[int, bytes] = {}
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        values[kind] = message[at + _ATTRIBUTE.size:at + size]
        at += max(size + 3 & ~3, _ATTRIBUTE.size)
    # Of a link with a peer, IFA_ADDRESS is the peer's.
    own = values.get(_IFA_LOCAL) or values.get(_IFA_ADDRESS)
    if (family, whose) == (socket.AF_INET, index) and own:
        yield ipaddress.IPv4Interface((own, prefix))


def choose(address: ipaddress.IPv4Address | None) -> str:
    """The name of the interface meant by a user who named none.

    address: one of its addresses, or None (or 0.0.0.0) where that is not known either: then
    the only interface besides loopback. Raises UserError when several could be meant.
    """
    import psutil

    state = psutil.net_if_stats()
    names = [name for _, name in socket.if_nameindex() if name in state and state[name].isup]
    if address:
        having = [name for name in names if address in {e.ip for e in _addresses(name)}]
        if having:
            return having[0]
        raise UserError(f"no interface has the address {address}", "name one with --interface")
    real = [name for name in names if name != "lo"]
    if len(real) == 1:
        return real[0]
    raise UserError("which interface?", f"name one with --interface: {', '.join(real) or 'lo'}")


def driver(name: str) -> str:
    """The driver of an interface: "veth", "bridge", "e1000" ...; "" where it has none.

    Source: linux/ethtool.h, ETHTOOL_GDRVINFO.
    """
    answer = ctypes.create_string_buffer(struct.pack("=I", _ETHTOOL_GDRVINFO), _DRVINFO_OCTETS)
    request = struct.pack("16sP16x", name.encode(), ctypes.addressof(answer))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            fcntl.ioctl(probe, _SIOCETHTOOL, request)
        except OSError:
            return ""
    return answer.raw[4:36].split(b"\0")[0].decode()
