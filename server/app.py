"""The server as a running program: rings opened, batches served, ended with a summary."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.log import Log
from fastpath.metrics import MetricsServer, parse_listen
from fastpath.panel import Panel
from fastpath.privileges import check_user
from fastpath.process import Signals, Watchdog, notify, notify_reloading
from server.arrays import CAUSED, MOST_BATCH, PEN_USED, Tables
from server.config import resolve
from server.decide import C_NO_FREE
from server.engine import serve
from server.metrics import render
from server.model import Config
from server.ports import (
    LOOK_S,
    Port,
    make_ports,
    open_rings,
    ring_counts,
    served_interfaces,
    wait_for,
)
from server.reload import Reload
from server.stats import event_lines, snapshot
from server.store import Store
from server.tables import make_tables
from server.view import live_view, serving_line, summary_line
from server.warm import touch

BATCH = 64
# Looked at between batches: logs, the live panel, the lease file.
TICK_S = 0.2
# A sleeping processor takes longer to wake than an answer takes: look again before sleeping.
SPIN_S = 30e-6
VERBOSE_LINES = 50
_EVENT_ROWS = 4096
# Lines of exchanges in the live panel.
_RECENT = 10


@dataclass(frozen=True, slots=True)
class Ways:
    """How a server runs, apart from what it answers.

    metrics: [ADDRESS:]PORT, or empty. user: whom to become, or empty.
    """

    verbose: bool = False
    live: bool = False
    stats_file: Path | None = None
    lease_file: Path | None = None
    durability: str = "batch"
    metrics: str = ""
    user: str = ""
    log_level: str = "info"
    log_format: str = "text"


class Server:
    """One `dhcp-server`: `run` serves until asked to stop.

    reread: makes the configuration anew, for SIGHUP; raises UserError.
    """

    def __init__(self, config: Config, ways: Ways, reread: Callable[[], Config]) -> None:
        self._config = config
        self._ways = ways
        self._reread = reread
        self.log = Log("dhcp-server", ways.log_level, ways.log_format)
        # Every message is said with --verbose, or at level debug.
        self._events = _EVENT_ROWS if ways.verbose or self.log.wants("debug") else 0
        self._exhausted = self._events_seen = 0
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._reload: Reload | None = None
        self._reloads = self._reloads_done = self._dumps_done = 0
        # Durability comes with each batch: larger ones share a sync.
        self._batch = MOST_BATCH if ways.durability == "strict" and ways.lease_file else BATCH
        self._wall_s = time.time() - time.monotonic()
        self._began_s = time.monotonic()

    def run(self) -> int:
        """Serve until SIGINT or SIGTERM; returns the exit code."""
        ways = self._ways
        user = check_user(ways.user) if ways.user else None
        if ways.stats_file:
            check_writable(ways.stats_file)
        metrics = MetricsServer(*parse_listen(ways.metrics), render) if ways.metrics else None
        store = Store(ways.lease_file, ways.durability, self.log)
        try:
            with Signals() as signals, open_rings(self._config) as rings:
                self._interfaces = served_interfaces(rings)
                self._resolved = resolve(self._config, self._interfaces)
                if metrics:
                    metrics.start(user)
                warm_up("server", touch)
                tables = make_tables(self._resolved, self._events, self._unix_s())
                self._ports = make_ports(rings, self._resolved, tables)
                if user:
                    store.become(user)
                    if ways.stats_file:
                        check_writable(ways.stats_file)
                self._aside = store.recover(tables, self._unix_s())
                self._store, self._metrics = store, metrics
                self._announce(tables)
                with Panel(live_view, ways.live) as panel:
                    self._loop(signals, panel)
                self._finish()
        finally:
            store.close()
            if metrics:
                metrics.close()
        return 0

    @property
    def _tables(self) -> Tables:
        """What all ports have in common."""
        return self._ports[0].tables

    def _unix_s(self) -> int:
        # Set once: a clock that is put right meanwhile must not end leases.
        return int(self._wall_s + time.monotonic())

    def _announce(self, tables: Tables) -> None:
        self.log.info(serving_line(self._resolved, tables), event="serving")
        if self._metrics:
            self.log.info(f"metrics at {self._metrics.url}", event="metrics")
            self._metrics.show(self._snapshot())
        notify("READY=1")

    def _loop(self, signals: Signals, panel: Panel) -> None:
        watchdog = Watchdog()
        now = next_tick = idle_since = self._began_s = time.monotonic()
        while not signals.asked:
            now = time.monotonic()
            now_us = int((now - self._began_s) * 1e6)
            now_s = int(self._wall_s + now)
            read = 0
            for port in self._ports:
                if now >= port.look_s:
                    found = self._turn(port, now_s, now_us)
                    read += found
                    port.look_s = now + LOOK_S if port.aside and not found else 0.0
            if self._reload is not None:
                self._go_on_reloading(now_s)
                idle_since = now
            if read:
                idle_since = now
            elif now - idle_since > SPIN_S:
                wait_for(self._ports, min(TICK_S, max(0.0, next_tick - now)), now_us, signals.fd)
            if now >= next_tick:
                next_tick = now + TICK_S
                watchdog.tick(now)
                self._each_tick(now_s, panel)
                signals.heard()
                self._obey(signals, now_s)

    def _turn(self, port: Port, now_s: int, now_us: int) -> int:
        """Serve one batch of one port; returns how many frames were read."""
        ring = port.ring
        ring.pull()
        read, sent = serve(ring.rx, ring.tx, port.tables, port.link, now_s, now_us, port.done_ns,
                           self._batch)
        if port.tables.pen.state[PEN_USED]:
            sent = self._store.write(port, sent)
        if sent:
            ring.kick()
            port.done_ns = time.time_ns()
        return int(read)

    def _obey(self, signals: Signals, now_s: int) -> None:
        """Do what SIGUSR1 and SIGHUP ask for."""
        if signals.dump != self._dumps_done:
            self._dumps_done = signals.dump
            final = self._snapshot()
            self.log.info(summary_line(final, "statistics"), event="statistics", statistics=final)
            if self._ways.stats_file:
                try:
                    write_json(self._ways.stats_file, final)
                except SystemRefused as error:
                    # No reason to stop serving.
                    self.log.error(error.what, event="statistics_failed")
        if signals.reload != self._reloads and self._reload is None:
            self._reloads = signals.reload
            notify_reloading()
            self._reload = Reload(self._reread, self._resolved, self._tables, self._aside,
                                  self._interfaces, now_s, self.log)

    def _go_on_reloading(self, now_s: int) -> None:
        reload = self._reload
        if reload is None or not reload.step(now_s):
            return
        self._reload = None
        if reload.failed or reload.tables is None or reload.resolved is None:
            self.log.error(f"configuration not changed: {reload.failed}", event="reload_failed")
        else:
            self._store.succeed(reload.tables, self._tables)
            rings = [port.ring for port in self._ports]
            self._ports = make_ports(rings, reload.resolved, reload.tables, self._ports)
            self._resolved, self._aside = reload.resolved, reload.aside
            self._reloads_done += 1
            self.log.info(f"configuration changed: {serving_line(self._resolved, self._tables)}",
                          event="reloaded")
        notify("READY=1")

    def _each_tick(self, now_s: int, panel: Panel) -> None:
        tables = self._tables
        self._store.tick(tables, now_s)
        exhausted = int(tables.counts[CAUSED + C_NO_FREE])
        if exhausted > self._exhausted:
            self.log.limited("exhausted", "warning", "the pool is used up: "
                             f"{exhausted - self._exhausted:,} DISCOVER without an offer "
                             f"({exhausted:,} in all)", event="pool_exhausted", total=exhausted)
            self._exhausted = exhausted
        if self._events:
            lines, self._events_seen = event_lines(tables, self._events_seen, VERBOSE_LINES)
            if panel.on_terminal:
                self._recent.extend(lines)
            else:
                for line in lines:
                    self.log.info(line, event="exchange")
        self.log.flush()
        if panel.due():
            panel.show({**self._snapshot(), "recent": list(self._recent)})
        if self._metrics and self._metrics.due():
            self._metrics.show(self._snapshot())

    def _snapshot(self) -> dict[str, Any]:
        return {**snapshot(self._tables, self._resolved), **ring_counts(self._ports),
                "uptime_s": round(time.monotonic() - self._began_s, 3),
                "started_at": round(self._wall_s + self._began_s),
                "reloads": self._reloads_done, "lease_file": self._store.counts(),
                "log_lines_dropped": self.log.dropped + self.log.over}

    def _finish(self) -> None:
        notify("STOPPING=1")
        final = self._snapshot()
        self.log.flush(final=True)
        self.log.info(summary_line(final), event="ended", statistics=final)
        if self._ways.stats_file:
            write_json(self._ways.stats_file, final)
