"""What a server can be told, as plain values: the one form that flags, files and tests become.

Levels go from the whole server down to one reservation; what a level does not say, the level
above says: reservation, pool, subnet, network, class, server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from fastpath import wire
from fastpath.faultmodel import Fault

FOREVER_S = 0xFFFFFFFF

# How a reservation knows its client.
RESERVED_BY = ("chaddr", "client-id", "circuit-id")
# What a class looks at, by the code of the option; and how it compares.
CLASS_OPTIONS = {"vendor-class": 60, "user-class": 77}
CLASS_MATCHES = ("is", "starts-with", "contains")

DURABILITIES = ("none", "batch", "strict")
TRANSPORTS = ("packet", "udp")


@dataclass(frozen=True, slots=True)
class Settings:
    """What may be set at every level; None and absent options mean: as the level above says.

    renewal_time_s, rebinding_time_s: T1 and T2; options: code to encoded value, without
    splitting (an option of more than 255 octets is split when it is sent, RFC 3396).
    """

    lease_time_s: int | None = None
    min_lease_time_s: int | None = None
    max_lease_time_s: int | None = None
    renewal_time_s: int | None = None
    rebinding_time_s: int | None = None
    next_server: IPv4Address | None = None
    boot_file: str | None = None
    server_name: str | None = None
    options: Mapping[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A test of one option of a client's message: `how` is one of CLASS_MATCHES."""

    option: int
    how: str
    value: bytes


@dataclass(frozen=True, slots=True)
class ClientClass:
    """Clients that pass any of `matches`."""

    name: str
    matches: tuple[Match, ...]
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses from `start` to `end` but those in `exclude` (first and last of each range).

    only: names of classes; where there are any, only their members get addresses here.
    """

    start: IPv4Address
    end: IPv4Address
    exclude: tuple[tuple[IPv4Address, IPv4Address], ...] = ()
    only: tuple[str, ...] = ()
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One address for one client. by: one of RESERVED_BY.

    key: chaddr (Ethernet assumed), client identifier or circuit-id, as octets on the wire.
    """

    address: IPv4Address
    by: str
    key: bytes
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class Subnet:
    """One prefix with its pools; pools and reservations lie inside it and apart."""

    network: IPv4Network
    pools: tuple[Pool, ...] = ()
    reservations: tuple[Reservation, ...] = ()
    settings: Settings = field(default_factory=Settings)


@dataclass(frozen=True, slots=True)
class SharedNetwork:
    """Subnets on one wire; a subnet that shares its wire with none is a network of one.

    interface: where its clients are without a relay; empty: the interface with an address in
    one of its subnets.
    """

    name: str
    subnets: tuple[Subnet, ...]
    settings: Settings = field(default_factory=Settings)
    interface: str = ""


@dataclass(frozen=True, slots=True)
class Range:
    """The one pool of a server that is told by flags; None: from the interface's own prefix.

    netmask: None for the interface's own prefix where the pool lies inside it, else the
    smallest that holds pool, gateway and server.
    """

    start: IPv4Address | None = None
    end: IPv4Address | None = None
    netmask: IPv4Address | None = None
    gateway: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that a server is told. Times in seconds.

    interfaces: empty for the one that has `listen`, else the only one.
    listen: our address, the server identifier; None for the interface's first.
    networks: from a file; empty where flags say the one pool (`range`).
    max_concurrent: exchanges in progress at once; 0 for any number.
    seed: of the faults' random numbers.
    """

    interfaces: tuple[str, ...] = ()
    listen: IPv4Address | None = None
    port: int = wire.SERVER_PORT
    transport: str = ""
    range: Range = field(default_factory=Range)
    networks: tuple[SharedNetwork, ...] = ()
    classes: tuple[ClientClass, ...] = ()
    settings: Settings = field(default_factory=lambda: Settings(lease_time_s=86400))
    offer_hold_s: int = 30
    decline_hold_s: int = 600
    authoritative: bool = True
    rapid_commit: bool = False
    bootp: bool = False
    relay: bool = True
    max_hops: int = 4
    max_concurrent: int = 0
    faults: tuple[Fault, ...] = ()
    seed: int = 1
    ring_slots: int = 4096
