"""What is kept of a running test besides its arrays: intervals, its outcome, and new beginnings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpath.histogram import Histogram
from tester import cells
from tester.arrays import Test
from tester.cells import (
    ANSWERED,
    COUNTS,
    F_HAS_OFFER,
    F_PROBING,
    FAILED,
    H_INTERVAL,
    IN_FLIGHT,
    INFORMING,
    KEPT,
    LEGS,
    M_DISCOVER,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RENEW,
    M_REQUEST,
    N_BOUND,
    PHASE,
    PHASE_SIZE,
    REBINDING,
    REBOOTING,
    RENEWING,
    REQUESTING,
    SELECTING,
    STARTED,
    TIMES,
)

# Which message a client in a state awaits the answer to.
_LEGS = {SELECTING: M_DISCOVER, REQUESTING: M_REQUEST, RENEWING: M_RENEW, REBINDING: M_REBIND,
         REBOOTING: M_REBOOT, INFORMING: M_INFORM}


@dataclass(slots=True)
class Intervals:
    """One entry a second, as the result file has them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    _before: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTS, np.int64))

    def close(self, test: Test, t_s: float) -> None:
        """End the interval at `t_s` and begin the next."""
        done = test.counts - self._before
        latency = Histogram(test.histograms[H_INTERVAL])
        self.rows.append({
            "t_s": round(t_s, 3), "started": int(done[STARTED]), "bound": int(done[N_BOUND]),
            "failed": int(done[FAILED]), "dora_p50_us": latency.percentile(50),
            "dora_p99_us": latency.percentile(99), "renewed": renewed(done),
            "in_flight": int(test.counts[IN_FLIGHT])})
        latency.reset()
        self._before = test.counts.copy()


def renewed(counts: npt.NDArray[np.int64]) -> int:
    """Renewals and rebindings that were granted."""
    return int(sum(counts[PHASE + message * PHASE_SIZE + ANSWERED]
                   for message in (M_RENEW, M_REBIND)))


@dataclass(slots=True)
class Outcome:
    """What a run leaves behind besides the arrays of its Test. Times in seconds.

    stopped: why it ended before its end, or "". full_share: of the turns that found answers, those
    that found half of all that was in flight, or of all that a turn takes.
    """

    duration_s: float
    interrupted: bool
    busy_share: float
    clock_steps: int
    intervals: list[dict[str, Any]]
    stopped: str = ""
    full_share: float = 0.0


def begin_measuring(test: Test, parts: Sequence[Test] = ()) -> None:
    """Set to 0 what has been counted; what is in flight counts as just started.

    parts: those of a test over several interfaces, which have only these in common with it:
    histograms and expectations.
    """
    for part in parts or (test,):
        _begin_counting(part)
    test.histograms[:] = 0
    test.expected.rows[:, [cells.X_MISSING, cells.X_DIFFERENT]] = 0


def _begin_counting(test: Test) -> None:
    kept = test.counts[list(KEPT)]
    test.counts[:] = 0
    test.counts[list(KEPT)] = kept
    test.counts[STARTED] = test.counts[IN_FLIGHT]
    for state, message in _LEGS.items():
        opened = test.clients.state == state
        if state == SELECTING:
            # Who compares offers has been answered.
            opened &= test.clients.flags & F_HAS_OFFER == 0
        phase = PHASE + message * PHASE_SIZE
        test.counts[[phase + LEGS, phase + TIMES]] = np.count_nonzero(opened)
    test.servers[:, cells.S_OFFERS:cells.S_CHOSEN + 1] = 0
    test.servers[:, cells.S_REFUSED] = 0
    test.relays[:, cells.R_STARTED:] = 0
    clients = test.clients
    seeking = np.isin(clients.state, (SELECTING, REQUESTING)) | (clients.flags & F_PROBING != 0)
    behind = np.flatnonzero(seeking) // test.plan[cells.P_RELAY_BLOCK] % len(test.relays)
    test.relays[:, cells.R_STARTED] = np.bincount(behind, minlength=len(test.relays))


