"""Look at a batch of received frames: which are relayed, which way, and which are not, and why.

The one thing to know: nothing is copied here. What is found out about each frame is noted in
`work`; `outgoing.send` writes from that, for one transmit ring after the other, while the frames
still stand in their slots.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import be48
from fastpath.frame import (
    END,
    PAD,
    Memory,
    be16,
    be32,
    check_bootp,
    check_frame,
    find_options,
    option_byte,
)
from fastpath.jit import kernel
from fastpath.slots import Slots, rx_bounds, rx_checksum_ready, rx_outer_tag, rx_peek
from fastpath.wire import Reason
from relay.arrays import (
    BY_HOPS,
    C_GIADDR,
    C_HOPS,
    C_NO_DOWNLINK,
    C_NO_HOP,
    C_OK,
    C_PRESENT,
    C_SECS,
    C_SPOOFED,
    C_UNTRUSTED,
    C_WRONG_INTERFACE,
    CAUSED,
    DO_ADD,
    DO_NOTHING,
    DO_REMOVE,
    DO_REPLACE,
    E_CAUSE,
    E_GIADDR,
    E_HARDWARE,
    E_KIND,
    E_PORT,
    E_WAY,
    ELSEWHERE,
    H_ADDRESS,
    H_MAC,
    HOPS_CELLS,
    NOTHING,
    P_AGENT_AT,
    P_AGENT_SIZE,
    P_DOWN,
    P_GIADDR,
    P_SELECTS,
    P_TRUSTED,
    P_UP,
    PO_MAX_HOPS,
    PO_MIN_SECS,
    PO_OPTION82,
    RECEIVED,
    REFUSED,
    REPLY,
    REQUEST,
    S_NO_HOP,
    S_REPLIES,
    TYPES,
    UNKNOWN,
    W_BOOTP,
    W_DO,
    W_END,
    W_KIND,
    W_MAIN_END,
    W_OVERLOAD,
    W_PORT,
    W_WAY,
    Int64s,
    Tables,
)
from relay.model import POLICIES

_OK, _NO_COOKIE, _ODD_LENGTH = int(Reason.OK), int(Reason.COOKIE), int(Reason.OPTION_LENGTH)
_NONE, _KEEP, _REPLACE, _DROP = (POLICIES.index(name) for name in ("none", "keep", "replace",
                                                                   "drop"))
_HOPS, _SECS, _GIADDR, _CHADDR, _OPTIONS = (wire.HOPS, wire.SECS, wire.GIADDR, wire.CHADDR,
                                            wire.OPTIONS)
_SERVER_PORT, _BOOTREQUEST = wire.SERVER_PORT, wire.BOOTREQUEST
_KIND, _OVERLOAD, _AGENT = 53, 52, 82
_IP_SOURCE, _IP_TARGET = 12, 16
# An untagged frame: where its IPv4 header stands. A tag without a VLAN is none.
_UNTAGGED, _VLAN_ID = 14, 0x0FFF


@kernel
def _among(numbers: Int64s, value: int) -> bool:
    found = False
    for i in range(len(numbers)):
        found |= bool(numbers[i] == value)
    return found


@kernel
def _main_end(mem: Memory, at: int, end: int) -> int:
    """Where END stands in an options field that was found sound, or its end."""
    while at < end and mem[at] != END:
        at += 1 if mem[at] == PAD else 2 + np.int64(mem[at + 1])
    return min(at, end)


@kernel
def _is_ours(rx: Memory, tables: Tables, port: int) -> bool:
    """Whether option 82 of the message at hand is the one that we add on `port`."""
    options, size = tables.options, tables.ports[port, P_AGENT_SIZE]
    # A position below 0: an option in pieces that were not put together.
    if size == 0 or options.length[_AGENT] != size - 2 or options.start[_AGENT] < 0:
        return False
    at = tables.ports[port, P_AGENT_AT] + 2
    for i in range(size - 2):
        if option_byte(rx, options, _AGENT, np.int64(i)) != tables.agents[at + i]:
            return False
    return True


@kernel
def _judge_request(rx: Memory, bootp: int, typed: bool, tables: Tables, port: int,
                   ) -> tuple[int, int]:
    """(cause, what to do about option 82); RFC 1542 section 4.1.1, RFC 3046 section 2.1."""
    policy, ports = tables.policy, tables.ports
    hops = np.int64(rx[bootp + _HOPS])
    tables.counts[BY_HOPS + min(hops, np.int64(HOPS_CELLS - 1))] += 1
    if ports[port, P_DOWN] == 0:
        return np.int64(C_WRONG_INTERFACE), np.int64(DO_NOTHING)
    if hops > policy[PO_MAX_HOPS]:
        return np.int64(C_HOPS), np.int64(DO_NOTHING)
    if be16(rx, bootp + _SECS) < policy[PO_MIN_SECS]:
        return np.int64(C_SECS), np.int64(DO_NOTHING)
    giaddr, how = be32(rx, bootp + _GIADDR), policy[PO_OPTION82]
    if giaddr != 0 and _among(tables.own, giaddr):
        return np.int64(C_SPOOFED), np.int64(DO_NOTHING)
    what = np.int64(DO_NOTHING)
    if tables.options.length[_AGENT] >= 0:
        if giaddr == 0 and ports[port, P_TRUSTED] == 0 and how != _KEEP:
            return np.int64(C_UNTRUSTED), what
        if how == _DROP:
            return np.int64(C_PRESENT), what
        if how == _REPLACE:
            what = np.int64(DO_REPLACE)
    elif giaddr == 0 and how != _NONE and typed:
        # Behind another relay nothing is added (RFC 3046 section 2.1.1).
        what = np.int64(DO_ADD)
    reached = False
    for i in range(len(tables.hops)):
        if tables.hops[i, H_MAC] == UNKNOWN:
            tables.by_server[i, S_NO_HOP] += 1
        else:
            reached = True
    return np.int64(C_OK if reached else C_NO_HOP), what


@kernel
def _find_downlink(rx: Memory, bootp: int, tables: Tables) -> tuple[int, int]:
    """(cause, port) of where a reply belongs: by giaddr, then by our option 82."""
    giaddr, ports = be32(rx, bootp + _GIADDR), tables.ports
    found, several = np.int64(UNKNOWN), False
    for port in range(len(ports)):
        if ports[port, P_DOWN] == 0 or not (ports[port, P_GIADDR] == giaddr or (
                ports[port, P_SELECTS] != 0 and _among(tables.own, giaddr))):
            continue
        if _is_ours(rx, tables, np.int64(port)):
            return np.int64(C_OK), np.int64(port)
        several = found != UNKNOWN
        found = np.int64(port)
    if found == UNKNOWN or giaddr == 0:
        return np.int64(C_GIADDR), np.int64(0)
    return np.int64(C_NO_DOWNLINK if several else C_OK), found


@kernel
def _judge_reply(rx: Memory, ip: int, bootp: int, tables: Tables, port: int,
                 ) -> tuple[int, int, int]:
    """(cause, what to do about option 82, port that it leaves by); RFC 1542 section 4.1.2."""
    for i in range(len(tables.hops)):
        if tables.hops[i, H_ADDRESS] == be32(rx, ip + _IP_SOURCE):
            tables.by_server[i, S_REPLIES] += 1
    if tables.ports[port, P_UP] == 0:
        return np.int64(C_WRONG_INTERFACE), np.int64(DO_NOTHING), np.int64(0)
    cause, downlink = _find_downlink(rx, bootp, tables)
    # Who added it removes it (RFC 3046 section 2.1): that of a bridge before us stays. Where we
    # replace, nothing of the client's side went out, so whatever comes back is of relays behind.
    foreign = tables.policy[PO_OPTION82] == _REPLACE and tables.options.length[_AGENT] >= 0
    remove = cause == C_OK and (foreign or _is_ours(rx, tables, downlink))
    return cause, np.int64(DO_REMOVE if remove else DO_NOTHING), downlink


@kernel
def _note(tables: Tables, rx: Memory, bootp: int, way: int, kind: int, port: int, cause: int,
          ) -> None:
    events = tables.events
    room = len(events) - 1
    if room > 0:
        row = 1 + events[0, 0] % room
        events[row, E_WAY], events[row, E_KIND] = way, kind
        events[row, E_HARDWARE] = be48(rx, bootp + _CHADDR)
        events[row, E_GIADDR] = be32(rx, bootp + _GIADDR)
        events[row, E_PORT], events[row, E_CAUSE] = port, cause
        events[0, 0] += 1


@kernel
def _find(rx: Memory, start: int, end: int, outer: int, checksum_ready: bool, tables: Tables,
          ) -> tuple[int, int, int, int, bool]:
    """(Reason, IP offset, BOOTP offset, end of the message, whether options can be read).

    Reason -1 stands for a frame that is not for us. The length of an option's value is no
    business of a relay, and BOOTP without the cookie has no options that it could read.
    """
    reason, ip, bootp, bootp_end = check_frame(rx, start, end, np.int64(0), checksum_ready,
                                               _SERVER_PORT, _SERVER_PORT)
    if reason != _OK:
        return reason, ip, bootp, bootp_end, False
    target = be32(rx, ip + _IP_TARGET)
    tagged = ip - start != _UNTAGGED or (outer >= 0 and outer & _VLAN_ID != 0)
    if tagged or not (_among(tables.casts, target) or _among(tables.own, target)):
        return np.int64(-1), ip, bootp, bootp_end, False
    reason = np.int64(check_bootp(rx, bootp, bootp_end))
    typed = reason == _OK
    if typed:
        reason = np.int64(find_options(rx, bootp, bootp_end, tables.options))
    elif reason == _NO_COOKIE:
        tables.options.length[:] = -1
        reason = np.int64(_OK)
    if reason == _ODD_LENGTH:
        reason = np.int64(_OK)
    return reason, ip, bootp, bootp_end, typed


@kernel
def _single(rx: Memory, tables: Tables, code: int) -> int:
    """The value of an option of one octet, 0 where there is none."""
    options = tables.options
    if options.length[code] != 1 or options.start[code] < 0:
        return np.int64(0)
    return option_byte(rx, options, code, np.int64(0))


@kernel
def _judge(rx: Memory, start: int, end: int, outer: int, checksum_ready: bool, tables: Tables,
           port: int, row: int) -> int:
    """Judge the frame in rx[start:end], note what is to be done in a row of `work`; its way."""
    counts, work = tables.counts, tables.work
    reason, ip, bootp, bootp_end, typed = _find(rx, start, end, outer, checksum_ready, tables)
    if reason != _OK:
        counts[ELSEWHERE if reason < 0 else REFUSED + reason] += 1
        return np.int64(NOTHING)
    kind = _single(rx, tables, np.int64(_KIND))
    if kind >= TYPES:
        kind = np.int64(0)
    way = np.int64(REQUEST) if rx[bootp] == _BOOTREQUEST else np.int64(REPLY)
    counts[RECEIVED + (way - 1) * TYPES + kind] += 1
    work[row, W_PORT] = port
    if way == REQUEST:
        cause, work[row, W_DO] = _judge_request(rx, bootp, typed, tables, port)
    else:
        cause, work[row, W_DO], work[row, W_PORT] = _judge_reply(rx, ip, bootp, tables, port)
    counts[CAUSED + cause] += 1
    _note(tables, rx, bootp, way, kind, port, cause)
    if cause != C_OK:
        return np.int64(NOTHING)
    work[row, W_BOOTP], work[row, W_END], work[row, W_KIND] = bootp, bootp_end, kind
    work[row, W_MAIN_END] = _main_end(rx, bootp + _OPTIONS, bootp_end) if typed else bootp_end
    overload = _single(rx, tables, np.int64(_OVERLOAD))
    # Any other value says nothing, and the fields were not looked at.
    work[row, W_OVERLOAD] = overload if overload <= 3 else 0
    return way


@kernel
def look(rx: Slots, tables: Tables, port: int, limit: int) -> tuple[int, int, int]:
    """Judge at most `limit` frames that wait on a port, and leave them where they are.

    Returns (frames looked at, requests among them to relay, ports that replies leave by: a bit
    each).
    """
    count = np.int64(0)
    requests = np.int64(0)
    ports = np.int64(0)
    while count < limit:
        base = rx_peek(rx, count)
        if base < 0:
            break
        start, end = rx_bounds(rx, base)
        way = _judge(rx.mem, start, end, rx_outer_tag(rx, base), rx_checksum_ready(rx, base),
                     tables, port, count)
        tables.work[count, W_WAY] = way
        if way == REQUEST:
            requests += 1
        elif way == REPLY:
            ports |= np.int64(1) << tables.work[count, W_PORT]
        count += 1
    return count, requests, ports
