"""A topology as its file says it: each thing with its line, what is not said left open.

The one thing to know: here a value is held against itself alone; against others in `join`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from fastpath import values
from fastpath.document import AtLine, Node, did_you_mean, shown, taken
from fastpath.errors import UserError
from netlab import relays, servers
from netlab.plan import LAB_NAME
from netlab.topology.conditions import read_impairment, read_load
from netlab.topology.model import MTU, Impairment, Program, RelayPolicy, Role
from netlab.topology.problems import Problems, one
from netlab.topology.schema import (
    INTERFACE_NAME,
    LEAST_MTU,
    MOST_HOPS,
    MOST_MTU,
    OPTION82,
    entries,
)
from netlab.topology.spelling import Spelling

Span = tuple[IPv4Address, IPv4Address]

# RFC 6890: this network, loopback, multicast and reserved; the kernel takes none of them.
_NO_HOSTS = tuple(map(IPv4Network, ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")))

# Key of a node -> roles that have it.
_RUNNING = (Role.SERVER, Role.ROGUE, Role.RELAY)
_OF_ROLES: dict[str, tuple[Role, ...]] = {
    "program": _RUNNING, "options": _RUNNING,
    **dict.fromkeys(("max_hops", "option82", "circuit_id", "remote_id", "servers"),
                    (Role.RELAY,)),
    "links": tuple(role for role in Role if role is not Role.SWITCH),
}


@dataclass(slots=True)
class Place:
    """A name that should be known, and the line that says it."""

    name: str
    line: int


@dataclass(slots=True)
class SubnetDraft:
    """network, pool: None where they are to be assigned."""

    line: int
    network: IPv4Network | None
    pool: Span | None = None
    pool_line: int = 0
    server: Place | None = None


@dataclass(slots=True)
class SegmentDraft:
    """networks: those that clients get no address of. bridge: the node that holds it, whether
    there is to be one, or None."""

    name: str
    line: int
    subnets: list[SubnetDraft] = field(default_factory=list)
    networks: list[tuple[IPv4Network, int]] = field(default_factory=list)
    bridge: Place | bool | None = None
    server: Place | None = None


@dataclass(slots=True)
class LinkDraft:
    """address: None where it is to be assigned, or nobody needs one (`bare`: by the file)."""

    node: str
    ifname: str
    segment: Place
    address: IPv4Interface | IPv4Address | None = None
    address_line: int = 0
    bare: bool = False
    port: Place | None = None


@dataclass(slots=True)
class NodeDraft:
    """policy: without `servers`, which may be names."""

    name: str
    line: int
    role: Role
    program: Program | None = None
    policy: RelayPolicy = field(default_factory=RelayPolicy)
    servers: list[Place] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """segments: None where links are to say which there are. nodes_line: of the key `nodes`."""

    name: str
    mtu: int
    nodes_line: int
    nodes: dict[str, NodeDraft]
    segments: dict[str, SegmentDraft] | None
    links: list[LinkDraft]
    impairments: list[tuple[Impairment, int]]
    load: tuple[str, ...]
    ends: set[tuple[str, str]] = field(default_factory=set)

    def add(self, link: LinkDraft, line: int) -> None:
        """Raises AtLine for a second link of one interface."""
        end = link.node, link.ifname
        if end in self.ends:
            raise AtLine(line, f"{link.node} has a second interface {link.ifname}",
                         "an interface has one link: give another name")
        self.ends.add(end)
        self.links.append(link)


def node_name(text: str) -> str:
    if not LAB_NAME.fullmatch(text) or text.startswith("-"):
        raise UserError(f"{shown(text)} cannot be the name of a node",
                        "use up to 32 letters, digits, - and _, not starting with -")
    return text


def interface_name(what: str, text: str) -> str:
    if not re.fullmatch(INTERFACE_NAME, text) or text in (".", ".."):
        raise UserError(f"{shown(text)} cannot be the name of {what}",
                        "use up to 15 letters, digits, - _ and .")
    return text


def read_draft(root: Node, spelling: Spelling, name: str, problems: Problems) -> Draft:
    """What the file says; what is wrong goes into `problems`, or is raised as an AtLine.

    name: what the topology is called where the file does not say.
    """
    top = entries(root, "topology")
    found = Draft(
        problems.value(top, "name", values.name, name),
        problems.value(top, "mtu", values.whole(LEAST_MTU, MOST_MTU), MTU),
        root.key_lines["nodes"], {}, None, [], [], ())
    with problems.caught():
        for key, child, line in _named(top["nodes"], spelling, problems, "nodes"):
            with problems.caught():
                _read_node(key, child, line, found, spelling, problems)
    with problems.caught():
        if "segments" in top and not top["segments"].empty:
            found.segments = {}
            for key, child, line in _named(top["segments"], spelling, problems, "segments"):
                with problems.caught():
                    found.segments[key] = _read_segment(key, child, line, problems)
    for each in _items(top, "links", problems):
        with problems.caught():
            _read_entry(each, found, problems)
    for each in _items(top, "impairments", problems):
        with problems.caught():
            found.impairments.append((read_impairment(each, problems), each.line))
    if "load" in top:
        with problems.caught():
            found.load = read_load(top["load"])
    return found


def _items(of: Mapping[str, Node], key: str, problems: Problems) -> list[Node]:
    """A list, or nothing where there is none or something else (which is told)."""
    node = of.get(key)
    if node is None or node.empty:
        return []
    if node.items is None:
        problems.add(node.line, f"{key} is not a list", f"{key}: and below it lines with - ...")
        return []
    return node.items


def _named(node: Node, spelling: Spelling, problems: Problems, what: str,
           ) -> list[tuple[str, Node, int]]:
    """Name, value and line of each entry of a mapping from names that a user gave."""
    if not node.entries:
        raise AtLine(node.line, f"{what} is not a mapping by name",
                     f"{what}: and below it lines with NAME: ...")
    found = []
    for key, child in node.entries.items():
        with problems.caught():
            found.append((spelling.of(key, node.key_lines[key]), child, node.key_lines[key]))
    return found


def _at(line: int, read: Callable[[str], str], text: str) -> str:
    """A name that is a key, read."""
    return taken(Node(line, text, text), "name", read)


# Nodes and their links.

def _read_node(name: str, node: Node, line: int, into: Draft, spelling: Spelling,
               problems: Problems) -> None:
    with problems.caught():
        _at(line, node_name, name)
    # An error that speaks of the node as a whole belongs to its name's line.
    of = entries(replace(node, line=line), "node")
    role = Role(taken(one(of["role"], "role"), "role", values.choice(*Role)))
    draft = into.nodes[name] = NodeDraft(name, line, role)
    for key, roles in _OF_ROLES.items():
        if key in of and role not in roles:
            problems.add(node.key_lines[key], f"{key} says nothing of a {role}",
                         "a switch holds bridges: segments: SEGMENT: {bridge: " + name + "}"
                         if key == "links" else f"only of a {' or '.join(roles)}")
    with problems.caught():
        draft.program = _read_program(of, role, name, line)
    draft.policy = RelayPolicy(
        problems.value(of, "max_hops", values.whole(1, MOST_HOPS), None),
        problems.value(of, "option82", values.choice(*OPTION82), ""),
        problems.value(of, "circuit_id", values.line(255), ""),
        problems.value(of, "remote_id", values.line(255), ""))
    servers_said = of.get("servers")
    for each in servers_said.each() if servers_said and not servers_said.empty else ():
        with problems.caught():
            draft.servers.append(Place(one(each, "servers").text, each.line))
    if "links" in of and not of["links"].empty and role is not Role.SWITCH:
        _read_links(name, of["links"], into, spelling, problems)


def _read_program(of: Mapping[str, Node], role: Role, name: str, line: int) -> Program | None:
    written, options = of.get("program"), of.get("options")
    words: tuple[str, ...] = ()
    if options is not None and not options.empty:
        if options.items is None or any(each.entries is not None or each.items is not None
                                        for each in options.items):
            raise AtLine(options.line, "options is not a list of words",
                         'write options: ["-v", "-d"]')
        words = tuple(each.text for each in options.items)
    if written is None or written.empty:
        if words:
            assert options is not None
            raise AtLine(options.line, f"options of {name}, but no program",
                         "say whose they are: program: ...")
        return None
    known = relays.MODULES if role is Role.RELAY else servers.MODULES
    program = one(written, "program").text
    if program not in known:
        kind = "relay" if role is Role.RELAY else "server"
        raise AtLine(written.line, f"program: no {kind} is called {shown(program)}",
                     did_you_mean(program, list(known)))
    if program == "command" and not words:
        raise AtLine(written.line, f"program: command of {name} has no options",
                     'they are the command: options: ["my-dhcpd", "-i", "{interface}"]')
    return Program(program, words)


def _read_links(node: str, written: Node, into: Draft, spelling: Spelling,
                problems: Problems) -> None:
    if written.entries is None:
        found = [(f"eth{i}", each, each.line) for i, each in enumerate(written.each())]
    else:
        found = _named(written, spelling, problems, "links")
    for ifname, each, line in found:
        with problems.caught():
            _at(line, partial(interface_name, "an interface"), ifname)
            into.add(_read_link(node, ifname, each, line, problems), line)


def _read_entry(node: Node, into: Draft, problems: Problems) -> None:
    of = entries(node, "entry")
    name, ifname = (one(of[key], key) for key in ("node", "interface"))
    taken(ifname, "interface", partial(interface_name, "an interface"))
    if name.text not in into.nodes:
        raise AtLine(name.line, f"no node {shown(name.text)}",
                     did_you_mean(name.text, list(into.nodes)))
    if into.nodes[name.text].role is Role.SWITCH:
        raise AtLine(name.line, f"a link of {name.text}, which is a switch",
                     "links of other nodes join its bridges: segments: SEGMENT: {bridge: "
                     f"{name.text}}}")
    into.add(_link_of(name.text, ifname.text, of, problems), ifname.line)


def _read_link(node: str, ifname: str, written: Node, line: int,
               problems: Problems) -> LinkDraft:
    if written.entries is not None:
        return _link_of(node, ifname, entries(written, "link"), problems)
    if written.empty or written.items is not None:
        raise AtLine(line, f"{ifname} of {node} is joined to no segment",
                     f"{ifname}: SEGMENT, or {ifname}: {{segment: SEGMENT, address: ...}}")
    return LinkDraft(node, ifname, Place(written.text, written.line))


def _link_of(node: str, ifname: str, of: Mapping[str, Node], problems: Problems) -> LinkDraft:
    segment = one(of["segment"], "segment")
    link = LinkDraft(node, ifname, Place(segment.text, segment.line))
    if "address" in of:
        link.address_line = of["address"].line
        link.bare = of["address"].text == "none"
        if not link.bare:
            link.address = problems.value(of, "address", _address, None)
    port = problems.value(of, "port", partial(interface_name, "a port"), None)
    if port is not None:
        link.port = Place(port, of["port"].line)
    return link


def _address(text: str) -> IPv4Address | IPv4Interface:
    if "/" not in text:
        return values.address(text)
    try:
        found = IPv4Interface(text.strip())
    except ValueError:
        raise UserError(f"{shown(text)} is not an IPv4 address with its prefix",
                        "for example 192.0.2.1/24, or 192.0.2.1") from None
    _network(str(found.network))
    return found


def _network(text: str) -> IPv4Network:
    """A network that hosts can have addresses of."""
    found = values.prefix(text)
    if any(found.overlaps(each) for each in _NO_HOSTS):
        raise UserError(f"{found} is no network of hosts", "for example 10.1.0.0/16")
    return found


# Segments.

def empty_segment(name: str, line: int) -> SegmentDraft:
    """A segment of which nothing is known; AtLine where that cannot be its name."""
    _at(line, partial(interface_name, "a segment"), name)
    return SegmentDraft(name, line)


def _read_segment(name: str, node: Node, line: int, problems: Problems) -> SegmentDraft:
    found = empty_segment(name, line)
    of = entries(replace(node, line=line), "segment")
    several = _items(of, "subnets", problems)
    for key in ("subnet", "pool", "server"):
        if several and key in of:
            problems.add(node.key_lines[key], f"{key} beside subnets", "say it in one of these")
    if not several and of.get("subnet"):
        found.subnets.append(_read_subnet(of, line, problems))
    elif not several:
        if "pool" in of:
            problems.add(of["pool"].line, f"segment {name} has a pool, but no subnet",
                         "add subnet: ...")
        found.server = _place(of, "server", problems)
    for each in several:
        with problems.caught():
            found.subnets.append(_read_subnet(entries(each, "subnet"), each.line, problems))
    network = of.get("network")
    for each in network.each() if network and not network.empty else ():
        with problems.caught():
            found.networks.append(
                (taken(one(each, "network"), "network", _network), each.line))
    bridge = of.get("bridge")
    if bridge is not None and not bridge.empty:
        with problems.caught():
            value = one(bridge, "bridge").value
            found.bridge = value if isinstance(value, bool) else Place(bridge.text, bridge.line)
    return found


def _read_subnet(of: Mapping[str, Node], line: int, problems: Problems) -> SubnetDraft:
    return SubnetDraft(
        problems.line(of, "subnet", line), problems.value(of, "subnet", _network, None),
        problems.value(of, "pool", values.span, None), problems.line(of, "pool", line),
        _place(of, "server", problems))


def _place(of: Mapping[str, Node], key: str, problems: Problems) -> Place | None:
    name = problems.value(of, key, str, "")
    return Place(name, of[key].line) if name else None
