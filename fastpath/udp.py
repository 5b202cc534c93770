"""A UDP socket behind slots: what `ring.Ring` is to a program, without its privilege.

Datagrams come and go in batches, by recvmmsg and sendmmsg straight from and to the slots. The
one thing to know: nobody fills these slots by himself, so `pull` has to be called before each
batch. Differences that no code can hide: a socket bound to one address hears no broadcasts
(bind it to an interface instead), VLAN tags and Ethernet addresses are the kernel's business,
and it sends only to whom ARP or a broadcast finds. Sources: recvmmsg(2), sendmmsg(2), ip(7).
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import struct
from collections import Counter
from ipaddress import IPv4Address, IPv4Interface

import numpy as np

from fastpath import interface as interfaces
from fastpath.errors import SystemRefused
from fastpath.interface import Interface
from fastpath.slots import G_HEAD, TX_AVAILABLE, Slots, make_slots
from fastpath.udp_slots import (
    NOTHING,
    RX_CONTROL,
    TX_CONTROL,
    WRONG_FORMAT,
    make_batch,
    rx_arm,
    rx_land,
    tx_free,
    tx_load,
)

SLOT_SIZE = 2048
RX_BATCH = 64
# UIO_MAXIOV: the most that one sendmmsg takes.
TX_BATCH = 1024
# Where a frame to send starts in its slot, as in a packet ring without lead.
_TX_FRAME = 32
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS, _SO_MEMINFO, _IP_PKTINFO = 33, 35, 55, 8
# SO_MEMINFO: nine 32-bit numbers, the last of which counts drops.
_MEMINFO_SIZE = 36
# IFNAMSIZ.
_NAME_SIZE = 16
_BUFFER = 1 << 24
_RETRY_S = 0.0002
_CONGESTED = {errno.ENOBUFS, errno.EAGAIN}
# Errors that concern the interface; those of one datagram or its destination are only counted.
_GONE = {errno.ENETDOWN, errno.ENXIO, errno.ENODEV}
# Errors of the socket or of this program: no later datagram would fare better.
_BROKEN = {errno.EBADF, errno.ENOTSOCK, errno.EFAULT}
_FIRST_FREE_PORT = 1024

_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg, _sendmmsg = _libc.recvmmsg, _libc.sendmmsg
_recvmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p]
_sendmmsg.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int]


class Udp:
    """One UDP port of the current network namespace, as receive and transmit slots.

    address: bind to it alone, or None for all. interface: take and send datagrams only there.
    slots: of each kind.

    rx, tx: `Slots` for kernels. rx_dropped: datagrams lost because the socket's buffer was
    full. tx_congested: kicks that the kernel could not carry out in full; `congested` until
    one is. send_failed: datagrams that the kernel refused, by the name of the error; EBADMSG
    for a frame that was no UDP over IPv4. port: the one bound to.
    interface: the named one, else the one that has `address`, else "any" with index 0 and all
    addresses of the machine. Use as a context manager, or call `close`; one thread uses it.

    Raises SystemRefused: port taken, no privilege for it, address or interface not there,
    memory refused; and from kick and wait, once the named interface has gone.
    """

    def __init__(self, address: IPv4Address | None, port: int, *, interface: str = "",
                 slots: int = 4096) -> None:
        self.rx_dropped = 0
        self.tx_congested = 0
        self.congested = False
        self.send_failed: Counter[str] = Counter()
        self._rx_tail = self._tx_tail = 0
        self._named = bool(interface)
        self.interface = interfaces.find(interface) if interface else bound_interface(address)
        try:
            self.rx, self.tx = (_slots(slots) for _ in range(2))
        except MemoryError:
            raise SystemRefused(f"no memory for 2 x {slots} slots of {SLOT_SIZE} octets",
                                "use fewer --ring-slots, or free memory") from None
        self._in, self._out = make_batch(RX_BATCH, RX_CONTROL), make_batch(TX_BATCH, TX_CONTROL)
        self._rx_at, self._tx_at = self.rx.mem.ctypes.data, self.tx.mem.ctypes.data
        self._in_at, self._out_at = self._in.longs.ctypes.data, self._out.longs.ctypes.data
        self._message_size = self._out.longs.strides[0]
        self._compile()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._open(address, port, interface)
        except BaseException:
            self.close()
            raise
        self.port: int = self._socket.getsockname()[1]

    def _compile(self) -> None:
        """Call each kernel on nothing, so that the first datagram does not wait for it."""
        rx_arm(self.rx, 0, self._in, self._rx_at)
        rx_land(self.rx, 0, self._in, 0, 0)
        tx_load(self.tx, 0, self._out, self._tx_at)
        tx_free(self.tx, 0, 0)

    def _open(self, address: IPv4Address | None, port: int, name: str) -> None:
        """Set all options first: what is bound can have received already."""
        sock = self._socket
        sock.setblocking(False)
        if name:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
            except OSError as error:
                raise _no_device(name, error) from None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        # The send buffer stays small: a queue in front of a network card drops without a word
        # what a full buffer would have made us wait for.
        try:
            sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        try:
            sock.bind((str(address) if address else "", port))
        except OSError as error:
            raise _no_port(address, port, name, error) from None

    def pull(self) -> int:
        """Receive what waits into free slots, at most RX_BATCH; never blocks.

        Returns how many datagrams came. What finds no free slot waits in the socket.
        """
        room = rx_arm(self.rx, self._rx_tail, self._in, self._rx_at)
        if room == 0:
            return 0
        # MSG_TRUNC on the way in: the length is the datagram's, not what of it had room.
        count: int = _recvmmsg(self._socket.fileno(), self._in_at, room,
                               socket.MSG_DONTWAIT | socket.MSG_TRUNC, None)
        if count < 0:
            code = ctypes.get_errno()
            if code == errno.EAGAIN:
                return 0
            raise self._lost("receiving", code)
        self._rx_tail = rx_land(self.rx, self._rx_tail, self._in, count, self.port)
        return count

    def kick(self) -> None:
        """Send what stands in the transmit slots; never blocks.

        A datagram that the kernel refuses for its own sake is counted in `send_failed` and
        left out. When there is no room for more, the rest stays in its slots.
        """
        self.congested = False
        while (loaded := tx_load(self.tx, self._tx_tail, self._out, self._tx_at)) != NOTHING:
            if loaded == WRONG_FORMAT:
                self.send_failed[errno.errorcode[errno.EBADMSG]] += 1
                self._tx_tail = tx_free(self.tx, self._tx_tail, 1)
                continue
            first = 0
            while first < loaded:
                done = self._send(first, loaded - first)
                if done == 0:
                    self.tx_congested += 1
                    self.congested = True
                    return
                self._tx_tail = tx_free(self.tx, self._tx_tail, done)
                first += done

    def _send(self, first: int, count: int) -> int:
        """Send `count` loaded datagrams; returns how many are done with, 0 when congested."""
        sent: int = _sendmmsg(self._socket.fileno(), self._out_at + first * self._message_size,
                              count, socket.MSG_DONTWAIT)
        if sent > 0:
            return sent
        # An error is reported only for the first of a batch: it is this datagram's.
        code = ctypes.get_errno()
        if code in _CONGESTED:
            return 0
        if code in _BROKEN or (code in _GONE and self._named):
            raise self._lost("sending", code)
        self.send_failed[errno.errorcode.get(code, str(code))] += 1
        return 1

    def wait(self, timeout_s: float, also: int = -1) -> None:
        """Sleep until a frame is there, the descriptor `also` is readable, or time is up."""
        if self.congested:
            # What is still in the transmit slots goes out before anything else is awaited.
            self.kick()
            timeout_s = min(timeout_s, _RETRY_S)
        if self._status(self.rx)[int(self.rx.geometry[G_HEAD])]:
            return
        watched: list[socket.socket | int] = [self._socket]
        if also >= 0:
            watched.append(also)
        readable, _, _ = select.select(watched, [], [], timeout_s)
        if self._named and not readable:
            # A socket is not told that its interface has gone, and would be silent for ever.
            try:
                self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _NAME_SIZE)
            except OSError as error:
                raise self._lost("receiving", error.errno or 0) from None

    def statistics(self) -> int:
        """Datagrams that the socket's buffer had no room for since it was opened."""
        raw = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO_SIZE)
        self.rx_dropped = struct.unpack("=9I", raw)[8]
        return self.rx_dropped

    def unsent(self) -> int:
        """Frames that still stand in the transmit slots because the kernel would not take them."""
        return int(np.count_nonzero(self._status(self.tx) != TX_AVAILABLE))

    def check(self) -> None:
        """Nothing to do: a socket on an interface that went down is told so when it sends."""

    def fileno(self) -> int:
        return self._socket.fileno()

    @staticmethod
    def _status(slots: Slots) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        return slots.words[::SLOT_SIZE // 4]

    def _lost(self, doing: str, code: int) -> SystemRefused:
        name = self.interface.name
        if code in _GONE:
            return SystemRefused(f"interface {name!r} went away while in use",
                                 "bring it back and restart")
        return SystemRefused(f"{doing} on UDP port {self.port} failed: {os.strerror(code)}")

    def close(self) -> None:
        """Give the port back; safe to call twice."""
        self._socket.close()

    def __enter__(self) -> Udp:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _slots(count: int) -> Slots:
    memory = np.empty(count * SLOT_SIZE, np.uint8)
    # Written to, so that no page has to be found when packets come.
    memory[:] = 0
    return make_slots(memory, SLOT_SIZE, _TX_FRAME)


def bound_interface(address: IPv4Address | None) -> Interface:
    """What a socket bound to no interface is on; its Ethernet address is no one's business."""
    import psutil

    found: list[IPv4Interface] = []
    for name, entries in psutil.net_if_addrs().items():
        here = tuple(IPv4Interface(f"{entry.address}/{entry.netmask or 32}")
                     for entry in entries if entry.family == socket.AF_INET)
        if address and any(address == one.ip or (one.ip.is_loopback and address in one.network)
                           for one in here):
            mtu = psutil.net_if_stats()[name].mtu
            return Interface(name, socket.if_nametoindex(name), bytes(6), mtu, here)
        found += here
    return Interface("any", 0, bytes(6), 1500, tuple(found))


def _no_device(name: str, error: OSError) -> SystemRefused:
    if error.errno in (errno.EPERM, errno.EACCES):
        return SystemRefused(f"cannot bind to interface {name!r}: operation not permitted",
                             "run with sudo (CAP_NET_RAW; Linux 5.7 and later need none)")
    return SystemRefused(f"cannot bind to interface {name!r}: {error.strerror}")


def _no_port(address: IPv4Address | None, port: int, name: str, error: OSError) -> SystemRefused:
    where = f"UDP port {port}" + (f" on {name!r}" if name else "")
    if error.errno == errno.EADDRINUSE:
        return SystemRefused(f"{where} is in use", f"see who: ss -lunp 'sport = {port}'")
    if error.errno in (errno.EPERM, errno.EACCES) and port < _FIRST_FREE_PORT:
        return SystemRefused(f"cannot take {where}: operation not permitted",
                             "run with sudo, or use --port 6700")
    if error.errno == errno.EADDRNOTAVAIL:
        return SystemRefused(f"cannot take {where}: no interface here has the address {address}",
                             "see what there is: ip -4 address")
    return SystemRefused(f"cannot take {where}: {error.strerror}")
