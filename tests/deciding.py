"""A small server's memory and policy, and the words in which tests of its decisions speak.

The pool is 192.0.2.10 to .14, of which .14 is excluded; addresses are written by their last
octet, those of 192.0.3.0 and on with 256 added for each. Leases last 100 s, offers are held
10 s, declined addresses 50 s. `wired` has several subnets, with classes and reservations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import numpy as np

from fastpath.wheel import next_deadline
from fastpath.wire import MessageType
from server.config import Resolved
from server.decide import ABSENT, CAUSES, P_STORING, SILENT, Asked, decide
from server.identity import make_identity, make_names
from server.leases import BY_CHADDR, BY_CIRCUIT_ID, BY_CLIENT_ID, NONE, STATES, expire
from server.model import (
    ClientClass,
    Config,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.places import address_of, find_reserved, find_subnet
from server.settings import find_setting, renewal_times
from server.tables import make_tables

NET = 0xC0000200
FIRST, LAST, EXCLUDED_ADDRESS = 10, 14, 14
LEASE_S, OFFER_S, DECLINE_S = 100, 10, 50
US, OTHER = 1, 2
# What is written short: eight /24 from NET on.
_SHORT = 2048
# (answer, last octet of its address, cause)
Expected = tuple[str | None, int | None, str]


def address(last: int) -> int:
    """The address that a number from 1 to 2047 stands for; others are whole addresses."""
    return NET + last if 0 < last < _SHORT else last


def ip(last: int) -> IPv4Address:
    return IPv4Address(address(last))


def chaddr(who: str) -> bytes:
    """The hardware address of a client of this name."""
    return b"\2" + who.encode()[:5].ljust(5, b"\0")


@dataclass(frozen=True)
class Said:
    """A message of client `who`; None is an option that is not there.

    giaddr: where the client is; 0 for the first subnet. classes: a mask.
    """

    kind: str
    who: str
    ciaddr: int = 0
    requested: int | None = None
    server: int | None = None
    giaddr: int = 0
    lease_s: int | None = None
    rapid: bool = False
    no_address: bool = False
    classes: int = 0
    client_id: bytes | None = None
    circuit: bytes | None = None


def pool(first: int, last: int, only: tuple[str, ...] = (), exclude: tuple[int, ...] = (),
         **settings: Any) -> Pool:
    return Pool(ip(first), ip(last), tuple((ip(a), ip(a)) for a in exclude), only,
                Settings(**settings))


def subnet(third: int, *pools: Pool, reservations: tuple[Reservation, ...] = (),
           **settings: Any) -> Subnet:
    """192.0.(2 + third).0/24."""
    return Subnet(IPv4Network((NET + 256 * third, 24)), pools, reservations, Settings(**settings))


def reserved(last: int, by: str, key: bytes, **settings: Any) -> Reservation:
    return Reservation(ip(last), by, key, Settings(**settings))


def configured(*networks: SharedNetwork, **fields: Any) -> Config:
    """These networks with the times of this module."""
    return Config(**{"networks": networks, "offer_hold_s": OFFER_S, "decline_hold_s": DECLINE_S,
                     "settings": Settings(lease_time_s=LEASE_S), **fields})


def one_pool(reservations: tuple[Reservation, ...] = (), **fields: Any) -> Config:
    """The pool of this module, and what else is said of it."""
    inside = subnet(0, pool(FIRST, LAST, exclude=(EXCLUDED_ADDRESS,)), reservations=reservations)
    return configured(SharedNetwork("one", (inside,)), **fields)


# Masks of the classes of `wired`.
PHONE, PRINTER = 1, 2
CLASSES = (ClientClass("phone", (Match(60, "is", b"phone"),)),
           ClientClass("printer", (Match(60, "is", b"printer"),)))


def wired(**fields: Any) -> Config:
    """Two subnets on one wire, and one on another: pools of two addresses each.

    .10 and .11, for phones .20 and .21, in the first; .266 and .267 in the second (.5.10 and
    so on); .522 and .523 on the other wire.
    """
    first = subnet(0, pool(20, 21, only=("phone",)), pool(10, 11))
    return configured(SharedNetwork("wire", (first, subnet(1, pool(266, 267)))),
                      SharedNetwork("other", (subnet(2, pool(522, 523)),)),
                      **{"classes": CLASSES, **fields})


class World:
    def __init__(self, authoritative: bool = True, lease_s: int = LEASE_S,
                 config: Config | None = None) -> None:
        self.now = 1000
        config = config or one_pool(authoritative=authoritative,
                                    settings=Settings(lease_time_s=lease_s))
        self.tables = make_tables(Resolved(config, ()), 0, self.now)
        self.world = self.tables.world
        self.leases, self.wheel = self.world.leases, self.world.wheel
        self.names = make_names()
        self.lease_s = 0
        self.wait(0)

    def wait(self, seconds: int) -> None:
        self.now += seconds
        fired = np.zeros(8, np.int32)
        # One call passes a bounded number of seconds.
        while expire(self.leases, self.wheel, self.now, fired) or (
                next_deadline(self.wheel, 1) <= self.now):
            pass

    def storing(self, possible: bool) -> None:
        """Whether the lease file can be written."""
        self.world.policy[P_STORING] = possible

    def identify(self, kind: int, octets: bytes, network: int) -> None:
        """Leave an identity in `names.who`."""
        self.names.long_octets[:len(octets)] = np.frombuffer(octets, np.uint8)
        make_identity(self.names, kind, len(octets), network, self.leases.key)

    def reservation(self, said: Said, network: int) -> tuple[int, int]:
        """(number, row) of the client's reservation, as `incoming.read` looks for it."""
        for kind, octets in ((BY_CLIENT_ID, said.client_id),
                             (BY_CHADDR, b"\1" + chaddr(said.who)), (BY_CIRCUIT_ID, said.circuit)):
            if octets is not None:
                self.identify(kind, octets, network)
                found = find_reserved(self.tables.reserved, self.leases.key, self.names.who)
                if found != NONE:
                    return found, int(self.tables.reserved.row[found])
        return NONE, NONE

    def asked(self, said: Said) -> Asked:
        """The message as numbers; the identity of its client is left in `names.who`."""
        kind = MessageType[said.kind.upper()] if said.kind.isalpha() else int(said.kind)
        server = ABSENT if said.server is None else address(said.server)
        place = 0 if not said.giaddr else int(find_subnet(self.world.places, address(said.giaddr)))
        assert place != NONE
        network = int(self.world.places.subnet_network[place])
        reservation, row = self.reservation(said, network)
        if said.client_id is None:
            self.identify(BY_CHADDR, b"\1" + chaddr(said.who), network)
        else:
            self.identify(BY_CLIENT_ID, said.client_id, network)
        return Asked(int(kind), address(said.ciaddr), address(said.giaddr),
                     ABSENT if said.requested is None else address(said.requested),
                     server, server == NET + US, ABSENT if said.lease_s is None else said.lease_s,
                     said.rapid, said.no_address, network, place, said.classes, reservation, row)

    def say(self, said: Said) -> Expected:
        asked = self.asked(said)
        answer, row, cause, self.lease_s = decide(
            self.world, asked, self.names.who, int.from_bytes(chaddr(said.who), "big"), self.now)
        name = None if answer == SILENT else MessageType(answer).name.lower()
        # With a NAK it is the row of the lease that ended.
        return name, None if row == NONE or name == "nak" else self.last_octet(row), CAUSES[cause]

    def last_octet(self, row: int) -> int:
        where = int(address_of(self.world.places, self.leases, row))
        return where - NET if 0 < where - NET < _SHORT else where

    def times(self) -> tuple[int, int, int]:
        """Lease time, T1 and T2 of the last answer."""
        t1, t2 = renewal_times(self.world.sets, self.lease_s)
        return self.lease_s, int(t1), int(t2)

    def option(self, code: int) -> bytes:
        """A configured option as it counted for the last answer, without code and length."""
        start, size = find_setting(self.world.sets, code)
        return self.world.sets.encoded[start:start + size].tobytes()[2:]

    def states(self) -> dict[int, str]:
        """{last octet: state} of the addresses that are in use."""
        return {self.last_octet(row): STATES[state]
                for row, state in enumerate(self.leases.state.tolist())
                if STATES[state] not in ("free", "excluded", "reserved")}


def discover(who: str, requested: int | None = None, **fields: Any) -> Said:
    return Said("discover", who, requested=requested, **fields)


def selecting(who: str, requested: int | None, server: int = US, **fields: Any) -> Said:
    return Said("request", who, requested=requested, server=server, **fields)


def rebooting(who: str, requested: int, **fields: Any) -> Said:
    return Said("request", who, requested=requested, **fields)


def renewing(who: str, ciaddr: int, **fields: Any) -> Said:
    return Said("request", who, ciaddr=ciaddr, **fields)


def release(who: str, ciaddr: int, server: int | None = US, **fields: Any) -> Said:
    return Said("release", who, ciaddr=ciaddr, server=server, **fields)


def declining(who: str, requested: int | None, server: int | None = US, **fields: Any) -> Said:
    return Said("decline", who, requested=requested, server=server, **fields)


def bootp(who: str, **fields: Any) -> Said:
    """A message without a type (RFC 951)."""
    return Said("0", who, **fields)


# What came before a message.
Step = Callable[[World], object]


def offered(who: str, at: int, **fields: Any) -> Step:
    def step(world: World) -> None:
        assert world.say(discover(who, at, **fields)) == ("offer", at, "ok")
    return step


def bound(who: str, at: int, **fields: Any) -> Step:
    def step(world: World) -> None:
        offered(who, at, **fields)(world)
        assert world.say(selecting(who, at, **fields)) == ("ack", at, "ok")
    return step


def released(who: str, at: int, **fields: Any) -> Step:
    def step(world: World) -> None:
        bound(who, at, **fields)(world)
        assert world.say(release(who, at, **fields)) == (None, at, "ok")
    return step


def refused(who: str, at: int, **fields: Any) -> Step:
    """He wants to renew the lease he has, and may not."""
    def step(world: World) -> None:
        assert world.say(renewing(who, at, **fields)) == ("nak", None, "wrong_address")
    return step


def declined(who: str, at: int, **fields: Any) -> Step:
    def step(world: World) -> None:
        bound(who, at, **fields)(world)
        assert world.say(declining(who, at, **fields)) == (None, at, "ok")
    return step


def wait(seconds: int) -> Step:
    return lambda world: world.wait(seconds)
