"""Where frames were lost, and why, in words: from the kernel's reason and function.

Sources: include/net/dropreason-core.h; drivers/net/veth.c, net/bridge/, net/core/dev.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ebpf.probe import Drop


@dataclass(frozen=True, slots=True)
class Loss:
    """Frames lost in one node. where: which part of it; ifname: "" where that is not known.
    messages: how many of each kind."""

    node: str
    ifname: str
    where: str
    reason: str
    count: int
    messages: Mapping[str, int] = field(default_factory=dict)


# By reason of the kernel.
_REASONS = {
    "CPU_BACKLOG": ("softnet backlog", "backlog of a CPU full (net.core.netdev_max_backlog)"),
    "SOCKET_RCVBUFF": ("socket receive queue", "receive queue full (SO_RCVBUF)"),
    "PROTO_MEM": ("socket receive queue", "memory of all UDP sockets used up (net.ipv4.udp_mem)"),
    "PACKET_SOCK_ERROR": ("packet socket", "receive queue or ring full"),
    "QDISC_DROP": ("qdisc", "queue full or over its rate"),
    "QDISC_OVERLIMIT": ("qdisc", "queue full"),
    "QDISC_CONGESTED": ("qdisc", "congested"),
    "XDP": ("program", "dropped by an XDP program"),
    "TC_INGRESS": ("program", "dropped by tc where it arrives"),
    "TC_EGRESS": ("program", "dropped by tc where it departs"),
    "NETFILTER_DROP": ("firewall", "dropped by netfilter"),
    "IP_CSUM": ("checksum", "IP header checksum wrong"),
    "UDP_CSUM": ("checksum", "UDP checksum wrong"),
    "IP_RPFILTER": ("ip stack", "source address not expected here (rp_filter)"),
    "DEV_READY": ("veth", "interface not ready"),
    "FULL_RING": ("veth", "queue of the interface full"),
    "BRIDGE_INGRESS_STP_STATE": ("bridge", "port does not forward"),
}
# By the start of the function's name, where the reason says nothing.
_FUNCTIONS = (("veth_", "veth"), ("br_", "bridge"), ("packet_", "packet socket"),
              ("tpacket_", "packet ring"), ("udp_", "ip stack"), ("ip_", "ip stack"),
              ("__dev_", "veth"))
# A broadcast that no UDP socket of a namespace wanted; its packet sockets have heard it.
_UNHEARD = ("__udp4_lib_rcv", "__udp4_lib_mcast_deliver")


def named(drops: Iterable[Drop], nodes: Mapping[str, str]) -> list[Loss]:
    """The losses among what the kernel threw away. nodes: by namespace."""
    found: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for drop in drops:
        if drop.kind == "other" or (drop.reason == "NOT_SPECIFIED" and drop.symbol in _UNHEARD):
            continue
        where, reason = _REASONS.get(drop.reason) or _by_function(drop)
        messages = found.setdefault((nodes[drop.namespace], drop.ifname, where, reason), {})
        messages[drop.kind] = messages.get(drop.kind, 0) + drop.count
    return [Loss(*key, sum(messages.values()), messages) for key, messages in found.items()]


def _by_function(drop: Drop) -> tuple[str, str]:
    where = next((where for start, where in _FUNCTIONS if drop.symbol.startswith(start)), "kernel")
    return where, f"{drop.reason.lower().replace('_', ' ')} in {drop.symbol or 'the kernel'}"
