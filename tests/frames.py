"""Frames for tests of kernels, sound or not, and the readable twin that judges them.

The one thing to know: `examine` is what a program does with a frame, in one kernel; `twin` is
the same with `Frame.decode` and `Message.decode`. Both end in a reason, the bounds of the
payload and every option, and must be equal octet for octet.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment, return-value"

from __future__ import annotations

import struct
from ipaddress import IPv4Address
from typing import NamedTuple

import numpy as np

from fastpath.errors import Malformed
from fastpath.frame import (
    Memory,
    Options,
    check_bootp,
    check_frame,
    copy_option,
    find_options,
    put16,
)
from fastpath.jit import kernel
from fastpath.message import Message
from fastpath.packet import Frame, checksum

COOKIE = bytes([99, 130, 83, 99])


@kernel
def examine(mem: Memory, start: int, end: int, tags: int, checksum_ready: bool, options: Options,
            out: Memory) -> tuple[int, int, int, int]:
    """(reason, payload start, payload end, octets written to `out`).

    `out` gets the options in order of their codes, each as code, 16-bit length, value.
    """
    reason, _, bootp, bootp_end = check_frame(mem, start, end, tags, checksum_ready, 67, 68)
    if reason != 0:
        return reason, np.int64(-1), np.int64(-1), np.int64(0)
    bootp = np.int64(bootp)
    reason = check_bootp(mem, bootp, bootp_end)
    if reason == 0:
        reason = find_options(mem, bootp, bootp_end, options)
    if reason != 0:
        return reason, bootp, bootp_end, np.int64(0)
    at = np.int64(0)
    for code in range(256):
        if options.length[code] >= 0:
            out[at] = code
            put16(out, at + 1, np.int64(options.length[code]))
            at += 3 + copy_option(mem, options, code, out, at + 3)
    return reason, bootp, bootp_end, at


class Outcome(NamedTuple):
    """reason; payload: (offset in the frame, octets) where UDP was sound; options: as `out`."""

    reason: str
    payload: tuple[int, int] | None
    options: bytes


def listed(options: dict[int, bytes]) -> bytes:
    return b"".join(struct.pack(">BH", code, len(value)) + value
                    for code, value in sorted(options.items()))


def twin(data: bytes, tags: int = 0, checksum_ready: bool = True) -> Outcome:
    """The same by the readable codec; a tag that the kernel took off is put back first."""
    whole = data[:12] + b"\x81\0\0\x07" * tags + data[12:] if len(data) >= 12 else data
    try:
        frame = Frame.decode(whole, checksum_ready=checksum_ready)
    except Malformed as problem:
        return Outcome(problem.reason, None, b"")
    ip = 14 + 4 * (len(frame.vlans) - tags)
    bounds = ip + (data[ip] & 15) * 4 + 8, len(frame.payload)
    assert data[bounds[0]:sum(bounds)] == frame.payload
    try:
        return Outcome("ok", bounds, listed(Message.decode(frame.payload).options))
    except Malformed as problem:
        return Outcome(problem.reason, bounds, b"")


def opt(code: int, *values: bytes) -> bytes:
    """Options on the wire: `code` once for each value."""
    return b"".join(bytes([code, len(value)]) + value for value in values)


def raw(options: bytes = b"\xff", *, op: int = 1, hlen: int = 6, cookie: bytes = COOKIE,
        sname: bytes = b"", file: bytes = b"") -> bytes:
    """A message offset by offset, as RFC 2131 figure 1 has it."""
    head = bytes([op, 1, hlen, 0]) + bytes(range(0x30, 0x30 + 40))
    return head + sname.ljust(64, b"\0")[:64] + file.ljust(128, b"\0")[:128] + cookie + options


def framed(payload: bytes, vlans: tuple[int, ...] = ()) -> bytes:
    return Frame(src_mac=b"\x02abcde", vlans=vlans, src_ip=IPv4Address("192.0.2.9"),
                 payload=payload).encode()


def ip_at(data: bytes) -> int:
    at = 12
    while data[at:at + 2] in (b"\x81\0", b"\x88\xa8"):
        at += 4
    return at + 2


def repaired(data: bytes, udp: bool) -> bytes:
    """`data` with right checksums, so that damage reaches what is checked after them."""
    ip = ip_at(data)
    if len(data) < ip + 28:
        return data
    made = bytearray(data)
    size = (made[ip] & 15) * 4
    made[ip + 10:ip + 12] = bytes(2)
    made[ip + 10:ip + 12] = checksum(bytes(made[ip:ip + size])).to_bytes(2, "big")
    if udp and len(made) >= ip + size + 8:
        made[ip + size + 6:ip + size + 8] = bytes(2)
    return bytes(made)
