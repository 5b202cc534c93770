"""One change of a lease as octets: what the lease file is made of.

A record is written by the kernels while they decide, and read back when the server starts,
compacts, or shows the file. All numbers are little-endian; a record is a multiple of 8 octets.

      0  u32  address
      4  u8   state: FREE (given back or ended), BOUND or DECLINED, as in `leases.STATES`
      5  u8   prefix length of the address's subnet
      6  u8   htype    7  u8  hlen    8  16 octets  chaddr
     24  i64  when it ends, Unix seconds; FOREVER for never
     32  i64  when it was written, Unix seconds
     40  u16  length of the client identifier, 0 for none
     42  u16  0
     44  u32  lease time, seconds
     48  the client identifier, padded with zeros
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory
from fastpath.jit import kernel

R_ADDRESS, R_STATE, R_PREFIX, R_HTYPE, R_HLEN, R_CHADDR = 0, 4, 5, 6, 7, 8
R_ENDS, R_WRITTEN, R_ID_LENGTH, R_LEASE, R_ID = 24, 32, 40, 44, 48
# A message, and so its client identifier, is shorter than a slot.
MOST_RECORD = R_ID + 2048
FOREVER = (1 << 63) - 1
# Of `leases.STATES`, those that are kept: an offer is a promise of seconds.
STATE_NAMES = {0: "free", 2: "bound", 3: "declined"}

_FIXED = struct.Struct("<IBBBB16sqqHHI")
_MOST_HLEN, _MOST_PREFIX, _MOST_ID = 16, 32, MOST_RECORD - R_ID


@kernel
def put_le(mem: Memory, at: int, value: int, count: int) -> None:
    """Write `count` octets of a number, the lowest first."""
    for i in range(count):
        mem[at + i] = value >> (8 * i) & 0xFF


@kernel
def get_le(mem: Memory, at: int, count: int) -> int:
    """The unsigned number in `count` (at most 8) octets, the lowest first; i64 if 8."""
    value = np.int64(0)
    for i in range(count):
        value |= np.int64(mem[at + i]) << (8 * i)
    return value


@kernel
def record_size(id_length: int) -> int:
    """Octets of a record whose client identifier has `id_length`."""
    return R_ID + (id_length + 7 & ~7)


@kernel
def count_records(mem: Memory, size: int) -> int:
    """How many records fill the first `size` octets exactly, or -1 where they are not sound.

    `record_starts` is the same without compiled code.
    """
    at, count = np.int64(0), np.int64(0)
    while at < size:
        if at + R_ID > size:
            return -1
        state, id_length = mem[at + R_STATE], get_le(mem, at + R_ID_LENGTH, 2)
        if ((state != 0 and state != 2 and state != 3) or mem[at + R_PREFIX] > _MOST_PREFIX
                or mem[at + R_HLEN] > _MOST_HLEN or id_length > _MOST_ID
                or get_le(mem, at + R_ID_LENGTH + 2, 2) != 0):
            return -1
        at += record_size(id_length)
        count += 1
    return count if at == size else -1


def record_starts(records: Memory) -> npt.NDArray[np.int64] | None:
    """Where each record begins; None unless sound records fill `records` exactly.

    Without compiled code, and still a fraction of a microsecond a record: compaction runs in
    a process that should not wait for a compiler.
    """
    if len(records) % 8:
        return None
    words = np.ascontiguousarray(records).view("<u8")
    slots = len(words)
    # As if a record began at each word; the walk then picks those where one does.
    id_words = (words[R_ID_LENGTH // 8:] & np.uint64(0xFFFF)).astype(np.int64) + 7 >> 3
    after = (np.arange(len(id_words)) + R_ID // 8 + id_words).tolist()
    starts, at = [], 0
    while at < len(after):
        starts.append(at)
        at = after[at]
    if at != slots:
        return None
    found = np.array(starts, np.int64) * 8
    sound = (np.isin(records[found + R_STATE], list(STATE_NAMES)).all()
             and (records[found + R_PREFIX] <= _MOST_PREFIX).all()
             and (records[found + R_HLEN] <= _MOST_HLEN).all())
    lengths = words[(found + R_ID_LENGTH) // 8] & np.uint64(0xFFFFFFFF)
    return found if sound and (lengths <= _MOST_ID).all() else None


def fields(records: Memory, starts: npt.NDArray[np.int64], at: int,
           kind: str) -> npt.NDArray[np.int64]:
    """One number of every record, as int64: the `kind` ("<u4", "<i8") at octet `at` of it."""
    width = np.dtype(kind).itemsize
    octets = records[starts[:, None] + np.arange(at, at + width)]
    numbers: npt.NDArray[np.int64] = octets.view(kind)[:, 0].astype(np.int64)
    return numbers


@dataclass(frozen=True, slots=True)
class Lease:
    """A record, readable.

    state: "free", "bound" or "declined". prefix: bits of the subnet's mask. client_id: the
    client identifier, empty for none. ends: Unix seconds, None for never. written: Unix seconds.
    """

    address: IPv4Address
    state: str
    prefix: int
    htype: int
    chaddr: bytes
    client_id: bytes
    ends: int | None
    written: int
    lease_time_s: int


_STATE_NUMBERS = {name: number for number, name in STATE_NAMES.items()}


def encode_record(lease: Lease) -> bytes:
    """The record of a lease; raises ValueError where a field does not fit."""
    if lease.state not in _STATE_NUMBERS:
        raise ValueError(f"state {lease.state!r} is none of {', '.join(_STATE_NUMBERS)}")
    for what, value, most in (("chaddr", len(lease.chaddr), _MOST_HLEN),
                              ("client identifier", len(lease.client_id), _MOST_ID)):
        if value > most:
            raise ValueError(f"{what} of {value} octets, at most {most} fit")
    for what, value, most in (("prefix", lease.prefix, _MOST_PREFIX), ("htype", lease.htype, 255),
                              ("lease time", lease.lease_time_s, 0xFFFFFFFF),
                              ("time of writing", lease.written, FOREVER),
                              ("end", lease.ends or 0, FOREVER - 1)):
        if not 0 <= value <= most:
            raise ValueError(f"{what} {value} is not between 0 and {most}")
    ends = FOREVER if lease.ends is None else lease.ends
    fixed = _FIXED.pack(int(lease.address), _STATE_NUMBERS[lease.state], lease.prefix,
                        lease.htype, len(lease.chaddr), lease.chaddr, ends, lease.written,
                        len(lease.client_id), 0, lease.lease_time_s)
    return fixed + lease.client_id + bytes(-len(lease.client_id) % 8)


def decode_record(records: bytes | memoryview, at: int) -> Lease:
    """The record that begins at `at`; it must be sound, as those of `record_starts` are."""
    (address, state, prefix, htype, hlen, chaddr, ends, written, id_length, _,
     lease_time_s) = _FIXED.unpack_from(records, at)
    client_id = bytes(records[at + R_ID:at + R_ID + id_length])
    return Lease(IPv4Address(address), STATE_NAMES[state], prefix, htype, chaddr[:hlen],
                 client_id, None if ends == FOREVER else ends, written, lease_time_s)
