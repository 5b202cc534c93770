"""Where clients speak from: an interface, relay agents on it, or a UDP socket."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import click

from fastpath import elsewhere
from fastpath.document import shown
from fastpath.errors import SystemRefused, UserError
from fastpath.interface import choose
from fastpath.packet import parse_mac
from fastpath.wire import ETH_P_8021AD, ETH_P_8021Q
from tester.cells import DIRECT, RELAYS, SOCKET
from tester.config import MOST_TAGS, Where
from tester.options import about, listed
from tester.template import Template, parse_number

SELF = "self"
MOST_RELAYS = 1 << 16
MOST_INTERFACES = 2000
BROADCAST = IPv4Address(0xFFFFFFFF)
_FIRST_MULTICAST = int(IPv4Address("224.0.0.0"))
_MOST_VLAN = 4095
_TAG = re.compile(r"(?:\{[^{}]*\}|[^.{}])+")


def resolved(host: str) -> IPv4Address:
    """The address of a host, or of all; raises UserError where nobody knows one."""
    try:
        address = IPv4Address(host)
    except ValueError:
        try:
            address = IPv4Address(socket.gethostbyname(host))
        except (OSError, ValueError):
            raise UserError(f"no address is known for {shown(host)}",
                            "check the name, or write the address") from None
    if not _is_host(address) and address != BROADCAST:
        raise UserError(f"{address} is not the address of a host", "write that of one, or its name")
    return address


def _is_host(address: IPv4Address) -> bool:
    return 0 < int(address) < _FIRST_MULTICAST


def interfaces_of(text: str) -> tuple[str, ...]:
    """The interfaces in `eth0,lab-c2:eth0,/proc/7/ns/net:eth1`; raises click.BadParameter."""
    found: dict[str, None] = {}
    with about("--interface"):
        for item in map(str.strip, text.split(",")):
            namespace, name = elsewhere.split(item)
            if not name or (":" in item and not namespace):
                raise UserError(f"{shown(item)} is no interface", "write NAME, or NETNS:NAME")
            if item in found:
                raise UserError(f"interface {shown(item)} is given twice", "give each once")
            found[item] = None
        if len(found) > MOST_INTERFACES:
            raise UserError(f"{len(found):,} interfaces, {MOST_INTERFACES:,} is the most",
                            "give fewer")
    return tuple(found)


def where_from(given: Mapping[str, Any]) -> Where:
    """Where to speak from, as the options say. Raises click.UsageError, SystemRefused."""
    relays, by_socket = _relays(given["relay"])
    named = interfaces_of(given["interface"]) if given["interface"] else ()
    interfaces = named if len(named) > 1 else ()
    tags = _tags(given["vlan"], given["vlan_type"])
    server = None
    if given["server"]:
        with about("--server"):
            server = resolved(given["server"])
    if (relays or by_socket) and server is None:
        raise click.UsageError("--relay speaks to a server: name it with --server")
    if server is not None and interfaces:
        who = "relay agents speak on one interface" if relays else "a UDP socket speaks on one"
        raise click.BadParameter(f"{who}, not on {len(interfaces):,}: give one, or leave out "
                                 "--server for broadcast on each", param_hint="--interface")
    common: dict[str, Any] = {
        "interfaces": interfaces, "server": server, "server_port": given["port"],
        "relay_block": given["relay_block"],
        "answers_arp": given["answer_arp"], "answers_ping": given["answer_ping"],
        "queued": given["qdisc"]}
    if server is not None and not relays:
        name = ",".join(named) or (choose(None) if server == BROADCAST else "")
        local = given["local_address"] or _local_address(server, name)
        if by_socket and not _is_host(local):
            raise click.BadParameter(f"{local} can be no relay's", param_hint="--local-address")
        return Where(SOCKET, name, local_address=local,
                     local_port=given["local_port"],
                     relays=(local,) if by_socket else (), tags=tags, **common)
    mac = None
    if given["server_mac"]:
        with about("--server-mac"):
            mac = parse_mac(given["server_mac"])
    return Where(RELAYS if relays else DIRECT, ",".join(named) or choose(None),
                 server_mac=mac, relays=relays, tags=tags, **common)


def _local_address(server: IPv4Address, interface: str) -> IPv4Address:
    """The address that this machine, or one interface of it, speaks to `server` from."""
    namespace, name = elsewhere.split(interface)
    return elsewhere.within(namespace, lambda: _own_address(server, name))


def _own_address(server: IPv4Address, interface: str) -> IPv4Address:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            if interface:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(interface))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            # Nothing is sent: this only chooses a route.
            probe.connect((str(server), 9))
        except OSError as error:
            through = f" through {interface!r}" if interface else ""
            raise SystemRefused(f"no way to {server}{through}: {error.strerror}",
                                "check routes with: ip route") from None
        found = IPv4Address(probe.getsockname()[0])
    if found.is_unspecified:
        raise SystemRefused(f"interface {interface!r} has no IPv4 address to speak from",
                            f"give it one, with: ip addr add ADDRESS/PREFIX dev {interface}")
    return found


def _relays(texts: tuple[str, ...]) -> tuple[tuple[IPv4Address, ...], bool]:
    """giaddrs, and whether the socket's own address is meant."""
    if SELF in texts:
        if len(texts) > 1:
            raise click.BadParameter("`self` is one relay alone", param_hint="--relay")
        return (), True
    # In the order in which they are given.
    found: dict[IPv4Address, None] = {}
    with about("--relay"):
        for where, part in (each for text in texts for each in _parts(text)):
            for address in _span(part, where):
                if address in found:
                    raise UserError(f"{where}{address} comes twice", "give each relay once")
                found[address] = None
            if len(found) > MOST_RELAYS:
                raise UserError(f"more than {MOST_RELAYS:,} relays", "give fewer")
    return tuple(found), False


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Addresses and ranges, each behind `FILE:LINE: ` where it stands in a file."""
    if not text.startswith("@"):
        yield from (("", part.strip()) for part in text.split(","))
        return
    path, line = Path(text[1:]), 0
    for line, part in listed(path):
        yield f"{path}:{line}: ", part
    if not line:
        raise UserError(f"{path}: no addresses in it", "one a line, or ranges of them")


def _span(text: str, where: str) -> list[IPv4Address]:
    first_text, dash, last_text = text.partition("-")
    try:
        first = IPv4Address(first_text.strip())
        last = IPv4Address(last_text.strip()) if dash else first
    except ValueError:
        raise UserError(f"{where}{shown(text)} is no address and no range of them",
                        "write 10.1.0.1, 10.1.0.1-10.1.0.50 or @FILE") from None
    if not 0 <= int(last) - int(first) < MOST_RELAYS:
        raise UserError(f"{where}{shown(text)}: a range goes up, over at most {MOST_RELAYS:,} "
                        "addresses")
    if not (_is_host(first) and _is_host(last)):
        raise UserError(f"{where}{shown(text)}: a relay has the address of a host")
    return [IPv4Address(number) for number in range(int(first), int(last) + 1)]


def _tags(text: str | None, kind: str | None) -> tuple[tuple[int, Template], ...]:
    """VLAN tags as TPID and number; the outer one of a stack is a service tag (802.1ad)."""
    if not text:
        return ()
    parts = _TAG.findall(text)
    if ".".join(parts) != text or len(parts) > MOST_TAGS:
        raise click.BadParameter(f"{shown(text)}: write 100, 100.200 or {{1+index%48}}.7, with "
                                 "three tags at most", param_hint="--vlan")
    numbers = []
    for part in parts:
        with about("--vlan"):
            number = parse_number(part, "--vlan")
        if number.number is not None and number.number > _MOST_VLAN:
            raise click.BadParameter(f"{number.number} is no VLAN: they go to {_MOST_VLAN}",
                                     param_hint="--vlan")
        numbers.append(number)
    stacked = len(parts) > 1
    outer = ETH_P_8021AD if kind == "802.1ad" or (stacked and kind is None) else ETH_P_8021Q
    return tuple((ETH_P_8021Q if at else outer, number) for at, number in enumerate(numbers))
