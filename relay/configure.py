"""From what flags, environment and file said (as click has put it together) to a `Config`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import Any, TypeVar

from fastpath import values
from fastpath.errors import UserError
from fastpath.faultmodel import Fault
from fastpath.faultspec import parse_fault
from relay.agent import check_template
from relay.model import DEFAULT_CIRCUIT_ID, Config

T = TypeVar("T")

# dhcrelay's words for what is done about an option 82 that is there already.
AGENT_POLICIES = {"append": "append", "replace": "replace", "forward": "keep", "discard": "drop"}


def _names(said: Iterable[str], flag: str) -> tuple[str, ...]:
    found = [name.strip() for each in said for name in each.split(",")]
    for name in found:
        try:
            values.interface(name)
        except UserError as error:
            raise UserError(f"{flag}: {error.what}", error.remedy) from None
    return tuple(dict.fromkeys(found))


def _by_interface(said: Iterable[str], flag: str, read: Callable[[str], T]) -> dict[str, T]:
    """Values of `[IFACE=]VALUE`, by interface, "" for all others; raises UserError."""
    found: dict[str, T] = {}
    for each in said:
        name, equals, value = each.rpartition("=")
        name = name.strip()
        if name in found:
            raise UserError(f"{flag} is given twice{f' for {name}' if name else ''}")
        try:
            found[values.interface(name) if equals else ""] = read(value)
        except UserError as error:
            raise UserError(f"{flag}: {error.what}", error.remedy) from None
    return found


def _host(text: str) -> IPv4Address:
    """An address that one machine can have."""
    address = values.address(text)
    if (address.is_unspecified or address.is_multicast or address.is_loopback
            or address == IPv4Address(0xFFFFFFFF)):
        raise UserError(f"{address} is no machine's address", "for example 192.0.2.1")
    return address


def _selection(text: str) -> IPv4Address | None:
    return None if text.strip().lower() == "auto" else _host(text)


def _servers(given: Mapping[str, Any]) -> tuple[IPv4Address, ...]:
    found = tuple(dict.fromkeys((*given["server"], *given["servers"])))
    if not found:
        raise UserError("no server is given", "for example --server 10.0.0.1")
    for address in found:
        if address.is_unspecified or address.is_multicast or address.is_loopback:
            raise UserError(f"server {address} is no address to relay to",
                            "give the address of a server, or a broadcast address")
    return found


def _policy(given: Mapping[str, Any]) -> str:
    """What is done about option 82: our word for it, or dhcrelay's -a and -m."""
    if given["option82"] and (given["append"] or given["agent_policy"]):
        raise UserError("--option82 beside -a or -m: both say the same",
                        "leave one of them out")
    if given["agent_policy"]:
        return AGENT_POLICIES[given["agent_policy"]]
    return given["option82"] or ("append" if given["append"] else "none")


def _check_option82(config: Config, given: Mapping[str, Any]) -> None:
    if config.option82 == "none":
        needs = {"--link-selection": config.selections, "--server-id-override": config.override,
                 "--remote-id": config.remote_id, "--subscriber-id": config.subscriber_id,
                 "--circuit-id": given["circuit_id"] is not None}
        for flag, said in needs.items():
            if said:
                raise UserError(f"{flag} is a part of option 82, and none is added",
                                "add --option82 append")
    for flag, text in (("--circuit-id", config.circuit_id), ("--remote-id", config.remote_id),
                       ("--subscriber-id", config.subscriber_id)):
        try:
            check_template(text)
        except UserError as error:
            raise UserError(f"{flag}: {error.what}", error.remedy) from None


def _faults(said: Iterable[str]) -> tuple[Fault, ...]:
    found = tuple(map(parse_fault, said))
    for fault in found:
        if fault.kind == "nak":
            raise UserError("fault nak: a relay refuses nobody", "it is a fault of dhcp-server")
    return found


def make_config(given: Mapping[str, Any]) -> Config:
    """given: values by parameter name of the command. Raises UserError."""
    downlinks = _names(given["downlink"], "--downlink")
    if not downlinks:
        raise UserError("no interface towards clients is given", "for example --downlink eth0")
    circuit_id = given["circuit_id"]
    config = Config(
        downlinks=downlinks, servers=_servers(given), uplinks=_names(given["uplink"], "--uplink"),
        giaddrs=_by_interface(given["giaddr"], "--giaddr", _host),
        max_hops=given["max_hops"], min_secs=given["min_secs"], option82=_policy(given),
        trusted=frozenset(_names(given["trust"], "--trust")),
        circuit_id=DEFAULT_CIRCUIT_ID if circuit_id is None else circuit_id,
        remote_id=given["remote_id"], subscriber_id=given["subscriber_id"],
        selections=_by_interface(given["link_selection"], "--link-selection", _selection),
        override=given["server_id_override"], faults=_faults(given["fault"]),
        seed=given["fault_seed"], ring_slots=given["ring_slots"])
    _check_option82(config, given)
    return config
