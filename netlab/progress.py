"""How far it is, on one line of the terminal: `lab: 812 of 2,003 nodes`.

Nothing is said where standard error is no terminal, nor in the first second.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PATIENCE_S = 1.0
# A terminal is slow, and nobody reads faster.
_PAUSE_S = 0.1
# ECMA-48: to the first column, and erase to the end of the line.
_CLEAR = "\r\x1b[K"

# Told how many are done, of how many, of what.
Progress = Callable[[int, int, str], None]


def silent(done: int, total: int, what: str) -> None:
    """A Progress that nobody sees."""


@contextmanager
def shown(patience_s: float = PATIENCE_S) -> Iterator[Progress]:
    """A Progress for the length of the block; the line is gone after it."""
    if not sys.stderr.isatty():
        yield silent
        return
    due, written = time.monotonic() + patience_s, False

    def show(done: int, total: int, what: str) -> None:
        nonlocal due, written
        if (now := time.monotonic()) >= due:
            due, written = now + _PAUSE_S, True
            sys.stderr.write(f"{_CLEAR}lab: {done:,} of {total:,} {what}")
            sys.stderr.flush()

    try:
        yield show
    finally:
        if written:
            sys.stderr.write(_CLEAR)
            sys.stderr.flush()
