"""Every kernel that the relay calls, called once on nothing: compiled before the first packet."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface

import numpy as np

from fastpath.delay import make_delay, waiting
from fastpath.interface import Interface
from fastpath.slots import make_slots
from fastpath.wheel import next_deadline
from relay.model import Config
from relay.outgoing import pass_on, send_due
from relay.places import resolve
from relay.tables import make_tables


def touch() -> None:
    """Call them on tables of their own."""
    interface = Interface("warm", 1, bytes(6), 1500, (IPv4Interface("192.0.2.1/24"),))
    config = Config(("warm",), (IPv4Address("192.0.2.2"),))
    tables, delay = make_tables(resolve(config, [interface], ["warm"])), make_delay(0)
    empty = make_slots(np.zeros(4096, np.uint8), 2048, 0)
    pass_on(empty, empty, tables, delay, 0, 0, 1, 0, 0)
    send_due(empty, tables, delay, 0, 1)
    waiting(delay)
    next_deadline(delay.wheel, 1)
