"""Places where a lab may die: the tests kill it at each in turn and look what is left.

`checkpoint()` stands before every change to the machine and to the journal. It does nothing
unless DHCP_NETLAB_DIE_AT says at which one, counted from 1, this process is to end by SIGKILL.
"""

from __future__ import annotations

import os
import signal
from itertools import count

DIE_AT_ENV = "DHCP_NETLAB_DIE_AT"
_passed = count(1)
_die_at = int(os.environ.get(DIE_AT_ENV) or 0)


def checkpoint() -> None:
    """Something is about to change."""
    if _die_at and next(_passed) == _die_at:
        os.kill(os.getpid(), signal.SIGKILL)
