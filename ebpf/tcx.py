"""Programs on interfaces by links of their own (TCX, Linux 6.6), where there is no qdisc.

Nothing is stopped while they come and go, so not a frame is lost to it; they cost less than
filters do; and they end with the process that holds them, whatever happens to it. All of it
happens in the network namespace of the calling thread. Sources: bpf(2), linux/bpf.h,
kernel/bpf/tcx.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from ebpf.module import Kind

ARRIVING, DEPARTING = 46, 47  # enum bpf_attach_type

# asm/unistd.h
_SYS_BPF = {"x86_64": 321, "aarch64": 280, "riscv64": 280}.get(platform.machine(), 280)
_PROG_LOAD, _LINK_CREATE = 5, 28  # enum bpf_cmd
_BEFORE, _AFTER = 1 << 3, 1 << 4
# The parts of union bpf_attr that these two need.
_PROGRAM = struct.Struct("=IIQQ")
_LINK = struct.Struct("=IIII")
_ATTR_SIZE = 64
# linux/bpf.h, struct bpf_insn: code, registers (target, source << 4), offset, value.
_INSTRUCTION = struct.Struct("=BBhi")
_CLASSID_AT = 72  # of struct __sk_buff

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Point:
    """A program at one side of an interface. first: before those that are there, else after."""

    ifname: str
    side: int
    program: int
    first: bool


def _bpf(command: int, attributes: bytes) -> int:
    held = ctypes.create_string_buffer(attributes.ljust(_ATTR_SIZE, b"\0"), _ATTR_SIZE)
    found = int(_libc.syscall(_SYS_BPF, command, held, _ATTR_SIZE))
    if found < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return found


def numbered(number: int, programs: int, which: int) -> int:
    """A program that hands `number` to another one as its tc_classid, as a filter would.

    programs: descriptor of a map of programs; which: the other's place in it. Returns a
    descriptor, which whoever asked closes. Raises OSError.
    """
    code = b"".join(_INSTRUCTION.pack(*each) for each in (
        (0xB7, 2, 0, number),               # r2 = number
        (0x63, 1 | 2 << 4, _CLASSID_AT, 0),  # skb->tc_classid = r2
        (0x18, 2 | 1 << 4, 0, programs), (0, 0, 0, 0),
        (0xB7, 3, 0, which),
        (0x85, 0, 0, 12),                   # bpf_tail_call(skb, programs, which)
        (0xB7, 0, 0, -1),                   # TC_ACT_UNSPEC, should it not be there
        (0x95, 0, 0, 0)))
    octets, licence = ctypes.create_string_buffer(code, len(code)), ctypes.c_char_p(b"GPL")
    return _bpf(_PROG_LOAD, _PROGRAM.pack(
        Kind.TC, len(code) // _INSTRUCTION.size, ctypes.addressof(octets),
        ctypes.cast(licence, ctypes.c_void_p).value or 0))


def put(points: Iterable[Point]) -> list[int]:
    """Put the programs there; descriptors of links, which hold them until they are closed.

    Raises OSError, ENODEV where there is no such interface and EINVAL where the kernel knows no
    such links; nothing stays then.
    """
    links: list[int] = []
    try:
        for each in points:
            try:
                index = socket.if_nametoindex(each.ifname)
            except OSError:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), each.ifname) from None
            links.append(_bpf(_LINK_CREATE, _LINK.pack(
                each.program, index, each.side, _BEFORE if each.first else _AFTER)))
    except BaseException:
        take(links)
        raise
    return links


def take(links: Iterable[int]) -> None:
    """Take them off again."""
    for link in links:
        os.close(link)
