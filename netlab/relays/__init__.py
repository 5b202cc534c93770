"""The relays that can stand in a lab: one small module each, found by name here."""

from __future__ import annotations

from importlib import import_module

from fastpath.errors import UserError
from netlab.adapter import Relay

# Name on the command line -> module with a `RELAY`. Modules load when they are asked for.
MODULES = {
    "dhcp-relay": "netlab.relays.dhcp_relay",
    "dhcrelay": "netlab.relays.dhcrelay",
    "dnsmasq": "netlab.relays.dnsmasq",
}
DEFAULT = "dhcp-relay"


def find(name: str) -> Relay:
    """The adapter called `name`; UserError when there is none."""
    if name not in MODULES:
        raise UserError(f"no relay {name!r}", f"there is: {', '.join(MODULES)}")
    relay: Relay = import_module(MODULES[name]).RELAY
    return relay
