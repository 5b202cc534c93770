"""Where frames were lost, and why, in words: from the kernel's reason and function.

Sources: include/net/dropreason-core.h; drivers/net/veth.c, net/bridge/, net/core/dev.c.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ebpf.probe import Drop

QUEUE, PACKETS, RING = AT_SOCKETS = ("socket receive queue", "packet socket", "packet ring")
_IN_STACK = frozenset(("ip stack", "checksum", QUEUE))


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


@dataclass(frozen=True, slots=True)
class Heard:
    """Nodes by how their programs hear DHCP: frames of AF_PACKET, or datagrams of UDP alone.
    switches: those that only pass frames on."""

    by_frames: Collection[str] = ()
    by_udp: Collection[str] = ()
    switches: Collection[str] = ()

    def reads(self, node: str, where: str) -> bool:
        """Whether what is lost there would have been read; else it was a second copy.

        Who hears frames (dhcpd, dhcrelay, Kea, ours) has a UDP socket only so that the kernel
        answers no ICMP. Who hears UDP may open an AF_PACKET socket to send (udhcpd, for each
        answer). The IP stack of a switch gets a copy of what is broadcast.
        """
        if where == QUEUE and node in self.by_frames:
            return False
        if where in (PACKETS, RING) and node in self.by_udp:
            return False
        return node not in self.switches or where not in _IN_STACK


@dataclass(frozen=True, slots=True)
class Counted:
    """What a socket or ring had no room for, as it has counted itself. where: of `AT_SOCKETS`."""

    node: str
    where: str
    count: int


UNKNOWN = Heard()
# By reason of the kernel.
_REASONS = {
    "CPU_BACKLOG": ("softnet backlog", "backlog of a CPU full (net.core.netdev_max_backlog)"),
    "SOCKET_RCVBUFF": (QUEUE, "receive queue full (SO_RCVBUF)"),
    "PROTO_MEM": (QUEUE, "memory of all UDP sockets used up (net.ipv4.udp_mem)"),
    "PACKET_SOCK_ERROR": (PACKETS, "receive queue or ring full"),
    "QDISC_DROP": ("qdisc", "queue full or over its rate"),
    "QDISC_OVERLIMIT": ("qdisc", "queue full"),
    "QDISC_CONGESTED": ("qdisc", "congested"),
    "NO_SOCKET": ("ip stack", "nobody listens on that port"),
    "XDP": ("program", "dropped by an XDP program"),
    "TC_INGRESS": ("program", "dropped by tc where it arrives"),
    "TC_EGRESS": ("program", "dropped by tc where it departs"),
    "NETFILTER_DROP": ("firewall", "dropped by netfilter"),
    "IP_INHDR": ("ip stack", "IP header wrong, or its checksum"),
    "IP_CSUM": ("checksum", "IP header: checksum wrong"),
    "UDP_CSUM": ("checksum", "UDP checksum wrong"),
    "IP_RPFILTER": ("ip stack", "source address not expected here (rp_filter)"),
    "DEV_READY": ("veth", "interface not ready"),
    "FULL_RING": ("veth", "queue of the interface full"),
    "BRIDGE_INGRESS_STP_STATE": ("bridge", "port does not forward"),
}
# By the start of the function's name, where the reason says nothing.
_FUNCTIONS = (("veth_", "veth"), ("br_", "bridge"), ("packet_", PACKETS),
              ("tpacket_", RING), ("udp_", "ip stack"), ("ip_", "ip stack"),
              ("__dev_", "veth"))
# A broadcast that no UDP socket of a namespace wanted; its packet sockets have heard it.
_UNHEARD = ("__udp4_lib_rcv", "__udp4_lib_mcast_deliver")
# What is meant for servers. Answers that are broadcast reach other servers too, who want none.
_TO_SERVERS = frozenset(("discover", "request", "decline", "release", "inform"))


def named(drops: Iterable[Drop], nodes: Mapping[str, str], heard: Heard = UNKNOWN) -> list[Loss]:
    """The losses among what the kernel threw away. nodes: by namespace."""
    found: dict[tuple[str, str, str, str], dict[str, int]] = {}
    for drop in drops:
        node = nodes[drop.namespace]
        where, reason = _place(drop)
        if _no_loss(drop) or not heard.reads(node, where):
            continue
        messages = found.setdefault((node, drop.ifname, where, reason), {})
        messages[drop.kind] = messages.get(drop.kind, 0) + drop.count
    return [Loss(*key, sum(messages.values()), messages) for key, messages in found.items()]


def at_sockets(drops: Iterable[Drop], nodes: Mapping[str, str],
               counted: Iterable[Counted]) -> Iterator[Loss]:
    """What sockets and rings have counted beyond what the kernel told of them.

    It tells of a frame when the last who holds it lets go: one that a ring had no room for, and
    another socket read, was lost for the ring without a word.
    """
    told: dict[tuple[str, str], int] = {}
    for drop in drops:
        # Whatever it was: the socket does not ask.
        key = nodes[drop.namespace], _one_to_the_kernel(_place(drop)[0])
        told[key] = told.get(key, 0) + drop.count
    for each in counted:
        key = each.node, _one_to_the_kernel(each.where)
        already = min(told.get(key, 0), each.count)
        told[key] = told.get(key, 0) - already
        if each.count > already:
            # A queue counts as full what `recvmsg` found with a wrong UDP checksum.
            why = "full, or UDP checksum wrong" if each.where == QUEUE else "full"
            yield Loss(each.node, "", each.where, f"{why}, as it has counted itself",
                       each.count - already)


def _one_to_the_kernel(where: str) -> str:
    """A ring and a queue of AF_PACKET have the same reason."""
    return PACKETS if where == RING else where


def _no_loss(drop: Drop) -> bool:
    if drop.reason == "NO_SOCKET":
        return drop.kind not in _TO_SERVERS
    return drop.kind == "other" or (drop.reason == "NOT_SPECIFIED" and drop.symbol in _UNHEARD)


def _place(drop: Drop) -> tuple[str, str]:
    """(where, reason)"""
    # Drivers give no reason of their own.
    said = "XDP" if "_xdp_" in drop.symbol else drop.reason
    where, reason = _REASONS.get(said) or _by_function(drop)
    # It verifies headers as a host does.
    return "bridge" if drop.symbol.startswith("br_") else where, reason


def _by_function(drop: Drop) -> tuple[str, str]:
    where = next((where for start, where in _FUNCTIONS if drop.symbol.startswith(start)), "kernel")
    return where, f"{drop.reason.lower().replace('_', ' ')} in {drop.symbol or 'the kernel'}"
