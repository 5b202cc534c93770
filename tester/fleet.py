"""A test over several interfaces: one set of clients, and for each interface the arrays of its own.

The one thing to know: kernels know one interface. Each gets a Test whose clients are a stretch of
one common table, and numbers from which a kernel makes out of row and part what client
`row * parts + part` of the whole would be: its hardware address, its templates, its transaction
ids. What kernels only add to (histograms, expectations) is the same memory for all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastpath.wheel import make_wheel
from tester import cells
from tester.arrays import Int64s, Messages, Test
from tester.clients import Clients, clients_of, make_columns
from tester.config import TestConfig
from tester.make import (
    WHEEL_SLOTS,
    assign,
    make_around,
    make_outbox,
    make_plan,
    make_pool,
    make_servers,
)
from tester.share import share, shares
from tester.speech import make_messages
from tester.template import ADD, IMMEDIATE, MULTIPLY, VARIABLE, VARIABLES, Field, Template

# Slots of all wheels together: 32 MiB. What lies beyond a turn of one is touched once a turn.
_ALL_SLOTS = 1 << 22
_INDEX = VARIABLES.index("index")
_LOW_BITS, _MASK48 = 0x7F7F7F7F7F7F, (1 << 48) - 1
# Cells of the plan that are the same on all interfaces, and can change while the test runs.
_COMMON = [cells.P_STOP, cells.P_SECS_FROM_TICK, cells.P_SECS_TO_TICK]


@dataclass(frozen=True, slots=True)
class Fleet:
    """whole: the test as one, for whoever reads it; it is handed to no kernel. lanes: one Test an
    interface. counts, plans, timers: int64, one row an interface, which its Test has as its own.

    Of whole.counts only IN_FLIGHT, AWAITED and BEGUN are kept up as turns are made; the rest is
    that of the last `add_up`.
    """

    whole: Test
    lanes: list[Test]
    counts: Int64s
    plans: Int64s
    timers: Int64s

    def add_up(self) -> None:
        """Bring whole.counts up to date."""
        counts, first = self.whole.counts, self.counts[:, cells.FIRST_NS]
        self.counts.sum(axis=0, out=counts)
        counts[cells.FIRST_NS] = min(first[first != 0], default=0)
        counts[cells.LAST_BOUND_NS] = self.counts[:, cells.LAST_BOUND_NS].max()

    def tell(self) -> None:
        """Hand what whole.plan says to every interface: exchanges and window by their shares."""
        plan, parts = self.whole.plan, len(self.lanes)
        self.plans[:, _COMMON] = plan[_COMMON]
        self.plans[:, cells.P_EXCHANGES] = shares(int(plan[cells.P_EXCHANGES]), parts)
        if plan[cells.P_WINDOW] != cells.OPEN_LOOP:
            # None may come to 0, which would be an open loop.
            window = shares(int(plan[cells.P_WINDOW]), parts)
            self.plans[:, cells.P_WINDOW] = np.maximum(window, 1)
        else:
            self.plans[:, cells.P_WINDOW] = cells.OPEN_LOOP


def make_fleet(config: TestConfig, now_ns: int) -> Fleet:
    """A test over all of where.interfaces that has not begun; as `make_test`. Raises UserError."""
    parts = config.where.parts
    columns = make_columns(config.clients)
    clients = Clients(*columns, np.zeros(0, np.int32),  # type: ignore[call-arg]
                      np.zeros(0, np.int64))
    if len(config.mix) > 1:
        mixed = np.zeros_like(clients.behaviour)
        assign(config, mixed)
        clients.behaviour[:] = np.concatenate([mixed[part::parts] for part in range(parts)])
    plan = make_plan(config, now_ns, 0)
    whole = make_around(config, plan, clients, make_wheel(1, 2), bytes(6))
    plans, counts = np.tile(plan, (parts, 1)), np.zeros((parts, cells.COUNTS), np.int64)
    timers = np.zeros((parts, 2), np.int64)
    messages, per_part = _messages(config)
    macs = _macs(config)
    lanes, first = [], 0
    for part in range(parts):
        rows = share(config.clients, parts, part)
        wheel = make_wheel(rows, _wheel_slots(parts))
        wheel = wheel._replace(state=timers[part])
        _set_identity(plans[part], config, part)
        programs = messages.programs._replace(ops=messages.programs.ops + part * per_part)
        lanes.append(whole._replace(
            clients=clients_of([column[first:first + rows] for column in columns],
                               macs[part::parts].copy()),
            wheel=wheel, plan=plans[part], messages=messages._replace(programs=programs),
            servers=make_servers(config), relays=whole.relays.copy(),
            pool=make_pool(plan, rows), counts=counts[part], outbox=make_outbox()))
        first += rows
    fleet = Fleet(whole, lanes, counts, plans, timers)
    fleet.tell()
    return fleet


def _wheel_slots(parts: int) -> int:
    return min(WHEEL_SLOTS, 1 << (_ALL_SLOTS // parts).bit_length() - 1)


def _set_identity(plan: Int64s, config: TestConfig, part: int) -> None:
    """Let row i of this part say what client i * parts + part would."""
    parts = config.where.parts
    plan[cells.P_MAC] = int.from_bytes(config.mac_of(part), "big") if not config.identity.macs \
        else 0
    plan[cells.P_MAC_STEP] = config.identity.mac_step * parts & _MASK48
    # Each part has transaction ids of its own, as far as a client has that many (`xid_of`).
    plan[cells.P_SEED] = config.seed + part * ((1 << 32) // parts) & 0xFFFFFFFF


def _macs(config: TestConfig) -> Int64s:
    """Hardware addresses of all clients, where those of a part do not count up; else none."""
    identity = config.identity
    if identity.macs:
        return np.array(identity.macs[:config.clients], np.int64)
    if identity.mac_carry:
        return np.zeros(0, np.int64)
    # As `compose.mac_of` does it: each octet by itself.
    base = int.from_bytes(identity.mac_base, "big")
    added = np.arange(config.clients, dtype=np.int64) * identity.mac_step & _MASK48
    low = (base & _LOW_BITS) + (added & _LOW_BITS)
    return low ^ (base ^ added) & ~_LOW_BITS & _MASK48


def _messages(config: TestConfig) -> tuple[Messages, Int64s]:
    """What clients of part 0 say, and what to add to its programs for each part after it."""
    first, second = (make_messages(_numbered(config, part)) for part in (0, 1))
    return first, second.programs.ops - first.programs.ops


def _numbered(config: TestConfig, part: int) -> TestConfig:
    """The same test with templates that count clients of `part` by their row in it."""
    parts = config.where.parts

    def counted(template: Template) -> Template:
        return replace(template, parts=tuple(
            piece if isinstance(piece, bytes) else _counted(piece, parts, part)
            for piece in template.parts))

    fields = tuple(replace(field, template=counted(field.template))
                   for field in config.identity.fields)
    tags = tuple((tpid, counted(tag)) for tpid, tag in config.where.tags)
    return replace(config, identity=replace(config.identity, fields=fields),
                   where=replace(config.where, tags=tags))


def _counted(field: Field, parts: int, part: int) -> Field:
    """{index} becomes {index * parts + part}."""
    ops: list[tuple[int, int]] = []
    for op in field.ops:
        ops.append(op)
        if op == (VARIABLE, _INDEX):
            ops += [(IMMEDIATE + MULTIPLY, parts), (IMMEDIATE + ADD, part)]
    return replace(field, ops=tuple(ops))
