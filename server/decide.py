"""What the server answers: a pure function of message, lease table, policy and time.

RFC 2131 section 4.3, one function a message type. Nothing here knows of frames; `engine`
reads the message into numbers and writes what is decided.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel
from fastpath.siphash import Words
from fastpath.wheel import Wheel
from fastpath.wire import MessageType
from server.identity import is_nobody
from server.leases import (
    BOUND,
    FOREVER_S,
    FREE,
    NONE,
    OFFERED,
    RESERVED,
    Leases,
    decline,
    find_client,
    free,
    is_free,
    oldest_free,
    pool_of,
    span_of,
    take,
)
from server.places import Places, find_subnet, network_of, row_at
from server.settings import Sets, choose_layers, lease_time

DISCOVER, REQUEST = int(MessageType.DISCOVER), int(MessageType.REQUEST)
DECLINE, RELEASE = int(MessageType.DECLINE), int(MessageType.RELEASE)
INFORM = int(MessageType.INFORM)
OFFER, ACK, NAK = int(MessageType.OFFER), int(MessageType.ACK), int(MessageType.NAK)
# A message without a type: BOOTP (RFC 951), answered without one.
BOOTP_REQUEST = 0
SILENT = 0
ABSENT = -1

# Why it was decided so; counted, and said in verbose logs.
CAUSES = (
    "ok",
    "no_free_address",  # the pools open to this client are used up
    "other_server",  # the client chose, or asks, another server
    "unknown_client",  # no record of him, and not ours to refuse
    "wrong_address",  # he asks for, or uses, an address that is not his
    "address_in_use",  # he asks for an address that another has
    "not_his",  # he releases or declines an address that is not his
    "unexpected_type",  # a message that only servers send, or not for servers of addresses
    "reply_too_large",  # what the relay wants back does not fit in a frame
    "no_identity",  # neither hardware address nor client identifier: he could be anybody
    "no_subnet",  # where he is, there is nothing configured
    "max_hops",  # it passed more relays than allowed
    "relayed",  # it came by a relay, and relays are not served
    "max_concurrent",  # as many exchanges as allowed are in progress
    "not_stored",  # the lease file cannot be written: nothing is promised
    "fault",  # told to misbehave
    "no_room",  # more answers wait for their time than there is room for
)
(C_OK, C_NO_FREE, C_OTHER_SERVER, C_UNKNOWN, C_WRONG, C_IN_USE, C_NOT_HIS, C_TYPE, C_TOO_LARGE,
 C_NO_IDENTITY, C_NO_SUBNET, C_MAX_HOPS, C_RELAYED, C_MAX_CONCURRENT, C_NOT_STORED, C_FAULT,
 C_NO_ROOM) = range(len(CAUSES))

# Cells of `policy`. STORING is 0 while the lease file cannot be written; JOURNAL is 1 where
# there is one.
(P_OFFER_S, P_DECLINE_S, P_AUTHORITATIVE, P_RAPID_COMMIT, P_BOOTP, P_RELAY, P_MAX_HOPS,
 P_MAX_CONCURRENT, P_STORING, P_JOURNAL) = range(10)
POLICY_SIZE = 10

Policy = npt.NDArray[np.int64]


class Asked(NamedTuple):
    """A message as numbers; what is absent is ABSENT, addresses are unsigned.

    server: option 54. ours: True when that names us. lease_s: option 51. rapid: option 80 is
    there. no_address: the client can do without (RFC 8925). network, subnet: where it is.
    classes: mask. reservation, reserved_row: what is kept for him, or NONE.
    """

    kind: int
    ciaddr: int
    giaddr: int
    requested: int
    server: int
    ours: bool
    lease_s: int
    rapid: bool
    no_address: bool
    network: int
    subnet: int
    classes: int
    reservation: int
    reserved_row: int


class World(NamedTuple):
    """What decisions are made on; wheel and leases are changed by them."""

    leases: Leases
    wheel: Wheel
    places: Places
    sets: Sets
    policy: Policy


@kernel
def _until(now_s: int, length_s: int) -> int:
    # The second itself still belongs to the client: never free a lease before he gives it up.
    return np.int64(FOREVER_S) if length_s >= FOREVER_S else now_s + length_s + 1


@kernel
def _admits(world: World, row: int, asked: Asked) -> bool:
    """Whether a row is of a pool on the client's network that is open to him."""
    pool = pool_of(world.leases, row)
    if pool == NONE or world.leases.home[row] == RESERVED:
        return False
    pools = world.places.network_pools
    only = world.places.pool_classes[pool]
    return bool(pools[asked.network, 0] <= pool < pools[asked.network, 1]
                and (only == 0 or only & asked.classes != 0))


@kernel
def _may_have(world: World, row: int, asked: Asked, mine: int, hardware: int) -> bool:
    """Whether a client may be given this row now: reserved for him, or free and open to him.

    What is reserved for him is also his when the same hardware holds it under another
    identifier: a machine that boots by PXE, or BOOTP, and then starts its system.
    """
    if row == NONE:
        return False
    if row == asked.reserved_row:
        in_use = world.leases.state[row] == OFFERED or world.leases.state[row] == BOUND
        same_machine = in_use and hardware != 0 and world.leases.hardware[row] == hardware
        return bool(row == mine or is_free(world.leases, row) or same_machine)
    return bool((row == mine or world.leases.state[row] == FREE) and _admits(world, row, asked))


@kernel
def _oldest(world: World, asked: Asked) -> int:
    """The address that rested longest, in his own subnet first, then on the same wire."""
    places = world.places
    for subnet_only in range(2):
        whole = subnet_only == 1 or asked.subnet == NONE
        first = np.int64(places.network_pools[asked.network, 0] if whole
                         else places.subnet_pools[asked.subnet, 0])
        after = np.int64(places.network_pools[asked.network, 1] if whole
                         else places.subnet_pools[asked.subnet, 1])
        for pool in range(first, after):
            only = places.pool_classes[pool]
            row = oldest_free(world.leases, np.int64(pool))
            if row != NONE and (only == 0 or only & asked.classes != 0):
                return row
    return np.int64(NONE)


@kernel
def _choose(world: World, asked: Asked, mine: int, hardware: int) -> int:
    """RFC 2131 section 4.3.1: current, reserved, previous, the one asked for, oldest free.

    A lease is never taken away for a DISCOVER, which anybody may send in his name: where another
    address is reserved for him since, he gets it when he renews (`_returning`).
    """
    if mine != NONE and world.leases.state[mine] == BOUND:
        return mine
    if _may_have(world, asked.reserved_row, asked, mine, hardware):
        return asked.reserved_row
    if _may_have(world, mine, asked, mine, hardware):
        return mine
    wanted = row_at(world.places, world.leases, asked.requested)
    if _may_have(world, wanted, asked, mine, hardware):
        return wanted
    return _oldest(world, asked)


@kernel
def _grant(world: World, asked: Asked, row: int) -> int:
    """The lease time for a row; leaves its settings chosen for the reply."""
    reservation = asked.reservation if row == asked.reserved_row else np.int64(NONE)
    # On a shared wire the address may be of another subnet than the one the client is heard on.
    subnet = np.int64(world.places.span_subnet[span_of(world.leases, row)])
    choose_layers(world.sets, reservation, pool_of(world.leases, row), subnet, asked.classes)
    if asked.kind == BOOTP_REQUEST:
        return np.int64(FOREVER_S)
    return lease_time(world.sets, asked.lease_s)


@kernel
def _discover(world: World, asked: Asked, who: Words, hardware: int, now_s: int,
              ) -> tuple[int, int, int, int]:
    leases, wheel = world.leases, world.wheel
    if asked.no_address:
        return OFFER, NONE, C_OK, lease_time(world.sets, asked.lease_s)
    mine = find_client(leases, who)
    row = _choose(world, asked, mine, hardware)
    if row == NONE:
        return SILENT, NONE, C_NO_FREE, 0
    lease_s = _grant(world, asked, row)
    if asked.rapid and world.policy[P_RAPID_COMMIT]:
        take(leases, wheel, row, who, hardware, np.int64(BOUND), _until(now_s, lease_s))
        return ACK, row, C_OK, lease_s
    held_until = _until(now_s, world.policy[P_OFFER_S])
    if row != mine or leases.state[row] != BOUND:
        take(leases, wheel, row, who, hardware, np.int64(OFFERED), held_until)
    elif leases.expires_s[row] < held_until:
        # His lease is about to end: it stays his for as long as an offer does.
        take(leases, wheel, row, who, hardware, np.int64(BOUND), held_until)
    return OFFER, row, C_OK, lease_s


@kernel
def _dismiss(world: World, mine: int, row: int) -> tuple[int, int]:
    """NAK a client; if the row he named is his, that ends his lease. Returns (NAK, that row)."""
    if row == NONE or row != mine or world.leases.state[row] != BOUND:
        return NAK, np.int64(NONE)
    free(world.leases, world.wheel, row)
    return NAK, row


@kernel
def _selecting(world: World, asked: Asked, mine: int, hardware: int) -> tuple[int, int, int]:
    """He answers an offer: ours, or another server's (RFC 2131 section 4.3.2)."""
    if not asked.ours:
        if mine != NONE and world.leases.state[mine] == OFFERED:
            free(world.leases, world.wheel, mine)
        return SILENT, NONE, C_OTHER_SERVER
    row = row_at(world.places, world.leases, asked.requested)
    if mine != NONE and mine == row and _may_have(world, row, asked, mine, hardware):
        # Also when he took longer than we hold an offer, but nobody else got it.
        return ACK, mine, C_OK
    return *_dismiss(world, mine, row), C_WRONG


@kernel
def _returning(world: World, asked: Asked, mine: int, address: int, hardware: int,
               ) -> tuple[int, int, int]:
    """INIT-REBOOT, RENEWING or REBINDING: he names the address he has.

    A client we have no record of is another server's: silence, unless the address cannot be
    right on this network, or we are the authority here and it cannot be his. A reservation
    is a record too.
    """
    leases = world.leases
    if network_of(world.places, address) != asked.network:
        return NAK, NONE, C_WRONG
    row = row_at(world.places, leases, address)
    if _may_have(world, asked.reserved_row, asked, mine, hardware):
        # An address of his own: where he has another he is to start over and get it.
        if row == asked.reserved_row:
            return ACK, row, C_OK
        return *_dismiss(world, mine, row), C_WRONG
    if mine != NONE and row == mine:
        # Also when his lease has run out but nobody got the address since.
        if _may_have(world, row, asked, mine, hardware):
            return ACK, row, C_OK
        return *_dismiss(world, mine, row), C_WRONG
    if mine != NONE and leases.state[mine] in (OFFERED, BOUND):
        return NAK, NONE, C_WRONG
    if not world.policy[P_AUTHORITATIVE]:
        return SILENT, NONE, C_UNKNOWN
    if asked.ciaddr != 0 and _may_have(world, row, asked, mine, hardware):
        # He has been using it, and for us it is free: we lost our record, not he his lease.
        return ACK, row, C_OK
    if asked.ciaddr == 0 and mine == NONE:
        # INIT-REBOOT without a record: MUST remain silent (RFC 2131 section 4.3.2).
        return SILENT, NONE, C_UNKNOWN
    return NAK, NONE, C_IN_USE if row != NONE and not is_free(leases, row) else C_UNKNOWN


@kernel
def _request(world: World, asked: Asked, who: Words, hardware: int, now_s: int,
             ) -> tuple[int, int, int, int]:
    mine = find_client(world.leases, who)
    # Some old clients name the server when they renew, too.
    renewing = asked.ciaddr != 0 and asked.requested == ABSENT and asked.ours
    if asked.server != ABSENT and not renewing:
        kind, row, cause = _selecting(world, asked, mine, hardware)
    elif asked.ciaddr == 0 and asked.requested == ABSENT:
        return SILENT, NONE, C_WRONG, 0
    else:
        address = asked.ciaddr if asked.ciaddr != 0 else asked.requested
        kind, row, cause = _returning(world, asked, mine, address, hardware)
    if kind != ACK:
        return kind, row, cause, 0
    lease_s = _grant(world, asked, row)
    take(world.leases, world.wheel, row, who, hardware, np.int64(BOUND), _until(now_s, lease_s))
    return ACK, row, C_OK, lease_s


@kernel
def _give_back(world: World, asked: Asked, who: Words, now_s: int) -> tuple[int, int, int, int]:
    """RELEASE or DECLINE (RFC 2131 sections 4.3.3 and 4.3.4)."""
    if asked.server != ABSENT and not asked.ours:
        return SILENT, NONE, C_OTHER_SERVER, 0
    row = row_at(world.places, world.leases,
                 asked.ciaddr if asked.kind == RELEASE else asked.requested)
    if row == NONE or row != find_client(world.leases, who) or is_free(world.leases, row):
        return SILENT, NONE, C_NOT_HIS, 0
    if asked.kind == RELEASE:
        free(world.leases, world.wheel, row)
    else:
        decline(world.leases, world.wheel, row, _until(now_s, world.policy[P_DECLINE_S]))
    return SILENT, row, C_OK, 0


@kernel
def _bootp(world: World, asked: Asked, who: Words, hardware: int) -> tuple[int, int, int, int]:
    """A BOOTP client gets what is reserved for him, for ever (RFC 1534 section 2)."""
    row = asked.reserved_row
    if not _may_have(world, row, asked, find_client(world.leases, who), hardware):
        return SILENT, NONE, C_UNKNOWN, 0
    lease_s = _grant(world, asked, row)
    take(world.leases, world.wheel, row, who, hardware, np.int64(BOUND), np.int64(FOREVER_S))
    return ACK, row, C_OK, lease_s


@kernel
def _inform(world: World, asked: Asked) -> tuple[int, int, int, int]:
    """RFC 2131 section 4.3.5: options only, those that go with the address he has."""
    if asked.ciaddr == 0:
        return SILENT, NONE, C_WRONG, 0
    subnet = find_subnet(world.places, asked.ciaddr)
    if subnet != NONE and world.places.subnet_network[subnet] == asked.network:
        row = row_at(world.places, world.leases, asked.ciaddr)
        pool = np.int64(NONE) if row == NONE else pool_of(world.leases, row)
        choose_layers(world.sets, asked.reservation, pool, subnet, asked.classes)
    return ACK, NONE, C_OK, 0


@kernel
def decide(world: World, asked: Asked, who: Words, hardware: int, now_s: int,
           ) -> tuple[int, int, int, int]:
    """Decide on one message and carry it out in the table.

    who: uint64[4], the client's identity. hardware: his chaddr as a number. Returns (answer,
    row, cause, lease time): OFFER, ACK, NAK or SILENT; the row of the address in an OFFER or in
    an ACK to a REQUEST, or of the lease that ended, else NONE; an index into CAUSES; seconds.
    The settings that count for the reply are chosen in `sets.layers`.
    """
    choose_layers(world.sets, asked.reservation, np.int64(NONE), asked.subnet, asked.classes)
    if asked.kind == INFORM:
        return _inform(world, asked)
    if is_nobody(who):
        # All clients that say nothing of themselves would be one, and share its address.
        return SILENT, NONE, C_NO_IDENTITY, 0
    if not world.policy[P_STORING] and asked.kind in (
            DISCOVER, REQUEST, DECLINE, RELEASE, BOOTP_REQUEST):
        return SILENT, NONE, C_NOT_STORED, 0
    if asked.kind == DISCOVER:
        return _discover(world, asked, who, hardware, now_s)
    if asked.kind == REQUEST:
        return _request(world, asked, who, hardware, now_s)
    if asked.kind == RELEASE or asked.kind == DECLINE:
        return _give_back(world, asked, who, now_s)
    if asked.kind == BOOTP_REQUEST:
        return _bootp(world, asked, who, hardware)
    return SILENT, NONE, C_TYPE, 0
