"""Write what `incoming.look` let pass into the transmit ring of one port, and let faults befall it.

A frame is known by a mark while it waits: `way | message type << 2 | server << 8`.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    IP_SOURCE,
    IP_TARGET,
    NO_TAG,
    UDP_TARGET,
    be48,
    put_ethernet,
    set_lengths,
)
from fastpath.delay import (
    D_DUE_FROM,
    D_HELD,
    NONE,
    REORDER_US,
    Delay,
    next_due,
    put,
)
from fastpath.delay import send as send_row
from fastpath.faults import befall
from fastpath.frame import END, PAD, Memory, be16, be32, copy, put16, put32
from fastpath.jit import kernel
from fastpath.slots import Slots, rx_release, tx_commit, tx_start
from fastpath.wire import MessageType
from relay.arrays import (
    C_FAULT,
    C_NO_ROOM,
    C_OK,
    C_TOO_LARGE,
    C_TX_FULL,
    CAUSED,
    D_ADDED,
    D_NO_ROOM,
    D_REMOVED,
    D_REPLACED,
    DO_ADD,
    DO_NOTHING,
    DO_REMOVE,
    DO_REPLACE,
    H_ADDRESS,
    H_MAC,
    H_PORT,
    H_SOURCE,
    OPTION82,
    P_ADDRESS,
    P_AGENT_AT,
    P_AGENT_SIZE,
    P_GIADDR,
    P_MAC,
    P_MTU,
    P_SELECTS,
    RELAYED,
    REPLY,
    REQUEST,
    S_SENT,
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
    Tables,
)
from relay.incoming import look

_NAK, _ETHERNET = int(MessageType.NAK), wire.HTYPE_ETHERNET
_HTYPE, _HLEN, _HOPS, _FLAGS, _CIADDR, _YIADDR, _GIADDR, _CHADDR = (
    wire.HTYPE, wire.HLEN, wire.HOPS, wire.FLAGS, wire.CIADDR, wire.YIADDR, wire.GIADDR,
    wire.CHADDR)
_SNAME, _FILE, _COOKIE, _OPTIONS = wire.SNAME, wire.FILE, wire.COOKIE, wire.OPTIONS
_BROADCAST, _MIN_BOOTP = wire.BROADCAST_FLAG, wire.MIN_BOOTP
_SERVER_PORT, _CLIENT_PORT = wire.SERVER_PORT, wire.CLIENT_PORT
_BROADCAST_IP = 0xFFFFFFFF
_GROUP = 1 << 40
_AGENT, _HEADERS = 82, 28
# A bit that no rule of a fault has: replies are known by their own type.
_NO_REQUEST = 31


@kernel
def client_target(rx: Memory, bootp: int, kind: int) -> tuple[int, int]:
    """(MAC, address) that a reply goes to: RFC 1542 section 4.1.2, RFC 2131 section 4.1."""
    hardware = be48(rx, bootp + _CHADDR)
    address = be32(rx, bootp + _CIADDR)
    if address == 0:
        address = be32(rx, bootp + _YIADDR)
    known = (rx[bootp + _HTYPE] == _ETHERNET and rx[bootp + _HLEN] == 6 and hardware != 0
             and hardware & _GROUP == 0)
    # Who is refused has no address that he could be reached at.
    if (be16(rx, bootp + _FLAGS) & _BROADCAST or kind == _NAK or address == 0 or not known
            or address >> 28 >= 14):
        return np.int64(BROADCAST_MAC), np.int64(_BROADCAST_IP)
    return hardware, address


@kernel
def _copy_others(mem: Memory, at: int, rx: Memory, start: int, end: int) -> int:
    """Copy the options in rx[start:end] without option 82; returns where the next one goes."""
    while start < end:
        size = np.int64(1) if rx[start] == PAD else 2 + np.int64(rx[start + 1])
        if rx[start] != _AGENT:
            copy(mem, at, rx, start, size)
            at += size
        start += size
    return at


@kernel
def _blank(mem: Memory, at: int, end: int) -> None:
    """Pad over option 82 in a field that options went on in."""
    while at < end and mem[at] != END:
        size = np.int64(1) if mem[at] == PAD else 2 + np.int64(mem[at + 1])
        if mem[at] == _AGENT:
            mem[at:at + size] = PAD
        at += size


@kernel
def _put_options(mem: Memory, out: int, limit: int, rx: Memory, tables: Tables, row: int,
                 ) -> tuple[int, int]:
    """Options of the copy whose message starts at mem[out:], as `work` says about option 82.

    Returns (end of the message, what was done: D_ADDED .. or -1 for nothing). What would not
    fit on the link goes without our option (RFC 3046 section 2.1).
    """
    work, ports = tables.work, tables.ports
    bootp, what = work[row, W_BOOTP], work[row, W_DO]
    if what == DO_NOTHING:
        copy(mem, out + _OPTIONS, rx, bootp + _OPTIONS, work[row, W_END] - bootp - _OPTIONS)
        return out + work[row, W_END] - bootp, np.int64(-1)
    at = _copy_others(mem, out + _OPTIONS, rx, bootp + _OPTIONS, work[row, W_MAIN_END])
    if what != DO_ADD:
        if work[row, W_OVERLOAD] & 1:
            _blank(mem, out + _FILE, out + _COOKIE)
        if work[row, W_OVERLOAD] & 2:
            _blank(mem, out + _SNAME, out + _FILE)
    done = np.int64(D_REMOVED)
    if what != DO_REMOVE:
        port = work[row, W_PORT]
        size = ports[port, P_AGENT_SIZE]
        done = np.int64(D_REPLACED if what == DO_REPLACE else D_ADDED)
        if at + size + 1 > limit:
            done = np.int64(D_NO_ROOM)
        else:
            copy(mem, at, tables.agents, ports[port, P_AGENT_AT], size)
            at += size
    mem[at] = END
    return at + 1, done


@kernel
def put_copy(mem: Memory, to: int, rx: Memory, tables: Tables, row: int, port: int, server: int,
             ) -> int:
    """Write the frame of a row of `work` at mem[to:]; returns its end, -1 where it cannot fit.

    port: that it leaves by. server: number of the one it goes to; of a reply, 0.
    """
    work, ports, hops = tables.work, tables.ports, tables.hops
    way, bootp = work[row, W_WAY], work[row, W_BOOTP]
    if way == REQUEST:
        mac, target, source = hops[server, H_MAC], hops[server, H_ADDRESS], hops[server, H_SOURCE]
        to_port = np.int64(_SERVER_PORT)
    else:
        mac, target = client_target(rx, bootp, work[row, W_KIND])
        source, to_port = ports[port, P_ADDRESS], np.int64(_CLIENT_PORT)
    ip = put_ethernet(mem, to, mac, ports[port, P_MAC], np.int64(NO_TAG), np.int64(NO_TAG))
    out, limit = ip + BOOTP, ip + ports[port, P_MTU]
    last = work[row, W_END] if work[row, W_DO] == DO_NOTHING else work[row, W_MAIN_END] + 1
    if out + max(last - bootp, np.int64(_MIN_BOOTP)) > limit:
        return np.int64(-1)
    copy(mem, ip, tables.template, 0, _HEADERS)
    put32(mem, ip + IP_SOURCE, source)
    put32(mem, ip + IP_TARGET, target)
    put16(mem, ip + UDP_TARGET, to_port)
    copy(mem, out, rx, bootp, _OPTIONS)
    at, done = _put_options(mem, out, limit, rx, tables, row)
    if done >= 0:
        tables.counts[OPTION82 + done] += 1
    if way == REQUEST:
        mem[out + _HOPS] += 1
        if be32(rx, bootp + _GIADDR) == 0:
            came_by = work[row, W_PORT]
            selected = ports[came_by, P_SELECTS] != 0 and done in (D_ADDED, D_REPLACED)
            put32(mem, out + _GIADDR, source if selected else ports[came_by, P_GIADDR])
    least = out + _MIN_BOOTP
    if at < least:
        mem[at:least] = 0
        at = least
    set_lengths(mem, ip, at)
    return at


@kernel
def _count_sent(tables: Tables, mark: int) -> None:
    way = mark & 3
    tables.counts[RELAYED + (way - 1) * TYPES + (mark >> 2 & 63)] += 1
    if way == REQUEST:
        tables.by_server[mark >> 8, S_SENT] += 1


@kernel
def _hand_over(tx: Slots, tables: Tables, delay: Delay, to: int, end: int, mark: int,
               now_us: int) -> int:
    """Send the finished frame at tx.mem[to:end], or do to it what faults say; frames sent."""
    kind = mark >> 2 & 63
    asked, answer = kind, np.int64(0)
    if mark & 3 == REPLY and kind != 0:
        asked, answer = np.int64(_NO_REQUEST), kind
    end, wait_us, copies, held = befall(tables.faults, tx.mem, to + 14, end, asked, answer,
                                        now_us, False)
    if copies == 0:
        tables.counts[CAUSED + C_FAULT] += 1
        return 0
    if held and wait_us < 0 and delay.state[D_HELD] == NONE:
        row = put(delay, tx.mem, to, end, now_us + REORDER_US, mark, np.int64(0))
        if row != NONE:
            delay.state[D_HELD] = row
            # One is overtaken; its doubles go out when it would at the latest.
            wait_us, copies = np.int64(REORDER_US), copies - 1
    if wait_us >= 0:
        for _ in range(copies):
            if put(delay, tx.mem, to, end, now_us + wait_us, mark, np.int64(0)) == NONE:
                tables.counts[CAUSED + C_NO_ROOM] += 1
        return 0
    return _send_copies(tx, tables, delay, to, end, copies, mark)


@kernel
def _send_copies(tx: Slots, tables: Tables, delay: Delay, to: int, end: int, copies: int,
                 mark: int) -> int:
    """Commit a frame `copies` times, and after it the one that was to be overtaken."""
    tx_commit(tx, end - to)
    _count_sent(tables, mark)
    count = 1
    for _ in range(1, copies):
        again = tx_start(tx)
        if again < 0:
            tables.counts[CAUSED + C_TX_FULL] += 1
            break
        copy(tx.mem, again, tx.mem, to, end - to)
        tx_commit(tx, end - to)
        _count_sent(tables, mark)
        count += 1
    overtaken = delay.state[D_HELD]
    if overtaken != NONE:
        late = np.int64(delay.mark[overtaken])
        if send_row(delay, overtaken, tx):
            _count_sent(tables, late)
            count += 1
    return count


@kernel
def send(rx: Memory, tx: Slots, tables: Tables, delay: Delay, port: int, count: int,
         now_us: int) -> int:
    """Write what leaves by `port` out of the first `count` rows of `work`; returns frames to send.

    now_us: time since the relay was ready. What finds the transmit ring full is lost, and counted.
    """
    work, hops, counts = tables.work, tables.hops, tables.counts
    faulty = len(tables.faults.rules) != 0
    sent = np.int64(0)
    for row in range(count):
        way = work[row, W_WAY]
        copies = len(hops) if way == REQUEST else np.int64(way == REPLY)
        for server in range(copies):
            if way == REQUEST:
                if hops[server, H_PORT] != port or hops[server, H_MAC] == UNKNOWN:
                    continue
            elif work[row, W_PORT] != port:
                continue
            to = tx_start(tx)
            cause = np.int64(C_TX_FULL)
            if to >= 0:
                end = put_copy(tx.mem, to, rx, tables, np.int64(row), port, np.int64(server))
                cause = np.int64(C_OK if end >= 0 else C_TOO_LARGE)
            if cause != C_OK:
                counts[CAUSED + cause] += 1
                continue
            mark = way | work[row, W_KIND] << 2 | np.int64(server) << 8
            if faulty:
                sent += _hand_over(tx, tables, delay, to, end, mark, now_us)
            else:
                tx_commit(tx, end - to)
                _count_sent(tables, mark)
                sent += 1
    return sent


@kernel
def pass_on(rx: Slots, tx: Slots, tables: Tables, delay: Delay, port: int, to: int, limit: int,
            left: int, now_us: int) -> tuple[int, int, int]:
    """Relay at most `limit` frames that wait on `port`, as far as they leave by `to`.

    left: 0. Where other ports are left after that, the frames stay where they are: call it again
    for each, with what it returned as `limit` and `left`; the last one gives them back.
    Returns (frames looked at, frames to send by `to`, ports left to send by: a bit each).
    """
    count = np.int64(limit)
    if left == 0:
        count, requests, left = look(rx, tables, port, limit)
        if requests > 0:
            for server in range(len(tables.hops)):
                if tables.hops[server, H_PORT] != UNKNOWN:
                    left |= np.int64(1) << tables.hops[server, H_PORT]
    sent = np.int64(0)
    if left >> to & 1:
        sent = send(rx.mem, tx, tables, delay, to, count, now_us)
        left &= ~(np.int64(1) << to)
    if left == 0:
        rx_release(rx, count)
    return count, sent, left


@kernel
def send_due(tx: Slots, tables: Tables, delay: Delay, now_us: int, limit: int) -> int:
    """Send frames whose time has come; returns how many."""
    count = np.int64(0)
    while count < limit:
        row = next_due(delay, now_us, limit)
        if row == NONE:
            break
        mark = np.int64(delay.mark[row])
        if not send_row(delay, row, tx):
            break
        delay.state[D_DUE_FROM] += 1
        _count_sent(tables, mark)
        count += 1
    return count
