"""Hearing what arrives in a node: one packet socket with a ring in memory, for all its interfaces.

The one thing to know: only frames that *arrive* are heard. Who sends past the queueing
discipline, as our programs do (PACKET_QDISC_BYPASS), is not heard by taps on his own interface;
at the other end of the veth every frame arrives, once. TPACKET_V3, because it packs frames
tightly and stamps nanoseconds: that a block is handed over late matters to nobody here.
Source: packet(7), linux/if_packet.h, Documentation/networking/packet_mmap.rst.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fastpath import bpf
from fastpath.errors import SystemRefused

_SOL_PACKET = 263
_RX_RING, _STATISTICS, _VERSION, _IGNORE_OUTGOING = 5, 6, 10, 23
_TPACKET_V3 = 2
_ETH_P_ALL, _ETH_P_8021Q = 0x0003, 0x8100
_FRAME_SIZE = 2048
BLOCK = 1 << 16
# Milliseconds after which the kernel hands over a block that is not full.
RETIRE_MS = 20
# TP_STATUS_USER, TP_STATUS_CSUMNOTREADY, TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID
_USER, _CHECKSUM_NOT_READY, _TAGGED, _TAG_KIND = 1, 8, 16, 64
# struct tpacket_block_desc: version, offset_to_priv; struct tpacket_hdr_v1: block_status, num_pkts,
# offset_to_first_pkt.
_STATUS_AT = 8
_BLOCK_HEADER = struct.Struct("=8xIII")
# struct tpacket3_hdr, up to hv1.tp_vlan_tpid; behind its 48 octets struct sockaddr_ll, of which
# sll_ifindex.
_HEADER = struct.Struct("=IIIIIIHHIIH")
_INDEX = struct.Struct("=52xi")

_libc = ctypes.CDLL(None, use_errno=True)


class Heard(NamedTuple):
    """One frame that arrived. interface: what the tap was told to call it.

    length: what it had on the wire; `frame` may be less. summed: whether its UDP checksum is
    finished (not so in frames from local sockets).
    """

    time_ns: int
    interface: int
    frame: bytes
    length: int
    summed: bool


class Tap:
    """Hears the interfaces named in `interfaces` in the calling thread's network namespace.

    interfaces: name -> the number they get in `Heard`. blocks: of the ring, of BLOCK octets.
    heard_by: classic BPF that says what is kept (`fastpath.bpf`). dropped: frames for which the
    ring had no room. Raises SystemRefused.
    """

    def __init__(self, interfaces: Mapping[str, int], blocks: int,
                 heard_by: Sequence[bpf.Instruction]) -> None:
        self.interfaces = interfaces
        self.dropped = 0
        self._blocks, self._next = blocks, 0
        try:
            self._numbers = {socket.if_nametoindex(name): number
                             for name, number in interfaces.items()}
        except OSError:
            raise SystemRefused(f"one of the interfaces is gone: {', '.join(interfaces)}",
                                "see: lab status") from None
        # One interface is bound to by name. Of several, the socket hears all of the namespace and
        # leaves out here what is not wanted: a socket each would cost a ring each.
        only = next(iter(interfaces)) if len(interfaces) == 1 else ""
        try:
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                         0 if only else socket.htons(_ETH_P_ALL))
        except PermissionError:
            raise SystemRefused("cannot open a packet socket: operation not permitted",
                                "run with sudo (CAP_NET_RAW)") from None
        except OSError as error:
            raise SystemRefused(f"cannot open a packet socket: {error.strerror}",
                                "capture fewer links") from None
        try:
            self._open(only, heard_by)
        except OSError as error:
            self._socket.close()
            size_mib = blocks * BLOCK / (1 << 20)
            raise SystemRefused(f"the kernel refused a ring of {size_mib:g} MiB: {error.strerror}",
                                "capture fewer links") from None

    def _open(self, only: str, heard_by: Sequence[bpf.Instruction]) -> None:
        # What a socket heard before it has its ring is thrown away with the change (af_packet.c).
        sock = self._socket
        bpf.attach(sock, list(heard_by))
        sock.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V3)
        sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        # struct tpacket_req3
        request = struct.pack(
            "=7I", BLOCK, self._blocks, _FRAME_SIZE, self._blocks * BLOCK // _FRAME_SIZE,
            RETIRE_MS, 0, 0)
        # Not by Python's setsockopt, which holds up all threads while the kernel waits for a grace
        # period: taps that are opened side by side can share one.
        if _libc.setsockopt(sock.fileno(), _SOL_PACKET, _RX_RING, request, len(request)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        self._ring = mmap.mmap(sock.fileno(), self._blocks * BLOCK, mmap.MAP_SHARED,
                               mmap.PROT_READ | mmap.PROT_WRITE)
        if only:
            sock.bind((only, _ETH_P_ALL))

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> Iterator[Heard]:
        """What has arrived in blocks that the kernel handed over; each is given back behind it."""
        for _ in range(self._blocks):
            start = self._next * BLOCK
            status, count, at = _BLOCK_HEADER.unpack_from(self._ring, start)
            if not status & _USER:
                return
            yield from self._frames(start + at, count)
            struct.pack_into("=I", self._ring, start + _STATUS_AT, 0)
            self._next = (self._next + 1) % self._blocks

    def _frames(self, at: int, count: int) -> Iterator[Heard]:
        ring = self._ring
        for _ in range(count):
            (after, seconds, nanoseconds, kept, length, status, start, _, _, tag, kind
             ) = _HEADER.unpack_from(ring, at)
            number = self._numbers.get(_INDEX.unpack_from(ring, at)[0])
            if number is not None:
                frame = ring[at + start:at + start + kept]
                if status & _TAGGED:
                    # The kernel took the outer tag off (skb_vlan_untag): put it back.
                    kind = kind if status & _TAG_KIND else _ETH_P_8021Q
                    frame = frame[:12] + struct.pack(">HH", kind, tag & 0xFFFF) + frame[12:]
                    length += 4
                yield Heard(seconds * 1_000_000_000 + nanoseconds, number, frame, length,
                            not status & _CHECKSUM_NOT_READY)
            at += after

    def statistics(self) -> int:
        """`dropped`, read anew."""
        raw = self._socket.getsockopt(_SOL_PACKET, _STATISTICS, 12)
        # struct tpacket_stats_v3: packets, drops, freezes; reset by reading.
        self.dropped += struct.unpack("=III", raw)[1]
        return self.dropped

    def clear_error(self) -> None:
        """Take note that the interface went down or away."""
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def close(self) -> None:
        self._socket.close()
        self._ring.close()


def filter_of(which: str, snaplen: int) -> list[bpf.Instruction]:
    """Classic BPF for "dhcp" or "all" that keeps at most `snaplen` octets of a frame."""
    keep = (6, 0, 0, snaplen)  # linux/bpf_common.h: BPF_RET | BPF_K
    if which == "all":
        return [keep]
    return [keep if one[0] == keep[0] and one[3] else one
            for one in bpf.dhcp_filter((67, 68))]
