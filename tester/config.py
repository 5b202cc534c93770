"""What the tester is told, and the arrays made from it."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.errors import UserError
from fastpath.frame import make_options
from fastpath.histogram import SIZE
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wheel import make_wheel
from tester.clients import make_clients
from tester.engine import (
    COUNTS,
    HISTOGRAMS,
    OPEN_LOOP,
    P_BASE_NS,
    P_DISCOVER_TRIES,
    P_MAC,
    P_PORT,
    P_REQUEST_TRIES,
    P_SEED,
    P_TIMEOUT_NS,
    P_WINDOW,
    PLAN_SIZE,
    TICK_NS,
    Test,
)
from tester.plan import ClosedLoop, ConstantRate, Plan

# Starts, answers and timeouts that one turn handles at most, each.
BATCH = 64
# One turn of the timer wheel: 65 s of milliseconds; longer timeouts are parked in it.
_WHEEL_SLOTS = 1 << 16
# What a client asks for: mask, router, name servers, domain, lease time, T1, T2.
_WANTED_OPTIONS = [1, 3, 6, 15, 51, 58, 59]


@dataclass(frozen=True, slots=True)
class TestConfig:
    """One test. Times in seconds; tries are transmissions, the first one included."""

    interface: str
    clients: int
    plan: Plan
    duration_s: float | None = None
    timeout_s: float = 5.0
    discover_tries: int = 1
    request_tries: int = 1
    mac_base: bytes = b"\x02\x00\x00\x00\x00\x00"
    broadcast_flag: bool = False
    server_port: int = wire.SERVER_PORT
    seed: int = 0
    ring_slots: int = 4096

    def check(self) -> None:
        """Raise UserError for numbers that cannot work together."""
        last = int.from_bytes(self.mac_base, "big") + self.clients - 1
        if self.mac_base[0] & 1:
            raise UserError("--mac-base is a multicast address", "use an even first octet")
        if last >> 48 or last >> 40 != self.mac_base[0]:
            raise UserError(f"{self.clients:,} clients do not fit behind --mac-base",
                            "use a lower --mac-base")


def _template(config: TestConfig, kind: str) -> npt.NDArray[np.uint8]:
    """A client's message from the IPv4 header to the last option all clients share."""
    message = Message(op=wire.BOOTREQUEST,
                      flags=wire.BROADCAST_FLAG if config.broadcast_flag else 0)
    message.set("message-type", wire.MessageType[kind])
    message.set("parameter-request-list", _WANTED_OPTIONS)
    message.set("max-message-size", 1500)
    payload = message.encode(min_size=0)
    frame = Frame(src_ip=IPv4Address(0), dst_ip=IPv4Address(0xFFFFFFFF),
                  src_port=config.server_port + 1, dst_port=config.server_port, payload=payload)
    # Without the end option: the kernel appends what differs from client to client.
    return np.frombuffer(frame.encode()[wire.ETH_HEADER:-1], np.uint8).copy()


def make_test(config: TestConfig, now_ns: int) -> Test:
    """All memory of a test, allocated before its first packet. `now_ns`: monotonic."""
    plan = np.zeros(PLAN_SIZE, np.int64)
    plan[P_WINDOW] = config.plan.window if isinstance(config.plan, ClosedLoop) else OPEN_LOOP
    plan[P_TIMEOUT_NS] = int(config.timeout_s * 1e9)
    plan[P_DISCOVER_TRIES], plan[P_REQUEST_TRIES] = config.discover_tries, config.request_tries
    plan[P_SEED] = config.seed & 0xFFFFFFFF
    plan[P_MAC] = int.from_bytes(config.mac_base, "big")
    plan[P_BASE_NS] = now_ns - now_ns % TICK_NS
    plan[P_PORT] = config.server_port + 1
    return Test(
        clients=make_clients(config.clients),
        wheel=make_wheel(config.clients, _WHEEL_SLOTS),
        plan=plan,
        discover=_template(config, "DISCOVER"),
        request=_template(config, "REQUEST"),
        options=make_options(),
        counts=np.zeros(COUNTS, np.int64),
        histograms=np.zeros((HISTOGRAMS, SIZE), np.int64),
        fired=np.zeros(BATCH, np.int32),
        sent=np.zeros(4 * BATCH, np.int64),
    )


def plan_from(concurrency: int, rate_per_s: float | None) -> Plan:
    """Open loop where a rate is given, else closed loop."""
    return ConstantRate(rate_per_s) if rate_per_s else ClosedLoop(concurrency)
