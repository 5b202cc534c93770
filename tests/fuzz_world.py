"""What a fuzz run is made of: the frames it begins with, and a server with all that can be told.

The one thing to know: clients speak of the addresses in `NETWORKS`, so most of what they say
makes sense to the server that `configuration` describes.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import numpy as np

from fastpath import wire
from fastpath.faultmodel import Fault
from fastpath.message import Message
from fastpath.packet import Frame
from fastpath.wire import MessageType
from server.model import (
    ClientClass,
    Config,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from tests.frames import repaired
from tests.mutation import CLIENT_MAC, OF_CLIENT, OF_FRAME, Seeds, make_seeds, secret
from tests.serving import SERVER

IP = IPv4Address
CAPTURED = Path(__file__).parent / "data" / "fuzz_seeds.txt"
CLIENTS = 40
# Of the first, clients need no relay; the last belongs to the clients that must keep theirs.
_PLACES = (("192.0.2.1", "192.0.2.16", 64), ("10.1.0.1", "10.1.0.16", 32),
           ("10.2.0.1", "10.2.0.16", 9), ("10.3.0.1", "10.3.0.16", 20),
           ("10.4.0.1", "10.4.0.16", 200))
NETWORKS = np.array([(int(IP(giaddr)), int(IP(first)), size) for giaddr, first, size in _PLACES],
                    np.int64)
CLIENT_ID = secret(OF_CLIENT)
_MINE, _RELAY, _OTHER = secret(OF_FRAME), IP("10.1.0.1"), IP("192.0.2.77")


# --- frames --------------------------------------------------------------------------------------


def captured() -> list[bytes]:
    """What real programs sent, said to our server instead of theirs."""
    found = []
    for line in CAPTURED.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        frame = Frame.decode(bytes.fromhex(line), checksum_ready=False)
        if frame.dst_ip != IP("255.255.255.255"):
            frame.dst_ip = SERVER
        message = Message.decode(frame.payload)
        ours = message.options.get(54)
        frame.payload = frame.payload if ours is None else frame.payload.replace(
            b"\x36\x04" + ours, b"\x36\x04" + SERVER.packed)
        found.append(frame.encode())
    return found


def _circuit(*more: bytes) -> bytes:
    return b"\1\x08" + _MINE + b"".join(more)


# Options that meet every rule of the server, and some that meet none.
_EXTRAS: tuple[dict[int, bytes], ...] = (
    {}, {61: CLIENT_ID}, {61: b"\0" + CLIENT_ID * 3, 12: _MINE, 81: b"\0\0\0" + _MINE},
    {61: CLIENT_ID * 20, 55: bytes(range(1, 255)), 57: b"\5\xdc"},
    # No secret of these stands across two pieces of 255 octets.
    {61: bytes(7) + CLIENT_ID * 59}, {80: b"", 55: b"\1\3\6\x0f\x6c", 51: b"\0\0\0\x3c"},
    {60: b"MSFT 5.0" + _MINE, 77: b"\4lab1\3lab", 55: b"\1\3\6\x2b\x42\x43\xe0", 57: b"\2\x40"},
    {118: IP("10.1.0.0").packed, 43: _MINE * 8, 125: _MINE * 30},
    {82: _circuit(), 61: CLIENT_ID}, {82: _circuit(b"\2\x08" + _MINE, b"\x0b\4" + SERVER.packed)},
    {82: _circuit(b"\5\4" + IP("10.2.0.0").packed, b"\x0b\4" + IP("10.2.0.9").packed)},
    {82: _circuit(b"\2\xf3abc" + _MINE * 30) * 4, 61: CLIENT_ID * 20},
    {82: _circuit(b"\2\xf3abc" + _MINE * 30) * 3},
    {200: _MINE * 40, 254: _MINE, 255 - 31: _MINE * 4, 51: b"\xff\xff\xff\xff"},
    {61: b"", 54: _OTHER.packed}, {82: b"\1\6port 1"}, {61: b"\0reserved"},
)


def _messages() -> Iterator[Message]:
    kinds = [*MessageType, MessageType.DISCOVER, MessageType.REQUEST, MessageType.REQUEST, 9, 18]
    for number, extra in enumerate(_EXTRAS):
        for place, kind in enumerate(kinds):
            if (number + place) % 3 and kind not in (MessageType.DISCOVER, MessageType.REQUEST):
                continue
            options = {53: bytes([kind])} | extra
            ciaddr = IP(0)
            if kind == MessageType.REQUEST and place > 8:
                ciaddr = IP("192.0.2.16") if place == 10 else IP(0)
            elif kind == MessageType.REQUEST:
                options |= {50: IP("192.0.2.16").packed, 54: SERVER.packed} | extra
            if kind in (MessageType.DECLINE, MessageType.DISCOVER) or (
                    place == 9 and kind == MessageType.REQUEST):
                options |= {50: IP("192.0.2.16").packed}
            if kind in (MessageType.RELEASE, MessageType.INFORM):
                ciaddr = IP("192.0.2.16")
            yield Message(xid=1, flags=0x8000 * (place % 2), ciaddr=ciaddr, options=options,
                          giaddr=_RELAY if 82 in extra or (number + place) % 4 == 0 else IP(0),
                          chaddr=CLIENT_MAC.to_bytes(6, "big"), hops=place % 3)


def _odd() -> Iterator[bytes]:
    """BOOTP, other hardware, and messages as the readable codec would not lay them out."""
    mac = CLIENT_MAC.to_bytes(6, "big")
    bootp = Message(chaddr=mac, sname=_MINE, file=_MINE * 2)
    yield bootp.encode()
    yield bootp.encode()[:236] + bytes(64)
    yield Message(chaddr=mac, giaddr=_RELAY, options={12: _MINE}).encode()
    reserved = Message(chaddr=b"\2boot!", options={12: _MINE})
    yield reserved.encode()
    yield Message(hlen=16, htype=32, chaddr=_MINE * 2, options={53: b"\1", 61: CLIENT_ID}).encode()
    yield Message(hlen=0, chaddr=b"", options={53: b"\1"}).encode()
    yield Message(op=2, chaddr=mac, options={53: b"\2", 54: SERVER.packed}).encode()
    head = Message(chaddr=mac, giaddr=_RELAY).encode()[:wire.OPTIONS]
    # RFC 3396: pieces of a few octets, empty ones between them, and another option amid.
    yield head + (b"\x35\1\1" + b"".join(b"\x3d\x08" + CLIENT_ID + b"\x3d\0" + b"\x0c\x08" + _MINE
                                         for _ in range(9)) + b"\xff")
    long = _circuit() + b"\2\x20" + _MINE * 4
    yield head + (b"\x35\1\3" + b"".join(b"\x52" + bytes([len(part)]) + part for part in (
        long[:10], long[10:20], long[20:])) + b"\x32\4\xc0\0\2\x10\x36\4\xc0\0\2\1\xff")
    crowded = Message(chaddr=mac, options={53: b"\1", 61: CLIENT_ID * 4, 12: _MINE * 10,
                                           55: bytes(range(1, 120)), 60: b"MSFT" + _MINE})
    whole = len(crowded.encode())
    for less in (60, 130, 180):
        yield crowded.encode(max_size=whole - less)


def made() -> Iterator[bytes]:
    """Frames of every message type, with and without relay, tags and IP options."""
    mac = CLIENT_MAC.to_bytes(6, "big")
    payloads = [*(message.encode() for message in _messages()), *_odd()]
    for number, payload in enumerate(payloads):
        vlans = ((), (), (), (7,), (), (7, 8))[number % 6]
        relayed = any(payload[24:28])
        yield Frame(src_mac=mac, vlans=vlans, src_ip=_RELAY if relayed else IP(0),
                    dst_ip=SERVER if relayed else IP("255.255.255.255"), payload=payload).encode()
    data = Frame(src_mac=mac, payload=payloads[0]).encode()
    longer = len(data) - 14 + 4
    yield repaired(data[:14] + b"\x46\0" + longer.to_bytes(2, "big") + data[18:34]
                   + b"\x94\4\0\0" + data[34:], udp=True)
    yield Frame(src_mac=mac, dst_ip=_OTHER, payload=payloads[0]).encode()


def seeds() -> Seeds:
    """Captured frames are a quarter of all."""
    return make_seeds([*captured() * 3, *made()])


# --- the server ----------------------------------------------------------------------------------


def _pool(first: str, last: str, **more: tuple[str, ...]) -> Pool:
    return Pool(IP(first), IP(last), only=more.get("only", ()), exclude=tuple(
        (IP(one), IP(one)) for one in more.get("exclude", ())))


def _subnet(network: str, *pools: Pool, reservations: tuple[Reservation, ...] = (),
            settings: Settings | None = None) -> Subnet:
    return Subnet(IPv4Network(network), pools, reservations, settings or Settings())


def _networks() -> tuple[SharedNetwork, ...]:
    kept = (Reservation(IP("192.0.2.9"), "chaddr", b"\2boot!", Settings(boot_file="boot.img")),
            Reservation(IP("192.0.2.17"), "client-id", b"\0reserved"),
            Reservation(IP("192.0.2.11"), "circuit-id", b"port 1"),
            Reservation(IP("192.0.2.12"), "chaddr", (CLIENT_MAC + 5).to_bytes(6, "big"),
                        Settings(options={12: b"five" * 40})))
    local = SharedNetwork("local", (
        _subnet("192.0.2.0/24", _pool("192.0.2.16", "192.0.2.79", exclude=("192.0.2.20",)),
                reservations=kept),
        _subnet("198.51.100.0/24", _pool("198.51.100.16", "198.51.100.31"),
                _pool("198.51.100.100", "198.51.100.120", only=("windows",)))))
    short = SharedNetwork("short", (_subnet(
        "10.1.0.0/24", _pool("10.1.0.16", "10.1.0.47"), settings=Settings(
            lease_time_s=20, max_lease_time_s=60)),))
    shared = SharedNetwork("shared", (
        _subnet("10.2.0.0/24", _pool("10.2.0.16", "10.2.0.24"),
                settings=Settings(next_server=SERVER, server_name="boot.example")),
        _subnet("10.3.0.0/24", _pool("10.3.0.16", "10.3.0.35"))))
    quiet = SharedNetwork("quiet", (_subnet(
        "10.4.0.0/24", _pool("10.4.0.16", "10.4.0.215"), settings=Settings(
            lease_time_s=1 << 30, max_lease_time_s=1 << 30)),))
    return local, short, shared, quiet


# Replies that wait must be gone before the slot of their request is used again.
ORDERLY = (Fault("delay", rate=0.1, delay_s=0.02, jitter_s=0.02),
           Fault("duplicate", rate=0.05), Fault("reorder", rate=0.05),
           Fault("drop", frozenset({"discover", "ack"}), rate=0.02),
           Fault("nak", frozenset({"request"}), rate=0.02))
# Each says something wrong on purpose.
SPOILING = (Fault("wrong-xid", rate=0.03), Fault("wrong-server-id", rate=0.03),
            *(Fault("missing-option", rate=0.03, option=code) for code in (51, 61, 82)),
            *(Fault("corrupt-option", rate=0.02, option=code) for code in (54, 61, 82, 3)))


def configuration(faults: tuple[Fault, ...], seed: int) -> Config:
    options = {3: IP("192.0.2.254").packed, 6: IP("192.0.2.53").packed * 4, 15: b"example.org",
               43: bytes(range(200)), 66: b"tftp.example", 67: b"pxelinux.0", 108: b"\0\0\1\x2c",
               121: b"\x18\x0a\1\2\xc0\0\2\1" * 40, 224: b"\7" * 300}
    classes = (ClientClass("windows", (Match(60, "starts-with", b"MSFT"),
                                       Match(77, "is", b"lab")),
                           Settings(options={43: b"\1\4wide", 119: b"\3lab\0"})),
               ClientClass("odd", (Match(60, "contains", b"\xc5\x5e"),), Settings(lease_time_s=90)))
    return Config(("eth7",), networks=_networks(), classes=classes,
                  settings=Settings(lease_time_s=300, max_lease_time_s=3000, options=options),
                  offer_hold_s=5, decline_hold_s=20, rapid_commit=True, bootp=True,
                  faults=faults, seed=seed)
