"""Answer ARP and ping for the addresses that emulated clients and relay agents hold.

The one thing to know: a server sends unicast answers only to who answers its ARP, and some
ping an address before they offer it. `classify` proves a frame sound; the others rely on
that. Sources: RFC 826, RFC 792, RFC 1122 sections 2.3.2.1 and 3.2.2.6, RFC 5227.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import NO_TAG, be48, put48
from fastpath.frame import Memory, be16, be32, copy, fold, put16, put32, sum16
from fastpath.jit import kernel
from fastpath.slots import Slots, tx_commit, tx_start

# What `classify` finds.
NOTHING, ARP, ECHO = range(3)
# In the frame, beside an outer one that the kernel has taken off.
MAX_TAGS = 3
# Octets behind the ICMP header of an echo request that is answered: what fits in 1500.
MAX_ECHO = 1472

_ETH_P_ARP, _ETH_P_IP = 0x0806, wire.ETH_P_IP
_ETH_P_8021Q, _ETH_P_8021AD, _ETH_HEADER = wire.ETH_P_8021Q, wire.ETH_P_8021AD, wire.ETH_HEADER
# RFC 826: offsets of operation, sender and target (hardware, then protocol address).
_ARP_SIZE, _ARP_OP, _SHA, _SPA, _THA, _TPA = 28, 6, 8, 14, 18, 24
_ASKS, _ANSWERS = 1, 2
_HTYPE_ETHERNET = wire.HTYPE_ETHERNET
_ETHERNET_IPV4 = 0x0604  # 6 octets of hardware address, 4 of protocol address
# RFC 791 and RFC 792.
_IP_HEADER, _IP_SOURCE, _IP_TARGET, _ICMP_HEADER, _IP_PROTO_ICMP = 20, 12, 16, 8, 1
_ECHO_REQUEST, _ECHO_REPLY, _DO_NOT_FRAGMENT, _TTL = 0x0800, 0, 0x4000, 64


@kernel
def classify(mem: Memory, start: int, end: int, checksum_ready: bool) -> tuple[int, int]:
    """What the frame in mem[start:end] asks: (ARP, ECHO or NOTHING, where ARP or IPv4 starts).

    checksum_ready: False where a local sender left the checksum to hardware (rx_checksum_ready).
    A frame from a group address is NOTHING: the answer would go to that group.
    """
    nothing = (np.int64(NOTHING), np.int64(0))
    if end - start < _ETH_HEADER or np.int64(mem[start + 6]) & 1:
        return nothing
    ethertype = be16(mem, start + 12)
    l3 = start + _ETH_HEADER
    tags = np.int64(0)
    while ethertype in (_ETH_P_8021Q, _ETH_P_8021AD):
        tags += 1
        if tags > MAX_TAGS or end - l3 < 4:
            return nothing
        ethertype = be16(mem, l3 + 2)
        l3 += 4
    if ethertype == _ETH_P_ARP and _is_arp_request(mem, l3, end):
        return np.int64(ARP), l3
    if ethertype == _ETH_P_IP and _is_echo_request(mem, l3, end, checksum_ready):
        return np.int64(ECHO), l3
    return nothing


@kernel
def _is_arp_request(mem: Memory, at: int, end: int) -> bool:
    """Whether mem[at:end] starts with a request for the Ethernet address of an IPv4 address."""
    return (end - at >= _ARP_SIZE and be16(mem, at) == _HTYPE_ETHERNET
            and be16(mem, at + 2) == _ETH_P_IP and be16(mem, at + 4) == _ETHERNET_IPV4
            and be16(mem, at + _ARP_OP) == _ASKS and be32(mem, at + _TPA) != 0)


@kernel
def _is_echo_request(mem: Memory, ip: int, end: int, checksum_ready: bool) -> bool:
    """Whether mem[ip:end] starts with a whole, sound echo request that an answer can go to."""
    if end - ip < _IP_HEADER:
        return False
    header = (np.int64(mem[ip]) & 15) * 4
    total = be16(mem, ip + 2)
    size = total - header
    if np.int64(mem[ip]) >> 4 != 4 or header < _IP_HEADER or total > end - ip:
        return False
    if size < _ICMP_HEADER or size > _ICMP_HEADER + MAX_ECHO:
        return False
    if np.int64(mem[ip + 9]) != _IP_PROTO_ICMP or be16(mem, ip + 6) & 0x3FFF:
        return False
    # No host sends from network 0, loopback, a group or broadcast (RFC 1122 section 3.2.1.3).
    network = np.int64(mem[ip + _IP_SOURCE])
    if network in (0, 127) or network >= 224:
        return False
    icmp = ip + header
    if be16(mem, icmp) != _ECHO_REQUEST or fold(sum16(mem, ip, header)) != 0:
        return False
    return not checksum_ready or fold(sum16(mem, icmp, size)) == 0


@kernel
def wanted(mem: Memory, kind: int, l3: int) -> int:
    """The IPv4 address that an ARP or ECHO is about: whose holder is to answer."""
    return be32(mem, l3 + (_TPA if kind == ARP else _IP_TARGET))


@kernel
def asker(mem: Memory, kind: int, l3: int) -> int:
    """The IPv4 address that asks; 0 in an ARP probe (RFC 5227 section 2.1.1)."""
    return be32(mem, l3 + (_SPA if kind == ARP else _IP_SOURCE))


@kernel
def reaches(mem: Memory, start: int, mac: int) -> bool:
    """Whether the frame at `start` was sent to `mac` or to a group: a promiscuous ring hears all.

    Without this a client would answer a ping to another station that holds the same address.
    """
    return np.int64(mem[start]) & 1 != 0 or be48(mem, start) == mac


@kernel
def _put_header(mem: Memory, start: int, l3: int, out: Memory, at: int, mac: int,
                outer_tag: int) -> int:
    """Write an Ethernet header from `mac` to the asker, tagged as its frame was.

    Returns where ARP or IPv4 goes.
    """
    put48(out, at, be48(mem, start + 6))
    put48(out, at + 6, mac)
    at += 12
    if outer_tag != NO_TAG:
        put16(out, at, outer_tag >> 16)
        put16(out, at + 2, outer_tag & 0xFFFF)
        at += 4
    kept = l3 - start - 12
    copy(out, at, mem, start + 12, kept)
    return at + kept


@kernel
def answer_arp(mem: Memory, start: int, l3: int, tx: Slots, mac: int, outer_tag: int) -> bool:
    """Answer the ARP request in the frame at `start`; False when the ring has no room.

    A probe (from 0.0.0.0) and an announcement (from the address itself) are answered like any
    request: that is how others learn that the address is taken (RFC 5227 section 2.1.1).
    mac: 48 bits, who holds the address. outer_tag: of `rx_outer_tag`.
    """
    first = tx_start(tx)
    if first < 0:
        return False
    out = tx.mem
    at = _put_header(mem, start, l3, out, first, mac, outer_tag)
    copy(out, at, mem, l3, _ARP_OP)
    put16(out, at + _ARP_OP, _ANSWERS)
    put48(out, at + _SHA, mac)
    put32(out, at + _SPA, be32(mem, l3 + _TPA))
    copy(out, at + _THA, mem, l3 + _SHA, 10)  # the sender, both addresses, is the target now
    tx_commit(tx, at + _ARP_SIZE - first)
    return True


@kernel
def answer_echo(mem: Memory, start: int, l3: int, tx: Slots, mac: int, outer_tag: int) -> bool:
    """Answer the echo request in the frame at `start`; False when the ring has no room.

    Identifier, sequence number, data (RFC 1122 section 3.2.2.6) and type of service (RFC 1349
    section 5.1) come back as they were; IP options do not. mac, outer_tag: as for `answer_arp`.
    """
    first = tx_start(tx)
    if first < 0:
        return False
    out = tx.mem
    ip = _put_header(mem, start, l3, out, first, mac, outer_tag)
    header = (np.int64(mem[l3]) & 15) * 4
    size = be16(mem, l3 + 2) - header
    out[ip] = 0x45
    out[ip + 1] = mem[l3 + 1]
    put16(out, ip + 2, _IP_HEADER + size)
    put16(out, ip + 4, 0)
    put16(out, ip + 6, _DO_NOT_FRAGMENT)
    out[ip + 8] = _TTL
    out[ip + 9] = _IP_PROTO_ICMP
    put16(out, ip + 10, 0)
    put32(out, ip + _IP_SOURCE, be32(mem, l3 + _IP_TARGET))
    put32(out, ip + _IP_TARGET, be32(mem, l3 + _IP_SOURCE))
    put16(out, ip + 10, fold(sum16(out, ip, _IP_HEADER)))
    icmp = ip + _IP_HEADER
    put16(out, icmp, _ECHO_REPLY)
    put16(out, icmp + 2, 0)
    copy(out, icmp + 4, mem, l3 + header + 4, size - 4)
    put16(out, icmp + 2, fold(sum16(out, icmp, size)))
    tx_commit(tx, icmp + size - first)
    return True
