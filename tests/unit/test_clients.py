"""The client table: transaction ids there and back, and who owns an address."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tester.clients import (
    NOBODY,
    Clients,
    claim,
    disown,
    epochs_of,
    holder,
    make_clients,
    row_of,
    xid_of,
)
from tests.kernels import examples, several, wraps

pytestmark = wraps

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
def transactions(draw: st.DrawFn) -> tuple[int, int, int]:
    """(row, epoch, rows), of which some epochs are further than ids go."""
    rows = draw(st.integers(1, MOST_ROWS))
    row = draw(st.sampled_from([0, rows - 1]) | st.integers(0, rows - 1))
    most = TOP // rows
    epoch = draw(st.sampled_from([0, 1, most - 1, most, most + 1, TOP - 1])
                 | st.integers(0, min(most, 65535)))
    return row, epoch, rows


@examples(compiled=300, interpreted=300)
@given(transactions(), numbers32)
def test_row_of_undoes_xid_of(transaction: tuple[int, int, int], seed: int) -> None:
    """The epoch comes back modulo how many a client has ids for."""
    row, epoch, rows = transaction
    epochs = int(epochs_of(rows))
    assert epochs * rows <= TOP < (epochs + 1) * rows
    xid = int(xid_of(row, epoch, rows, seed))
    assert xid == naive_xid((row + rows * (epoch % epochs) + seed) % TOP)
    assert tuple(map(int, row_of(xid, rows, seed))) == (row, epoch % epochs)


@examples(compiled=300, interpreted=300)
@given(numbers32, st.integers(1, MOST_ROWS), numbers32)
def test_xid_of_undoes_row_of(xid: int, rows: int, seed: int) -> None:
    """Every id of 32 bits leads to a row of the table, whoever made it up.

    Those that no transaction has lead to an epoch that there is not.
    """
    row, epoch = map(int, row_of(xid, rows, seed))
    assert 0 <= row < rows and 0 <= epoch <= epochs_of(rows)
    if epoch < epochs_of(rows):
        assert xid_of(row, epoch, rows, seed) == xid


@pytest.mark.parametrize("seed", [0, 0xDEADBEEF, TOP - 500])
def test_no_two_transactions_share_an_id(seed: int) -> None:
    rows, epochs = several(1000, 100), several(40, 10)
    ids = {int(xid_of(row, epoch, rows, seed)) for row in range(rows) for epoch in range(epochs)}
    assert len(ids) == rows * epochs


def test_ids_come_again_only_after_all_were_used() -> None:
    rows = (1 << 30) + 5
    assert epochs_of(rows) == 3
    ids = [int(xid_of(7, epoch, rows, 1)) for epoch in range(6)]
    assert ids[:3] == ids[3:] and len(set(ids)) == 3


def test_ids_of_neighbours_look_unrelated() -> None:
    """Half of the bits differ on average: a server may hash by them."""
    differ = [(int(xid_of(i, 0, 1000, 7)) ^ int(xid_of(i + 1, 0, 1000, 7))).bit_count()
              for i in range(999)]
    assert 15 < sum(differ) / len(differ) < 17


class Owners:
    """`claim`, `holder` and `disown` beside their slow twin: a dict from address to row."""

    def __init__(self, rows: int) -> None:
        self.clients: Clients = make_clients(rows)
        self.twin: dict[int, int] = {}

    def held(self, row: int) -> int:
        return next((address for address, owner in self.twin.items() if owner == row), 0)

    def claim(self, row: int, address: int) -> None:
        before = self.twin.setdefault(address, row)
        assert claim(self.clients, row, address) == (NOBODY if before == row else before)

    def disown(self, row: int) -> None:
        self.twin.pop(self.held(row), None)
        disown(self.clients, row)

    def check(self, addresses: set[int]) -> None:
        for address in addresses:
            assert holder(self.clients, address) == self.twin.get(address, NOBODY)
        assert self.clients.yiaddr.tolist() == [self.held(row)
                                                for row in range(len(self.clients.yiaddr))]
        used = self.clients.owners[self.clients.owners != NOBODY].tolist()
        assert sorted(used) == sorted(self.twin.values())


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[tuple[int, int]]]:
    """(rows, [(row, address that it now takes, or 0 where it gives its own back)]).

    Few rows make a small table, in which searches wrap around its end and run together.
    """
    rows = draw(st.integers(1, 12))
    base = draw(numbers32)
    near = st.integers(0, 2 * rows).map(lambda i: (base + i) % TOP)
    # Addresses 2**k apart fall into one cell of a table that takes low bits.
    far = st.integers(0, 31).map(lambda i: (base + (1 << i)) % TOP)
    address = st.just(0) | near | far | st.sampled_from(EDGES)
    return rows, draw(st.lists(st.tuples(st.integers(0, rows - 1), address), max_size=60))


@examples(compiled=400, interpreted=150)
@given(histories())
def test_owners_are_a_dict(history: tuple[int, list[tuple[int, int]]]) -> None:
    rows, events = history
    owners = Owners(rows)
    addresses = {address for _, address in events if address} | {1, 0x0A000001}
    for row, address in events:
        owners.disown(row)
        if address:
            owners.claim(row, address)
        owners.check(addresses)


def test_disown_keeps_what_stands_behind() -> None:
    """A cluster is freed cell by cell, in every order, and searches still find the rest."""
    for first in range(4):
        owners = Owners(4)
        for row in range(4):
            owners.claim(row, 0x0A000001 + row)
        for i in range(4):
            owners.disown((first + 3 * i) % 4)
            owners.check({0x0A000001 + n for n in range(5)})
        assert (owners.clients.owners == NOBODY).all()


def test_disown_of_nothing_is_nothing() -> None:
    owners = Owners(2)
    owners.claim(1, 5)
    owners.disown(0)
    owners.check({5})


def test_what_another_holds_stays_with_it() -> None:
    owners = Owners(4)
    owners.claim(2, 0x0A000001)
    owners.claim(3, 0x0A000001)
    owners.check({0x0A000001})
    owners.disown(2)
    owners.claim(3, 0x0A000001)
    owners.check({0x0A000001})


@pytest.mark.parametrize("rows", [1, 2, 3, several(1000, 200)])
def test_every_client_may_have_an_address_of_its_own(rows: int) -> None:
    """The table never fills up: a search for one that is not there ends."""
    clients = make_clients(rows)
    for row in range(rows):
        assert claim(clients, row, int(IPv4Address("10.0.0.0")) + row) == NOBODY
    assert np.count_nonzero(clients.owners == NOBODY) > 0
    assert holder(clients, int(IPv4Address("10.9.0.0"))) == NOBODY


def test_searches_are_short_in_a_full_pool() -> None:
    """A pool in sequence, as servers give it, spreads over the table."""
    clients = make_clients(several(1 << 14, 1 << 10))
    for row in range(len(clients.yiaddr)):
        claim(clients, row, int(IPv4Address("10.0.0.0")) + row)
    used = clients.owners != NOBODY
    edges = np.flatnonzero(np.diff(used.astype(np.int8)))
    assert np.diff(edges).max() < 64


def test_a_client_costs_no_more_than_announced() -> None:
    """With its timer: 12 octets a row in the wheel."""
    rows = 1 << 16
    clients = make_clients(rows)
    assert sum(column.nbytes for column in clients) + 12 * rows <= 130 * rows
    assert all(len(column) == rows for column in clients[:-2])
