"""What must hold of a lease table whatever was done to it."""

from __future__ import annotations

import numpy as np

from fastpath.wheel import Wheel
from server.leases import (
    BOUND,
    CHANGES,
    DECLINED,
    EXCLUDED,
    FOREVER_S,
    FREE,
    NEWEST,
    NONE,
    OFFERED,
    OLDEST,
    RESERVED,
    STATES,
    Leases,
    pool_of,
)


def free_rows(leases: Leases, pool: int) -> list[int]:
    """The queue of a pool from the oldest on; its links must be sound in both directions."""
    rows: list[int] = []
    before, row = NONE, int(leases.ends[pool, OLDEST])
    while row != NONE:
        assert leases.older[row] == before and len(rows) < len(leases.state)
        assert pool_of(leases, row) == pool, "in the queue of another pool"
        rows.append(row)
        before, row = row, int(leases.newer[row])
    assert leases.ends[pool, NEWEST] == before
    return rows


def hashed_rows(leases: Leases) -> list[int]:
    rows = []
    for bucket in leases.bucket.tolist():
        row = bucket
        while row != NONE:
            rows.append(row)
            assert len(rows) <= len(leases.state), "a chain leads in a circle"
            row = int(leases.chain[row])
    return rows


def check(leases: Leases, wheel: Wheel) -> None:
    """Queues, counts, the hash table and the wheel agree with the states of the rows."""
    state = leases.state
    queued = [row for pool in range(len(leases.ends)) for row in free_rows(leases, pool)]
    assert sorted(queued) == np.flatnonzero(state == FREE).tolist()
    assert (leases.home[state == FREE] == FREE).all()
    assert (leases.home[state == RESERVED] == RESERVED).all()
    assert leases.totals[:CHANGES].tolist() == np.bincount(state, minlength=len(STATES)).tolist()
    known = np.flatnonzero(leases.identity[:, 0])
    assert sorted(hashed_rows(leases)) == known.tolist()
    clients = [leases.identity[row].tobytes() for row in known]
    assert len(set(clients)) == len(clients), "a client with two addresses"
    in_use = (state == OFFERED) | (state == BOUND)
    assert leases.identity[in_use, 0].all() and not leases.identity[state == DECLINED].any()
    assert not leases.identity[state == EXCLUDED].any()
    armed = (in_use | (state == DECLINED)) & (leases.expires_s != FOREVER_S)
    # A free row uses the same links for its queue.
    assert (((wheel.next[:len(state)] >= 0) & (state != FREE)) == armed).all()
