"""What holds of a tester's arrays after every turn, whatever came.

Nothing here knows how the arrays came to be so: each number is worked out again from the rows
of the client table, and compared with what was counted on the way.
"""

from __future__ import annotations

import numpy as np

from tester import cells
from tester.arrays import Test
from tester.cells import (
    AWAITED,
    BOUND,
    F_BOUND,
    F_HAS_OFFER,
    F_POOLED,
    F_PROBING,
    F_SAYS,
    IN_FLIGHT,
    INFORMING,
    PHASE_SIZE,
    REBINDING,
    REBOOTING,
    RENEWING,
    REQUESTING,
    SELECTING,
    SILENT,
    WAITING,
)
from tester.clients import NOBODY, holder

# Which message a client awaits the answer to.
LEG_OF = {SELECTING: cells.M_DISCOVER, REQUESTING: cells.M_REQUEST, RENEWING: cells.M_RENEW,
          REBINDING: cells.M_REBIND, REBOOTING: cells.M_REBOOT, INFORMING: cells.M_INFORM}
assert set(LEG_OF) == set(cells.AWAITING_STATES)
NO_LEASE_END = 0xFFFFFFFF


def check_invariants(test: Test, measured_from_start: bool = True) -> None:
    """All of them. measured_from_start: False after counters were set to 0 on the way."""
    _check_exchanges(test)
    _check_legs(test)
    _check_owners(test)
    _check_timers(test)
    _check_pool(test)
    flags = test.clients.flags
    assert not (flags & F_SAYS).any()
    if measured_from_start:
        assert test.counts[cells.CLIENTS_BOUND] == np.count_nonzero(flags & F_BOUND)
        assert test.counts[cells.BEGUN] == test.counts[cells.STARTED]


def _check_exchanges(test: Test) -> None:
    counts, clients, relays = test.counts, test.clients, test.relays
    assert (counts[cells.STARTED] + counts[cells.RETURNED]
            == counts[cells.COMPLETED] + counts[cells.FAILED] + counts[IN_FLIGHT])
    probing = clients.flags & F_PROBING != 0
    assert not (probing & ~np.isin(clients.state, (SELECTING, WAITING))).any()
    seeking = np.isin(clients.state, (SELECTING, REQUESTING)) | probing
    assert counts[IN_FLIGHT] == np.count_nonzero(seeking)
    begun = counts[cells.STARTED] + counts[cells.RETURNED]
    for cell, wanted in ((cells.R_STARTED, begun), (cells.R_COMPLETED, counts[cells.COMPLETED]),
                         (cells.R_FAILED, counts[cells.FAILED])):
        assert relays[:, cell].sum() == wanted


def _check_legs(test: Test) -> None:
    counts, clients = test.counts, test.clients
    chosen = clients.flags & F_HAS_OFFER != 0
    assert not (chosen & (clients.state != SELECTING)).any()
    total = 0
    for state, message in LEG_OF.items():
        opened = int(np.count_nonzero((clients.state == state) & ~chosen))
        total += opened
        legs, times, *ended = counts[message * PHASE_SIZE:(message + 1) * PHASE_SIZE].tolist()
        assert legs == sum(ended) + opened, cells.MESSAGE_NAMES[message]
        assert times >= legs and min(ended) >= 0
    assert counts[AWAITED] == total
    for message in (cells.M_RELEASE, cells.M_DECLINE):
        legs, times, *ended = counts[message * PHASE_SIZE:(message + 1) * PHASE_SIZE].tolist()
        assert legs == times and not any(ended)


def _check_owners(test: Test) -> None:
    clients = test.clients
    used = clients.owners[clients.owners != NOBODY].tolist()
    assert sorted(used) == np.flatnonzero(clients.yiaddr).tolist()
    for row in used:
        assert holder(clients, int(clients.yiaddr[row])) == row


def _check_timers(test: Test) -> None:
    """Who waits for something is armed, or will be with the next kick; nobody else is."""
    clients, rows = test.clients, len(test.clients.state)
    armed = test.wheel.next[:rows] >= 0
    assert np.count_nonzero(armed) == test.wheel.state[1]
    pending = {int(entry) >> 5 for entry in test.outbox[:test.counts[cells.PENDING]]
               if entry & 3 != SILENT}
    for row, state in enumerate(clients.state.tolist()):
        if state in LEG_OF or state == WAITING:
            assert armed[row] != (row in pending), (row, state)
        elif state != BOUND:
            assert not armed[row], (row, state)
        elif not test.plan[cells.P_STOP] and not armed[row]:
            # Nothing comes any more: no time set, or neither it nor the lease ever ends.
            for_ever = (clients.hold_tick[row] == cells.FOREVER
                        and clients.lease_s[row] == NO_LEASE_END)
            assert clients.hold_tick[row] == 0 or for_ever, row


def _check_pool(test: Test) -> None:
    counts, pool = test.counts, test.pool
    at = (counts[cells.POOL_HEAD] + np.arange(counts[cells.POOL_SIZE])) % len(pool)
    waiting = pool[at].tolist()
    assert len(set(waiting)) == len(waiting)
    pooled = test.clients.flags & F_POOLED != 0
    assert sorted(waiting) == np.flatnonzero(pooled).tolist()
