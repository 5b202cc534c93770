"""What a lab looks like right now: read from the kernel, changed by nobody.

One document feeds the table of `lab status`, its `--json` and the port counters of a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netlab import namespaces, plan, processes, state
from netlab.messages import LinkState
from netlab.namespaces import Entry
from netlab.netlink import Rtnl
from netlab.state import Journal, Unreadable

_SOFTNET_DROPPED = 1  # the second column of /proc/net/softnet_stat, in hexadecimal


def describe(lab: str) -> dict[str, Any] | None:
    """One lab as plain data; None when there is nothing of that name.

    {"name", "phase", "left_behind", "topology", "owner_pid", "nodes": [{"node", "namespace",
    "role", "interfaces": [...], "programs": [{"pid", "command", "started_by_lab"}]}]}. Without
    a journal that can be read, `phase` says so and the nodes are those whose stamp is found.
    `left_behind` is true when `lab gc` would take it.
    """
    found = _namespaces(lab)
    journal, phase = None, "no journal"
    try:
        journal = state.read(lab)
    except Unreadable:
        phase = "journal unreadable"
    else:
        if journal is None and not found:
            return None
    roles = {node.name: str(node.role) for node in journal.topology.nodes} if journal else {}
    residents = processes.living_in(e.inode for e in found.values() if e.inode is not None)
    interfaces = _interfaces({n: e.name for n, e in found.items() if e.inode is not None})
    mine = {started.process for started in journal.programs} if journal else set()
    return {
        "name": lab,
        "phase": str(journal.phase) if journal else phase,
        "left_behind": journal is None or journal.left_behind,
        "topology": journal.topology.name if journal else None,
        "owner_pid": journal.owner.pid if journal else None,
        "nodes": [{
            "node": node, "namespace": plan.namespace(lab, node), "role": roles.get(node),
            "interfaces": interfaces.get(node, []),
            "programs": [{"pid": r.process.pid, "command": r.command,
                          "started_by_lab": r.process in mine}
                         for r in residents if node in found and r.namespace == found[node].inode],
        } for node in roles or found],
    }


def _namespaces(lab: str) -> dict[str, Entry]:
    """What carries the stamp of `lab`, by node."""
    owners = [(state.stamped(entry.stamp), entry) for entry in namespaces.entries(f"{lab}-")]
    return {owner[1]: entry for owner, entry in owners if owner and owner[0] == lab}


def _interfaces(names: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """The interfaces of each node but `lo`; names: namespace by node. Absent where it has gone."""

    def look(rtnl: Rtnl) -> list[dict[str, Any]]:
        addresses = rtnl.addresses()
        return [{"ifname": link.ifname, "kind": link.kind, "state": _state(link), "mac": link.mac,
                 "mtu": link.mtu, "addresses": [str(a) for a in addresses.get(link.index, [])],
                 **link.counters} for link in rtnl.links(counters=True) if link.ifname != "lo"]

    looks = zip(names, namespaces.look_into(names.values(), look), strict=True)
    return {node: seen for node, seen in looks if not isinstance(seen, OSError)}


def _state(link: LinkState) -> str:
    """`up` when frames pass, `blocked` when only the bridge stops them, else as the kernel."""
    if link.carries:
        return "up"
    return "blocked" if link.operstate == "UP" else link.operstate.lower()


def ports(journal: Journal) -> dict[tuple[str, str], dict[str, int]]:
    """The counters of every interface of the lab's links, by (node, ifname).

    Raises OSError where a namespace is gone, KeyError where an interface is.
    """
    names = [node.name for node in journal.topology.nodes]
    looks = namespaces.look_into((journal.namespace(name) for name in names),
                                 lambda rtnl: rtnl.links(counters=True))
    found: dict[tuple[str, str], dict[str, int]] = {}
    for name, seen in zip(names, looks, strict=True):
        if isinstance(seen, OSError):
            raise seen
        found |= {(name, link.ifname): link.counters for link in seen}
    return {end: found[end] for pair in pairs(journal) for end in pair}


def pairs(journal: Journal) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Both ends of every veth that a link is, each as (node, ifname); a cable counts once."""
    topology = journal.topology
    found = {frozenset(pair): pair for link in topology.links
             for pair in [(link.end, plan.peer(topology, link))]}
    return list(found.values())


def softnet_dropped() -> int:
    """Frames that the whole machine dropped because a CPU's backlog was full, since boot."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[_SOFTNET_DROPPED], 16) for line in lines)
