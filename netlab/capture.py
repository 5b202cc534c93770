"""Capturing the links of a lab: which taps that takes, and their frames in the order of time.

The one thing to know: a frame is heard where it arrives (`netlab.tap`), so a whole link takes a
tap at each end and has each frame once; a segment takes the ports of its bridge alone, and has
each frame once however many ports it leaves by. Direction is seen from the link's node.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import select
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import NamedTuple

from fastpath import bpf, elsewhere
from fastpath.errors import SystemRefused, UserError
from netlab import pcapng, plan
from netlab.enter import NETNS_DIRECTORY
from netlab.state import Journal
from netlab.tap import BLOCK, RETIRE_MS, Heard, Tap
from netlab.topology import Link, Topology

End = tuple[str, str]

# All rings of a capture together, and each one at least and at most.
_RINGS, _LEAST_RING, _MOST_RING = 64 << 20, 2 * BLOCK, 32 << 20
# A frame is kept back so long that those before it, in other rings, are there too.
_SETTLED_S = 3 * RETIRE_MS / 1000
_MOST_KEPT_BACK = 50_000
_LOOK_S = 0.5
_MOST_WRITE = 1 << 20
# What a process has open besides, and what entering namespaces takes.
_OTHER_DESCRIPTORS = 128


@dataclass(frozen=True, slots=True)
class Line:
    """One link to be captured, called `name`. ends: (node, ifname, direction of what arrives)."""

    name: str
    description: str
    ends: tuple[tuple[str, str, int], ...]


def lines(journal: Journal, wanted: Sequence[str]) -> list[Line]:
    """What is meant by each of `wanted`; every link of the lab when nothing is named.

    NODE.IFNAME and NODE:IFNAME name one link by either end, NODE all links of a node, a
    segment's name what enters the segment. Raises UserError for what is not there.
    """
    topology = journal.topology
    if not wanted:
        return [_line(topology, one, other) for one, other in _pairs(topology)]
    found: dict[frozenset[End], Line] = {}
    for word in wanted:
        for line in _meant(journal, word):
            found.setdefault(frozenset(end[:2] for end in line.ends), line)
    return list(found.values())


def _meant(journal: Journal, word: str) -> Iterator[Line]:
    topology = journal.topology
    segments = {segment.name for segment in topology.segments}
    nodes = {node.name for node in topology.nodes}
    peers = {end: other for pair in _pairs(topology) for end, other in (pair, pair[::-1])}
    node, mark, ifname = word.partition(":" if ":" in word else ".")
    if mark and (node, ifname) in peers:
        yield _line(topology, (node, ifname), peers[node, ifname])
    elif word in segments:
        yield from (_entering(topology, link) for link in topology.links_on(word))
    elif word in nodes and any(end[0] == word for end in peers):
        yield from (_line(topology, end, other) for end, other in peers.items()
                    if end[0] == word)
    else:
        raise UserError(f"{journal.lab}: no link, segment or node {word!r}",
                        f"there is: {_known(topology)}")


def _pairs(topology: Topology) -> list[tuple[End, End]]:
    """Both ends of every veth, a cable's once: the end of the link that is named first is first."""
    found: dict[frozenset[End], tuple[End, End]] = {}
    for link in topology.links:
        pair = link.end, plan.peer(topology, link)
        found.setdefault(frozenset(pair), pair)
    return list(found.values())


def _known(topology: Topology) -> str:
    names = [segment.name for segment in topology.segments]
    names += [f"{link.node}.{link.ifname}" for link in topology.links]
    return ", ".join(names[:16]) + (" ..." if len(names) > 16 else "")


def _line(topology: Topology, end: End, other: End) -> Line:
    """The whole link between two ends, called by that of them which is not a bridge's port."""
    ends = {link.end: link for link in topology.links}
    if end not in ends:
        end, other = other, end
    return Line(".".join(end), _description(topology, ends[end]),
                ((*end, pcapng.INBOUND), (*other, pcapng.OUTBOUND)))


def _entering(topology: Topology, link: Link) -> Line:
    """What enters a segment by `link`: what its node sends, heard where it arrives."""
    return Line(".".join(link.end), _description(topology, link),
                ((*plan.peer(topology, link), pcapng.OUTBOUND),))


def _description(topology: Topology, link: Link) -> str:
    return f"{topology.node(link.node).role} {link.node} on segment {link.segment}"


class Captured(NamedTuple):
    """A frame, the number of its line, and its direction as the line's node sees it."""

    heard: Heard
    line: int
    direction: int


class Capture:
    """The taps of `lines` in a lab that stands; a context manager.

    started_ns: when all taps were open. Raises SystemRefused where a node or an interface is
    not there, or the machine refuses.
    """

    def __init__(self, journal: Journal, lines: Sequence[Line],
                 heard_by: Sequence[bpf.Instruction]) -> None:
        self._lines = lines
        self._kept_back: list[Heard] = []
        # Each end has a number: its line, and the direction of what arrives there.
        self._ends = [(i, end[2]) for i, line in enumerate(lines) for end in line.ends]
        wanted: dict[str, dict[str, int]] = {}
        for number, end in enumerate(end for line in lines for end in line.ends):
            wanted.setdefault(journal.namespace(end[0]), {})[end[1]] = number
        blocks = min(max(_RINGS // len(wanted), _LEAST_RING), _MOST_RING) // BLOCK
        _make_room(len(wanted))
        self._identities = {name: _identity(name) for name in wanted}
        self._taps = elsewhere.side_by_side(
            [(name, partial(Tap, interfaces, blocks, heard_by))
             for name, interfaces in wanted.items()], Tap.close)
        self.started_ns = time.time_ns()

    def follow(self, ending: int, until_s: float = math.inf) -> Iterator[list[Captured]]:
        """Frames as they settle, oldest first, until descriptor `ending` is readable, the
        monotonic time `until_s`, or the lab is gone; then what is left.

        An empty list comes at least twice a second.
        """
        poll = select.poll()
        taps = {tap.fileno(): tap for tap in self._taps}
        for descriptor in (ending, *taps):
            poll.register(descriptor, select.POLLIN)
        look_s = 0.0
        while (now_s := time.monotonic()) < until_s:
            if now_s >= look_s:
                if not self.stands:
                    break
                look_s = now_s + _LOOK_S
            left_s = min(until_s - now_s, _SETTLED_S if self._kept_back else _LOOK_S)
            ready = dict(poll.poll(max(1.0, left_s * 1000)))
            if ending in ready:
                break
            for descriptor, events in ready.items():
                self._kept_back += taps[descriptor].read()
                if events & select.POLLERR:
                    # Its interface went down or away. Read once, or poll tells it for ever.
                    taps[descriptor].clear_error()
            yield self._settled(time.time_ns() - int(_SETTLED_S * 1e9))
        # What was on its way when we were told to end is in blocks not handed over yet.
        time.sleep(2 * RETIRE_MS / 1000)
        for tap in self._taps:
            self._kept_back += tap.read()
        yield self._settled(None)

    def _settled(self, before_ns: int | None) -> list[Captured]:
        """Take out of `_kept_back`, in order, what is older; all of it for None or if too much."""
        waiting = sorted(self._kept_back)
        if before_ns is None or len(waiting) > _MOST_KEPT_BACK:
            count = len(waiting)
        else:
            count = bisect_right(waiting, before_ns, key=attrgetter("time_ns"))
        done, self._kept_back = waiting[:count], waiting[count:]
        return [Captured(heard, *self._ends[heard.interface]) for heard in done]

    @property
    def stands(self) -> bool:
        """Whether every namespace that is captured still has its name: our sockets keep the
        namespace itself alive after its lab is gone."""
        return all(_identity(name) == known for name, known in self._identities.items())

    def dropped(self) -> list[int]:
        """Frames that were lost for want of room, by line.

        What is captured in one node shares a ring: its losses count for its first line.
        """
        found = [0] * len(self._lines)
        for tap in self._taps:
            found[self._ends[min(tap.interfaces.values())][0]] += tap.statistics()
        return found

    def close(self) -> None:
        # Each waits for a grace period of the kernel, which they can share.
        elsewhere.side_by_side([("", tap.close) for tap in self._taps])

    def __enter__(self) -> Capture:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _make_room(taps: int) -> None:
    """Allow this process a descriptor for each tap, as far as its own limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = taps + _OTHER_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _identity(namespace: str) -> int:
    """The inode of what has that name; 0 when nothing has."""
    try:
        return (NETNS_DIRECTORY / namespace).stat().st_ino
    except OSError:
        return 0


class Recording:
    """A pcapng file as it grows: one interface for each line. A context manager.

    size: octets so far. Raises SystemRefused when it cannot be written; what is in it by then
    is whole. BrokenPipeError goes up: whoever read it has gone.
    """

    def __init__(self, path: str, lines: Sequence[Line], words: str, snaplen: int) -> None:
        """path: `-` is standard output. words: the filter, in libpcap's."""
        self._path, self._counts = path, [0] * len(lines)
        self.size = 0
        try:
            self._file = 1 if path == "-" else os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise SystemRefused(f"cannot write {path}: {error.strerror}") from None
        system = os.uname()
        self._write(pcapng.section_header("dhcp-netlab", f"{system.sysname} {system.release}")
                    + b"".join(pcapng.interface(pcapng.Interface(
                        line.name, line.description, words, snaplen)) for line in lines))

    def add(self, frames: Iterable[Captured]) -> None:
        """Append frames."""
        blocks = []
        for heard, line, direction in frames:
            blocks.append(pcapng.packet(line, heard.time_ns, heard.frame, heard.length, direction))
            self._counts[line] += 1
        self._write(b"".join(blocks))

    def finish(self, started_ns: int, dropped: Sequence[int]) -> None:
        """Append what became of each interface: frames in the file, and lost ones."""
        now_ns = time.time_ns()
        self._write(b"".join(
            pcapng.statistics(i, started_ns, now_ns, count, lost,
                              "lost by all links captured in the same node" if lost else "")
            for i, (count, lost) in enumerate(zip(self._counts, dropped, strict=True))))

    def _write(self, blocks: bytes) -> None:
        written = 0
        try:
            while written < len(blocks):
                written += os.write(self._file, blocks[written:written + _MOST_WRITE])
        except BrokenPipeError:
            raise
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self.size + pcapng.whole(blocks, written))
            raise SystemRefused(f"cannot write {self._path}: {error.strerror}",
                                "what it holds by now can be read") from None
        self.size += written

    def close(self) -> None:
        if self._file != 1:
            os.close(self._file)

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
