"""One test from the first DISCOVER to the last answer: turns, kicks, waits, and the clock."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpath.clock import Clock
from fastpath.histogram import Histogram
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from fastpath.slots import make_slots
from fastpath.wheel import next_deadline
from tester.config import BATCH, TestConfig
from tester.engine import (
    COUNTS,
    DORA,
    FAILED,
    FIRST_NS,
    IN_FLIGHT,
    INTERVAL,
    N_BOUND,
    P_BASE_NS,
    P_STOP,
    STARTED,
    TICK_NS,
    Test,
    turn,
)
from tester.plan import ConstantRate

# A sleeping processor takes longer to wake than an answer takes: look again before sleeping.
SPIN_NS = 30_000
# Closer than this to the next start it is no use to sleep.
DOZE_NS = 80_000
TICK_NS_100 = 100 * TICK_NS
_NOTHING_DUE = np.zeros(0, np.int64)


@dataclass(slots=True)
class Intervals:
    """One entry a second, as the result file has them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    _before: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(COUNTS, np.int64))

    def close(self, test: Test, t_s: float) -> None:
        """End the interval at `t_s` and begin the next."""
        done = test.counts - self._before
        latency = Histogram(test.histograms[INTERVAL])
        self.rows.append({
            "t_s": round(t_s, 3), "started": int(done[STARTED]), "bound": int(done[N_BOUND]),
            "failed": int(done[FAILED]), "dora_p50_us": latency.percentile(50),
            "dora_p99_us": latency.percentile(99)})
        latency.reset()
        self._before = test.counts.copy()


@dataclass(slots=True)
class Outcome:
    """What a run leaves behind besides the arrays of its Test. Times in seconds."""

    duration_s: float
    interrupted: bool
    busy_share: float
    clock_steps: int
    intervals: list[dict[str, Any]]


class Runner:
    """Drives a Test over a Ring until every started exchange has ended."""

    def __init__(self, config: TestConfig, test: Test, ring: Ring, stop: Stop, *,
                 progress: bool, panel: Panel) -> None:
        self._config, self._test, self._ring, self._stop = config, test, ring, stop
        self._progress, self._panel = progress, panel
        self._clock = Clock()
        self._intervals = Intervals()
        self._rate = config.plan if isinstance(config.plan, ConstantRate) else None
        self._began = self._clock.now_ns()
        self._next_tick = self._began

    def run(self) -> Outcome:
        """Run to the end; a first stop request ends starting, a second one ends waiting."""
        test, ring, clock = self._test, self._ring, self._clock
        began = now = last_active = kicked = self._began
        idle_ns = 0
        while True:
            before, now = now, clock.now_ns()
            if before != last_active:
                idle_ns += now - before
            due, intended = self._due(now)
            read, queued = turn(test, ring.rx, ring.tx, now, kicked, clock.offset_ns(),
                                clock.trusted_from_ns, due, intended, BATCH)
            if queued:
                kicked = clock.now_ns()
                ring.kick()
            if read or queued:
                last_active = now
            elif self._over():
                break
            elif now - last_active > SPIN_NS:
                self._sleep(now)
            if now >= self._next_tick:
                self._tick(now)
                # Where strangers' frames never cease, no turn comes back with nothing read.
                if not queued and self._over():
                    break
        end = clock.now_ns()
        self._intervals.close(test, (end - began) / 1e9)
        if self._progress:
            self._say_progress(end, "\n")
        first = int(test.counts[FIRST_NS]) or began
        return Outcome((end - first) / 1e9, self._stop.asked > 0,
                       1.0 - idle_ns / max(end - began, 1), clock.steps, self._intervals.rows)

    def _due(self, now: int) -> tuple[int, npt.NDArray[np.int64]]:
        """How many starts the plan wants now beyond those made, and for when."""
        if self._rate is None:
            return 0, _NOTHING_DUE
        started = int(self._test.counts[STARTED])
        due = min(self._rate.due((now - self._began) / 1e9) - started, BATCH)
        if due <= 0:
            return 0, _NOTHING_DUE
        times_ns = (self._rate.times(started, due) * 1e9).astype(np.int64)
        return due, times_ns + self._began

    def _over(self) -> bool:
        """Nothing in flight, and nothing left to start."""
        test = self._test
        if self._stop.asked > 1:
            return True
        if test.counts[IN_FLIGHT]:
            return False
        return bool(test.plan[P_STOP]) or test.counts[STARTED] == len(test.clients.state)

    def _sleep(self, now: int) -> None:
        """Wait for a frame, at most until the next timeout, start or tick."""
        wake = self._next_tick
        # Ticks of the wheel are milliseconds; 200 empty ones are looked at, at most.
        deadline = next_deadline(self._test.wheel, 200)
        wake = min(wake, int(deadline) * TICK_NS + int(self._test.plan[P_BASE_NS]))
        if self._rate and not self._test.plan[P_STOP]:
            started = int(self._test.counts[STARTED])
            if started < len(self._test.clients.state):
                start = self._began + int(self._rate.times(started, 1)[0] * 1e9)
                if start - now < DOZE_NS:
                    return
                wake = min(wake, start - DOZE_NS // 2)
        if wake > now:
            self._ring.wait((wake - now) / 1e9, self._stop.fd)

    def _tick(self, now: int) -> None:
        """What is looked at ten times a second: the end of starting, intervals, progress."""
        self._next_tick = now + TICK_NS_100
        test, elapsed = self._test, (now - self._began) / 1e9
        limit = self._config.duration_s
        if limit is not None and elapsed < limit and self._rate is None:
            # A rate ends by itself; its last start may be a little late.
            self._next_tick = min(self._next_tick, self._began + int(limit * 1e9))
        if self._stop.asked or (limit is not None and elapsed >= limit):
            test.plan[P_STOP] = 1
            self._stop.heard()
        if elapsed >= len(self._intervals.rows) + 1:
            self._intervals.close(test, elapsed)
            if self._progress:
                self._say_progress(now, "\r" if sys.stderr.isatty() else "\n")
        if self._panel.due():
            self._panel.show(self._snapshot(elapsed))

    def _say_progress(self, now: int, end: str) -> None:
        counts, planned = self._test.counts, self._config.clients
        bound, seconds = int(counts[N_BOUND]), max((now - self._began) / 1e9, 1e-9)
        print(f"dhcp-tester: {seconds:5.1f} s  {bound:,} of {planned:,} bound "
              f"({100 * bound / planned:.1f} %), {int(counts[FAILED]):,} failed, "
              f"{bound / seconds:,.0f} DORA/s", end=end, file=sys.stderr, flush=True)

    def _snapshot(self, elapsed: float) -> dict[str, Any]:
        counts = self._test.counts
        latency = Histogram(self._test.histograms[DORA])
        return {"elapsed_s": elapsed, "planned": self._config.clients,
                "started": int(counts[STARTED]), "bound": int(counts[N_BOUND]),
                "failed": int(counts[FAILED]), "in_flight": int(counts[IN_FLIGHT]),
                "latency_us": latency.summary(), "intervals": self._intervals.rows[-60:]}


def touch(test: Test) -> None:
    """Call the kernel on empty slots, so that it is compiled before time zero."""
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    stopped = test.plan.copy()
    test.plan[P_STOP] = 1
    now = int(test.plan[P_BASE_NS])
    turn(test, empty, empty, now, now, 0, 0, 0, _NOTHING_DUE, BATCH)
    next_deadline(test.wheel, 1)
    test.plan[:] = stopped
