"""The client table: transaction ids there and back, and who owns an address."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tester.clients import NOBODY, Clients, claim, make_clients, row_of, xid_of

COMPILED = hasattr(xid_of, "py_func")
TOP = 1 << 32
MOST_ROWS = 1 << 25
EDGES = [0, 1, 2, 0x7FFFFFFF, 0x80000000, TOP - 2, TOP - 1]
numbers32 = st.sampled_from(EDGES) | st.integers(0, TOP - 1)


def naive_xid(number: int) -> int:
    """Wellons' "lowbias32" as it is published."""
    x = number
    x = (x ^ x >> 16) * 0x7FEB352D % TOP
    x = (x ^ x >> 15) * 0x846CA68B % TOP
    return x ^ x >> 16


@st.composite
def exchanges(draw: st.DrawFn) -> tuple[int, int, int]:
    """(row, epoch, rows) with row + rows * epoch in 32 bits."""
    rows = draw(st.integers(1, MOST_ROWS))
    row = draw(st.sampled_from([0, rows - 1]) | st.integers(0, rows - 1))
    most = (TOP - 1 - row) // rows
    epoch = draw(st.sampled_from([0, min(1, most), most]) | st.integers(0, min(most, 65535)))
    return row, epoch, rows


@settings(deadline=None, max_examples=300)
@given(exchanges(), numbers32)
def test_row_of_undoes_xid_of(exchange: tuple[int, int, int], seed: int) -> None:
    row, epoch, rows = exchange
    xid = int(xid_of(row, epoch, rows, seed))
    assert xid == naive_xid((row + rows * epoch + seed) % TOP)
    assert tuple(map(int, row_of(xid, rows, seed))) == (row, epoch)


@settings(deadline=None, max_examples=300)
@given(numbers32, st.integers(1, MOST_ROWS), numbers32)
def test_xid_of_undoes_row_of(xid: int, rows: int, seed: int) -> None:
    """Every id of 32 bits leads to a row of the table, whoever made it up."""
    row, epoch = map(int, row_of(xid, rows, seed))
    assert 0 <= row < rows and 0 <= epoch < TOP
    assert xid_of(row, epoch, rows, seed) == xid


@pytest.mark.parametrize("seed", [0, 0xDEADBEEF, TOP - 500])
def test_no_two_exchanges_share_an_id(seed: int) -> None:
    rows, epochs = (1000, 40) if COMPILED else (100, 10)
    ids = {int(xid_of(row, epoch, rows, seed)) for row in range(rows) for epoch in range(epochs)}
    assert len(ids) == rows * epochs


def test_ids_of_neighbours_look_unrelated() -> None:
    """Half of the bits differ on average: a server may hash by them."""
    differ = [(int(xid_of(i, 0, 1000, 7)) ^ int(xid_of(i + 1, 0, 1000, 7))).bit_count()
              for i in range(999)]
    assert 15 < sum(differ) / len(differ) < 17


class Owners:
    """The slow twin of `claim`: a dict."""

    def __init__(self, rows: int) -> None:
        self.clients: Clients = make_clients(rows)
        self.twin: dict[int, int] = {}

    def claim(self, row: int, address: int) -> None:
        self.clients.yiaddr[row] = address
        before = self.twin.setdefault(address, row)
        assert claim(self.clients, row, address) == (NOBODY if before == row else before)


@st.composite
def claims(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """(rows, [(row, address)]): each row claims once, often what another has."""
    rows = draw(st.integers(1, 40))
    base = draw(numbers32)
    near = st.integers(0, 2 * rows).map(lambda i: (base + i) % TOP)
    # Addresses 2**k apart fall into one cell of a table that takes low bits.
    far = st.integers(0, 31).map(lambda i: (base + (1 << i)) % TOP)
    order = draw(st.permutations(range(rows)))
    return rows, [(row, draw(near | far | numbers32)) for row in order]


@settings(deadline=None, max_examples=200 if COMPILED else 50)
@given(claims())
def test_claim_is_a_dict(given_claims: tuple[int, list[tuple[int, int]]]) -> None:
    rows, pairs = given_claims
    owners = Owners(rows)
    for row, address in pairs:
        owners.claim(row, address)


def test_claim_again_of_ones_own_address() -> None:
    owners = Owners(4)
    owners.claim(2, 0x0A000001)
    owners.claim(2, 0x0A000001)
    owners.claim(3, 0x0A000001)


@pytest.mark.parametrize("rows", [1, 2, 3, 1000])
def test_every_client_may_have_an_address_of_its_own(rows: int) -> None:
    """The table never fills up: a search for one that is not there ends."""
    owners = Owners(rows)
    for row in range(rows):
        owners.claim(row, int(IPv4Address("10.0.0.0")) + row)
    assert np.count_nonzero(owners.clients.owners == NOBODY) > 0


def test_searches_are_short_in_a_full_pool() -> None:
    """A pool in sequence, as servers give it, spreads over the table."""
    rows = 1 << 14 if COMPILED else 1 << 10
    owners = Owners(rows)
    for row in range(rows):
        owners.claim(row, int(IPv4Address("10.0.0.0")) + row)
    used = owners.clients.owners != NOBODY
    edges = np.flatnonzero(np.diff(used.astype(np.int8)))
    assert np.diff(edges).max() < 64


def test_a_client_costs_no_more_than_announced() -> None:
    rows = 1 << 16
    clients = make_clients(rows)
    assert sum(column.nbytes for column in clients) <= 80 * rows
    assert all(len(column) == rows for column in clients[:-1])
