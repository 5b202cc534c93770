"""What sockets a program has open in its node, and what the kernel dropped at them.

The one thing to know: /proc/PID/net shows the whole namespace. What belongs to the program is
told by the inodes under /proc/PID/fd, its own and those of the processes it started.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fastpath import elsewhere
from fastpath.errors import NetlabError
from netlab.messages import DUMP, HEADER, REQUEST, Message, attributes

DHCP_SERVER_PORT = 67

# Columns of /proc/net/udp (net/ipv4/udp.c) and of /proc/net/packet (net/packet/af_packet.c).
_UDP_LOCAL, _UDP_INODE, _UDP_DROPS = 1, 9, 12
_PACKET_INODE = 8

# linux/netlink.h, linux/sock_diag.h, linux/packet_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY, _NLMSG_ERROR, _NLMSG_DONE = 20, 2, 3
_PACKET_SHOW_MEMINFO = 0x10
_PACKET_DIAG_MEMINFO = 6
_SK_MEMINFO_DROPS = 8
_ASK = struct.Struct("=BBHIIII")  # struct packet_diag_req
_TOLD = struct.Struct("=BBHIII")  # struct packet_diag_msg
_RECEIVE_OCTETS = 1 << 16
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Open:
    """The sockets of one program. udp: {inode: (port, drops)}; packet: inodes of AF_PACKET."""

    udp: dict[int, tuple[int, int]]
    packet: frozenset[int]

    def hears(self, port: int) -> bool:
        """Whether a UDP socket is bound to that port, whatever its address."""
        return any(bound == port for bound, _ in self.udp.values())


@dataclass(frozen=True, slots=True)
class SocketDrops:
    """Datagrams and frames for which sockets of one program had no room, since it started.

    packet: at its AF_PACKET sockets; None where the kernel cannot tell (no packet_diag), or
    where it has none. A ring's losses are not in it: only its owner can count these.
    """

    udp: int
    packet: int | None

    def lost(self, by_frames: bool) -> int:
        """What never reached the program. by_frames: whether it hears AF_PACKET sockets.

        Who reads frames (dhcpd, dhcrelay, Kea) keeps a UDP socket only so that the kernel
        answers no ICMP: every datagram comes there once more, and is thrown away unread. Who
        reads datagrams may have a packet socket open for a moment, to send (udhcpd).
        """
        return self.packet if by_frames and self.packet is not None else self.udp


def opened(pid: int) -> Open | None:
    """What a program and those it started have open; None when it is gone or not ours to see."""
    net = Path(f"/proc/{pid}/net")
    try:
        mine = {inode for each in _family(pid) for inode in _inodes(each)}
        udp = [line.split() for line in (net / "udp").read_text().splitlines()[1:]]
        packet = (net / "packet").read_text().splitlines()[1:]
    except OSError:
        return None
    return Open(
        {inode: (int(row[_UDP_LOCAL].rpartition(":")[2], 16), int(row[_UDP_DROPS]))
         for row in udp if (inode := int(row[_UDP_INODE])) in mine},
        frozenset(inode for line in packet if (inode := int(line.split()[_PACKET_INODE])) in mine))


def serves(pid: int, packets: int = 0) -> bool:
    """Whether a program has a UDP socket on port 67 and so many AF_PACKET sockets."""
    found = opened(pid)
    return found is not None and found.hears(DHCP_SERVER_PORT) and len(found.packet) >= packets


def socket_drops(pid: int) -> SocketDrops | None:
    """What was dropped at a program's sockets; None when it is gone or not ours to see."""
    found = opened(pid)
    if found is None:
        return None
    packet = None
    if found.packet:
        with contextlib.suppress(OSError, NetlabError):
            by_inode = elsewhere.within(f"/proc/{pid}/ns/net", packet_drops)
            packet = sum(by_inode.get(inode, 0) for inode in found.packet)
    return SocketDrops(sum(drops for _, drops in found.udp.values()), packet)


def drops(pid: int, by_frames: bool) -> int | None:
    """`socket_drops(pid).lost`: what never reached a program; None where that is not known."""
    found = socket_drops(pid)
    return None if found is None else found.lost(by_frames)


def packet_drops() -> dict[int, int]:
    """{inode: frames dropped} of every AF_PACKET socket in this thread's namespace.

    Raises OSError where the kernel has no packet_diag.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC,
                       _NETLINK_SOCK_DIAG) as asking:
        asking.settimeout(_PATIENCE_S)
        body = _ASK.pack(socket.AF_PACKET, 0, 0, 0, _PACKET_SHOW_MEMINFO, 0, 0)
        asking.send(Message(_SOCK_DIAG_BY_FAMILY, REQUEST | DUMP, body).pack(1))
        found: dict[int, int] = {}
        while True:
            for kind, content in _split(asking.recv(_RECEIVE_OCTETS)):
                if kind == _NLMSG_DONE:
                    return found
                if kind == _NLMSG_ERROR:
                    number = -struct.unpack_from("=i", content)[0]
                    raise OSError(number, os.strerror(number), "packet_diag")
                told = dict(attributes(content, _TOLD.size))
                found[_TOLD.unpack_from(content)[3]] = struct.unpack_from(
                    "=I", told[_PACKET_DIAG_MEMINFO], 4 * _SK_MEMINFO_DROPS)[0]


def _split(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, body) of each message."""
    at = 0
    while at + HEADER.size <= len(datagram):
        length, kind, *_ = HEADER.unpack_from(datagram, at)
        length = max(length, HEADER.size)
        yield kind, datagram[at + HEADER.size:at + length]
        at += length + 3 & ~3


def _family(pid: int) -> Iterator[int]:
    """A process and what it started, as far as it still is its parent."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in children.read_text().split():
                yield from _family(int(child))


def _inodes(pid: int) -> Iterator[int]:
    """Of every socket that a process has open."""
    for place in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(place.readlink())
            if target.startswith("socket:["):
                yield int(target[8:-1])
