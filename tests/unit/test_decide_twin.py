"""`decide` against a naive server, written after the prose of RFC 2131 section 4.3.

The naive one has a list of addresses and a list for each pool's queue, and looks at them all.
Both get the same configuration and the same messages: their answers must be the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from server.model import Config, Pool, Reservation, Subnet
from tests.configurations import (
    CIRCUITS,
    CLASS_NAMES,
    FOREVER_S,
    IDENTIFIERS,
    SECONDS,
    configurations,
)
from tests.deciding import (
    DECLINE_S,
    NET,
    OFFER_S,
    OTHER,
    US,
    Expected,
    Said,
    World,
    address,
    chaddr,
)
from tests.kernels import several, wraps
from tests.leasing import check

pytestmark = wraps

CLIENTS = "abcdef"
Client = tuple[int, bytes]


# --- the naive server ----------------------------------------------------------------------------


@dataclass
class Address:
    """state: free, offered, bound, declined or excluded. since: order in which timers were set."""

    number: int
    network: int
    subnet: int
    pool: int | None
    reserved: bool
    state: str = "free"
    client: Client | None = None
    hardware: bytes = b""
    until: int = FOREVER_S
    since: int = 0

    @property
    def in_use(self) -> bool:
        return self.state in ("offered", "bound")


@dataclass
class Naive:
    config: Config
    now: int = 1000
    addresses: dict[int, Address] = field(default_factory=dict)
    queues: list[list[Address]] = field(default_factory=list)
    pools: list[tuple[int, int, Pool]] = field(default_factory=list)
    subnets: list[tuple[int, Subnet]] = field(default_factory=list)
    timers: int = 0

    def __post_init__(self) -> None:
        for number, network in enumerate(self.config.networks):
            for each in network.subnets:
                self.subnets.append((number, each))
                for one in each.pools:
                    self.pools.append((number, len(self.subnets) - 1, one))
        for index, (number, place, one) in enumerate(self.pools):
            out = {int(a) for low, high in one.exclude for a in range(int(low), int(high) + 1)}
            for at in range(int(one.start), int(one.end) + 1):
                state = "excluded" if at in out else "free"
                self.addresses[at] = Address(at, number, place, index, False, state)
        for place, (number, each) in enumerate(self.subnets):
            for reservation in each.reservations:
                at = int(reservation.address)
                there = self.addresses.get(at) or Address(at, number, place, None, True)
                there.reserved, there.state = True, "free"
                self.addresses[at] = there
        self.queues = [[a for _, a in sorted(self.addresses.items())
                        if a.pool == index and not a.reserved and a.state == "free"]
                       for index in range(len(self.pools))]

    # Changes.

    def fall_free(self, it: Address) -> None:
        it.state, it.until = "free", FOREVER_S
        if not it.reserved and it.pool is not None:
            self.queues[it.pool].append(it)

    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        due = [a for a in self.addresses.values() if a.until <= self.now and a.until != FOREVER_S]
        for it in sorted(due, key=lambda a: (a.until, a.since)):
            self.fall_free(it)

    def until(self, seconds: int) -> int:
        return FOREVER_S if seconds == FOREVER_S else self.now + seconds + 1

    def take(self, it: Address, client: Client, hardware: bytes, state: str, until: int) -> None:
        had = self.had(client)
        if had and had is not it:
            if had.in_use:
                self.fall_free(had)
            had.client = None
        for queue in self.queues:
            if it in queue:
                queue.remove(it)
        it.client, it.hardware, it.state, it.until = client, hardware, state, until
        self.timers += 1
        it.since = self.timers

    # What is known of a client.

    def had(self, client: Client) -> Address | None:
        return next((a for a in self.addresses.values() if a.client == client), None)

    def place_of(self, said: Said) -> tuple[int, int]:
        at = address(said.giaddr) if said.giaddr else int(self.subnets[0][1].network[0])
        return next((number, i) for i, (number, each) in enumerate(self.subnets)
                    if int(each.network[0]) <= at <= int(each.network[-1]))

    def reservation(self, said: Said, network: int) -> Reservation | None:
        for by, key in (("client-id", said.client_id), ("chaddr", chaddr(said.who)),
                        ("circuit-id", said.circuit)):
            for number, each in self.subnets:
                for one in each.reservations:
                    if number == network and (one.by, one.key) == (by, key):
                        return one
        return None

    def lease_s(self, said: Said, it: Address | None, place: int, own: Reservation | None) -> int:
        if said.kind == "0":
            return FOREVER_S
        place = it.subnet if it else place
        number, each = self.subnets[place]
        levels = [own.settings] if own and (not it or it.number == int(own.address)) else []
        levels += [self.pools[it.pool][2].settings] if it and it.pool is not None else []
        levels += [each.settings, self.config.networks[number].settings]
        levels += [one.settings for i, one in enumerate(self.config.classes)
                   if said.classes >> i & 1]
        levels.append(self.config.settings)

        def first(name: str, default: int) -> int:
            return next((value for level in levels
                         if (value := getattr(level, name)) is not None), default)

        usual = first("lease_time_s", 86400)
        if said.lease_s is None:
            return usual
        most = first("max_lease_time_s", max(usual, first("min_lease_time_s", 0)))
        least = first("min_lease_time_s", min(60, usual, most))
        return max(least, min(said.lease_s, most))

    # Answers: (answer, address, cause, lease time).

    def say(self, said: Said) -> tuple[Expected, int]:
        kind, it, cause, lease_s = self.answer(said)
        return (kind, it.number - NET if it else None, cause), lease_s

    def answer(self, said: Said) -> tuple[str | None, Address | None, str, int]:
        network, place = self.place_of(said)
        client = network, (b"id" + said.client_id if said.client_id else b"hw" + chaddr(said.who))
        own = self.reservation(said, network)
        his = self.addresses[int(own.address)] if own else None
        had, hardware = self.had(client), chaddr(said.who)

        def may_have(it: Address | None) -> bool:
            if it is None or it.state in ("declined", "excluded"):
                return False
            if it is his:
                return not it.in_use or it is had or it.hardware == hardware
            if (it.in_use and it is not had) or it.reserved or it.pool is None:
                return False
            number, _, one = self.pools[it.pool]
            return number == network and (not one.only or any(
                said.classes >> CLASS_NAMES.index(name) & 1 for name in one.only))

        def nak(it: Address | None) -> tuple[str, None, str, int]:
            if it and it is had and it.state == "bound":
                self.fall_free(it)
            return "nak", None, "wrong_address", 0

        def ack(it: Address) -> tuple[str, Address, str, int]:
            lease_s = self.lease_s(said, it, place, own)
            self.take(it, client, hardware, "bound", self.until(lease_s))
            return "ack", it, "ok", lease_s

        if said.kind == "inform":
            return ("ack", None, "ok", 0) if said.ciaddr else (None, None, "wrong_address", 0)
        if said.kind == "0":
            return ack(his) if his and may_have(his) else (None, None, "unknown_client", 0)
        if said.kind == "discover":
            if said.no_address:
                return "offer", None, "ok", self.lease_s(said, None, place, own)
            wanted = self.addresses.get(address(said.requested or 0))
            nearest = sorted(range(len(self.pools)), key=lambda i: self.pools[i][1] != place)
            found = had if had and had.state == "bound" else next((it for it in (
                his, had, wanted, *(it for i in nearest for it in self.queues[i]))
                if may_have(it)), None)
            if found is None:
                return None, None, "no_free_address", 0
            if said.rapid and self.config.rapid_commit:
                return ack(found)
            held = self.until(OFFER_S)
            if found is not had or found.state != "bound":
                self.take(found, client, hardware, "offered", held)
            elif found.until < held:
                self.take(found, client, hardware, "bound", held)
            return "offer", found, "ok", self.lease_s(said, found, place, own)
        if said.kind in ("release", "decline"):
            return self.given_back(said, had)
        asks = self.addresses.get(address(said.ciaddr or said.requested or 0))
        renews = said.ciaddr and said.requested is None and said.server == US
        if said.server is not None and not renews:
            if said.server != US:
                if had and had.state == "offered":
                    self.fall_free(had)
                return None, None, "other_server", 0
            named = self.addresses.get(address(said.requested or 0))
            if named and named is had and may_have(named):
                return ack(named)
            return nak(named)
        if not said.ciaddr and said.requested is None:
            return None, None, "wrong_address", 0
        at = address(said.ciaddr or said.requested or 0)
        if not any(number == network and int(each.network[0]) <= at <= int(each.network[-1])
                   for number, each in self.subnets):
            return "nak", None, "wrong_address", 0
        if his and may_have(his) and asks is not his:
            return nak(asks)
        if asks and (asks is had or asks is his):
            if may_have(asks):
                return ack(asks)
            if asks is had:
                return nak(asks)
        if had and had.in_use:
            return "nak", None, "wrong_address", 0
        if not self.config.authoritative:
            return None, None, "unknown_client", 0
        if asks and said.ciaddr and may_have(asks):
            return ack(asks)
        if not said.ciaddr and not had:
            return None, None, "unknown_client", 0
        return "nak", None, "address_in_use" if asks and asks.state != "free" else \
            "unknown_client", 0

    def given_back(self, said: Said, had: Address | None,
                   ) -> tuple[str | None, Address | None, str, int]:
        if said.server not in (None, US):
            return None, None, "other_server", 0
        at = said.ciaddr if said.kind == "release" else said.requested
        it = self.addresses.get(address(at or 0))
        if it is None or it is not had or not it.in_use:
            return None, None, "not_his", 0
        if said.kind == "release":
            self.fall_free(it)
        else:
            it.client, it.state, it.until = None, "declined", self.until(DECLINE_S)
            self.timers += 1
            it.since = self.timers
        return None, it, "ok", 0


# --- messages -----------------------------------------------------------------------------------


def interesting(config: Config) -> list[int]:
    """Short numbers: every address of pools and reservations, and some that nobody has."""
    found = {2, 5 * 256 + 200, 0x0A000007, 0xFFFFFFFF}
    for network in config.networks:
        for each in network.subnets:
            for one in each.pools:
                found |= {at - NET for at in range(int(one.start) - 1, int(one.end) + 2)}
            found |= {int(one.address) - NET for one in each.reservations}
    return sorted(found)


@st.composite
def messages(draw: st.DrawFn, config: Config) -> tuple[Said, bool, int]:
    """A message, whether it speaks of the address that the client has, and the time before."""
    places = [int(each.network[0]) - NET + 1 for network in config.networks
              for each in network.subnets]
    kind = draw(st.sampled_from(["discover", "discover", "request", "request", "request",
                                 "release", "decline", "inform", "0"]))
    addresses = st.sampled_from(interesting(config))
    fields: dict[str, Any] = {}
    if kind == "request":
        state = draw(st.sampled_from(["selecting", "rebooting", "renewing", "odd"]))
        fields["requested"] = draw(addresses) if state != "renewing" else None
        fields["ciaddr"] = draw(addresses) if state in ("renewing", "odd") else 0
        if state in ("selecting", "odd") or draw(st.integers(0, 9)) == 0:
            fields["server"] = draw(st.sampled_from([US, US, US, OTHER]))
    elif kind == "release":
        fields["ciaddr"] = draw(addresses)
    else:
        fields["requested"] = draw(st.none() | addresses)
        fields["ciaddr"] = draw(st.sampled_from([0, 0, 2])) if kind != "decline" else 0
    said = Said(kind, draw(st.sampled_from(CLIENTS)), giaddr=draw(st.sampled_from(places[:3])),
                lease_s=draw(st.none() | st.none() | SECONDS), rapid=draw(st.booleans()),
                no_address=draw(st.integers(0, 9)) == 0, classes=draw(st.integers(0, 3)),
                client_id=draw(st.sampled_from([None, None, *IDENTIFIERS])),
                circuit=draw(st.sampled_from([None, None, *CIRCUITS])), **fields)
    gap = draw(st.sampled_from([0, 0, 0, 0, 1, 4, 6, OFFER_S + 1, 50, 62, 101, 90_000]))
    return said, draw(st.integers(0, 3)) > 0, gap


def about_his_own(said: Said, naive: Naive) -> Said:
    """The same message, about the address that the client has if it has one."""
    network, _ = naive.place_of(said)
    had = naive.had((network, b"id" + said.client_id if said.client_id else
                     b"hw" + chaddr(said.who)))
    if had is None:
        return said
    own = had.number - NET
    changed = {name: own for name in ("ciaddr", "requested") if getattr(said, name)}
    return Said(**{**{name: getattr(said, name) for name in Said.__dataclass_fields__},
                   **changed})


# --- the comparison ------------------------------------------------------------------------------


@dataclass
class Promises:
    """What clients were told; nothing is known here of how the server decides."""

    # Address to (client, hardware, the last second that was promised).
    of: dict[int, tuple[Client, bytes, int]] = field(default_factory=dict)

    def hear(self, said: Said, client: Client, answer: Expected, lease_s: int, now: int) -> None:
        kind, last, _ = answer
        if kind == "nak":
            # He is to stop using the address he named.
            chosen = said.server is not None and said.requested is not None
            named = said.requested if chosen or not said.ciaddr else said.ciaddr
            if named is not None and self.of.get(named, (None,))[0] == client:
                del self.of[named]
        if last is None:
            return
        holder = self.of.get(last)
        if kind is None:
            assert holder is None or holder[0] == client or holder[2] < now
            self.of.pop(last, None)
            return
        same_machine = holder is not None and holder[1] == chaddr(said.who)
        assert (holder is None or holder[0] == client or holder[2] < now
                or same_machine), f"{last} is promised to {holder}"
        # A client that is offered or given another address gives up what it had.
        self.of = {at: held for at, held in self.of.items() if held[0] != client or at == last}
        if kind == "ack":
            end = FOREVER_S << 1 if lease_s == FOREVER_S else now + lease_s
            self.of[last] = client, chaddr(said.who), end
        elif holder is not None and holder[0] != client:
            del self.of[last]


@settings(deadline=None, max_examples=several(200, 40))
@given(st.data())
def test_the_same_as_the_naive_server(data: st.DataObject) -> None:
    config = data.draw(configurations())
    world, naive, promises = World(config=config), Naive(config), Promises()
    for said, own, gap in data.draw(st.lists(messages(config), min_size=15, max_size=50)):
        if own:
            said = about_his_own(said, naive)
        world.wait(gap)
        naive.pass_time(gap)
        found = world.say(said)
        expected, lease_s = naive.say(said)
        assert (found, world.lease_s) == (expected, lease_s), said
        in_use = {a.number - NET: a.state for a in naive.addresses.values()
                  if a.state not in ("free", "excluded")}
        assert world.states() == in_use, said
        network, _ = naive.place_of(said)
        client = network, said.client_id or chaddr(said.who)
        promises.hear(said, client, found, world.lease_s, world.now)
    check(world.leases, world.wheel)
