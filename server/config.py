"""What the server is told, held against the interfaces that it serves.

A `model.Config` says what is wanted; `resolve` makes sure that it can be done here, fills in
what the interface knows (own address, the one pool's prefix), or says which flag to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from fastpath import options as registry
from fastpath.errors import UserError
from fastpath.interface import Interface
from server.model import Config, Pool, Settings, SharedNetwork, Subnet

# A pool of a whole /8 would already take 1.5 GiB of table.
MOST_ADDRESSES = 1 << 24
# A netmask shorter than this is not guessed: the addresses have nothing to do with each other.
_SHORTEST_GUESS = 8
_ROUTER = 3


@dataclass(frozen=True, slots=True)
class Served:
    """One interface or socket: `server` is our address there, None where any of ours counts.

    network, subnet: indices of where its clients are that no relay serves; None: nowhere.
    """

    interface: Interface
    server: IPv4Address | None
    network: int | None
    subnet: int | None


@dataclass(frozen=True, slots=True)
class Resolved:
    """A configuration made sure of: what the server will really use."""

    config: Config
    served: tuple[Served, ...]

    @property
    def networks(self) -> tuple[SharedNetwork, ...]:
        return self.config.networks

    @property
    def subnets(self) -> list[Subnet]:
        """All subnets, those of the first network first."""
        return [subnet for network in self.networks for subnet in network.subnets]


def _smallest_network(addresses: list[IPv4Address]) -> IPv4Network:
    low, high = min(addresses), max(addresses)
    length = 32 - (int(low) ^ int(high)).bit_length()
    network = IPv4Network((low, min(length, 30)), strict=False)
    # Network and broadcast address are nobody's: a pool that touches them needs more room.
    while network.prefixlen and not (network.network_address < low
                                     and high < network.broadcast_address):
        network = network.supernet()
    return network


def _pool(config: Config, own: IPv4Network | None) -> tuple[IPv4Address, IPv4Address]:
    if own is None and (config.range.start is None or config.range.end is None):
        raise UserError("no pool to give addresses from",
                        "give --start-ip and --end-ip, or --config FILE with subnets")
    start = config.range.start or own[1]  # type: ignore[index]
    end = config.range.end or own[-2]  # type: ignore[index]
    if end < start:
        raise UserError(f"the pool ends before it starts: --start-ip {start} --end-ip {end}")
    if int(end) - int(start) >= MOST_ADDRESSES:
        raise UserError(f"a pool of {int(end) - int(start) + 1:,} addresses is too large",
                        f"at most {MOST_ADDRESSES:,}: change --start-ip or --end-ip")
    return start, end


def _by_netmask(address: IPv4Address, netmask: IPv4Address) -> IPv4Network:
    bits = ~int(netmask) & 0xFFFFFFFF
    if bits & bits + 1:
        raise UserError(f"--netmask {netmask} is not a netmask", "for example 255.255.255.0")
    return IPv4Network((address, 32 - bits.bit_length()), strict=False)


def _network(config: Config, own: IPv4Network | None, server: IPv4Address | None,
             start: IPv4Address, end: IPv4Address) -> IPv4Network:
    gateway = config.range.gateway
    if config.range.netmask is not None:
        network = _by_netmask(start, config.range.netmask)
    elif own and start in own and end in own:
        network = own
    else:
        known = [start, end, *([gateway] if gateway else [])]
        network = _smallest_network([*known, server] if server else known)
        if network.prefixlen < _SHORTEST_GUESS and server and config.transport == "udp":
            # Our own address need not be near the pool where messages come by a socket.
            network = _smallest_network(known)
        if network.prefixlen < _SHORTEST_GUESS:
            raise UserError(f"the pool {start} to {end} and our address {server} "
                            "are not in one subnet", "give --netmask, or change --listen")
    for what, address in (("--start-ip", start), ("--end-ip", end), ("--gateway", gateway)):
        if address and address not in network:
            raise UserError(f"{what} {address} is not in the subnet {network}",
                            "change it, or give the right --netmask")
    return network


def _from_range(config: Config, interface: Interface, server: IPv4Address | None) -> SharedNetwork:
    """The one network of a server that is told by flags."""
    prefixes = [entry.network for entry in interface.addresses
                if entry.ip == server and entry.network.prefixlen <= 30]
    own = prefixes[0] if prefixes else None
    start, end = _pool(config, own)
    network = _network(config, own, server, start, end)
    options = {}
    if config.range.gateway:
        options[_ROUTER] = registry.find(_ROUTER).encode([config.range.gateway])
    pool = Pool(start, end)
    return SharedNetwork(str(network), (Subnet(network, (pool,), (), Settings(options=options)),),
                         interface=interface.name)


def own_address(config: Config, interface: Interface) -> IPv4Address | None:
    """Our address on an interface: --listen, else its first; None on a socket for all."""
    if config.listen is not None:
        return config.listen
    if config.transport == "udp" and not config.interfaces:
        return None
    if not interface.addresses:
        raise UserError(f"interface {interface.name!r} has no IPv4 address to answer from",
                        f"ip address add ADDRESS/PREFIX dev {interface.name}, or give --listen")
    return interface.addresses[0].ip


def _attached(config: Config, interface: Interface, server: IPv4Address | None,
              ) -> tuple[int | None, int | None]:
    """Where clients on an interface are: by name, by its addresses, or the only network."""
    own = {entry.ip for entry in interface.addresses} | ({server} if server else set())
    place: tuple[int | None, int | None] = (None, None)
    first = 0
    for number, network in enumerate(config.networks):
        for i, subnet in enumerate(network.subnets):
            if any(address in subnet.network for address in own) and not network.interface:
                place = (number, first + i)
        if network.interface == interface.name:
            inside = [first + i for i, subnet in enumerate(network.subnets)
                      if any(address in subnet.network for address in own)]
            return number, inside[0] if inside else first
        first += len(network.subnets)
    if place == (None, None) and len(config.networks) == 1 and not config.networks[0].interface:
        return 0, 0
    return place


def resolve(config: Config, interfaces: Sequence[Interface]) -> Resolved:
    """Check a configuration against the interfaces; raises UserError with the flag to change."""
    servers = [own_address(config, interface) for interface in interfaces]
    if config.transport == "udp" and config.listen is not None and not any(
            config.listen == entry.ip or (entry.ip.is_loopback and config.listen in entry.network)
            for interface in interfaces for entry in interface.addresses):
        raise UserError(f"no interface that is served has the address {config.listen}",
                        "change --listen or --interface")
    if not config.networks:
        network = _from_range(config, interfaces[0], servers[0])
        config = replace(config, networks=(network,))
    names = [interface.name for interface in interfaces]
    for network in config.networks:
        if network.interface and network.interface not in names and config.transport != "udp":
            raise UserError(f"network {network.name!r} is on interface {network.interface!r}, "
                            f"which is not served", f"add --interface {network.interface}")
    served = tuple(Served(interface, server, *_attached(config, interface, server))
                   for interface, server in zip(interfaces, servers, strict=True))
    return Resolved(config, served)
