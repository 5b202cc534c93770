"""AF_PACKET rings on one interface: frames in and out with one system call a batch.

TPACKET_V2, not V3: V3 hands over whole blocks at 1 ms granularity, which turns every
latency into a multiple of that. The receive ring hears what arrives, not what we send. The
transmit ring hands each frame over inside the socket buffer itself (PACKET_VNET_HDR with a
header length as long as any DHCP frame), else every veth hop would allocate a page to copy
it out of the ring. Source: packet(7), linux/if_packet.h, net/packet/af_packet.c.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import socket
import struct

import numpy as np

from fastpath import bpf, interface
from fastpath.errors import SystemRefused
from fastpath.slots import make_slots

_SOL_PACKET = 263
_ADD_MEMBERSHIP, _RX_RING, _STATISTICS, _VERSION, _TX_RING = 1, 5, 6, 10, 13
_VNET_HDR, _QDISC_BYPASS, _IGNORE_OUTGOING = 15, 20, 23
_TPACKET_V2 = 1
_MR_PROMISC = 1
_ETH_P_ALL = 0x0003
_SO_SNDBUFFORCE = 32
SLOT_SIZE = 2048
# TPACKET2_HDRLEN - sizeof(struct sockaddr_ll): where what we send starts.
_TX_FRAME = 32
# struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset.
_VIRTIO_HEADER = 10
_BLOCK = 1 << 16
# TP_STATUS_SEND_REQUEST, TP_STATUS_WRONG_FORMAT.
_TX_LEFT = 1 | 4
_RETRY_S = 0.0002
# Errors of a kick that mean "congested, the frame stays in its slot": try again later.
_CONGESTED = {errno.ENOBUFS, errno.EAGAIN}
_GONE = {errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENETUNREACH}

_libc = ctypes.CDLL(None, use_errno=True)


class Ring:
    """A receive and a transmit ring on one interface of the current network namespace.

    rx, tx: `Slots` for kernels. rx_dropped: frames lost because the receive ring was full.
    tx_congested: kicks that the kernel could not carry out in full; `congested` until one is.
    Use as a context manager, or call `close`.

    Raises SystemRefused: no privilege, no such interface, interface down or not Ethernet,
    ring memory refused; and from any call, once the interface goes down or away.
    """

    def __init__(self, name: str, ports: tuple[int, ...], *, slots: int = 4096,
                 most_unsent: int = 1 << 17, promiscuous: bool = False,
                 queued: bool = False, neighbours: bool = False, tags: int = bpf.MAX_TAGS,
                 label: str = "") -> None:
        """slots: of the receive ring; the transmit ring has as many, but at most `most_unsent`.

        label: what errors call the interface, where its name alone does not tell which it is.
        queued: what is sent goes through the interface's queueing discipline, and by the programs
        that stand there; on a veth and a macvlan it always does. neighbours: hear ARP and ICMP
        echo requests too. tags: most VLAN tags in a frame that is heard, the outer one that the
        kernel takes off not counted.
        """
        tx_slots = min(slots, most_unsent)
        self.interface = interface.find(name)
        self.label = label or name
        self.rx_dropped = 0
        self.tx_congested = 0
        self.congested = False
        self._sockets: list[socket.socket] = []
        self._maps: list[mmap.mmap] = []
        try:
            self._receiver = self._open(_RX_RING, slots)
            heard = bpf.dhcp_filter(ports, neighbours=neighbours, tags=tags)
            bpf.attach(self._receiver, heard)
            self._receiver.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)
            if promiscuous:
                # Emulated clients have addresses of their own, which no NIC filter knows.
                request = struct.pack("=iHH8s", self.interface.index, _MR_PROMISC, 0, b"")
                self._receiver.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)
            self.rx = make_slots(self._map(self._receiver, slots), SLOT_SIZE, 0)
            self._receiver.bind((name, _ETH_P_ALL))

            self._sender = self._open(_TX_RING, tx_slots)
            # These have no queue to save; and what somebody puts there (a rate, a delay) is to
            # act on our frames as on all others.
            bypass = not queued and interface.driver(name) not in ("veth", "macvlan")
            self._sender.setsockopt(_SOL_PACKET, _QDISC_BYPASS, int(bypass))
            self.tx = make_slots(self._map(self._sender, tx_slots), SLOT_SIZE, _TX_FRAME,
                                 _VIRTIO_HEADER)
            self._sender.bind((name, 0))
        except BaseException:
            self.close()
            raise

    def _open(self, kind: int, slots: int) -> socket.socket:
        """A packet socket with a ring of `slots`, not yet bound, so it hears nothing."""
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        except PermissionError:
            raise SystemRefused("cannot open a packet socket: operation not permitted",
                                "run with sudo (CAP_NET_RAW)") from None
        self._sockets.append(sock)
        sock.setblocking(False)
        sock.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        if kind == _TX_RING:
            sock.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            self._widen(sock)
        size = slots * SLOT_SIZE
        block = min(_BLOCK, size)
        request = struct.pack("=IIII", block, size // block, SLOT_SIZE, slots)
        # Not by Python's setsockopt: that holds up all threads while the kernel waits for a grace
        # period, which rings that are opened side by side can share.
        if _libc.setsockopt(sock.fileno(), _SOL_PACKET, kind, request, len(request)):
            raise SystemRefused(
                f"the kernel refused {size / (1 << 20):g} MiB of ring memory: "
                f"{os.strerror(ctypes.get_errno())}",
                "use fewer --ring-slots (a power of two), or free memory")
        return sock

    @staticmethod
    def _widen(sock: socket.socket) -> None:
        """Let a whole ring be in flight: the default send buffer stops at about 200 frames."""
        for option in (_SO_SNDBUFFORCE, socket.SO_SNDBUF):
            try:
                sock.setsockopt(socket.SOL_SOCKET, option, 1 << 24)
                return
            except PermissionError:
                continue

    def _map(self, sock: socket.socket, slots: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        try:
            memory = mmap.mmap(sock.fileno(), slots * SLOT_SIZE, mmap.MAP_SHARED,
                               mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as error:
            raise SystemRefused(f"cannot map ring memory: {error.strerror}",
                                "use fewer --ring-slots, or free memory") from None
        self._maps.append(memory)
        return np.frombuffer(memory, np.uint8)

    def kick(self) -> None:
        """Tell the kernel to send what stands in the transmit ring; never blocks."""
        try:
            self._sender.send(b"", socket.MSG_DONTWAIT)
            self.congested = False
        except OSError as error:
            if error.errno not in _CONGESTED:
                raise self._lost(error) from None
            self.tx_congested += 1
            self.congested = True

    def wait(self, timeout_s: float, also: int = -1) -> None:
        """Sleep until a frame is there, the descriptor `also` is readable, or time is up."""
        if self.congested:
            # What is still in the transmit ring goes out before anything else is awaited.
            self.kick()
            timeout_s = min(timeout_s, _RETRY_S)
        watched: list[socket.socket | int] = [self._receiver]
        if also >= 0:
            watched.append(also)
        readable, _, _ = select.select(watched, [], [], timeout_s)
        if self._receiver in readable:
            self.check()

    def check(self) -> None:
        """Raise SystemRefused for an interface that went down, which makes the socket readable."""
        code = self._receiver.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise self._lost(OSError(code, os.strerror(code)))

    def pull(self) -> int:
        """Nothing to do: the kernel fills the slots of a ring by itself."""
        return 0

    def fileno(self) -> int:
        """The descriptor that is readable while frames wait."""
        return self._receiver.fileno()

    def statistics(self) -> int:
        """Frames that the receive ring had no room for since it was opened."""
        raw = self._receiver.getsockopt(_SOL_PACKET, _STATISTICS, 8)
        # PACKET_STATISTICS resets itself when read.
        self.rx_dropped += struct.unpack("=II", raw)[1]
        return self.rx_dropped

    def unsent(self) -> int:
        """Frames that still stand in the transmit ring because the kernel would not take them."""
        status = self.tx.words[::SLOT_SIZE // 4]
        return int(np.count_nonzero((status & _TX_LEFT) != 0))

    def _lost(self, error: OSError) -> SystemRefused:
        name = self.interface.name
        if error.errno in _GONE:
            return SystemRefused(f"interface {self.label!r} went down or away while in use",
                                 f"bring it up again (ip link set {name} up) and restart")
        return SystemRefused(f"sending on {self.label!r} failed: {error.strerror}")

    def close(self) -> None:
        """Give rings, maps and sockets back; safe to call twice."""
        for side in ("rx", "tx"):
            if hasattr(self, side):
                delattr(self, side)
        for memory in self._maps:
            try:
                memory.close()
            except BufferError:
                # A caller still holds an array of it: the kernel frees it with that array.
                continue
        for sock in self._sockets:
            sock.close()
        self._maps.clear()
        self._sockets.clear()

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
