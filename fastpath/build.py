"""Write frames into transmit slots: Ethernet, then a template of IPv4, UDP and BOOTP, then
options one by one, then `seal`, which sets lengths and checksums.

A template is the bytes from the IPv4 header to the last option that every message of its
kind carries; whoever uses it patches the fields that differ.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.frame import END, Memory, fold, put16, sum16
from fastpath.jit import kernel

_MIN_BOOTP, _ETH_P_IP = wire.MIN_BOOTP, wire.ETH_P_IP
# Offsets from the IPv4 header of a template, which has no IP options.
IP_SOURCE, IP_TARGET, UDP_SOURCE, UDP_TARGET, BOOTP = 12, 16, 20, 22, 28
BROADCAST_MAC = (1 << 48) - 1
NO_TAG = -1


@kernel
def be48(mem: Memory, at: int) -> int:
    value = np.int64(0)
    for i in range(6):
        value = value << 8 | np.int64(mem[at + i])
    return value


@kernel
def put48(mem: Memory, at: int, value: int) -> None:
    for i in range(6):
        mem[at + i] = value >> (40 - 8 * i) & 0xFF


@kernel
def put_ethernet(mem: Memory, at: int, target: int, source: int, outer: int, inner: int) -> int:
    """Write an Ethernet header with up to two VLAN tags; returns where the IPv4 header goes.

    target, source: 48-bit numbers. outer, inner: `tpid << 16 | tci`, or NO_TAG.
    """
    put48(mem, at, target)
    put48(mem, at + 6, source)
    at += 12
    for tag in (outer, inner):
        if tag != NO_TAG:
            put16(mem, at, tag >> 16)
            put16(mem, at + 2, tag & 0xFFFF)
            at += 4
    put16(mem, at, _ETH_P_IP)
    return at + 2


@kernel
def put_option8(mem: Memory, at: int, code: int, value: int) -> int:
    """Write an option of one octet; returns where the next one goes."""
    mem[at] = code
    mem[at + 1] = 1
    mem[at + 2] = value
    return at + 3


@kernel
def put_option32(mem: Memory, at: int, code: int, value: int) -> int:
    """Write an option of four octets; returns where the next one goes."""
    mem[at] = code
    mem[at + 1] = 4
    put16(mem, at + 2, value >> 16 & 0xFFFF)
    put16(mem, at + 4, value & 0xFFFF)
    return at + 6


@kernel
def seal(mem: Memory, ip: int, at: int) -> int:
    """End the options at `at`, pad, set lengths and checksums; returns the end of the frame.

    ip: where the IPv4 header of 20 octets starts. Pads to 300 octets of BOOTP, below which
    old relays and servers drop a message (RFC 1542 section 2.1).
    """
    mem[at] = END
    at += 1
    least = ip + BOOTP + _MIN_BOOTP
    if at < least:
        mem[at:least] = 0
        at = least
    set_lengths(mem, ip, at)
    return at


@kernel
def set_lengths(mem: Memory, ip: int, at: int) -> None:
    """Set lengths and checksums of the IPv4 packet mem[ip:at], whatever it contains."""
    put16(mem, ip + 2, at - ip)
    put16(mem, ip + 10, 0)
    put16(mem, ip + 10, fold(sum16(mem, ip, 20)))
    length = at - ip - 20
    put16(mem, ip + 24, length)
    put16(mem, ip + 26, 0)
    checksum = fold(sum16(mem, ip + 12, 8) + 17 + length + sum16(mem, ip + 20, length))
    # 0 means "no checksum" (RFC 768).
    put16(mem, ip + 26, checksum if checksum else 0xFFFF)
