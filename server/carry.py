"""Leases from elsewhere into a table: from the lease file, or from the table before a reload.

What has no place any more (an address that is in no pool now, or is given to nobody) is left
out and counted.
"""

from __future__ import annotations

import numpy as np

from fastpath.frame import Memory, copy
from fastpath.jit import kernel
from server.decide import World
from server.identity import Names, by_hardware, make_identity
from server.leases import (
    BOUND,
    BY_CLIENT_ID,
    CHANGES,
    DECLINED,
    EXCLUDED,
    FOREVER_S,
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
def replay(world: World, names: Names, payload: Memory, now_s: int) -> tuple[int, int]:
    """Enter the records of one block; returns how many were read, and how many have no place.

    payload: sound records, oldest first (`server.record`).
    """
    at, count, homeless = np.int64(0), np.int64(0), np.int64(0)
    while at < len(payload):
        length = get_le(payload, at + R_ID_LENGTH, np.int64(2))
        address = get_le(payload, at + R_ADDRESS, np.int64(4))
        row = row_at(world.places, world.leases, address)
        if row == NONE or world.leases.state[row] == EXCLUDED:
            homeless += 1
        else:
            network, hlen = network_of(world.places, address), np.int64(payload[at + R_HLEN])
            hardware = np.int64(0)
            for i in range(6):
                hardware = hardware << 8 | np.int64(payload[at + R_CHADDR + i])
            names.who[:] = 0
            if length > 0:
                copy(names.long_octets, 0, payload, at + R_ID, length)
                make_identity(names, np.int64(BY_CLIENT_ID), length, network, world.leases.key)
            elif hlen > 0:
                by_hardware(names, payload, np.int64(payload[at + R_HTYPE]), at + R_CHADDR, hlen,
                            network, world.leases.key)
            ends = get_le(payload, at + R_ENDS, np.int64(8))
            _enter(world, names, row, hardware, np.int64(payload[at + R_STATE]),
                   np.int64(FOREVER_S) if ends == FOREVER else ends, now_s)
        at += record_size(length)
        count += 1
    return count, homeless


@kernel
def _carry_row(old: World, new: World, names: Names, row: int, now_s: int) -> bool:
    """Make the new table say of one row's address what the old one says."""
    address = address_of(old.places, old.leases, row)
    target = row_at(new.places, new.leases, address)
    state = np.int64(old.leases.state[row])
    if target == NONE or state == EXCLUDED or new.leases.state[target] == EXCLUDED:
        return bool(state in (EXCLUDED, 0))
    for i in range(4):
        names.who[i] = old.leases.identity[row, i]
    if names.who[0] != 0:
        network = network_of(new.places, address)
        names.who_octets[2] = network & 0xFF
        names.who_octets[3] = network >> 8
    _enter(new, names, target, np.int64(old.leases.hardware[row]), state,
           np.int64(old.leases.expires_s[row]), now_s)
    return True


@kernel
def carry(old: World, new: World, names: Names, first: int, count: int, now_s: int,
          ) -> tuple[int, int]:
    """Carry at most `count` rows from `first` on; returns (next row, rows without a place).

    Both tables have the same hash key.
    """
    homeless = np.int64(0)
    after = min(first + count, np.int64(len(old.leases.state)))
    for row in range(first, after):
        known = old.leases.state[row] != 0 or old.leases.identity[row, 0] != 0
        if known and not _carry_row(old, new, names, np.int64(row), now_s):
            homeless += 1
    return after, homeless


@kernel
def carry_changes(old: World, new: World, names: Names, now_s: int) -> bool:
    """Carry the rows that changed meanwhile; False where too many did to be remembered."""
    totals, changed = old.leases.totals, old.leases.changed
    if totals[CHANGES] > len(changed):
        totals[CHANGES] = 0
        return False
    for i in range(totals[CHANGES]):
        _carry_row(old, new, names, np.int64(changed[i]), now_s)
    totals[CHANGES] = 0
    return True


@kernel
def watch_changes(world: World, wanted: bool) -> None:
    """Begin to remember rows that change, or stop it."""
    world.leases.totals[CHANGES] = 0 if wanted else NONE
