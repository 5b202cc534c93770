"""Prove a received frame sound, and find where its DHCP parts stand.

The readable twin is `packet.Frame.decode` and `message.Message.decode`: the two agree on
every input, octet for octet and reason for reason. Arithmetic is in int64 throughout, so
that the compiled and the interpreted kernel cannot differ.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.jit import kernel
from fastpath.options import CHECKED_LENGTHS
from fastpath.wire import Reason

Memory = npt.NDArray[np.uint8]

# Compiled code takes enum members as their numbers.
OK, NOT_IPV4, IP_HEADER = int(Reason.OK), int(Reason.NOT_IPV4), int(Reason.IP_HEADER)
IP_CHECKSUM, FRAGMENT, NOT_DHCP = (int(Reason.IP_CHECKSUM), int(Reason.FRAGMENT),
                                   int(Reason.NOT_DHCP))
UDP_LENGTH, UDP_CHECKSUM = int(Reason.UDP_LENGTH), int(Reason.UDP_CHECKSUM)
BOOTP_SHORT, BOOTP_FIELDS, COOKIE = (int(Reason.BOOTP_SHORT), int(Reason.BOOTP_FIELDS),
                                     int(Reason.COOKIE))
OPTION_TRUNCATED, OPTION_LENGTH = int(Reason.OPTION_TRUNCATED), int(Reason.OPTION_LENGTH)

_ETH_P_IP, _ETH_P_8021Q, _ETH_P_8021AD = wire.ETH_P_IP, wire.ETH_P_8021Q, wire.ETH_P_8021AD
_IP_PROTO_UDP, _OPTIONS = wire.IP_PROTO_UDP, wire.OPTIONS
_FILE, _SNAME, _COOKIE_AT, _MAGIC = wire.FILE, wire.SNAME, wire.COOKIE, wire.MAGIC_COOKIE

PAD, END, OVERLOAD = 0, 255, 52
# A position at or over JOINED is in `Options.joined`; REPEATED is not yet there.
JOINED = 1 << 30
REPEATED = -1
JOINED_SIZE = 4096

_checked = np.array([(code, low, high) for code, (low, high) in sorted(CHECKED_LENGTHS.items())],
                    np.int64)


class Options(NamedTuple):
    """Where each option of one message stands; filled by `find_options`.

    start: int32[256], position of the value in the frame's memory, or JOINED + position in
        `joined` where an option came in several pieces (RFC 3396).
    length: int32[256], octets of the value, -1 where the option is absent.
    joined: uint8[4096]; a message is shorter than a slot, so all its pieces fit.
    filled: int32[256], octets of an option copied to `joined` so far; under PAD, which is no
        option, whether anything is to be joined at all.
    """

    start: npt.NDArray[np.int32]
    length: npt.NDArray[np.int32]
    joined: Memory
    filled: npt.NDArray[np.int32]


def make_options() -> Options:
    return Options(np.zeros(256, np.int32), np.full(256, -1, np.int32),
                   np.zeros(JOINED_SIZE, np.uint8), np.zeros(256, np.int32))


@kernel
def be16(mem: Memory, at: int) -> int:
    return np.int64(mem[at]) << 8 | np.int64(mem[at + 1])


@kernel
def be32(mem: Memory, at: int) -> int:
    return (np.int64(mem[at]) << 24 | np.int64(mem[at + 1]) << 16
            | np.int64(mem[at + 2]) << 8 | np.int64(mem[at + 3]))


@kernel
def put16(mem: Memory, at: int, value: int) -> None:
    mem[at] = value >> 8 & 0xFF
    mem[at + 1] = value & 0xFF


@kernel
def put32(mem: Memory, at: int, value: int) -> None:
    mem[at] = value >> 24 & 0xFF
    mem[at + 1] = value >> 16 & 0xFF
    mem[at + 2] = value >> 8 & 0xFF
    mem[at + 3] = value & 0xFF


@kernel
def copy(target: Memory, at: int, source: Memory, start: int, count: int) -> None:
    for i in range(count):
        target[at + i] = source[start + i]


@kernel
def sum16(mem: Memory, start: int, count: int) -> int:
    """Sum of the big-endian 16-bit words of `count` octets, an odd last one padded with 0."""
    high = np.int64(0)
    low = np.int64(0)
    for i in range(count >> 1):
        high += np.int64(mem[start + 2 * i])
        low += np.int64(mem[start + 2 * i + 1])
    if count & 1:
        high += np.int64(mem[start + count - 1])
    return (high << 8) + low


@kernel
def fold(total: int) -> int:
    """One's complement of the one's complement sum (RFC 1071)."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


@kernel
def check_frame(mem: Memory, start: int, end: int, tags: int, checksum_ready: bool, port: int,
                other_port: int) -> tuple[int, int, int, int]:
    """Check Ethernet, IPv4 and UDP of the frame in mem[start:end].

    tags: VLAN tags that the kernel has already taken off (0 or 1); two in all are allowed.
    port, other_port: the destination ports that are ours.
    Returns (reason, IP offset, UDP payload start, UDP payload end); offsets are into `mem`
    and mean something only where the reason is OK.
    """
    nothing = (np.int64(0), np.int64(0), np.int64(0))
    if end - start < 14:
        return NOT_IPV4, *nothing
    ip = start + 14
    ethertype = be16(mem, start + 12)
    while ethertype in (_ETH_P_8021Q, _ETH_P_8021AD):
        tags += 1
        if tags > 2 or end - ip < 4:
            return NOT_IPV4, *nothing
        ethertype = be16(mem, ip + 2)
        ip += 4
    if ethertype != _ETH_P_IP or end - ip < 20:
        return NOT_IPV4, *nothing
    header = (np.int64(mem[ip]) & 15) * 4
    total = be16(mem, ip + 2)
    if np.int64(mem[ip]) >> 4 != 4 or header < 20 or total < header or total > end - ip:
        return IP_HEADER, *nothing
    if fold(sum16(mem, ip, header)) != 0:
        return IP_CHECKSUM, *nothing
    if be16(mem, ip + 6) & 0x3FFF:
        return FRAGMENT, *nothing
    if np.int64(mem[ip + 9]) != _IP_PROTO_UDP:
        return NOT_DHCP, *nothing
    udp = ip + header
    room = total - header
    if room < 8:
        return UDP_LENGTH, *nothing
    to = be16(mem, udp + 2)
    if to != port and to != other_port:
        return NOT_DHCP, *nothing
    length = be16(mem, udp + 4)
    if length < 8 or length > room:
        return UDP_LENGTH, *nothing
    if checksum_ready and be16(mem, udp + 6) != 0:
        pseudo = sum16(mem, ip + 12, 8) + _IP_PROTO_UDP + length
        if fold(pseudo + sum16(mem, udp, length)) != 0:
            return UDP_CHECKSUM, *nothing
    return OK, ip, udp + 8, udp + length


@kernel
def check_bootp(mem: Memory, bootp: int, end: int) -> int:
    """Check the fixed part and the cookie of the message in mem[bootp:end]; a Reason."""
    if end - bootp < _OPTIONS:
        return BOOTP_SHORT
    op = np.int64(mem[bootp])
    if op < 1 or op > 2 or np.int64(mem[bootp + 2]) > 16:
        return BOOTP_FIELDS
    if be32(mem, bootp + _COOKIE_AT) != _MAGIC:
        return COOKIE
    return OK


@kernel
def _walk(mem: Memory, at: int, end: int, options: Options, main: bool, collect: bool) -> int:
    """Walk one field of options; a Reason. Never reads at or past `end`.

    The first walk notes where options stand and marks those in several pieces REPEATED; the
    second (`collect`) copies such pieces to their place in `joined`.
    """
    start, length, joined, filled = options
    while at < end:
        code = np.int64(mem[at])
        at += 1
        if code == PAD:
            continue
        if code == END:
            return OK
        if at >= end:
            return OPTION_TRUNCATED
        size = np.int64(mem[at])
        at += 1
        if at + size > end:
            return OPTION_TRUNCATED
        if not main and code == OVERLOAD:
            pass
        elif collect:
            if start[code] >= JOINED:
                copy(joined, np.int64(start[code]) - JOINED + filled[code], mem, at, size)
                filled[code] += size
        elif length[code] <= 0:
            start[code] = at
            length[code] = size
        elif size > 0:
            start[code] = REPEATED
            length[code] += size
            filled[PAD] = 1
        at += size
    return OK


@kernel
def _walk_all(mem: Memory, bootp: int, end: int, options: Options, collect: bool) -> int:
    """Walk the options field, then `file` and `sname` where option 52 says so; a Reason."""
    reason = _walk(mem, bootp + _OPTIONS, end, options, True, collect)
    if reason != OK or options.length[OVERLOAD] < 0:
        return reason
    if options.length[OVERLOAD] != 1:
        return OPTION_LENGTH
    where = option_byte(mem, options, OVERLOAD, 0)
    if where < 1 or where > 3:
        return OPTION_LENGTH
    if where & 1:
        reason = _walk(mem, bootp + _FILE, bootp + _COOKIE_AT, options, False, collect)
    if reason == OK and where & 2:
        reason = _walk(mem, bootp + _SNAME, bootp + _FILE, options, False, collect)
    return reason


@kernel
def _join(mem: Memory, bootp: int, end: int, options: Options) -> int:
    """Bring options in several pieces together in `joined` (RFC 3396 section 7); a Reason."""
    if options.filled[PAD] == 0:
        return OK
    used = np.int64(0)
    for code in range(1, 256):
        if options.length[code] > 0 and options.start[code] == REPEATED:
            options.start[code] = JOINED + used
            options.filled[code] = 0
            used += options.length[code]
    if used > len(options.joined):
        return OPTION_TRUNCATED
    return _walk_all(mem, bootp, end, options, True)


@kernel
def option_byte(mem: Memory, options: Options, code: int, i: int) -> int:
    """Octet `i` of an option that is present and longer than `i`."""
    at = np.int64(options.start[code])
    if at >= JOINED:
        return np.int64(options.joined[at - JOINED + i])
    return np.int64(mem[at + i])


@kernel
def option32(mem: Memory, options: Options, code: int) -> int:
    """A present option of four octets as an unsigned number."""
    return (option_byte(mem, options, code, 0) << 24 | option_byte(mem, options, code, 1) << 16
            | option_byte(mem, options, code, 2) << 8 | option_byte(mem, options, code, 3))


@kernel
def copy_option(mem: Memory, options: Options, code: int, target: Memory, at: int) -> int:
    """Write the option's value to target[at:]; returns its length."""
    start, length = np.int64(options.start[code]), np.int64(options.length[code])
    if start >= JOINED:
        copy(target, at, options.joined, start - JOINED, length)
    else:
        copy(target, at, mem, start, length)
    return length


@kernel
def find_options(mem: Memory, bootp: int, end: int, options: Options) -> int:
    """Find every option of a message whose fixed part `check_bootp` has passed; a Reason.

    Follows `overload` into `file`, then `sname` (RFC 2131 section 4.1), and joins repeated
    options in that order.
    """
    options.length[:] = -1
    options.filled[PAD] = 0
    reason = _walk_all(mem, bootp, end, options, False)
    if reason != OK:
        return reason
    reason = _join(mem, bootp, end, options)
    if reason != OK:
        return reason
    for i in range(len(_checked)):
        length = options.length[_checked[i, 0]]
        if length >= 0 and (length < _checked[i, 1] or length > _checked[i, 2]):
            return OPTION_LENGTH
    return OK
