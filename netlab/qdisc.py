"""Queueing disciplines and XDP programs of links: what the kernel does to frames on their way.

A root qdisc acts on what *leaves* its interface; an XDP program on what *arrives*, before any
packet socket has heard it. tc's ingress hook and nftables come after packet sockets, so they
are of no use here. What is here are plain values; `netlab.tc` takes them to the kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

# Bytes of tbf's bucket: at least a full frame, and what passes in this time.
_FULL_FRAME = 1600
_BUCKET_S = 0.002


@dataclass(frozen=True, slots=True)
class Netem:
    """netem, in its own units. Percentages 0 to 100; rate 0 is unlimited.

    limit: most frames that wait. seed: of its dice, None to let the kernel choose (6.7 and up).
    """

    limit: int
    loss_percent: float = 0.0
    duplicate_percent: float = 0.0
    reorder_percent: float = 0.0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0
    rate_bytes_per_s: int = 0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Tbf:
    """A token bucket: frames wait for their turn, and are dropped when `limit_bytes` wait."""

    rate_bytes_per_s: int
    limit_bytes: int

    @property
    def burst_bytes(self) -> int:
        """How much may pass at once."""
        return max(_FULL_FRAME, int(self.rate_bytes_per_s * _BUCKET_S))


Discipline = Netem | Tbf


@dataclass(frozen=True, slots=True)
class Queue:
    """A root qdisc as the kernel tells of it. discipline: None where it is of another kind.

    sent: frames that passed. dropped: frames that it lost, meant to or not. waiting: frames now.
    """

    index: int
    kind: str
    discipline: Discipline | None
    sent: int
    dropped: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Device:
    """An interface, and the number of the XDP program on it (0: none)."""

    index: int
    ifname: str
    xdp_program: int
