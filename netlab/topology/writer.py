"""A topology as the YAML text that `file.load` reads as that very topology.

The one thing to know: all is written, also what a reader would assign. Subnets come back in the
order of their segments; a relay's policy that says nothing comes back as none.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import yaml

from fastpath.errors import SystemRefused, UserError
from netlab.topology import quantities
from netlab.topology.conditions import OPTION
from netlab.topology.model import MTU, Impairment, Link, Node, Role, Segment, Subnet, Topology

Entry = dict[str, Any]
_WIDTH = 100


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """Writes what occurs twice twice: people are to read it."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(topology: Topology) -> str:
    """The text, without a comment at its head."""
    in_nodes = _by_node(topology)
    written: Entry = {"name": topology.name}
    if topology.mtu != MTU:
        written["mtu"] = topology.mtu
    subnets: dict[str, list[Subnet]] = {}
    for subnet in topology.subnets:
        subnets.setdefault(subnet.segment, []).append(subnet)
    switches = topology.with_role(Role.SWITCH)
    written["segments"] = {
        segment.name: _segment(topology, segment, subnets.get(segment.name, []),
                               switches[0].name if switches else "")
        for segment in topology.segments}
    written["nodes"] = {node.name: _node(topology, node, in_nodes) for node in topology.nodes}
    if not in_nodes:
        written["links"] = [{"node": link.node, "interface": link.ifname, **_link(topology, link)}
                            for link in topology.links]
    if topology.impairments:
        written["impairments"] = [impairment(each) for each in topology.impairments]
    if topology.load:
        written["load"] = _load(topology.load)
    return str(yaml.dump(written, Dumper=_Dumper, sort_keys=False, default_flow_style=None,
                         width=_WIDTH, allow_unicode=True))


def write(path: Path, text: str, *, replace: bool) -> None:
    """Put `text` into the file `path`, whole or not at all.

    replace: whether what is there may go; UserError where it may not, SystemRefused where the
    machine says no.
    """
    if path.exists() and not replace:
        raise UserError(f"{path} is there already", "name another file, or add --force")
    draft: Path | None = None
    try:
        target = path.resolve()
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".dhcp-netlab-")
        draft = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        draft.chmod(0o644)
        if replace:
            draft.replace(target)
        else:
            # A link fails where a file has come into being since we looked.
            os.link(draft, target)
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                draft.unlink()


def _by_node(topology: Topology) -> bool:
    """Whether links come node by node, so that each node can list its own."""
    return topology.links == tuple(link for node in topology.nodes
                                   for link in topology.links_of(node.name))


def _segment(topology: Topology, segment: Segment, subnets: list[Subnet], switch: str) -> Entry:
    found: Entry = {}
    if len(subnets) == 1:
        found.update(_subnet(subnets[0]))
    elif subnets:
        found["subnets"] = [_subnet(subnet) for subnet in subnets]
    served = {subnet.network for subnet in subnets}
    links = topology.links_on(segment.name)
    own = list(dict.fromkeys(str(link.address.network) for link in links
                             if link.address and link.address.network not in served))
    if own:
        found["network"] = own[0] if len(own) == 1 else own
    if segment.is_cable:
        # Two links make one; with another number it is none, and the reader is to say so.
        if len(links) != 2:
            found["bridge"] = False
    elif len(links) == 2 or segment.stands_in != switch:
        found["bridge"] = segment.stands_in
    return found


def _subnet(subnet: Subnet) -> Entry:
    found = {"subnet": str(subnet.network), "pool": f"{subnet.first} - {subnet.last}"}
    return found | ({"server": subnet.server} if subnet.server else {})


def _node(topology: Topology, node: Node, with_links: bool) -> Entry:
    found: Entry = {"role": str(node.role)}
    if node.program:
        found["program"] = node.program.name
        if node.program.options:
            found["options"] = list(node.program.options)
    links = topology.links_of(node.name)
    if with_links and links:
        found["links"] = _links(topology, links)
    if node.policy:
        policy = node.policy
        found |= {key: value for key, value in (
            ("max_hops", policy.max_hops), ("option82", policy.option82),
            ("circuit_id", policy.circuit_id), ("remote_id", policy.remote_id),
            ("servers", [str(each) for each in policy.servers])) if value}
    return found


def _links(topology: Topology, links: tuple[Link, ...]) -> Any:
    """As short as it goes: segments alone where all else is what a reader takes for granted."""
    each = {link.ifname: _link(topology, link) for link in links}
    short = {ifname: entry["segment"] if len(entry) == 1 else entry
             for ifname, entry in each.items()}
    counted = list(short) == [f"eth{i}" for i in range(len(links))]
    if counted and all(isinstance(entry, str) for entry in short.values()):
        segments = list(short.values())
        return segments if len(segments) > 1 else segments[0]
    return short


def _link(topology: Topology, link: Link) -> Entry:
    found: Entry = {"segment": link.segment}
    role = topology.node(link.node).role
    if link.address:
        found["address"] = str(link.address.ip)
    elif role.serves or role.forwards:
        found["address"] = "none"
    # The port's usual name.
    if link.port and link.port != link.node:
        found["port"] = link.port
    return found


def impairment(each: Impairment) -> Entry:
    """One impairment as a file has it, in words."""
    found: Entry = {"link": f"{each.node}.{each.ifname}"}
    if each.direction != "both":
        found["direction"] = each.direction
    for key, value, write in (
            ("loss", each.loss_percent, quantities.as_percent),
            ("duplicate", each.duplicate_percent, quantities.as_percent),
            ("reorder", each.reorder_percent, quantities.as_percent),
            ("delay", each.delay_ms, quantities.as_milliseconds),
            ("jitter", each.jitter_ms, quantities.as_milliseconds),
            ("rate", each.rate_kbit_per_s, quantities.as_rate),
            ("from", each.from_s, quantities.as_seconds),
            ("until", each.until_s, quantities.as_seconds)):
        if value:
            found[key] = write(value)
    return found


def _load(words: tuple[str, ...]) -> Any:
    """By option where every word is one with its value, and none comes twice; else the words."""
    found: Entry = {}
    for word in words:
        option, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or option in found or not OPTION.fullmatch(option):
            return list(words)
        found[option] = value if equals else True
    return found
