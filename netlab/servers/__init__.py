"""The servers a lab can put to the test: one small module each, found by name here."""

from __future__ import annotations

from importlib import import_module

from fastpath.errors import UserError
from netlab.adapter import Server

# Name on the command line -> module with a `SERVER`. Modules load when they are asked for.
MODULES = {
    "dhcp-server": "netlab.servers.dhcp_server",
    "kea": "netlab.servers.kea",
    "isc-dhcpd": "netlab.servers.isc_dhcpd",
    "dnsmasq": "netlab.servers.dnsmasq",
    "udhcpd": "netlab.servers.udhcpd",
    "command": "netlab.servers.command",
    "external": "netlab.servers.external",
}
DEFAULT = "dhcp-server"


def find(name: str) -> Server:
    """The adapter called `name`; UserError when there is none."""
    if name not in MODULES:
        raise UserError(f"no server {name!r}", f"there is: {', '.join(MODULES)}")
    server: Server = import_module(MODULES[name]).SERVER
    return server
