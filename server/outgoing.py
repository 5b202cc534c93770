"""What becomes of a finished reply: sent, spoilt, doubled, or kept for later; and when it left.

A reply is known by a mark: `type of the request | type of the reply << 8`.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.delay import D_DUE_FROM, D_HELD, REORDER_US, drop_all, next_due, put, send
from fastpath.faults import befall
from fastpath.frame import be16, copy
from fastpath.jit import kernel
from fastpath.record import record_us
from fastpath.slots import Slots, tx_commit, tx_revoke, tx_start
from server.arrays import CAUSED, SENT, Tables
from server.decide import C_FAULT, C_NO_ROOM, C_NOT_STORED
from server.leases import NONE

_ETH_P_IP = wire.ETH_P_IP


@kernel
def count_sent(tables: Tables, mark: int, stamp_ns: int) -> None:
    """Count a reply that goes out with this batch to a request that arrived at `stamp_ns`."""
    # A BOOTP reply has no type of its own.
    tables.counts[SENT + (mark >> 8 if mark & 0xFF else 0)] += 1
    sent = tables.sent
    if sent.state[0] < len(sent.mark):
        sent.stamp_ns[sent.state[0]] = stamp_ns
        sent.mark[sent.state[0]] = mark
        sent.state[0] += 1


@kernel
def hand_over(tx: Slots, tables: Tables, to: int, end: int, mark: int, stamp_ns: int,
              now_us: int) -> int:
    """Send the finished reply at tx.mem[to:end], or do to it what faults say; frames sent."""
    delay = tables.delay
    ip = to + 14
    while be16(tx.mem, ip - 2) != _ETH_P_IP:
        ip += 4
    end, wait_us, copies, held = befall(tables.faults, tx.mem, ip, end, mark & 0xFF, mark >> 8,
                                        now_us, True)
    if copies == 0:
        tables.counts[CAUSED + C_FAULT] += 1
        return 0
    if held and wait_us < 0 and delay.state[D_HELD] == NONE:
        row = put(delay, tx.mem, to, end, now_us + REORDER_US, mark, stamp_ns)
        if row != NONE:
            delay.state[D_HELD] = row
            # One is overtaken; its doubles go out when it would at the latest.
            wait_us, copies = np.int64(REORDER_US), copies - 1
    if wait_us >= 0:
        for _ in range(copies):
            if put(delay, tx.mem, to, end, now_us + wait_us, mark, stamp_ns) == NONE:
                tables.counts[CAUSED + C_NO_ROOM] += 1
        return 0
    return _send_copies(tx, tables, to, end, copies, mark, stamp_ns)


@kernel
def _send_copies(tx: Slots, tables: Tables, to: int, end: int, copies: int, mark: int,
                 stamp_ns: int) -> int:
    """Commit a reply `copies` times, and after it the one that was to be overtaken."""
    tx_commit(tx, end - to)
    count_sent(tables, mark, stamp_ns)
    count = 1
    for _ in range(1, copies):
        again = tx_start(tx)
        if again < 0:
            break
        copy(tx.mem, again, tx.mem, to, end - to)
        tx_commit(tx, end - to)
        count_sent(tables, mark, stamp_ns)
        count += 1
    overtaken = tables.delay.state[D_HELD]
    if overtaken != NONE:
        late, stamp = np.int64(tables.delay.mark[overtaken]), tables.delay.stamp_ns[overtaken]
        if send(tables.delay, overtaken, tx):
            count_sent(tables, late, stamp)
            count += 1
    return count


@kernel
def send_due(tx: Slots, tables: Tables, now_us: int, limit: int) -> int:
    """Send replies whose time has come; returns how many."""
    delay = tables.delay
    count = np.int64(0)
    while count < limit:
        row = next_due(delay, now_us, limit)
        if row == NONE:
            break
        mark, stamp = np.int64(delay.mark[row]), delay.stamp_ns[row]
        if not send(delay, row, tx):
            break
        delay.state[D_DUE_FROM] += 1
        count_sent(tables, mark, stamp)
        count += 1
    return count


@kernel
def observe(tables: Tables, done_ns: int) -> None:
    """Count the response times of the last batch, which was sent at `done_ns`."""
    sent = tables.sent
    for i in range(sent.state[0]):
        asked = np.int64(sent.mark[i]) & 0xFF
        if asked < len(tables.response_us):
            record_us(tables.response_us[asked], (done_ns - sent.stamp_ns[i]) // 1000)
    sent.state[0] = 0


@kernel
def take_back(tx: Slots, tables: Tables, count: int) -> None:
    """Send none of the last `count` replies, nor any that waits: what they promise is not stored.

    To be called before the ring is kicked.
    """
    tx_revoke(tx, count)
    sent, counts = tables.sent, tables.counts
    for i in range(sent.state[0]):
        mark = np.int64(sent.mark[i])
        counts[SENT + (mark >> 8 if mark & 0xFF else 0)] -= 1
    sent.state[0] = 0
    counts[CAUSED + C_NOT_STORED] += count + drop_all(tables.delay)
