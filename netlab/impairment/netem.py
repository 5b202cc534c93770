"""Getting netem from the kernel: where a machine has it as a module that nothing loads by itself.

The kernel loads it when it is asked for, unless that is turned off (kernel.modprobe); then root
can. In a user namespace, or where there are no modules, there is nothing to be done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from netlab import features
from netlab.features import Features

MODULE = "sch_netem"
_TIMEOUT_S = 10.0
# user_namespaces(7): what the machine's own user namespace maps.
_WHOLE = ["0", "0", "4294967295"]


def on_the_machine() -> bool:
    """Whether we are root of the machine itself, not of a user namespace."""
    return os.geteuid() == 0 and Path("/proc/self/uid_map").read_text().split() == _WHOLE


def load_netem(found: Features, say: Callable[[str], None]) -> frozenset[str]:
    """What this kernel has, with netem if loading its module helps; the user is told of that."""
    modprobe = shutil.which("modprobe")
    if "netem" in found.has or modprobe is None or not on_the_machine():
        return found.has
    done = subprocess.run([modprobe, "-q", MODULE], stdin=subprocess.DEVNULL,
                          capture_output=True, timeout=_TIMEOUT_S)
    if done.returncode:
        return found.has
    features.probe.cache_clear()
    now = features.probe().has
    if "netem" in now:
        say(f"loaded the kernel module {MODULE}")
    return now
