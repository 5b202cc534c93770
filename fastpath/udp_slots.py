"""Between slots and recvmmsg/sendmmsg: point the kernel at slots, and dress what came as frames.

A socket gives the payload, its sender and, beside it, the address it was sent to; from these
a frame is made around the payload where it lies, so that whoever reads slots finds Ethernet,
IPv4 and UDP as in a packet ring. Sources: recvmmsg(2), ip(7), socket(7), RFC 791. The layouts
are those of 64-bit Linux.
"""

from __future__ import annotations

import socket
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.frame import Memory, be16, be32, copy, fold, put16, sum16
from fastpath.jit import fence, kernel
from fastpath.slots import (
    G_COUNT,
    G_FRAME,
    G_LEAD,
    G_SIZE,
    H_LEN,
    H_MAC,
    H_NSEC,
    H_SEC,
    H_SNAPLEN,
    RX_CSUM_NOT_READY,
    RX_USER,
    TX_AVAILABLE,
    TX_SEND_REQUEST,
    Slots,
)

_ETH_P_IP, _ETH_P_8021Q, _ETH_P_8021AD = wire.ETH_P_IP, wire.ETH_P_8021Q, wire.ETH_P_8021AD
_IP_PROTO_UDP = wire.IP_PROTO_UDP
_HEADERS = wire.ETH_HEADER + wire.IP_HEADER + wire.UDP_HEADER
# As in a packet ring on Ethernet: the frame stands so that its IPv4 header is aligned to 16.
RX_FRAME = 66
RX_PAYLOAD = RX_FRAME + _HEADERS
_TTL = 64
_MULTICAST = 0xE0000000

# struct mmsghdr, 64 octets: what stands where in 64-bit and in 32-bit words.
_MMSGHDR = 64
_L_NAME, _L_IOV, _L_IOVLEN, _L_CONTROL, _L_CONTROLLEN = 0, 2, 3, 4, 5
_W_NAMELEN, _W_LENGTH = 2, 14
_SOCKADDR = 16
# struct cmsghdr: 64-bit length, 32-bit level and type; then the data, all aligned to 8.
_CMSG = 16
_SOL_SOCKET, _SO_TIMESTAMPNS = int(socket.SOL_SOCKET), 35
_SOL_IP, _IP_PKTINFO = int(socket.IPPROTO_IP), 8
# struct in_pktinfo: ipi_ifindex, ipi_spec_dst, ipi_addr.
_PKTINFO, _SPEC_DST, _ADDR = 12, 4, 8
# CMSG_SPACE of a timespec and of an in_pktinfo; of an in_pktinfo alone.
RX_CONTROL, TX_CONTROL = 64, 32

NOTHING, WRONG_FORMAT = 0, -1


class Batch(NamedTuple):
    """What recvmmsg or sendmmsg is given for n datagrams, each with one piece of one slot.

    longs: int64[n, 8], words: uint32[n, 16]: the array of struct mmsghdr.
    vectors: int64[n, 2], struct iovec.
    names: uint8[n * 16], struct sockaddr_in.
    control: uint8[n * room], control_words: uint32, control_longs: int64, the same memory:
        ancillary messages.
    """

    longs: npt.NDArray[np.int64]
    words: npt.NDArray[np.uint32]
    vectors: npt.NDArray[np.int64]
    names: Memory
    control: Memory
    control_words: npt.NDArray[np.uint32]
    control_longs: npt.NDArray[np.int64]


def make_batch(count: int, room: int) -> Batch:
    """A batch of `count` datagrams with `room` octets of ancillary messages each.

    What never changes is in it already: where the parts of each datagram's header stand, the
    address family and, ready to be filled in, an IP_PKTINFO.
    """
    longs = np.zeros((count, _MMSGHDR // 8), np.int64)
    vectors = np.zeros((count, 2), np.int64)
    names = np.zeros((count, _SOCKADDR), np.uint8)
    control = np.zeros((count, room), np.uint8)
    for i in range(count):
        longs[i, _L_NAME] = names[i:].ctypes.data
        longs[i, _L_IOV] = vectors[i:].ctypes.data
        longs[i, _L_IOVLEN] = 1
        longs[i, _L_CONTROL] = control[i:].ctypes.data
    words = longs.view(np.uint32)
    words[:, _W_NAMELEN] = _SOCKADDR
    names.view(np.uint16)[:, 0] = socket.AF_INET
    control.view(np.int64)[:, 0] = _CMSG + _PKTINFO
    control.view(np.uint32)[:, 2:4] = _SOL_IP, _IP_PKTINFO
    flat = control.reshape(-1)
    return Batch(longs, words, vectors, names.reshape(-1), flat, flat.view(np.uint32),
                 flat.view(np.int64))


@kernel
def rx_arm(rx: Slots, tail: int, batch: Batch, address: int) -> int:
    """Point `batch` at the free slots from `tail` on; returns how many there are for it.

    address: where `rx.mem` starts. A slot that its reader has not released ends the batch.
    """
    size, slots = rx.geometry[G_SIZE], rx.geometry[G_COUNT]
    most = min(len(batch.longs), slots)
    room = len(batch.control) // len(batch.longs)
    count = np.int64(0)
    while count < most:
        base = tail * size
        if rx.words[base >> 2] != 0:
            break
        batch.vectors[count, 0] = address + base + RX_PAYLOAD
        batch.vectors[count, 1] = size - RX_PAYLOAD
        batch.words[count, _W_NAMELEN] = _SOCKADDR
        batch.longs[count, _L_CONTROLLEN] = room
        count += 1
        tail += 1
        if tail == slots:
            tail = np.int64(0)
    fence()
    return count


@kernel
def _read_control(rx: Slots, base: int, batch: Batch, i: int) -> None:
    """Take stamp and destination out of the ancillary messages of datagram `i`."""
    room = len(batch.control) // len(batch.longs)
    at = i * room
    end = at + min(batch.longs[i, _L_CONTROLLEN], room)
    while end - at >= _CMSG:
        length = batch.control_longs[at >> 3]
        if length < _CMSG or length > end - at:
            return
        level = np.int64(batch.control_words[(at >> 2) + 2])
        kind = np.int64(batch.control_words[(at >> 2) + 3])
        data = at + _CMSG
        if level == _SOL_SOCKET and kind == _SO_TIMESTAMPNS and length >= _CMSG + 16:
            rx.words[(base + H_SEC) >> 2] = batch.control_longs[data >> 3]
            rx.words[(base + H_NSEC) >> 2] = batch.control_longs[(data >> 3) + 1]
        elif level == _SOL_IP and kind == _IP_PKTINFO and length >= _CMSG + _PKTINFO:
            copy(rx.mem, base + RX_FRAME + 30, batch.control, data + _ADDR, 4)
        at += (length + 7) & ~7


@kernel
def rx_land(rx: Slots, tail: int, batch: Batch, count: int, port: int) -> int:
    """Hand the `count` datagrams just received into the slots from `tail` on to their reader.

    port: the socket's own. Returns the new tail. A datagram that a slot cannot hold keeps its
    length in its headers, so that the frame check refuses it. The UDP checksum is given as
    none: the kernel has checked it.
    """
    size, slots = rx.geometry[G_SIZE], rx.geometry[G_COUNT]
    mem = rx.mem
    for i in range(count):
        base = tail * size
        payload = np.int64(batch.words[i, _W_LENGTH])
        length = _HEADERS + payload
        rx.words[(base + H_LEN) >> 2] = length
        rx.words[(base + H_SNAPLEN) >> 2] = min(length, size - RX_FRAME)
        rx.halves[(base + H_MAC) >> 1] = RX_FRAME
        rx.halves[(base + H_MAC + 2) >> 1] = RX_FRAME + 14
        rx.words[(base + H_SEC) >> 2] = 0
        rx.words[(base + H_NSEC) >> 2] = 0

        frame = base + RX_FRAME
        mem[frame:frame + _HEADERS] = 0
        put16(mem, frame + 12, _ETH_P_IP)
        _read_control(rx, base, batch, i)
        ip = frame + 14
        mem[ip] = 0x45
        put16(mem, ip + 2, length - 14)
        mem[ip + 8] = _TTL
        mem[ip + 9] = _IP_PROTO_UDP
        copy(mem, ip + 12, batch.names, i * _SOCKADDR + 4, 4)
        put16(mem, ip + 10, fold(sum16(mem, ip, 20)))
        copy(mem, ip + 20, batch.names, i * _SOCKADDR + 2, 2)
        put16(mem, ip + 22, port)
        put16(mem, ip + 24, length - 34)

        fence()
        rx.words[base >> 2] = RX_USER | RX_CSUM_NOT_READY
        tail += 1
        if tail == slots:
            tail = np.int64(0)
    return tail


@kernel
def _find_udp(mem: Memory, start: int, end: int) -> tuple[int, int]:
    """Offsets of the IPv4 and UDP headers of a frame to send; (-1, -1) where there are none."""
    none = (np.int64(-1), np.int64(-1))
    ip = start + 14
    if end - start < _HEADERS:
        return none
    ethertype = be16(mem, ip - 2)
    for _ in range(2):
        if ethertype in (_ETH_P_8021Q, _ETH_P_8021AD):
            ip += 4
            ethertype = be16(mem, ip - 2)
    if ethertype != _ETH_P_IP or end - ip < 28 or np.int64(mem[ip]) >> 4 != 4:
        return none
    header = (np.int64(mem[ip]) & 15) * 4
    udp = ip + header
    if header < 20 or np.int64(mem[ip + 9]) != _IP_PROTO_UDP or end - udp < 8:
        return none
    length = be16(mem, udp + 4)
    if length < 8 or length > end - udp:
        return none
    return ip, udp


@kernel
def _to_a_station(mem: Memory, start: int) -> bool:
    """Whether a frame goes to one named station: neither to everybody nor to no address."""
    first = be16(mem, start) << 32 | be32(mem, start + 2)
    return bool(first != 0 and first >> 40 & 1 == 0)


@kernel
def tx_load(tx: Slots, tail: int, batch: Batch, address: int) -> int:
    """Describe the frames that wait to be sent from `tail` on as datagrams in `batch`.

    address: where `tx.mem` starts. Returns how many, or NOTHING, or WRONG_FORMAT where the
    one at `tail` is no UDP over IPv4; a later one of that kind ends the batch.

    Sent from the frame's own IPv4 source where that is one host's. A frame to a station's
    Ethernet address is for a client that has no IPv4 address yet and answers no ARP: a socket
    must broadcast it (RFC 2131 section 4.1).
    """
    g = tx.geometry
    mem = tx.mem
    most = min(len(batch.longs), g[G_COUNT])
    room = len(batch.control) // len(batch.longs)
    count = np.int64(0)
    while count < most:
        base = tail * g[G_SIZE]
        if np.int64(tx.words[base >> 2]) != TX_SEND_REQUEST:
            break
        start = base + g[G_FRAME] + g[G_LEAD]
        end = min(base + g[G_FRAME] + np.int64(tx.words[(base + H_LEN) >> 2]), base + g[G_SIZE])
        ip, udp = _find_udp(mem, start, end)
        if ip < 0:
            return count if count > 0 else np.int64(WRONG_FORMAT)
        name = count * _SOCKADDR
        copy(batch.names, name + 2, mem, udp + 2, 2)
        copy(batch.names, name + 4, mem, ip + 16, 4)
        if _to_a_station(mem, start):
            batch.names[name + 4:name + 8] = 255
        batch.vectors[count, 0] = address + udp + 8
        batch.vectors[count, 1] = be16(mem, udp + 4) - 8
        source = be32(mem, ip + 12)
        if source == 0 or source >= _MULTICAST:
            batch.longs[count, _L_CONTROLLEN] = 0
        else:
            batch.longs[count, _L_CONTROLLEN] = room
            copy(batch.control, count * room + _CMSG + _SPEC_DST, mem, ip + 12, 4)
        count += 1
        tail += 1
        if tail == g[G_COUNT]:
            tail = np.int64(0)
    fence()
    return count


@kernel
def tx_free(tx: Slots, tail: int, count: int) -> int:
    """Give `count` slots from `tail` on back to their writer; returns the new tail."""
    g = tx.geometry
    fence()
    for _ in range(count):
        tx.words[(tail * g[G_SIZE]) >> 2] = TX_AVAILABLE
        tail += 1
        if tail == g[G_COUNT]:
            tail = np.int64(0)
    return tail
