"""A topology in words: one sentence, rows for tables, and a plan as one document. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from netlab.plan import Plan
from netlab.topology.model import Node, Role, Segment, Subnet, Topology, to_json
from netlab.topology.routing import Routing
from netlab.topology.writer import impairment

NODE_HEADINGS = ("node", "namespace", "role", "program", "interface", "segment", "address",
                 "routes")
SEGMENT_HEADINGS = ("segment", "made of", "links", "network", "clients get", "from", "hops")


def sentence(topology: Topology) -> str:
    """`5 nodes, 3 segments, 1 subnet, 2 relays; client segments at 1, 2 hops`."""
    routing = Routing(topology)
    counts = (_counted(len(topology.nodes), "node"), _counted(len(topology.segments), "segment"),
              _counted(len(topology.subnets), "subnet"),
              _counted(len(topology.with_role(Role.RELAY)), "relay"))
    with_clients = {link.segment for node in topology.with_role(Role.CLIENT)
                    for link in topology.links_of(node.name)}
    hops = sorted({routing.hops(subnet) for subnet in topology.subnets
                   if subnet.segment in with_clients})
    which = "client segment" if len(with_clients) == 1 else "client segments"
    away = f"{', '.join(map(str, hops))} {'hop' if hops == [1] else 'hops'}"
    return f"{', '.join(counts)}; {which} at {away}"


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def node_rows(plan: Plan, most: int | None = None) -> Iterator[tuple[str, ...]]:
    """One row an interface, under NODE_HEADINGS; a node's own cells in its first row only.

    most: interfaces of one node before the rest is counted.
    """
    topology, routes = plan.topology, Routing(plan.topology).routes
    namespaces = plan.namespaces
    for node in topology.nodes:
        own = (node.name, namespaces[node.name], str(node.role), _program(node))
        count = len(routes.get(node.name, ()))
        links = topology.links_of(node.name)
        for i, link in enumerate(links[:most]):
            yield (*(own if i == 0 else ("",) * 4), link.ifname, link.segment,
                   str(link.address or ""), f"{count:,}" if i == 0 and count else "")
        if not links:
            yield (*own, "", "", "", "")
        elif most is not None and len(links) > most:
            yield ("", "", "", "", "...", f"{len(links) - most:,} more", "", "")


def _program(node: Node) -> str:
    """As far as the topology says; the test chooses where it does not."""
    return " ".join((node.program.name, *node.program.options)) if node.program else ""


def segment_rows(topology: Topology) -> Iterator[tuple[str, ...]]:
    """One row a network of a segment, under SEGMENT_HEADINGS."""
    routing = Routing(topology)
    subnets: dict[str, list[Subnet]] = {}
    for subnet in topology.subnets:
        subnets.setdefault(subnet.segment, []).append(subnet)
    for segment in topology.segments:
        links = topology.links_on(segment.name)
        served = subnets.get(segment.name, [])
        networks = {link.address.network for link in links if link.address}
        rows = [(str(each.network), f"{each.first} - {each.last}", each.server or "every server",
                 str(routing.hops(each))) for each in served]
        rows += [(str(network), "", "", "")
                 for network in sorted(networks - {each.network for each in served})]
        own = (segment.name, _made_of(segment), f"{len(links):,}")
        for i, row in enumerate(rows or [("", "", "", "")]):
            yield (*(own if i == 0 else ("",) * 3), *row)


def _made_of(segment: Segment) -> str:
    return "cable" if segment.is_cable else f"bridge in {segment.stands_in}"


def conditions(topology: Topology) -> Iterator[str]:
    """What befalls links, and the load; one line each."""
    for each in topology.impairments:
        said = impairment(each)
        yield f"{said.pop('link')}: {', '.join(f'{key} {value}' for key, value in said.items())}"
    if topology.load:
        yield f"load: {' '.join(topology.load)}"


def document(plan: Plan) -> dict[str, Any]:
    """All of a plan, for JSON; what `does` is the name of the step's kind."""
    return {"schema": "dhcp-netlab/plan/1", "lab": plan.lab, "topology": to_json(plan.topology),
            "namespaces": plan.namespaces,
            "steps": [{"does": type(step).__name__, "says": str(step), **asdict(step)}
                      for step in plan.steps]}
