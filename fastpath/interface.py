"""A network interface of the current namespace: what a ring has to know before it opens."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from dataclasses import dataclass

from fastpath.errors import SystemRefused, UserError

# linux/sockios.h, linux/if.h, linux/if_arp.h
_SIOCGIFFLAGS, _SIOCGIFHWADDR, _SIOCGIFMTU = 0x8913, 0x8927, 0x8921
_IFF_UP = 0x1
_ETHERNET_LIKE = {1: "Ethernet", 772: "loopback"}


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
    import psutil

    return tuple(ipaddress.IPv4Interface(f"{entry.address}/{entry.netmask or 32}")
                 for entry in psutil.net_if_addrs().get(name, [])
                 if entry.family == socket.AF_INET)


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
