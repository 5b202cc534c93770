"""Ctrl-C and its kin: never in the middle of a step, never past the removal of a lab.

SIGTERM and SIGHUP end a lab as Ctrl-C does, by an exception that runs every `finally`.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def held() -> Iterator[None]:
    """Signals that end a program wait until the block is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def handled(handler: Handler) -> Iterator[None]:
    """`handler` gets the ending signals, except those that whoever started us has us ignore."""
    before = {number: signal.getsignal(number) for number in ENDING}
    taken = [number for number, old in before.items() if old is not signal.SIG_IGN]
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


def leave(number: int, frame: FrameType | None) -> None:
    """A handler: end as a shell expects of that signal, but through every `finally`."""
    raise SystemExit(128 + number)
