"""Who a client is: four words made of what it says of itself, and the network it is on.

A client identifier counts before hardware type and address (RFC 2131 section 4.2). The
network is part of the identity, so a client that is heard on two networks has a lease on each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fastpath import wire
from fastpath.frame import Memory, Options, copy, copy_option, option_byte
from fastpath.jit import kernel
from fastpath.siphash import Words, siphash
from server.leases import (
    BY_CHADDR,
    BY_CIRCUIT_ID,
    BY_CLIENT_ID,
    IDENTITY_AT,
    IDENTITY_ROOM,
    IDENTITY_WORDS,
    LONG,
)

_CHADDR, _CLIENT_ID, _RELAY, _CIRCUIT_ID = wire.CHADDR, 61, 82, 1
# An identity of hardware type alone: that of a client that says nothing of itself.
_NOBODY, _KIND_AND_LENGTH = np.uint64(BY_CHADDR | 1 << 8), np.uint64(0xFFFF)


class Names(NamedTuple):
    """Room for the identities of one message. Each pair is one memory as words and as octets.

    who: uint64[4], the identity asked for last. long: uint64[512], what it is made of.
    """

    who: Words
    who_octets: Memory
    long: Words
    long_octets: Memory


def make_names() -> Names:
    who, long = np.zeros(IDENTITY_WORDS, np.uint64), np.zeros(512, np.uint64)
    return Names(who, who.view(np.uint8), long, long.view(np.uint8))


@kernel
def make_identity(names: Names, kind: int, length: int, network: int, key: Words) -> None:
    """Write to `names.who` the identity of the first `length` octets of `names.long_octets`."""
    who, octets, long, long_octets = names
    who[:] = 0
    octets[0] = kind
    octets[1] = length & 0xFF
    octets[2] = network & 0xFF
    octets[3] = network >> 8
    if length <= IDENTITY_ROOM:
        copy(octets, IDENTITY_AT, long_octets, 0, length)
        return
    words = (length + 7) >> 3
    for i in range(length, words * 8):
        long_octets[i] = 0
    octets[0] = kind | LONG
    octets[4] = length >> 8
    who[1] = siphash(key, long, words, 1)
    who[2] = siphash(key, long, words, 2)
    who[3] = np.uint64(length)


@kernel
def by_hardware(names: Names, mem: Memory, htype: int, chaddr: int, hlen: int, network: int,
                key: Words) -> None:
    """Identity by hardware type and the `hlen` octets at mem[chaddr:]."""
    names.long_octets[0] = htype
    copy(names.long_octets, 1, mem, chaddr, hlen)
    make_identity(names, np.int64(BY_CHADDR), hlen + 1, network, key)


@kernel
def by_client(names: Names, rx: Memory, bootp: int, options: Options, network: int, key: Words,
              ) -> None:
    """Identity of the message at rx[bootp:]: its client identifier, else its hardware."""
    if options.length[_CLIENT_ID] < 0:
        by_hardware(names, rx, np.int64(rx[bootp + 1]), bootp + _CHADDR, np.int64(rx[bootp + 2]),
                    network, key)
    else:
        length = copy_option(rx, options, _CLIENT_ID, names.long_octets, 0)
        make_identity(names, np.int64(BY_CLIENT_ID), length, network, key)


@kernel
def find_suboption(rx: Memory, options: Options, code: int) -> tuple[int, int]:
    """(position in option 82, length) of one of its sub-options, or (-1, 0): RFC 3046 2.0."""
    room = np.int64(options.length[_RELAY])
    at = np.int64(0)
    while at + 2 <= room:
        size = option_byte(rx, options, _RELAY, at + 1)
        if at + 2 + size > room:
            break
        if option_byte(rx, options, _RELAY, at) == code:
            return at + 2, size
        at += 2 + size
    return np.int64(-1), np.int64(0)


@kernel
def by_circuit(names: Names, rx: Memory, options: Options, network: int, key: Words) -> bool:
    """Identity by circuit-id; False where the message has none."""
    at, length = find_suboption(rx, options, np.int64(_CIRCUIT_ID))
    if at < 0:
        return False
    for i in range(length):
        names.long_octets[i] = option_byte(rx, options, _RELAY, at + i)
    make_identity(names, np.int64(BY_CIRCUIT_ID), length, network, key)
    return True


@kernel
def is_nobody(who: Words) -> bool:
    """True for a client without hardware address and identifier: he could be anybody."""
    return bool(who[0] & _KIND_AND_LENGTH == _NOBODY)
