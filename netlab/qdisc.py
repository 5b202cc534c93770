"""Queueing disciplines and XDP programs of links: what the kernel does to frames on their way.

A root qdisc acts on what *leaves* its interface; an XDP program on what *arrives*, before any
packet socket has heard it. tc's ingress hook and nftables come after packet sockets, so they
are of no use here. Sources: linux/pkt_sched.h, net/sched/sch_netem.c, sch_tbf.c, rtnetlink(7).
"""

from __future__ import annotations

import os
import socket
import struct
from dataclasses import dataclass
from types import TracebackType

# linux/netlink.h, linux/rtnetlink.h
_SOL_NETLINK, _EXT_ACK, _CAP_ACK = 270, 11, 10
_REQUEST, _ACK, _REPLACE, _CREATE, _EXCL, _DUMP = 0x1, 0x4, 0x100, 0x400, 0x200, 0x300
_CAPPED, _ACK_TLVS = 0x100, 0x200
_ERROR, _DONE, _ERROR_TEXT = 2, 3, 1
_NEWLINK, _GETLINK, _NEWQDISC, _DELQDISC, _GETQDISC = 16, 18, 36, 37, 38
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_TC = struct.Struct("=B3xiIII")  # tcmsg: family, ifindex, handle, parent, info
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, change
_ROOT = 0xFFFFFFFF
_KIND, _OPTIONS, _STATS2 = 1, 2, 7  # TCA_*
_STATS_BASIC, _STATS_QUEUE = 1, 3
_IFNAME, _XDP, _LINKINFO = 3, 43, 18  # IFLA_*
_XDP_FD, _XDP_FLAGS, _XDP_PROG_ID = 1, 3, 4
# Generic XDP: native XDP on a veth puts a queue of 256 frames into the link, which loses more.
_XDP_UPDATE_IF_NOEXIST, _XDP_SKB_MODE = 1, 2
_TYPE_MASK = 0x3FFF  # NLA_TYPE_MASK
_ANSWER_TIMEOUT_S = 10.0

# struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter.
_NETEM = struct.Struct("=IIIIII")
_NETEM_REORDER, _NETEM_RATE, _NETEM_RATE64, _NETEM_SEED = 3, 6, 8, 14
# struct tc_tbf_qopt: two tc_ratespec of 12 octets each, limit, buffer, mtu.
_TBF = struct.Struct("=xBxxxxxxI12xIII")
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_LINKLAYER_ETHERNET = 1  # so that the kernel wants no rate table
_TICK_NS = 64  # net/pkt_sched.h: PSCHED_SHIFT
_ALL = 0xFFFFFFFF
# Bytes of tbf's bucket: at least a full frame, and what passes in this time.
_FULL_FRAME = 1600
_BUCKET_S = 0.002


@dataclass(frozen=True, slots=True)
class Netem:
    """netem, in its own units. Percentages 0 to 100; rate 0 is unlimited.

    limit: most frames that wait. seed: of its dice, None to let the kernel choose (6.7 and up).
    """

    limit: int
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_bytes_per_s: int = 0
    seed: int | None = None

    kind = "netem"

    def options(self) -> bytes:
        """TCA_OPTIONS. Always with rate and reorder: what is left out the kernel leaves as it is.
        """
        seed = b"" if self.seed is None else attribute(_NETEM_SEED, struct.pack("=Q", self.seed))
        wide = self.rate_bytes_per_s > _ALL
        rate64 = attribute(_NETEM_RATE64, struct.pack("=Q", self.rate_bytes_per_s)) if wide else b""
        return (_NETEM.pack(_ticks(self.delay_ms), self.limit, _share(self.loss_percent),
                            int(self.reorder_percent > 0), _share(self.duplicate_percent),
                            _ticks(self.jitter_ms))
                + attribute(_NETEM_REORDER, struct.pack("=II", _share(self.reorder_percent), 0))
                + attribute(_NETEM_RATE, struct.pack("=IiIi", min(self.rate_bytes_per_s, _ALL),
                                                     0, 0, 0))
                + rate64 + seed)

    @classmethod
    def from_options(cls, data: bytes) -> Netem:
        """What TCA_OPTIONS of a dump says."""
        latency, limit, loss, _, duplicate, jitter = _NETEM.unpack_from(data)
        more = attributes(data[_NETEM.size:])
        (reorder,) = struct.unpack_from("=I", more.get(_NETEM_REORDER, bytes(4)))
        (rate,) = struct.unpack_from("=I", more.get(_NETEM_RATE, bytes(4)))
        if _NETEM_RATE64 in more:
            (rate,) = struct.unpack_from("=Q", more[_NETEM_RATE64])
        seed = struct.unpack_from("=Q", more[_NETEM_SEED])[0] if _NETEM_SEED in more else None
        return cls(limit, _percent(loss), _percent(duplicate), _percent(reorder), _ms(latency),
                   _ms(jitter), rate, seed)


@dataclass(frozen=True, slots=True)
class Tbf:
    """A token bucket: frames wait for their turn, and are dropped when `limit_bytes` wait."""

    rate_bytes_per_s: int
    limit_bytes: int

    kind = "tbf"

    @property
    def burst_bytes(self) -> int:
        """How much may pass at once."""
        return max(_FULL_FRAME, int(self.rate_bytes_per_s * _BUCKET_S))

    def options(self) -> bytes:
        """TCA_OPTIONS."""
        wide = self.rate_bytes_per_s > _ALL
        rate64 = attribute(_TBF_RATE64, struct.pack("=Q", self.rate_bytes_per_s)) if wide else b""
        parms = _TBF.pack(_LINKLAYER_ETHERNET, min(self.rate_bytes_per_s, _ALL),
                          self.limit_bytes, 0, 0)
        return (attribute(_TBF_PARMS, parms) + rate64
                + attribute(_TBF_BURST, struct.pack("=I", self.burst_bytes)))

    @classmethod
    def from_options(cls, data: bytes) -> Tbf:
        """What TCA_OPTIONS of a dump says."""
        more = attributes(data)
        _, rate, limit, _, _ = _TBF.unpack_from(more[_TBF_PARMS])
        if _TBF_RATE64 in more:
            (rate,) = struct.unpack_from("=Q", more[_TBF_RATE64])
        return cls(rate, limit)


Discipline = Netem | Tbf
_DISCIPLINES: dict[str, type[Netem] | type[Tbf]] = {"netem": Netem, "tbf": Tbf}


@dataclass(frozen=True, slots=True)
class Queue:
    """A root qdisc as the kernel tells of it. discipline: None where it is of another kind.

    sent: frames that passed. dropped: frames that it lost, meant to or not. waiting: frames now.
    """

    index: int
    kind: str
    discipline: Discipline | None
    sent: int
    dropped: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Device:
    """An interface, and the number of the XDP program on it (0: none)."""

    index: int
    ifname: str
    xdp_program: int


def attribute(kind: int, value: bytes) -> bytes:
    """One netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Netlink attributes by kind; what is cut short ends them."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = struct.unpack_from("=HH", data, at)
        if size < 4:
            break
        found[kind & _TYPE_MASK] = data[at + 4:at + size]
        at += size + 3 & ~3
    return found


def _ticks(milliseconds: float) -> int:
    return min(_ALL, round(milliseconds * 1e6 / _TICK_NS))


def _ms(ticks: int) -> float:
    return ticks * _TICK_NS / 1e6


def _share(percent: float) -> int:
    return round(percent / 100 * _ALL)


def _percent(share: int) -> float:
    return round(share / _ALL * 100, 6)


class Tc:
    """An rtnetlink socket for qdiscs and XDP, in the namespace of the thread that opens it.

    Every method may raise OSError with what the kernel said.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._socket.bind((0, 0))

    def __enter__(self) -> Tc:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._socket.close()

    def replace(self, index: int, discipline: Discipline) -> None:
        """Put `discipline` at the root of the interface, whatever was there."""
        self._talk(_NEWQDISC, _ACK | _CREATE | _REPLACE,
                   _TC.pack(0, index, 0, _ROOT, 0)
                   + attribute(_KIND, discipline.kind.encode() + b"\0")
                   + attribute(_OPTIONS, discipline.options()))

    def remove(self, index: int) -> None:
        """Take the root qdisc off; the interface gets back what it had by default."""
        self._talk(_DELQDISC, _ACK, _TC.pack(0, index, 0, _ROOT, 0))

    def queues(self) -> dict[int, Queue]:
        """The root qdisc of every interface that has one of its own, by interface index."""
        found = {}
        for body in self._talk(_GETQDISC, _DUMP, _TC.pack(0, 0, 0, 0, 0)):
            _, index, _, parent, _ = _TC.unpack_from(body)
            if parent == _ROOT:
                found[index] = _queue(index, attributes(body[_TC.size:]))
        return found

    def devices(self) -> dict[str, Device]:
        """The interfaces of the namespace, by name."""
        found = {}
        for body in self._talk(_GETLINK, _DUMP, _LINK.pack(0, 0, 0, 0, 0)):
            device = _device(body)
            found[device.ifname] = device
        return found

    def attach(self, index: int, program: int, *, replace: bool = False) -> None:
        """Put the XDP program with descriptor `program` on the interface; -1 takes it off.

        replace: where one is there already, this one takes its place; else EBUSY.
        """
        flags = _XDP_SKB_MODE | (0 if replace or program < 0 else _XDP_UPDATE_IF_NOEXIST)
        nested = (attribute(_XDP_FD, struct.pack("=i", program))
                  + attribute(_XDP_FLAGS, struct.pack("=I", flags)))
        self._talk(_NEWLINK, _ACK, _LINK.pack(0, 0, index, 0, 0) + attribute(_XDP, nested))

    def make_link(self, kind: str, ifname: str, data: bytes = b"", more: bytes = b"") -> None:
        """An interface of that kind. data: IFLA_INFO_DATA; more: attributes beside it."""
        info = attribute(1, kind.encode() + b"\0") + (attribute(2, data) if data else b"")
        self._talk(_NEWLINK, _ACK | _CREATE | _EXCL,
                   _LINK.pack(0, 0, 0, 0, 0) + attribute(_IFNAME, ifname.encode() + b"\0")
                   + attribute(_LINKINFO, info) + more)

    def _talk(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Send one request; the bodies of its answers. An acknowledgement has none."""
        self._sequence += 1
        self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags,
                                       self._sequence, 0) + body)
        answers: list[bytes] = []
        while True:
            data = self._socket.recv(1 << 17)
            at = 0
            while at + _HEADER.size <= len(data):
                size, said, its_flags, sequence, _ = _HEADER.unpack_from(data, at)
                content = data[at + _HEADER.size:at + size]
                at += max(size + 3 & ~3, _HEADER.size)
                if sequence != self._sequence:
                    continue
                if said == _ERROR:
                    _check(content, its_flags)
                if said in (_ERROR, _DONE):
                    return answers
                answers.append(content)


def _check(content: bytes, flags: int) -> None:
    """Raise what an NLMSG_ERROR says, unless it is an acknowledgement."""
    code = -struct.unpack_from("=i", content)[0]
    if not code:
        return
    text = os.strerror(code)
    if flags & _ACK_TLVS:
        # Behind the error: the header of our request, and all of it unless capped.
        (size,) = struct.unpack_from("=I", content, 4)
        rest = 4 + (_HEADER.size if flags & _CAPPED else size + 3 & ~3)
        said = attributes(content[rest:]).get(_ERROR_TEXT, b"").rstrip(b"\0")
        text += f" ({said.decode(errors='replace')})" if said else ""
    raise OSError(code, text)


def _queue(index: int, found: dict[int, bytes]) -> Queue:
    kind = found[_KIND].rstrip(b"\0").decode()
    discipline = None
    if kind in _DISCIPLINES and _OPTIONS in found:
        discipline = _DISCIPLINES[kind].from_options(found[_OPTIONS])
    stats = attributes(found.get(_STATS2, b""))
    _, packets = struct.unpack_from("=QI", stats.get(_STATS_BASIC, bytes(12)))
    waiting, _, drops = struct.unpack_from("=III", stats.get(_STATS_QUEUE, bytes(12)))
    return Queue(index, kind, discipline, packets, drops, waiting)


def _device(body: bytes) -> Device:
    index = _LINK.unpack_from(body)[2]
    found = attributes(body[_LINK.size:])
    xdp = attributes(found.get(_XDP, b""))
    (program,) = struct.unpack_from("=I", xdp.get(_XDP_PROG_ID, bytes(4)))
    return Device(index, found[_IFNAME].rstrip(b"\0").decode(), program)
