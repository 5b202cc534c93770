"""A thread that syncs the lease file, so that the server does not wait for the disk.

The one thing to know: the kernel reports a failed write once, to whichever sync of that
descriptor comes first. So only one sync of it may be under way, and every result counts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque

# At most one sync in this time.
SYNC_INTERVAL_S = 0.05


class Syncer(threading.Thread):
    """Syncs in the background, at most once in SYNC_INTERVAL_S.

    results: (descriptor, octets that were written before, error or None), oldest first.
    idle: held while a sync is under way and until its result is there.
    """

    def __init__(self) -> None:
        super().__init__(name="lease-file-sync", daemon=True)
        self.results: deque[tuple[int, int, OSError | None]] = deque()
        self.idle = threading.Lock()
        self._wanted: tuple[int, int] | None = None
        self._retired: deque[int] = deque()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self.start()

    def ask(self, fd: int, end: int) -> None:
        """Sync `fd`, which `end` octets were written to."""
        self._wanted = fd, end
        if not self._wake.is_set():
            self._wake.set()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            # Only here, where no sync is under way: a number of a closed descriptor is
            # soon another file's.
            self._close_retired()
            wanted, begun = self._wanted, time.monotonic()
            if wanted is None or self._stopping.is_set():
                continue
            error = None
            with self.idle:
                try:
                    os.fdatasync(wanted[0])
                except OSError as problem:
                    error = problem
                self.results.append((*wanted, error))
            self._stopping.wait(max(0.0, begun + SYNC_INTERVAL_S - time.monotonic()))

    def retire(self, fd: int) -> None:
        """Close `fd` once it is not in use here."""
        self._wanted = None
        self._retired.append(fd)
        self._wake.set()

    def stop(self) -> None:
        """End after the sync that is under way."""
        self._stopping.set()
        self._wake.set()
        self.join()
        self._close_retired()

    def _close_retired(self) -> None:
        while self._retired:
            with contextlib.suppress(OSError):
                os.close(self._retired.popleft())
