"""Relays of one process, one or hundreds: opened, served in one loop, and ended.

The one thing to know: a relay without traffic costs nothing. epoll names those with frames to
read, a heap those whose tick is due; and a relay that is busy is looked at without asking anybody,
until it has had nothing to do for a moment.
"""

from __future__ import annotations

import contextlib
import heapq
import resource
import select
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpath import elsewhere
from fastpath.errors import SystemRefused
from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.log import TOTAL_PER_S, Log
from fastpath.metrics import MetricsServer, parse_listen
from fastpath.panel import Panel
from fastpath.privileges import User, check_user, drop
from fastpath.process import Signals, Watchdog, notify
from fastpath.ring import Ring
from relay.app import TICK_S, Relay, whole
from relay.metrics import render
from relay.model import Config, Ways
from relay.view import live_view, summary_line
from relay.warm import touch

# A sleeping processor takes longer to wake than a message takes: look again before sleeping.
SPIN_S = 30e-6
# How long servers' neighbours are waited for before ready, of one relay, and of many together;
# they may answer later as well.
_FIRST_ARP_S, _FIRST_ARP_OF_MANY_S = 0.3, 1.0
# Relays whose next hops are looked after at one tick: all of them together would hold up messages.
_MOST_TICKS = 64
# Lines of messages in the live panel.
_RECENT = 10
# Lines that a relay says of itself when it begins and ends.
_LINES_A_RELAY = 4
# Sockets of a relay and of each of its interfaces, and files besides.
_FILES_A_RELAY, _FILES_AN_INTERFACE, _FILES_BESIDES = 1, 5, 64
# Each ring that is closed waits for the kernel, and all can wait at once.
_CLOSING = 64


@dataclass(frozen=True, slots=True)
class Running:
    """How the process runs.

    metrics: [ADDRESS:]PORT, or empty. user: whom to become, or empty. stats_file: for what many
    relays counted together; one alone has its own.
    """

    live: bool = False
    metrics: str = ""
    user: str = ""
    stats_file: Path | None = None
    log_level: str = "info"
    log_format: str = "text"


def serve(told: Sequence[tuple[Config, Ways]], running: Running) -> int:
    """Relay until SIGINT or SIGTERM; returns the exit code. Raises SystemRefused, UserError.

    told: one alone is in this namespace or another and ends with its interfaces; of many, all
    named, the others go on.
    """
    log = Log("dhcp-relay", running.log_level, running.log_format,
              total_per_s=max(TOTAL_PER_S, _LINES_A_RELAY * len(told)))
    return _Loop([Relay(config, ways, log) for config, ways in told], running, log).run()


class _Loop:
    """What `serve` does. `_relays` are all; `_live` those that have not lost an interface."""

    def __init__(self, relays: Sequence[Relay], running: Running, log: Log) -> None:
        self._relays, self._running, self._log = relays, running, log
        self._live = list(relays)
        self._alone = not any(relay.name for relay in relays)
        self._began_s = time.monotonic()
        # Made before anything else is opened: select(2), by which it is awaited for less than a
        # millisecond, knows descriptors below 1,024 only.
        self._epoll = select.epoll()
        # Of a ring, or of ARP: then None.
        self._by_fd: dict[int, tuple[Relay, Ring | None]] = {}
        # Busy ones, and those with frames that faults delay, by when the first is due.
        self._hot: dict[Relay, None] = {}
        self._delayed: dict[Relay, float] = {}
        self._ticks: list[tuple[float, int]] = []
        self._next_tick_s = 0.0
        self._dumps_done = 0
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._signals: Signals
        self._panel: Panel
        self._metrics: MetricsServer | None = None
        self._watchdog = Watchdog()
        self._error: SystemRefused | None = None

    def run(self) -> int:
        """Open, serve, end; returns the exit code."""
        running = self._running
        user = check_user(running.user) if running.user else None
        if running.stats_file:
            check_writable(running.stats_file)
        with contextlib.ExitStack() as stack:
            stack.callback(self._epoll.close)
            self._signals = stack.enter_context(Signals())
            if running.metrics:
                self._metrics = MetricsServer(*parse_listen(running.metrics), render)
                stack.callback(self._metrics.close)
            stack.callback(self._close)
            self._open()
            if self._metrics:
                self._metrics.start(user)
            warm_up("relay", touch)
            self._settle(user)
            self._panel = stack.enter_context(Panel(live_view, running.live))
            while self._live and not self._signals.asked:
                self._round()
            self._panel.close()
            self._finish()
        if self._error and self._alone:
            raise self._error
        return 1 if self._error else 0

    # Beginning and end.

    def _open(self) -> None:
        """Open all, many at a time: each ring waits for the kernel, and they can wait together."""
        relays = self._relays
        if self._alone:
            relays[0].open()
        else:
            _allow_files(relays)
            elsewhere.side_by_side([(relay.name, relay.open) for relay in relays])
        for relay in relays:
            for sock in relay.hops.sockets:
                self._watch(sock.fileno(), relay, None)

    def _watch(self, fd: int, relay: Relay, ring: Ring | None) -> None:
        self._by_fd[fd] = relay, ring
        self._epoll.register(fd, select.EPOLLIN)

    def _settle(self, user: User | None) -> None:
        """Give up what is not needed any more, wait a moment for ARP, and say that we are ready."""
        if user:
            drop(user)
            for place in (self._running.stats_file,
                          *(relay.ways.stats_file for relay in self._relays)):
                if place:
                    check_writable(place)
        self._wait_for_arp(_FIRST_ARP_S if self._alone else _FIRST_ARP_OF_MANY_S)
        now = time.monotonic()
        self._epoll.register(self._signals.fd, select.EPOLLIN)
        self._began_s = self._next_tick_s = now
        for number, relay in enumerate(self._relays):
            for ring in relay.rings:
                self._watch(ring.fileno(), relay, ring)
            relay.begin()
            heapq.heappush(self._ticks, (now, number))
        if not self._alone:
            self._log.info(f"relaying as {len(self._relays):,} relays", event="ready")
        if self._metrics:
            self._log.info(f"metrics at {self._metrics.url}", event="metrics")
            self._metrics.show(self._snapshot())
        notify("READY=1")

    def _wait_for_arp(self, most_s: float) -> None:
        """Until the way to every server is known; answers may have come while we compiled."""
        now = asked_s = time.monotonic()
        deadline_s = now + most_s
        waiting = dict.fromkeys(self._relays)
        while now < deadline_s and not self._signals.asked:
            for fd, _ in self._epoll.poll(0.0, len(self._by_fd) + 1):
                self._by_fd[fd][0].hops.hear(now)
            waiting = {relay: None for relay in waiting if not relay.hops.complete}
            if not waiting:
                return
            if now >= asked_s:
                asked_s = now + TICK_S
                for relay in waiting:
                    relay.hops.tick(now)
            select.select([self._epoll], [], [], min(deadline_s, asked_s) - now)
            now = time.monotonic()

    def _finish(self) -> None:
        notify("STOPPING=1")
        for error in self._write_down():
            self._error = self._error or error
        final = self._snapshot()
        self._log.flush(final=True)
        self._log.info(summary_line(final), event="ended", statistics=final)

    def _close(self) -> None:
        self._by_fd.clear()
        with ThreadPoolExecutor(min(_CLOSING, len(self._relays))) as pool:
            list(pool.map(Relay.close, self._relays))

    # One round.

    def _round(self) -> None:
        now = time.monotonic()
        for relay in tuple(self._hot):
            try:
                if not relay.turn(now) and now - relay.busy_s > SPIN_S:
                    self._rest(relay)
            except SystemRefused as error:
                self._lose(relay, error)
        for relay in [relay for relay, due_s in self._delayed.items() if due_s <= now]:
            self._wake(relay, now)
        if now >= self._next_tick_s:
            self._tick(now)
            self._listen(0.0, now)
        elif len(self._hot) < len(self._live):
            # Also while some are busy: to see who else has become so.
            self._listen(0.0 if self._hot else self._next_tick_s - now, now)

    def _rest(self, relay: Relay) -> None:
        """Have it named by epoll from now on, if it is not waiting for something else."""
        if relay.congested:
            return
        del self._hot[relay]
        due_s = relay.due_s
        if due_s is not None:
            self._delayed[relay] = due_s

    def _wake(self, relay: Relay, now: float) -> None:
        self._hot[relay] = None
        self._delayed.pop(relay, None)
        relay.busy_s = now

    def _listen(self, timeout_s: float, now: float) -> None:
        """Sleep until something is to be done, at most so long, and see who has to do it."""
        if self._delayed and timeout_s > 0:
            # epoll itself counts in milliseconds; what it watches can be awaited more finely.
            due_s = min(self._delayed.values())
            select.select([self._epoll], [], [], min(timeout_s, max(due_s - now, 0.0)))
            timeout_s = 0.0
        events = self._epoll.poll(timeout_s, len(self._by_fd) + 1)
        now = time.monotonic()
        for fd, event in events:
            if fd == self._signals.fd:
                self._signals.heard()
                self._obey()
                continue
            relay, ring = self._by_fd.get(fd, (None, None))
            if relay is None:
                continue
            try:
                if ring is None:
                    relay.hear(now)
                elif event & ~select.EPOLLIN:
                    ring.check()
                else:
                    self._wake(relay, now)
            except SystemRefused as error:
                self._lose(relay, error)

    def _lose(self, relay: Relay, error: SystemRefused) -> None:
        """An interface of it is gone: it relays no more, and the others go on."""
        self._error = self._error or error
        relay.gone = error.what
        self._live.remove(relay)
        self._hot.pop(relay, None)
        self._delayed.pop(relay, None)
        for fd in [fd for fd, (who, _) in self._by_fd.items() if who is relay]:
            del self._by_fd[fd]
            self._epoll.unregister(fd)
        if not self._alone:
            relay.say("error", f"gone: {error.what}", event="gone")

    # Between rounds.

    def _tick(self, now: float) -> None:
        self._next_tick_s = now + TICK_S
        self._watchdog.tick(now)
        tell = self._recent.append if self._panel.on_terminal else None
        for _ in range(_MOST_TICKS):
            if not self._ticks or self._ticks[0][0] > now:
                break
            _, number = heapq.heappop(self._ticks)
            relay = self._relays[number]
            if not relay.gone:
                heapq.heappush(self._ticks, (relay.tick(now, tell), number))
        self._log.flush()
        if self._panel.due():
            self._panel.show({**self._snapshot(), "recent": list(self._recent)})
        if self._metrics and self._metrics.due():
            self._metrics.show(self._snapshot())

    def _obey(self) -> None:
        """Do what SIGUSR1 asks for; there is nothing to reload."""
        if self._signals.dump != self._dumps_done:
            self._dumps_done = self._signals.dump
            self._write_down()
            now = self._snapshot()
            self._log.info(summary_line(now, "statistics"), event="statistics", statistics=now)

    def _write_down(self) -> list[SystemRefused]:
        """Write every statistics file; returns what was refused, and goes on."""
        failed = []
        for relay in self._relays:
            try:
                relay.write_stats()
            except SystemRefused as error:
                failed.append(error)
                relay.say("error", error.what, event="statistics_failed")
        if self._running.stats_file:
            try:
                write_json(self._running.stats_file, self._snapshot())
            except SystemRefused as error:
                failed.append(error)
                self._log.error(error.what, event="statistics_failed")
        return failed

    def _snapshot(self) -> dict[str, Any]:
        """What all counted together."""
        if self._alone:
            return self._relays[0].snapshot()
        found = whole(self._relays, self._began_s)
        # Of a thousand interfaces only those are named that have lost something.
        found["interfaces"] = [row for row in found["interfaces"]
                               if row["rx_ring_drops"] or row["tx_congested"]]
        return {**found, "log_lines_dropped": self._log.dropped + self._log.over,
                "relays": len(self._relays),
                "gone": {relay.name: relay.gone for relay in self._relays if relay.gone}}


def _allow_files(relays: Sequence[Relay]) -> None:
    """Raise our own limit of open files as far as so many relays need it; or SystemRefused."""
    interfaces = sum(len(relay.config.downlinks) + max(len(relay.config.uplinks), 1)
                     for relay in relays)
    needed = _FILES_BESIDES + _FILES_A_RELAY * len(relays) + _FILES_AN_INTERFACE * interfaces
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemRefused(f"{len(relays):,} relays take {needed:,} open files, and {hard:,} "
                            "are allowed",
                            f"raise that: ulimit -Hn {needed}, or prlimit --nofile")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
