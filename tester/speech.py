"""From what clients are told to say to the arrays that `compose` writes messages from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address

import numpy as np

from fastpath import wire
from fastpath.errors import UserError
from fastpath.message import Message
from fastpath.options import name_of
from fastpath.packet import Frame
from tester.arrays import Messages
from tester.cells import (
    E_HANDOVER,
    FIELD_SIZE,
    INSTANCE,
    MESSAGE_NAMES,
    MESSAGES,
    RAW_SIZE,
    TYPE_OF,
    V_CODE,
    V_COUNT,
    V_FIRST,
    V_MESSAGES,
    V_SUB,
    W_ADDRESS,
    W_CHADDR_END,
    W_RAW,
    W_SECS,
    W_SERVER,
    W_XID,
    WHOLE,
)
from tester.config import Captured, Field, Identity, TestConfig, mask_of
from tester.template import STACK, VARIABLES, Template, pack

# RFC 2131 table 5: who gives back or refuses an address asks for nothing.
_ASKING = ("discover", "request", "reboot", "renew", "rebind", "inform")
# Only who has no address yet needs its answer broadcast.
_WITHOUT_ADDRESS = ("discover", "request", "reboot")
_MOST_HEAD = 1400
_RAPID_COMMIT, _RELAY_OPTION = 80, 82
# What `compose` writes for each client (RFC 2131 table 5): requested address, server identifier.
_WANTED, _SERVER_ID = 50, 54
_WRITTEN = {_WANTED: ("request", "reboot", "decline"),
            _SERVER_ID: ("request", "release", "decline")}
_MOST_OPTION = 255
_MTU = 1500
# Requested address and server identifier; the end, and what a malformed message grows by.
_OF_LEASE, _SPARE = 12, 21


def _message(identity: Identity, name: str) -> Message:
    """What all clients say in a message of this name, without what differs."""
    kind = TYPE_OF[MESSAGE_NAMES.index(name)]
    broadcast = identity.broadcast_flag and name in _WITHOUT_ADDRESS
    message = Message(op=wire.BOOTREQUEST, flags=wire.BROADCAST_FLAG if broadcast else 0)
    message.set("message-type", wire.MessageType(kind))
    if name in _ASKING:
        if identity.wanted:
            message.set("parameter-request-list", list(identity.wanted))
        if identity.max_message:
            message.set("max-message-size", identity.max_message)
    message.options |= _given(identity, name)
    for code in _made(identity, name):
        # The template says it for each client.
        message.options.pop(code, None)
    return message


def _given(identity: Identity, name: str) -> dict[int, bytes]:
    """Options that all clients send in a message because they were told to."""
    given = {_RAPID_COMMIT: b""} if name == "discover" and identity.rapid_commit else {}
    bit = mask_of(name)
    return given | {code: octets for messages, code, octets in identity.options if messages & bit}


def _made(identity: Identity, name: str) -> set[int]:
    """Options of a message that are made from templates."""
    return {field.code for field in identity.fields if field.messages & mask_of(name)}


def _payload(identity: Identity, name: str) -> bytes:
    """The BOOTP part up to the last option that all clients share, without an end."""
    message = _message(identity, name)
    if name not in identity.bases:
        return message.encode(min_size=0)[:-1]
    fixed, options = identity.bases[name]
    made = _made(identity, name)
    given = {code: octets for code, octets in _given(identity, name).items() if code not in made}
    flags = int.from_bytes(fixed[wire.FLAGS:wire.FLAGS + 2], "big") | message.flags
    payload = bytearray(fixed)
    payload[wire.FLAGS:wire.FLAGS + 2] = flags.to_bytes(2, "big")
    at = 0
    while at < len(options):
        after = at + 2 + options[at + 1]
        if options[at] not in made | given.keys():
            payload += options[at:after]
        at = after
    return bytes(payload) + Message(options=given).encode(min_size=0)[wire.OPTIONS:-1]


def _head(config: TestConfig, name: str) -> bytes:
    """From the IPv4 header on; addresses are those of a client's broadcast."""
    captured = config.identity.captured.get(name)
    payload = captured.payload if captured else _payload(config.identity, name)
    where = config.where
    frame = Frame(src_ip=IPv4Address(0), dst_ip=IPv4Address(0xFFFFFFFF),
                  src_port=where.client_port, dst_port=where.server_port, payload=payload)
    head = frame.encode()[wire.ETH_HEADER:]
    if len(head) > _MOST_HEAD:
        raise UserError(f"a {name} of {len(head):,} octets leaves no room for what differs per "
                        "client", f"options may take up to {_MOST_HEAD - 268:,} octets")
    return head


def _raw(captured: Captured | None) -> list[int]:
    row = [-1] * RAW_SIZE
    row[W_RAW] = 0
    if captured:
        row[W_RAW] = 1
        for cell, offset, size in ((W_XID, captured.xid, 4), (W_SECS, captured.secs, 2),
                                   (W_CHADDR_END, captured.chaddr_end, 1),
                                   (W_SERVER, captured.server, 4),
                                   (W_ADDRESS, captured.address, 4)):
            if offset is None:
                continue
            if not 0 <= offset <= len(captured.payload) - size:
                raise UserError(f"offset {offset} is outside of a template of "
                                f"{len(captured.payload)} octets", "offsets count from 0, at op")
            row[cell] = offset
        if 0 <= row[W_CHADDR_END] < 5:
            raise UserError(f"offset {row[W_CHADDR_END]} leaves no room for a hardware address",
                            "it is where the last of its six octets stands")
    return row


def _ordered(fields: Sequence[Field]) -> list[Field]:
    """Sub-options of one option side by side, and option 82 last (RFC 3046 section 2.1)."""
    first: dict[int, int] = {}
    for at, field in enumerate(fields):
        first.setdefault(field.code, at)
    return sorted(fields, key=lambda f: (f.code == _RELAY_OPTION, first[f.code]))


def _check_written(config: TestConfig) -> None:
    """Raise UserError for an option that a message would then carry twice."""
    identity = config.identity
    given = [(messages, code) for messages, code, _ in identity.options]
    for messages, code in given + [(field.messages, field.code) for field in identity.fields]:
        names = _WRITTEN.get(code, ())
        if code == _WANTED and any(b.ending == E_HANDOVER for b, _ in config.mix):
            names = ("discover", *names)
        for name in names:
            if messages & mask_of(name) and name not in identity.captured:
                raise UserError(f"option {code} ({name_of(code)}) of a {name} cannot be set: "
                                "each client writes its own",
                                f"leave out these messages: {', '.join(names)}")


def _check_room(identity: Identity, name: str, length: int) -> None:
    """Raise UserError where options made from templates are too long, whoever the client is.

    length: octets of the head. What is too long for some clients only is cut off.
    """
    sizes: dict[int, int] = {}
    nested = set()
    for field in identity.fields:
        if field.messages & mask_of(name):
            own = {WHOLE: 0, INSTANCE: 1}.get(field.sub, 2)
            sizes[field.code] = sizes.get(field.code, 0) + own + field.template.shortest
            if field.sub != WHOLE:
                nested.add(field.code)
    for code in sorted(nested):
        if sizes[code] > _MOST_OPTION:
            raise UserError(f"option {code} ({name_of(code)}) of {sizes[code]} octets or more, "
                            f"{_MOST_OPTION} is the most", "make what is in it shorter")
    least = length + _OF_LEASE + sum(2 + size for size in sizes.values())
    if sizes and least > _MTU - _SPARE:
        raise UserError(f"a {name} of {least:,} octets or more, {_MTU - _SPARE:,} is the most",
                        "send fewer options, or shorter ones")


def _relay_option_apart(identity: Identity) -> Identity:
    """A given option 82 among the fields, which stand behind the options of a lease."""
    fields = list(identity.fields)
    for messages, code, octets in reversed(identity.options):
        if code == _RELAY_OPTION:
            for field in fields:
                if field.code == code:
                    messages &= ~field.messages
            fields += [Field(messages, code, WHOLE, Template((octets[at:at + _MOST_OPTION],)))
                       for at in range(0, len(octets) or 1, _MOST_OPTION)]
    kept = tuple(option for option in identity.options if option[1] != _RELAY_OPTION)
    return replace(identity, fields=tuple(fields), options=kept)


def make_messages(config: TestConfig) -> Messages:
    """All that clients say; raises UserError where it does not fit."""
    _check_written(config)
    config = replace(config, identity=_relay_option_apart(config.identity))
    identity = config.identity
    heads = np.zeros((MESSAGES, _MOST_HEAD), np.uint8)
    lengths = np.zeros(MESSAGES, np.int64)
    for row, name in enumerate(MESSAGE_NAMES):
        head = _head(config, name)
        heads[row, :len(head)] = np.frombuffer(head, np.uint8)
        lengths[row] = len(head)
        if name not in identity.captured:
            _check_room(identity, name, len(head))
    fields = _ordered(identity.fields)
    templates = [field.template for field in fields] + [tag for _, tag in config.where.tags]
    programs, ranges = pack(templates)
    table = np.zeros((len(fields), FIELD_SIZE), np.int64)
    for row, field in enumerate(fields):
        cells = table[row]
        cells[V_MESSAGES], cells[V_CODE], cells[V_SUB] = field.messages, field.code, field.sub
        cells[V_FIRST], cells[V_COUNT] = ranges[row]
    tags = np.zeros((3, 3), np.int64)
    for row, (tpid, _) in enumerate(config.where.tags):
        tags[row] = tpid, *ranges[len(fields) + row]
    raw = np.array([_raw(identity.captured.get(name)) for name in MESSAGE_NAMES], np.int64)
    return Messages(heads, lengths, raw, table, tags, programs,
                    np.zeros(len(VARIABLES), np.int64), np.zeros(STACK, np.int64))


def typed(template: Template, kind: int) -> Template:
    """The template with an octet before it, as the type of a client identifier (RFC 2132 9.14)."""
    match template.parts:
        case (bytes() as first, *rest):
            return replace(template, parts=(bytes([kind]) + first, *rest))
    return replace(template, parts=(bytes([kind]), *template.parts))
