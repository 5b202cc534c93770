"""The lease table: one row per address, found by client or by address in O(1).

A row is never deleted. FREE rows wait in a queue, oldest first, so that an address rests as
long as possible before another client gets it (RFC 2131 section 4.3.1); a FREE row still
knows its last client, who gets it back if he returns in time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel
from fastpath.siphash import Words, make_key, siphash
from fastpath.wheel import Wheel, advance, arm, disarm, make_wheel

FREE, OFFERED, BOUND, DECLINED, EXCLUDED = 0, 1, 2, 3, 4
STATES = ("free", "offered", "bound", "declined", "excluded")
NONE = -1
FOREVER_S = 0xFFFFFFFF

# A client's identity is four words. Octet 0 says what kind it is, octet 1 how long; a client
# identifier that does not fit in the other 30 is there as two keyed hashes of it.
IDENTITY_WORDS, IDENTITY_ROOM = 4, 30
BY_CHADDR, BY_CLIENT_ID, BY_LONG_CLIENT_ID = 1, 2, 3

# One turn of the wheel is 36 hours of one-second ticks: 1 MiB.
_WHEEL_SLOTS = 1 << 17
# Cells of `Leases.queue`: the oldest free row, the newest, and rows in each state.
OLDEST, NEWEST, COUNTS = 0, 1, 2


class Leases(NamedTuple):
    """The arrays of the table; row r is the address `first + r`.

    state: uint8[rows], one of STATES.
    identity: uint64[rows, 4], the client, or the last one; all 0 where there was none.
    hardware: uint64[rows], chaddr of that client, its first six octets.
    expires_s: int64[rows], second at which an OFFERED, BOUND or DECLINED row falls free.
    bucket, chain: int32, hash table by identity: first row of a bucket, next row after a row.
    older, newer: int32[rows], the queue of FREE rows as a doubly linked list.
    queue: int64[2 + 5], OLDEST and NEWEST free row, then how many rows are in each state.
    key: uint64[2], of the hash.
    """

    state: npt.NDArray[np.uint8]
    identity: Words
    hardware: Words
    expires_s: npt.NDArray[np.int64]
    bucket: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]
    older: npt.NDArray[np.int32]
    newer: npt.NDArray[np.int32]
    queue: npt.NDArray[np.int64]
    key: Words


def make_leases(rows: int, excluded: list[int]) -> tuple[Leases, Wheel]:
    """An empty table of `rows` addresses and the wheel that frees them, a tick a second.

    excluded: rows that are never given out (the server's own address, the gateway's).
    """
    buckets = 1 << max(4, (rows - 1).bit_length())
    leases = Leases(
        state=np.zeros(rows, np.uint8),
        identity=np.zeros((rows, IDENTITY_WORDS), np.uint64),
        hardware=np.zeros(rows, np.uint64),
        expires_s=np.zeros(rows, np.int64),
        bucket=np.full(buckets, NONE, np.int32),
        chain=np.full(rows, NONE, np.int32),
        older=np.full(rows, NONE, np.int32),
        newer=np.full(rows, NONE, np.int32),
        queue=np.zeros(COUNTS + len(STATES), np.int64),
        key=make_key(),
    )
    leases.state[excluded] = EXCLUDED
    free = np.flatnonzero(leases.state == FREE).astype(np.int32)
    leases.newer[free[:-1]], leases.older[free[1:]] = free[1:], free[:-1]
    ends = (free[0], free[-1]) if len(free) else (NONE, NONE)
    leases.queue[[OLDEST, NEWEST]] = ends
    leases.queue[COUNTS:] = np.bincount(leases.state, minlength=len(STATES))
    return leases, make_wheel(rows, _WHEEL_SLOTS)


@kernel
def _bucket_of(leases: Leases, who: Words) -> int:
    return np.int64(siphash(leases.key, who, IDENTITY_WORDS, 0) & np.uint64(len(leases.bucket) - 1))


@kernel
def _same(leases: Leases, row: int, who: Words) -> bool:
    known = leases.identity
    return bool(known[row, 0] == who[0] and known[row, 1] == who[1]
                and known[row, 2] == who[2] and known[row, 3] == who[3])


@kernel
def find_client(leases: Leases, who: Words) -> int:
    """The row that is or was this client's, or NONE."""
    row = np.int64(leases.bucket[_bucket_of(leases, who)])
    while row != NONE and not _same(leases, row, who):
        row = np.int64(leases.chain[row])
    return row


@kernel
def _forget_client(leases: Leases, row: int) -> None:
    """Take the row out of the hash table, if a client of it is there."""
    if leases.identity[row, 0] == 0:
        return
    b = _bucket_of(leases, leases.identity[row])
    at = np.int64(leases.bucket[b])
    if at == row:
        leases.bucket[b] = leases.chain[row]
    else:
        while leases.chain[at] != row:
            at = np.int64(leases.chain[at])
        leases.chain[at] = leases.chain[row]
    leases.identity[row] = 0


@kernel
def _know_client(leases: Leases, row: int, who: Words) -> None:
    """Enter the row under `who`, of whom no other row may be."""
    b = _bucket_of(leases, who)
    leases.chain[row] = leases.bucket[b]
    leases.bucket[b] = row
    for i in range(IDENTITY_WORDS):
        leases.identity[row, i] = who[i]


@kernel
def _enqueue(leases: Leases, row: int) -> None:
    """Make the row the newest of the free ones."""
    last = leases.queue[NEWEST]
    leases.older[row] = last
    leases.newer[row] = NONE
    if last == NONE:
        leases.queue[OLDEST] = row
    else:
        leases.newer[last] = row
    leases.queue[NEWEST] = row


@kernel
def _dequeue(leases: Leases, row: int) -> None:
    before, after = np.int64(leases.older[row]), np.int64(leases.newer[row])
    if before == NONE:
        leases.queue[OLDEST] = after
    else:
        leases.newer[before] = after
    if after == NONE:
        leases.queue[NEWEST] = before
    else:
        leases.older[after] = before


@kernel
def _move(leases: Leases, wheel: Wheel, row: int, state: int, until_s: int) -> None:
    """Change a row's state; `until_s` is when it falls free, FOREVER_S for never."""
    was = np.int64(leases.state[row])
    if was == FREE and state != FREE:
        _dequeue(leases, row)
    elif was != FREE and state == FREE:
        _enqueue(leases, row)
    leases.queue[COUNTS + was] -= 1
    leases.queue[COUNTS + state] += 1
    leases.state[row] = state
    leases.expires_s[row] = until_s
    if state == FREE or until_s == FOREVER_S:
        disarm(wheel, row)
    else:
        arm(wheel, row, until_s)


@kernel
def take(leases: Leases, wheel: Wheel, row: int, who: Words, hardware: int, state: int,
         until_s: int) -> None:
    """Make the row `who`'s: OFFERED or BOUND until `until_s`.

    The row is FREE or already his. A row he had before falls free: a client has one address.
    """
    if not _same(leases, row, who):
        other = find_client(leases, who)
        if other != NONE:
            free(leases, wheel, other)
            _forget_client(leases, other)
        _forget_client(leases, row)
        _know_client(leases, row, who)
    leases.hardware[row] = hardware
    _move(leases, wheel, row, state, until_s)


@kernel
def free(leases: Leases, wheel: Wheel, row: int) -> None:
    """End an offer or a lease; the row remembers its client until it goes to another."""
    if leases.state[row] == OFFERED or leases.state[row] == BOUND:
        _move(leases, wheel, row, FREE, 0)


@kernel
def decline(leases: Leases, wheel: Wheel, row: int, until_s: int) -> None:
    """Lock an address that somebody else was found to use (RFC 2131 section 4.3.3)."""
    _forget_client(leases, row)
    _move(leases, wheel, row, DECLINED, until_s)


@kernel
def oldest_free(leases: Leases) -> int:
    """The row that has been free for longest, or NONE."""
    return leases.queue[OLDEST]


@kernel
def expire(leases: Leases, wheel: Wheel, now_s: int, fired: npt.NDArray[np.int32]) -> int:
    """Free at most len(fired) rows whose time ended at or before `now_s`; returns how many.

    Walks the wheel, not the table: cost does not grow with the pool.
    """
    count = advance(wheel, now_s, fired, len(fired))
    for i in range(count):
        _move(leases, wheel, np.int64(fired[i]), FREE, 0)
    return count
