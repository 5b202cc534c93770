"""What is configured where, and which of it counts for one client.

A set holds the options and numbers of one level. The sets that count for a message are listed
in `layers`, most specific first: reservation, place (pool, subnet and network in one), classes,
server. A value comes from the first that has it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory, Options, option_byte
from fastpath.jit import kernel
from server.leases import FOREVER_S, NONE

# Columns of `Sets.numbers`; UNSET where the level does not say.
S_LEASE_S, S_MIN_LEASE_S, S_MAX_LEASE_S, S_T1_S, S_T2_S, S_NEXT_SERVER = range(6)
NUMBERS, UNSET = 6, -1
# The set of the whole server: the lease time is always set there.
SERVER_SET = 0
# No client gets less for asking for it, unless the lease time itself is less.
_LEAST_LEASE_S = 60
# `place` has room for two that are no options: they go to the fields `file` and `sname`.
BOOT_FILE, SERVER_NAME = 0, 255
MOST_CLASSES = 60
_MOST_LAYERS = MOST_CLASSES + 4
MATCH_IS, MATCH_STARTS, MATCH_CONTAINS = 0, 1, 2
_USER_CLASS = 77


class Sets(NamedTuple):
    """encoded: uint8, options as code, length, value, in pieces where longer than 255 octets.

    place: int32[sets, 256, 2], where in `encoded` an option starts and its whole size; 0, 0
        where the set does not have it.
    numbers: int64[sets, NUMBERS].
    of_pool, of_subnet, of_class, of_reservation: int32, the set of each, or NONE.
    layers: int32, the sets that count for the message at hand, ended by NONE.
    """

    encoded: Memory
    place: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int64]
    of_pool: npt.NDArray[np.int32]
    of_subnet: npt.NDArray[np.int32]
    of_class: npt.NDArray[np.int32]
    of_reservation: npt.NDArray[np.int32]
    layers: npt.NDArray[np.int32]


def make_layers() -> npt.NDArray[np.int32]:
    """Room for `Sets.layers`."""
    return np.full(_MOST_LAYERS, NONE, np.int32)


@kernel
def choose_layers(sets: Sets, reservation: int, pool: int, subnet: int, classes: int) -> None:
    """List the sets for a client; reservation, pool, subnet may be NONE, `classes` is a mask."""
    layers = sets.layers
    count = np.int64(0)
    if reservation != NONE and sets.of_reservation[reservation] != NONE:
        layers[count] = sets.of_reservation[reservation]
        count += 1
    if pool != NONE:
        layers[count] = sets.of_pool[pool]
        count += 1
    elif subnet != NONE:
        layers[count] = sets.of_subnet[subnet]
        count += 1
    if classes != 0:
        for i in range(len(sets.of_class)):
            if classes >> i & 1:
                layers[count] = sets.of_class[i]
                count += 1
    layers[count] = SERVER_SET
    layers[count + 1] = NONE


@kernel
def find_setting(sets: Sets, code: int) -> tuple[int, int]:
    """(start, size) of an option in `encoded`; size 0 where no layer has it."""
    i = np.int64(0)
    while sets.layers[i] != NONE:
        size = np.int64(sets.place[sets.layers[i], code, 1])
        if size != 0:
            return np.int64(sets.place[sets.layers[i], code, 0]), size
        i += 1
    return np.int64(0), np.int64(0)


@kernel
def find_number(sets: Sets, which: int) -> int:
    """A number by S_*, or UNSET."""
    i = np.int64(0)
    while sets.layers[i] != NONE:
        value = sets.numbers[sets.layers[i], which]
        if value != UNSET:
            return value
        i += 1
    return np.int64(UNSET)


@kernel
def lease_time(sets: Sets, wanted: int) -> int:
    """Seconds to grant a client that asks for `wanted`, or for nothing (UNSET)."""
    usual = find_number(sets, np.int64(S_LEASE_S))
    if wanted == UNSET:
        return usual
    least = find_number(sets, np.int64(S_MIN_LEASE_S))
    most = find_number(sets, np.int64(S_MAX_LEASE_S))
    # Bounds that no level gives go by the lease time that counts here.
    if most == UNSET:
        most = usual
    if least == UNSET:
        least = min(np.int64(_LEAST_LEASE_S), usual, most)
    return max(least, min(wanted, most))


@kernel
def renewal_times(sets: Sets, lease_s: int) -> tuple[int, int]:
    """T1 and T2: as configured if sensible for this lease, else half and seven eighths.

    RFC 2131 section 4.4.5. Both 0 where the lease is too short, or endless.
    """
    if lease_s < 2 or lease_s == FOREVER_S:
        return np.int64(0), np.int64(0)
    t1, t2 = find_number(sets, np.int64(S_T1_S)), find_number(sets, np.int64(S_T2_S))
    if t2 == UNSET or t2 >= lease_s:
        t2 = lease_s * 7 // 8
    if t1 == UNSET or t1 >= t2:
        t1 = min(lease_s // 2, t2 - 1)
    # T1 MUST be earlier than T2; a client without either takes its own.
    return (t1, t2) if t1 > 0 else (np.int64(0), np.int64(0))


class Classes(NamedTuple):
    """Tests for classes of clients: int32[tests, 5], by option, how, start, length, class.

    octets: uint8, the values to compare with.
    """

    tests: npt.NDArray[np.int32]
    octets: Memory


@kernel
def _same(rx: Memory, options: Options, code: int, at: int, classes: Classes, start: int,
          length: int) -> bool:
    for i in range(length):
        if option_byte(rx, options, code, at + i) != classes.octets[start + i]:
            return False
    return True


@kernel
def _passes(rx: Memory, options: Options, test: int, classes: Classes, at: int, room: int) -> bool:
    """Whether `room` octets at `at` of the tested option pass."""
    code, how, start, length, _ = classes.tests[test]
    if length > room or (how == MATCH_IS and length != room):
        return False
    last = np.int64(room - length) if how == MATCH_CONTAINS else np.int64(0)
    for offset in range(last + 1):
        if _same(rx, options, np.int64(code), at + offset, classes, np.int64(start),
                 np.int64(length)):
            return True
    return False


@kernel
def find_classes(classes: Classes, rx: Memory, options: Options) -> int:
    """A mask of the classes that the sender of a message is in.

    A user class may be a list of values with a length before each (RFC 3004 section 4), or,
    as many clients have it, just one value.
    """
    mask = np.int64(0)
    for test in range(len(classes.tests)):
        code = np.int64(classes.tests[test, 0])
        room = np.int64(options.length[code])
        if room < 0:
            continue
        found = _passes(rx, options, np.int64(test), classes, np.int64(0), room)
        at = np.int64(0)
        while code == _USER_CLASS and not found and at < room:
            size = option_byte(rx, options, code, at)
            if size == 0 or at + 1 + size > room:
                break
            found = _passes(rx, options, np.int64(test), classes, at + 1, size)
            at += 1 + size
        if found:
            mask |= np.int64(1) << np.int64(classes.tests[test, 4])
    return mask
