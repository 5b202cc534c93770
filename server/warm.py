"""Every kernel that the server calls, called once on nothing: compiled before the first packet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import numpy as np

from fastpath.delay import waiting
from fastpath.interface import Interface
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
from server.config import Resolved, Served
from server.engine import serve
from server.model import Config, Pool, SharedNetwork, Subnet
from server.outgoing import take_back
from server.record import count_records
from server.tables import make_link, make_tables


def touch() -> None:
    """Call them on tables of their own, before the real ones take memory beside the compiler."""
    pool = Pool(IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2"))
    network = SharedNetwork("warm", (Subnet(IPv4Network("192.0.2.0/24"), (pool,)),))
    served = Served(Interface("warm", 0, bytes(6), 1500, ()), IPv4Address("192.0.2.9"), 0, 0)
    resolved = Resolved(Config(networks=(network,)), (served,))
    tables, link = make_tables(resolved), make_link(resolved, served)
    world = tables.world
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    serve(empty, empty, tables, link, 0, 0, 0, 1)
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
