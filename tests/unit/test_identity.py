"""Who a client is, against a naive twin: (kind, octets, network), compared as bytes."""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.frame import find_options, make_options
from fastpath.message import Message
from server.identity import (
    by_circuit,
    by_client,
    by_hardware,
    find_suboption,
    is_nobody,
    make_identity,
    make_names,
)
from server.leases import BY_CHADDR, BY_CIRCUIT_ID, BY_CLIENT_ID, IDENTITY_ROOM, LONG
from tests.kernels import examples, fenced, wraps

pytestmark = wraps

KEY = np.array([3, 5], np.uint64)
NAMES, OPTIONS = make_names(), make_options()


def identity(kind: int, octets: bytes, network: int) -> bytes:
    # What was there before must not count.
    NAMES.long_octets[:] = np.random.default_rng(len(octets)).integers(256, size=4096)
    NAMES.long_octets[:len(octets)] = np.frombuffer(octets, np.uint8)
    make_identity(NAMES, kind, len(octets), network, KEY)
    return NAMES.who.tobytes()


@st.composite
def similar(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two names that are the same, or nearly."""
    size = draw(st.integers(0, 40) | st.sampled_from([27, 28, 29, 255, 256, 257, 512, 1400]))
    octets = bytes(draw(st.integers(0, 255)) for _ in range(3)) * size
    octets = octets[:size]
    other = bytearray(octets)
    for _ in range(draw(st.integers(0, 2))):
        if other:
            other[draw(st.integers(0, len(other) - 1))] = draw(st.integers(0, 255))
    changed = draw(st.sampled_from([bytes(other), octets + b"\0", octets[:-1], octets[::-1]]))
    return octets, changed


@examples(500, 200)
@given(similar(), st.tuples(*[st.sampled_from([BY_CHADDR, BY_CLIENT_ID, BY_CIRCUIT_ID])] * 2),
       st.tuples(*[st.sampled_from([0, 1, 255, 256, 65535])] * 2))
def test_two_are_one_only_if_everything_is_the_same(
        octets: tuple[bytes, bytes], kinds: tuple[int, int], networks: tuple[int, int]) -> None:
    named = [identity(*each) for each in zip(kinds, octets, networks, strict=True)]
    same = (kinds[0], octets[0], networks[0]) == (kinds[1], octets[1], networks[1])
    assert (named[0] == named[1]) == same


@pytest.mark.parametrize("size", range(IDENTITY_ROOM + 1))
def test_a_short_name_is_there_in_full(size: int) -> None:
    octets = bytes(range(1, size + 1))
    assert identity(BY_CLIENT_ID, octets, 0x1234) == (
        bytes([BY_CLIENT_ID, size, 0x34, 0x12]) + octets.ljust(IDENTITY_ROOM, b"\0"))


@pytest.mark.parametrize("size", [29, 255, 256, 1400])
def test_a_long_name_says_that_it_is(size: int) -> None:
    found = identity(BY_CIRCUIT_ID, bytes(size), 7)
    assert found[:5] == bytes([BY_CIRCUIT_ID | LONG, size & 0xFF, 7, 0, size >> 8])


def test_a_short_name_cannot_pass_for_a_long_one() -> None:
    """Nobody can write down a hash that he has seen and be taken for its owner."""
    long = identity(BY_CLIENT_ID, b"secret" * 20, 0)
    assert identity(BY_CLIENT_ID, long[4:], 0) != long


def test_another_key_gives_another_name() -> None:
    NAMES.long_octets[:64] = 7
    make_identity(NAMES, BY_CLIENT_ID, 64, 0, KEY)
    first = NAMES.who.copy()
    make_identity(NAMES, BY_CLIENT_ID, 64, 0, np.array([3, 6], np.uint64))
    assert (NAMES.who[1:3] != first[1:3]).all() and NAMES.who[0] == first[0]


# --- from a message ----------------------------------------------------------------------------


def loaded(message: Message) -> np.ndarray:
    octets = np.frombuffer(message.encode(), np.uint8).copy()
    assert find_options(octets, 0, len(octets), OPTIONS) == 0
    return fenced(octets, 0, len(octets))


def said(options: dict[int, bytes] | None = None, chaddr: bytes = b"\2\0\0\0\0\1",
         htype: int = 1) -> np.ndarray:
    return loaded(Message(htype=htype, hlen=len(chaddr), chaddr=chaddr,
                          options={53: b"\1", **(options or {})}))


def client_of(mem: np.ndarray, network: int = 0) -> bytes:
    by_client(NAMES, mem, 0, OPTIONS, network, KEY)
    return NAMES.who.tobytes()


@pytest.mark.parametrize("chaddr", [b"\1", b"\2\0\0\0\0\1", bytes(range(16))])
@pytest.mark.parametrize("htype", [1, 6, 32, 255])
def test_without_identifier_the_hardware_counts(chaddr: bytes, htype: int) -> None:
    """RFC 2131 section 4.2."""
    expected = identity(BY_CHADDR, bytes([htype]) + chaddr, 3)
    mem = said(None, chaddr, htype)
    assert client_of(mem, 3) == expected
    by_hardware(NAMES, mem, htype, 28, len(chaddr), 3, KEY)
    assert NAMES.who.tobytes() == expected


@pytest.mark.parametrize("size", [2, 7, 28, 29, 255, 256, 600])
def test_an_identifier_goes_before_the_hardware(size: int) -> None:
    octets = bytes(i % 251 for i in range(size))
    expected = identity(BY_CLIENT_ID, octets, 0)
    assert client_of(said({61: octets})) == expected
    assert client_of(said({61: octets}, b"\2other")) == expected


def test_an_identifier_with_hardware_in_it_is_not_that_hardware() -> None:
    mac = b"\2\0\0\0\0\1"
    assert client_of(said({61: b"\1" + mac})) != client_of(said(None, mac))


NOBODIES = [(b"", 1), (b"", 0), (b"", 32), (b"", 255)]


@pytest.mark.parametrize(("chaddr", "htype"), NOBODIES)
@pytest.mark.parametrize("network", [0, 1, 256])
def test_who_says_nothing_is_nobody(chaddr: bytes, htype: int, network: int) -> None:
    client_of(said(None, chaddr, htype), network)
    assert is_nobody(NAMES.who)
    # With an identifier he is somebody: RFC 4390 section 2.1, IP over InfiniBand.
    client_of(said({61: b"\0\0"}, chaddr, htype), network)
    assert not is_nobody(NAMES.who)


@pytest.mark.parametrize("chaddr", [b"\0", b"\0" * 6, b"\0" * 16])
def test_zeros_are_a_hardware_address(chaddr: bytes) -> None:
    client_of(said(None, chaddr, 0))
    assert not is_nobody(NAMES.who)


# --- option 82 ---------------------------------------------------------------------------------


def suboption(octets: bytes, code: int) -> tuple[int, int]:
    """RFC 3046 section 2.0, one after the other; the first counts, a cut off one is none."""
    at = 0
    while at + 2 <= len(octets):
        size = octets[at + 1]
        if at + 2 + size > len(octets):
            break
        if octets[at] == code:
            return at + 2, size
        at += 2 + size
    return -1, 0


pieces = st.tuples(st.sampled_from([0, 1, 2, 5, 11, 151, 255]), st.binary(max_size=6)).map(
    lambda piece: bytes([piece[0], len(piece[1])]) + piece[1])
relayed = (st.binary(min_size=2, max_size=12)
           | st.lists(pieces, min_size=1, max_size=60).map(b"".join))


@examples(500, 200)
@given(relayed, st.integers(0, 3))
def test_suboptions(octets: bytes, cut: int) -> None:
    octets = octets[:max(2, len(octets) - cut)]
    mem = said({82: octets})
    for code in (0, 1, 2, 5, 11, 255):
        assert find_suboption(mem, OPTIONS, code) == suboption(octets, code)
    at, size = suboption(octets, 1)
    assert by_circuit(NAMES, mem, OPTIONS, 4, KEY) == (at >= 0)
    if at >= 0:
        found = NAMES.who.tobytes()
        assert found == identity(BY_CIRCUIT_ID, octets[at:at + size], 4)


def test_no_option_82() -> None:
    mem = said()
    assert find_suboption(mem, OPTIONS, 1) == (-1, 0)
    assert not by_circuit(NAMES, mem, OPTIONS, 0, KEY)
