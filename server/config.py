"""What the server is told, checked, and made into the arrays that kernels use."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import numpy as np

from fastpath import options as registry
from fastpath import wire
from fastpath.errors import UserError
from fastpath.interface import Interface

# A pool of a whole /8 would already take 1.5 GiB of table.
MOST_ADDRESSES = 1 << 24
# A netmask shorter than this is not guessed: the addresses have nothing to do with each other.
_SHORTEST_GUESS = 8


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One subnet with one pool; times in seconds.

    start, end: the pool; None for all of the interface's own prefix.
    listen: our own address (the server identifier), None for the interface's first.
    netmask: None for the interface's own prefix where the pool lies inside it, else the
        smallest that holds pool, gateway and server.
    """

    interface: str
    start: IPv4Address | None = None
    end: IPv4Address | None = None
    listen: IPv4Address | None = None
    port: int = wire.SERVER_PORT
    netmask: IPv4Address | None = None
    gateway: IPv4Address | None = None
    dns: tuple[IPv4Address, ...] = ()
    lease_time_s: int = 86400
    offer_hold_s: int = 30
    decline_hold_s: int = 600
    authoritative: bool = True
    ring_slots: int = 4096


@dataclass(frozen=True, slots=True)
class Subnet:
    """A configuration made sure of: what the server will really use."""

    config: ServerConfig
    start: IPv4Address
    end: IPv4Address
    server: IPv4Address
    network: IPv4Network
    mac: bytes
    mtu: int

    @property
    def first(self) -> int:
        return int(self.start)

    @property
    def addresses(self) -> int:
        return int(self.end) - int(self.start) + 1

    def excluded(self) -> list[int]:
        """Rows of the pool that are never given out: ours, the gateway's, network, broadcast."""
        taken = {self.server, self.config.gateway, self.network.network_address,
                 self.network.broadcast_address}
        return sorted(int(address) - self.first for address in taken
                      if address and self.start <= address <= self.end)


def _smallest_network(addresses: list[IPv4Address]) -> IPv4Network:
    low, high = min(addresses), max(addresses)
    length = 32 - (int(low) ^ int(high)).bit_length()
    network = IPv4Network((low, min(length, 30)), strict=False)
    # Network and broadcast address are nobody's: a pool that touches them needs more room.
    while network.prefixlen and not (network.network_address < low
                                     and high < network.broadcast_address):
        network = network.supernet()
    return network


def _pool(config: ServerConfig, own: IPv4Network | None) -> tuple[IPv4Address, IPv4Address]:
    if own is None and (config.start is None or config.end is None):
        raise UserError("no pool to give addresses from", "give --start-ip and --end-ip")
    start = config.start or own[1]  # type: ignore[index]
    end = config.end or own[-2]  # type: ignore[index]
    if end < start:
        raise UserError(f"the pool ends before it starts: --start-ip {start} --end-ip {end}")
    if int(end) - int(start) >= MOST_ADDRESSES:
        raise UserError(f"a pool of {int(end) - int(start) + 1:,} addresses is too large",
                        f"at most {MOST_ADDRESSES:,}: change --start-ip or --end-ip")
    return start, end


def _network(config: ServerConfig, own: IPv4Network | None, server: IPv4Address,
             start: IPv4Address, end: IPv4Address) -> IPv4Network:
    if config.netmask is not None:
        network = _by_netmask(server, config.netmask)
    elif own and start in own and end in own:
        network = own
    else:
        gateway = [config.gateway] if config.gateway else []
        network = _smallest_network([start, end, server, *gateway])
        if network.prefixlen < _SHORTEST_GUESS:
            raise UserError(f"the pool {start} to {end} and our address {server} "
                            "are not in one subnet", "give --netmask, or change --listen")
    for what, address in (("--start-ip", start), ("--end-ip", end), ("--gateway", config.gateway)):
        if address and address not in network:
            raise UserError(f"{what} {address} is not in the subnet {network}",
                            "change it, or give the right --netmask")
    return network


def resolve(config: ServerConfig, interface: Interface) -> Subnet:
    """Check a configuration against the interface; raises UserError with the flag to change."""
    known = [entry for entry in interface.addresses if config.listen in (None, entry.ip)]
    server = config.listen or (known[0].ip if known else None)
    if server is None:
        raise UserError(f"interface {interface.name!r} has no IPv4 address to answer from",
                        f"ip address add ADDRESS/PREFIX dev {interface.name}, or give --listen")
    own = known[0].network if known and known[0].network.prefixlen <= 30 else None
    start, end = _pool(config, own)
    network = _network(config, own, server, start, end)
    subnet = Subnet(config, start, end, server, network, interface.mac, interface.mtu)
    if len(subnet.excluded()) == subnet.addresses:
        raise UserError(f"no address of the pool {start} to {end} can be given to a client")
    return subnet


def _by_netmask(server: IPv4Address, netmask: IPv4Address) -> IPv4Network:
    bits = ~int(netmask) & 0xFFFFFFFF
    if bits & bits + 1:
        raise UserError(f"--netmask {netmask} is not a netmask", "for example 255.255.255.0")
    return IPv4Network((server, 32 - bits.bit_length()), strict=False)


def configured_options(subnet: Subnet) -> dict[int, bytes]:
    """Options that clients may ask for, encoded, in the order in which they are sent."""
    config = subnet.config
    wanted: list[tuple[str, object]] = [("subnet-mask", subnet.network.netmask)]
    if config.gateway:
        wanted.append(("router", [config.gateway]))
    if config.dns:
        wanted.append(("domain-name-server", list(config.dns)))
    wanted.append(("broadcast-address", subnet.network.broadcast_address))
    found = [(registry.find(name), value) for name, value in wanted]
    return {option.code: option.encode(value) for option, value in found}


def template(subnet: Subnet) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """The part that all replies share: IPv4, UDP and BOOTP headers, and the magic cookie."""
    from fastpath.message import Message
    from fastpath.packet import Frame

    message = Message(op=wire.BOOTREPLY)
    frame = Frame(src_mac=subnet.mac, dst_mac=bytes(6), src_ip=subnet.server,
                  dst_ip=IPv4Address(0), src_port=subnet.config.port, dst_port=0,
                  payload=message.encode())
    octets = frame.encode()[wire.ETH_HEADER:]
    return np.frombuffer(octets, np.uint8)[:wire.IP_HEADER + wire.UDP_HEADER + wire.OPTIONS].copy()
