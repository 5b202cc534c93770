"""The lease table: one row per address, found by client or by address in O(1).

A row is never deleted. FREE rows wait in a queue, oldest first, one queue a pool, so that an
address rests as long as possible before another client gets it (RFC 2131 section 4.3.1); a
FREE row still knows its last client, who gets it back if he returns in time. A RESERVED row is
free too, but in no queue: only its owner gets it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel
from fastpath.siphash import Words, make_key, siphash
from fastpath.wheel import MASK32, Wheel, advance, arm, disarm, make_wheel

FREE, OFFERED, BOUND, DECLINED, EXCLUDED, RESERVED = range(6)
STATES = ("free", "offered", "bound", "declined", "excluded", "reserved")
NONE = -1
# A lease time, and the end of a lease, that never comes.
FOREVER_S = 0xFFFFFFFF

# A client's identity is four words. Octet 0 says what kind it is, octet 1 how long, octets 2
# and 3 on which network he is: the same client elsewhere is another. An identifier that does
# not fit in the other 28 is there as two keyed hashes of it.
IDENTITY_WORDS, IDENTITY_ROOM, IDENTITY_AT = 4, 28, 4
BY_CHADDR, BY_CLIENT_ID, BY_CIRCUIT_ID, LONG = 1, 2, 3, 0x80

# One turn of the wheel is 36 hours of one-second ticks: 1 MiB.
_WHEEL_SLOTS = 1 << 17
# Rows whose change is remembered while the table is being copied (`watch_changes`).
_CHANGES = 1 << 16
# Columns of `Leases.ends`.
OLDEST, NEWEST = 0, 1
# Cells of `Leases.totals`: rows in each state, then how many changes are remembered, or NONE.
CHANGES = len(STATES)


class Leases(NamedTuple):
    """The arrays of the table. Rows of one range of addresses are consecutive.

    state: uint8[rows], one of STATES. home: uint8[rows], FREE or RESERVED: what it falls
        back to.
    identity: uint64[rows, 4], the client, or the last one; all 0 where there was none.
    hardware: uint64[rows], chaddr of that client, its first six octets.
    expires_s: uint32[rows], Unix second at which an OFFERED, BOUND or DECLINED row falls free;
        the same memory as the wheel's `due`.
    bucket, chain: int32, hash table by identity: first row of a bucket, next row after a row.
    older, newer: int32[rows], the queues of FREE rows as doubly linked lists; the same memory
        as the wheel's links, for a row is in a queue or has a deadline, never both.
    ends: int32[pools, 2], OLDEST and NEWEST free row of each pool.
    first_row, pool: int64, int32 by range of addresses: its first row, and its pool or NONE.
    used: int64[pools + 1, 6], rows in each state by pool; the last for those of none.
    totals: int64[7], see CHANGES. changed: int32, the rows of those changes.
    key: uint64[2], of the hash.
    """

    state: npt.NDArray[np.uint8]
    home: npt.NDArray[np.uint8]
    identity: Words
    hardware: Words
    expires_s: npt.NDArray[np.uint32]
    bucket: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]
    older: npt.NDArray[np.int32]
    newer: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    first_row: npt.NDArray[np.int64]
    pool: npt.NDArray[np.int32]
    used: npt.NDArray[np.int64]
    totals: npt.NDArray[np.int64]
    changed: npt.NDArray[np.int32]
    key: Words


class Span(NamedTuple):
    """One range of addresses as rows: how many, and their pool, or NONE for reserved ones only."""

    rows: int
    pool: int


def make_leases(spans: list[Span], excluded: list[int], reserved: list[int], now_s: int = 0,
                key: Words | None = None) -> tuple[Leases, Wheel]:
    """An empty table of the addresses of `spans` and the wheel that frees them, a tick a second.

    excluded, reserved: rows that nobody, or only their owner, is given. key: of the hash; a
    fresh one if None. Large arrays are filled by kernels, so that another thread can go on.
    """
    rows = sum(span.rows for span in spans)
    pools = max((span.pool for span in spans), default=NONE) + 1
    first_row = np.cumsum([0, *(span.rows for span in spans)], dtype=np.int64)
    wheel = make_wheel(rows, _WHEEL_SLOTS, now_s)
    leases = Leases(
        state=np.zeros(rows, np.uint8),
        home=np.zeros(rows, np.uint8),
        identity=np.zeros((rows, IDENTITY_WORDS), np.uint64),
        hardware=np.zeros(rows, np.uint64),
        expires_s=wheel.due,
        bucket=np.full(1 << max(4, (rows - 1).bit_length()), NONE, np.int32),
        chain=np.empty(rows, np.int32),
        older=wheel.prev[:rows],
        newer=wheel.next[:rows],
        ends=np.full((pools, 2), NONE, np.int32),
        first_row=first_row,
        pool=np.array([span.pool for span in spans], np.int32),
        used=np.zeros((pools + 1, len(STATES)), np.int64),
        totals=np.zeros(len(STATES) + 1, np.int64),
        changed=np.zeros(_CHANGES, np.int32),
        key=make_key() if key is None else key,
    )
    leases.totals[CHANGES] = NONE
    leases.home[reserved] = RESERVED
    leases.state[reserved] = RESERVED
    leases.state[excluded] = EXCLUDED
    fill_queues(leases)
    return leases, wheel


@kernel
def fill_queues(leases: Leases) -> None:
    """Count the rows of a fresh table and queue the free ones, lowest address first."""
    for span in range(len(leases.pool)):
        for row in range(leases.first_row[span], leases.first_row[span + 1]):
            leases.chain[row] = NONE
            state = np.int64(leases.state[row])
            leases.totals[state] += 1
            leases.used[_kept_under(leases, np.int64(leases.pool[span])), state] += 1
            if state == FREE:
                _enqueue(leases, np.int64(row))


@kernel
def _kept_under(leases: Leases, pool: int) -> int:
    """The row of `used` for a pool, or for NONE."""
    return np.int64(len(leases.ends)) if pool == NONE else pool


@kernel
def span_of(leases: Leases, row: int) -> int:
    """The range that a row belongs to."""
    low = np.int64(0)
    high = np.int64(len(leases.pool) - 1)
    while low < high:
        middle = (low + high + 1) >> 1
        if leases.first_row[middle] <= row:
            low = middle
        else:
            high = middle - 1
    return low


@kernel
def pool_of(leases: Leases, row: int) -> int:
    """The pool of a row; NONE for an address that is only reserved."""
    return np.int64(leases.pool[span_of(leases, row)])


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
    """Make the row the newest of the free ones of its pool."""
    ends = leases.ends
    pool = pool_of(leases, row)
    last = np.int64(ends[pool, NEWEST])
    leases.older[row] = last
    leases.newer[row] = NONE
    if last == NONE:
        ends[pool, OLDEST] = row
    else:
        leases.newer[last] = row
    ends[pool, NEWEST] = row


@kernel
def _dequeue(leases: Leases, row: int) -> None:
    ends = leases.ends
    before, after = np.int64(leases.older[row]), np.int64(leases.newer[row])
    if before == NONE:
        ends[pool_of(leases, row), OLDEST] = after
    else:
        leases.newer[before] = after
    if after == NONE:
        ends[pool_of(leases, row), NEWEST] = before
    else:
        leases.older[after] = before


@kernel
def _move(leases: Leases, wheel: Wheel, row: int, state: int, until_s: int) -> None:
    """Change a row's state; `until_s` is when it falls free, FOREVER_S for never."""
    was = np.int64(leases.state[row])
    if was == FREE:
        _dequeue(leases, row)
        # To the wheel: no deadline.
        leases.newer[row] = NONE
    disarm(wheel, row)
    if state == FREE:
        _enqueue(leases, row)
    totals, used = leases.totals, leases.used
    under = _kept_under(leases, pool_of(leases, row))
    used[under, was] -= 1
    used[under, state] += 1
    totals[was] -= 1
    totals[state] += 1
    leases.state[row] = state
    if state in (FREE, RESERVED) or until_s >= FOREVER_S:
        leases.expires_s[row] = min(until_s, np.int64(MASK32))
    else:
        arm(wheel, row, until_s)
    if totals[CHANGES] != NONE:
        if totals[CHANGES] < len(leases.changed):
            leases.changed[totals[CHANGES]] = row
        totals[CHANGES] += 1


@kernel
def is_free(leases: Leases, row: int) -> bool:
    """True when nobody has the row, not even as an offer; it may be reserved."""
    return bool(leases.state[row] == FREE or leases.state[row] == RESERVED)


@kernel
def take(leases: Leases, wheel: Wheel, row: int, who: Words, hardware: int, state: int,
         until_s: int) -> None:
    """Make the row `who`'s: OFFERED or BOUND until `until_s`.

    The row is free or already his. A row he had before falls free: a client has one address
    on a network.
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
        _move(leases, wheel, row, np.int64(leases.home[row]), np.int64(0))


@kernel
def decline(leases: Leases, wheel: Wheel, row: int, until_s: int) -> None:
    """Lock an address that somebody else was found to use (RFC 2131 section 4.3.3)."""
    _forget_client(leases, row)
    _move(leases, wheel, row, np.int64(DECLINED), until_s)


@kernel
def oldest_free(leases: Leases, pool: int) -> int:
    """The row of the pool that has been free for longest, or NONE."""
    return np.int64(leases.ends[pool, OLDEST])


@kernel
def expire(leases: Leases, wheel: Wheel, now_s: int, fired: npt.NDArray[np.int32]) -> int:
    """Free at most len(fired) rows whose time ended at or before `now_s`; returns how many.

    Walks the wheel, not the table: cost does not grow with the pool.
    """
    count = advance(wheel, now_s, fired, len(fired))
    for i in range(count):
        row = np.int64(fired[i])
        _move(leases, wheel, row, np.int64(leases.home[row]), np.int64(0))
    return count
