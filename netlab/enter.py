"""Step into a node for good, as `ip netns exec` does. For a process about to run a program.

Only what has to look different does: the network, and `/sys`, whose `/sys/class/net` shows
the network of whoever mounted it. That mount is private, so nobody else sees it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from netlab import syscalls

NETNS_DIRECTORY = Path("/run/netns")


def enter(namespace: int) -> None:
    """Move the calling process into the network namespace behind that descriptor.

    The process must have one thread. Raises OSError with what the kernel said.
    """
    syscalls.setns(namespace, syscalls.CLONE_NEWNET)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    # Slave: what the machine mounts later still arrives here, ours never goes back. Above all
    # a removed lab's namespaces are let go here too.
    syscalls.mount("none", "/", "none", syscalls.MS_REC | syscalls.MS_SLAVE)
    covered = False
    try:
        syscalls.detach("/sys")
    except OSError as error:
        # Nothing is mounted there, as in some containers; or it is not a user namespace's to
        # take away, and then ours covers it.
        if error.errno != errno.EINVAL:
            raise
        covered = True
    read_only = os.statvfs("/sys").f_flag & os.ST_RDONLY
    try:
        syscalls.mount("sysfs", "/sys", "sysfs", read_only)
    except OSError as error:
        # A container that hides parts of /sys has the kernel refuse a whole one to a user
        # namespace (mount_too_revealing). Programs that ask by netlink, as ours do, miss nothing.
        if not covered or error.errno != errno.EPERM:
            raise


def open_namespace(name: str) -> int:
    """A descriptor of the namespace called `name`; the caller closes it. FileNotFoundError."""
    return os.open(NETNS_DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)
