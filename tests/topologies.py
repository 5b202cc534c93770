"""Made-up topologies that make sense, for Hypothesis: servers at the root, clients at the leaves.

The one thing to know: everything that a topology can say is said by some of them, in any order
that a file can keep.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import strategies as st

from netlab.topology import (
    Impairment,
    Link,
    Node,
    Program,
    RelayPolicy,
    Role,
    Segment,
    Subnet,
    Topology,
)

SWITCH = "bridges-1"
words = st.text("abcXYZ019-_.=:#{}[],&*!|>'\"%@` é\\\t~", min_size=0, max_size=12)
texts = st.text("abc019-_:#{}'\" é~", min_size=1, max_size=12).filter(str.strip)
names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,13}", fullmatch=True)
labels = st.text("abcXYZ019-_.=:#{} é", min_size=1, max_size=20).map(str.strip).filter(bool)
_decimals = st.integers(1, 10**9).map(lambda n: n / 10**6)
_delay = st.integers(1, 30 * 10**9).map(lambda n: n / 10**6)
_percent = st.integers(0, 10**8).map(lambda n: n / 10**6)


@dataclass
class Growing:
    """A network that grows from its servers outwards. heard: segments on which a relay listens."""

    nodes: list[Node] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    segments: int = 1
    above: dict[str, int] = field(default_factory=dict)
    depth: list[int] = field(default_factory=lambda: [0])
    heard: set[int] = field(default_factory=set)
    used: dict[int, int] = field(default_factory=dict)
    interfaces: dict[str, int] = field(default_factory=dict)

    def network(self, segment: int) -> IPv4Network:
        return IPv4Network((10 << 24 | segment << 16, 16))

    def join(self, node: str, segment: int, address: bool = True) -> Link:
        self.used[segment] = self.used.get(segment, 0) + address
        i = self.interfaces[node] = self.interfaces.get(node, -1) + 1
        at = IPv4Interface((int(self.network(segment)[self.used[segment]]), 16))
        link = Link(node, f"eth{i}", f"s{segment}", "", at if address else None)
        self.links.append(link)
        return link


@st.composite
def trees(draw: st.DrawFn, most: int = 8) -> Topology:
    """Relays and routers between one or two servers and one client node; some relays twice."""
    grown = Growing()
    servers = [f"server{i}" for i in range(draw(st.integers(1, 2)))]
    for name in servers:
        grown.nodes.append(Node(name, Role.SERVER))
        grown.join(name, 0)
    root = next(link.address.ip for link in grown.links if link.address)
    relay_above: set[int] = {0}
    for i in range(draw(st.integers(0, most))):
        up = draw(st.integers(0, grown.segments - 1))
        downs = list(range(grown.segments, grown.segments + draw(st.integers(1, 2))))
        grown.segments += len(downs)
        is_relay = draw(st.booleans())
        for copy in range(draw(st.integers(1, 2)) if is_relay else 1):
            name = f"{'relay' if is_relay else 'router'}{i}-{copy}"
            # Beside a router alone nobody answers: it must be said to whom.
            policy = RelayPolicy(servers=(root,)) if is_relay and up not in relay_above else None
            grown.nodes.append(Node(name, Role.RELAY if is_relay else Role.ROUTER,
                                    policy=policy))
            for segment in draw(st.permutations([up, *downs])):
                grown.join(name, segment)
        if is_relay:
            relay_above.update(downs)
    heard = sorted(relay_above)
    grown.nodes.append(Node("client", Role.CLIENT))
    clients = draw(st.lists(st.sampled_from(heard), min_size=1, unique=True))
    for segment in clients:
        grown.join("client", segment, address=False)
    return _finished(grown, clients)


def _finished(grown: Growing, clients: list[int]) -> Topology:
    """Bridges where there are not two links, and a subnet for each segment with clients."""
    count = {f"s{i}": sum(link.segment == f"s{i}" for link in grown.links)
             for i in range(grown.segments)}
    segments = tuple(Segment(name, "" if links == 2 else SWITCH)
                     for name, links in count.items())
    ports: dict[str, int] = {}
    links = []
    for link in grown.links:
        ports[link.node] = ports.get(link.node, -1) + 1
        port = "" if count[link.segment] == 2 else \
            link.node if not ports[link.node] else f"{link.node[:10]}.{ports[link.node]}"
        links.append(replace(link, port=port))
    subnets = tuple(Subnet(f"s{i}", net := grown.network(i), net[256], net[-2])
                    for i in sorted(clients))
    return Topology("made up", (*grown.nodes, Node(SWITCH, Role.SWITCH)), segments, tuple(links),
                    subnets)


policies = st.builds(
    RelayPolicy, st.none() | st.integers(1, 16),
    st.sampled_from(("", "none", "append", "keep", "replace", "drop")), texts | st.just(""),
    texts | st.just(""))


@st.composite
def impairments(draw: st.DrawFn, link: Link) -> tuple[Impairment, ...]:
    """None, or one before a moment and one after it."""
    moment = draw(_decimals)
    found = []
    for from_s, until_s in ((0.0, moment), (moment, 0.0)):
        jitter, more = sorted((draw(_delay), draw(_delay)))
        delay = draw(st.sampled_from((0.0, more)))
        each = Impairment(
            link.node, link.ifname, draw(st.sampled_from(("both", "in", "out"))),
            draw(_percent), draw(_percent), draw(_percent) if delay else 0.0, delay,
            jitter if delay else 0.0, draw(st.just(0.0) | _decimals.map(lambda n: n + 1)),
            from_s, until_s)
        if each.loss_percent or each.delay_ms or each.rate_kbit_per_s:
            found.append(each)
    return tuple(found[:draw(st.integers(0, 2))])


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """`trees` with everything else that a topology may say."""
    base = draw(trees(4))
    others = draw(st.lists(names, unique_by=lambda name: name.replace("-", "_").lower(),
                           min_size=len(base.nodes), max_size=len(base.nodes)))
    # Ports are the nodes' own names, or have a dot that no node's name has.
    called = dict(zip((node.name for node in base.nodes), others, strict=True))
    nodes = []
    for node in base.nodes:
        policy = node.policy
        if node.role is Role.RELAY and (said := draw(policies)) != RelayPolicy():
            policy = replace(said, servers=policy.servers if policy else ())
        program = None
        if node.role in (Role.RELAY, Role.SERVER):
            known = ["dnsmasq", "dhcrelay" if node.role is Role.RELAY else "command"]
            name = draw(st.sampled_from(known))
            program = draw(st.none() | st.builds(
                Program, st.just(name), st.lists(words, min_size=1, max_size=3).map(tuple)))
        nodes.append(replace(node, name=called[node.name], program=program, policy=policy))
    links = tuple(replace(link, node=called[link.node],
                          port=called.get(link.port, link.port and f"p.{i}"))
                  for i, link in enumerate(base.links))
    if draw(st.booleans()):
        links = tuple(draw(st.permutations(links)))
    load = draw(st.lists(st.sampled_from(
        ("--clients=10", "--retry", "-n", "10", "--option=60=x y", "--rate=", "--retry=false",
         "--hostname=off", "--hostname=7", "")), max_size=4).map(tuple))
    return replace(
        base, name=draw(labels), nodes=tuple(nodes), links=links, load=load,
        segments=tuple(replace(each, stands_in=called[each.stands_in] if each.stands_in else "")
                       for each in base.segments),
        mtu=draw(st.integers(576, 9000)), impairments=draw(impairments(links[0])))


def address_of(topology: Topology, node: str) -> IPv4Address:
    """The first address of a node."""
    return next(link.address.ip for link in topology.links_of(node) if link.address)
