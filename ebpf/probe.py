"""What passes a set of interfaces, how long it stays between them, and where it is lost.

`Probe` puts the programs of `path.c` on interfaces, wherever their namespaces are, and `drops.c`
on the kernel's tracepoint of frames that it throws away; `read` is all of it at one moment, as
plain arrays. What node or link an interface belongs to is the caller's to say.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ebpf import attach, tcx
from ebpf.btf import Btf
from ebpf.kallsyms import spans
from ebpf.module import Kind, Module
from fastpath.elsewhere import side_by_side
from fastpath.errors import SystemRefused

# What follows is said in dhcp.h and path.c too; the numbers are one contract.
KINDS = ("other", "discover", "offer", "request", "decline", "ack", "nak", "release", "inform",
         "bootp", "other_type", "malformed", "fragment")
TIMED = ("discover", "offer", "request", "ack")
LINK, NODE = 0, 1
IN, OUT = 0, 1
HOPS = 32
_OCTAVE, _BUCKETS = 8, 304
COUNTS = np.dtype([("packets", "u8", len(KINDS)), ("bytes", "u8", len(KINDS)),
                   ("hops", "u8", HOPS), ("checked", "u8"), ("bad_header", "u8"),
                   ("bad_udp", "u8")])
TIMES = np.dtype([("count", "u8"), ("sum_ns", "u8"), ("least_ns", "u8"), ("most_ns", "u8"),
                  ("twice", "u8"), ("buckets", "u4", _BUCKETS)])
_HOOK = np.dtype([("node", "u4"), ("link", "u4"), ("role", "u4")])
_PLACE = np.dtype([("namespace", "u4"), ("ifindex", "u4"), ("reason", "u4"), ("kind", "u4"),
                   ("location", "u8")])
_COUNT = np.dtype("u8")
_NAMED = Path("/run/netns")
# Among filters of one interface the lowest goes first.
_BEFORE, _BEHIND = 49_000, 49_500
# A broadcast that no UDP socket wanted ends here, before 6.x without that reason.
_UNHEARD, _UNHEARD_IN = "NO_SOCKET", ("__udp4_lib_rcv", "__udp4_lib_mcast_deliver")
_MOST_HOOKS = 65_534  # they have to fit a classid
# Frames end in these ways every day: heard by all who wanted them, and by nobody else.
# The rest are losses. (Who listens with a ring leaves the frame itself to its own stack.)
ORDINARY = frozenset((
    "NOT_DROPPED_YET", "CONSUMED", "NO_SOCKET", "OTHERHOST", "UNICAST_IN_L2_MULTICAST",
    "IP_NOPROTO", "IP_INNOROUTES", "IP_INADDRERRORS", "IP_INVALID_DEST", "IP_INVALID_SOURCE",
    "IP_LOCAL_SOURCE", "IP_LOCALNET", "SOCKET_FILTER", "UNHANDLED_PROTO", "IPV6DISABLED",
    "QUEUE_PURGE", "SOCKET_CLOSE"))


class Part(IntEnum):
    """What a node does with messages; path.c, enum role."""

    CLIENT = 0
    SERVER = 1
    FORWARDER = 2


@dataclass(frozen=True, slots=True)
class End:
    """An interface to look at. node, link: numbers of what it belongs to; both ends of a link
    have the same one."""

    namespace: str
    ifname: str
    node: int
    link: int
    part: Part


@dataclass(frozen=True, slots=True)
class Drop:
    """Frames that the kernel threw away in one namespace for one reason.

    ifname: "" where it was not known any more. reason: a name of enum skb_drop_reason, without
    its prefix. symbol: the kernel function that gave them up. kind: of KINDS.
    """

    namespace: str
    ifname: str
    reason: str
    symbol: str
    kind: str
    count: int


@dataclass(frozen=True, slots=True)
class Reading:
    """All that was counted since the probe began.

    counts: shape (ends, 2), of COUNTS, by IN and OUT. times: shape (ends, 2, 2, 4), of TIMES, by
    direction, LINK or NODE, and TIMED. drops: None where this kernel gives no reasons.
    """

    counts: np.ndarray[Any, Any]
    times: np.ndarray[Any, Any]
    drops: tuple[Drop, ...] | None


class Probe:
    """Programs on all `ends`, until `close`. sample: of so many exchanges (a power of two) one
    is timed; frames are counted one and all. behind: after other probes on the same interfaces,
    and the first one decides which exchanges are timed. by_udp: namespaces where DHCP is heard
    by UDP sockets alone: a datagram that finds none there is lost. links: attached by TCX where
    the kernel has it (6.6), which loses no frame; else, and before, as filters.

    Raises SystemRefused where bcc, headers or privilege are missing, UserError never; nothing
    stays behind then.
    """

    def __init__(self, ends: Sequence[End], sample: int = 1, *, behind: bool = False,
                 by_udp: Collection[str] = (), links: bool = True) -> None:
        if len(ends) * 2 > _MOST_HOOKS:
            raise SystemRefused(f"{len(ends):,} interfaces are more than eBPF counters hold",
                                f"at most {_MOST_HOOKS // 2:,}")
        self._ends = list(ends)
        self._module: Module | None = None
        self._reasons: dict[int, str] = {}
        namespaces = dict.fromkeys(end.namespace for end in ends)
        # First: it is this that refuses a namespace that is not there.
        self._names = dict(zip(namespaces, side_by_side([(n, _interfaces) for n in namespaces]),
                               strict=True))
        self._inodes = {(_NAMED / name).stat().st_ino: name for name in namespaces}
        self._by_udp = frozenset(by_udp)
        self._name = attach.new_name()
        self._links: list[int] = []
        try:
            self._load(sample)
            self._put(behind, links)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    @property
    def sees_drops(self) -> bool:
        """Whether this kernel says why it throws frames away (Linux 5.17)."""
        return bool(self._reasons)

    @property
    def by_links(self) -> bool:
        """Whether the programs are held by links of TCX; else by filters."""
        return bool(self._links)

    def _load(self, sample: int) -> None:
        defines: dict[str, int | str] = {"HOOKS": 2 * len(self._ends), "SAMPLE": sample}
        files = ["dhcp.h", "path.c"]
        btf = Btf()
        try:
            self._reasons = btf.drop_reasons
            if self._reasons:
                files.append("drops.c")
                defines |= self._offsets(btf)
        finally:
            btf.close()
        self._module = Module(*files, defines=defines)
        hooks = self._module.table("hooks")
        for number, end in enumerate(self._ends):
            row = np.array([(end.node, end.link, end.part)], _HOOK)
            for side in (IN, OUT):
                hooks.write(2 * number + side, row)
        self._times_shape = (len(self._ends), 2, 2, len(TIMED))
        if self._reasons:
            self._watch_drops(self._module)

    def _offsets(self, btf: Btf) -> dict[str, int | str]:
        fields = {"AT_DEV": ("sk_buff", "dev"), "AT_NOTE": ("sk_buff", "tc_index"),
                  "AT_DEV_INDEX": ("net_device", "ifindex"),
                  "AT_DEV_NET": ("net_device", "nd_net"), "AT_NET_INODE": ("net", "ns", "inum")}
        found = {name: btf.offset(*path) for name, path in fields.items()}
        socket = btf.offset("sock", "__sk_common", "skc_net")
        if None in found.values():
            missing = next(name for name, at in found.items() if at is None)
            raise SystemRefused(f"this kernel has no field {'.'.join(fields[missing])}", "")
        more: dict[str, int | str] = {name: at for name, at in found.items() if at is not None}
        more |= {"REASONS": max(self._reasons) + 1, "NAMESPACES": len(self._inodes)}
        numbers = {name: number for number, name in self._reasons.items()}
        more |= {"UNHEARD": numbers.get(_UNHEARD, 0),
                 "NOT_SPECIFIED": numbers.get("NOT_SPECIFIED", 0)}
        for place, (first, end) in enumerate(spans(_UNHEARD_IN).values()):
            more |= {f"UNHEARD_{place}": f"{first:#x}ull", f"UNHEARD_{place}_SIZE": end - first}
        # The tracepoint says which socket since Linux 6.11.
        if socket is not None and btf.arguments("kfree_skb") == 4:
            more |= {"HAS_SOCKET": 1, "AT_SOCKET_NET": socket}
        return more

    def _watch_drops(self, module: Module) -> None:
        wanted, watched = module.table("wanted"), module.table("watched")
        for number, name in self._reasons.items():
            if number >= 0:
                # Said of nearly every frame; the program asks for it only where it has to.
                is_loss = name not in ORDINARY or (name == _UNHEARD and bool(self._by_udp))
                wanted.write(number, np.array([is_loss], np.uint32))
        for inode, name in self._inodes.items():
            watched.insert(np.array([inode], np.uint32),
                           np.array([name in self._by_udp], np.uint32))
        module.trace("kfree_skb", "dropped")

    def _put(self, behind: bool, links: bool) -> None:
        assert self._module is not None
        programs = [self._module.load(name, Kind.TC) for name in ("arrives", "departs")]
        try:
            if links:
                try:
                    return self._link(programs, behind)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
            self._filter(programs, behind)
        except OSError as error:
            where = f" {error.filename}:" if error.filename else ""
            raise SystemRefused(f"cannot attach counters:{where} {error.strerror}",
                                "eBPF needs root (CAP_BPF, CAP_NET_ADMIN)") from error

    def _link(self, programs: Sequence[int], behind: bool) -> None:
        assert self._module is not None
        table = self._module.table("parts")
        for side, program in enumerate(programs):
            table.write(side, np.array([program], np.uint32))
        points: dict[str, list[tcx.Point]] = {}
        numbered: list[int] = []
        try:
            for hook, (end, side) in enumerate(itertools.product(self._ends, (IN, OUT)), 1):
                numbered.append(tcx.numbered(hook, table.descriptor, side))
                points.setdefault(end.namespace, []).append(tcx.Point(
                    end.ifname, (tcx.ARRIVING, tcx.DEPARTING)[side], numbered[-1], not behind))
            for links in side_by_side([(name, partial(tcx.put, each))
                                       for name, each in points.items()], tcx.take):
                self._links += links
        finally:
            for program in numbered:
                os.close(program)

    def _filter(self, programs: Sequence[int], behind: bool) -> None:
        filters: dict[str, list[attach.Filter]] = {}
        for hook, (end, side) in enumerate(itertools.product(self._ends, (IN, OUT)), 1):
            filters.setdefault(end.namespace, []).append(attach.Filter(
                end.ifname, (attach.ARRIVING, attach.DEPARTING)[side], programs[side], hook,
                _BEHIND if behind else _BEFORE))
        side_by_side([(name, partial(attach.put, each, self._name))
                      for name, each in filters.items()])

    def read(self) -> Reading:
        """What was counted until now. OSError."""
        assert self._module is not None
        counts = _added(self._module.table("counts").rows(COUNTS, per_cpu=True))
        times = _merged(self._module.table("times").rows(TIMES, per_cpu=True))
        return Reading(counts.reshape(len(self._ends), 2), times.reshape(self._times_shape),
                       tuple(self._dropped()) if self._reasons else None)

    def _dropped(self) -> list[Drop]:
        assert self._module is not None
        table = self._module.table("drops")
        return [Drop(self._inodes[int(place["namespace"])],
                     self._names[self._inodes[int(place["namespace"])]].get(
                         int(place["ifindex"]), ""),
                     self._reasons.get(int(place["reason"]), f"reason {int(place['reason'])}"),
                     self._module.symbol(int(place["location"])), KINDS[int(place["kind"])],
                     int(each.sum()))
                for place, each in table.items(_PLACE, _COUNT)
                if int(place["namespace"]) in self._inodes]

    def close(self) -> None:
        """Take everything off again. A namespace that has gone has taken it with it."""
        module, self._module = self._module, None
        if module is None:
            return
        try:
            tcx.take(self._links)
            # Where one namespace cannot be entered any more, the others are done all the same.
            if not self._links:
                with contextlib.suppress(SystemRefused):
                    _take(list(self._inodes.values()), self._name.__eq__)
        finally:
            module.close()


def take_all(namespaces: Sequence[str], abandoned: bool = False) -> int:
    """Take this process's filters off in these namespaces; how many there were.

    abandoned: those of processes that are gone, instead. Raises OSError, and SystemRefused for
    a namespace that is not there; the others are done all the same.
    """
    return _take(namespaces, attach.is_abandoned if abandoned else attach.is_ours)


def _take(namespaces: Sequence[str], wanted: Callable[[str], bool]) -> int:
    return sum(side_by_side([(name, partial(attach.take, wanted)) for name in namespaces]))


def _interfaces() -> dict[int, str]:
    import socket

    return dict(socket.if_nameindex())


def _added(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, cpus) of COUNTS to (n,)."""
    found = np.zeros(len(rows), COUNTS)
    for name in COUNTS.names or ():
        found[name] = rows[name].sum(axis=1)
    return found


def _merged(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """(n, cpus) of TIMES to (n,)."""
    found = np.zeros(len(rows), TIMES)
    for name in ("count", "sum_ns", "twice", "buckets"):
        found[name] = rows[name].sum(axis=1)
    seen = rows["count"] > 0
    found["least_ns"] = np.where(seen, rows["least_ns"], np.iinfo(np.uint64).max).min(axis=1)
    found["least_ns"][found["count"] == 0] = 0
    found["most_ns"] = rows["most_ns"].max(axis=1)
    return found


def bucket_ns(numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The middle of each bucket of TIMES in nanoseconds; path.c, bucket_of."""
    octave = np.maximum(numbers // _OCTAVE - 1, 0)
    lowest = (numbers - octave * _OCTAVE) << octave
    return np.asarray(lowest + (((1 << octave) - 1) / 2))


def percentile_ns(times: np.void, percent: float) -> float:
    """The value that so many percent of the timed messages did not exceed; 0 without any.

    It is the middle of a bucket an eighth of an octave wide, within what was really seen.
    """
    count = int(times["count"])
    if not count:
        return 0.0
    rank = max(1, int(np.ceil(count * percent / 100)))
    bucket = int(np.searchsorted(np.cumsum(times["buckets"], dtype=np.int64), rank))
    middle = float(bucket_ns(np.array([min(bucket, _BUCKETS - 1)]))[0])
    return min(max(middle, float(times["least_ns"])), float(times["most_ns"]))
