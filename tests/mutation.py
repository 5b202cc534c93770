"""Hostile frames from sound ones: a kernel that copies a seed into memory and spoils it.

The one thing to know: frame number n of a run is known by its reply. Its number is its xid, and
the last two octets of `chaddr`, which no identity of up to 14 octets has; and every secret in
it (`secret`) is rewritten to name the frame, or the client, whose it is.
"""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment, no-any-return, return-value"

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import put48
from fastpath.frame import END, Memory, be32, copy, fold, put16, put32, sum16
from fastpath.jit import kernel
from fastpath.siphash import Words

# Columns of `Seeds.frame`, offsets from the start of the frame: IPv4, BOOTP, the END of its
# options field, the values of options 50 and 54, the last four octets of option 61 (0 where
# absent); whether giaddr is set; its options in `Seeds.option`.
(S_AT, S_LENGTH, S_IP, S_BOOTP, S_END, S_WANTED, S_SERVER, S_IDENTITY, S_RELAYED, S_FIRST,
 S_OPTIONS) = range(11)
# Columns of `networks`: giaddr (unused in the first, whose clients need no relay), first
# address of the pool, how many.
N_GIADDR, N_FIRST, N_SIZE = range(3)
MOST_LENGTH = 1900
SLOT_NUMBERS = 1 << 13
CLIENT_MAC = 0x02667A000000
MARK = b"\xc5\x5e\xc2"
OF_FRAME, OF_CLIENT = ord("f"), ord("c")
_M0, _M1, _M2 = MARK
_XID, _CIADDR, _GIADDR, _CHADDR, _OPTIONS = (wire.XID, wire.CIADDR, wire.GIADDR, wire.CHADDR,
                                             wire.OPTIONS)
_U13, _U7, _U17, _U32 = np.uint64(13), np.uint64(7), np.uint64(17), np.uint64(32)
# How many edits a frame gets, and octets and addresses that mean something to a server.
EDITS = np.array([0, 0, 0, 1, 1, 2, 3, 7])
OCTETS = np.array([0, 1, 2, 3, 4, 5, 50, 51, 52, 53, 54, 55, 57, 61, 77, 80, 82, 108, 118, 255])
ADDRESSES = np.array([0, 0xFFFFFFFF, 0xC0000201, 0xC00002FF, 0xC0000210, 0x7F000001, 0xE0000001,
                      0x0A010001, 0x0A020011, 0x0A630010])


class Seeds(NamedTuple):
    """Sound frames. mem: uint8, one behind the other. frame: int64[n, 11], by S_*.

    option: int64[m, 2], where in `mem` an option of any of them starts, and its whole size.
    tail: int64[1], where the next option goes that is appended to the frame at hand.
    """

    mem: Memory
    frame: npt.NDArray[np.int64]
    option: npt.NDArray[np.int64]
    tail: npt.NDArray[np.int64]


def secret(kind: int) -> bytes:
    """Eight octets that `mutate` makes those of one frame (OF_FRAME) or client (OF_CLIENT)."""
    return MARK + bytes([kind]) + bytes(4)


def _layout(data: bytes) -> tuple[list[int], list[tuple[int, int]]]:
    """(S_IP to S_RELAYED, options as offset and whole size) of a sound frame."""
    ip = 14
    while data[ip - 2:ip] in (b"\x81\0", b"\x88\xa8"):
        ip += 4
    bootp = ip + (data[ip] & 15) * 4 + 8
    at, values = bootp + _OPTIONS, {50: 0, 54: 0, 61: 0}
    options: list[tuple[int, int]] = []
    has_cookie = data[bootp + wire.COOKIE:at] == wire.MAGIC_COOKIE.to_bytes(4, "big")
    while has_cookie and at < len(data) and data[at] != END:
        if data[at] == 0:
            at += 1
            continue
        options.append((at, 2 + data[at + 1]))
        size = data[at + 1]
        values[data[at]] = at + 2 + (max(size - 4, 0) if data[at] == 61 else 0)
        at += 2 + size
    relayed = any(data[bootp + _GIADDR:bootp + _GIADDR + 4])
    return [ip, bootp, min(at, len(data) - 1), values[50], values[54], values[61],
            int(relayed)], options


def make_seeds(frames: Iterable[bytes]) -> Seeds:
    """Seeds of sound frames to a server."""
    mem, rows = b"", []
    options: list[tuple[int, int]] = []
    for data in frames:
        places, found = _layout(data)
        rows.append([len(mem), len(data), *places, len(options), len(found)])
        options += [(len(mem) + at, size) for at, size in found]
        mem += data
    return Seeds(np.frombuffer(mem, np.uint8).copy(), np.array(rows, np.int64),
                 np.array(options, np.int64), np.zeros(1, np.int64))


def make_chance(seed: int) -> Words:
    """The state of a random sequence that follows from `seed`; it must not be 0."""
    return np.array([(seed * 0x9E3779B97F4A7C15 + 1) & 0xFFFFFFFFFFFFFFFF or 1], np.uint64)


@kernel
def pick(chance: Words, count: int) -> int:
    """A number from 0 to `count` - 1 (Marsaglia, xorshift64)."""
    x = chance[0]
    x ^= x << _U13
    x ^= x >> _U7
    x ^= x << _U17
    chance[0] = x
    return np.int64(x >> _U32) % count


@kernel
def _pick_octet(chance: Words) -> int:
    if pick(chance, 2):
        return np.int64(OCTETS[pick(chance, len(OCTETS))])
    return pick(chance, 256)


@kernel
def _dress(networks: npt.NDArray[np.int64], mem: Memory, at: int, row: npt.NDArray[np.int64],
           client: int, chance: Words) -> None:
    """Make it a message of one client: his hardware, his network, mostly his address there."""
    bootp = at + row[S_BOOTP]
    put48(mem, bootp + _CHADDR, CLIENT_MAC + (client if pick(chance, 16)
                                              else pick(chance, 1 << 24)))
    network = np.int64(0)
    if row[S_RELAYED]:
        network = 1 + client % (len(networks) - 1)
        put32(mem, bootp + _GIADDR, networks[network, N_GIADDR])
    address = networks[network, N_FIRST] + client % networks[network, N_SIZE]
    if pick(chance, 8) == 0:
        address = ADDRESSES[pick(chance, len(ADDRESSES))]
    if row[S_IDENTITY]:
        put32(mem, at + row[S_IDENTITY], client)
    if row[S_WANTED]:
        put32(mem, at + row[S_WANTED], address)
    if be32(mem, bootp + _CIADDR) != 0:
        put32(mem, bootp + _CIADDR, address)
    if row[S_SERVER] and pick(chance, 16) == 0:
        put32(mem, at + row[S_SERVER], ADDRESSES[pick(chance, len(ADDRESSES))])


@kernel
def _splice(seeds: Seeds, mem: Memory, at: int, to: int, length: int, chance: Words) -> int:
    """Copy some option of some seed to `to`; returns where it ends, or `to` without room."""
    start, size = seeds.option[pick(chance, len(seeds.option))]
    if to >= length or to + size + 1 > MOST_LENGTH:
        return to
    copy(mem, at + to, seeds.mem, start, size)
    return to + size


@kernel
def _edit_lengths(mem: Memory, at: int, length: int, row: npt.NDArray[np.int64], which: int,
                  chance: Words) -> int:
    """Lie about a length: of IP, of UDP, of the frame; returns that of the frame."""
    ip, udp = row[S_IP], row[S_BOOTP] - 8
    if which == 0 and length >= udp:
        if pick(chance, 2):
            put16(mem, at + ip + 2, pick(chance, 2048))
        else:
            mem[at + ip] = pick(chance, 256)
    elif which == 1 and length >= udp + 8:
        put16(mem, at + udp + 4, pick(chance, 2048))
    elif which == 2 and length > row[S_BOOTP]:
        length = (row[S_BOOTP] if pick(chance, 2) else np.int64(0)) + pick(
            chance, length - row[S_BOOTP])
    elif which == 3:
        more = min(pick(chance, 600), MOST_LENGTH - length)
        octet, step = pick(chance, 256), pick(chance, 3)
        for i in range(more):
            mem[at + length + i] = octet + step * i & 0xFF
        length += more
    return length


@kernel
def _edit(seeds: Seeds, networks: npt.NDArray[np.int64], mem: Memory, at: int, length: int,
          row: npt.NDArray[np.int64], chance: Words) -> int:
    """Change one thing; returns the new length of the frame."""
    how, options = pick(chance, 16), row[S_BOOTP] + _OPTIONS
    if how < 4 and length > options:
        where = at + options + pick(chance, length - options)
        mem[where] = _pick_octet(chance)
    elif how == 4 and length > 0:
        where = at + pick(chance, length)
        mem[where] = np.int64(mem[where]) ^ 1 << pick(chance, 8)
    elif how == 5 and length >= options:
        where = at + row[S_BOOTP] + pick(chance, _OPTIONS)
        mem[where] = _pick_octet(chance)
    elif 6 <= how <= 7 and row[S_OPTIONS] > 0:
        where = seeds.option[row[S_FIRST] + pick(chance, row[S_OPTIONS]), 0] - row[S_AT] + 1
        value = pick(chance, 256) if pick(chance, 2) else np.int64(
            mem[at + where]) + pick(chance, 5) - 2
        if where < length:
            mem[at + where] = value & 0xFF
    elif 8 <= how <= 11:
        length = _edit_lengths(mem, at, length, row, how - 8, chance)
    elif 12 <= how <= 13:
        tail = _splice(seeds, mem, at, seeds.tail[0], length, chance)
        if tail != seeds.tail[0]:
            mem[at + tail] = END
            seeds.tail[0] = tail
            length = max(length, tail + 1)
    elif how == 14 and row[S_OPTIONS] > 0:
        where = seeds.option[row[S_FIRST] + pick(chance, row[S_OPTIONS]), 0] - row[S_AT]
        after = _splice(seeds, mem, at, where, length, chance)
        if after != where:
            length = max(length, after)
    elif how == 15 and length >= options:
        address = (ADDRESSES[pick(chance, len(ADDRESSES))] if pick(chance, 2)
                   else networks[pick(chance, len(networks)), N_FIRST] + pick(chance, 8))
        put32(mem, at + row[S_BOOTP] + _CIADDR + 4 * pick(chance, 4), address)
    return length


@kernel
def _sign(mem: Memory, at: int, length: int, bootp: int, number: int, client: int) -> None:
    """Write the frame's number, and whose each secret is."""
    for i in range(at + bootp, at + length - 7):
        if mem[i] == _M0 and mem[i + 1] == _M1 and mem[i + 2] == _M2:
            if mem[i + 3] == OF_FRAME:
                put32(mem, i + 4, number & 0xFFFFFFFF)
            elif mem[i + 3] == OF_CLIENT:
                put32(mem, i + 4, client)
    if length >= bootp + _OPTIONS:
        put32(mem, at + bootp + _XID, number & 0xFFFFFFFF)
        put16(mem, at + bootp + _CHADDR + 14, number % SLOT_NUMBERS)


@kernel
def _repair(seeds: Seeds, mem: Memory, at: int, length: int, row: npt.NDArray[np.int64],
            chance: Words) -> None:
    """Make most frames sound up to UDP, so that what they say is looked at."""
    how, ip, udp = pick(chance, 24), at + row[S_IP], at + row[S_BOOTP] - 8
    if how == 0 or length < row[S_BOOTP]:
        return
    if how > 3:
        copy(mem, at, seeds.mem, row[S_AT], row[S_BOOTP])
    if how > 1:
        put16(mem, ip + 2, length - row[S_IP])
        put16(mem, udp + 4, length - row[S_BOOTP] + 8)
    put16(mem, ip + 10, 0)
    put16(mem, ip + 10, fold(sum16(mem, ip, udp - ip)))
    if how > 2:
        put16(mem, udp + 6, 0)
        if pick(chance, 4):
            size = length - row[S_BOOTP] + 8
            total = fold(sum16(mem, ip + 12, 8) + 17 + size + sum16(mem, udp, size))
            put16(mem, udp + 6, total if total else 0xFFFF)


@kernel
def mutate(seeds: Seeds, networks: npt.NDArray[np.int64], clients: int, mem: Memory, at: int,
           number: int, chance: Words) -> int:
    """Write frame `number` to mem[at:], at most MOST_LENGTH octets; returns how many.

    networks: int64[n, 3], by N_*. clients: how many there are. About 80 % pass the checks of
    IPv4 and UDP.
    """
    row = seeds.frame[pick(chance, len(seeds.frame))]
    length = np.int64(row[S_LENGTH])
    copy(mem, at, seeds.mem, row[S_AT], length)
    client = pick(chance, clients)
    _dress(networks, mem, at, row, client, chance)
    seeds.tail[0] = row[S_END]
    for _ in range(EDITS[pick(chance, len(EDITS))]):
        length = _edit(seeds, networks, mem, at, length, row, chance)
    _sign(mem, at, length, row[S_BOOTP], number, client)
    _repair(seeds, mem, at, length, row, chance)
    return length
