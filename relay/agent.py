"""Our option 82 for one downlink: sub-options from templates (RFC 3046 section 3.0).

It says nothing about the client, so it is made once for each downlink; what a server sends back
is ours when it is the same, octet for octet.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address

from fastpath import values
from fastpath.document import did_you_mean, shown
from fastpath.errors import UserError
from fastpath.interface import Interface
from fastpath.packet import mac_text
from relay.model import Config

OPTION = 82
CIRCUIT_ID, REMOTE_ID, LINK_SELECTION, SUBSCRIBER_ID, SERVER_OVERRIDE = 1, 2, 5, 6, 11
_MOST = 255
_WORDS = ("ifname", "ifindex", "mac", "giaddr", "hostname")
_PLACE = re.compile(r"\{([^{}]*)\}")


def check_template(text: str) -> None:
    """Raise UserError where `text` is no template: words in braces that are known, or 0x hex."""
    _filled(text, dict.fromkeys(_WORDS, ""))


def _filled(text: str, words: Mapping[str, str]) -> bytes:
    if text[:2] in ("0x", "0X"):
        return values.hexadecimal(text)

    def word(match: re.Match[str]) -> str:
        if match[1] not in words:
            raise UserError(f"{shown(text)}: {{{match[1]}}} is not known",
                            did_you_mean(match[1], list(words)))
        return words[match[1]]

    if "{" in _PLACE.sub("", text) or "}" in _PLACE.sub("", text):
        raise UserError(f"{shown(text)}: a brace without its other half",
                        "for example eth{ifindex}")
    return _PLACE.sub(word, text).encode()


def agent_option(config: Config, interface: Interface, address: IPv4Address,
                 giaddr: IPv4Address) -> bytes:
    """The whole option, code and length included; empty where none is added here.

    address: ours on the downlink. Raises UserError where it has more than 255 octets.
    """
    if config.option82 == "none":
        return b""
    words = {"ifname": interface.name, "ifindex": str(interface.index),
             "mac": mac_text(interface.mac), "giaddr": str(giaddr),
             "hostname": socket.gethostname()}
    parts = [(CIRCUIT_ID, _filled(config.circuit_id, words)),
             (REMOTE_ID, _filled(config.remote_id, words)),
             (SUBSCRIBER_ID, _filled(config.subscriber_id, words))]
    if selects(config, interface.name):
        link = config.selections.get(interface.name, config.selections.get(""))
        parts.append((LINK_SELECTION, (link or address).packed))
    if config.override:
        parts.append((SERVER_OVERRIDE, address.packed))
    body = b""
    for code, value in parts:
        if len(value) > _MOST:
            raise UserError(f"sub-option {code} of option 82 on {interface.name!r} has "
                            f"{len(value)} octets, more than {_MOST}")
        if value:
            body += bytes([code, len(value)]) + value
    if len(body) > _MOST:
        raise UserError(f"option 82 on {interface.name!r} has {len(body)} octets, more than "
                        f"{_MOST}", "use shorter templates")
    if len(body) < 2:
        raise UserError(f"option 82 on {interface.name!r} is empty",
                        "give --circuit-id or --remote-id, or leave --option82 out")
    return bytes([OPTION, len(body)]) + body


def selects(config: Config, downlink: str) -> bool:
    """Whether requests from a downlink carry a link selection (RFC 3527)."""
    return downlink in config.selections or "" in config.selections
