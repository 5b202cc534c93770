"""Every kernel that the server calls, called once on nothing: compiled before the first packet."""

from __future__ import annotations

import numpy as np

from fastpath.slots import make_slots
from fastpath.wheel import next_deadline
from server.carry import carry, carry_changes, replay, watch_changes
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
    replay(world, tables.scratch.names, np.zeros(0, np.uint8), 0)
    carry(world, world, tables.scratch.names, 0, 0, 0)
    watch_changes(world, True)
    carry_changes(world, world, tables.scratch.names, 0)
    watch_changes(world, False)
    waiting(tables.delay)
    count_records(np.zeros(8, np.uint8), 8)
    next_deadline(tables.delay.wheel, 1)
