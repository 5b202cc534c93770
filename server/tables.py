"""From a checked configuration to the arrays that `engine.serve` works on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Address

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import be48
from fastpath.delay import make_delay
from fastpath.errors import UserError
from fastpath.faultrules import fault_rows, waits
from fastpath.faults import make_faults
from fastpath.frame import make_options
from fastpath.interface import Interface
from fastpath.siphash import Words, make_key
from server import settings as s
from server.arrays import (
    COUNTS,
    EVENT_COLUMNS,
    Tables,
    make_pen,
    make_response_times,
    make_scratch,
    make_sent,
)
from server.config import Resolved, Served
from server.decide import (
    P_AUTHORITATIVE,
    P_BOOTP,
    P_DECLINE_S,
    P_JOURNAL,
    P_MAX_CONCURRENT,
    P_MAX_HOPS,
    P_OFFER_S,
    P_RAPID_COMMIT,
    P_RELAY,
    P_STORING,
    POLICY_SIZE,
    World,
)
from server.identity import make_identity, make_names
from server.leases import BY_CHADDR, BY_CIRCUIT_ID, BY_CLIENT_ID, NONE, Span, make_leases
from server.model import CLASS_MATCHES, ClientClass, Config, Reservation, Settings, Subnet
from server.places import Places, Reserved, make_reserved, reserve
from server.reply import (
    L_ANY,
    L_BROADCAST,
    L_CLIENT_PORT,
    L_MAC,
    L_MTU,
    L_NETWORK,
    L_SERVER,
    L_SERVER_PORT,
    L_SUBNET,
    L_TO_SENDER,
    LINK_NUMBERS,
    Link,
)

# A transmit slot holds this, and nothing that we answer needs more.
_MOST_MTU = 1500
# A million replies a second, each held for 16 ms; or 10,000 for 1.6 s.
_DELAY_ROWS = 1 << 14
_SUBNET_MASK, _ROUTER, _BROADCAST = 1, 3, 28
_KINDS = {"chaddr": BY_CHADDR, "client-id": BY_CLIENT_ID, "circuit-id": BY_CIRCUIT_ID}


def merged(*levels: Settings) -> Settings:
    """One level for several; what a later one says counts."""
    found = Settings()
    for level in levels:
        said = {f.name: getattr(level, f.name) for f in fields(level)
                if f.name != "options" and getattr(level, f.name) is not None}
        found = replace(found, **said, options={**found.options, **level.options})
    return found


def _server_settings(config: Config) -> Settings:
    """The last level, with nothing left open that must be known."""
    given = config.settings
    return replace(given, lease_time_s=86400 if given.lease_time_s is None else given.lease_time_s)


def _pieces(code: int, value: bytes) -> bytes:
    """An option as it is sent, in several where it is long (RFC 3396 section 5)."""
    parts = [value[i:i + 255] for i in range(0, len(value), 255)] or [b""]
    return b"".join(bytes([code, len(part)]) + part for part in parts)


@dataclass
class _SetsBuilder:
    """Collects sets; `add` returns the number of the new one."""

    encoded: bytearray = field(default_factory=bytearray)
    places: list[npt.NDArray[np.int32]] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)

    def add(self, level: Settings) -> int:
        place = np.zeros((256, 2), np.int32)
        stored = {code: _pieces(code, value) for code, value in level.options.items()}
        if level.boot_file is not None:
            stored[s.BOOT_FILE] = level.boot_file.encode()
        if level.server_name is not None:
            stored[s.SERVER_NAME] = level.server_name.encode()
        for code, octets in stored.items():
            place[code] = len(self.encoded), len(octets)
            self.encoded += octets
        self.places.append(place)
        given = (level.lease_time_s, level.min_lease_time_s, level.max_lease_time_s,
                 level.renewal_time_s, level.rebinding_time_s,
                 None if level.next_server is None else int(level.next_server))
        self.numbers.append([s.UNSET if number is None else number for number in given])
        return len(self.places) - 1


def _int32(values: Iterable[int]) -> npt.NDArray[np.int32]:
    return np.array(list(values), np.int32)


def _implied(subnet: Subnet, server: Settings) -> Settings:
    """What follows from the prefix; where any level says it, that counts."""
    known = {_SUBNET_MASK: subnet.network.netmask.packed}
    if subnet.network.prefixlen <= 30:
        known[_BROADCAST] = subnet.network.broadcast_address.packed
    return Settings(options={code: value for code, value in known.items()
                             if code not in server.options})


def _make_sets(resolved: Resolved) -> s.Sets:
    config = resolved.config
    build = _SetsBuilder()
    build.add(_server_settings(config))
    of_pool, of_subnet, of_reservation = [], [], []
    for network in config.networks:
        for subnet in network.subnets:
            chain = (_implied(subnet, config.settings), network.settings, subnet.settings)
            of_subnet.append(build.add(merged(*chain)))
            for pool in subnet.pools:
                of_pool.append(build.add(merged(*chain, pool.settings)))
            for reservation in subnet.reservations:
                own = reservation.settings
                # A reserved address need not be in a pool: its subnet counts then.
                of_reservation.append(build.add(own) if own != Settings() else NONE)
    of_class = [build.add(one.settings) for one in config.classes]
    return s.Sets(np.frombuffer(bytes(build.encoded), np.uint8).copy(), np.array(build.places),
                  np.array(build.numbers, np.int64), _int32(of_pool), _int32(of_subnet),
                  _int32(of_class), _int32(of_reservation), s.make_layers())


def _make_classes(classes: tuple[ClientClass, ...]) -> s.Classes:
    if len(classes) > s.MOST_CLASSES:
        raise UserError(f"{len(classes)} classes are too many", f"at most {s.MOST_CLASSES}")
    tests, octets = [], b""
    for number, one in enumerate(classes):
        for match in one.matches:
            tests.append((match.option, CLASS_MATCHES.index(match.how), len(octets),
                          len(match.value), number))
            octets += match.value
    return s.Classes(np.array(tests, np.int32).reshape(-1, 5),
                     np.frombuffer(octets or b"\0", np.uint8).copy())


@dataclass(frozen=True)
class _Range:
    """Addresses next to one another: of a pool (its number), or one that is only reserved."""

    first: int
    last: int
    pool: int
    subnet: int


def _ranges(resolved: Resolved) -> list[_Range]:
    found, pool_number = [], 0
    for number, subnet in enumerate(resolved.subnets):
        pools = []
        for pool in subnet.pools:
            pools.append(_Range(int(pool.start), int(pool.end), pool_number, number))
            pool_number += 1
        found += pools
        found += [_Range(a, a, NONE, number) for a in map(int, (
            reservation.address for reservation in subnet.reservations))
            if not any(r.first <= a <= r.last for r in pools)]
    return sorted(found, key=lambda r: r.first)


def _levels(resolved: Resolved) -> Iterable[Settings]:
    config = resolved.config
    yield config.settings
    yield from (one.settings for one in config.classes)
    for network in config.networks:
        yield network.settings
        for subnet in network.subnets:
            yield subnet.settings
            yield from (one.settings for one in subnet.pools)
            yield from (one.settings for one in subnet.reservations)


def _nobodys(resolved: Resolved) -> set[int]:
    """Addresses that are never given out, whatever pool they are in."""
    taken = {int(one.server) for one in resolved.served if one.server}
    taken |= {int(entry.ip) for one in resolved.served for entry in one.interface.addresses}
    for subnet in resolved.subnets:
        if subnet.network.prefixlen <= 30:
            taken |= {int(subnet.network.network_address), int(subnet.network.broadcast_address)}
    for level in _levels(resolved):
        # Given in hex, it need not be whole addresses.
        routers = level.options.get(_ROUTER, b"")
        taken |= {int(IPv4Address(routers[i:i + 4])) for i in range(0, len(routers) - 3, 4)}
    return taken


def _excluded(ranges: list[_Range], first_rows: list[int], resolved: Resolved,
              reserved: Iterable[int]) -> list[int]:
    """Rows that are given to nobody. reserved: rows of reservations, which no pool has anyway."""
    def rows(low: int, high: int) -> Iterable[int]:
        at = max(0, bisect_right(ranges, low, key=lambda r: r.first) - 1)
        while at < len(ranges) and ranges[at].first <= high:
            one, row = ranges[at], first_rows[at]
            yield from range(row + max(low, one.first) - one.first,
                             row + min(high, one.last) - one.first + 1)
            at += 1

    out = {row for subnet in resolved.subnets for pool in subnet.pools
           for low, high in pool.exclude for row in rows(int(low), int(high))}
    out.difference_update(reserved)
    out.update(row for address in _nobodys(resolved) for row in rows(address, address))
    return sorted(out)


def _make_places(resolved: Resolved, ranges: list[_Range]) -> Places:
    subnets = resolved.subnets
    in_order = sorted(range(len(subnets)), key=lambda i: subnets[i].network)
    network_of = [n for n, network in enumerate(resolved.networks) for _ in network.subnets]
    pools = [(number, pool) for number, subnet in enumerate(subnets) for pool in subnet.pools]
    names = {one.name: i for i, one in enumerate(resolved.config.classes)}
    after = np.cumsum([0, *(len(subnet.pools) for subnet in subnets)])
    of_subnet = np.stack([after[:-1], after[1:]], 1).astype(np.int32)
    first_subnet = np.cumsum([0, *(len(network.subnets) for network in resolved.networks)])
    of_network = np.stack([after[first_subnet[:-1]], after[first_subnet[1:]]], 1)
    return Places(
        np.array([r.first for r in ranges], np.int64), np.array([r.last for r in ranges], np.int64),
        _int32(r.subnet for r in ranges),
        np.array([int(subnets[i].network.network_address) for i in in_order], np.int64),
        np.array([int(subnets[i].network.broadcast_address) for i in in_order], np.int64),
        _int32(in_order), _int32(network_of),
        _int32(subnet.network.prefixlen for subnet in subnets),
        of_subnet, of_network.astype(np.int32),
        np.array([sum(1 << names[name] for name in pool.only) for _, pool in pools], np.int64),
        _int32(number for number, _ in pools))


def _each_reservation(resolved: Resolved) -> Iterable[tuple[int, Reservation]]:
    for number, network in enumerate(resolved.networks):
        for subnet in network.subnets:
            for reservation in subnet.reservations:
                yield number, reservation


def _make_reserved(resolved: Resolved, row_of: Mapping[int, int], key: Words) -> Reserved:
    entries = list(_each_reservation(resolved))
    reserved, names = make_reserved(len(entries)), make_names()
    for index, (network, reservation) in enumerate(entries):
        octets = reservation.key
        if reservation.by == "chaddr":
            octets = bytes([wire.HTYPE_ETHERNET]) + octets
        names.long_octets[:len(octets)] = np.frombuffer(octets, np.uint8)
        make_identity(names, _KINDS[reservation.by], len(octets), network, key)
        reserve(reserved, key, index, names.who, row_of[int(reservation.address)])
    return reserved


def _policy(config: Config) -> npt.NDArray[np.int64]:
    policy = np.zeros(POLICY_SIZE, np.int64)
    for cell, value in ((P_OFFER_S, config.offer_hold_s), (P_DECLINE_S, config.decline_hold_s),
                        (P_AUTHORITATIVE, config.authoritative),
                        (P_RAPID_COMMIT, config.rapid_commit), (P_BOOTP, config.bootp),
                        (P_RELAY, config.relay), (P_MAX_HOPS, config.max_hops),
                        (P_MAX_CONCURRENT, config.max_concurrent), (P_STORING, 1),
                        (P_JOURNAL, 0)):
        policy[cell] = value
    return policy


def delay_rows(config: Config) -> int:
    """How many replies a server has to be able to keep."""
    return _DELAY_ROWS if waits(config.faults) else 0


def make_tables(resolved: Resolved, event_rows: int = 0, now_s: int = 0,
                key: Words | None = None) -> Tables:
    """Everything the server is, allocated before the first packet.

    event_rows: how many happenings are kept for verbose logs; 0 for none. now_s: Unix time.
    key: of all hashes; a fresh one if None. Raises UserError where no address could be given.
    """
    key = make_key() if key is None else key
    ranges = _ranges(resolved)
    first_rows = np.cumsum([0, *(r.last - r.first + 1 for r in ranges)]).tolist()[:-1]
    row_of = {}
    for _, reservation in _each_reservation(resolved):
        address = int(reservation.address)
        at = bisect_right(ranges, address, key=lambda r: r.first) - 1
        row_of[address] = first_rows[at] + address - ranges[at].first
    excluded = _excluded(ranges, first_rows, resolved, row_of.values())
    spans = [Span(r.last - r.first + 1, r.pool) for r in ranges]
    if len(excluded) == sum(span.rows for span in spans):
        pools = ", ".join(f"{IPv4Address(r.first)} - {IPv4Address(r.last)}" for r in ranges[:3])
        raise UserError(f"no address can be given to a client ({pools or 'there is no pool'})",
                        "all of the pool are ours, a router's, excluded, or no host's")
    leases, wheel = make_leases(spans, excluded, sorted(set(row_of.values()) - set(excluded)),
                                now_s, key)
    config = resolved.config
    world = World(leases, wheel, _make_places(resolved, ranges), _make_sets(resolved),
                  _policy(config))
    events = np.zeros((event_rows + 1, EVENT_COLUMNS), np.int64)
    return Tables(
        world, _make_reserved(resolved, row_of, key), _make_classes(config.classes),
        make_faults(fault_rows(config.faults), config.seed),
        make_delay(delay_rows(config)), make_pen(), make_sent(),
        make_scratch(make_options()), np.zeros(COUNTS, np.int64), events, make_response_times())


def _template(served: Served, port: int) -> npt.NDArray[np.uint8]:
    """The part that all replies share: IPv4, UDP and BOOTP headers, and the magic cookie."""
    from fastpath.message import Message
    from fastpath.packet import Frame

    message = Message(op=wire.BOOTREPLY)
    frame = Frame(src_mac=served.interface.mac, dst_mac=bytes(6),
                  src_ip=served.server or IPv4Address(0), dst_ip=IPv4Address(0), src_port=port,
                  dst_port=0, payload=message.encode())
    octets = frame.encode()[wire.ETH_HEADER:]
    return np.frombuffer(octets, np.uint8)[:wire.IP_HEADER + wire.UDP_HEADER + wire.OPTIONS].copy()


def _any_address(interface: Interface) -> IPv4Address:
    """As whom to answer what was sent to everybody, on a socket for all our addresses."""
    own = [entry.ip for entry in interface.addresses]
    return next((ip for ip in own if not ip.is_loopback), own[0] if own else IPv4Address(0))


def make_link(resolved: Resolved, served: Served) -> Link:
    """What replies on one interface or socket have in common."""
    config = resolved.config
    numbers = np.zeros(LINK_NUMBERS, np.int64)
    numbers[L_MAC] = be48(np.frombuffer(served.interface.mac, np.uint8).copy(), 0)
    numbers[L_SERVER] = int(served.server or _any_address(served.interface))
    numbers[L_MTU] = min(served.interface.mtu, _MOST_MTU)
    numbers[L_SERVER_PORT], numbers[L_CLIENT_PORT] = config.port, config.port + 1
    numbers[L_NETWORK] = NONE if served.network is None else served.network
    numbers[L_SUBNET] = NONE if served.subnet is None else served.subnet
    numbers[L_ANY] = served.server is None
    numbers[L_TO_SENDER] = config.transport == "udp" or served.server is None
    numbers[L_BROADCAST] = 0xFFFFFFFF
    if served.subnet is not None:
        network = resolved.subnets[served.subnet].network
        if network.prefixlen <= 30:
            numbers[L_BROADCAST] = int(network.broadcast_address)
    return Link(_template(served, config.port), numbers)


