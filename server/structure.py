"""From a YAML file of the right shape to networks, classes, settings and faults, or an error.

The one thing to know: what is written only once needs no check here (`server.schema` has seen
the shape); these checks are about one value against another. An error carries the line of the
later of the two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, fields, replace
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

from fastpath import options as registry
from fastpath import values
from fastpath.document import AtLine, Node, did_you_mean, shown, taken
from fastpath.errors import UserError
from fastpath.faultmodel import Fault
from fastpath.faultspec import FIELDS, make_fault
from server.model import (
    CLASS_OPTIONS,
    RESERVED_BY,
    ClientClass,
    Match,
    Pool,
    Reservation,
    Settings,
    SharedNetwork,
    Subnet,
)
from server.values import boot_file, circuit_id, client_id, lease_s, server_name, settable

# A pool of a whole /8 would already take 1.5 GiB of table.
MOST_ADDRESSES = 1 << 24
# As many as the server's mask of a client's classes has room for.
MOST_CLASSES = 60
_ROUTER, _DNS = 3, 6
_TIMES = {"lease_time": "lease_time_s", "min_lease_time": "min_lease_time_s",
          "max_lease_time": "max_lease_time_s", "renewal_time": "renewal_time_s",
          "rebinding_time": "rebinding_time_s"}
# Of a server with the one pool that flags can say too.
_ONE_POOL = ("ip_pool", "start_ip", "end_ip", "netmask", "gateway")
# A text on the wire is one text; of other types a list is written with what is between items.
_NO_LIST = ("string", "bytes", "client-id")
_KEY_READERS = {"chaddr": values.chaddr, "client-id": client_id, "circuit-id": circuit_id}

Span = tuple[IPv4Address, IPv4Address]


@dataclass(frozen=True, slots=True)
class Structure:
    """What a file says that flags cannot. settings: of the server level, as far as said."""

    networks: tuple[SharedNetwork, ...] = ()
    classes: tuple[ClientClass, ...] = ()
    settings: Settings = field(default_factory=Settings)
    faults: tuple[Fault, ...] = ()


def build(root: Node) -> Structure:
    """The structure in a file whose shape is right; raises AtLine."""
    server = root.get("server") or Node(root.line, entries={})
    settings = _settings(server, Settings())
    classes = _classes(server, settings)
    networks = _networks(server, {each.name for each in classes}, settings)
    for key in _ONE_POOL if networks else ():
        if server.get(key):
            raise AtLine(server.key_lines[key], f"{key} beside subnets",
                         "say it in the subnet: subnet, pools and gateway")
    return Structure(networks, classes, settings, tuple(map(_fault, _list(server, "faults"))))


def _list(node: Node, key: str) -> list[Node]:
    found = node.get(key)
    return [] if found is None else found.each()


def _span_text(span: Span) -> str:
    return f"{span[0]} - {span[1]}"


# Settings, which every level has.

def _settings(node: Node, above: Settings) -> Settings:
    """What one level says; its times are held against those it takes from `above`."""
    times = {name: taken(child, key, lease_s) for key, name in _TIMES.items()
             if (child := node.get(key))}
    server, boot, host = (node.get(key) for key in ("next_server", "boot_file", "server_name"))
    found = Settings(
        **times, options=_options(node),
        next_server=taken(server, "next_server", values.address) if server else None,
        boot_file=taken(boot, "boot_file", boot_file) if boot else None,
        server_name=taken(host, "server_name", server_name) if host else None)
    if times:
        problem = _contradiction(inherit(above, found))
        if problem:
            line = max(node.key_lines[key] for key in _TIMES if node.get(key))
            raise AtLine(line, *problem)
    return found


def inherit(above: Settings, own: Settings) -> Settings:
    """`own`, and what it does not say from `above`."""
    said = {each.name: getattr(own, each.name) for each in fields(own)
            if each.name != "options" and getattr(own, each.name) is not None}
    return replace(above, **said, options={**above.options, **own.options})


def _contradiction(times: Settings) -> tuple[str, str] | None:
    lease, least, most = times.lease_time_s, times.min_lease_time_s, times.max_lease_time_s
    t1, t2 = times.renewal_time_s, times.rebinding_time_s
    if least and most and least > most:
        return f"min_lease_time {least}s is more than max_lease_time {most}s", "swap them"
    if lease and least and lease < least:
        return f"lease_time {lease}s is less than min_lease_time {least}s", "lower the minimum"
    if lease and most and lease > most:
        return f"lease_time {lease}s is more than max_lease_time {most}s", "raise the maximum"
    # RFC 2131 section 4.4.5: T1 before T2, T2 before the end.
    ordered = [(what, time) for what, time in (("renewal_time", t1), ("rebinding_time", t2),
                                               ("lease_time", lease)) if time]
    for (early, first), (late, second) in pairwise(ordered):
        if first >= second:
            return (f"{early} {first}s is not before {late} {second}s",
                    "renewal_time, rebinding_time and lease_time come in this order")
    return None


def _options(node: Node) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    written = node.get("options")
    for key, child in ((written.entries or {}) if written else {}).items():
        line = written.key_lines[key] if written else 0
        code, octets = _option(line, key.replace("_", "-"), child)
        if code in found:
            raise AtLine(line, f"option {registry.name_of(code)} is given twice",
                         "an option has several names and a number: keep one")
        found[code] = octets
    for key, code in (("dns", _DNS), ("gateway", _ROUTER)):
        short = node.get(key)
        # The server's own gateway is a flag's, and gets its subnet there.
        if short is None or (key == "gateway" and "subnet" not in (node.entries or {})):
            continue
        if code in found:
            raise AtLine(node.key_lines[key], f"{key} and option {registry.name_of(code)} are one",
                         "keep one of them")
        found[code] = _option(node.key_lines[key], str(code), short)[1]
    return found


def _option(line: int, key: str, node: Node) -> tuple[int, bytes]:
    try:
        option = settable(key)
    except UserError as error:
        raise AtLine(line, error.what, error.remedy) from None
    octets = node.get("hex")
    if octets is not None:
        return option.code, taken(octets, f"option {option.name}", values.hexadecimal)
    try:
        text = node.text if node.items is None else _joined(option, node.items)
        return option.code, option.encode(option.parse_text(text))
    except UserError as error:
        raise AtLine(line, f"option {error.what}", error.remedy) from None


def _joined(option: registry.Option, items: list[Node]) -> str:
    """A list as the option's one text."""
    kind = option.type.name
    if kind in _NO_LIST:
        raise UserError(f"{option.name}: a list is not {option.type.form}",
                        f"write it like {option.type.example}")
    between = " | " if kind.startswith("enterprise+") else "; " if kind.endswith("[]") else ", "
    return between.join(item.text for item in items)


# Classes and faults.

def _classes(server: Node, above: Settings) -> tuple[ClientClass, ...]:
    found: dict[str, ClientClass] = {}
    for node in _list(server, "classes"):
        name = taken(_child(node, "name"), "name", values.name)
        if name in found:
            raise AtLine(node.line, f"a second class {shown(name)}", "give it another name")
        matches = [match for key in CLASS_OPTIONS for match in _matches(node, key)]
        if not matches:
            raise AtLine(node.line, f"class {shown(name)} has no members",
                         "say vendor_class or user_class")
        if len(found) == MOST_CLASSES:
            raise AtLine(node.line, f"more than {MOST_CLASSES} classes")
        found[name] = ClientClass(name, tuple(matches), _settings(node, above))
    return tuple(found.values())


def _child(node: Node, key: str) -> Node:
    """What a key that the schema requires has; raises AtLine where it is null."""
    found = node.get(key)
    if found is None:
        raise AtLine(node.line, f"{key} says nothing")
    return found


def _matches(node: Node, name: str) -> list[Match]:
    test = node.get(name.replace("-", "_"))
    if test is None:
        return []
    hows = {"is": test} if test.entries is None else test.entries
    return [Match(CLASS_OPTIONS[name], how.replace("_", "-"), taken(text, name, _pattern))
            for how, texts in hows.items() for text in texts.each()]


def _pattern(text: str) -> bytes:
    octets = values.octets(text)
    if not octets:
        raise UserError("an empty text", "every client would match: leave the class out")
    return octets


def _fault(node: Node) -> Fault:
    texts = {key: "+".join(item.text for item in child.each())
             for key, child in (node.entries or {}).items() if key in FIELDS}
    try:
        return make_fault(_child(node, "kind").text, texts)
    except UserError as error:
        raise AtLine(node.line, f"fault: {error.what}", error.remedy) from None


# Networks, subnets, pools, reservations.

def _networks(server: Node, classes: set[str], above: Settings) -> tuple[SharedNetwork, ...]:
    found: list[tuple[SharedNetwork, Node, list[Node]]] = []
    for node in _list(server, "subnets"):
        subnet = _subnet(node, classes, above)
        found.append((SharedNetwork(str(subnet.network), (subnet,), Settings(),
                                    _interface(node)), node, [node]))
    for node in _list(server, "shared_networks"):
        settings = _settings(node, above)
        inner = _list(node, "subnets")
        subnets = tuple(_subnet(each, classes, inherit(above, settings)) for each in inner)
        name = taken(_child(node, "name"), "name", values.name)
        found.append((SharedNetwork(name, subnets, settings, _interface(node)), node, inner))
    _apart([((each.network[0], each.network[-1]), node, f"subnet {each.network}")
            for network, _, nodes in found
            for each, node in zip(network.subnets, nodes, strict=True)])
    _own_names([(network, node) for network, node, _ in found])
    for network, _, nodes in found:
        _own_keys(network, nodes)
    networks = tuple(network for network, _, _ in found)
    total = sum(int(pool.end) - int(pool.start) + 1 for network in networks
                for subnet in network.subnets for pool in subnet.pools)
    if total > MOST_ADDRESSES:
        raise AtLine(found[-1][1].line, f"{total:,} addresses in all pools are too many",
                     f"at most {MOST_ADDRESSES:,}")
    return networks


def _interface(node: Node) -> str:
    name = node.get("interface")
    return taken(name, "interface", values.interface) if name else ""


def _apart(spans: list[tuple[Span, Node, str]]) -> None:
    """Raise AtLine where two of `spans` (with where and what they are) share an address."""
    spans = sorted(spans, key=lambda each: each[0])
    for (span, node, what), (other, later, also) in pairwise(spans):
        if other[0] <= span[1]:
            if later.line < node.line:
                node, what, later, also = later, also, node, what
            raise AtLine(later.line, f"{also} overlaps {what}", f"that one is on line {node.line}")


def _own_names(networks: list[tuple[SharedNetwork, Node]]) -> None:
    names: dict[str, int] = {}
    interfaces: dict[str, int] = {}
    for network, node in networks:
        if network.name in names:
            raise AtLine(node.line, f"a second network {shown(network.name)}",
                         f"the other is on line {names[network.name]}")
        names[network.name] = node.line
        if network.interface in interfaces:
            raise AtLine(node.line, f"a second network on interface {network.interface}, beside "
                         f"that on line {interfaces[network.interface]}",
                         "subnets on one wire belong into one of shared_networks")
        if network.interface:
            interfaces[network.interface] = node.line


def _own_keys(network: SharedNetwork, nodes: list[Node]) -> None:
    """One reservation a client in a network; one an address, as subnets are apart."""
    seen: dict[tuple[str, object], int] = {}
    for subnet, node in zip(network.subnets, nodes, strict=True):
        written = _list(node, "reservations")
        for each, place in zip(subnet.reservations, written, strict=True):
            for what, key in ((each.by, each.key), ("address", each.address)):
                if (what, key) in seen:
                    said = place.get(what.replace("-", "_"))
                    raise AtLine(place.line, f"a second reservation for {what} "
                                 f"{said.text if said else ''}",
                                 f"the first is on line {seen[what, key]}")
                seen[what, key] = place.line


def _subnet(node: Node, classes: set[str], above: Settings) -> Subnet:
    network = taken(_child(node, "subnet"), "subnet", values.prefix)
    settings = _settings(node, above)
    chain = inherit(above, settings)
    gateway = node.get("gateway")
    if gateway and taken(gateway, "gateway", values.address) not in network:
        raise AtLine(gateway.line, f"gateway {gateway.text} is not inside subnet {network}",
                     "a router that clients cannot reach is of no use: give one of the subnet")
    reservations = tuple(_reservation(each, network, chain)
                         for each in _list(node, "reservations"))
    reserved = sorted(each.address for each in reservations)
    written = _list(node, "pools")
    pools = [_pool(each, network, classes, chain, reserved) for each in written]
    _apart([((pool.start, pool.end), each, f"pool {_span_text((pool.start, pool.end))}")
            for pool, each in zip(pools, written, strict=True)])
    return Subnet(network, tuple(pools), reservations, settings)


def _pool(node: Node, network: IPv4Network, classes: set[str], above: Settings,
          reserved: list[IPv4Address]) -> Pool:
    """reserved: addresses with a reservation, in order; nobody else gets them from the pool."""
    place = node if node.entries is None else _child(node, "range")
    span = taken(place, "range", values.span)
    said = f"pool {_span_text(span)}"
    if span[0] not in network or span[1] not in network:
        raise AtLine(place.line, f"{said} is not inside subnet {network}",
                     f"the subnet is {network[0]} - {network[-1]}")
    exclude: list[Span] = []
    for each in _list(node, "exclude"):
        out = taken(each, "exclude", values.span)
        if not (span[0] <= out[0] and out[1] <= span[1]):
            raise AtLine(each.line, f"exclude {each.text} is not inside {said}", "remove it")
        exclude.append(out)
    only = tuple(dict.fromkeys(each.text for each in _list(node, "classes")))
    for name in only:
        if name not in classes:
            raise AtLine(node.key_lines["classes"], f"no class is called {shown(name)}",
                         did_you_mean(name, list(classes)) if classes else
                         "define it under server: classes:")
    pool = Pool(*span, merged(exclude), only, _settings(node, above))
    own = reserved[bisect_left(reserved, span[0]):bisect_right(reserved, span[1])]
    if not _usable(pool, network, own):
        raise AtLine(place.line, f"{said} has no address for a client",
                     "every address is excluded, reserved, or the subnet's own")
    return pool


def merged(spans: list[Span]) -> tuple[Span, ...]:
    """The same addresses in as few ranges as possible, in order."""
    found: list[Span] = []
    for first, last in sorted(spans):
        if found and int(first) <= int(found[-1][1]) + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _usable(pool: Pool, network: IPv4Network, reserved: list[IPv4Address]) -> int:
    """Addresses that any client can get: network and broadcast address are nobody's."""
    out = [*pool.exclude, *((address, address) for address in reserved)]
    if network.prefixlen < 31:
        out += [(each, each) for each in (network[0], network[-1])
                if pool.start <= each <= pool.end]
    return int(pool.end) - int(pool.start) + 1 - sum(
        int(last) - int(first) + 1 for first, last in merged(out))


def _reservation(node: Node, network: IPv4Network, above: Settings) -> Reservation:
    place = _child(node, "address")
    address = taken(place, "address", values.address)
    if address not in network:
        raise AtLine(place.line, f"reservation of {address} is not inside subnet {network}",
                     f"the subnet is {network[0]} - {network[-1]}")
    if network.prefixlen < 31 and address in (network[0], network[-1]):
        raise AtLine(place.line, f"{address} is the subnet's own: no client can have it",
                     "reserve another address")
    keys = [(by, child) for by in RESERVED_BY if (child := node.get(by.replace("-", "_")))]
    if len(keys) != 1:
        raise AtLine(node.line, f"reservation of {address} has {len(keys)} keys, not one",
                     "give one of chaddr, client_id and circuit_id")
    by, child = keys[0]
    return Reservation(address, by, taken(child, by, _KEY_READERS[by]), _settings(node, above))
