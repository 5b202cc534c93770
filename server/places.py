"""Where addresses and clients belong: networks, subnets, ranges of addresses, reservations.

Ranges are sorted by address and their rows follow one another in the same order, so one
search answers both "which row has this address" and "which address has this row".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import kernel
from fastpath.siphash import Words, siphash
from server.leases import IDENTITY_WORDS, NONE, Leases, span_of


class Places(NamedTuple):
    """The arrays; built by `tables.make_tables`.

    span_first, span_last: int64 by range: its addresses. span_subnet: int32 by range.
    subnet_first, subnet_last: int64, addresses of the subnets, sorted, apart from one another.
    subnet_number: int32, which subnet that is.
    subnet_network, subnet_prefix: int32 by subnet. subnet_pools: int32[subnets, 2], its first
        pool and the one after its last. network_pools: int32[networks, 2], likewise.
    pool_classes: int64 by pool, a bit a class that is admitted; 0 for everybody.
    pool_subnet: int32 by pool.
    """

    span_first: npt.NDArray[np.int64]
    span_last: npt.NDArray[np.int64]
    span_subnet: npt.NDArray[np.int32]
    subnet_first: npt.NDArray[np.int64]
    subnet_last: npt.NDArray[np.int64]
    subnet_number: npt.NDArray[np.int32]
    subnet_network: npt.NDArray[np.int32]
    subnet_prefix: npt.NDArray[np.int32]
    subnet_pools: npt.NDArray[np.int32]
    network_pools: npt.NDArray[np.int32]
    pool_classes: npt.NDArray[np.int64]
    pool_subnet: npt.NDArray[np.int32]


@kernel
def _find(firsts: npt.NDArray[np.int64], lasts: npt.NDArray[np.int64], value: int) -> int:
    """The index of the range that holds `value`, or NONE."""
    low = np.int64(0)
    high = np.int64(len(firsts) - 1)
    while low < high:
        middle = (low + high + 1) >> 1
        if firsts[middle] <= value:
            low = middle
        else:
            high = middle - 1
    if high >= 0 and firsts[low] <= value <= lasts[low]:
        return low
    return np.int64(NONE)


@kernel
def find_subnet(places: Places, address: int) -> int:
    """The subnet that an address lies in, or NONE."""
    at = _find(places.subnet_first, places.subnet_last, address)
    return np.int64(NONE) if at == NONE else np.int64(places.subnet_number[at])


@kernel
def network_of(places: Places, address: int) -> int:
    """The network (of one or several subnets) that an address lies in, or NONE."""
    subnet = find_subnet(places, address)
    return np.int64(NONE) if subnet == NONE else np.int64(places.subnet_network[subnet])


@kernel
def row_at(places: Places, leases: Leases, address: int) -> int:
    """The row of an address, or NONE where the server does not have it to give."""
    span = _find(places.span_first, places.span_last, address)
    if span == NONE:
        return np.int64(NONE)
    return leases.first_row[span] + address - places.span_first[span]


@kernel
def address_of(places: Places, leases: Leases, row: int) -> int:
    """The address of a row."""
    span = span_of(leases, row)
    return places.span_first[span] + row - leases.first_row[span]


class Reserved(NamedTuple):
    """Reservations, found by the identity of their client.

    identity: uint64[r, 4]. row: int32[r], of the address. kinds: int64[1], a bit
    `1 << BY_...` for each kind of identity that there is any of.
    bucket, chain: int32, hash table: first reservation of a bucket, next one after one.
    """

    identity: Words
    row: npt.NDArray[np.int32]
    kinds: npt.NDArray[np.int64]
    bucket: npt.NDArray[np.int32]
    chain: npt.NDArray[np.int32]


def make_reserved(count: int) -> Reserved:
    """Room for `count` reservations; `reserve` enters them."""
    buckets = 1 << max(1, count.bit_length())
    return Reserved(np.zeros((count, IDENTITY_WORDS), np.uint64), np.full(count, NONE, np.int32),
                    np.zeros(1, np.int64), np.full(buckets, NONE, np.int32),
                    np.full(count, NONE, np.int32))


@kernel
def _bucket(reserved: Reserved, key: Words, who: Words) -> int:
    return np.int64(siphash(key, who, IDENTITY_WORDS, 3) & np.uint64(len(reserved.bucket) - 1))


@kernel
def reserve(reserved: Reserved, key: Words, index: int, who: Words, row: int) -> None:
    """Enter reservation number `index`: `row` is for `who`."""
    bucket = _bucket(reserved, key, who)
    for i in range(IDENTITY_WORDS):
        reserved.identity[index, i] = who[i]
    reserved.row[index] = row
    reserved.chain[index] = reserved.bucket[bucket]
    reserved.bucket[bucket] = index
    # The kind without its mark for long ones.
    reserved.kinds[0] |= np.int64(1) << np.int64(who[0] & np.uint64(3))


@kernel
def find_reserved(reserved: Reserved, key: Words, who: Words) -> int:
    """The number of the reservation for `who`, or NONE."""
    index = np.int64(reserved.bucket[_bucket(reserved, key, who)])
    while index != NONE:
        same = True
        for i in range(IDENTITY_WORDS):
            same &= reserved.identity[index, i] == who[i]
        if same:
            break
        index = np.int64(reserved.chain[index])
    return index
