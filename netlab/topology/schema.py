"""The keys of a topology file as a JSON Schema; `lab validate --schema` prints it.

The one thing to know: the reader takes its keys from here (`entries`), so that what is published
is what is read. Whether values fit one another is said elsewhere (`join`, `check`).
"""

from __future__ import annotations

import json
from typing import Any

from fastpath.document import AtLine, Node, did_you_mean, shown
from netlab import relays, servers
from netlab.topology.model import Role

Schema = dict[str, Any]

LEAST_MTU, MOST_MTU = 576, 9000
# RFC 1542 section 4.1.1: a relay is configured with at most 16.
MOST_HOPS = 16
OPTION82 = ("none", "append", "keep", "replace", "drop")
DIRECTIONS = ("both", "in", "out")
# linux/if.h: IFNAMSIZ is 16 with the closing zero.
INTERFACE_NAME = r"[A-Za-z0-9_.-]{1,15}"


def _ref(name: str, description: str = "") -> Schema:
    return {"$ref": f"#/$defs/{name}", **({"description": description} if description else {})}


def _words(title: str, known: tuple[str, ...]) -> Schema:
    return {"title": title, "enum": list(known)}


def _closed(title: str, properties: Schema, required: tuple[str, ...] = (),
            null: bool = False) -> Schema:
    return {"title": title, "type": ["object", "null"] if null else "object",
            "properties": properties, "additionalProperties": False,
            **({"required": list(required)} if required else {})}


def _one_or_more(title: str, item: Schema) -> Schema:
    return {"title": title, "anyOf": [item, {"type": "array", "minItems": 1, "items": item}]}


_SUBNET: Schema = {
    "subnet": _ref("prefix", "What clients on this segment get addresses of."),
    "pool": _ref("range", "Those that may be given out; where nothing says, the largest range "
                 "without addresses of nodes."),
    "server": _ref("name", "The node that serves it; where nothing says, every server."),
}
_SEGMENT: Schema = {
    **_SUBNET,
    "subnets": {"title": "a list of subnets", "type": "array", "minItems": 1,
                "items": _ref("subnet"), "description": "Instead of subnet, for several."},
    "network": _one_or_more("a network such as 10.0.0.0/24, or a list", _ref("prefix"))
    | {"description": "Of nodes alone: no client gets an address of it."},
    "bridge": {"title": "true, false or the node of role switch that holds it",
               "type": ["boolean", "string"],
               "description": "Where nothing says, a segment with two links is a cable."},
}
_LINK: Schema = {
    "segment": _ref("ifname", "What it is joined to."),
    "address": {"title": "an IPv4 address, with or without its prefix, or none", "type": "string",
                "description": "Where nothing says, servers, relays and routers get one."},
    "port": _ref("ifname", "What its other end is called, on the segment's bridge."),
}
_ENTRY: Schema = {"node": _ref("name"), "interface": _ref("ifname"), **_LINK}
_NODE: Schema = {
    "role": _words(f"a role ({', '.join(Role)})", tuple(Role)),
    "program": _words("a server or relay that there is",
                      tuple(dict.fromkeys((*servers.MODULES, *relays.MODULES)))),
    "options": {"title": "a list of words for the program's command line", "type": "array",
                "items": {"title": "a word", "type": ["string", "number"]}},
    "links": _ref("links"),
    "max_hops": {"title": f"a whole number from 1 to {MOST_HOPS}", "type": "integer",
                 "minimum": 1, "maximum": MOST_HOPS,
                 "description": "Relays: hops after which a message is discarded."},
    "option82": _words("what a relay does about option 82", OPTION82),
    "circuit_id": _ref("text", "Relays: a template such as eth{ifname}."),
    "remote_id": _ref("text", "Relays: a template."),
    "servers": _one_or_more("a node, an address, or a list", _ref("text"))
    | {"description": "Relays: to whom; where nothing says, to the nearest."},
}
_IMPAIRMENT: Schema = {
    "link": {"title": "a link such as r1.eth1", "type": "string"},
    "direction": _words("one of both, in and out", DIRECTIONS),
    "loss": _ref("percent"), "duplicate": _ref("percent"), "reorder": _ref("percent"),
    "delay": _ref("duration"), "jitter": _ref("duration"),
    "rate": {"title": "a rate such as 10mbit", "type": "string"},
    "from": _ref("duration", "Since the test began."),
    "until": _ref("duration", "Since the test began; where nothing says, to its end."),
}
_LOAD: Schema = {
    "title": "options of dhcp-tester by name, or a list of words",
    "type": ["object", "array", "null"], "items": {"title": "a word", "type": ["string", "number"]},
    "additionalProperties": {
        "title": "a value or a list of values", "type": ["string", "number", "boolean", "array"],
        "minItems": 1, "items": {"title": "a value", "type": ["string", "number"]}},
}
_DEFS: Schema = {
    "name": {"title": "the name of a node", "type": "string",
             "pattern": "^[A-Za-z0-9_][A-Za-z0-9_-]{0,31}$"},
    "ifname": {"title": "a name of up to 15 letters, digits, - _ and .", "type": "string",
               "pattern": f"^{INTERFACE_NAME}$"},
    "prefix": {"title": "a subnet such as 10.1.0.0/16", "type": "string",
               "pattern": r"^\s*[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+/[0-9]+\s*$"},
    "range": {"title": "a range such as 10.1.0.10 - 10.1.0.200", "type": "string"},
    "text": {"title": "a text", "type": ["string", "number"], "minLength": 1},
    "percent": {"title": "a share such as 1%", "type": "string", "pattern": r"%\s*$"},
    "duration": {"title": "a time such as 10ms or 30s", "type": ["string", "number"],
                 "minimum": 0},
    "subnet": _closed("a subnet", _SUBNET, ("subnet",)),
    "segment": _closed("a mapping of subnet, network, bridge ...", _SEGMENT, null=True),
    "link": _closed("a mapping of segment, address and port", _LINK, ("segment",)),
    "links": {
        "title": "a segment, a list of segments, or segments by interface",
        "anyOf": [_ref("ifname"),
                  {"type": "array", "minItems": 1,
                   "items": {"title": "a segment", "anyOf": [_ref("ifname"), _ref("link")]}},
                  {"type": "object", "minProperties": 1, "additionalProperties":
                   {"title": "a segment", "anyOf": [_ref("ifname"), _ref("link")]}}]},
    "entry": _closed("a link with node, interface and segment", _ENTRY,
                     ("node", "interface", "segment")),
    "node": _closed("a mapping of role, links ...", _NODE, ("role",)),
    "impairment": _closed("an impairment", _IMPAIRMENT, ("link",)),
    "topology": _closed("a mapping of nodes, segments ...", {
        "name": {"title": "a name", "type": ["string", "number"],
                 "description": "Where nothing says, the file's."},
        "mtu": {"title": f"a whole number from {LEAST_MTU} to {MOST_MTU}", "type": "integer",
                "minimum": LEAST_MTU, "maximum": MOST_MTU},
        "segments": {"title": "segments by name", "type": ["object", "null"],
                     "additionalProperties": _ref("segment"),
                     "description": "Where nothing says, those that links name."},
        "nodes": {"title": "nodes by name", "type": "object", "minProperties": 1,
                  "additionalProperties": _ref("node")},
        "links": {"title": "a list of links", "type": ["array", "null"], "items": _ref("entry"),
                  "description": "Links may stand here, or in their nodes."},
        "impairments": {"title": "a list of impairments", "type": ["array", "null"],
                        "items": _ref("impairment")},
        "load": _LOAD,
    }, ("nodes",)),
}


def entries(node: Node, kind: str) -> dict[str, Node]:
    """The keys of a mapping of that kind in _DEFS; raises AtLine for another shape."""
    schema = _DEFS[kind]
    known = schema["properties"]
    found = node.entries
    if found is None and node.empty and "null" in schema["type"]:
        return {}
    if found is None:
        said = "nothing" if node.empty else "a list" if node.items is not None else \
            shown(node.text)
        raise AtLine(node.line, f"{said} is not {schema['title']}",
                     f"known keys: {', '.join(known)}")
    # A key that is missing may be the one that is misspelt.
    for key in found:
        if key not in known:
            raise AtLine(node.key_lines[key], f"unknown key {shown(key)}",
                         did_you_mean(key, list(known)))
    for key in schema.get("required", ()):
        if node.get(key) is None:
            raise AtLine(node.line, f"{schema['title']} without {key}", f"add {key}: ...")
    return found


def published() -> Schema:
    """The schema for editors: a key with `_` may have `-` instead."""
    whole: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema",
                     "$ref": "#/$defs/topology", "$defs": dict(_DEFS)}
    for kind, schema in _DEFS.items():
        if "properties" in schema:
            both = {form: value for key, value in schema["properties"].items()
                    for form in dict.fromkeys((key, key.replace("_", "-")))}
            whole["$defs"][kind] = {**schema, "properties": both}
    return whole


def document() -> str:
    """The text of docs/topology.schema.json."""
    return json.dumps(published(), indent=1) + "\n"
