"""A live picture of a running program, drawn by another process.

Drawing a table takes milliseconds and would hold up packets, so a child process draws; the
program only writes a snapshot into a pipe, and skips it when the pipe is full. The child
ends when the pipe does, however the program ended. Where the output is no terminal, each
picture is printed once, below the last.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from fastpath.process import keep_only

Snapshot = dict[str, Any]
View = Callable[[Snapshot | None, Snapshot], Any]

PERIOD_S = 0.5
# On no terminal every picture stays: fewer of them.
PLAIN_PERIOD_S = 5.0


class Panel:
    """Shows snapshots while the program goes on; a context manager.

    view: makes a rich renderable of the snapshot before (None at first) and the one now.
    wanted: False makes every call a no-op.
    """

    def __init__(self, view: View, wanted: bool) -> None:
        self._pipe = self._child = -1
        self._next = time.monotonic()
        # Lines that others print on it would tear the picture.
        self.on_terminal = wanted and sys.stdout.isatty()
        self._period = PERIOD_S if sys.stdout.isatty() else PLAIN_PERIOD_S
        if wanted:
            self._start(view)

    def _start(self, view: View) -> None:
        read, self._pipe = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        self._child = os.fork()
        if self._child:
            os.close(read)
            os.set_blocking(self._pipe, False)
            return
        code = 1
        try:
            # The program decides when to end; the child only follows.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            # Not a lock, a socket or the end of another's pipe may live on in here.
            keep_only(0, 1, 2, read)
            _draw(read, view)
            sys.stdout.flush()
            code = 0
        finally:
            # Nothing may get past here (rich raises SystemExit where nobody reads its output):
            # the rest of the program would run a second time.
            os._exit(code)

    def due(self) -> bool:
        """True when it is time for another picture."""
        return self._pipe >= 0 and time.monotonic() >= self._next

    def show(self, snapshot: Snapshot) -> None:
        """Hand one snapshot to the child; dropped when it is still busy with others."""
        if self._pipe < 0:
            return
        self._next = time.monotonic() + self._period
        line = json.dumps(snapshot).encode() + b"\n"
        # A line longer than PIPE_BUF may be cut when the pipe is full; the child skips it.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(self._pipe, line)

    def close(self) -> None:
        """End the child, and wait for its last picture."""
        if self._pipe >= 0:
            os.close(self._pipe)
            os.waitpid(self._child, 0)
            self._pipe = -1

    def __enter__(self) -> Panel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _draw(pipe: int, view: View) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: Snapshot | None = None
    with open(pipe, encoding="utf-8") as lines, contextlib.ExitStack() as stack:
        live = (stack.enter_context(Live(console=console, auto_refresh=False))
                if console.is_terminal else None)
        for line in lines:
            try:
                now = json.loads(line)
            except ValueError:
                continue
            picture = view(before, now)
            if live:
                live.update(picture, refresh=True)
            else:
                console.print(picture)
            before = now
