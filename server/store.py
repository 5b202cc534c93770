"""Leases on disk before they are promised: between a batch of decisions and its replies.

When the disk refuses, the replies of that batch are taken back, the server falls silent (other
servers may serve) and tries again several times a second; it goes on when the disk does.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, cast

from fastpath.errors import SystemRefused
from fastpath.log import Log
from fastpath.privileges import User, drop
from server.arrays import PEN_RECORDS, PEN_USED, Tables
from server.carry import Aside, make_aside, replay
from server.decide import P_JOURNAL, P_STORING
from server.journal import Durability, Journal, StoreFailed
from server.outgoing import take_back
from server.ports import Port
from server.record import R_ID


class Store:
    """The lease file of a running server, or none. Counts: records, failures."""

    def __init__(self, path: Path | None, durability: str, log: Log) -> None:
        self._journal = Journal(path, cast(Durability, durability)) if path else None
        self._path = path
        self._log = log
        self._failing_since = 0.0
        self.records = self.failures = 0

    def recover(self, tables: Tables, now_s: int) -> Aside:
        """Enter what the file holds into the table, and write to it from now on.

        Returns the leases of addresses that are in no pool.
        """
        if self._journal is None:
            return make_aside(0)
        aside = make_aside(self._journal.size // R_ID + 1)
        began = time.monotonic()
        count = homeless = 0
        for payload in self._journal.blocks():
            read, left_out = replay(tables.world, tables.scratch.names, payload, now_s,
                                    aside)
            count, homeless = count + read, homeless + left_out
        tables.world.policy[P_JOURNAL] = 1
        bound = int(tables.world.leases.totals[2])
        self._log.info(f"lease file {self._path}: {bound:,} leases, from {count:,} records in "
                       f"{time.monotonic() - began:.2f} s", event="recovered", records=count,
                       leases=bound)
        if self._journal.lost_octets:
            self._log.warning(f"lease file {self._path}: the last {self._journal.lost_octets} "
                              "octets were not written whole, and are left out", event="torn_tail",
                              octets=self._journal.lost_octets)
        if homeless:
            self._log.warning(f"lease file {self._path}: {homeless:,} records are of addresses "
                              "that are not in any pool now", event="homeless", records=homeless)
        return aside

    def write(self, port: Port, sent: int) -> int:
        """Store what a batch changed; returns how many of its `sent` replies may go out."""
        tables = port.tables
        pen = tables.pen
        if self._journal is None or self._failing_since:
            return sent
        try:
            self._journal.append(pen.mem[:pen.state[PEN_USED]])
        except StoreFailed as error:
            take_back(port.ring.tx, tables, sent)
            tables.world.policy[P_STORING] = 0
            self._failing_since = time.monotonic()
            self.failures += 1
            self._log.error(f"cannot write lease file {self._path}: {error.strerror}; answering "
                            "nobody until it can be written", event="store_failed",
                            error=error.strerror)
            return 0
        self.records += int(pen.state[PEN_RECORDS])
        pen.state[:] = 0
        return sent

    def tick(self, tables: Tables, now_s: int) -> None:
        """Some times a second: compaction, and after a failure another attempt."""
        if self._journal is None:
            return
        self._journal.tick(now_s)
        while self._journal.messages:
            self._log.warning(self._journal.messages.popleft(), event="lease_file")
        if not self._failing_since:
            return
        pen = tables.pen
        try:
            # What was decided when it failed is in the table: the file gets it first.
            self._journal.append(pen.mem[:pen.state[PEN_USED]])
        except StoreFailed as error:
            waited = time.monotonic() - self._failing_since
            self._log.limited("store", "error", f"lease file {self._path} still cannot be "
                              f"written after {waited:.0f} s: {error.strerror}",
                              event="store_failed", error=error.strerror)
            return
        self.records += int(pen.state[PEN_RECORDS])
        pen.state[:] = 0
        tables.world.policy[P_STORING] = 1
        waited, self._failing_since = time.monotonic() - self._failing_since, 0.0
        self._log.info(f"lease file {self._path} can be written again: serving, after "
                       f"{waited:.1f} s of silence", event="store_resumed")

    def succeed(self, tables: Tables, before: Tables) -> None:
        """Let new tables be written to the same file, in the state the old ones were in."""
        for cell in (P_JOURNAL, P_STORING):
            tables.world.policy[cell] = before.world.policy[cell]

    def become(self, user: User) -> None:
        """Give up root, but not the lease file; raises SystemRefused."""
        place = self._path.absolute().resolve() if self._path else None
        if place:
            try:
                os.chown(place, user.uid, user.gid)
            except OSError as error:
                raise SystemRefused(f"cannot give lease file {place} to {user.name!r}: "
                                    f"{error.strerror}") from None
        drop(user)
        if place and not os.access(place.parent, os.W_OK | os.X_OK):
            # A compacted file is put beside the old one.
            raise SystemRefused(f"user {user.name!r} cannot write in {place.parent}, where the "
                                "lease file is", f"chown {user.name} {place.parent}")
        if place and not os.access(sys.executable, os.X_OK):
            # Root's own home is closed to others: no reason not to serve.
            self._log.warning(f"lease file {self._path} will not be compacted: user {user.name!r} "
                              f"cannot run {sys.executable}, which would do it",
                              event="no_compaction")

    def counts(self) -> dict[str, Any] | None:
        """For statistics; None without a lease file."""
        if self._journal is None:
            return None
        return {"path": str(self._path), "bytes": self._journal.size, "records": self.records,
                "compactions": self._journal.compactions, "failures": self.failures,
                "storing": not self._failing_since}

    def close(self) -> None:
        """Let go of the file; where it cannot be synced any more, only the log says so."""
        if self._journal is None:
            return
        try:
            self._journal.close()
        except StoreFailed as error:
            self._log.error(f"lease file {self._path} could not be synced at the end: "
                            f"{error.strerror}", event="store_failed", error=error.strerror)
