"""A program of the user's that runs beside a test: `PROGRAM start` before, `PROGRAM stop` after.

What it writes goes to standard error, so that standard output stays the report's alone.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from fastpath.errors import SystemRefused

_STANDARD_ERROR = 2


@contextlib.contextmanager
def wrapped(program: str | None) -> Iterator[None]:
    """Start `PROGRAM start`, which may go on, and at the end run `PROGRAM stop` to its end.

    Raises SystemRefused where it cannot be started. What becomes of the stop is only said: the
    test has its result by then.
    """
    if program is None:
        yield
        return
    try:
        started = subprocess.Popen([program, "start"], stdin=subprocess.DEVNULL,
                                   stdout=_STANDARD_ERROR)
    except (OSError, ValueError) as error:
        raise SystemRefused(f"--wrap: cannot run {program!r}: {_reason(error)}",
                            "name a program, or a script with #! that is executable") from None
    try:
        yield
    finally:
        try:
            subprocess.run([program, "stop"], stdin=subprocess.DEVNULL, stdout=_STANDARD_ERROR)
        except (OSError, ValueError) as error:
            print(f"dhcp-tester: --wrap: cannot run {program!r}: {_reason(error)}",
                  file=sys.stderr)
        # Collected where it has ended; one that goes on is the user's.
        started.poll()


def _reason(error: OSError | ValueError) -> str:
    return str(getattr(error, "strerror", None) or error)
