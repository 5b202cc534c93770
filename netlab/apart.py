"""Work in a process of its own: it may give up privileges, crash or hang, and we are told.

Forked and nothing else. Where a user namespace is to be taken there must be one thread only, and
an ordinary user may not reach the files of a fresh interpreter.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from collections.abc import Callable
from types import TracebackType

Tell = Callable[[bytes], object]
NO_ANSWER = "no answer"


class Apart:
    """A child at work, until the end of the block: there it is killed, if it still is."""

    def __init__(self, child: int, reader: int) -> None:
        self._child, self._reader = child, reader
        self._status: int | None = None

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        os.close(self._reader)
        if self._status is None:
            os.kill(self._child, signal.SIGKILL)
            self._wait()

    def answer(self, timeout_s: float) -> tuple[bytes, str]:
        """(all that it told, "" or why there is no more: NO_ANSWER, "killed by SIGSEGV")."""
        told, deadline = b"", time.monotonic() + timeout_s
        while True:
            left_s = max(0.0, deadline - time.monotonic())
            if not select.select([self._reader], [], [], left_s)[0]:
                return told, NO_ANSWER
            more = os.read(self._reader, 1 << 16)
            if not more:
                break
            told += more
        status = self._wait()
        return told, f"killed by {signal.Signals(-status).name}" if status < 0 else ""

    def _wait(self) -> int:
        self._status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        return self._status


def start(work: Callable[[Tell], object]) -> Apart:
    """Begin `work` in a child, which tells us by what it is given. What it says elsewhere nobody
    hears; what it raises it has to tell itself."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            silence = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(silence, descriptor)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            work(lambda told: os.write(writer, told))
        finally:
            os._exit(0)
    os.close(writer)
    return Apart(child, reader)
