"""What the server would really use, as YAML: what `--check` prints.

The one thing to know: the text is a configuration file itself, and reading it gives the same
configuration again; every value that holds is written, also where it is the default.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any

from fastpath import options as registry
from fastpath.cli import parse_duration_s
from fastpath.errors import UserError
from fastpath.faultmodel import Fault
from server.model import (
    CLASS_OPTIONS,
    FOREVER_S,
    ClientClass,
    Config,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.values import circuit_id, client_id

Written = dict[str, Any]
_CLASS_KEYS = {code: name.replace("-", "_") for name, code in CLASS_OPTIONS.items()}


def effective(config: Config, more: Mapping[str, object] | None = None) -> str:
    """The YAML text of a configuration. more: further keys, for how the server runs."""
    import yaml

    server = {**_server(config), **_said(dict(more or {}))}
    return yaml.safe_dump({"server": server}, sort_keys=False, allow_unicode=True, width=100)


def _server(config: Config) -> Written:
    pool = config.range
    alone, shared = _divided(config.networks)
    return _said({
        "interfaces": list(config.interfaces), "listen": _text(config.listen),
        "port": config.port, "transport": config.transport,
        "ip_pool": _said({"start": _text(pool.start), "end": _text(pool.end)}),
        "netmask": _text(pool.netmask), "gateway": _text(pool.gateway),
        **_settings(config.settings),
        "offer_hold": duration(config.offer_hold_s),
        "decline_hold": duration(config.decline_hold_s),
        "authoritative": config.authoritative, "rapid_commit": config.rapid_commit,
        "bootp": config.bootp, "relay": config.relay, "max_hops": config.max_hops,
        "max_concurrent": config.max_concurrent, "seed": config.seed,
        "ring_slots": config.ring_slots,
        "classes": [_class(each) for each in config.classes],
        "subnets": [_lone(each) for each in alone],
        "shared_networks": [_network(each) for each in shared],
        "faults": [_fault(each) for each in config.faults],
    })


def _said(fields: Written) -> Written:
    """`fields` without those that say nothing."""
    return {key: value for key, value in fields.items()
            if value is not None and value not in ("", [], {})}


def _text(value: IPv4Address | None) -> str | None:
    return None if value is None else str(value)


def duration(seconds: float) -> str | float:
    """A time as the reader takes it, in the unit in which it is shortest to read and exact."""
    for unit, count in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if seconds and seconds % count == 0:
            return f"{int(seconds // count)}{unit}"
    in_ms = f"{round(seconds * 1e3)}ms"
    return in_ms if parse_duration_s(in_ms) == seconds else seconds


def _lease(seconds: int | None) -> str | float | None:
    if seconds is None:
        return None
    return "infinite" if seconds == FOREVER_S else duration(seconds)


def _settings(settings: Settings) -> Written:
    return _said({
        "lease_time": _lease(settings.lease_time_s),
        "min_lease_time": _lease(settings.min_lease_time_s),
        "max_lease_time": _lease(settings.max_lease_time_s),
        "renewal_time": _lease(settings.renewal_time_s),
        "rebinding_time": _lease(settings.rebinding_time_s),
        "next_server": _text(settings.next_server), "boot_file": settings.boot_file,
        "server_name": settings.server_name, "options": _options(settings.options),
    })


def _options(options: Mapping[int, bytes]) -> Written:
    return {registry.name_of(code): _option(code, octets) for code, octets in options.items()}


def _option(code: int, octets: bytes) -> str | dict[str, str]:
    text = registry.find(code).format_octets(octets)
    try:
        same = registry.encode_text(str(code), text)[1] == octets
    except UserError:
        same = False
    # What no text of this type says (octets that are not of the type at all) is said in hex.
    return text if same else {"hex": octets.hex()}


def _pattern(octets: bytes) -> str:
    text = octets.decode("utf-8", "replace")
    plain = text.isprintable() and text[:2].lower() != "0x" and text.encode() == octets
    return text if plain else "0x" + octets.hex()


def _class(each: ClientClass) -> Written:
    found: Written = {"name": each.name}
    for match in each.matches:
        hows = found.setdefault(_CLASS_KEYS[match.option], {})
        hows.setdefault(match.how.replace("-", "_"), []).append(_pattern(match.value))
    return {**found, **_settings(each.settings)}


def _divided(networks: Iterable[SharedNetwork]) -> tuple[list[SharedNetwork], list[SharedNetwork]]:
    """Networks that `subnets` can say, and those from the first on that it cannot."""
    alone: list[SharedNetwork] = []
    shared: list[SharedNetwork] = []
    for network in networks:
        single = (not shared and len(network.subnets) == 1
                  and network.name == str(network.subnets[0].network)
                  and network.settings == Settings())
        (alone if single else shared).append(network)
    return alone, shared


def _lone(network: SharedNetwork) -> Written:
    subnet, = network.subnets
    return _said({"interface": network.interface, **_subnet(subnet)})


def _network(network: SharedNetwork) -> Written:
    return _said({"name": network.name, "interface": network.interface,
                  **_settings(network.settings),
                  "subnets": [_subnet(each) for each in network.subnets]})


def _subnet(subnet: Subnet) -> Written:
    return _said({"subnet": str(subnet.network), **_settings(subnet.settings),
                  "pools": [_pool(each) for each in subnet.pools],
                  "reservations": [_reservation(each) for each in subnet.reservations]})


def _pool(pool: Pool) -> Written:
    exclude = [str(first) if first == last else f"{first} - {last}" for first, last in pool.exclude]
    return _said({"range": f"{pool.start} - {pool.end}", "exclude": exclude,
                  "classes": list(pool.only), **_settings(pool.settings)})


def _reservation(each: Reservation) -> Written:
    return {each.by.replace("-", "_"): _key(each), "address": str(each.address),
            **_settings(each.settings)}


def _key(each: Reservation) -> str:
    if each.by == "chaddr":
        return each.key.hex(":")
    row, read = ((registry.find("client-id"), client_id) if each.by == "client-id" else
                 (registry.find_suboption("circuit-id"), circuit_id))
    text = row.format_octets(each.key)
    try:
        same = read(text) == each.key
    except UserError:
        same = False
    return text if same else "0x" + each.key.hex()


def _fault(fault: Fault) -> Written:
    delays: Written = {"delay": duration(fault.delay_s), "jitter": duration(fault.jitter_s),
                       "distribution": fault.distribution} if fault.kind == "delay" else {}
    return _said({
        "kind": fault.kind, "messages": sorted(fault.messages), "rate": fault.rate, **delays,
        "option": registry.name_of(fault.option) if fault.option else None,
        "from": duration(fault.from_s),
        "until": duration(fault.until_s) if fault.until_s < math.inf else None,
        **({"every": duration(fault.every_s), "for": duration(fault.for_s)}
           if fault.every_s else {}),
    })
