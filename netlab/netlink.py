"""Talk to one network namespace: make and read its links and addresses over rtnetlink.

A netlink socket belongs for ever to the namespace it was opened in, so one `Rtnl` a namespace
is all that is needed: nobody has to go there again. pyroute2 encodes and decodes; the talking
is ours, because its IPRoute keeps an event loop, a thread's state and five descriptors for
each socket, and a lab may have hundreds. Sources: linux/netlink.h, rtnetlink(7).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.rtnl import (
    RTM_GETADDR,
    RTM_GETLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from netlab.checkpoint import checkpoint

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 1, 2, 10, 11
_RTNLGRP_LINK = 1
_REQUEST, _ACK, _DUMP, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_MULTI, _DUMP_INTR, _ACK_TLVS = 0x2, 0x10, 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
_HEADER = struct.Struct("=IHHII")
_IFF_UP = 1
_BR_STATE_FORWARDING = 3
# The kernel answers while it takes the request; this only ends a wait that has no end.
_ANSWER_TIMEOUT_S = 10.0

Message = Any  # a pyroute2 message: a dict that encodes itself


@dataclass(frozen=True, slots=True)
class LinkState:
    """An interface as the kernel describes it. port_state is None unless a bridge has it."""

    index: int
    ifname: str
    kind: str
    up: bool
    operstate: str
    mac: str
    mtu: int
    alias: str
    port_state: int | None
    counters: dict[str, int]

    @property
    def carries(self) -> bool:
        """Whether a frame sent now would pass."""
        return (self.up and self.operstate == "UP"
                and self.port_state in (None, _BR_STATE_FORWARDING))


def _nested(**attributes: Any) -> dict[str, Any]:
    return {"attrs": list(attributes.items())}


def _link(kind: str, data: dict[str, Any], **attributes: Any) -> Message:
    message = ifinfmsg()
    message["flags"] = message["change"] = _IFF_UP
    message["header"] = {"type": RTM_NEWLINK, "flags": _REQUEST | _ACK | _CREATE | _EXCL}
    message["attrs"] = [*attributes.items(), (
        "IFLA_LINKINFO", _nested(IFLA_INFO_KIND=kind, IFLA_INFO_DATA=data))]
    return message


def new_bridge(ifname: str, mtu: int) -> Message:
    """A bridge that is up and adds nothing of its own to the wire: no STP, no snooping."""
    return _link("bridge", _nested(IFLA_BR_STP_STATE=0, IFLA_BR_FORWARD_DELAY=0,
                                   IFLA_BR_MCAST_SNOOPING=0),
                 IFLA_IFNAME=ifname, IFLA_MTU=mtu)


def new_veth(port: str, bridge: int, peer: str, peer_namespace: int, mtu: int) -> Message:
    """A veth pair: `port` here, up and in `bridge` (its index); `peer` elsewhere, still down.

    peer_namespace: descriptor of the namespace where the other end is born. It cannot be
    born up: the kernel opens it before the two know of each other (drivers/net/veth.c).
    """
    other = ifinfmsg()
    other["attrs"] = [("IFLA_IFNAME", peer), ("IFLA_MTU", mtu),
                      ("IFLA_NET_NS_FD", peer_namespace)]
    return _link("veth", {"attrs": [("VETH_INFO_PEER", other)]},
                 IFLA_IFNAME=port, IFLA_MTU=mtu, IFLA_MASTER=bridge)


def set_link(ifname: str, *, up: bool = False, alias: str = "",
             learning: bool | None = None) -> Message:
    """Bring `ifname` up, name its owner, or set whether its bridge learns from it."""
    message = ifinfmsg()
    message["header"] = {"type": RTM_NEWLINK, "flags": _REQUEST | _ACK}
    message["flags"] = message["change"] = _IFF_UP if up else 0
    message["attrs"] = [("IFLA_IFNAME", ifname)]
    if alias:
        message["attrs"].append(("IFLA_IFALIAS", alias))
    if learning is not None:
        message["attrs"].append(("IFLA_LINKINFO", _nested(
            IFLA_INFO_SLAVE_KIND="bridge",
            IFLA_INFO_SLAVE_DATA=_nested(IFLA_BRPORT_LEARNING=int(learning)))))
    return message


def new_address(index: int, address: ipaddress.IPv4Interface) -> Message:
    """`address` on the interface with that index."""
    message = ifaddrmsg()
    message["header"] = {"type": RTM_NEWADDR, "flags": _REQUEST | _ACK | _CREATE | _EXCL}
    message.update(family=socket.AF_INET, index=index, prefixlen=address.network.prefixlen)
    message["attrs"] = [("IFA_LOCAL", str(address.ip)), ("IFA_ADDRESS", str(address.ip)),
                        ("IFA_BROADCAST", str(address.network.broadcast_address))]
    return message


def _error(data: bytes, offset: int, length: int, flags: int) -> OSError | None:
    """What an NLMSG_ERROR says; None for a plain acknowledgement."""
    code = -struct.unpack_from("=i", data, offset + _HEADER.size)[0]
    if code == 0:
        return None
    text = os.strerror(code)
    at, end = offset + _HEADER.size + 4 + _HEADER.size, offset + length
    while flags & _ACK_TLVS and at + 4 <= end:
        size, kind = struct.unpack_from("=HH", data, at)
        if kind == _ERROR_TEXT:
            text += f" ({data[at + 4:at + size].rstrip(bytes(1)).decode(errors='replace')})"
        at += max(4, (size + 3) & ~3)
    return OSError(code, text)


class Rtnl:
    """One rtnetlink socket in the namespace of the thread that opens it.

    Every method may raise OSError with what the kernel said.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(_SOL_NETLINK, _CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
        self._socket.settimeout(_ANSWER_TIMEOUT_S)
        self._socket.bind((0, 0))

    def fileno(self) -> int:
        """For poll: readable when a watched link changed."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def change(self, *messages: Message) -> None:
        """Send all the messages at once and wait for every answer; raise the first error."""
        checkpoint()
        data = b"".join(self._encode(message) for message in messages)
        awaited = range(self._sequence - len(messages) + 1, self._sequence + 1)
        self._socket.send(data)
        first: OSError | None = None
        missing = set(awaited)
        while missing:
            for kind, flags, sequence, answer, offset, length in self._receive():
                if sequence in missing and kind == _NLMSG_ERROR:
                    missing.remove(sequence)
                    first = first or _error(answer, offset, length, flags)
        if first:
            raise first

    def links(self) -> list[LinkState]:
        """Every interface of the namespace."""
        request = ifinfmsg()
        request["header"] = {"type": RTM_GETLINK, "flags": _REQUEST | _DUMP}
        return [_link_state(message) for message in self._dump(request, ifinfmsg)]

    def link(self, ifname: str) -> LinkState:
        """One interface; OSError ENODEV when it is not there."""
        request = ifinfmsg()
        request["header"] = {"type": RTM_GETLINK, "flags": _REQUEST}
        request["attrs"] = [("IFLA_IFNAME", ifname)]
        return _link_state(self._dump(request, ifinfmsg)[0])

    def addresses(self) -> dict[int, list[ipaddress.IPv4Interface]]:
        """The IPv4 addresses by interface index."""
        request = ifaddrmsg()
        request["header"] = {"type": RTM_GETADDR, "flags": _REQUEST | _DUMP}
        request["family"] = socket.AF_INET
        found: dict[int, list[ipaddress.IPv4Interface]] = {}
        for message in self._dump(request, ifaddrmsg):
            address = ipaddress.IPv4Interface(
                f"{message.get_attr('IFA_LOCAL')}/{message['prefixlen']}")
            found.setdefault(message["index"], []).append(address)
        return found

    def watch(self, on: bool = True) -> None:
        """Start or stop hearing of every change of a link in the namespace."""
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP if on else _DROP_MEMBERSHIP,
                                _RTNLGRP_LINK)

    def drain(self) -> None:
        """Throw away what was heard: the reader looks at the links themselves."""
        self._socket.setblocking(False)
        try:
            while True:
                try:
                    self._socket.recv(1 << 16)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
        finally:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def _encode(self, message: Message) -> bytes:
        self._sequence += 1
        message["header"]["sequence_number"] = self._sequence
        message["header"]["pid"] = 0
        message.encode()
        data = bytes(message.data)
        return data + bytes(-len(data) % 4)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes, int, int]]:
        """One datagram as (type, flags, sequence, buffer, offset, length) a message."""
        data = self._socket.recv(1 << 16)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data, offset, length
            offset += (max(length, _HEADER.size) + 3) & ~3

    def _dump(self, request: Message, message_class: type) -> list[Message]:
        """All the answers to `request`; asked again when the kernel says they do not agree."""
        while True:
            self._socket.send(self._encode(request))
            try:
                answers = self._answers(message_class)
            except OSError as error:
                # Watched changes filled the socket and pushed an answer out.
                if error.errno != errno.ENOBUFS:
                    raise
                answers = None
            if answers is not None:
                return answers

    def _answers(self, message_class: type) -> list[Message] | None:
        answers: list[Message] = []
        torn = False
        while True:
            for kind, flags, sequence, data, offset, length in self._receive():
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & _DUMP_INTR)
                if kind == _NLMSG_ERROR and (error := _error(data, offset, length, flags)):
                    raise error
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return None if torn else answers
                message = message_class(data, offset=offset)
                message.decode()
                answers.append(message)
                if not flags & _MULTI:
                    return answers


def _link_state(message: Message) -> LinkState:
    info: Message = message.get_attr("IFLA_LINKINFO")
    port: Message = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    counters = message.get_attr("IFLA_STATS64") or {}
    return LinkState(
        index=message["index"],
        ifname=message.get_attr("IFLA_IFNAME"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info else None) or "",
        up=bool(message["flags"] & _IFF_UP),
        operstate=message.get_attr("IFLA_OPERSTATE") or "UNKNOWN",
        mac=message.get_attr("IFLA_ADDRESS") or "",
        mtu=message.get_attr("IFLA_MTU"),
        alias=message.get_attr("IFLA_IFALIAS") or "",
        port_state=port.get_attr("IFLA_BRPORT_STATE") if hasattr(port, "get_attr") else None,
        counters={name: counters[name] for name in
                  ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "rx_dropped", "tx_dropped")
                  if name in counters},
    )
