"""Records of the lease file: readable and back, and never sound by accident."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.record import (
    FOREVER,
    MOST_RECORD,
    R_ENDS,
    R_ID,
    Lease,
    count_records,
    decode_record,
    encode_record,
    fields,
    record_size,
    record_starts,
)
from tests.kernels import COMPILED, examples, fenced, wraps

pytestmark = wraps

LEASES = st.builds(
    Lease, address=st.integers(0, 0xFFFFFFFF).map(IPv4Address),
    state=st.sampled_from(["free", "bound", "declined"]), prefix=st.integers(0, 32),
    htype=st.integers(0, 255), chaddr=st.binary(max_size=16),
    client_id=st.one_of(st.binary(max_size=24), st.just(bytes(2048))),
    ends=st.one_of(st.none(), st.integers(0, FOREVER - 1)), written=st.integers(0, FOREVER),
    lease_time_s=st.integers(0, 0xFFFFFFFF))
LEASE = Lease(IPv4Address("192.0.2.7"), "bound", 24, 1, bytes.fromhex("020000000001"),
              b"\x01abc", 1_900_000_000, 1_800_000_000, 3600)


def octets(data: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(bytearray(data), np.uint8)


def test_layout() -> None:
    assert encode_record(LEASE).hex(" ", 8) == (
        "070200c002180106 0200000000010000 0000000000000000 00b33f7100000000 "
        "00d2496b00000000 04000000100e0000 0161626300000000")


@given(st.lists(LEASES, max_size=5))
def test_records_come_back(leases: list[Lease]) -> None:
    data = b"".join(map(encode_record, leases))
    starts = record_starts(octets(data))
    assert starts is not None
    assert [decode_record(data, at) for at in starts.tolist()] == leases
    ends = fields(octets(data), starts, R_ENDS, "<i8").tolist()
    assert ends == [FOREVER if lease.ends is None else lease.ends for lease in leases]


@pytest.mark.parametrize(("field", "value"), [
    ("state", "offered"), ("state", ""), ("prefix", 33), ("prefix", -1), ("htype", 256),
    ("chaddr", bytes(17)), ("client_id", bytes(2049)), ("ends", -1), ("ends", FOREVER),
    ("written", -1), ("written", FOREVER + 1), ("lease_time_s", 1 << 32), ("lease_time_s", -1)])
def test_what_does_not_fit_is_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"state|prefix|htype|chaddr|client|end|written|time"):
        encode_record(dataclasses.replace(LEASE, **{field: value}))


def twin(data: bytes) -> int:
    """How many records fill `data`, or -1: by the table in the module's docstring."""
    count = 0
    while data:
        id_length = int.from_bytes(data[40:42], "little")
        size = 48 + -(-id_length // 8) * 8
        if (len(data) < size or data[4] not in (0, 2, 3) or data[5] > 32 or data[7] > 16
                or data[42:44] != b"\0\0" or size > MOST_RECORD):
            return -1
        data, count = data[size:], count + 1
    return count


CHANGES = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=2)


@examples(600, 300)
@given(st.lists(LEASES, max_size=3), CHANGES, st.integers(-9, 9))
def test_any_octets_are_counted_alike(leases: list[Lease], changes: list[tuple[int, int]],
                                      longer: int) -> None:
    data = bytearray(b"".join(map(encode_record, leases)))
    for at, value in changes:
        if data:
            data[at % len(data)] = value
    data = data[:longer] if longer < 0 else data + bytes(longer)
    memory = octets(bytes(data))
    expected = twin(bytes(data))
    watched = memory if COMPILED else fenced(memory, 0, len(data))
    assert count_records(watched, len(data)) == expected
    starts = record_starts(memory)
    assert (-1 if starts is None else len(starts)) == expected


def test_size_is_padded() -> None:
    assert [record_size(n) for n in (0, 1, 8, 9, 2048)] == [
        R_ID, R_ID + 8, R_ID + 8, R_ID + 16, MOST_RECORD]
