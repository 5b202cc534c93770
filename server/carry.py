"""Leases from elsewhere into a table: from the lease file, or from the table before a reload.

What has no place any more (an address that is in no pool now, or is given to nobody) is kept
aside: its client may still use it, so it must not go to another when it is in a pool again.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.build import be48
from fastpath.frame import Memory, copy
from fastpath.jit import kernel
from fastpath.siphash import Words
from server.decide import World
from server.identity import Names, by_hardware, make_identity
from server.leases import (
    BOUND,
    BY_CLIENT_ID,
    CHANGES,
    DECLINED,
    EXCLUDED,
    FOREVER_S,
    FREE,
    IDENTITY_WORDS,
    NONE,
    OFFERED,
    decline,
    find_client,
    free,
    is_free,
    take,
)
from server.places import address_of, network_of, row_at
from server.record import (
    FOREVER,
    R_ADDRESS,
    R_CHADDR,
    R_ENDS,
    R_HLEN,
    R_HTYPE,
    R_ID,
    R_ID_LENGTH,
    R_STATE,
    get_le,
    record_size,
)


class Aside(NamedTuple):
    """Leases without a place, oldest first: one entry each. count: int64[1], how many.

    address, ends: int64[n]. identity: uint64[n, 4]. hardware: uint64[n]. state: uint8[n].
    """

    address: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    identity: Words
    hardware: Words
    state: Memory
    count: npt.NDArray[np.int64]


def make_aside(room: int) -> Aside:
    """Room for so many; memory that is not used costs nothing."""
    return Aside(np.zeros(room, np.int64), np.zeros(room, np.int64),
                 np.zeros((room, IDENTITY_WORDS), np.uint64), np.zeros(room, np.uint64),
                 np.zeros(room, np.uint8), np.zeros(1, np.int64))


@kernel
def _put_aside(aside: Aside, address: int, names: Names, hardware: int, state: int, ends: int,
               now_s: int) -> None:
    """Keep a lease, or an address that was declined, unless its time is over."""
    at = aside.count[0]
    over = ends <= now_s and ends != FOREVER_S
    if state not in (BOUND, DECLINED) or over or at == len(aside.address):
        return
    aside.address[at], aside.ends[at], aside.state[at] = address, ends, state
    aside.hardware[at] = hardware
    for i in range(IDENTITY_WORDS):
        aside.identity[at, i] = names.who[i]
    aside.count[0] += 1


@kernel
def _enter(world: World, names: Names, row: int, hardware: int, state: int, ends: int,
           now_s: int) -> None:
    """Put a row into the state that a record, or an older table, says it is in."""
    leases, wheel = world.leases, world.wheel
    over = ends <= now_s and ends != FOREVER_S
    if state == DECLINED:
        free(leases, wheel, row)
        if not over and is_free(leases, row):
            decline(leases, wheel, row, ends)
        return
    if names.who[0] == 0:
        free(leases, wheel, row)
        return
    if not is_free(leases, row) and find_client(leases, names.who) != row:
        # What is said later counts: the client before him is gone.
        if leases.state[row] == DECLINED:
            return
        free(leases, wheel, row)
    alive = state in (BOUND, OFFERED) and not over
    take(leases, wheel, row, names.who, hardware, state if alive else np.int64(OFFERED),
         ends if alive else now_s + 1)
    if not alive:
        # He is remembered, and gets the address back if it is still free when he returns.
        free(leases, wheel, row)


@kernel
def _enter_at(world: World, names: Names, address: int, hardware: int, state: int, ends: int,
              now_s: int, aside: Aside) -> bool:
    """Enter what is known of an address, or put it aside: then False.

    names.who: the client, wherever he was when it was made.
    """
    row = row_at(world.places, world.leases, address)
    if row == NONE or world.leases.state[row] == EXCLUDED:
        _put_aside(aside, address, names, hardware, state, ends, now_s)
        return False
    if names.who[0] != 0:
        network = network_of(world.places, address)
        names.who_octets[2] = network & 0xFF
        names.who_octets[3] = network >> 8
    _enter(world, names, row, hardware, state, ends, now_s)
    return True


@kernel
def replay(world: World, names: Names, payload: Memory, now_s: int, aside: Aside,
           ) -> tuple[int, int]:
    """Enter the records of one block; returns how many were read, and how many have no place.

    payload: sound records, oldest first (`server.record`).
    """
    at, count, homeless = np.int64(0), np.int64(0), np.int64(0)
    while at < len(payload):
        length = get_le(payload, at + R_ID_LENGTH, np.int64(2))
        address = get_le(payload, at + R_ADDRESS, np.int64(4))
        hlen, hardware = np.int64(payload[at + R_HLEN]), be48(payload, at + R_CHADDR)
        names.who[:] = 0
        if length > 0:
            copy(names.long_octets, 0, payload, at + R_ID, length)
            make_identity(names, np.int64(BY_CLIENT_ID), length, np.int64(0), world.leases.key)
        elif hlen > 0:
            by_hardware(names, payload, np.int64(payload[at + R_HTYPE]), at + R_CHADDR, hlen,
                        np.int64(0), world.leases.key)
        ends = get_le(payload, at + R_ENDS, np.int64(8))
        if not _enter_at(world, names, address, hardware, np.int64(payload[at + R_STATE]),
                         np.int64(FOREVER_S) if ends == FOREVER else ends, now_s, aside):
            homeless += 1
        at += record_size(length)
        count += 1
    return count, homeless


@kernel
def _carry_row(old: World, new: World, names: Names, row: int, now_s: int, aside: Aside) -> None:
    """Make the new table say of one row's address what the old one says."""
    state = np.int64(old.leases.state[row])
    if state == EXCLUDED:
        return
    for i in range(IDENTITY_WORDS):
        names.who[i] = old.leases.identity[row, i]
    _enter_at(new, names, address_of(old.places, old.leases, row),
              np.int64(old.leases.hardware[row]), state, np.int64(old.leases.expires_s[row]),
              now_s, aside)


@kernel
def carry(old: World, new: World, names: Names, first: int, count: int, now_s: int,
          aside: Aside) -> int:
    """Carry at most `count` rows from `first` on; returns the next row.

    Both tables have the same hash key.
    """
    after = min(first + count, np.int64(len(old.leases.state)))
    for row in range(first, after):
        if old.leases.state[row] != FREE or old.leases.identity[row, 0] != 0:
            _carry_row(old, new, names, np.int64(row), now_s, aside)
    return after


@kernel
def bring_back(kept: Aside, world: World, names: Names, now_s: int, aside: Aside) -> None:
    """Enter leases that were kept aside; those that have no place now either go to `aside`."""
    for at in range(kept.count[0]):
        for i in range(IDENTITY_WORDS):
            names.who[i] = kept.identity[at, i]
        _enter_at(world, names, kept.address[at], np.int64(kept.hardware[at]),
                  np.int64(kept.state[at]), kept.ends[at], now_s, aside)


@kernel
def carry_changes(old: World, new: World, names: Names, now_s: int, aside: Aside) -> bool:
    """Carry the rows that changed meanwhile; False where too many did to be remembered."""
    totals, changed = old.leases.totals, old.leases.changed
    if totals[CHANGES] > len(changed):
        totals[CHANGES] = 0
        return False
    for i in range(totals[CHANGES]):
        _carry_row(old, new, names, np.int64(changed[i]), now_s, aside)
    totals[CHANGES] = 0
    return True


@kernel
def watch_changes(world: World, wanted: bool) -> None:
    """Begin to remember rows that change, or stop it."""
    world.leases.totals[CHANGES] = 0 if wanted else NONE
