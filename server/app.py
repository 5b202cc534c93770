"""The server as a running program: rings opened, batches served, ended with a summary."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.panel import Panel
from fastpath.process import Stop, hold_port, notify
from fastpath.ring import Ring
from fastpath.slots import make_slots
from server.config import ServerConfig, Subnet, resolve
from server.decide import C_NO_FREE
from server.engine import CAUSED, Tables, serve
from server.stats import event_lines, snapshot
from server.tables import make_tables
from server.view import live_view, summary_line

BATCH = 64
# Looked at between batches: logs, the live panel, expiry of an idle server.
TICK_S = 0.2
# A sleeping processor takes longer to wake than an answer takes: look again before sleeping.
SPIN_S = 30e-6
VERBOSE_LINES = 50


class Server:
    """One `dhcp-server`: `run` serves until asked to stop."""

    def __init__(self, config: ServerConfig, *, verbose: bool, live: bool,
                 stats_file: Path | None) -> None:
        self._config = config
        self._verbose = verbose
        self._live = live
        self._stats_file = stats_file
        self._exhausted = 0
        self._said_at = -1
        self._events_seen = 0
        self._began_s = time.monotonic()

    def run(self) -> int:
        """Serve until SIGINT or SIGTERM; returns the exit code."""
        config = self._config
        if self._stats_file:
            check_writable(self._stats_file)
        ports = (config.port,)
        with Stop() as stop, Ring(config.interface, ports, slots=config.ring_slots) as ring:
            subnet = resolve(config, ring.interface)
            with hold_port(config.port, config.interface):
                tables = make_tables(subnet, 4096 if self._verbose else 0)
                warm_up("server", lambda: _touch(tables))
                self._announce(subnet, tables)
                with Panel(live_view, self._live) as panel:
                    self._loop(ring, tables, stop, panel)
            self._finish(tables, ring)
        return 0

    def _announce(self, subnet: Subnet, tables: Tables) -> None:
        free = subnet.addresses - len(subnet.excluded())
        print(f"dhcp-server: serving {subnet.start} to {subnet.end} ({free:,} addresses of "
              f"{subnet.network}) on {subnet.config.interface} as {subnet.server}, "
              f"port {subnet.config.port}", flush=True)
        notify("READY=1")

    def _loop(self, ring: Ring, tables: Tables, stop: Stop, panel: Panel) -> None:
        next_tick = idle_since = time.monotonic()
        self._began_s = next_tick
        while not stop.asked:
            now = time.monotonic()
            read, sent = serve(ring.rx, ring.tx, tables, int(now - self._began_s), BATCH)
            if sent:
                ring.kick()
            if read:
                idle_since = now
            elif now - idle_since > SPIN_S:
                ring.wait(min(TICK_S, max(0.0, next_tick - now)), stop.fd)
            if now >= next_tick:
                next_tick = now + TICK_S
                self._each_tick(tables, ring, now, panel)

    def _each_tick(self, tables: Tables, ring: Ring, now: float, panel: Panel) -> None:
        exhausted = int(tables.counts[CAUSED + C_NO_FREE])
        second = int(now)
        if exhausted > self._exhausted and second != self._said_at:
            print(f"dhcp-server: the pool is used up: {exhausted - self._exhausted:,} DISCOVER "
                  f"without an offer ({exhausted:,} in all)", file=sys.stderr, flush=True)
            self._exhausted, self._said_at = exhausted, second
        if self._verbose:
            lines, self._events_seen = event_lines(tables, self._events_seen, VERBOSE_LINES)
            if lines:
                print("\n".join(lines), flush=True)
        if panel.due():
            panel.show(self._snapshot(tables, ring))

    def _snapshot(self, tables: Tables, ring: Ring) -> dict[str, Any]:
        usage = snapshot(tables, ring.statistics())
        usage["uptime_s"] = round(time.monotonic() - self._began_s, 3)
        usage["tx_congested"] = ring.tx_congested
        return usage

    def _finish(self, tables: Tables, ring: Ring) -> None:
        notify("STOPPING=1")
        final = self._snapshot(tables, ring)
        print(summary_line(final), flush=True)
        if self._stats_file:
            write_json(self._stats_file, final)


def _touch(tables: Tables) -> None:
    """Call the kernel on empty slots, so that it is compiled before the first packet."""
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    serve(empty, empty, tables, 0, 1)
