"""From a resolved configuration to the arrays that kernels read."""

from __future__ import annotations

from ipaddress import IPv4Address

import numpy as np

from fastpath import wire
from fastpath.faultmodel import REPLIES
from fastpath.faultrules import fault_rows, labels, waits
from fastpath.faults import F_REPLIES, Faults, make_faults
from fastpath.frame import make_options
from fastpath.packet import Frame
from fastpath.ring import SLOT_SIZE
from fastpath.wire import MessageType
from relay.arrays import (
    COUNTS,
    EVENT_COLUMNS,
    H_ADDRESS,
    H_MAC,
    HOP_COLUMNS,
    MOST_BATCH,
    PORT_COLUMNS,
    UNKNOWN,
    WORK_COLUMNS,
    Int64s,
    Tables,
)
from relay.model import POLICIES, Config
from relay.places import Place, Resolved

# What fits in a slot behind its headers, with a few octets to spare.
MOST_MTU = SLOT_SIZE - 64
_WAITING_ROWS = 1 << 14
_EVERYBODY = 0xFFFFFFFF


def delay_rows(config: Config) -> int:
    """Frames that may wait on their way out of one interface."""
    return _WAITING_ROWS if waits(config.faults) else 0


def make_relay_faults(config: Config) -> Faults:
    """The rules of the faults. A fault that names no message is about those of both ways."""
    rows = fault_rows(config.faults)
    everything = sum(1 << MessageType[name.upper()] for name in REPLIES)
    at = 0
    for fault in config.faults:
        count = len(labels((fault,)))
        if not fault.messages:
            rows[at:at + count, F_REPLIES] = everything
        at += count
    return make_faults(rows, config.seed)


def _port(place: Place, agent_at: int) -> list[int]:
    return [place.down, place.up, int.from_bytes(place.interface.mac, "big"),
            min(place.interface.mtu, MOST_MTU), int(place.address or 0), int(place.giaddr or 0),
            place.trusted, place.selects, agent_at, len(place.option82)]


def _broadcasts(place: Place) -> set[int]:
    return {int(each.network.broadcast_address) for each in place.interface.addresses
            if each.network.prefixlen <= 30}


def _hops(config: Config) -> Int64s:
    """Nothing known yet of the way to any server."""
    hops = np.full((len(config.servers), HOP_COLUMNS), UNKNOWN, np.int64)
    hops[:, H_MAC] = UNKNOWN
    hops[:, H_ADDRESS] = [int(server) for server in config.servers]
    return hops


def make_tables(resolved: Resolved, event_rows: int = 0) -> Tables:
    """The arrays of one relay; interfaces are numbered as in `resolved.places`."""
    config, places = resolved.config, resolved.places
    agents, ports = b"", []
    for place in places:
        ports.append(_port(place, len(agents)))
        agents += place.option82
    own = {int(each.ip) for place in places for each in place.interface.addresses}
    own |= {int(place.giaddr) for place in places if place.giaddr}
    casts = {_EVERYBODY}.union(*map(_broadcasts, places))
    template = Frame(src_ip=IPv4Address(0), dst_ip=IPv4Address(0), src_port=wire.SERVER_PORT,
                     dst_port=0).encode()[wire.ETH_HEADER:]
    return Tables(
        np.array([POLICIES.index(config.option82), config.max_hops, config.min_secs], np.int64),
        np.array(ports, np.int64).reshape(-1, PORT_COLUMNS),
        np.array(sorted(own), np.int64), np.array(sorted(casts), np.int64),
        np.frombuffer(agents or b"\0", np.uint8).copy(), _hops(config),
        np.frombuffer(template, np.uint8).copy(), make_relay_faults(config), make_options(),
        np.zeros((MOST_BATCH, WORK_COLUMNS), np.int64), np.zeros(COUNTS, np.int64),
        np.zeros((len(config.servers), 3), np.int64),
        np.zeros((event_rows + 1, EVENT_COLUMNS), np.int64))
