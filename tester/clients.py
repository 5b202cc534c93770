"""The client table: one row a client, and the numbers by which an answer finds its row.

The transaction id of a message is a scrambled row number, so the row of an answer is found
by unscrambling, with no table; chaddr and state then have to agree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel

# RFC 2131 figure 5 as far as it goes here, then the ways in which an exchange ends.
(INIT, SELECTING, REQUESTING, BOUND, TIMEOUT_DISCOVER, TIMEOUT_REQUEST, REFUSED,
 DUPLICATE) = range(8)
STATES = 8
NOBODY = -1
_MASK = 0xFFFFFFFF


class Clients(NamedTuple):
    """The arrays of the table: about 80 octets a client, with its timer.

    state: uint8. tries: uint8, transmissions of the message now awaiting its answer.
    retransmits: uint16, in all. epoch: uint16, which exchange of this client it is. secs:
    uint16, of the last DISCOVER.
    yiaddr, server, lease_s: uint32. intended_ns, started_ns, leg_ns: int64, monotonic: when
    the plan wanted the exchange to begin, when its first DISCOVER went out, when the first
    transmission of the present leg did. discover_offer_us, request_ack_us, dora_us: uint32.
    owners: int32[2**k], hash table from address to row.
    """

    state: npt.NDArray[np.uint8]
    tries: npt.NDArray[np.uint8]
    retransmits: npt.NDArray[np.uint16]
    epoch: npt.NDArray[np.uint16]
    secs: npt.NDArray[np.uint16]
    yiaddr: npt.NDArray[np.uint32]
    server: npt.NDArray[np.uint32]
    lease_s: npt.NDArray[np.uint32]
    intended_ns: npt.NDArray[np.int64]
    started_ns: npt.NDArray[np.int64]
    leg_ns: npt.NDArray[np.int64]
    discover_offer_us: npt.NDArray[np.uint32]
    request_ack_us: npt.NDArray[np.uint32]
    dora_us: npt.NDArray[np.uint32]
    owners: npt.NDArray[np.int32]


def make_clients(rows: int) -> Clients:
    """A table of `rows` clients in INIT."""

    kinds = (np.uint8, np.uint8, np.uint16, np.uint16, np.uint16, np.uint32, np.uint32, np.uint32,
             np.int64, np.int64, np.int64, np.uint32, np.uint32, np.uint32)
    # Up to twice as many cells as clients: a look-up then ends after two or three of them.
    owners = np.full(1 << (2 * rows - 1).bit_length(), NOBODY, np.int32)
    return Clients(*[np.zeros(rows, kind) for kind in kinds], owners)  # type: ignore[call-arg]


@kernel
def _times(a: int, b: int) -> int:
    """a * b mod 2**32, without leaving 63 bits."""
    return (a * (b & 0xFFFF) + ((a * (b >> 16) & 0xFFFF) << 16)) & _MASK


@kernel
def xid_of(row: int, epoch: int, rows: int, seed: int) -> int:
    """The transaction id of exchange `epoch` of client `row`: a scrambled row number.

    A bijection of 32 bits (Wellons, "lowbias32"), so two exchanges never share an id.
    """
    x = (row + rows * epoch + seed) & _MASK
    x = _times(x ^ x >> 16, 0x7FEB352D)
    x = _times(x ^ x >> 15, 0x846CA68B)
    return x ^ x >> 16


@kernel
def row_of(xid: int, rows: int, seed: int) -> tuple[int, int]:
    """(row, epoch) of a transaction id: the inverse of `xid_of`.

    An id that we did not give leads to some row and epoch too, nearly always one that is
    not awaiting anything.
    """
    x = xid ^ xid >> 16
    x = _times(x, 0x43021123)
    x = _times(x ^ x >> 15 ^ x >> 30, 0x1D69E2A5)
    x = ((x ^ x >> 16) - seed) & _MASK
    return x % rows, x // rows


@kernel
def claim(clients: Clients, row: int, address: int) -> int:
    """Enter that `row` now has `address`; returns who had it before, or NOBODY."""
    owners = clients.owners
    mask = len(owners) - 1
    cell = _times(address ^ address >> 15, 0x846CA68B) & mask
    while True:
        owner = np.int64(owners[cell])
        if owner == NOBODY:
            owners[cell] = row
            return np.int64(NOBODY)
        if np.int64(clients.yiaddr[owner]) == address:
            return np.int64(NOBODY) if owner == row else owner
        cell = (cell + 1) & mask
