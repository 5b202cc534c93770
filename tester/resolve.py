"""Ask by ARP which Ethernet address a server has, before the first unicast message to it.

The one thing to know: this runs once, before a test starts. It speaks as an emulated client,
from an address and a MAC that the interface does not have, and answers nobody meanwhile.
Source: RFC 826.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address

from fastpath import bpf, wire
from fastpath.errors import SystemRefused
from fastpath.interface import find

_SOL_PACKET, _ADD_MEMBERSHIP, _AUXDATA, _IGNORE_OUTGOING = 263, 1, 8, 23
_MR_PROMISC = 1
_ETH_P_ALL, _ETH_P_ARP = 0x0003, 0x0806
_MAX_TAGS = 3
# struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
_AUX = struct.Struct("=IIIHHHH")
_VLAN_VALID = 16
# RFC 826, for Ethernet and IPv4.
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ASKS, _ANSWERS = 1, 2
_FORM = (wire.HTYPE_ETHERNET, wire.ETH_P_IP, 6, 4)
_VLAN_ID = 0x0FFF


def server_mac(interface: str, server: IPv4Address, source: IPv4Address, source_mac: bytes,
               timeout_s: float = 3.0, tries: int = 3,
               tags: Sequence[tuple[int, int]] = ()) -> bytes:
    """The 6 octets of the Ethernet address that answers for `server` on `interface`.

    source, source_mac: who asks. timeout_s: for all `tries` together, which share it evenly.
    tags: VLAN tags of the request, outermost first, each (TPID, TCI); only an answer with the
    same TPIDs and VLAN ids counts.

    Raises SystemRefused: nobody answered, no privilege, interface missing, down or gone.
    """
    question = source_mac, source, server
    frame = b"\xff" * 6 + source_mac + b"".join(struct.pack(">HH", *tag) for tag in tags)
    frame += struct.pack(">H", _ETH_P_ARP)
    frame += _ARP.pack(*_FORM, _ASKS, source_mac, source.packed, bytes(6), server.packed)
    with _socket(interface) as sock:
        start = time.monotonic()
        try:
            for i in range(tries):
                sock.send(frame)
                for heard, heard_tags in _heard(sock, start + timeout_s * (i + 1) / tries):
                    mac = _answer(heard, *question)
                    if mac and _same_tags(heard_tags, tags):
                        return mac
        except OSError as error:
            raise SystemRefused(
                f"ARP for {server} on {interface} failed: {error.strerror or error}",
                f"look at: ip link show {interface}") from None
    vlans = "".join(f" vlan {tci & _VLAN_ID}" for _, tci in tags)
    raise SystemRefused(
        f"no answer to ARP for {server} on {interface}{vlans}",
        f"is {server} in the network of {source}? Give the Ethernet address of the server, or of "
        f"the router towards it, with --server-mac")


@contextlib.contextmanager
def _socket(interface: str) -> Iterator[socket.socket]:
    """A packet socket on `interface` that hears ARP, tagged or not, to whatever address."""
    index = find(interface).index
    try:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    except PermissionError:
        raise SystemRefused("cannot open a packet socket: operation not permitted",
                            "run with sudo (CAP_NET_RAW)") from None
    with sock:
        bpf.attach(sock, bpf.dhcp_filter((), neighbours=True, tags=_MAX_TAGS))
        # The kernel takes the outer tag off and tells it beside the frame.
        sock.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        sock.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
        # The answer goes to `source_mac`, which the interface does not have.
        sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP,
                        struct.pack("=iHH8s", index, _MR_PROMISC, 0, b""))
        sock.bind((interface, _ETH_P_ALL))
        yield sock


def _heard(sock: socket.socket, deadline: float) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """Frames that come before `deadline` (monotonic), without their tags, and those."""
    while (left_s := deadline - time.monotonic()) > 0:
        sock.settimeout(left_s)
        try:
            data, beside, _, _ = sock.recvmsg(2048, socket.CMSG_SPACE(_AUX.size))
        except TimeoutError:
            return
        tags = []
        for level, kind, octets in beside:
            if (level, kind) == (_SOL_PACKET, _AUXDATA):
                status, *_, tci, tpid = _AUX.unpack(octets[:_AUX.size])
                tags += [(tpid, tci)] if status & _VLAN_VALID else []
        while data[12:14] in (b"\x81\0", b"\x88\xa8") and len(data) >= 18:
            tags.append(struct.unpack_from(">HH", data, 12))
            data = data[:12] + data[16:]
        yield data, tags


def _answer(frame: bytes, source_mac: bytes, source: IPv4Address, server: IPv4Address) -> bytes:
    """Who has `server`, where the untagged `frame` is the answer to us; else nothing."""
    if len(frame) < 14 + _ARP.size or frame[12:14] != _ETH_P_ARP.to_bytes(2, "big"):
        return b""
    *form, op, mac, holder, _, asked_by = _ARP.unpack_from(frame, 14)
    ours = (tuple(form), op, holder, asked_by) == (_FORM, _ANSWERS, server.packed, source.packed)
    # A group address is nobody's (RFC 1812 section 3.3.2).
    return mac if ours and frame[:6] == source_mac and not mac[0] & 1 else b""


def _same_tags(heard: Sequence[tuple[int, int]], sent: Sequence[tuple[int, int]]) -> bool:
    """Priorities may differ: switches rewrite them."""
    return [(tpid, tci & _VLAN_ID) for tpid, tci in heard] == \
        [(tpid, tci & _VLAN_ID) for tpid, tci in sent]
