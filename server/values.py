"""Values that only dhcp-server's configuration has: text to checked value, UserError else.

What other programs' configurations have too is read by `fastpath.values`.
"""

from __future__ import annotations

from fastpath import options as registry
from fastpath.cli import parse_duration_s
from fastpath.document import shown
from fastpath.errors import UserError
from fastpath.values import line
from server.model import FOREVER_S

# What the server itself decides in every message, and the setting to say it with instead.
_DECIDED = {0: "", 50: "", 51: "lease_time", 52: "", 53: "", 54: "listen", 55: "", 57: "",
            58: "renewal_time", 59: "rebinding_time", 61: "", 80: "rapid_commit", 82: "",
            255: ""}


def lease_s(text: str) -> int:
    """Whole seconds of a lease, 1 to FOREVER_S; `infinite` is for ever."""
    seconds = FOREVER_S if text.strip() == "infinite" else round(parse_duration_s(text))
    if not 1 <= seconds <= FOREVER_S:
        raise UserError(f"{shown(text)} is not from 1s to {FOREVER_S}s",
                        "write infinite for a lease that never ends")
    return seconds


# The fields hold 128 and 64 octets with a NUL at the end (RFC 2131 section 2).
boot_file, server_name = line(127), line(63)


def _key(found: bytes, text: str) -> bytes:
    if not 1 <= len(found) <= 255:
        raise UserError(f"{shown(text)} is not 1 to 255 octets")
    return found


def client_id(text: str) -> bytes:
    """Octets of option 61 (RFC 2132 section 9.14); a text gets type 0, an address type 1."""
    return _key(registry.encode_text("client-id", text)[1], text)


def circuit_id(text: str) -> bytes:
    """Octets of the sub-option of option 82 (RFC 3046 section 3.1)."""
    row = registry.find_suboption("circuit-id")
    return _key(row.encode(row.parse_text(text)), text)


def settable(key: str) -> registry.Option:
    """The option of a name or number, unless the server decides it itself."""
    option = registry.find(key)
    if option.code in _DECIDED:
        instead = _DECIDED[option.code]
        raise UserError(f"option {option.name} cannot be set: the server decides it",
                        f"set {instead} instead" if instead else "leave it out")
    return option


def parse_option(text: str) -> tuple[int, bytes]:
    """Code and octets of `NAME=VALUE`, NAME a name or number; raises UserError."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"option {shown(text)} has no value", "write NAME=VALUE, for example "
                        "domain-name=example.org")
    option = settable(key)
    return option.code, option.encode(option.parse_text(value))
