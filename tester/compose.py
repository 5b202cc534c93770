"""Write one message of a client into a transmit slot, and note when it went out.

The one thing to know: what clients decide to say in a turn is collected, and written at its
end. A message is a head that all clients share, then what differs: options of this lease,
options made from templates, and the addresses of whoever carries it.
"""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import (
    BOOTP,
    BROADCAST_MAC,
    IP_SOURCE,
    IP_TARGET,
    UDP_SOURCE,
    put48,
    put_option32,
    seal,
    set_lengths,
)
from fastpath.frame import Memory, copy, put16, put32
from fastpath.jit import kernel
from fastpath.slots import Slots, tx_commit, tx_start
from tester.arrays import Test
from tester.cells import (
    AGAIN,
    B_OPENING,
    F_PROBING,
    F_SAYS,
    FIRST,
    INSTANCE,
    M_DECLINE,
    M_DISCOVER,
    M_INFORM,
    M_REBIND,
    M_REBOOT,
    M_RELEASE,
    M_RENEW,
    M_REQUEST,
    MALFORMED_SENT,
    O_MALFORMED,
    P_BASE_NS,
    P_LIMIT,
    P_MAC,
    P_MAC_CARRY,
    P_MAC_STEP,
    P_MODE,
    P_OTHER_PORT,
    P_RELAY_BLOCK,
    P_SCALE_MILLI,
    P_SECS_FROM_TICK,
    P_SECS_TO_TICK,
    P_SEED,
    P_SERVER_IP,
    P_SERVER_MAC,
    P_TAGS,
    PENDING,
    QUEUED,
    R_IP,
    R_MAC,
    RELAYS,
    S_ID,
    S_MAC,
    SOCKET,
    T_COUNT,
    T_FIRST,
    T_TPID,
    TICK_NS,
    V_CODE,
    V_COUNT,
    V_FIRST,
    V_MESSAGES,
    V_SUB,
    W_ADDRESS,
    W_CHADDR_END,
    W_RAW,
    W_SECS,
    W_SERVER,
    W_XID,
    WHOLE,
)
from tester.clients import scramble, xid_of
from tester.emit import evaluate, render
from tester.malform import malform

_XID, _SECS, _CIADDR, _GIADDR, _HOPS, _CHADDR = (wire.XID, wire.SECS, wire.CIADDR, wire.GIADDR,
                                                 wire.HOPS, wire.CHADDR)
_ETH_P_IP = wire.ETH_P_IP
_WANTED, _SERVER_ID = 50, 54
_INDEX, _MAC, _RELAY, _VLAN = range(4)
_MASK48 = (1 << 48) - 1
# All bits but the highest of each octet.
_LOW_BITS = 0x7F7F7F7F7F7F
# Ethernet, three tags, and what Ethernet carries.
_MOST_FRAME = 14 + 12 + 1500
# By so much `malform` makes a frame longer.
_MOST_ADDED = 17


@kernel
def mac_of(test: Test, row: int) -> int:
    """chaddr of a client under its present name."""
    clients, plan = test.clients, test.plan
    if len(clients.macs) != 0:
        return clients.macs[row]
    number = row + np.int64(clients.alias[row]) * len(clients.state)
    base, added = plan[P_MAC], number * plan[P_MAC_STEP] & _MASK48
    if plan[P_MAC_CARRY] == 0:
        # Each octet by itself: nothing is carried out of the seven lower bits.
        return (base & _LOW_BITS) + (added & _LOW_BITS) ^ (base ^ added) & ~_LOW_BITS & _MASK48
    return base + added & _MASK48


@kernel
def relay_of(test: Test, row: int) -> int:
    """Which relay agent a client is behind."""
    return row // test.plan[P_RELAY_BLOCK] % len(test.relays)


@kernel
def server_ip(test: Test, row: int) -> int:
    """Server identifier of the server that a client chose."""
    return test.servers[test.clients.server[row], S_ID]


@kernel
def tick_of(test: Test, at_ns: int) -> int:
    return (at_ns - test.plan[P_BASE_NS]) // TICK_NS


@kernel
def life_ticks(test: Test, seconds: int) -> int:
    """Ticks in which so many seconds of a client's life pass, by --time-scale; one at least."""
    return max(seconds * 1_000_000 // test.plan[P_SCALE_MILLI], np.int64(1))


@kernel
def _goes_unicast(message: int) -> bool:
    """RFC 2131 sections 4.4.4 to 4.4.6: what a client with an address says to its server."""
    return message in (M_RENEW, M_INFORM, M_RELEASE)


@kernel
def _has_ciaddr(message: int) -> bool:
    """RFC 2131 table 5."""
    return _goes_unicast(message) or message == M_REBIND


@kernel
def _put_link(test: Test, mem: Memory, at: int, row: int, message: int) -> int:
    """Write Ethernet and VLAN headers, and set what templates can refer to; returns the next."""
    plan, messages = test.plan, test.messages
    relay, mac = relay_of(test, row), mac_of(test, row)
    source, target = mac, np.int64(BROADCAST_MAC)
    if plan[P_MODE] == RELAYS:
        source, target = test.relays[relay, R_MAC], plan[P_SERVER_MAC]
    elif _goes_unicast(message):
        target = test.servers[test.clients.server[row], S_MAC]
    variables = messages.variables
    variables[_INDEX] = row + np.int64(test.clients.alias[row]) * len(test.clients.state)
    variables[_MAC], variables[_RELAY], variables[_VLAN] = mac, relay, 0
    put48(mem, at, target)
    put48(mem, at + 6, source)
    at += 12
    for i in range(plan[P_TAGS]):
        tag = messages.tags[i]
        value = evaluate(messages.programs, tag[T_FIRST], tag[T_COUNT], variables, messages.stack)
        if i == 0:
            variables[_VLAN] = value & 0xFFF
        put16(mem, at, tag[T_TPID])
        put16(mem, at + 2, value & 0xFFFF)
        at += 4
    put16(mem, at, _ETH_P_IP)
    return at + 2


@kernel
def _address_of(test: Test, row: int, message: int) -> int:
    """The address that a message is about: the client's own, or else one that it was offered."""
    clients = test.clients
    # Who gives an address back holds none any more.
    if message == M_REBOOT or (_has_ciaddr(message) and message != M_RELEASE):
        return np.int64(clients.yiaddr[row])
    return np.int64(clients.offered[row])


@kernel
def _put_addresses(test: Test, mem: Memory, ip: int, row: int, message: int) -> None:
    """IPv4 and UDP addresses, ciaddr and giaddr, over those of a broadcast by the client."""
    plan, bootp = test.plan, ip + BOOTP
    giaddr = test.relays[relay_of(test, row), R_IP]
    if _has_ciaddr(message):
        address = _address_of(test, row, message)
        put32(mem, bootp + _CIADDR, address)
        if plan[P_MODE] != SOCKET:
            # A socket sends only from addresses of this machine.
            put32(mem, ip + IP_SOURCE, address)
    if plan[P_MODE] == SOCKET:
        put32(mem, ip + IP_TARGET, plan[P_SERVER_IP])
    elif _goes_unicast(message):
        # Past the relay, if there is one (RFC 2131 section 4.3.2).
        put32(mem, ip + IP_TARGET, server_ip(test, row))
        return
    if giaddr != 0:
        mem[bootp + _HOPS] = 1
        put32(mem, bootp + _GIADDR, giaddr)
        put32(mem, ip + IP_SOURCE, giaddr)
        put16(mem, ip + UDP_SOURCE, plan[P_OTHER_PORT])
        if plan[P_MODE] == RELAYS:
            put32(mem, ip + IP_TARGET, plan[P_SERVER_IP])


@kernel
def _put_fields(test: Test, mem: Memory, at: int, row: int, message: int, limit: int) -> int:
    """Options made from templates; returns where the next one goes.

    An option with sub-options is opened by the first of them and closed by the last.
    """
    messages = test.messages
    fields, variables, stack = messages.fields, messages.variables, messages.stack
    opened = np.int64(-1)
    for i in range(len(fields)):
        if fields[i, V_MESSAGES] >> message & 1 == 0:
            continue
        code, sub = fields[i, V_CODE], fields[i, V_SUB]
        if at + 4 >= limit:
            break
        if sub == WHOLE or opened < 0 or np.int64(mem[opened]) != code:
            opened = at
            mem[at] = code
            at += 2
        if sub != WHOLE and at - opened >= 255:
            # Not even an octet of it would fit.
            continue
        start = at
        if sub >= 0:
            mem[at] = sub
            start = at + 2
        elif sub == INSTANCE:
            start = at + 1
        end = render(messages.programs, fields[i, V_FIRST], fields[i, V_COUNT], variables, stack,
                     mem, start, min(limit, opened + 257))
        if start != at:
            mem[start - 1] = end - start
        at = end
        mem[opened + 1] = at - opened - 2
        if sub == WHOLE:
            opened = np.int64(-1)
    return at


@kernel
def _put_options(test: Test, mem: Memory, at: int, row: int, message: int, limit: int) -> int:
    """Options of this lease (RFC 2131 table 5), then those made from templates."""
    probing = test.clients.flags[row] & F_PROBING != 0
    if (message in (M_REQUEST, M_REBOOT, M_DECLINE)) or (message == M_DISCOVER and probing):
        at = put_option32(mem, at, _WANTED, _address_of(test, row, message))
    if message in (M_REQUEST, M_DECLINE, M_RELEASE):
        at = put_option32(mem, at, _SERVER_ID, server_ip(test, row))
    return _put_fields(test, mem, at, row, message, limit)


@kernel
def _patch(test: Test, mem: Memory, bootp: int, row: int, message: int) -> None:
    """Fill the places of a message that is otherwise sent as it was captured."""
    clients, raw = test.clients, test.messages.raw[message]
    if raw[W_XID] >= 0:
        put32(mem, bootp + raw[W_XID], xid_of(row, np.int64(clients.epoch[row]),
                                              len(clients.state), test.plan[P_SEED]))
    if raw[W_CHADDR_END] >= 0:
        put48(mem, bootp + raw[W_CHADDR_END] - 5, mac_of(test, row))
    if raw[W_SECS] >= 0:
        put16(mem, bootp + raw[W_SECS], np.int64(clients.secs[row]))
    if raw[W_SERVER] >= 0:
        put32(mem, bootp + raw[W_SERVER], server_ip(test, row))
    if raw[W_ADDRESS] >= 0:
        put32(mem, bootp + raw[W_ADDRESS], _address_of(test, row, message))


@kernel
def _secs(test: Test, row: int, message: int, what: int, now_ns: int) -> int:
    """Seconds since the client began (RFC 2131 tables 1 and 5)."""
    plan, clients = test.plan, test.clients
    if message in (M_RELEASE, M_DECLINE):
        return np.int64(0)
    if message == M_REQUEST:
        # A REQUEST repeats what its DISCOVER said (RFC 2131 section 3.1).
        return np.int64(clients.secs[row])
    tick = tick_of(test, now_ns)
    if plan[P_SECS_FROM_TICK] <= tick < plan[P_SECS_TO_TICK]:
        # As perfdhcp's -y and -Y: a client that has waited for longer and longer.
        return min((tick - plan[P_SECS_FROM_TICK]) // 1000 + 1, np.int64(0xFFFF))
    if message == M_DISCOVER and what != FIRST:
        return min((now_ns - clients.started_ns[row]) // 1_000_000_000, np.int64(0xFFFF))
    if what == AGAIN:
        return min((now_ns - clients.leg_ns[row]) // 1_000_000_000, np.int64(0xFFFF))
    return np.int64(0)


@kernel
def put_all(test: Test, tx: Slots, now_ns: int) -> None:
    """Write into the ring what was said in this turn; there is room for it."""
    for i in range(test.counts[PENDING]):
        entry = test.outbox[i]
        _put(test, tx, entry >> 5, entry >> 2 & 7, entry & 3, now_ns)


@kernel
def _put(test: Test, tx: Slots, row: int, message: int, what: int, now_ns: int) -> None:
    """Write one message of client `row`."""
    clients, counts, messages, mem = test.clients, test.counts, test.messages, tx.mem
    start = tx_start(tx)
    clients.flags[row] &= ~F_SAYS & 0xFF
    clients.secs[row] = _secs(test, row, message, what, now_ns)
    ip = _put_link(test, mem, start, row, message)
    length = messages.lengths[message]
    copy(mem, ip, messages.heads[message], 0, length)
    bootp, end = ip + BOOTP, ip + length
    raw = messages.raw[message, W_RAW] != 0
    opening = test.behaviours[clients.behaviour[row], B_OPENING]
    spoilt = opening >= O_MALFORMED and message == M_DISCOVER
    if not raw:
        put32(mem, bootp + _XID, xid_of(row, np.int64(clients.epoch[row]), len(clients.state),
                                        test.plan[P_SEED]))
        put48(mem, bootp + _CHADDR, mac_of(test, row))
        put16(mem, bootp + _SECS, np.int64(clients.secs[row]))
    _put_addresses(test, mem, ip, row, message)
    if raw:
        copy(mem, bootp, messages.heads[message], BOOTP, length - BOOTP)
        _patch(test, mem, bootp, row, message)
        set_lengths(mem, ip, end)
    else:
        limit = min(start + _MOST_FRAME, ip + test.plan[P_LIMIT]) - 1
        end = seal(mem, ip, _put_options(test, mem, end, row, message,
                                         limit - _MOST_ADDED if spoilt else limit))
    if spoilt:
        counts[MALFORMED_SENT] += 1
        draw = scramble(row ^ np.int64(clients.tries[row]) << 24 ^ test.plan[P_SEED])
        end = malform(mem, start, ip, end, opening - O_MALFORMED, draw)
    tx_commit(tx, end - start)
    counts[QUEUED] += 1
