"""Another configuration for a server that goes on serving.

A thread reads it and makes new tables; the server itself carries the leases over between
batches, a few thousand rows at a time, then the rows that changed meanwhile, and changes over.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence

from fastpath.errors import NetlabError, UserError
from fastpath.interface import Interface
from fastpath.log import Log
from server.arrays import Tables
from server.carry import (
    Aside,
    bring_back,
    carry,
    carry_changes,
    make_aside,
    watch_changes,
)
from server.config import Resolved, resolve
from server.model import Config
from server.tables import make_tables

# About half a millisecond.
_ROWS_A_STEP = 2000
# What cannot change while sockets are open and privileges are gone.
_FIXED = ("interfaces", "listen", "port", "transport", "ring_slots")


class Reload:
    """One change of configuration. Call `step` between batches until it says that it is done.

    kept: leases without a place so far. resolved, tables, aside: the new ones, once `step` has
    returned True and `failed` is empty.
    """

    def __init__(self, read: Callable[[], Config], before: Resolved, tables: Tables, kept: Aside,
                 interfaces: Sequence[Interface], now_s: int, log: Log) -> None:
        self._read, self._before, self._old, self._kept = read, before, tables, kept
        self._interfaces, self._now_s, self._log = interfaces, now_s, log
        self.resolved: Resolved | None = None
        self.tables: Tables | None = None
        self.failed = ""
        self._row = -1
        self.aside = make_aside(0)
        # The thread must not keep the packets waiting for the interpreter.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(0.0005)
        self._thread = threading.Thread(target=self._prepare, daemon=True)
        self._thread.start()

    def _prepare(self) -> None:
        try:
            config = self._read()
            for name in _FIXED:
                if getattr(config, name) != getattr(self._before.config, name):
                    raise UserError(f"{name.replace('_', ' ')} cannot change while serving",
                                    "restart instead")
            self.resolved = resolve(config, self._interfaces)
            events = len(self._old.events) - 1
            tables = make_tables(self.resolved, events, self._now_s, self._old.world.leases.key)
            most = int(self._kept.count[0]) + len(self._old.world.leases.state)
            self.aside = make_aside(most)
            bring_back(self._kept, tables.world, tables.scratch.names, self._now_s, self.aside)
            # What has been counted so far goes on.
            self.tables = tables._replace(
                counts=self._old.counts, events=self._old.events, pen=self._old.pen,
                response_us=self._old.response_us)
        except NetlabError as error:
            self.failed = f"{error.what}; {error.remedy}" if error.remedy else error.what
        except Exception as error:
            # Our own bug must not end the service.
            self.failed = f"internal error: {error!r}"

    def step(self, now_s: int) -> bool:
        """Go on a little; True when all is done, or `failed` says why not."""
        if self._thread.is_alive():
            # Let it have the interpreter.
            time.sleep(0)
            return False
        if self._row < 0:
            sys.setswitchinterval(self._interval)
            if self.failed or self.tables is None:
                return True
            watch_changes(self._old.world, True)
            self._row = 0
        assert self.tables is not None
        old, new, names = self._old.world, self.tables.world, self.tables.scratch.names
        rows = len(old.leases.state)
        if self._row < rows:
            self._row = carry(old, new, names, self._row, _ROWS_A_STEP, now_s, self.aside)
            return False
        if not carry_changes(old, new, names, now_s, self.aside):
            self._row = 0
            return False
        watch_changes(old, False)
        homeless = int(self.aside.count[0])
        if homeless:
            self._log.warning(f"{homeless:,} leases are of addresses that are not in any pool now",
                              event="homeless", leases=homeless)
        return True
