"""What tests of the lease file share: leases made from numbers, and files of them."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import numpy as np

from fastpath.frame import Memory
from server.journal import Durability, Journal
from server.record import Lease, decode_record, encode_record, record_starts

NOW_S = 1_800_000_000


def lease(number: int, version: int = 0, *, state: str = "bound", ends: int | None = None,
          id_length: int = 3) -> Lease:
    """Lease of 10.0.0.0 + number; `version` is in every field that is free to hold it."""
    return Lease(IPv4Address(0x0A000000 + number), state, 24, 1, version.to_bytes(6, "big"),
                 bytes([number & 255]) * id_length, NOW_S + 3600 if ends is None else ends,
                 version, version & 0xFFFF)


def block(*leases: Lease) -> Memory:
    """What `Journal.append` takes."""
    return np.frombuffer(bytearray(b"".join(map(encode_record, leases))), np.uint8)


def read(journal: Journal) -> list[Lease]:
    """All records of a journal just opened, oldest first."""
    found = []
    for records in journal.blocks():
        starts = record_starts(records)
        assert starts is not None
        found += [decode_record(records.data, at) for at in starts.tolist()]
    return found


def opened(path: Path, durability: Durability = "none") -> Journal:
    """A journal that is ready for `append`."""
    journal = Journal(path, durability)
    read(journal)
    return journal


def content(path: Path) -> list[Lease]:
    """All records of a file that nobody has open."""
    journal = Journal(path, "none")
    try:
        return read(journal)
    finally:
        journal.close()
