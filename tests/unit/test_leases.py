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
    COUNTS,
    DECLINED,
    EXCLUDED,
    FOREVER_S,
    FREE,
    NEWEST,
    NONE,
    OFFERED,
    OLDEST,
    STATES,
    Leases,
    decline,
    expire,
    find_client,
    free,
    make_leases,
    oldest_free,
    take,
)
from tests.kernels import examples, several, wraps

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


def free_rows(leases: Leases) -> list[int]:
    """The queue from the oldest on; its links must be sound in both directions."""
    rows: list[int] = []
    before, row = NONE, int(leases.queue[OLDEST])
    while row != NONE:
        assert leases.older[row] == before and len(rows) < len(leases.state)
        rows.append(row)
        before, row = row, int(leases.newer[row])
    assert leases.queue[NEWEST] == before
    return rows


def hashed_rows(leases: Leases) -> list[int]:
    rows = []
    for bucket in leases.bucket.tolist():
        row = bucket
        while row != NONE:
            rows.append(row)
            assert len(rows) <= len(leases.state), "a chain leads in a circle"
            row = int(leases.chain[row])
    return rows


def check(leases: Leases, wheel: Wheel) -> None:
    """What must hold whatever was done."""
    state = leases.state
    assert sorted(free_rows(leases)) == np.flatnonzero(state == FREE).tolist()
    assert leases.queue[COUNTS:].tolist() == np.bincount(state, minlength=len(STATES)).tolist()
    known = np.flatnonzero(leases.identity[:, 0])
    assert sorted(hashed_rows(leases)) == known.tolist()
    clients = [leases.identity[row].tobytes() for row in known]
    assert len(set(clients)) == len(clients), "a client with two addresses"
    in_use = (state == OFFERED) | (state == BOUND)
    assert leases.identity[in_use, 0].all() and not leases.identity[state == DECLINED].any()
    assert not leases.identity[state == EXCLUDED].any()
    armed = (in_use | (state == DECLINED)) & (leases.expires_s != FOREVER_S)
    assert ((wheel.next[:len(state)] >= 0) == armed).all()


@dataclass
class Row:
    """state, client (the last one while FREE), until: as the table should have them."""

    state: int = FREE
    client: int | None = None
    until: int = 0


class LeasesAndDicts(RuleBasedStateMachine):
    """`twin` maps a row to what it should be; `queue` has the free rows, oldest first."""

    @initialize(rows=st.integers(1, 8), excluded=st.sets(st.integers(0, 7), max_size=3),
                buckets=st.sampled_from([1, 2, 16]), now=st.sampled_from([0, 5, 10_000]))
    def make(self, rows: int, excluded: set[int], buckets: int, now: int) -> None:
        out = sorted(row for row in excluded if row < rows)
        leases, self.wheel = make_leases(rows, out)
        # Few buckets, so that clients meet in one.
        self.leases = leases._replace(bucket=np.full(buckets, NONE, np.int32))
        self.twin = {row: Row(EXCLUDED if row in out else FREE) for row in range(rows)}
        self.queue = [row for row in range(rows) if row not in out]
        self.fired = np.zeros(64, np.int32)
        self.now = now
        self.expire_all()

    def row_of(self, client: int) -> int:
        return next((row for row, it in self.twin.items() if it.client == client), NONE)

    def leave_queue(self, row: int) -> None:
        if row in self.queue:
            self.queue.remove(row)

    @rule(client=client_numbers, pick=st.integers(0, 7), own=st.booleans(),
          state=st.sampled_from([OFFERED, BOUND]),
          length=st.one_of(st.integers(1, 40), st.sampled_from([200_000, 86_400, FOREVER_S])))
    def take(self, client: int, pick: int, own: bool, state: int, length: int) -> None:
        before = self.row_of(client)
        open_rows = [row for row, it in self.twin.items() if it.state == FREE or row == before]
        if not open_rows:
            return
        row = before if own and before != NONE else open_rows[pick % len(open_rows)]
        until = FOREVER_S if length == FOREVER_S else self.now + length
        take(self.leases, self.wheel, row, WHO[client], 1000 + client, state, until)
        if before not in (NONE, row):
            if self.twin[before].state != FREE:
                self.queue.append(before)
            self.twin[before] = Row()
        self.leave_queue(row)
        self.twin[row] = Row(state, client, until)
        assert self.leases.hardware[row] == 1000 + client

    @rule(pick=st.integers(0, 7))
    def free(self, pick: int) -> None:
        row = pick % len(self.twin)
        free(self.leases, self.wheel, row)
        it = self.twin[row]
        if it.state in (OFFERED, BOUND):
            it.state = FREE
            self.queue.append(row)

    @rule(pick=st.integers(0, 7), length=st.one_of(st.integers(1, 40), st.just(FOREVER_S)))
    def decline(self, pick: int, length: int) -> None:
        rows = [row for row, it in self.twin.items() if it.state in (OFFERED, BOUND)]
        if rows:
            row = rows[pick % len(rows)]
            until = FOREVER_S if length == FOREVER_S else self.now + length
            decline(self.leases, self.wheel, row, until)
            self.twin[row] = Row(DECLINED, None, until)

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
        rows = free_rows(self.leases)[len(self.queue):]
        assert [self.twin[row].until for row in rows] == due[:count]
        for row in rows:
            self.twin[row] = Row(FREE, self.twin[row].client)
            self.queue.append(row)

    @invariant()
    def same_as_twin(self) -> None:
        check(self.leases, self.wheel)
        assert free_rows(self.leases) == self.queue
        assert oldest_free(self.leases) == (self.queue[0] if self.queue else NONE)
        for row, it in self.twin.items():
            assert self.leases.state[row] == it.state
            assert it.state == FREE or self.leases.expires_s[row] == it.until
        for client in range(CLIENTS):
            assert find_client(self.leases, WHO[client]) == self.row_of(client)


LeasesAndDicts.TestCase.settings = examples(60, 25)
TestLeasesAndDicts = LeasesAndDicts.TestCase


# --- many clients ------------------------------------------------------------------------------


@kernel
def take_oldest(leases: Leases, wheel: Wheel, who: Words, until_s: int,
                rows: npt.NDArray[np.int32]) -> None:
    """Each client takes the oldest free row; rows[i] gets it, or NONE."""
    for i in range(len(who)):
        row = oldest_free(leases)
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
    leases, wheel = make_leases(pool, [])
    rows, found = np.zeros(MANY, np.int32), np.zeros(MANY, np.int32)
    served = min(pool, MANY)

    take_oldest(leases, wheel, who, 100, rows)
    assert rows.tolist() == [*range(served)] + [NONE] * (MANY - served)
    find_all(leases, who, found)
    assert (found == rows).all()
    check(leases, wheel)
    assert oldest_free(leases) == (served if pool > served else NONE)

    fired = np.zeros(64, np.int32)
    freed = 0
    for _ in range(2 + served // 64):
        freed += expire(leases, wheel, 100, fired)
    assert freed == served
    assert free_rows(leases) == [*range(served, pool), *range(served)]
    find_all(leases, who, found)
    assert (found == rows).all(), "a free address remembers its client"

    return_all(leases, wheel, who[:served][::-1].copy(), 300)
    find_all(leases, who, found)
    assert (found == rows).all()
    check(leases, wheel)


def test_the_last_address_goes_round() -> None:
    """Two clients, one address: who comes when it is free gets it, the other is forgotten."""
    leases, wheel = make_leases(1, [])
    for turn in range(6):
        client = turn % 2
        assert oldest_free(leases) == 0
        take(leases, wheel, 0, WHO[client], client, BOUND, 10 * turn + 5)
        assert oldest_free(leases) == NONE
        assert [find_client(leases, WHO[c]) for c in (client, 1 - client)] == [0, NONE]
        assert expire(leases, wheel, 10 * turn + 4, np.zeros(4, np.int32)) == 0
        assert expire(leases, wheel, 10 * turn + 5, np.zeros(4, np.int32)) == 1
        check(leases, wheel)


@pytest.mark.parametrize(("rows", "excluded", "first"), [
    (1, [], 0), (1, [0], NONE), (3, [0], 1), (3, [0, 1, 2], NONE), (4, [1, 3], 0)])
def test_excluded_rows_are_never_free(rows: int, excluded: list[int], first: int) -> None:
    leases, wheel = make_leases(rows, excluded)
    check(leases, wheel)
    assert oldest_free(leases) == first
    assert free_rows(leases) == [row for row in range(rows) if row not in excluded]


def test_memory_a_row() -> None:
    """56 octets of columns, 4 to 8 of buckets, 12 of the wheel: all allocated at start."""
    leases, wheel = make_leases(1_000_000, [])
    fixed = 8 * (1 << 17)
    assert sum(array.nbytes for array in (*leases, *wheel)) - fixed < 90 * 1_000_000
