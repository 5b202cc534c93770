"""Where a relay stands: its interfaces, and what it is on each of them.

A `model.Config` says what is wanted; `resolve` holds it against the interfaces that are there,
or says which flag to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from fastpath.errors import SystemRefused, UserError
from fastpath.interface import Interface
from relay.agent import agent_option, selects
from relay.model import Config
from relay.routes import Routes

# A batch knows the rings that its replies go to by a bit each.
MOST_INTERFACES = 60
_EVERYBODY = IPv4Address(0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Place:
    """One interface. address: ours there, None on an uplink without one.

    giaddr, option82: what requests from it get; None and empty on an uplink.
    """

    interface: Interface
    down: bool
    up: bool
    address: IPv4Address | None
    giaddr: IPv4Address | None = None
    option82: bytes = b""
    trusted: bool = False
    selects: bool = False

    @property
    def role(self) -> str:
        return "both" if self.down and self.up else "downlink" if self.down else "uplink"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration made sure of."""

    config: Config
    places: tuple[Place, ...]


def find_uplinks(config: Config, routes: Routes, names: Mapping[int, str]) -> tuple[str, ...]:
    """The interfaces towards the servers: those that were named, or as the routes have it.

    names: of interfaces by index. Raises SystemRefused where no route leads to a server, and
    UserError where a server is this machine itself.
    """
    found = list(config.uplinks)
    for server in config.servers:
        route = None if server == _EVERYBODY else routes.find(server)
        if route and route.local:
            raise UserError(f"server {server} is an address of this machine",
                            "a relay speaks to servers on other machines")
        if config.uplinks:
            continue
        if route is None:
            what = "is everybody's address" if server == _EVERYBODY else "has no route"
            raise SystemRefused(f"server {server} {what}: which interface leads to it?",
                                "name it with --uplink, or add a route")
        found.append(names[route.index])
    return tuple(dict.fromkeys(found))


def resolve(config: Config, interfaces: Sequence[Interface], uplinks: Iterable[str]) -> Resolved:
    """What a relay is on each of `interfaces`; raises UserError."""
    if len(interfaces) > MOST_INTERFACES:
        raise UserError(f"{len(interfaces)} interfaces, where {MOST_INTERFACES} is the most")
    _check_names("--giaddr", config.giaddrs, config.downlinks)
    _check_names("--link-selection", config.selections, config.downlinks)
    _check_names("--trust", config.trusted, config.downlinks)
    up = set(uplinks)
    places = []
    for interface in interfaces:
        address = next((each.ip for each in interface.addresses), None)
        if interface.name not in config.downlinks:
            places.append(Place(interface, False, True, address))
            continue
        giaddr = config.giaddrs.get(interface.name, config.giaddrs.get("")) or address
        if giaddr is None:
            raise UserError(f"downlink {interface.name!r} has no IPv4 address",
                            f"give it one (ip address add ... dev {interface.name}), or name "
                            f"one with --giaddr {interface.name}=ADDRESS")
        if giaddr in {each.ip for each in interface.addresses}:
            address = giaddr
        places.append(Place(
            interface, True, interface.name in up, address or giaddr, giaddr,
            agent_option(config, interface, address or giaddr, giaddr),
            interface.name in config.trusted, selects(config, interface.name)))
    return Resolved(config, tuple(places))


def _check_names(flag: str, said: Iterable[str], downlinks: Sequence[str]) -> None:
    for name in said:
        if name and name not in downlinks:
            raise UserError(f"{flag} {name}: no such downlink",
                            f"there is: {', '.join(downlinks)}")
