"""A test over several interfaces: rounds of turns, one on each interface that has something to do.

The one thing to know: an interface with nothing to do costs nothing. epoll names those with frames
to read, a heap those whose timers are due, the plan those that start somebody; no other is looked
at.
"""

from __future__ import annotations

import heapq
import select
from collections import deque
from collections.abc import Sequence

import numpy as np

from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from fastpath.wheel import ARMED, NEVER, next_deadline
from tester.arrays import Test
from tester.cells import (
    AWAITED,
    BEGUN,
    IN_FLIGHT,
    OPEN_LOOP,
    P_BASE_NS,
    P_EXCHANGES,
    P_STOP,
    P_WINDOW,
    PENDING,
    POOL_SIZE,
    TICK_NS,
)
from tester.config import TestConfig
from tester.engine import turn
from tester.fleet import Fleet
from tester.make import BATCH
from tester.measuring import Outcome, begin_measuring
from tester.plan import ClosedLoop
from tester.run import DOZE_NS, Runner

# What found no room in a ring, or no free client, is tried again after this; each time later,
# for it may be that nobody takes the frames of this interface any more.
_RETRY_NS, _LAST_RETRY_NS = 200_000, 200_000_000
# Timers are looked for so many ticks ahead after each turn, and to the end when these are over.
_LOOK_TICKS, _FAR_TICKS = 1024, 1 << 16
# Starts that are handed out in one round, and that may wait for room on their interfaces.
_MOST_STARTS, _MOST_WAITING = 4096, 1 << 18
# A message's timer begins in the turn after the one that sent it: after this time at the latest,
# and a quarter of the shortest wait for an answer.
_STAMP_NS = 50_000_000
_NEVER_NS = 1 << 62
_NOTHING = np.zeros(0, np.int64)
_RENEWALS, _RELEASES = 1, 2


class _Lane:
    """One interface: its ring, its Test, and what is to be done there.

    The slots of the ring are not kept here: its memory must go when it is closed. Rings left to the
    end of the process would be closed one after another, each in its own grace period.

    starts: intended times of starts not yet made, monotonic ns. orders: int64[3], renewals and
    releases not yet made. wake_ns: the earliest entry of the heap that counts. retry_ns: when what
    was in vain is tried again. unstamped: it has sent what the next turn has to note the time of.
    """

    def __init__(self, number: int, test: Test, ring: Ring) -> None:
        self.number, self.test, self.ring = number, test, ring
        self.counts, self.plan, self.wheel = test.counts, test.plan, test.wheel
        self.starts: deque[int] = deque()
        self.orders = np.zeros(3, np.int64)
        self.in_flight = self.awaited = self.begun = self.kicked_ns = 0
        self.wake_ns, self.retry_ns = _NEVER_NS, _RETRY_NS
        self.unstamped = False

    @property
    def waits(self) -> bool:
        """There is something to do that neither a frame nor a timer will tell."""
        return bool(self.unstamped or self.starts or self.ring.congested or self.orders.any())


class FleetRunner(Runner):
    """As `Runner`, over a Ring for each Test of a Fleet.

    epoll: one that watches nothing yet, and was made before the rings were opened: select(2), by
    which it is awaited, knows descriptors below 1,024 only.
    """

    def __init__(self, config: TestConfig, fleet: Fleet, rings: Sequence[Ring], stop: Stop,
                 epoll: select.epoll, *, progress: bool, panel: Panel) -> None:
        self._fleet, self._epoll = fleet, epoll
        self._lanes = [_Lane(number, test, ring)
                       for number, (test, ring) in enumerate(zip(fleet.lanes, rings, strict=True))]
        # By number: those that have a turn in the next round whatever frames and timers say.
        self._again: dict[int, None] = {}
        self._heap: list[tuple[int, int]] = []
        self._handed = 0
        self._next_order = [0, 0, 0]
        first_s = config.patience.backoff_s[0] if config.patience.backoff_s \
            else config.patience.timeout_s
        self._stamp_ns = min(round(first_s * 1e9) // 4, _STAMP_NS)
        self._lane_of = {lane.ring.fileno(): lane for lane in self._lanes}
        for fd in (*self._lane_of, stop.fd):
            self._epoll.register(fd, select.EPOLLIN)
        super().__init__(config, fleet.whole, rings[0], stop, progress=progress, panel=panel)
        if isinstance(config.plan, ClosedLoop):
            # A round takes from all interfaces, so it can find more than one turn does.
            self._many = max(min(config.plan.window, BATCH * len(rings)) / 2, 1)

    def _begin(self, now: int) -> None:
        super()._begin(now)
        # Who was bound beforehand has been start 0 .. preload - 1 of the whole.
        self._handed = self._begun_before
        self._fleet.tell()
        self._again = dict.fromkeys(range(len(self._lanes)))

    def _count_anew(self) -> None:
        begin_measuring(self._test, self._fleet.lanes)
        self._fleet.add_up()

    # One round.

    def _turn(self, now: int) -> tuple[int, int]:
        """A turn and a kick on each interface that has something to do."""
        self._hand_out(now)
        read = queued = 0
        for number in self._ready(now):
            more_read, more_queued = self._turn_of(self._lanes[number])
            read += more_read
            queued += more_queued
        return read, queued

    def _ready(self, now: int) -> dict[int, None]:
        """Which interfaces have something to do."""
        ready, self._again = self._again, {}
        for fd, event in self._epoll.poll(0, len(self._lanes) + 1):
            lane = self._lane_of.get(fd)
            if lane is not None:
                if event & ~select.EPOLLIN:
                    lane.ring.check()
                ready[lane.number] = None
        heap = self._heap
        while heap and heap[0][0] <= now:
            at, number = heapq.heappop(heap)
            lane = self._lanes[number]
            if at != lane.wake_ns:
                continue
            lane.wake_ns = _NEVER_NS
            due_ns = 0 if lane.waits else self._deadline_ns(lane, _FAR_TICKS)
            if due_ns <= now:
                ready[number] = None
            else:
                self._wake_at(lane, due_ns)
        return ready

    def _turn_of(self, lane: _Lane) -> tuple[int, int]:
        clock, ring, starts = self._clock, lane.ring, lane.starts
        due, intended, orders = self._due, _NOTHING, lane.orders
        due[:] = 0
        if starts:
            due[0] = min(len(starts), BATCH)
            intended = np.fromiter((starts[i] for i in range(due[0])), np.int64, due[0])
        due[1:] = np.minimum(orders[1:], BATCH)
        orders[1:] -= due[1:]
        now = clock.now_ns()
        read, queued = turn(lane.test, ring.rx, ring.tx, now, lane.kicked_ns, clock.offset_ns(),
                            clock.trusted_from_ns, due, intended, BATCH)
        orders[1:] += due[1:]
        if queued:
            lane.kicked_ns = clock.now_ns()
        if queued or ring.congested:
            ring.kick()
        lane.unstamped = queued > 0
        begun = self._note(lane)
        for _ in range(min(begun, len(starts))):
            starts.popleft()
        self._look_ahead(lane, queued > 0, now)
        return int(read), int(queued)

    def _note(self, lane: _Lane) -> int:
        """Keep up the counters of the whole that are looked at all the time; returns starts."""
        counts, whole = lane.counts, self._test.counts
        in_flight, awaited, begun = (counts.item(IN_FLIGHT), counts.item(AWAITED),
                                     counts.item(BEGUN))
        whole[IN_FLIGHT] += in_flight - lane.in_flight
        whole[AWAITED] += awaited - lane.awaited
        started: int = begun - lane.begun
        whole[BEGUN] += started
        lane.in_flight, lane.awaited, lane.begun = in_flight, awaited, begun
        return started

    def _look_ahead(self, lane: _Lane, queued: bool, now: int) -> None:
        """When this interface is to have its next turn, frames apart."""
        plan, due_ns = lane.plan, self._deadline_ns(lane, _LOOK_TICKS)
        if queued:
            due_ns = min(due_ns, lane.kicked_ns + self._stamp_ns)
        more = lane.starts or lane.orders.any() or (
            plan.item(P_WINDOW) != OPEN_LOOP and not plan.item(P_STOP)
            and lane.in_flight < plan.item(P_WINDOW) and lane.begun < plan.item(P_EXCHANGES))
        if queued and not lane.ring.congested:
            lane.retry_ns = _RETRY_NS
            if more:
                self._again[lane.number] = None
        elif more or lane.ring.congested:
            due_ns = min(due_ns, now + lane.retry_ns)
            lane.retry_ns = min(2 * lane.retry_ns, _LAST_RETRY_NS)
        self._wake_at(lane, due_ns)

    @staticmethod
    def _deadline_ns(lane: _Lane, ticks: int) -> int:
        """Before when no timer fires, monotonic."""
        tick = int(next_deadline(lane.wheel, ticks))
        return _NEVER_NS if tick >= NEVER else tick * TICK_NS + lane.plan.item(P_BASE_NS)

    def _wake_at(self, lane: _Lane, at_ns: int) -> None:
        if at_ns < lane.wake_ns:
            lane.wake_ns = at_ns
            heapq.heappush(self._heap, (at_ns, lane.number))

    # What the plan wants.

    def _hand_out(self, now: int) -> None:
        """Give each start that is due to its interface, and renewals to who has bound clients."""
        plan = self._test.plan
        if self._preloading or plan.item(P_STOP):
            return
        t_s = (now - self._began) / 1e9
        for order, rate in self._pool:
            wanted = min(rate.due(t_s) - int(self._ordered[order]), _MOST_STARTS)
            if wanted > 0:
                self._order(order, wanted)
        if self._plan is None:
            return
        done = self._handed - self._begun_before
        waiting = self._handed - self._test.counts.item(BEGUN)
        wanted = min(self._plan.due(t_s) - done, plan.item(P_EXCHANGES) - self._handed,
                     _MOST_STARTS, _MOST_WAITING - waiting)
        if wanted <= 0:
            return
        times_ns = (self._plan.times(done, wanted) * 1e9).astype(np.int64) + self._began
        parts = len(self._lanes)
        for start, at_ns in enumerate(times_ns.tolist(), self._handed):
            number = start % parts
            self._lanes[number].starts.append(at_ns)
            self._again[number] = None
        self._handed += wanted

    def _order(self, order: int, wanted: int) -> None:
        """Share out renewals or releases in turn among interfaces that have clients for them."""
        having = np.flatnonzero(self._fleet.counts[:, POOL_SIZE])
        if not len(having):
            having = np.arange(len(self._lanes))
        first = int(having.searchsorted(self._next_order[order]))
        for i in range(wanted):
            number = int(having[(first + i) % len(having)])
            self._lanes[number].orders[order] += 1
            self._again[number] = None
        self._next_order[order] = number + 1
        self._ordered[order] += wanted

    def _next_starts(self) -> list[int]:
        if self._preloading or self._test.plan.item(P_STOP):
            return []
        nexts = [rate.times(int(self._ordered[order]), 1)[0] for order, rate in self._pool]
        if self._plan is not None and self._handed < self._test.plan.item(P_EXCHANGES):
            nexts.append(self._plan.times(self._handed - self._begun_before, 1)[0])
        return [self._began + int(t * 1e9) for t in nexts if np.isfinite(t)]

    def _all_begun(self) -> bool:
        test, plan = self._test, self._plan
        if test.plan[P_STOP] or test.counts[BEGUN] >= test.plan[P_EXCHANGES]:
            return True
        if plan is None or self._preloading or test.counts[BEGUN] < self._handed:
            return False
        return bool(np.isinf(plan.times(self._handed - self._begun_before, 1)[0]))

    def _lives_on(self) -> bool:
        until_told = bool(self._pool) and self._config.limits.duration_s is not None
        # The timer of what was sent just now begins in the next turn.
        armed = int(self._fleet.timers[:, ARMED].sum() + self._fleet.counts[:, PENDING].sum())
        return until_told or armed > self._test.counts.item(AWAITED)

    # Between rounds.

    def _sleep(self, now: int) -> None:
        if self._again:
            return
        wake = min(self._next_tick, self._heap[0][0]) if self._heap else self._next_tick
        for start in self._next_starts():
            if start - now < DOZE_NS:
                return
            wake = min(wake, start - DOZE_NS // 2)
        if wake > now:
            # epoll itself counts in milliseconds; what it watches can be awaited more finely.
            select.select([self._epoll], [], [], (wake - now) / 1e9)

    def _tick(self, now: int) -> None:
        self._fleet.add_up()
        super()._tick(now)
        if not self._test.plan.item(P_STOP):
            # Where all clients who might have begun were busy, they may be free by now.
            counts, plans = self._fleet.counts, self._fleet.plans
            short = ((counts[:, IN_FLIGHT] < plans[:, P_WINDOW])
                     & (counts[:, BEGUN] < plans[:, P_EXCHANGES]))
            self._again.update(dict.fromkeys(np.flatnonzero(short).tolist()))

    def _end_starting(self, now: int, why: str) -> None:
        super()._end_starting(now, why)
        self._fleet.tell()
        for lane in self._lanes:
            lane.starts.clear()
            lane.orders[:] = 0

    def _outcome(self, end: int) -> Outcome:
        self._fleet.add_up()
        return super()._outcome(end)
