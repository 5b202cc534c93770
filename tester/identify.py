"""Who clients say they are, from options of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from fastpath.document import shown
from fastpath.errors import UserError
from fastpath.options import END, PAD, encode_text, find
from fastpath.packet import mac_text, parse_mac
from tester.cells import INSTANCE, MESSAGE_NAMES, SOCKET, WHOLE
from tester.config import ALL_MESSAGES, WANTED_OPTIONS, Captured, Field, Identity, Where, mask_of
from tester.options import about, listed
from tester.payloads import message_parts, read_payload
from tester.speech import typed
from tester.template import parse

T = TypeVar("T")

_CLIENT_ID, _RELAY_INFORMATION = 61, 82
_CIRCUIT_ID, _REMOTE_ID = 1, 2
# RFC 2131 table 5: with these a client may say more than who it is.
_TALKATIVE = mask_of("discover", "request", "reboot", "renew", "rebind", "inform")
# What a relay agent, or a switch in its place, passes on. The rest goes past it.
_RELAYED = mask_of("discover", "request", "reboot", "rebind", "decline")
# (option of the command line, code, sub-option, messages).
_FIELDS = (
    ("client_id", _CLIENT_ID, WHOLE, ALL_MESSAGES),
    ("hostname", 12, WHOLE, _TALKATIVE),
    ("vendor_class", 60, WHOLE, _TALKATIVE),
    ("user_class", 77, INSTANCE, _TALKATIVE),
    ("circuit_id", _RELAY_INFORMATION, _CIRCUIT_ID, _RELAYED),
    ("remote_id", _RELAY_INFORMATION, _REMOTE_ID, _RELAYED),
)
# The type of a client identifier that is no hardware address (RFC 2132 section 9.14).
_NO_HARDWARE = 0
# Renewals and the like are REQUESTs; a capture does not tell them apart.
_KIND_OF = {"reboot": "request", "renew": "request", "rebind": "request"}
_OFFSETS = {"xid": "xid", "mac": "chaddr_end", "secs": "secs", "server": "server",
            "address": "address"}
# The same with the option's code and length written before the value.
_WHOLE_OPTIONS = {"server-option": ("server", b"\x36\x04"),
                  "address-option": ("address", b"\x32\x04")}
# Octets before the offset and from it on that belong to what is written there.
_ROOM = {"xid": (0, 4), "chaddr_end": (5, 1), "secs": (0, 2), "server": (0, 4),
         "address": (0, 4)}
_OFFSET = re.compile(r"[0-9]{1,5}")
# Types of options whose value is a text as it is written.
_TEXTUAL = ("string", "bytes", "client-id")
_MOST_OPTION, _MOST_NAME = 255, 64
_MOST_MACS = 1 << 25


def identity_from(given: Mapping[str, Any], where: Where) -> Identity:
    """Who clients are. Raises click.BadParameter."""
    with about("--mac-base"):
        mac_base = parse_mac(given["mac_base"])
        if mac_base[0] & 1:
            raise UserError(f"{mac_text(mac_base)} is a multicast address",
                            "use an even first octet")
    with about("--mac-list"):
        macs = _macs(given["mac_list"]) if given["mac_list"] else ()
    with about("--request-options"):
        wanted = _wanted(given["request_options"])
    fields = list(_own_fields(given, where))
    options: list[tuple[int, int, bytes]] = []
    for text in given["option"]:
        with about("--option"):
            made = _option(text)
        if isinstance(made, Field):
            fields.append(made)
        else:
            options.append(made)
    return Identity(
        mac_base=mac_base, mac_step=given["mac_step"], mac_carry=given["mac_carry"],
        macs=macs, wanted=wanted, max_message=given["max_message_size"],
        broadcast_flag=given["broadcast_flag"], rapid_commit=given["rapid_commit"],
        fields=tuple(fields), options=tuple(options),
        bases=_each_once("--template", map(_base, given["template"])),
        captured=_each_once("--raw-template", map(_captured, given["raw_template"])))


def _each_once(option: str, given: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What is given for each message."""
    found: dict[str, T] = {}
    for name, value in given:
        if name in found:
            raise click.BadParameter(f"{name} comes twice: give one", param_hint=option)
        found[name] = value
    return found


def _own_fields(given: Mapping[str, Any], where: Where) -> Iterator[Field]:
    for name, code, sub, messages in _FIELDS:
        values = given[name] if isinstance(given[name], tuple) else (given[name],)
        option = f"--{name.replace('_', '-')}"
        if where.mode == SOCKET and where.relays:
            # Nothing can go past this relay: it is who is answered.
            messages = ALL_MESSAGES if code == _RELAY_INFORMATION else messages
        for text in values:
            if text is None:
                continue
            with about(option):
                is_typed = code == _CLIENT_ID and not text.startswith("hex:")
                most = _MOST_OPTION - (1 if is_typed or sub == INSTANCE else 2 * (sub != WHOLE))
                template = parse(text, option, most)
                if template.shortest == 0:
                    raise UserError("it is empty", "leave the option out")
                if is_typed:
                    template = typed(template, _NO_HARDWARE)
            yield Field(messages, code, sub, template)


def code_of(text: str) -> int:
    """The code of an option that a message can carry, by name or number; raises UserError."""
    if len(text) > _MOST_NAME:
        raise UserError(f"unknown DHCP option {shown(text)}", "a number from 1 to 254 works too")
    code = find(text).code
    if code in (PAD, END):
        raise UserError(f"option {code} carries nothing", "codes go from 1 to 254")
    return code


def octets_of(name: str, value: str, option: str) -> bytes:
    """What an option holds that is the same for all clients; raises UserError."""
    if value.startswith("hex:"):
        constant = parse(value, option)
        if not constant.is_constant:
            raise UserError(f"{shown(value)} differs from client to client", "write octets")
        return b"".join(part for part in constant.parts if isinstance(part, bytes))
    return encode_text(code_of(name), value)[1]


def _wanted(text: str | None) -> tuple[int, ...]:
    if text is None:
        return WANTED_OPTIONS
    codes = tuple(code_of(part.strip()) for part in text.split(",") if part.strip())
    if len(codes) > 255:
        raise UserError(f"{len(codes)} options", "an option holds 255 octets")
    return codes


def _messages(text: str) -> int:
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in MESSAGE_NAMES:
            raise UserError(f"clients say no {shown(name)}", f"one of: {', '.join(MESSAGE_NAMES)}")
    return mask_of(*names)


def _option(text: str) -> Field | tuple[int, int, bytes]:
    """`[MSG,..:]OPTION=VALUE`, the same for all clients or, with {index}, one's own."""
    name, given, value = text.partition("=")
    if not given:
        raise UserError(f"{shown(text)} has no value", "write [MSG:]OPTION=VALUE, as 60=MSFT")
    messages, colon, key = name.rpartition(":")
    mask = _messages(messages) if colon else ALL_MESSAGES
    code = code_of(key)
    if "{" in value:
        template = parse(value, "--option")
        if not template.is_constant:
            if not value.startswith("hex:") and find(code).type.name not in _TEXTUAL:
                raise UserError(f"{shown(key)} is {find(code).type.form}, no text",
                                "write its octets, as hex:{index:4}")
            return Field(mask, code, WHOLE, template)
        if not value.startswith("hex:"):
            value = b"".join(p for p in template.parts if isinstance(p, bytes)).decode()
    return mask, code, octets_of(key, value, "--option")


def _named_file(text: str, option: str) -> tuple[str, str]:
    name, given, rest = text.partition("=")
    with about(option):
        if not given or not rest:
            raise UserError(f"{shown(text)} names no file", "write MSG=FILE, as discover=boot.pcap")
        name = name.strip().lower()
        if "," in name:
            raise UserError(f"{shown(name)} is more than one message", "give the option for each")
        _messages(name)
    return name, rest


def _base(text: str) -> tuple[str, tuple[bytes, bytes]]:
    name, path = _named_file(text, "--template")
    with about("--template"):
        payload = read_payload(Path(path), _KIND_OF.get(name, name))
        drop = {_CLIENT_ID}
        return name, message_parts(payload, drop)


def _captured(text: str) -> tuple[str, Captured]:
    name, rest = _named_file(text, "--raw-template")
    path, *settings = rest.split(",")
    with about("--raw-template"):
        payload = read_payload(Path(path), _KIND_OF.get(name, name))
        offsets: dict[str, int | None] = {}
        for setting in settings:
            key, _, number = setting.strip().partition("=")
            if (key not in _OFFSETS and key not in _WHOLE_OPTIONS) or not _OFFSET.fullmatch(number):
                names = ", ".join(f"{key}=N" for key in (*_OFFSETS, *_WHOLE_OPTIONS))
                raise UserError(f"{shown(setting)} is no offset", f"one of: {names}")
            at = int(number)
            if key in _WHOLE_OPTIONS:
                place, header = _WHOLE_OPTIONS[key]
                payload = payload[:at] + header + payload[at + 2:]
                at += len(header)
            else:
                place = _OFFSETS[key]
            before, size = _ROOM[place]
            if at and not before <= at <= len(payload) - size:
                raise UserError(f"{shown(setting)} is outside of a message of {len(payload)} "
                                "octets", "count from 0, at op; mac ends there; 0 is nowhere")
            offsets[place] = at or None
        return name, Captured(payload, **offsets)


def _macs(path: Path) -> tuple[int, ...]:
    seen: dict[int, int] = {}
    for number, text in listed(path):
        try:
            octets = parse_mac(text)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error.what}", error.remedy) from None
        mac = int.from_bytes(octets, "big")
        if octets[0] & 1:
            raise UserError(f"{path}:{number}: {text} is a multicast address",
                            "use an even first octet")
        if mac in seen:
            raise UserError(f"{path}:{number}: {text} stands in line {seen[mac]} too",
                            "list each address once")
        seen[mac] = number
    if not seen:
        raise UserError(f"{path}: no addresses in it", "one a line, as 02:00:00:00:00:01")
    if len(seen) > _MOST_MACS:
        raise UserError(f"{path}: more than {_MOST_MACS:,} addresses")
    return tuple(seen)
