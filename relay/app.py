"""The relay as a running program: rings opened, batches relayed, ended with a summary."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpath.delay import TICK_US, Delay, make_delay, waiting
from fastpath.errors import SystemRefused
from fastpath.files import check_writable, write_json
from fastpath.interface import find
from fastpath.jit import warm_up
from fastpath.log import Log
from fastpath.metrics import MetricsServer, parse_listen
from fastpath.panel import Panel
from fastpath.privileges import User, check_user, drop
from fastpath.process import Signals, Watchdog, hold_port, notify
from fastpath.ring import Ring
from fastpath.slots import rx_release
from fastpath.wheel import next_deadline
from fastpath.wire import SERVER_PORT
from relay.arrays import H_PORT, UNKNOWN, Tables
from relay.incoming import look
from relay.metrics import render
from relay.model import Config
from relay.nexthop import NextHops
from relay.outgoing import send, send_due
from relay.places import Resolved, find_uplinks, resolve
from relay.routes import Routes
from relay.stats import event_lines, snapshot
from relay.tables import delay_rows, make_tables
from relay.view import live_view, serving_line, summary_line
from relay.warm import touch

BATCH = 64
# Room to send for so many batches: what the kernel did not take at once. Slots that stay in the
# processor's cache are worth more than many.
_UNSENT_BATCHES = 4
# Looked at between batches: ARP, logs, the live panel.
TICK_S = 0.1
# A sleeping processor takes longer to wake than a message takes: look again before sleeping.
SPIN_S = 30e-6
VERBOSE_LINES = 50
_EVENT_ROWS = 4096
# Lines of messages in the live panel.
_RECENT = 10
# How long the servers' neighbours are waited for before ready; they may answer later as well.
_FIRST_ARP_S = 0.3


@dataclass(frozen=True, slots=True)
class Ways:
    """How a relay runs, apart from what it relays.

    metrics: [ADDRESS:]PORT, or empty. user: whom to become, or empty.
    """

    verbose: bool = False
    live: bool = False
    stats_file: Path | None = None
    metrics: str = ""
    user: str = ""
    log_level: str = "info"
    log_format: str = "text"


@contextlib.contextmanager
def open_rings(config: Config, uplinks: Sequence[str]) -> Iterator[list[Ring]]:
    """A ring on every interface, downlinks first; closed at the end. Raises as `Ring` does."""
    with contextlib.ExitStack() as stack:
        rings = []
        most = 1 << (_UNSENT_BATCHES * BATCH * len(config.servers) - 1).bit_length()
        for name in dict.fromkeys((*config.downlinks, *uplinks)):
            rings.append(stack.enter_context(
                Ring(name, (SERVER_PORT,), slots=config.ring_slots, most_unsent=most, tags=0)))
            stack.enter_context(hold_port(SERVER_PORT, name))
        yield rings


class Relay:
    """One `dhcp-relay`: `run` relays until asked to stop."""

    def __init__(self, config: Config, ways: Ways) -> None:
        self._config = config
        self._ways = ways
        self.log = Log("dhcp-relay", ways.log_level, ways.log_format)
        # Every message is said with --verbose, or at level debug.
        self._events = _EVENT_ROWS if ways.verbose or self.log.wants("debug") else 0
        self._events_seen = self._dumps_done = 0
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._wall_s = time.time() - time.monotonic()
        self._began_s = time.monotonic()
        self._rings: list[Ring]
        self._resolved: Resolved
        self._tables: Tables
        self._delays: list[Delay]
        self._hops: NextHops
        self._metrics: MetricsServer | None = None

    def run(self) -> int:
        """Relay until SIGINT or SIGTERM; returns the exit code."""
        ways, config = self._ways, self._config
        user = check_user(ways.user) if ways.user else None
        if ways.stats_file:
            check_writable(ways.stats_file)
        with contextlib.ExitStack() as stack:
            signals = stack.enter_context(Signals())
            routes = stack.enter_context(Routes())
            if ways.metrics:
                self._metrics = MetricsServer(*parse_listen(ways.metrics), render)
                stack.callback(self._metrics.close)
            for name in (*config.downlinks, *config.uplinks):
                find(name)
            uplinks = find_uplinks(config, routes, dict(socket.if_nameindex()))
            self._rings = stack.enter_context(open_rings(config, uplinks))
            stack.callback(self._rings.clear)
            self._resolved = resolve(config, [ring.interface for ring in self._rings], uplinks)
            self._tables = make_tables(self._resolved, self._events)
            self._delays = [make_delay(delay_rows(config)) for _ in self._rings]
            if self._metrics:
                self._metrics.start(user)
            self._hops = stack.enter_context(NextHops(
                config.servers, self._resolved.places, self._tables.hops, routes))
            # Asked before compiling, so that the answers are there after it.
            self._hops.tick(time.monotonic())
            warm_up("relay", touch)
            self._settle(user)
            with Panel(live_view, ways.live) as panel:
                self._loop(signals, panel)
            self._finish()
        return 0

    def _settle(self, user: User | None) -> None:
        """Give up what is not needed any more, wait a moment for ARP, and say that we are ready."""
        if user:
            drop(user)
            if self._ways.stats_file:
                check_writable(self._ways.stats_file)
        deadline = time.monotonic() + _FIRST_ARP_S
        self._hops.hear(time.monotonic())
        while not self._hops.complete and (left_s := deadline - time.monotonic()) > 0:
            select.select(self._hops.sockets, [], [], min(left_s, TICK_S))
            self._hops.hear(time.monotonic())
            self._hops.tick(time.monotonic())
        self._began_s = time.monotonic()
        self.log.info(serving_line(self._resolved), event="serving")
        self._say_changes()
        if self._metrics:
            self.log.info(f"metrics at {self._metrics.url}", event="metrics")
            self._metrics.show(self._snapshot())
        notify("READY=1")

    def _loop(self, signals: Signals, panel: Panel) -> None:
        watchdog = Watchdog()
        ports = range(len(self._rings))
        faulty = delay_rows(self._config) > 0
        next_tick = idle_since = self._began_s
        while not signals.asked:
            now = time.monotonic()
            now_us = int((now - self._began_s) * 1e6)
            done = 0
            for port in ports:
                done += self._turn(port, now_us)
            if faulty:
                done += self._send_due(now_us)
            if done:
                idle_since = now
            elif now - idle_since > SPIN_S:
                self._wait(min(TICK_S, max(0.0, next_tick - now)), now_us, signals.fd)
            if now >= next_tick:
                next_tick = now + TICK_S
                watchdog.tick(now)
                self._each_tick(now, panel)
                signals.heard()
                self._obey(signals)

    def _turn(self, port: int, now_us: int) -> int:
        """Relay one batch of one port; returns how many frames were looked at."""
        ring, tables = self._rings[port], self._tables
        read, requests, targets = look(ring.rx, tables, port, BATCH)
        if not read:
            return 0
        if requests:
            for number in tables.hops[:, H_PORT].tolist():
                if number != UNKNOWN:
                    targets |= 1 << number
        to = 0
        while targets >> to:
            if targets >> to & 1:
                other = self._rings[to]
                if send(ring.rx.mem, other.tx, tables, self._delays[to], to, read, now_us):
                    other.kick()
            to += 1
        rx_release(ring.rx, read)
        return int(read)

    def _send_due(self, now_us: int) -> int:
        done = 0
        for ring, delay in zip(self._rings, self._delays, strict=True):
            if waiting(delay):
                sent = send_due(ring.tx, self._tables, delay, now_us, BATCH)
                if sent:
                    ring.kick()
                done += sent
        return done

    def _wait(self, timeout_s: float, now_us: int, also: int) -> None:
        """Sleep until a frame or ARP is there, something is due, `also` is readable, or time is up.
        """
        for delay in self._delays:
            if waiting(delay):
                due_us = next_deadline(delay.wheel, 1 << 12) * TICK_US
                timeout_s = min(timeout_s, max(0.0, (due_us - now_us) * 1e-6))
        if any(ring.congested for ring in self._rings):
            timeout_s = 0.0
        sockets = self._hops.sockets
        watched: list[Any] = [*self._rings, *sockets, also]
        readable, _, _ = select.select(watched, [], [], timeout_s)
        for ring in self._rings:
            if ring in readable or ring.congested:
                # It looks for errors of the interface, and sends what was left.
                ring.wait(0.0)
        if any(sock in readable for sock in sockets):
            self._hops.hear(time.monotonic())

    def _obey(self, signals: Signals) -> None:
        """Do what SIGUSR1 asks for; there is nothing to reload."""
        if signals.dump != self._dumps_done:
            self._dumps_done = signals.dump
            now = self._snapshot()
            self.log.info(summary_line(now, "statistics"), event="statistics", statistics=now)
            if self._ways.stats_file:
                try:
                    write_json(self._ways.stats_file, now)
                except SystemRefused as error:
                    # No reason to stop relaying.
                    self.log.error(error.what, event="statistics_failed")

    def _each_tick(self, now: float, panel: Panel) -> None:
        self._hops.hear(now)
        self._hops.tick(now)
        self._say_changes()
        if self._events:
            lines, self._events_seen = event_lines(self._tables, self._resolved,
                                                   self._events_seen, VERBOSE_LINES)
            if panel.on_terminal:
                self._recent.extend(lines)
            else:
                for line in lines:
                    self.log.info(line, event="message")
        self.log.flush()
        if panel.due():
            panel.show({**self._snapshot(), "recent": list(self._recent)})
        if self._metrics and self._metrics.due():
            self._metrics.show(self._snapshot())

    def _say_changes(self) -> None:
        for line in self._hops.changed:
            self.log.limited("next hop", "info", line, event="next_hop")
        self._hops.changed.clear()

    def _snapshot(self) -> dict[str, Any]:
        rows = [{"name": place.interface.name, "role": place.role,
                 "address": str(place.address or ""), "giaddr": str(place.giaddr or ""),
                 "rx_ring_drops": ring.statistics(), "tx_congested": ring.tx_congested}
                for place, ring in zip(self._resolved.places, self._rings, strict=True)]
        return {**snapshot(self._tables, self._resolved),
                "uptime_s": round(time.monotonic() - self._began_s, 3),
                "started_at": round(self._wall_s + self._began_s), "interfaces": rows,
                "rx_ring_drops": sum(ring.rx_dropped for ring in self._rings),
                "log_lines_dropped": self.log.dropped + self.log.over}

    def _finish(self) -> None:
        notify("STOPPING=1")
        final = self._snapshot()
        self.log.flush(final=True)
        self.log.info(summary_line(final), event="ended", statistics=final)
        if self._ways.stats_file:
            write_json(self._ways.stats_file, final)
