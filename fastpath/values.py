"""Values as people write them in a configuration: text to checked value, UserError else.

The one thing to know: every reader takes text and says in its error what the text is not;
where it stood is added by whoever knows (`document.taken`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

from fastpath.cli import parse_duration_s
from fastpath.document import did_you_mean, shown
from fastpath.errors import UserError

_CHADDR = re.compile(r"[0-9a-f]{2}([:-])[0-9a-f]{2}(\1[0-9a-f]{2}){4}"
                     r"|([0-9a-f]{4}\.){2}[0-9a-f]{4}", re.IGNORECASE)
_TRUE = ("1", "t", "true", "yes", "on")
_FALSE = ("0", "f", "false", "no", "off")
_NUMBER = re.compile(r"[0-9]{1,18}")
_RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:[eE]-?[0-9]{1,3})?(%?)")


def address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text.strip())
    except ValueError:
        raise UserError(f"{shown(text.strip())} is not an IPv4 address",
                        "for example 192.0.2.1") from None


def prefix(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text.strip(), strict=False)
    except ValueError:
        raise UserError(f"{shown(text)} is not a subnet", "for example 192.0.2.0/24") from None
    if "/" not in text or not network.prefixlen:
        raise UserError(f"{shown(text)} is not a subnet", "for example 192.0.2.0/24")
    if IPv4Address(text.split("/")[0].strip()) != network.network_address:
        raise UserError(f"{shown(text)} has bits set behind its prefix", f"write {network}")
    return network


def span(text: str) -> tuple[IPv4Address, IPv4Address]:
    """First and last address of `A - B`, of a prefix, or of one address."""
    if "/" in text:
        network = prefix(text)
        return network[0], network[-1]
    first, dash, last = text.partition("-")
    start = address(first)
    end = address(last) if dash else start
    if end < start:
        raise UserError(f"{start} - {end} ends before it starts", f"write {end} - {start}")
    return start, end


def duration_s(text: str) -> float:
    """Seconds, up to ten years; raises UserError."""
    seconds = parse_duration_s(text)
    if seconds > 10 * 366 * 86400:
        raise UserError(f"{shown(text)} is longer than ten years")
    return seconds


def rate(text: str) -> float:
    """A share from 0 to 1: `0.05` or `5%`."""
    match = _RATE.fullmatch(text.strip())
    share = float(text.strip().rstrip("%")) / (100 if match[2] else 1) if match else -1
    if not 0 <= share <= 1:
        raise UserError(f"{shown(text)} is not a rate from 0 to 1", "for example 0.05 or 5%")
    return share


def switch(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE + _FALSE:
        raise UserError(f"{shown(text)} is neither true nor false", "write true or false")
    return word in _TRUE


def whole(low: int, high: int) -> Callable[[str], int]:
    """A reader of whole numbers from `low` to `high`."""

    def read(text: str) -> int:
        digits = text.strip()
        if not _NUMBER.fullmatch(digits) or not low <= int(digits) <= high:
            raise UserError(f"{shown(text)} is not a whole number from {low} to {high}")
        return int(digits)

    return read


def choice(*known: str) -> Callable[[str], str]:
    """A reader of one word out of `known`; `_` and `-` are one."""

    def read(text: str) -> str:
        word = text.strip().lower().replace("_", "-")
        if word not in known:
            raise UserError(f"{shown(text)} is not known", did_you_mean(word, list(known)))
        return word

    return read


def log_level(text: str) -> str:
    """One of debug, info, warning and error; `warn` is a short form."""
    known = choice("debug", "info", "warning", "error", "warn")(text)
    return "warning" if known == "warn" else known


log_format = choice("text", "json")


def line(most_octets: int) -> Callable[[str], str]:
    """A reader of printable text of 1 to `most_octets` octets."""

    def read(text: str) -> str:
        if not text.isprintable() or not 1 <= len(text.encode()) <= most_octets:
            raise UserError(f"{shown(text)} is not a line of 1 to {most_octets} octets")
        return text

    return read


def interface(text: str) -> str:
    """A name that Linux takes for an interface (dev_valid_name): at most 15 octets."""
    name = text.strip()
    fits = 1 <= len(name.encode()) <= 15 and name.isprintable()
    if not fits or name in (".", "..") or re.search(r"[\s/:]", name):
        raise UserError(f"{shown(text)} cannot be the name of an interface",
                        "1 to 15 characters without blank, slash and colon")
    return name


def name(text: str) -> str:
    """What a class, network or other thing is called."""
    if text != text.strip() or not text.isprintable() or not 1 <= len(text) <= 64:
        raise UserError(f"{shown(text)} is not a name",
                        "1 to 64 printable characters, no blank at either end")
    return text


def octets(text: str) -> bytes:
    """What a client sends: 0x hexadecimal, else the text itself."""
    return hexadecimal(text) if text[:2] in ("0x", "0X") else text.encode()


def hexadecimal(text: str) -> bytes:
    """Octets of hexadecimal digits, with or without 0x before them."""
    try:
        return bytes.fromhex(text[2:] if text[:2] in ("0x", "0X") else text)
    except ValueError:
        raise UserError(f"{shown(text)} is not hexadecimal", "for example 0x0102") from None


def chaddr(text: str) -> bytes:
    if not _CHADDR.fullmatch(text.strip()):
        raise UserError(f"{shown(text)} is not an Ethernet address",
                        "for example 02:00:00:00:00:01")
    return bytes.fromhex(re.sub(r"[.:-]", "", text.strip()))
