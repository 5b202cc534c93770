"""Put programs on interfaces and take them off again, through pyroute2.

A filter carries the name of the process that put it there. So whoever comes after a kill -9 sees
from the kernel alone which filters nobody answers for any more. All of it happens in the network
namespace of the calling thread. Sources: linux/pkt_sched.h, linux/pkt_cls.h, linux/if_link.h.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import (
    XDP_FLAGS_DRV_MODE,
    XDP_FLAGS_SKB_MODE,
    XDP_FLAGS_UPDATE_IF_NOEXIST,
)

from fastpath.iproute import dump, iproute

# Where clsact has its filters (TC_H_CLSACT with TC_H_MIN_INGRESS, TC_H_MIN_EGRESS).
ARRIVING, DEPARTING = 0xFFFFFFF2, 0xFFFFFFF3
_CLSACT = 0xFFFFFFF1
_MARK = "dhcp-netlab"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Filter:
    """A program at one side of an interface. classid: what it is told, at most 65,535.

    priority: among several filters the lowest goes first.
    """

    ifname: str
    side: int
    program: int
    classid: int
    priority: int


def _owner() -> str:
    return f"{_MARK}/{os.getpid()}/{_started(os.getpid())}"


def new_name() -> str:
    """A name for filters of this process that no other of its filters have."""
    return f"{_owner()}/{next(_numbers)}"


def _started(pid: int) -> str:
    """When a process began, in ticks since boot: with its number, a name for good."""
    return _status(pid)[19]


def _status(pid: int) -> list[str]:
    """The words of proc(5), stat, from the state on: a process may call itself anything."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def is_ours(name: str) -> bool:
    """Whether a filter of that name is the calling process's own."""
    return name == _owner() or name.startswith(f"{_owner()}/")


def is_abandoned(name: str) -> bool:
    """Whether the process that put a filter of that name is gone; False for others' filters."""
    words = name.split("/")
    if len(words) < 3 or words[0] != _MARK or not words[1].isdecimal():
        return False
    try:
        status = _status(int(words[1]))
    except OSError:
        return True
    # One that has ended may still wait for its parent.
    return status[19] != words[2] or status[0] in "ZX"


def put(filters: Iterable[Filter], name: str = "") -> None:
    """Put the filters there, by default under this process's name; clsact comes with the first
    of an interface.

    Raises OSError with what the kernel said, ENODEV where there is no such interface.
    """
    name = name or _owner()
    with iproute() as ip:
        indexes = _indexes(ip)
        for each in filters:
            if each.ifname not in indexes:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), each.ifname)
            index = indexes[each.ifname]
            try:
                ip.tc("add", kind="clsact", index=index)
            except OSError as error:
                if error.errno != errno.EEXIST:
                    raise
            ip.tc("add-filter", kind="bpf", index=index, parent=each.side, handle=1,
                  fd=each.program, name=name, classid=each.classid, direct_action=True,
                  prio=each.priority)


def take(wanted: Callable[[str], bool] = is_ours) -> int:
    """Take off the filters whose name is `wanted`, by default all of this process, and clsact
    where it is empty then. Returns how many. Raises OSError.

    An interface that goes meanwhile takes its filters with it.
    """
    with iproute() as ip:
        queues = {queue["index"]: queue.get_attr("TCA_KIND") for queue in dump(ip.tc)
                  if queue["parent"] == _CLSACT}
        return sum(_take(ip, index, kind, wanted) for index, kind in queues.items())


def _take(ip: IPRoute, index: int, kind: str, wanted: Callable[[str], bool]) -> int:
    # Somebody's "ingress" stands in the same place, and takes filters that arrive too.
    sides = (ARRIVING, DEPARTING) if kind == "clsact" else (ARRIVING,)
    taken, others = 0, 0
    with _unless_gone():
        for side in sides:
            for priority, handle, name in _filters(ip, index, side):
                if not wanted(name):
                    others += 1
                    continue
                with _unless_gone():
                    ip.tc("del-filter", kind="bpf", index=index, parent=side, handle=handle,
                          prio=priority)
                    taken += 1
        if taken and not others and kind == "clsact":
            ip.tc("del", kind="clsact", index=index)
    return taken


@contextlib.contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            raise


def _filters(ip: IPRoute, index: int, side: int) -> list[tuple[int, int, str]]:
    """(priority, handle, name) of the filters at one side; a name only where one has it."""
    found: dict[tuple[int, int], str] = {}
    for each in ip.get_filters(index=index, parent=side):
        options = each.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if hasattr(options, "get_attr") else None
        # Each priority is told twice: as itself (handle 0), and with what is in it.
        if each["handle"]:
            found[each["info"] >> 16, each["handle"]] = name or ""
    return [(priority, handle, name) for (priority, handle), name in found.items()]


def xdp(ifname: str, program: int, *, driver: bool = False, replace: bool = False) -> None:
    """Run the XDP program with that descriptor where `ifname` receives; -1 takes it off.

    driver: in the driver itself, before there is an skb; else after. replace: also where there
    is one already, which is EBUSY else. Raises OSError.
    """
    flags = XDP_FLAGS_DRV_MODE if driver else XDP_FLAGS_SKB_MODE
    if program >= 0 and not replace:
        flags |= XDP_FLAGS_UPDATE_IF_NOEXIST
    with iproute() as ip:
        index = _indexes(ip).get(ifname)
        if index is None:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), ifname)
        ip.link("set", index=index, xdp={"attrs": [("IFLA_XDP_FD", program),
                                                   ("IFLA_XDP_FLAGS", flags)]})


def _indexes(ip: Any) -> dict[str, int]:
    return {link.get_attr("IFLA_IFNAME"): link["index"] for link in dump(ip.link)}
