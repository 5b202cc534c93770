"""What a lab looks like right now: read from the kernel, changed by nobody.

One document feeds the table of `lab status`, its `--json` and the port counters of a test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netlab import namespaces, plan, processes, state
from netlab.namespaces import Entry
from netlab.netlink import LinkState
from netlab.processes import Process, Resident
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
    mine = {started.process for started in journal.programs} if journal else set()
    return {
        "name": lab,
        "phase": str(journal.phase) if journal else phase,
        "left_behind": journal is None or journal.left_behind,
        "topology": journal.topology.name if journal else None,
        "owner_pid": journal.owner.pid if journal else None,
        "nodes": [_node(lab, node, roles.get(node), found.get(node), residents, mine)
                  for node in roles or found],
    }


def _namespaces(lab: str) -> dict[str, Entry]:
    """What carries the stamp of `lab`, by node."""
    owners = [(state.stamped(entry.stamp), entry) for entry in namespaces.entries(f"{lab}-")]
    return {owner[1]: entry for owner, entry in owners if owner and owner[0] == lab}


def _node(lab: str, node: str, role: str | None, entry: Entry | None,
          residents: list[Resident], mine: set[Process]) -> dict[str, Any]:
    inode = entry.inode if entry else None
    return {
        "node": node, "namespace": plan.namespace(lab, node), "role": role,
        "interfaces": _interfaces(entry.name) if entry and inode is not None else [],
        "programs": [{"pid": r.process.pid, "command": r.command,
                      "started_by_lab": r.process in mine}
                     for r in residents if r.namespace == inode],
    }


def _interfaces(name: str) -> list[dict[str, Any]]:
    with namespaces.opened(name) as space:
        links, addresses = space.rtnl.links(), space.rtnl.addresses()
    return [{"ifname": link.ifname, "kind": link.kind, "state": _state(link), "mac": link.mac,
             "mtu": link.mtu, "addresses": [str(a) for a in addresses.get(link.index, [])],
             **link.counters} for link in links if link.ifname != "lo"]


def _state(link: LinkState) -> str:
    """`up` when frames pass, `blocked` when only the bridge stops them, else as the kernel."""
    if link.carries:
        return "up"
    return "blocked" if link.operstate == "UP" else link.operstate.lower()


def ports(journal: Journal) -> dict[tuple[str, str], dict[str, int]]:
    """The counters of every interface of the lab's links, by (node, ifname)."""
    topology = journal.topology
    found = {}
    for node in topology.nodes:
        with namespaces.opened(journal.namespace(node.name)) as space:
            for link in space.rtnl.links():
                found[node.name, link.ifname] = link.counters
    return {end: found[end] for pair in pairs(journal) for end in pair}


def pairs(journal: Journal) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Both ends of every link, each as (node, ifname)."""
    stands_in = {s.name: s.stands_in for s in journal.topology.segments}
    return [((link.node, link.ifname), (stands_in[link.segment], link.port))
            for link in journal.topology.links]


def softnet_dropped() -> int:
    """Frames that the whole machine dropped because a CPU's backlog was full, since boot."""
    lines = Path("/proc/net/softnet_stat").read_text().splitlines()
    return sum(int(line.split()[_SOFTNET_DROPPED], 16) for line in lines)
