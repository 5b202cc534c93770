"""From a frame to a question: prove it sound, find where its client is and who it is."""

from __future__ import annotations

import numpy as np

from fastpath import wire
from fastpath.build import NO_TAG
from fastpath.delay import waiting
from fastpath.faults import DROP, SAY_NAK, on_arrival
from fastpath.frame import (
    Memory,
    Options,
    be32,
    check_bootp,
    check_frame,
    find_options,
    option32,
    option_byte,
)
from fastpath.jit import kernel
from fastpath.wire import Reason
from server.arrays import TYPES, Tables
from server.decide import (
    ABSENT,
    BOOTP_REQUEST,
    C_FAULT,
    C_MAX_HOPS,
    C_OK,
    C_RELAYED,
    DISCOVER,
    P_BOOTP,
    P_MAX_CONCURRENT,
    P_MAX_HOPS,
    P_RELAY,
    REQUEST,
    Asked,
)
from server.identity import by_circuit, by_client, by_hardware, find_suboption
from server.leases import (
    BOUND,
    BY_CHADDR,
    BY_CIRCUIT_ID,
    BY_CLIENT_ID,
    NONE,
    OFFERED,
    RESERVED,
    find_client,
)
from server.places import find_reserved, find_subnet
from server.reply import (
    L_ANY,
    L_BROADCAST,
    L_NETWORK,
    L_SERVER,
    L_SERVER_PORT,
    L_SUBNET,
    Link,
    own_address,
)
from server.settings import choose_layers, find_classes, find_setting

_OK, _NO_TYPE, _NO_COOKIE = int(Reason.OK), int(Reason.NO_MESSAGE_TYPE), int(Reason.COOKIE)
_HOPS, _GIADDR, _CIADDR, _CHADDR = wire.HOPS, wire.GIADDR, wire.CIADDR, wire.CHADDR
_OPTIONS = wire.OPTIONS
_KIND, _WANTED, _LEASE, _SERVER_ID, _CLIENT_ID = 53, 50, 51, 54, 61
_RAPID_COMMIT, _V6_ONLY, _SUBNET_SELECTION, _ASKED_FOR, _RELAY = 80, 108, 118, 55, 82
_LINK_SELECTION, _SERVER_OVERRIDE = 5, 11
# Of an identity's first word; without the mark of a long one.
_KIND_BITS = np.uint64(3)
_ALL = 0xFFFFFFFF


@kernel
def _for_us(rx: Memory, ip: int, link: Link) -> bool:
    """Sent to us or to everybody: a bridge floods what is meant for other servers too."""
    target = be32(rx, ip + 16)
    numbers = link.numbers
    return bool(target == _ALL or target == numbers[L_SERVER] or numbers[L_ANY]
                or target == numbers[L_BROADCAST])


@kernel
def _option32_or_absent(rx: Memory, options: Options, code: int) -> int:
    return option32(rx, options, code) if options.length[code] == 4 else np.int64(ABSENT)


@kernel
def _suboption32(rx: Memory, options: Options, code: int) -> int:
    at, length = find_suboption(rx, options, code)
    if length != 4:
        return np.int64(ABSENT)
    value = np.int64(0)
    for i in range(4):
        value = value << 8 | option_byte(rx, options, _RELAY, at + i)
    return value


@kernel
def _said_by_relay(rx: Memory, bootp: int, options: Options, code: int) -> int:
    """An address in option 82, or ABSENT: also where no relay can have written it."""
    if be32(rx, bootp + _GIADDR) == 0:
        return np.int64(ABSENT)
    return _suboption32(rx, options, code)


@kernel
def locate(rx: Memory, ip: int, bootp: int, options: Options, tables: Tables, link: Link,
           ) -> tuple[int, int]:
    """(network, subnet) of the client: NONE where nothing is configured for it.

    The relay's link selection (RFC 3527), the client's subnet selection (RFC 3011), giaddr,
    then for a client with an address that address, else the network of the interface. What is
    broadcast without a relay comes from that network, wherever the client thinks it is.
    """
    places = tables.world.places
    address = _said_by_relay(rx, bootp, options, np.int64(_LINK_SELECTION))
    if address == ABSENT:
        address = _option32_or_absent(rx, options, np.int64(_SUBNET_SELECTION))
    if address == ABSENT:
        address = be32(rx, bootp + _GIADDR)
    if address == 0:
        address = be32(rx, bootp + _CIADDR)
        at = find_subnet(places, address)
        here = link.numbers[L_NETWORK]
        if address == 0 or at == NONE or (
                here != NONE and here != places.subnet_network[at] and be32(rx, ip + 16) == _ALL):
            return here, link.numbers[L_SUBNET]
    subnet = find_subnet(places, address)
    if subnet == NONE:
        return np.int64(NONE), np.int64(NONE)
    return np.int64(places.subnet_network[subnet]), subnet


@kernel
def _find_reservation(rx: Memory, bootp: int, options: Options, tables: Tables, network: int,
                      ) -> int:
    """The reservation of a client, by identifier, hardware or circuit, or NONE."""
    reserved, names, key = tables.reserved, tables.scratch.names, tables.world.leases.key
    kinds = reserved.kinds[0]
    found = np.int64(NONE)
    if kinds >> BY_CLIENT_ID & 1 and options.length[_CLIENT_ID] >= 0:
        by_client(names, rx, bootp, options, network, key)
        found = find_reserved(reserved, key, names.who)
    if found == NONE and kinds >> BY_CHADDR & 1:
        by_hardware(names, rx, np.int64(rx[bootp + 1]), bootp + _CHADDR, np.int64(rx[bootp + 2]),
                    network, key)
        found = find_reserved(reserved, key, names.who)
    if found == NONE and kinds >> BY_CIRCUIT_ID & 1 and by_circuit(names, rx, options, network,
                                                                   key):
        found = find_reserved(reserved, key, names.who)
    return found


@kernel
def _has_asked_for(rx: Memory, options: Options, code: int) -> bool:
    for i in range(options.length[_ASKED_FOR]):
        if option_byte(rx, options, _ASKED_FOR, np.int64(i)) == code:
            return True
    return False


@kernel
def _of_his_circuit(tables: Tables) -> tuple[int, int]:
    """(reservation, row) by which the client at hand has a lease already, or (NONE, NONE).

    Who renews does so past the relay, so nothing says on which circuit he is (RFC 2131 section
    4.3.2, RENEWING); that he has the lease says it.
    """
    leases, reserved = tables.world.leases, tables.reserved
    row = find_client(leases, tables.scratch.names.who)
    if row != NONE and leases.state[row] == BOUND and leases.home[row] == RESERVED:
        for i in range(len(reserved.row)):
            kind = np.int64(reserved.identity[i, 0] & _KIND_BITS)
            if reserved.row[i] == row and kind == BY_CIRCUIT_ID:
                return np.int64(i), row
    return np.int64(NONE), np.int64(NONE)


@kernel
def read(rx: Memory, bootp: int, kind: int, us: int, network: int, subnet: int,
          tables: Tables) -> Asked:
    """The message as numbers; its client's identity is left in `scratch.names.who`."""
    options, reserved = tables.scratch.options, tables.reserved
    classes = find_classes(tables.classes, rx, options)
    reservation, row = np.int64(NONE), np.int64(NONE)
    if reserved.kinds[0] != 0:
        reservation = _find_reservation(rx, bootp, options, tables, network)
        if reservation != NONE:
            row = np.int64(reserved.row[reservation])
    by_client(tables.scratch.names, rx, bootp, options, network, tables.world.leases.key)
    ciaddr, giaddr = be32(rx, bootp + _CIADDR), be32(rx, bootp + _GIADDR)
    if (reservation == NONE and kind == REQUEST and ciaddr != 0 and giaddr == 0
            and reserved.kinds[0] >> BY_CIRCUIT_ID & 1):
        reservation, row = _of_his_circuit(tables)
    no_address = kind == DISCOVER and _has_asked_for(rx, options, np.int64(_V6_ONLY))
    if no_address:
        choose_layers(tables.world.sets, reservation, np.int64(NONE), subnet, classes)
        _, size = find_setting(tables.world.sets, np.int64(_V6_ONLY))
        no_address = size != 0
    server = _option32_or_absent(rx, options, np.int64(_SERVER_ID))
    return Asked(kind, ciaddr, giaddr,
                 _option32_or_absent(rx, options, np.int64(_WANTED)), server, server == us,
                 _option32_or_absent(rx, options, np.int64(_LEASE)),
                 options.length[_RAPID_COMMIT] >= 0, no_address, network, subnet, classes,
                 reservation, row)


@kernel
def server_identifier(rx: Memory, ip: int, bootp: int, options: Options, link: Link) -> int:
    """As which server to answer: what the relay says (RFC 5107), else our own address."""
    us = _said_by_relay(rx, bootp, options, np.int64(_SERVER_OVERRIDE))
    if us != ABSENT:
        return us
    return own_address(rx, ip, link)


@kernel
def blocked(rx: Memory, bootp: int, kind: int, tables: Tables, now_us: int) -> int:
    """Why a sound message is not looked at any further, or C_OK; SAY_NAK's is -1."""
    policy, faults = tables.world.policy, tables.faults
    if np.int64(rx[bootp + _HOPS]) > policy[P_MAX_HOPS]:
        return np.int64(C_MAX_HOPS)
    if not policy[P_RELAY] and be32(rx, bootp + _GIADDR) != 0:
        return np.int64(C_RELAYED)
    if len(faults.rules) != 0:
        fate = on_arrival(faults, kind, now_us)
        if fate == DROP:
            return np.int64(C_FAULT)
        if fate == SAY_NAK:
            return np.int64(-1)
    return np.int64(C_OK)


@kernel
def crowded(kind: int, tables: Tables) -> bool:
    """Whether a message begins one exchange more than may be in progress.

    An exchange is in progress from its OFFER on until the ACK has left. Who repeats himself, or
    takes his offer up, begins none. The client's identity is in `scratch.names.who`.
    """
    most, leases = tables.world.policy[P_MAX_CONCURRENT], tables.world.leases
    if most == 0 or (kind != DISCOVER and kind != REQUEST):
        return False
    held = leases.totals[OFFERED] if kind == DISCOVER else waiting(tables.delay)
    if held < most:
        return False
    row = find_client(leases, tables.scratch.names.who)
    return bool(row == NONE or leases.state[row] != OFFERED)


@kernel
def judge(rx: Memory, start: int, end: int, outer: int, checksum_ready: bool, tables: Tables,
           link: Link) -> tuple[int, int, int, int]:
    """Prove a frame sound: (Reason, IP offset, BOOTP offset, message type).

    Reason -1 stands for a frame that is not for us.
    """
    options = tables.scratch.options
    port = link.numbers[L_SERVER_PORT]
    reason, ip, bootp, bootp_end = check_frame(rx, start, end, 0 if outer == NO_TAG else 1,
                                               checksum_ready, port, port)
    if reason != _OK:
        return reason, ip, bootp, np.int64(0)
    reason = check_bootp(rx, bootp, bootp_end)
    old = reason == _NO_COOKIE and tables.world.policy[P_BOOTP] != 0
    if reason != _OK and not old:
        return reason, ip, bootp, np.int64(0)
    if np.int64(rx[bootp]) != 1 or not _for_us(rx, ip, link):
        return np.int64(-1), ip, bootp, np.int64(0)
    # Without the cookie the vendor area says nothing that we could read (RFC 1497).
    reason = find_options(rx, bootp, bootp + _OPTIONS if old else bootp_end, options)
    if reason != _OK:
        return reason, ip, bootp, np.int64(0)
    if options.length[_KIND] < 0 and tables.world.policy[P_BOOTP]:
        return reason, ip, bootp, np.int64(BOOTP_REQUEST)
    if options.length[_KIND] != 1:
        return np.int64(_NO_TYPE), ip, bootp, np.int64(0)
    kind = option_byte(rx, options, _KIND, np.int64(0))
    if kind < 1 or kind >= TYPES:
        reason = np.int64(_NO_TYPE)
    return reason, ip, bootp, kind
