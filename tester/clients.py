"""The client table: one row a client, and the numbers by which an answer finds its row.

The transaction id of a message is a scrambled row number, so the row of an answer is found
by unscrambling, with no table; chaddr and state then have to agree.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel

NOBODY = -1
_MASK = 0xFFFFFFFF


class Clients(NamedTuple):
    """The arrays of the table: about 130 octets a client, with its timer.

    state, flags, behaviour: uint8, as in `cells`. tries: uint8, transmissions of the message
    now awaiting its answer. server: uint8, row of the server that it chose. naks: uint8, in a
    row. retransmits, secs, lives, alias: uint16: in all; of the last message; ended lives;
    names that it has shed. epoch: uint32, which transaction of this client it is.
    yiaddr: uint32, the address that it holds, or 0; offered: uint32, one that it was offered
    or wants. lease_s, t1_s, t2_s: uint32. leased_tick, hold_tick: uint32, when its lease began
    and when it has held it long enough.
    intended_ns, started_ns, due_ns, leg_ns: int64, monotonic: when the plan wanted the exchange
    to begin, when its first DISCOVER went out; the same of the present leg.
    discover_offer_us, request_ack_us, dora_us: uint32.
    owners: int32[2**k], hash table from address to row. macs: int64, chaddr of each row, or
    empty where they count up.
    """

    state: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.uint8]
    behaviour: npt.NDArray[np.uint8]
    tries: npt.NDArray[np.uint8]
    server: npt.NDArray[np.uint8]
    naks: npt.NDArray[np.uint8]
    retransmits: npt.NDArray[np.uint16]
    secs: npt.NDArray[np.uint16]
    lives: npt.NDArray[np.uint16]
    alias: npt.NDArray[np.uint16]
    epoch: npt.NDArray[np.uint32]
    yiaddr: npt.NDArray[np.uint32]
    offered: npt.NDArray[np.uint32]
    lease_s: npt.NDArray[np.uint32]
    t1_s: npt.NDArray[np.uint32]
    t2_s: npt.NDArray[np.uint32]
    leased_tick: npt.NDArray[np.uint32]
    hold_tick: npt.NDArray[np.uint32]
    intended_ns: npt.NDArray[np.int64]
    started_ns: npt.NDArray[np.int64]
    due_ns: npt.NDArray[np.int64]
    leg_ns: npt.NDArray[np.int64]
    discover_offer_us: npt.NDArray[np.uint32]
    request_ack_us: npt.NDArray[np.uint32]
    dora_us: npt.NDArray[np.uint32]
    owners: npt.NDArray[np.int32]
    macs: npt.NDArray[np.int64]


def make_columns(rows: int) -> list[npt.NDArray[Any]]:
    """The columns of a table of `rows` clients in INIT, as far as the row is their index."""
    kinds = (6 * [np.uint8] + 4 * [np.uint16] + 8 * [np.uint32] + 4 * [np.int64]
             + 3 * [np.uint32])
    return [np.zeros(rows, kind) for kind in kinds]


def clients_of(columns: list[npt.NDArray[Any]], macs: npt.NDArray[np.int64]) -> Clients:
    """The table with these columns; macs: addresses of clients, where these do not count up."""
    rows = len(columns[0])
    # Up to twice as many cells as clients: a look-up then ends after two or three of them.
    owners = np.full(1 << (2 * rows - 1).bit_length(), NOBODY, np.int32)
    return Clients(*columns, owners, macs)  # type: ignore[call-arg]


def make_clients(rows: int, macs: npt.NDArray[np.int64] | None = None) -> Clients:
    """A table of `rows` clients in INIT; macs: their addresses, where these do not count up."""
    return clients_of(make_columns(rows), np.zeros(0, np.int64) if macs is None else macs)


@kernel
def _times(a: int, b: int) -> int:
    """a * b mod 2**32, without leaving 63 bits."""
    return (a * (b & 0xFFFF) + ((a * (b >> 16) & 0xFFFF) << 16)) & _MASK


@kernel
def scramble(x: int) -> int:
    """A bijection of 32 bits in which neighbours do not look it (Wellons, "lowbias32")."""
    x = _times(x ^ x >> 16, 0x7FEB352D)
    x = _times(x ^ x >> 15, 0x846CA68B)
    return x ^ x >> 16


@kernel
def epochs_of(rows: int) -> int:
    """How many transactions of a client have ids of their own; then they come again."""
    return (_MASK + 1) // rows


@kernel
def xid_of(row: int, epoch: int, rows: int, seed: int) -> int:
    """The transaction id of transaction `epoch` of client `row`: a scrambled row number.

    Two transactions share an id only where one client made `epochs_of(rows)` between them.
    """
    return scramble((row + rows * (epoch % epochs_of(rows)) + seed) & _MASK)


@kernel
def row_of(xid: int, rows: int, seed: int) -> tuple[int, int]:
    """(row, epoch modulo `epochs_of(rows)`) of a transaction id: the inverse of `xid_of`.

    An id that we did not give leads to some row and epoch too, nearly always one that is
    not awaiting anything; the epoch can then be one that there is not.
    """
    x = xid ^ xid >> 16
    x = _times(x, 0x43021123)
    x = _times(x ^ x >> 15 ^ x >> 30, 0x1D69E2A5)
    x = ((x ^ x >> 16) - seed) & _MASK
    return x % rows, x // rows


@kernel
def _cell_of(owners: npt.NDArray[np.int32], address: int) -> int:
    return _times(address ^ address >> 15, 0x846CA68B) & (len(owners) - 1)


@kernel
def holder(clients: Clients, address: int) -> int:
    """Who holds `address`, or NOBODY."""
    owners = clients.owners
    cell = _cell_of(owners, address)
    while True:
        owner = np.int64(owners[cell])
        if owner == NOBODY or np.int64(clients.yiaddr[owner]) == address:
            return owner
        cell = (cell + 1) & (len(owners) - 1)


@kernel
def claim(clients: Clients, row: int, address: int) -> int:
    """Let `row`, who holds nothing, hold `address`; returns who holds it already, or NOBODY.

    Where somebody does, nothing changes.
    """
    owners = clients.owners
    cell = _cell_of(owners, address)
    while True:
        owner = np.int64(owners[cell])
        if owner == NOBODY:
            owners[cell] = row
            clients.yiaddr[row] = address
            return np.int64(NOBODY)
        if np.int64(clients.yiaddr[owner]) == address:
            return owner
        cell = (cell + 1) & (len(owners) - 1)


@kernel
def disown(clients: Clients, row: int) -> None:
    """Let `row` hold nothing any more.

    The cells behind the freed one move up (Knuth, volume 3, section 6.4, algorithm R), so
    that no search ends before its time.
    """
    owners, address = clients.owners, np.int64(clients.yiaddr[row])
    if address == 0:
        return
    mask = len(owners) - 1
    cell = _cell_of(owners, address)
    while np.int64(owners[cell]) != row:
        cell = (cell + 1) & mask
    free = cell
    while True:
        cell = (cell + 1) & mask
        owner = np.int64(owners[cell])
        if owner == NOBODY:
            break
        home = _cell_of(owners, np.int64(clients.yiaddr[owner]))
        # May it move to `free`? Only if its home does not lie between the two.
        if (cell - home) & mask >= (cell - free) & mask:
            owners[free] = owner
            free = cell
    owners[free] = NOBODY
    clients.yiaddr[row] = 0
