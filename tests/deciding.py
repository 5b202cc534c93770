"""A small server's memory and policy, and the words in which tests of its decisions speak.

The pool is 192.0.2.10 to .14, of which .14 is excluded; addresses are written by their last
octet. Leases last 100 s, offers are held 10 s, declined addresses 50 s.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastpath.wire import MessageType
from server.decide import (
    ABSENT,
    CAUSES,
    P_AUTHORITATIVE,
    P_DECLINE_S,
    P_FIRST,
    P_LAST,
    P_LEASE_S,
    P_NETMASK,
    P_OFFER_S,
    P_SERVER,
    POLICY_SIZE,
    SILENT,
    Asked,
    decide,
)
from server.leases import BY_CHADDR, NONE, STATES, expire, make_leases

NET = 0xC0000200
FIRST, LAST, EXCLUDED_ADDRESS = 10, 14, 14
LEASE_S, OFFER_S, DECLINE_S = 100, 10, 50
US, OTHER = 1, 2
# (answer, last octet of its address, cause)
Expected = tuple[str | None, int | None, str]


def address(last: int) -> int:
    """The address that a number from 1 to 255 stands for; others are whole addresses."""
    return NET + last if 0 < last < 256 else last


@dataclass(frozen=True)
class Said:
    """A message of client `who`; None is an option that is not there."""

    kind: str
    who: str
    ciaddr: int = 0
    requested: int | None = None
    server: int | None = None
    giaddr: int = 0


class World:
    def __init__(self, authoritative: bool = True, lease_s: int = LEASE_S) -> None:
        self.leases, self.wheel = make_leases(LAST - FIRST + 1, [EXCLUDED_ADDRESS - FIRST])
        self.now = 1000
        policy = np.zeros(POLICY_SIZE, np.int64)
        for cell, value in ((P_FIRST, NET + FIRST), (P_LAST, NET + LAST), (P_SERVER, NET + US),
                            (P_NETMASK, 0xFFFFFF00), (P_LEASE_S, lease_s), (P_OFFER_S, OFFER_S),
                            (P_DECLINE_S, DECLINE_S), (P_AUTHORITATIVE, authoritative)):
            policy[cell] = value
        self.policy = policy
        self.wait(0)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        fired = np.zeros(8, np.int32)
        while expire(self.leases, self.wheel, self.now, fired):
            pass

    def say(self, said: Said) -> Expected:
        kind = MessageType[said.kind.upper()] if said.kind.isalpha() else int(said.kind)
        asked = Asked(int(kind), address(said.ciaddr), said.giaddr,
                      ABSENT if said.requested is None else address(said.requested),
                      ABSENT if said.server is None else address(said.server))
        who = np.zeros(4, np.uint64)
        octets = f"\1{said.who}".encode().ljust(30, b"\0")
        who.view(np.uint8)[:32] = np.frombuffer(bytes([BY_CHADDR, 6]) + octets, np.uint8)
        answer, row, cause = decide(self.leases, self.wheel, self.policy, asked, who, 7, self.now)
        name = None if answer == SILENT else MessageType(answer).name.lower()
        return name, None if row == NONE else FIRST + row, CAUSES[cause]

    def states(self) -> dict[int, str]:
        """{last octet: state} of the addresses that are not free."""
        return {FIRST + row: STATES[state] for row, state in enumerate(self.leases.state.tolist())
                if STATES[state] not in ("free", "excluded")}


def discover(who: str, requested: int | None = None, **fields: Any) -> Said:
    return Said("discover", who, requested=requested, **fields)


def selecting(who: str, requested: int | None, server: int = US, **fields: Any) -> Said:
    return Said("request", who, requested=requested, server=server, **fields)


def rebooting(who: str, requested: int, **fields: Any) -> Said:
    return Said("request", who, requested=requested, **fields)


def renewing(who: str, ciaddr: int, **fields: Any) -> Said:
    return Said("request", who, ciaddr=ciaddr, **fields)


def release(who: str, ciaddr: int, server: int | None = US) -> Said:
    return Said("release", who, ciaddr=ciaddr, server=server)


def declining(who: str, requested: int | None, server: int | None = US) -> Said:
    return Said("decline", who, requested=requested, server=server)


# What came before a message.
Step = Callable[[World], object]


def offered(who: str, at: int) -> Step:
    def step(world: World) -> None:
        assert world.say(discover(who, at)) == ("offer", at, "ok")
    return step


def bound(who: str, at: int) -> Step:
    def step(world: World) -> None:
        offered(who, at)(world)
        assert world.say(selecting(who, at)) == ("ack", at, "ok")
    return step


def released(who: str, at: int) -> Step:
    def step(world: World) -> None:
        bound(who, at)(world)
        assert world.say(release(who, at)) == (None, at, "ok")
    return step


def declined(who: str, at: int) -> Step:
    def step(world: World) -> None:
        bound(who, at)(world)
        assert world.say(declining(who, at)) == (None, at, "ok")
    return step


def wait(seconds: int) -> Step:
    return lambda world: world.wait(seconds)
