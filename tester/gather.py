"""From the arrays of several interfaces to those of one test, when it is over.

Each interface has a table of servers of its own, for a server that is reached through relay agents
has another hardware address on each; and knows only of its own clients who holds an address, so
what two interfaces were given the same is found here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tester import cells
from tester.arrays import Test
from tester.cells import MOST_SERVERS, S_CHOSEN, S_EXPECTED, S_ID, S_MAC, S_OFFERS, S_REFUSED
from tester.fleet import Fleet

# What an exchange that ended with an address of another's was taken for, and what it is.
_TAKEN_BACK = (cells.COMPLETED, cells.N_BOUND)
_COUNTED = (cells.FAILED, cells.DUPLICATES)
# How a client stands who has failed so far, as in `collect`.
_FAILED = (cells.TIMEOUT_DISCOVER, cells.TIMEOUT_REQUEST, cells.REFUSED, cells.DUPLICATE,
           cells.SELECTING, cells.REQUESTING)
_INFINITE_S = 0xFFFFFFFF
_ADDED = [*range(S_OFFERS, S_CHOSEN + 1), S_REFUSED]


def gather(fleet: Fleet, measured_from_ns: int) -> None:
    """Make fleet.whole the test that it was, for `collect` and the list of clients.

    measured_from_ns: monotonic; what ended before that was not counted.
    """
    _merge_servers(fleet)
    _find_duplicates(fleet, measured_from_ns)
    fleet.add_up()


def _merge_servers(fleet: Fleet) -> None:
    """One table by server identifier, to which the clients of all interfaces refer."""
    table = fleet.whole.servers
    known = {int(row[S_ID]): at for at, row in enumerate(table[:-1]) if row[S_ID]}
    for lane in fleet.lanes:
        place = np.full(MOST_SERVERS, MOST_SERVERS - 1, np.uint8)
        for at, row in enumerate(lane.servers):
            named = at < MOST_SERVERS - 1
            if named and not row[S_ID]:
                continue
            if named and (int(row[S_ID]) in known or len(known) < MOST_SERVERS - 1):
                place[at] = known.setdefault(int(row[S_ID]), len(known))
            to = table[place[at]]
            to[_ADDED] += row[_ADDED]
            if place[at] < MOST_SERVERS - 1:
                to[S_ID] = row[S_ID]
                to[S_MAC] = to[S_MAC] or row[S_MAC]
                to[S_EXPECTED] |= row[S_EXPECTED]
        lane.clients.server[:] = place[lane.clients.server]


def _find_duplicates(fleet: Fleet, measured_from_ns: int) -> None:
    """Let the later of two clients with one address, by leases that both run, have failed.

    As a kernel does it where both are on one interface; but their times are recorded by now.
    """
    clients = fleet.whole.clients
    ends = np.cumsum([len(lane.clients.state) for lane in fleet.lanes])
    for row in duplicates(clients.yiaddr, clients.leased_tick, clients.lease_s):
        if clients.flags[row] & cells.F_BOUND == 0 or clients.state[row] == cells.DUPLICATE:
            continue
        clients.state[row] = cells.DUPLICATE
        clients.flags[row] &= ~cells.F_BOUND & 0xFF
        counts = fleet.counts[np.searchsorted(ends, row, "right")]
        counts[cells.CLIENTS_BOUND] -= 1
        if clients.started_ns[row] >= measured_from_ns:
            counts[list(_TAKEN_BACK)] -= 1
            counts[list(_COUNTED)] += 1


def duplicates(yiaddr: npt.NDArray[np.uint32], leased_tick: npt.NDArray[np.uint32],
               lease_s: npt.NDArray[np.uint32]) -> list[int]:
    """Rows whose address another row has by a lease that began before and still ran by then."""
    holding = np.flatnonzero(yiaddr)
    order = holding[np.lexsort((leased_tick[holding], yiaddr[holding]))]
    again = yiaddr[order[1:]] == yiaddr[order[:-1]]
    # Groups of one address, told by where one begins that is there more than once.
    found: list[int] = []
    held, until = 0, 0.0
    for at in np.flatnonzero(again).tolist():
        first, row = int(order[at]), int(order[at + 1])
        if held != yiaddr[first]:
            held, until = int(yiaddr[first]), _end_tick(leased_tick, lease_s, first)
        if leased_tick[row] < until:
            found.append(row)
        else:
            until = _end_tick(leased_tick, lease_s, row)
    return found


def _end_tick(leased_tick: npt.NDArray[np.uint32], lease_s: npt.NDArray[np.uint32], row: int,
              ) -> float:
    lease = int(lease_s[row])
    return math.inf if lease == _INFINITE_S else int(leased_tick[row]) + lease * 1000


def rows_of(labels: Sequence[str], lanes: Sequence[Test], rx_ring: Sequence[int],
            measured_from_ns: int) -> list[dict[str, Any]]:
    """`interfaces` of the result document. rx_ring: frames lost there, of each.

    Latencies are those of each client's last exchange that was measured, by nearest rank.
    """
    found = []
    for label, lane, lost in zip(labels, lanes, rx_ring, strict=True):
        clients = lane.clients
        bound = clients.flags & cells.F_BOUND != 0
        times_us = np.sort(clients.dora_us[bound & (clients.started_ns >= measured_from_ns)])
        found.append({
            "interface": label, "planned": len(clients.state),
            "bound": int(np.count_nonzero(bound)),
            "failed": int(np.isin(clients.state, _FAILED).sum()),
            "dora_p50_us": _percentile(times_us, 50), "dora_p99_us": _percentile(times_us, 99),
            "rx_ring": lost})
    return found


def _percentile(sorted_us: npt.NDArray[np.uint32], percent: int) -> int:
    rank = max(-(-percent * len(sorted_us) // 100), 1)
    return int(sorted_us[rank - 1]) if len(sorted_us) else 0
