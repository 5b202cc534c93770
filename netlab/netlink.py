"""Talk to one network namespace: make and read its links, addresses and routes.

A netlink socket belongs for ever to the namespace it was opened in, so one `Rtnl` a namespace
is all that is needed: nobody has to go there again. Many changes travel in one datagram, and
only the last asks for an acknowledgement: errors come unasked. Sources: linux/netlink.h,
netlink(7).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Callable, Iterator
from typing import TypeVar

from netlab import messages
from netlab.checkpoint import checkpoint
from netlab.messages import HEADER, LinkState, Message
from netlab.topology.routing import Route

T = TypeVar("T")

_SOL_NETLINK = 270
_ADD_MEMBERSHIP, _DROP_MEMBERSHIP, _CAP_ACK, _EXT_ACK = 1, 2, 10, 11
_RTNLGRP_LINK = 1
_ACK_TLVS = 0x200
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_ERROR_TEXT = 1  # NLMSGERR_ATTR_MSG
LOOPBACK = 1  # net/loopback.c: the first interface of every namespace
# Changes in one datagram: as many refusals fit a socket's receive buffer.
MOST_CHANGES = 128
_RECEIVE_OCTETS = 1 << 17
# The kernel answers while it takes the request; this only ends a wait that has no end.
_ANSWER_TIMEOUT_S = 10.0


class Refused(OSError):
    """What the kernel said of the message `at` among those sent at once."""

    at: int = 0


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

    def change(self, *changes: Message) -> None:
        """Have these done, at most MOST_CHANGES, in order; raise Refused for the first that was
        refused. Those after it may have been done all the same.
        """
        assert len(changes) <= MOST_CHANGES
        checkpoint()
        first = self._sequence + 1
        self._sequence += len(changes)
        self._socket.send(b"".join(
            message.pack(sequence, messages.ACK if sequence == self._sequence else 0)
            for sequence, message in enumerate(changes, first)))
        refused: Refused | None = None
        while True:
            for kind, flags, sequence, body in self._receive():
                if kind != _NLMSG_ERROR or not first <= sequence <= self._sequence:
                    continue
                if refused is None and (refused := _error(body, flags)):
                    refused.at = sequence - first
                if sequence == self._sequence:
                    if refused:
                        raise refused
                    return

    def links(self, counters: bool = False) -> list[LinkState]:
        """Every interface of the namespace."""
        return self._dump(messages.get_links(counters), messages.read_link)

    def link(self, index: int) -> LinkState:
        """One interface, without counters; OSError ENODEV when it is not there."""
        return self._dump(messages.get_link(index), messages.read_link)[0]

    def addresses(self) -> dict[int, list[ipaddress.IPv4Interface]]:
        """The IPv4 addresses by interface index."""
        found: dict[int, list[ipaddress.IPv4Interface]] = {}
        for index, address in self._dump(messages.get_addresses(), messages.read_address):
            found.setdefault(index, []).append(address)
        return found

    def routes(self) -> set[Route]:
        """The routes of the main table that lead to a neighbour."""
        found = self._dump(messages.get_routes(), messages.read_route)
        return {Route(*route) for route in found if route}

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
                    self._socket.recv(_RECEIVE_OCTETS)
                except BlockingIOError:
                    return
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
        finally:
            self._socket.settimeout(_ANSWER_TIMEOUT_S)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        """One datagram as (type, flags, sequence, body) a message."""
        data = self._socket.recv(_RECEIVE_OCTETS)
        at = 0
        while at + HEADER.size <= len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
            length = max(length, HEADER.size)
            yield kind, flags, sequence, data[at + HEADER.size:at + length]
            at += length + 3 & ~3

    def _dump(self, request: Message, read: Callable[[bytes], T]) -> list[T]:
        """All the answers to `request`; asked again when the kernel says they do not agree."""
        while True:
            self._sequence += 1
            self._socket.send(request.pack(self._sequence))
            try:
                answers = self._answers(read)
            except OSError as error:
                # Watched changes filled the socket and pushed an answer out.
                if error.errno != errno.ENOBUFS:
                    raise
                answers = None
            if answers is not None:
                return answers

    def _answers(self, read: Callable[[bytes], T]) -> list[T] | None:
        answers: list[T] = []
        torn = False
        while True:
            for kind, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                torn = torn or bool(flags & messages.DUMP_INTERRUPTED)
                if kind == _NLMSG_ERROR and (error := _error(body, flags)):
                    raise error
                if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                    return None if torn else answers
                answers.append(read(body))
                if not flags & messages.MULTI:
                    return answers


def _error(body: bytes, flags: int) -> Refused | None:
    """What an NLMSG_ERROR says; None for a plain acknowledgement."""
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    text = os.strerror(code)
    if flags & _ACK_TLVS:
        # After the code comes the header of what is spoken of (NETLINK_CAP_ACK).
        for kind, payload in messages.attributes(body, 4 + HEADER.size):
            if kind == _ERROR_TEXT:
                text += f" ({payload.rstrip(bytes(1)).decode(errors='replace')})"
    return Refused(code, text)
