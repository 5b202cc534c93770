"""All memory of a test, allocated before its first packet."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fastpath.frame import make_options
from fastpath.histogram import SIZE
from fastpath.wheel import Wheel, make_wheel
from tester import cells
from tester.arrays import Expected, Int64s, Test
from tester.cells import BEHAVIOUR_SIZE, EXPECT_SIZE, FOREVER, RELAY_SIZE, SERVER_SIZE, TICK_NS
from tester.clients import Clients, make_clients
from tester.config import TestConfig
from tester.plan import ClosedLoop
from tester.speech import make_messages

# Starts, answers, timers, renewals and releases that one turn handles at most, each.
BATCH = 64
# One turn of the timer wheel: 65 s of milliseconds; longer waits are parked in it.
WHEEL_SLOTS = 1 << 16
# Interleaves the behaviours of a mix evenly.
_GOLDEN = (math.sqrt(5) - 1) / 2
_MTU = 1500


def _ticks(config: TestConfig, seconds: float) -> int:
    """So many seconds of a client's life in ticks; FOREVER for what never comes."""
    ticks = seconds * 1000 / config.time_scale
    return FOREVER if ticks >= FOREVER else round(ticks)


def make_plan(config: TestConfig, now_ns: int, local_port: int) -> Int64s:
    where, patience, identity = config.where, config.patience, config.identity
    backoff = patience.backoff_s or (0.0, 0.0)
    values = {
        cells.P_WINDOW: config.plan.window if isinstance(config.plan, ClosedLoop)
        else cells.OPEN_LOOP,
        cells.P_TIMEOUT_NS: round(patience.timeout_s * 1e9),
        cells.P_DISCOVER_TRIES: patience.discover_tries,
        cells.P_REQUEST_TRIES: patience.request_tries,
        cells.P_BACKOFF_NS: round(backoff[0] * 1e9),
        cells.P_BACKOFF_MOST_NS: round(backoff[1] * 1e9),
        cells.P_SEED: config.seed & 0xFFFFFFFF,
        cells.P_MAC: int.from_bytes(identity.mac_base, "big"),
        cells.P_MAC_STEP: identity.mac_step,
        cells.P_MAC_CARRY: identity.mac_carry,
        cells.P_BASE_NS: now_ns - now_ns % TICK_NS,
        cells.P_PORT: local_port or where.client_port,
        cells.P_OTHER_PORT: where.server_port if where.relays else local_port or where.client_port,
        cells.P_MODE: where.mode,
        cells.P_SERVER_IP: int(where.server or 0),
        cells.P_SERVER_MAC: int.from_bytes(where.server_mac or b"\xff" * 6, "big"),
        cells.P_RELAY_BLOCK: where.relay_block,
        cells.P_SCALE_MILLI: max(round(config.time_scale * 1000), 1),
        cells.P_OFFER_POLICY: config.offer_policy,
        cells.P_OFFER_SERVER: int(config.offer_server or 0),
        # Who takes the first one, or waits for a server, has nothing to compare.
        cells.P_OFFER_WAIT_NS: round(config.offer_wait_s * 1e9)
        if config.offer_policy == cells.OFFER_ALL else 0,
        cells.P_POOLED: config.renew_rate > 0 or config.release_rate > 0,
        cells.P_ANSWERS_ARP: where.answers_arp,
        cells.P_ANSWERS_PING: where.answers_ping,
        cells.P_TAGS: len(where.tags),
        cells.P_SECS_FROM_TICK: round(config.secs_from_s * 1000),
        cells.P_SECS_TO_TICK: round(config.secs_to_s * 1000),
        cells.P_LIMIT: _MTU,
        cells.P_RAPID: identity.rapid_commit,
        cells.P_EXCHANGES: config.exchanges,
    }
    plan = np.zeros(cells.PLAN_SIZE, np.int64)
    for cell, value in values.items():
        plan[cell] = value
    return plan


def _behaviours(config: TestConfig) -> Int64s:
    table = np.zeros((len(config.mix), BEHAVIOUR_SIZE), np.int64)
    for row, (behaviour, _) in enumerate(config.mix):
        values = {
            cells.B_OPENING: behaviour.opening, cells.B_HOLD: _ticks(config, behaviour.hold_s),
            cells.B_RENEWS: behaviour.renews, cells.B_ENDING: behaviour.ending,
            cells.B_RETURN: _ticks(config, behaviour.return_s), cells.B_LIVES: behaviour.lives}
        for cell, value in values.items():
            table[row, cell] = value
    return table


def assign(config: TestConfig, behaviour: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
    """Give each client its behaviour: as many each as the shares say, evenly interleaved."""
    rows = len(behaviour)
    ends = np.cumsum([share for _, share in config.mix]) * rows
    # The places of a golden-ratio sequence are spread evenly, and so are the ranks cut from it.
    order = np.argsort(np.arange(rows) * _GOLDEN % 1.0, kind="stable")
    rank = np.empty(rows, np.int64)
    rank[order] = np.arange(rows)
    behaviour[:] = np.minimum(np.searchsorted(ends, rank + 0.5), len(config.mix) - 1)


def _relays(config: TestConfig, mac: bytes) -> Int64s:
    where = config.where
    table = np.zeros((max(len(where.relays), 1), RELAY_SIZE), np.int64)
    for row, giaddr in enumerate(where.relays):
        table[row, cells.R_IP] = int(giaddr)
        if where.mode == cells.RELAYS:
            table[row, cells.R_MAC] = int.from_bytes(mac, "big")
    return table


def make_servers(config: TestConfig) -> Int64s:
    table = np.zeros((cells.MOST_SERVERS, SERVER_SIZE), np.int64)
    for row, address in enumerate(config.expect_servers):
        table[row, cells.S_ID], table[row, cells.S_EXPECTED] = int(address), 1
    return table


def _expected(config: TestConfig) -> Expected:
    rows = np.zeros((len(config.expects), EXPECT_SIZE), np.int64)
    octets = b""
    for row, expected in enumerate(config.expects):
        rows[row, cells.X_CODE], rows[row, cells.X_HOW] = expected.code, expected.how
        rows[row, cells.X_START], rows[row, cells.X_LENGTH] = len(octets), len(expected.octets)
        octets += expected.octets
    return Expected(rows, np.frombuffer(octets + b"\0", np.uint8).copy())


def make_pool(plan: Int64s, clients: int) -> npt.NDArray[np.int32]:
    """Room for bound clients, where any are called to renew or release."""
    return np.zeros(clients if plan[cells.P_POOLED] else 1, np.int32)


def make_outbox() -> Int64s:
    """Room for what clients of one interface say in a turn."""
    return np.zeros(6 * BATCH, np.int64)


def make_test(config: TestConfig, now_ns: int, *, mac: bytes = bytes(6), local_port: int = 0,
              ) -> Test:
    """A test that has not begun. now_ns: monotonic; mac: of the interface, for relays;
    local_port: of the socket, where it is one. Raises UserError.
    """
    macs = np.array(config.identity.macs[:config.clients], np.int64)
    clients = make_clients(config.clients, macs)
    if len(config.mix) > 1:
        assign(config, clients.behaviour)
    return make_around(config, make_plan(config, now_ns, local_port), clients,
                       make_wheel(config.clients, WHEEL_SLOTS), mac)


def make_around(config: TestConfig, plan: Int64s, clients: Clients, wheel: Wheel, mac: bytes,
                ) -> Test:
    """A test of these clients, with all that does not have one row each."""
    return Test(
        clients=clients,
        wheel=wheel,
        plan=plan,
        behaviours=_behaviours(config),
        messages=make_messages(config),
        servers=make_servers(config),
        relays=_relays(config, mac),
        expected=_expected(config),
        pool=make_pool(plan, len(clients.state)),
        options=make_options(),
        counts=np.zeros(cells.COUNTS, np.int64),
        histograms=np.zeros((cells.HISTOGRAMS, SIZE), np.int64),
        fired=np.zeros(BATCH, np.int32),
        outbox=make_outbox(),
    )
