"""Losing frames at random where the kernel has no netem: an XDP program of eighteen instructions.

It stands where frames arrive, before packet sockets hear them, and so loses frames of every
program alike, those included that send past all queues. It is written down as instructions:
a compiler and kernel headers are what such a machine lacks too. Needs root: a user namespace
may not load programs. Sources: linux/bpf.h, bpf(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from netlab.qdisc import Device

if TYPE_CHECKING:
    from netlab.tc import Tc

NAME = b"lab_loss"  # at most 15 letters (BPF_OBJ_NAME_LEN)
_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "ppc64le": 361, "s390x": 351}
_MAP_CREATE, _LOOKUP, _UPDATE, _PROG_LOAD = 0, 1, 2, 5
_PROG_BY_ID, _MAP_BY_ID, _INFO = 13, 14, 15
_ARRAY, _XDP = 2, 6
# One row: of each 2^32 frames so many are lost; lost so far.
_ROW = struct.Struct("=QQ")
_ALL = 1 << 32
# struct bpf_prog_info: nr_map_ids, map_ids, name.
_PROG_INFO = struct.Struct("=52xIQ16s")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss that is in force. lost: frames so far."""

    percent: float
    lost: int


def _bpf(command: int, attr: bytes) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(38, f"bpf(2) is not known on {platform.machine()}")
    result = _libc.syscall(ctypes.c_long(number), ctypes.c_long(command), attr,
                           ctypes.c_ulong(len(attr)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "bpf")
    return int(result)


@contextmanager
def _open(command: int, attr: bytes) -> Iterator[int]:
    """The descriptor that a command gives, closed at the end of the block."""
    descriptor = _bpf(command, attr)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, source << 4 | to, offset, value)


def _instructions(table: int) -> bytes:
    """The program that reads and counts in row 0 of the map with that descriptor."""
    make = _instruction
    return b"".join((
        make(0x62, 10, offset=-4, value=0),    # key = 0
        make(0xBF, 2, 10), make(0x07, 2, value=-4),
        make(0x18, 1, 1, value=table), make(0x00),
        make(0x85, value=1),                   # r0 = map_lookup_elem(table, &key)
        make(0x15, 0, offset=9),               # none: pass
        make(0xBF, 6, 0),
        make(0x85, value=7),                   # r0 = get_prandom_u32()
        make(0xBC, 0, 0),                      # of 32 bits
        make(0x79, 1, 6),                      # r1 = threshold
        make(0x3D, 0, 1, offset=4),            # r0 >= r1: pass
        make(0xB7, 1, value=1),
        make(0xDB, 6, 1, offset=8),            # lost += 1, atomically
        make(0xB7, 0, value=1), make(0x95),    # return XDP_DROP
        make(0xB7, 0, value=2), make(0x95),    # return XDP_PASS
    ))


@contextmanager
def loaded(percent: float) -> Iterator[int]:
    """A program that loses `percent` of all frames, loaded: its descriptor. OSError.

    It lives on after the block where it was attached.
    """
    row = ctypes.create_string_buffer(_ROW.pack(round(percent / 100 * _ALL), 0), _ROW.size)
    key = ctypes.create_string_buffer(4)
    with _open(_MAP_CREATE, struct.pack("=IIIIIII16s", _ARRAY, 4, _ROW.size, 1, 0, 0, 0,
                                        NAME)) as table:
        _bpf(_UPDATE, struct.pack("=I4xQQQ", table, ctypes.addressof(key),
                                  ctypes.addressof(row), 0))
        code = _instructions(table)
        held = ctypes.create_string_buffer(code, len(code))
        license_name = ctypes.create_string_buffer(b"GPL")
        with _open(_PROG_LOAD, struct.pack(
                "=IIQQIIQII16s", _XDP, len(code) // 8, ctypes.addressof(held),
                ctypes.addressof(license_name), 0, 0, 0, 0, 0, NAME)) as program:
            yield program


def read(program_id: int) -> Loss | None:
    """What the XDP program of that number loses; None when it is not one of ours, or gone by now.
    OSError."""
    try:
        return _read(program_id)
    except FileNotFoundError:
        return None


def _read(program_id: int) -> Loss | None:
    maps = (ctypes.c_uint32 * 1)()
    info = ctypes.create_string_buffer(
        _PROG_INFO.pack(1, ctypes.addressof(maps), b""), _PROG_INFO.size)
    with _open(_PROG_BY_ID, struct.pack("=III", program_id, 0, 0)) as program:
        _bpf(_INFO, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    _, _, name = _PROG_INFO.unpack(info.raw)
    if name.rstrip(b"\0") != NAME:
        return None
    row, key = ctypes.create_string_buffer(_ROW.size), ctypes.create_string_buffer(4)
    with _open(_MAP_BY_ID, struct.pack("=III", maps[0], 0, 0)) as table:
        _bpf(_LOOKUP, struct.pack("=I4xQQQ", table, ctypes.addressof(key),
                                  ctypes.addressof(row), 0))
    threshold, lost = _ROW.unpack(row.raw)
    return Loss(round(threshold / _ALL * 100, 6), lost)


def put(tc: Tc, device: Device, percent: float) -> None:
    """Lose `percent` of what arrives at the interface, from now on; 0 takes our program off.

    OSError EBUSY when a program of somebody else's is there.
    """
    ours = device.xdp_program > 0 and read(device.xdp_program) is not None
    if percent:
        with loaded(percent) as program:
            tc.attach(device.index, program, replace=ours)
    elif ours:
        tc.attach(device.index, -1)
