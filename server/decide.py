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
from server.leases import (
    BOUND,
    BY_CHADDR,
    FOREVER_S,
    FREE,
    NONE,
    OFFERED,
    Leases,
    decline,
    find_client,
    free,
    oldest_free,
    take,
)

DISCOVER, REQUEST = int(MessageType.DISCOVER), int(MessageType.REQUEST)
DECLINE, RELEASE = int(MessageType.DECLINE), int(MessageType.RELEASE)
INFORM = int(MessageType.INFORM)
OFFER, ACK, NAK = int(MessageType.OFFER), int(MessageType.ACK), int(MessageType.NAK)
SILENT = 0
ABSENT = -1

# Why it was decided so; counted, and said in verbose logs.
CAUSES = (
    "ok",
    "no_free_address",  # the pool is used up
    "other_server",  # the client chose, or asks, another server
    "unknown_client",  # no record of him, and not ours to refuse
    "wrong_address",  # he asks for, or uses, an address that is not his
    "address_in_use",  # he asks for an address that another has
    "not_his",  # he releases or declines an address that is not his
    "unexpected_type",  # a message that only servers send, or not for servers of addresses
    "reply_too_large",  # what the relay wants back does not fit in a frame
    "no_identity",  # neither hardware address nor client identifier: he could be anybody
)
(C_OK, C_NO_FREE, C_OTHER_SERVER, C_UNKNOWN, C_WRONG, C_IN_USE, C_NOT_HIS,
 C_TYPE, C_TOO_LARGE, C_NO_IDENTITY) = range(len(CAUSES))

# Cells of `policy`.
P_FIRST, P_LAST, P_SERVER, P_NETMASK, P_LEASE_S, P_OFFER_S, P_DECLINE_S, P_AUTHORITATIVE = range(8)
POLICY_SIZE = 8

# The first two octets of an identity are its kind and its length.
_KIND_AND_LENGTH, _NOBODY = np.uint64(0xFFFF), np.uint64(BY_CHADDR)


class Asked(NamedTuple):
    """A message as numbers; an absent option is ABSENT, addresses are unsigned."""

    kind: int
    ciaddr: int
    giaddr: int
    requested: int
    server: int


@kernel
def _row_of(policy: npt.NDArray[np.int64], address: int) -> int:
    if policy[P_FIRST] <= address <= policy[P_LAST]:
        return address - policy[P_FIRST]
    return np.int64(NONE)


@kernel
def _until(now_s: int, length_s: int) -> int:
    # The second itself still belongs to the client: never free a lease before he gives it up.
    return np.int64(FOREVER_S) if length_s == FOREVER_S else now_s + length_s + 1


@kernel
def _is_his(leases: Leases, row: int, mine: int) -> bool:
    """True when the row is the client's own and not free."""
    return row != NONE and row == mine and leases.state[row] in (OFFERED, BOUND)


@kernel
def _discover(leases: Leases, wheel: Wheel, policy: npt.NDArray[np.int64], asked: Asked, who: Words,
              hardware: int, now_s: int) -> tuple[int, int, int]:
    """RFC 2131 section 4.3.1: current address, previous one, the one asked for, oldest free."""
    row = find_client(leases, who)
    if row == NONE:
        wanted = _row_of(policy, asked.requested)
        if wanted != NONE and leases.state[wanted] == FREE:
            row = wanted
        else:
            row = oldest_free(leases)
    if row == NONE:
        return SILENT, NONE, C_NO_FREE
    if leases.state[row] != BOUND:
        take(leases, wheel, row, who, hardware, OFFERED, _until(now_s, policy[P_OFFER_S]))
    return OFFER, row, C_OK


@kernel
def _selecting(leases: Leases, wheel: Wheel, policy: npt.NDArray[np.int64], asked: Asked, mine: int,
               ) -> tuple[int, int, int]:
    """He answers an offer: ours, or another server's (RFC 2131 section 4.3.2)."""
    if asked.server != policy[P_SERVER]:
        if mine != NONE and leases.state[mine] == OFFERED:
            free(leases, wheel, mine)
        return SILENT, NONE, C_OTHER_SERVER
    if mine != NONE and mine == _row_of(policy, asked.requested):
        # Also when he took longer than we hold an offer, but nobody else got it.
        return ACK, mine, C_OK
    return NAK, NONE, C_WRONG


@kernel
def _returning(leases: Leases, policy: npt.NDArray[np.int64], asked: Asked, mine: int, address: int,
               ) -> tuple[int, int, int]:
    """INIT-REBOOT, RENEWING or REBINDING: he names the address he has.

    A client we have no record of is another server's: silence, unless the address cannot be
    right on this network, or we are the authority here and it cannot be his.
    """
    row = _row_of(policy, address)
    if mine != NONE and row == mine:
        # Also when his lease has run out but nobody got the address since.
        return ACK, row, C_OK
    mask = policy[P_NETMASK]
    if asked.giaddr == 0 and address & mask != policy[P_FIRST] & mask:
        return NAK, NONE, C_WRONG
    if mine != NONE and leases.state[mine] in (OFFERED, BOUND):
        return NAK, NONE, C_WRONG
    if not policy[P_AUTHORITATIVE]:
        return SILENT, NONE, C_UNKNOWN
    if asked.ciaddr != 0 and row != NONE and leases.state[row] == FREE:
        # He has been using it, and for us it is free: we lost our record, not he his lease.
        return ACK, row, C_OK
    if asked.ciaddr == 0 and mine == NONE:
        # INIT-REBOOT without a record: MUST remain silent (RFC 2131 section 4.3.2).
        return SILENT, NONE, C_UNKNOWN
    return NAK, NONE, C_IN_USE if row != NONE and leases.state[row] != FREE else C_UNKNOWN


@kernel
def _request(leases: Leases, wheel: Wheel, policy: npt.NDArray[np.int64], asked: Asked, who: Words,
             hardware: int, now_s: int) -> tuple[int, int, int]:
    mine = find_client(leases, who)
    if asked.server != ABSENT:
        kind, row, cause = _selecting(leases, wheel, policy, asked, mine)
    elif asked.ciaddr == 0 and asked.requested == ABSENT:
        return SILENT, NONE, C_WRONG
    else:
        address = asked.ciaddr if asked.ciaddr != 0 else asked.requested
        kind, row, cause = _returning(leases, policy, asked, mine, address)
    if kind == ACK:
        take(leases, wheel, row, who, hardware, BOUND, _until(now_s, policy[P_LEASE_S]))
    return kind, row, cause


@kernel
def decide(leases: Leases, wheel: Wheel, policy: npt.NDArray[np.int64], asked: Asked, who: Words,
           hardware: int, now_s: int) -> tuple[int, int, int]:
    """Decide on one message and carry it out in the table.

    policy: int64[POLICY_SIZE]. who: uint64[4], the client's identity. hardware: his chaddr
    as a number. Returns (answer, row, cause): OFFER, ACK, NAK or SILENT; the row of the
    address in an OFFER or an ACK to a REQUEST, else NONE; and an index into CAUSES.
    """
    if asked.kind == INFORM:
        # RFC 2131 section 4.3.5: options only, to the address he has.
        return (ACK if asked.ciaddr != 0 else SILENT), NONE, C_OK if asked.ciaddr else C_WRONG
    if who[0] & _KIND_AND_LENGTH == _NOBODY:
        # All clients that say nothing of themselves would be one, and share its address.
        return SILENT, NONE, C_NO_IDENTITY
    if asked.kind == DISCOVER:
        return _discover(leases, wheel, policy, asked, who, hardware, now_s)
    if asked.kind == REQUEST:
        return _request(leases, wheel, policy, asked, who, hardware, now_s)
    if asked.kind == RELEASE or asked.kind == DECLINE:
        if asked.server != ABSENT and asked.server != policy[P_SERVER]:
            return SILENT, NONE, C_OTHER_SERVER
        row = _row_of(policy, asked.ciaddr if asked.kind == RELEASE else asked.requested)
        if not _is_his(leases, row, find_client(leases, who)):
            return SILENT, NONE, C_NOT_HIS
        if asked.kind == RELEASE:
            free(leases, wheel, row)
        else:
            decline(leases, wheel, row, _until(now_s, policy[P_DECLINE_S]))
        return SILENT, row, C_OK
    return SILENT, NONE, C_TYPE
