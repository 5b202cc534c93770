"""One test from the first DISCOVER to the last answer: turns, kicks, waits, and the clock.

A test has up to three parts: exchanges made beforehand (preload), a time that is not measured
(warm-up), and what is measured. At each boundary the counters begin anew; clients live on.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from fastpath.clock import NS_PER_S, Clock
from fastpath.histogram import Histogram
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from fastpath.slots import make_slots
from fastpath.udp import Udp
from fastpath.wheel import armed_count, next_deadline
from tester.arrays import Test
from tester.cells import (
    AWAITED,
    BEGUN,
    CLIENTS_BOUND,
    COMPLETED,
    DISCOVER_TIMEOUT,
    FAILED,
    FIRST_NS,
    H_DORA,
    IN_FLIGHT,
    N_BOUND,
    P_BASE_NS,
    P_EXCHANGES,
    P_SECS_FROM_TICK,
    P_SECS_TO_TICK,
    P_STOP,
    P_WINDOW,
    REQUEST_TIMEOUT,
    STARTED,
    TICK_NS,
)
from tester.config import TestConfig
from tester.engine import turn
from tester.make import BATCH
from tester.measuring import Intervals, Outcome, begin_measuring, renewed
from tester.options import ENDLESS
from tester.plan import ClosedLoop, ConstantRate, OpenLoop

# A sleeping processor takes longer to wake than an answer takes: look again before sleeping.
SPIN_NS = 30_000
# Closer than this to the next start it is no use to sleep.
DOZE_NS = 80_000
TICK_NS_100 = 100 * TICK_NS
# Exchanges in flight while clients are bound beforehand.
PRELOAD_WINDOW = 64
# Before so many exchanges have ended, a share of lost ones means nothing.
_DROPS_FROM = 10
_NOTHING = np.zeros(0, np.int64)
_RENEWALS, _RELEASES = 1, 2


def _line_end() -> str:
    """On a terminal, progress is one line that changes."""
    return "\r" if sys.stderr.isatty() else "\n"


class Runner:
    """Drives a Test over a Ring, or a Udp, until everything that was started has ended."""

    def __init__(self, config: TestConfig, test: Test, ring: Ring | Udp, stop: Stop, *,
                 progress: bool, panel: Panel) -> None:
        self._config, self._test, self._ring, self._stop = config, test, ring, stop
        self._progress, self._panel = progress, panel
        self._clock = Clock()
        self._plan = config.plan if isinstance(config.plan, OpenLoop) else None
        # What bound clients do at a rate of their own: renew, release.
        self._pool = [(order, OpenLoop(ConstantRate(rate))) for order, rate in (
            (_RENEWALS, config.renew_rate), (_RELEASES, config.release_rate)) if rate > 0]
        self._preloading = config.limits.preload > 0
        if self._preloading:
            test.plan[P_EXCHANGES], test.plan[P_WINDOW] = config.limits.preload, PRELOAD_WINDOW
        self._stopped, self._stop_ns, self._said = "", 0, 0
        window = config.plan.window if isinstance(config.plan, ClosedLoop) else BATCH
        self._many = max(min(window, BATCH) / 2, 1)
        self._begin(self._clock.now_ns())
        self._warm_until = self._warm_from(self._began)

    def _begin(self, now: int) -> None:
        """Time zero of what is measured, and of the plan."""
        self._began = now
        self._next_tick = now
        self._intervals = Intervals()
        self._begun_before = int(self._test.counts[BEGUN])
        self._ordered = np.zeros(3, np.int64)
        self._due = np.zeros(3, np.int64)
        config, plan = self._config, self._test.plan
        tick = (now - int(plan[P_BASE_NS])) // TICK_NS
        plan[P_SECS_FROM_TICK] = tick + round(config.secs_from_s * 1000)
        plan[P_SECS_TO_TICK] = tick + round(config.secs_to_s * 1000)

    def run(self) -> Outcome:
        """Run to the end; a first stop request ends starting, a second one ends waiting."""
        clock = self._clock
        now = last_active = self._kicked = self._began
        self._measure(self._began)
        while True:
            before, now = now, clock.now_ns()
            if before != last_active:
                self._idle_ns += now - before
            read, queued = self._turn(now)
            if read:
                self._reading_turns += 1
                self._full_turns += read >= self._many
            if read or queued:
                last_active = now
            elif self._over(now):
                break
            elif now - last_active > SPIN_NS:
                self._sleep(now)
            if now >= self._next_tick:
                self._tick(now)
                # Where strangers' frames never cease, no turn comes back with nothing read.
                if not queued and self._over(now):
                    break
        return self._outcome(clock.now_ns())

    def _turn(self, now: int) -> tuple[int, int]:
        """One turn and its kick; returns (frames read, frames sent)."""
        ring, clock = self._ring, self._clock
        intended = self._orders(now)
        ring.pull()
        read, queued = turn(self._test, ring.rx, ring.tx, now, self._kicked, clock.offset_ns(),
                            clock.trusted_from_ns, self._due, intended, BATCH)
        # For what is left there was no room in the ring.
        self._ordered[1:] -= self._due[1:]
        if queued:
            self._kicked = clock.now_ns()
            ring.kick()
        return read, queued

    def _measure(self, now: int) -> None:
        """What the generator itself did counts from here on."""
        self._measured_from = now
        self._idle_ns = self._reading_turns = self._full_turns = 0

    def cut_short(self, why: str) -> Outcome:
        """What there is to tell after `run` has raised."""
        self._stopped = why
        return self._outcome(self._clock.now_ns())

    def _outcome(self, end: int) -> Outcome:
        test = self._test
        self._intervals.close(test, (end - self._measured_from) / 1e9)
        if self._progress:
            self._say_progress(end, "\n")
        first = int(test.counts[FIRST_NS]) or self._measured_from
        span = max(end - self._measured_from, 1)
        return Outcome((end - first) / 1e9, self._stop.asked > 0, 1.0 - self._idle_ns / span,
                       self._clock.steps, self._intervals.rows, self._stopped,
                       self._full_turns / max(self._reading_turns, 1))

    def _orders(self, now: int) -> npt.NDArray[np.int64]:
        """Set in `_due` what the plan wants now beyond what was done; for when it wanted it."""
        due = self._due
        due[:] = 0
        if self._preloading:
            return _NOTHING
        t_s = (now - self._began) / 1e9
        for order, plan in self._pool:
            due[order] = min(plan.due(t_s) - self._ordered[order], BATCH)
            self._ordered[order] += due[order]
        if self._plan is None:
            return _NOTHING
        started = int(self._test.counts[BEGUN]) - self._begun_before
        due[0] = max(min(self._plan.due(t_s) - started, BATCH), 0)
        if not due[0]:
            return _NOTHING
        times_ns = (self._plan.times(started, int(due[0])) * 1e9).astype(np.int64)
        return times_ns + self._began

    def _all_begun(self) -> bool:
        test, plan = self._test, self._plan
        if test.plan[P_STOP] or test.counts[BEGUN] >= test.plan[P_EXCHANGES]:
            return True
        if plan is None:
            return False
        begun = int(test.counts[BEGUN]) - self._begun_before
        return bool(np.isinf(plan.times(begun, 1)[0]))

    def _over(self, now: int) -> bool:
        """Nothing awaited, and nothing to come; or no more patience."""
        test, drain_s = self._test, self._config.limits.drain_s
        if self._stop.asked > 1:
            return True
        if not self._all_begun():
            return False
        if self._preloading:
            if not test.counts[IN_FLIGHT]:
                self._preloaded(now)
            return False
        if not test.plan[P_STOP] and self._lives_on():
            self._stop_ns = 0
            return False
        if not self._stop_ns:
            self._stop_ns = now
        if test.counts[IN_FLIGHT] or test.counts[AWAITED]:
            return drain_s is not None and now - self._stop_ns >= drain_s * 1e9
        return True

    def _lives_on(self) -> bool:
        """Clients have something before them but answers, or are to be called for renewals."""
        test = self._test
        until_told = bool(self._pool) and self._config.limits.duration_s is not None
        return until_told or bool(armed_count(test.wheel) > test.counts[AWAITED])

    def _preloaded(self, now: int) -> None:
        """Clients are bound; what is measured begins."""
        self._preloading = False
        config, test = self._config, self._test
        self._count_anew()
        test.plan[P_WINDOW] = config.plan.window if isinstance(config.plan, ClosedLoop) else 0
        test.plan[P_EXCHANGES] = config.exchanges
        self._begin(now)
        self._measure(now)
        self._warm_until = self._warm_from(now)

    def _warm_from(self, now: int) -> int:
        """When measuring begins, where that is later than the plan; else 0."""
        warm_up_s = self._config.limits.warm_up_s
        return now + round(warm_up_s * 1e9) if warm_up_s else 0

    @property
    def measured_from_ns(self) -> int:
        """Since when what happened counts, monotonic."""
        return self._measured_from

    def _count_anew(self) -> None:
        begin_measuring(self._test)

    def _warmed_up(self, now: int) -> None:
        self._count_anew()
        self._intervals = Intervals()
        self._measure(now)
        self._warm_until = 0

    def _sleep(self, now: int) -> None:
        """Wait for a frame, at most until the next timer, start or tick."""
        wake = self._next_tick
        # Ticks of the wheel are milliseconds; 200 empty ones are looked at, at most.
        deadline = next_deadline(self._test.wheel, 200)
        wake = min(wake, int(deadline) * TICK_NS + int(self._test.plan[P_BASE_NS]))
        for start in self._next_starts():
            if start - now < DOZE_NS:
                return
            wake = min(wake, start - DOZE_NS // 2)
        if wake > now:
            self._ring.wait((wake - now) / 1e9, self._stop.fd)

    def _next_starts(self) -> list[int]:
        """When the plan wants the next start, renewal and release: monotonic ns."""
        if self._preloading or self._test.plan[P_STOP]:
            return []
        nexts = [plan.times(int(self._ordered[order]), 1)[0] for order, plan in self._pool]
        if self._plan is not None and not self._all_begun():
            begun = int(self._test.counts[BEGUN]) - self._begun_before
            nexts.append(self._plan.times(begun, 1)[0])
        return [self._began + int(t * 1e9) for t in nexts if np.isfinite(t)]

    def _tick(self, now: int) -> None:
        """What is looked at ten times a second: the end of starting, intervals, progress."""
        self._next_tick = now + TICK_NS_100
        if self._preloading:
            if self._stop.asked:
                self._end_starting(now, "")
            if self._progress and now - self._said >= NS_PER_S:
                self._said = now
                print(f"dhcp-tester: {int(self._test.counts[COMPLETED]):,} of "
                      f"{self._config.limits.preload:,} clients bound beforehand",
                      end=_line_end(), file=sys.stderr, flush=True)
            return
        limits, elapsed = self._config.limits, (now - self._began) / 1e9
        if self._warm_until and now >= self._warm_until:
            self._warmed_up(now)
        limit = limits.duration_s
        if limit is not None and elapsed < limit and self._plan is None:
            # A rate ends by itself; its last start may be a little late.
            self._next_tick = min(self._next_tick, self._began + int(limit * 1e9))
        if self._stop.asked or (limit is not None and elapsed >= limit):
            self._end_starting(now, "")
        elif drops := self._too_many_drops():
            self._end_starting(now, drops)
        measured_s = (now - self._measured_from) / 1e9
        if measured_s >= len(self._intervals.rows) + 1:
            self._intervals.close(self._test, measured_s)
            if self._progress:
                self._say_progress(now, _line_end())
        if self._panel.due():
            self._panel.show(self._snapshot(measured_s))

    def _end_starting(self, now: int, why: str) -> None:
        if not self._test.plan[P_STOP]:
            self._test.plan[P_STOP] = 1
            self._stopped, self._stop_ns = why, now
        if self._stop.asked:
            self._stop.heard()

    def _too_many_drops(self) -> str:
        """Why to stop, as --max-drop has it, or ""."""
        counts, limits = self._test.counts, self._config.limits
        lost = int(counts[DISCOVER_TIMEOUT] + counts[REQUEST_TIMEOUT])
        ended = int(counts[COMPLETED] + counts[FAILED])
        if limits.max_drop is not None and lost > limits.max_drop:
            return f"{lost:,} exchanges were lost, more than --max-drop allows"
        if (limits.max_drop_percent is not None and ended >= _DROPS_FROM
                and 100 * lost > limits.max_drop_percent * ended):
            return (f"{lost:,} of {ended:,} exchanges were lost, more than --max-drop "
                    f"{limits.max_drop_percent:g} % allows")
        return ""

    def _say_progress(self, now: int, end: str) -> None:
        counts, planned = self._test.counts, self._config.exchanges
        done, seconds = int(counts[COMPLETED]), max((now - self._measured_from) / 1e9, 1e-9)
        granted = renewed(counts)
        more = f", {granted:,} renewals" if granted else ""
        share = f" of {planned:,}" if planned < ENDLESS else ""
        percent = f" ({100 * done / planned:.1f} %)" if share else ""
        print(f"dhcp-tester: {seconds:5.1f} s  {done:,}{share} completed{percent}, "
              f"{int(counts[FAILED]):,} failed, "
              f"{int(counts[N_BOUND]) / seconds:,.0f} DORA/s{more}", end=end, file=sys.stderr,
              flush=True)

    def _snapshot(self, elapsed: float) -> dict[str, Any]:
        counts = self._test.counts
        latency = Histogram(self._test.histograms[H_DORA])
        return {"elapsed_s": elapsed, "planned": self._config.clients,
                "started": int(counts[STARTED]), "bound": int(counts[CLIENTS_BOUND]),
                "exchanges": int(counts[COMPLETED]), "renewed": renewed(counts),
                "failed": int(counts[FAILED]), "in_flight": int(counts[IN_FLIGHT]),
                "latency_us": latency.summary(), "intervals": self._intervals.rows[-60:]}


def touch(test: Test) -> None:
    """Call the kernels on empty slots, so that they are compiled before time zero."""
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    stopped = test.plan.copy()
    test.plan[P_STOP] = 1
    now = int(test.plan[P_BASE_NS])
    turn(test, empty, empty, now, now, 0, 0, np.zeros(3, np.int64), _NOTHING, BATCH)
    next_deadline(test.wheel, 1)
    armed_count(test.wheel)
    test.plan[:] = stopped
