"""From a checked configuration to the arrays that `engine.serve` works on."""

from __future__ import annotations

import numpy as np

from fastpath.build import be48
from fastpath.frame import make_options
from server.config import Subnet, configured_options, template
from server.decide import (
    P_AUTHORITATIVE,
    P_DECLINE_S,
    P_FIRST,
    P_LAST,
    P_LEASE_S,
    P_NETMASK,
    P_OFFER_S,
    P_SERVER,
    POLICY_SIZE,
)
from server.engine import COUNTS, EVENT_COLUMNS, Tables, make_scratch
from server.leases import make_leases
from server.reply import (
    N_CLIENT_PORT,
    N_LEASE_S,
    N_MAC,
    N_MTU,
    N_SERVER,
    N_SERVER_PORT,
    N_T1_S,
    N_T2_S,
    NUMBERS,
    Reply,
)

# A transmit slot holds this, and nothing that we answer needs more.
_MOST_MTU = 1500


def _policy(subnet: Subnet) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    config = subnet.config
    policy = np.zeros(POLICY_SIZE, np.int64)
    policy[P_FIRST], policy[P_LAST] = int(subnet.start), int(subnet.end)
    policy[P_SERVER], policy[P_NETMASK] = int(subnet.server), int(subnet.network.netmask)
    policy[P_LEASE_S], policy[P_OFFER_S] = config.lease_time_s, config.offer_hold_s
    policy[P_DECLINE_S], policy[P_AUTHORITATIVE] = config.decline_hold_s, config.authoritative
    return policy


def _reply(subnet: Subnet) -> Reply:
    config = subnet.config
    numbers = np.zeros(NUMBERS, np.int64)
    numbers[N_MAC] = be48(np.frombuffer(subnet.mac, np.uint8).copy(), 0)
    numbers[N_SERVER], numbers[N_MTU] = int(subnet.server), min(subnet.mtu, _MOST_MTU)
    numbers[N_LEASE_S] = config.lease_time_s
    # RFC 2131 section 4.4.5: T1 defaults to half of the lease, T2 to seven eighths.
    numbers[N_T1_S], numbers[N_T2_S] = config.lease_time_s // 2, config.lease_time_s * 7 // 8
    numbers[N_SERVER_PORT], numbers[N_CLIENT_PORT] = config.port, config.port + 1
    place = np.zeros((256, 2), np.int32)
    encoded = b""
    configured = configured_options(subnet)
    for code, value in configured.items():
        place[code] = len(encoded), 2 + len(value)
        encoded += bytes([code, len(value)]) + value
    return Reply(template(subnet), np.frombuffer(encoded, np.uint8).copy(), place,
                 np.array(list(configured), np.uint8), np.zeros(257, np.int64), numbers)


def make_tables(subnet: Subnet, event_rows: int = 0) -> Tables:
    """Everything the server is, allocated before the first packet.

    event_rows: how many happenings are kept for verbose logs; 0 for none.
    """
    leases, wheel = make_leases(subnet.addresses, subnet.excluded())
    events = np.zeros((event_rows + 1, EVENT_COLUMNS), np.int64)
    return Tables(leases, wheel, _policy(subnet), _reply(subnet), make_options(), make_scratch(),
                  np.zeros(COUNTS, np.int64), events)
