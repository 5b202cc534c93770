"""The lease table against a naive twin: dicts, and a list for the queue of free addresses."""

# Compiled kernels: numpy scalars and Python integers are one thing there.
# mypy: disable-error-code="arg-type, assignment, return-value"

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from fastpath.jit import kernel
from fastpath.siphash import Words
from fastpath.wheel import Wheel, next_deadline
from server.leases import (
    BOUND,
    CHANGES,
    DECLINED,
    EXCLUDED,
    FOREVER_S,
    FREE,
    NONE,
    OFFERED,
    RESERVED,
    STATES,
    Leases,
    Span,
    decline,
    expire,
    find_client,
    free,
    is_free,
    make_leases,
    oldest_free,
    pool_of,
    span_of,
    take,
)
from tests.kernels import examples, several, wraps
from tests.leasing import check, free_rows

pytestmark = wraps

CLIENTS = 9
client_numbers = st.integers(0, CLIENTS - 1)


def identities(count: int) -> Words:
    """uint64[count, 4]; clients differ in one word each, so that every word is compared."""
    who = np.zeros((count, 4), np.uint64)
    number = np.arange(count, dtype=np.uint64)
    who[:, 0] = 1
    for word in range(4):
        mine = number % 4 == word
        who[mine, word] += (number[mine] + np.uint64(1)) << np.uint64(8)
    return who


WHO = identities(CLIENTS)


@dataclass
class Row:
    """state, client (the last one while free), until: as the table should have them."""

    state: int
    home: int
    pool: int
    client: int | None = None
    until: int = 0

    @property
    def is_free(self) -> bool:
        return self.state in (FREE, RESERVED)


# Ranges of addresses: (rows, pool), pools in any order, or one row that is only reserved.
@st.composite
def tables_of_spans(draw: st.DrawFn) -> list[Span]:
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    spans = [Span(rows, pool) for rows, pool in zip(sizes, draw(st.permutations(
        range(len(sizes)))), strict=True)]
    for at in draw(st.lists(st.integers(0, 3), max_size=2)):
        spans.insert(at, Span(1, NONE))
    return spans


class LeasesAndDicts(RuleBasedStateMachine):
    """`twin` maps a row to what it should be; `queues` have the free rows, oldest first."""

    @initialize(spans=tables_of_spans(), excluded=st.sets(st.integers(0, 13), max_size=3),
                reserved=st.sets(st.integers(0, 13), max_size=3),
                buckets=st.sampled_from([1, 2, 16]), now=st.sampled_from([0, 5, 10_000]))
    def make(self, spans: list[Span], excluded: set[int], reserved: set[int], buckets: int,
             now: int) -> None:
        pools = [span.pool for span in spans for _ in range(span.rows)]
        out = [row for row in sorted(excluded) if row < len(pools)]
        kept = [row for row in range(len(pools))
                if (row in reserved or pools[row] == NONE) and row not in out]
        leases, self.wheel = make_leases(spans, out, kept)
        # Few buckets, so that clients meet in one.
        self.leases = leases._replace(bucket=np.full(buckets, NONE, np.int32))
        self.twin = {}
        for row, pool in enumerate(pools):
            home = RESERVED if row in kept else FREE
            self.twin[row] = Row(EXCLUDED if row in out else home, home, pool)
            assert pool_of(self.leases, row) == pool
            assert spans[span_of(self.leases, row)].pool == pool
        self.queues: dict[int, list[int]] = {pool: [] for pool in pools if pool != NONE}
        for row, it in self.twin.items():
            if it.state == FREE:
                self.queues[it.pool].append(row)
        self.fired = np.zeros(64, np.int32)
        self.watched: list[int] | None = None
        self.now = now
        self.expire_all()

    def row_of(self, client: int) -> int:
        return next((row for row, it in self.twin.items() if it.client == client), NONE)

    def fall_free(self, row: int, client: int | None) -> None:
        it = self.twin[row]
        self.twin[row] = Row(it.home, it.home, it.pool, client)
        if it.home == FREE:
            self.queues[it.pool].append(row)

    def changes(self, row: int) -> None:
        if self.watched is not None:
            self.watched.append(row)

    @rule(client=client_numbers, pick=st.integers(0, 13), own=st.booleans(),
          state=st.sampled_from([OFFERED, BOUND]),
          length=st.one_of(st.integers(1, 40), st.sampled_from([200_000, 86_400, FOREVER_S])))
    def take(self, client: int, pick: int, own: bool, state: int, length: int) -> None:
        before = self.row_of(client)
        open_rows = [row for row, it in self.twin.items() if it.is_free or row == before]
        if not open_rows:
            return
        row = before if own and before != NONE else open_rows[pick % len(open_rows)]
        self.take_row(client, row, state, length)

    @rule(client=client_numbers, pick=st.integers(0, 13), length=st.integers(1, 40))
    def take_from_himself(self, client: int, pick: int, length: int) -> None:
        """The same machine under another identifier: the row is in use, and goes over."""
        in_use = [row for row, it in self.twin.items() if it.state in (OFFERED, BOUND)]
        if in_use:
            self.take_row(client, in_use[pick % len(in_use)], BOUND, length)

    def take_row(self, client: int, row: int, state: int, length: int) -> None:
        before = self.row_of(client)
        until = FOREVER_S if length == FOREVER_S else self.now + length
        take(self.leases, self.wheel, row, WHO[client], 1000 + client, state, until)
        if before not in (NONE, row):
            if self.twin[before].is_free:
                self.twin[before].client = None
            else:
                self.changes(before)
                self.fall_free(before, None)
        it = self.twin[row]
        if it.state == FREE:
            self.queues[it.pool].remove(row)
        self.twin[row] = Row(state, it.home, it.pool, client, until)
        self.changes(row)
        assert self.leases.hardware[row] == 1000 + client

    @rule(pick=st.integers(0, 13))
    def free(self, pick: int) -> None:
        row = pick % len(self.twin)
        free(self.leases, self.wheel, row)
        it = self.twin[row]
        if it.state in (OFFERED, BOUND):
            self.changes(row)
            self.fall_free(row, it.client)

    @rule(pick=st.integers(0, 13), length=st.one_of(st.integers(1, 40), st.just(FOREVER_S)))
    def decline(self, pick: int, length: int) -> None:
        rows = [row for row, it in self.twin.items() if it.state in (OFFERED, BOUND)]
        if rows:
            row = rows[pick % len(rows)]
            until = FOREVER_S if length == FOREVER_S else self.now + length
            decline(self.leases, self.wheel, row, until)
            it = self.twin[row]
            self.twin[row] = Row(DECLINED, it.home, it.pool, None, until)
            self.changes(row)

    @rule()
    def watch(self) -> None:
        """As the lease file does while it copies the table."""
        self.watched = [] if self.watched is None else None
        self.leases.totals[CHANGES] = NONE if self.watched is None else 0

    @rule(gap=st.integers(0, 60), room=st.integers(0, 3))
    def expire_a_few(self, gap: int, room: int) -> None:
        self.now += gap
        due = self.due()
        count = expire(self.leases, self.wheel, self.now, self.fired[:room])
        assert count == min(room, len(due))
        self.see_freed(count)

    @rule(gap=st.sampled_from([0, 1, 50, 86_401, 200_001]))
    def expire_all_after(self, gap: int) -> None:
        self.now += gap
        self.expire_all()
        assert not self.due()

    def expire_all(self) -> None:
        for _ in range(200):
            self.see_freed(expire(self.leases, self.wheel, self.now, self.fired))
            if next_deadline(self.wheel, 1) > self.now:
                return
        raise AssertionError("expire makes no progress")

    def due(self) -> list[int]:
        return sorted(it.until for it in self.twin.values()
                      if it.state in (OFFERED, BOUND, DECLINED)
                      and it.until <= self.now and it.until != FOREVER_S)

    def see_freed(self, count: int) -> None:
        """Earliest first; the table may choose among those of one second."""
        due = self.due()
        rows = self.fired[:count].tolist()
        assert [self.twin[row].until for row in rows] == due[:count]
        for row in rows:
            self.changes(row)
            self.fall_free(row, self.twin[row].client)

    @invariant()
    def same_as_twin(self) -> None:
        check(self.leases, self.wheel)
        for pool, queue in self.queues.items():
            assert free_rows(self.leases, pool) == queue
            assert oldest_free(self.leases, pool) == (queue[0] if queue else NONE)
        for row, it in self.twin.items():
            assert self.leases.state[row] == it.state and self.leases.home[row] == it.home
            assert is_free(self.leases, row) == it.is_free
            assert it.is_free or it.state == EXCLUDED or self.leases.expires_s[row] == it.until
        for client in range(CLIENTS):
            assert find_client(self.leases, WHO[client]) == self.row_of(client)
        noted = int(self.leases.totals[CHANGES])
        assert noted == (NONE if self.watched is None else len(self.watched))
        assert self.leases.changed[:max(0, noted)].tolist() == (self.watched or [])


LeasesAndDicts.TestCase.settings = examples(80, 25)
TestLeasesAndDicts = LeasesAndDicts.TestCase


# --- many clients ------------------------------------------------------------------------------


@kernel
def take_oldest(leases: Leases, wheel: Wheel, who: Words, until_s: int,
                rows: npt.NDArray[np.int32]) -> None:
    """Each client takes the oldest free row; rows[i] gets it, or NONE."""
    for i in range(len(who)):
        row = oldest_free(leases, 0)
        if row != NONE:
            take(leases, wheel, row, who[i], i, BOUND, until_s)
        rows[i] = row


@kernel
def find_all(leases: Leases, who: Words, rows: npt.NDArray[np.int32]) -> None:
    for i in range(len(who)):
        rows[i] = find_client(leases, who[i])


@kernel
def return_all(leases: Leases, wheel: Wheel, who: Words, until_s: int) -> None:
    """Each client comes back for the row he had."""
    for i in range(len(who)):
        take(leases, wheel, find_client(leases, who[i]), who[i], i, BOUND, until_s)


MANY = several(10_000, 300)


@pytest.mark.parametrize("pool", [MANY + 100, MANY, MANY - 1, MANY // 2])
def test_many_clients_in_a_pool_larger_equal_and_smaller(pool: int) -> None:
    who = identities(MANY)
    leases, wheel = make_leases([Span(pool, 0)], [], [])
    rows, found = np.zeros(MANY, np.int32), np.zeros(MANY, np.int32)
    served = min(pool, MANY)

    take_oldest(leases, wheel, who, 100, rows)
    assert rows.tolist() == [*range(served)] + [NONE] * (MANY - served)
    find_all(leases, who, found)
    assert (found == rows).all()
    check(leases, wheel)
    assert oldest_free(leases, 0) == (served if pool > served else NONE)

    fired = np.zeros(64, np.int32)
    freed = 0
    for _ in range(2 + served // 64):
        freed += expire(leases, wheel, 100, fired)
    assert freed == served
    assert free_rows(leases, 0) == [*range(served, pool), *range(served)]
    find_all(leases, who, found)
    assert (found == rows).all(), "a free address remembers its client"

    return_all(leases, wheel, who[:served][::-1].copy(), 300)
    find_all(leases, who, found)
    assert (found == rows).all()
    check(leases, wheel)


def test_the_last_address_goes_round() -> None:
    """Two clients, one address: who comes when it is free gets it, the other is forgotten."""
    leases, wheel = make_leases([Span(1, 0)], [], [])
    for turn in range(6):
        client = turn % 2
        assert oldest_free(leases, 0) == 0
        take(leases, wheel, 0, WHO[client], client, BOUND, 10 * turn + 5)
        assert oldest_free(leases, 0) == NONE
        assert [find_client(leases, WHO[c]) for c in (client, 1 - client)] == [0, NONE]
        assert expire(leases, wheel, 10 * turn + 4, np.zeros(4, np.int32)) == 0
        assert expire(leases, wheel, 10 * turn + 5, np.zeros(4, np.int32)) == 1
        check(leases, wheel)


@pytest.mark.parametrize(("rows", "excluded", "first"), [
    (1, [], 0), (1, [0], NONE), (3, [0], 1), (3, [0, 1, 2], NONE), (4, [1, 3], 0)])
def test_excluded_rows_are_never_free(rows: int, excluded: list[int], first: int) -> None:
    leases, wheel = make_leases([Span(rows, 0)], excluded, [])
    check(leases, wheel)
    assert oldest_free(leases, 0) == first
    assert free_rows(leases, 0) == [row for row in range(rows) if row not in excluded]


def test_more_changes_than_are_remembered_are_counted() -> None:
    """Then the lease file copies the table anew; nothing is written behind the array."""
    leases, wheel = make_leases([Span(1, 0)], [], [])
    leases = leases._replace(changed=np.zeros(3, np.int32))
    leases.totals[CHANGES] = 0
    for turn in range(5):
        take(leases, wheel, 0, WHO[turn % 2], 1, BOUND, 10)
        free(leases, wheel, 0)
    assert leases.totals[CHANGES] == 10


def test_spans_that_no_pool_has() -> None:
    leases, wheel = make_leases([Span(1, NONE), Span(1, NONE)], [1], [0])
    check(leases, wheel)
    assert len(leases.ends) == 0 and is_free(leases, 0) and not is_free(leases, 1)
    take(leases, wheel, 0, WHO[0], 1, BOUND, 10)
    decline(leases, wheel, 0, 20)
    assert expire(leases, wheel, 20, np.zeros(4, np.int32)) == 1
    assert leases.state.tolist() == [RESERVED, EXCLUDED]
    check(leases, wheel)


def test_an_exchange_in_one_pool_leaves_the_others_alone() -> None:
    leases, wheel = make_leases([Span(2, 1), Span(2, 0), Span(3, 2)], [], [])
    take(leases, wheel, oldest_free(leases, 0), WHO[0], 1, BOUND, 10)
    assert [free_rows(leases, pool) for pool in range(3)] == [[3], [0, 1], [4, 5, 6]]
    # He moves to another pool: the first row falls back into its own queue.
    take(leases, wheel, oldest_free(leases, 2), WHO[0], 1, BOUND, 10)
    assert [free_rows(leases, pool) for pool in range(3)] == [[3, 2], [0, 1], [5, 6]]
    check(leases, wheel)


def test_states_have_a_name_each() -> None:
    assert len(set(STATES)) == len(STATES) == RESERVED + 1


def test_memory_a_row() -> None:
    """57 octets of columns, 4 to 8 of buckets, 12 of the wheel: all allocated at start."""
    rows = several(1_000_000, 100_000)
    leases, wheel = make_leases([Span(rows, 0)], [], [])
    fixed = 8 * (1 << 17) + 4 * (1 << 16)
    # What two have in common is there once.
    columns = {id(array): array.nbytes for array in (*leases, *wheel)}
    assert sum(columns.values()) - fixed < 90 * rows
