"""Every kernel that the server calls, called once on nothing: compiled before the first packet."""

from __future__ import annotations

import numpy as np

from fastpath.slots import make_slots
from fastpath.wheel import next_deadline
from server.carry import (
    bring_back,
    carry,
    carry_changes,
    make_aside,
    replay,
    watch_changes,
)
from server.delay import waiting
from server.engine import serve
from server.outgoing import take_back
from server.ports import Port
from server.record import count_records


def touch(port: Port) -> None:
    """Call them in a way that changes nothing; making the tables has called the others."""
    tables, world = port.tables, port.tables.world
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    serve(empty, empty, tables, port.link, 0, 0, 0, 1)
    take_back(empty, tables, 0)
    aside, names = make_aside(0), tables.scratch.names
    replay(world, names, np.zeros(0, np.uint8), 0, aside)
    bring_back(aside, world, names, 0, aside)
    carry(world, world, names, 0, 0, 0, aside)
    watch_changes(world, True)
    carry_changes(world, world, names, 0, aside)
    watch_changes(world, False)
    waiting(tables.delay)
    count_records(np.zeros(8, np.uint8), 8)
    next_deadline(tables.delay.wheel, 1)
