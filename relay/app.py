"""One relay, by its parts: opened, a turn when frames wait, a tick now and then, and its end.

The one thing to know: nothing here waits or loops. `loop` calls the parts, of one relay or of
many in one process; `open` alone has to be called in the relay's own network namespace.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from fastpath.delay import TICK_US, Delay, make_delay, waiting
from fastpath.errors import NetlabError
from fastpath.files import check_writable, write_json
from fastpath.interface import find
from fastpath.log import Log
from fastpath.process import hold_port
from fastpath.ring import SLOT_SIZE, Ring
from fastpath.slots import G_COUNT, G_HEAD, RX_USER
from fastpath.wheel import next_deadline
from fastpath.wire import SERVER_PORT
from relay.arrays import Tables
from relay.model import Config, Ways
from relay.nexthop import NextHops
from relay.outgoing import pass_on, send_due
from relay.places import Resolved, find_uplinks, resolve
from relay.routes import Routes
from relay.stats import Part, event_lines, snapshot_of
from relay.tables import delay_rows, make_tables
from relay.view import serving_line

BATCH = 64
# Room to send for so many batches: what the kernel did not take at once. Slots that stay in the
# processor's cache are worth more than many. A small receive ring gets a smaller one, though never
# less than what so many frames become.
_UNSENT_BATCHES, _LEAST_BATCH = 4, 16
TICK_S = 0.1
VERBOSE_LINES = 50
_EVENT_ROWS = 4096


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _open_ring(config: Config, namespace: str, name: str) -> Ring:
    copies = len(config.servers)
    least = min(_UNSENT_BATCHES * BATCH, max(config.ring_slots // 4, _LEAST_BATCH))
    return Ring(name, (SERVER_PORT,), slots=config.ring_slots,
                most_unsent=_power_of_two(least * copies), tags=0,
                label=f"{namespace}:{name}" if namespace else "")


@contextlib.contextmanager
def _named(namespace: str) -> Iterator[None]:
    """Say of which relay an error is, where there are several."""
    try:
        yield
    except NetlabError as error:
        if not namespace:
            raise
        raise type(error)(f"{namespace}: {error.what}", error.remedy) from None


class Relay:
    """One hop. Raises SystemRefused from any call once an interface of it went down or away.

    name: "" or its namespace. busy_s: when it last had something to do. gone: why it relays no
    more, or "". rings: one on every interface, downlinks first.
    """

    def __init__(self, config: Config, ways: Ways, log: Log) -> None:
        self.config, self.ways, self.name = config, ways, ways.namespace
        self.busy_s = 0.0
        self.gone = ""
        self.rings: list[Ring] = []
        self.resolved: Resolved
        self.tables: Tables
        self.hops: NextHops
        self._log = log
        # Every message is said with --verbose, or at level debug.
        self._events = _EVENT_ROWS if ways.verbose or log.wants("debug") else 0
        self._events_seen = 0
        self._faulty = delay_rows(config) > 0
        self._delays: list[Delay]
        self._usual: list[int]
        self._batch = BATCH
        self._began_s = time.monotonic()
        self._stack = contextlib.ExitStack()

    # Beginning and end.

    def open(self) -> None:
        """Open all that it needs, in the namespace of the calling thread; then ask for servers.

        Raises SystemRefused, UserError.
        """
        try:
            with _named(self.name):
                self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        config, stack = self.config, self._stack
        if self.ways.stats_file:
            check_writable(self.ways.stats_file)
        routes = stack.enter_context(Routes())
        for name in (*config.downlinks, *config.uplinks):
            find(name)
        uplinks = find_uplinks(config, routes, dict(socket.if_nameindex()))
        for name in dict.fromkeys((*config.downlinks, *uplinks)):
            ring = _open_ring(config, self.name, name)
            stack.callback(ring.close)
            self.rings.append(ring)
            stack.enter_context(hold_port(SERVER_PORT, name))
        self.resolved = resolve(config, [ring.interface for ring in self.rings], uplinks)
        self.tables = make_tables(self.resolved, self._events)
        # Where nothing ever waits, one that is empty serves them all.
        empty = make_delay(0)
        self._delays = [make_delay(delay_rows(config)) if self._faulty else empty
                        for _ in self.rings]
        # By which port frames from each leave first, or only.
        ports = range(len(self.rings))
        self._usual = [next((other for other in reversed(ports) if other != port), port)
                       for port in ports]
        room = min(int(ring.tx.geometry[G_COUNT]) for ring in self.rings)
        self._batch = max(min(BATCH, room // len(config.servers)), 1)
        self.hops = stack.enter_context(NextHops(
            config.servers, self.resolved.places, self.tables.hops, routes))
        self.hops.tick(time.monotonic())

    def begin(self) -> None:
        """From now on it serves."""
        self._began_s = time.monotonic()
        self.say("info", serving_line(self.resolved), event="serving")
        self._say_changes()

    def close(self) -> None:
        """Give everything back; safe to call twice. Each ring waits for the kernel meanwhile."""
        self._stack.close()
        self.rings.clear()

    # What it does again and again.

    def turn(self, now_s: float) -> int:
        """Relay one batch of each port, and what was delayed until now; returns frames handled."""
        now_us = int((now_s - self._began_s) * 1e6)
        done = 0
        for port, ring in enumerate(self.rings):
            rx = ring.rx
            if rx.words.item(rx.geometry.item(G_HEAD) * SLOT_SIZE >> 2) & RX_USER:
                done += self._pass_on(port, ring, now_us)
            if ring.congested:
                ring.kick()
        if self._faulty:
            done += self._send_due(now_us)
        if done:
            self.busy_s = now_s
        return done

    def _pass_on(self, port: int, ring: Ring, now_us: int) -> int:
        """A batch of one port."""
        to, left, count = self._usual[port], 0, self._batch
        while True:
            other = self.rings[to]
            count, sent, left = pass_on(ring.rx, other.tx, self.tables, self._delays[to], port,
                                        to, count, left, now_us)
            if sent:
                other.kick()
            if not left:
                return count
            to = int(left & -left).bit_length() - 1

    def _send_due(self, now_us: int) -> int:
        done = 0
        for ring, delay in zip(self.rings, self._delays, strict=True):
            if waiting(delay):
                sent = send_due(ring.tx, self.tables, delay, now_us, BATCH)
                if sent:
                    ring.kick()
                done += sent
        return done

    @property
    def congested(self) -> bool:
        """Whether frames stand in a transmit ring that the kernel would not take."""
        return any(ring.congested for ring in self.rings)

    @property
    def due_s(self) -> float | None:
        """When the first frame that faults delay is to go out; None where none waits."""
        ticks = [next_deadline(delay.wheel, 1 << 12) for delay in self._delays
                 if self._faulty and waiting(delay)]
        return self._began_s + min(ticks) * TICK_US * 1e-6 if ticks else None

    def tick(self, now_s: float, tell: Callable[[str], None] | None = None) -> float:
        """Keep next hops right, and say what happened; returns when it wants to be called again.

        tell: takes the lines about messages; without it they are logged.
        """
        self.hops.tick(now_s)
        self._say_changes()
        if not self._events:
            return self.hops.due_s
        lines, self._events_seen = event_lines(self.tables, self.resolved, self._events_seen,
                                               VERBOSE_LINES)
        for line in lines:
            if tell:
                tell(self._mine(line))
            else:
                self.say("info", line, event="message")
        return min(self.hops.due_s, now_s + TICK_S)

    def hear(self, now_s: float) -> None:
        """Take in what was heard by ARP."""
        self.hops.hear(now_s)
        self._say_changes()

    # What it says.

    def _mine(self, line: str) -> str:
        return f"{self.name}: {line}" if self.name else line

    def say(self, level: str, line: str, *, event: str, **fields: Any) -> None:
        """Log it, with the relay's name where it has one."""
        if self.name:
            fields["relay"] = self.name
        say: Callable[..., None] = getattr(self._log, level)
        say(self._mine(line), event=event, **fields)

    def _say_changes(self) -> None:
        for line in self.hops.changed:
            self._log.limited(f"next hop {self.name}", "info", self._mine(line), event="next_hop")
        self.hops.changed.clear()

    def snapshot(self) -> dict[str, Any]:
        """All that it counted; `gone` says why it no longer relays, where that is so."""
        log = self._log
        return {**whole([self], self._began_s), "log_lines_dropped": log.dropped + log.over,
                **({"namespace": self.name} if self.name else {}),
                **({"gone": self.gone} if self.gone else {})}

    def write_stats(self) -> None:
        """Write --stats-json, where it is wanted; raises SystemRefused."""
        if self.ways.stats_file:
            write_json(self.ways.stats_file, self.snapshot())

    @property
    def part(self) -> Part:
        """What its counts are read from."""
        return self.tables, self.resolved

    def interface_rows(self) -> list[dict[str, Any]]:
        """What is known of each interface."""
        return [{"name": place.interface.name, "role": place.role,
                 "address": str(place.address or ""), "giaddr": str(place.giaddr or ""),
                 "rx_ring_drops": ring.statistics(), "tx_congested": ring.tx_congested}
                for place, ring in zip(self.resolved.places, self.rings, strict=True)]


def whole(relays: Sequence[Relay], began_s: float) -> dict[str, Any]:
    """What several relays counted together, and one row an interface.

    began_s: since when, of the monotonic clock.
    """
    rows = [{**row, "name": f"{relay.name}:{row['name']}"} if len(relays) > 1 else row
            for relay in relays for row in relay.interface_rows()]
    now = time.monotonic()
    return {**snapshot_of([relay.part for relay in relays]), "uptime_s": round(now - began_s, 3),
            "started_at": round(time.time() - now + began_s), "interfaces": rows,
            "rx_ring_drops": sum(row["rx_ring_drops"] for row in rows)}
