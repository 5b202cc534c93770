"""Slots: fixed-size cells of memory shared with the kernel, walked by index.

A slot is owned by one side at a time, and its status word says by which. The layout is the
one of TPACKET_V2 (linux/if_packet.h): a header of 32 octets, then, on receive, the frame at
`tp_mac`; on transmit, the frame behind the space of the unused socket address. Code that
walks slots does not know whether a ring or a batch of UDP datagrams filled them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.jit import fence, kernel

# struct tpacket2_hdr: octet offsets.
H_LEN, H_SNAPLEN, H_MAC, H_SEC, H_NSEC, H_TCI, H_TPID = 4, 8, 12, 16, 20, 24, 26
RX_USER, RX_CSUM_NOT_READY, RX_VLAN_VALID = 1, 8, 16
TX_AVAILABLE, TX_SEND_REQUEST = 0, 1

# Fields of `Slots.geometry`.
G_SIZE, G_COUNT, G_HEAD, G_FRAME, G_LEAD = 0, 1, 2, 3, 4


class Slots(NamedTuple):
    """One ring, as kernels see it.

    mem: uint8[count * size], the shared memory.
    words: uint32 view of the same memory, for status words.
    halves: uint16 view, for the odd 16-bit field.
    geometry: int64[5], by G_SIZE (octets a slot, a power of two or not), G_COUNT (slots),
        G_HEAD (next slot to look at), G_FRAME (where what is sent starts in its slot),
        G_LEAD (octets of it that stand before the Ethernet header: a virtio_net_hdr).
    """

    mem: npt.NDArray[np.uint8]
    words: npt.NDArray[np.uint32]
    halves: npt.NDArray[np.uint16]
    geometry: npt.NDArray[np.int64]


def make_slots(mem: npt.NDArray[np.uint8], size: int, frame: int, lead: int = 0) -> Slots:
    """Slots of `size` octets over `mem`; what is sent starts `frame` octets into its slot.

    lead: octets of a header that the kernel reads before the Ethernet header.
    """
    geometry = np.array([size, len(mem) // size, 0, frame, lead], np.int64)
    return Slots(mem, mem.view(np.uint32), mem.view(np.uint16), geometry)


@kernel
def rx_peek(rx: Slots, ahead: int) -> int:
    """Octet offset of the slot `ahead` of the head if a frame waits there, else -1."""
    g = rx.geometry
    index = g[G_HEAD] + ahead
    if index >= g[G_COUNT]:
        index -= g[G_COUNT]
    base = index * g[G_SIZE]
    if np.int64(rx.words[base >> 2]) & RX_USER == 0:
        return np.int64(-1)
    fence()
    return base


@kernel
def rx_bounds(rx: Slots, base: int) -> tuple[int, int]:
    """Octet offsets of start and end of the frame in the slot at `base`."""
    start = base + np.int64(rx.halves[(base + H_MAC) >> 1])
    limit = base + rx.geometry[G_SIZE]
    return start, min(start + np.int64(rx.words[(base + H_SNAPLEN) >> 2]), limit)


@kernel
def rx_checksum_ready(rx: Slots, base: int) -> bool:
    """False when a local sender left the UDP checksum to hardware that was never passed."""
    return np.int64(rx.words[base >> 2]) & RX_CSUM_NOT_READY == 0


@kernel
def rx_outer_tag(rx: Slots, base: int) -> int:
    """The VLAN tag that the kernel moved out of the frame: `tpid << 16 | tci`, or -1."""
    if np.int64(rx.words[base >> 2]) & RX_VLAN_VALID == 0:
        return np.int64(-1)
    tci = np.int64(rx.halves[(base + H_TCI) >> 1])
    return np.int64(rx.halves[(base + H_TPID) >> 1]) << 16 | tci


@kernel
def rx_stamp_ns(rx: Slots, base: int) -> int:
    """When the kernel received the frame, CLOCK_REALTIME in nanoseconds."""
    seconds = np.int64(rx.words[(base + H_SEC) >> 2])
    return seconds * 1_000_000_000 + np.int64(rx.words[(base + H_NSEC) >> 2])


@kernel
def rx_release(rx: Slots, count: int) -> None:
    """Give `count` slots from the head on back to the kernel."""
    fence()
    g = rx.geometry
    for _ in range(count):
        rx.words[(g[G_HEAD] * g[G_SIZE]) >> 2] = 0
        g[G_HEAD] += 1
        if g[G_HEAD] == g[G_COUNT]:
            g[G_HEAD] = 0


@kernel
def tx_start(tx: Slots) -> int:
    """Octet offset at which to write the next frame to send, or -1 when the ring is full."""
    g = tx.geometry
    base = g[G_HEAD] * g[G_SIZE]
    if np.int64(tx.words[base >> 2]) != TX_AVAILABLE:
        return np.int64(-1)
    return base + g[G_FRAME] + g[G_LEAD]


@kernel
def tx_room(tx: Slots, ahead: int) -> bool:
    """Whether a frame could be written after `ahead` others, fewer than there are slots."""
    g = tx.geometry
    index = g[G_HEAD] + ahead
    if index >= g[G_COUNT]:
        index -= g[G_COUNT]
    return ahead < g[G_COUNT] and np.int64(tx.words[(index * g[G_SIZE]) >> 2]) == TX_AVAILABLE


@kernel
def tx_commit(tx: Slots, length: int) -> None:
    """Hand the frame just written at the head, `length` octets long, to the kernel."""
    g = tx.geometry
    base = g[G_HEAD] * g[G_SIZE]
    tx.words[(base + H_LEN) >> 2] = length + g[G_LEAD]
    if g[G_LEAD] != 0:
        # virtio_net_hdr.hdr_len: the whole frame is header, so the kernel keeps it in the
        # socket buffer instead of pointing into the ring.
        tx.halves[(base + g[G_FRAME] + 2) >> 1] = length
    fence()
    tx.words[base >> 2] = TX_SEND_REQUEST
    g[G_HEAD] += 1
    if g[G_HEAD] == g[G_COUNT]:
        g[G_HEAD] = 0


@kernel
def tx_revoke(tx: Slots, count: int) -> None:
    """Take back the last `count` frames committed, none of which the kernel was told of yet."""
    g = tx.geometry
    for _ in range(count):
        g[G_HEAD] -= 1
        if g[G_HEAD] < 0:
            g[G_HEAD] = g[G_COUNT] - 1
        tx.words[(g[G_HEAD] * g[G_SIZE]) >> 2] = TX_AVAILABLE
