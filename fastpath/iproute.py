"""pyroute2's socket as we use it: in the calling thread's namespace, with errors as OSError.

Import it only where it is needed: it takes longer to import than most commands run. What
builds and looks at thousands of nodes has a shorter way (`netlab.netlink`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError


@contextmanager
def iproute() -> Iterator[IPRoute]:
    """An `IPRoute`, closed at the end of the block; it hears of no events.

    Every request may raise OSError with what the kernel said.
    """
    with IPRoute(ext_ack=True, groups=0) as ip:
        # IPRoute has no parameter for what its own asynchronous half has one for.
        ip.asyncore.exception_factory = _refused
        yield ip


def dump(ask: Callable[[str], Iterator[Any]]) -> list[Any]:
    """All the answers of `ip.link`, `ip.tc` ...; asked again when they do not agree among
    themselves, which pyroute2 does not look at."""
    while True:
        answers = list(ask("dump"))
        if not any(answer["header"]["flags"] & NLM_F_DUMP_INTR for answer in answers):
            return answers


def _refused(error: Exception, _message: object) -> OSError:
    if not isinstance(error, NetlinkError):
        return error if isinstance(error, OSError) else OSError(str(error))
    code, said = error.args
    text = os.strerror(code)
    return OSError(code, text if said in (None, text) else f"{text} ({said})")
