"""From what flags, environment and file said (as click has put it together) to a `Config`.

One rule of precedence: flag, then environment, then configuration file, then default. What a
flag can say reaches us as the value of a flag, wherever it was said; what only a file can say
comes as its `Structure`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from ipaddress import IPv4Address
from typing import Any

from fastpath import options as registry
from fastpath.errors import UserError
from fastpath.faultmodel import Fault
from fastpath.faultspec import parse_fault
from server.app import Ways
from server.model import Config, Range, Settings
from server.ports import transport_of
from server.structure import Structure
from server.values import parse_option

_NAME_SERVER = 6
_ONE_POOL = {"start_ip": "--start-ip", "end_ip": "--end-ip", "netmask": "--netmask",
             "gateway": "--gateway"}
_DEFAULT_LEASE_S = 86400


def _seconds(value: float | None) -> int | None:
    return None if value is None else round(value)


def _settings(given: Mapping[str, Any], structure: Structure) -> Settings:
    said = {"lease_time_s": _seconds(given["lease_time"]),
            "min_lease_time_s": _seconds(given["min_lease_time"]),
            "max_lease_time_s": _seconds(given["max_lease_time"]),
            "next_server": given["next_server"], "boot_file": given["boot_file"],
            "server_name": given["server_name"]}
    found = replace(structure.settings, **{name: value for name, value in said.items()
                                           if value is not None})
    options = dict(found.options)
    name_servers = [address for address in (given["dns1"], given["dns2"]) if address]
    if name_servers:
        options[_NAME_SERVER] = registry.find(_NAME_SERVER).encode(name_servers)
    options.update(map(parse_option, given["option"]))
    return replace(found, lease_time_s=_lease_time_s(found), options=options)


def _lease_time_s(found: Settings) -> int:
    """What a client gets that asks for no time, within what one may ask for."""
    least, most, lease_s = found.min_lease_time_s, found.max_lease_time_s, found.lease_time_s
    if least is not None and most is not None and least > most:
        raise UserError(f"--min-lease-time {least}s is more than --max-lease-time {most}s")
    if lease_s is None:
        within = max(_DEFAULT_LEASE_S, least or 0)
        return within if most is None else min(within, most)
    if least is not None and lease_s < least:
        raise UserError(f"--lease-time {lease_s}s is less than --min-lease-time {least}s")
    if most is not None and lease_s > most:
        raise UserError(f"--lease-time {lease_s}s is more than --max-lease-time {most}s")
    return lease_s


def _faults(given: Mapping[str, Any], structure: Structure) -> tuple[Fault, ...]:
    found = list(structure.faults)
    if given["drop_rate"]:
        found.append(Fault("drop", rate=given["drop_rate"]))
    if given["response_delay"] or given["response_jitter"]:
        found.append(Fault("delay", delay_s=given["response_delay"],
                           jitter_s=given["response_jitter"],
                           distribution=given["response_distribution"]))
    return (*found, *map(parse_fault, given["fault"]))


def _interfaces(names: Iterable[str]) -> tuple[str, ...]:
    found = [name.strip() for each in names for name in each.split(",") if name.strip()]
    return tuple(dict.fromkeys(found))


def make_config(given: Mapping[str, Any], structure: Structure | None) -> Config:
    """given: values by parameter name of the command. Raises UserError."""
    structure = structure or Structure()
    if structure.networks:
        for name, flag in _ONE_POOL.items():
            if given[name] is not None:
                raise UserError(f"{flag} beside the subnets of the configuration file",
                                "say it in the file, or leave one of the two out")
    listen = given["listen"]
    config = Config(
        interfaces=_interfaces(given["interface"]),
        listen=None if listen == IPv4Address(0) else listen,
        port=given["port"], transport=given["transport"] or "",
        range=Range(given["start_ip"], given["end_ip"], given["netmask"], given["gateway"]),
        networks=structure.networks, classes=structure.classes,
        settings=_settings(given, structure),
        offer_hold_s=max(1, round(given["offer_hold"])),
        decline_hold_s=max(1, round(given["decline_hold"])),
        faults=_faults(given, structure),
        **{name: given[name] for name in ("authoritative", "rapid_commit", "bootp", "relay",
                                          "max_hops", "max_concurrent", "seed", "ring_slots")})
    return replace(config, transport=transport_of(config))


def make_ways(given: Mapping[str, Any]) -> Ways:
    """How to run, from the same values."""
    names = {field.name for field in fields(Ways)}
    return Ways(stats_file=given["stats_json"],
                **{name: value for name, value in given.items()
                   if name in names and value is not None})
