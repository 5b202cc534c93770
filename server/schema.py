"""The shape of the YAML file as a JSON Schema; `python -m server.schema` prints it.

The one thing to know: the schema says which keys there are and what kind of value each takes;
whether an address lies in its subnet, or a name is known, is `server.structure`'s to say.
Keys here have `_`; a file may write `-` for it, and the published schema allows both.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from fastpath.document import AtLine, Node, did_you_mean, shown
from fastpath.faultmodel import DISTRIBUTIONS
from fastpath.faultspec import KINDS, MESSAGES
from server.model import DURABILITIES, TRANSPORTS

Schema = dict[str, Any]

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")
# Enough to find the one on the first line; a file of nothing but errors must not take long.
_MOST_ERRORS = 200


def _ref(name: str, description: str = "") -> Schema:
    return {"$ref": f"#/$defs/{name}", **({"description": description} if description else {})}


def _words(title: str, known: tuple[str, ...]) -> Schema:
    both = dict.fromkeys(form for word in known for form in (word, word.replace("-", "_")))
    return {"title": title, "enum": list(both)}


def _closed(title: str, properties: Schema, required: tuple[str, ...] = (),
            null: bool = False) -> Schema:
    return {"title": title, "type": ["object", "null"] if null else "object",
            "properties": properties, "additionalProperties": False,
            **({"required": list(required)} if required else {})}


def _list(title: str, item: Schema) -> Schema:
    return {"title": title, "type": ["array", "null"], "items": item}


def _one_or_more(title: str, scalar: str) -> Schema:
    return {"title": title, "type": [scalar, "array"], "minItems": 1, "minLength": 1,
            "items": {"title": title, "type": scalar, "minLength": 1}}


_SETTINGS: Schema = {
    "lease_time": _ref("lease", "How long a lease lasts; 24h where nothing says."),
    "min_lease_time": _ref("lease", "The least that a client gets when it asks."),
    "max_lease_time": _ref("lease", "The most that a client gets when it asks."),
    "renewal_time": _ref("lease", "T1; half the lease where nothing says."),
    "rebinding_time": _ref("lease", "T2; seven eighths of the lease where nothing says."),
    "next_server": _ref("address", "siaddr: where a client boots from."),
    "boot_file": _ref("text", "The field file: what it boots."),
    "server_name": _ref("text", "The field sname."),
    "dns": _ref("addresses", "Short for the option domain-name-server."),
    "options": _ref("options", "Options by name or number."),
}
_POOL: Schema = {
    "range": {"title": "a range such as 10.0.0.10 - 10.0.0.200", "type": "string"},
    "exclude": _ref("ranges", "Addresses that are given to nobody."),
    "classes": _ref("names", "Only members of one of these get addresses here."),
    **_SETTINGS,
}
_RESERVATION: Schema = {
    "address": _ref("address"),
    "chaddr": {"title": "an Ethernet address such as 02:00:00:00:00:01", "type": "string"},
    "client_id": _ref("octets", "Octets (0x...), an Ethernet address, or a text (type 0)."),
    "circuit_id": _ref("octets", "What the relay says in option 82."),
    **_SETTINGS,
}
_SUBNET: Schema = {
    "subnet": {"title": "a subnet such as 10.0.0.0/24", "type": "string"},
    "pools": _list("a list of pools", _ref("pool")),
    "reservations": _list("a list of reservations", _ref("reservation")),
    "gateway": _ref("address", "Short for the option router; inside the subnet."),
    **_SETTINGS,
}
_MATCH = {"is": _ref("patterns"), "starts_with": _ref("patterns"), "contains": _ref("patterns")}
_FAULT: Schema = {
    "kind": _words(f"a kind of fault ({', '.join(KINDS)})", KINDS),
    "messages": {
        "title": f"a list out of {', '.join(MESSAGES)}", "type": ["string", "array"],
        "items": _words(f"one of {', '.join(MESSAGES)}", MESSAGES), "minItems": 1},
    "rate": _ref("rate", "Share of these messages; 1 where nothing says."),
    "delay": _ref("duration"), "jitter": _ref("duration"),
    "distribution": _words(f"one of {', '.join(DISTRIBUTIONS)}", DISTRIBUTIONS),
    "option": {"title": "the name or number of an option", "type": ["string", "integer"]},
    "from": _ref("duration", "Since the server was ready."),
    "until": _ref("duration", "Since the server was ready."),
    "every": _ref("duration", "With for: again and again."),
    "for": _ref("duration", "How long it lasts, each time."),
}
_SERVER: Schema = {
    "interface": _ref("interfaces"), "interfaces": _ref("interfaces"),
    "listen": _ref("address", "Our address, the server identifier."),
    "listen_ip": _ref("address", "The same as listen."),
    "port": _ref("whole", "UDP port; clients are answered on the next one."),
    "transport": _words(f"one of {', '.join(TRANSPORTS)}", TRANSPORTS),
    "user": _ref("text", "Become this user once the sockets are open."),
    "ip_pool": _closed("a pool with start and end",
                       {"start": _ref("address"), "end": _ref("address")}),
    "start_ip": _ref("address"), "end_ip": _ref("address"),
    "netmask": _ref("address"), "gateway": _ref("address"),
    "dns1": _ref("address"), "dns2": _ref("address"),
    **_SETTINGS,
    "classes": _list("a list of classes", _ref("class")),
    "subnets": _list("a list of subnets", _ref("lone_subnet")),
    "shared_networks": _list("a list of shared networks", _ref("shared_network")),
    "authoritative": _ref("switch", "Refuse addresses on our subnets that we did not give."),
    "rapid_commit": _ref("switch", "Answer DISCOVER with ACK where asked to (RFC 4039)."),
    "bootp": _ref("switch", "Answer BOOTP clients that have a reservation."),
    "relay": _ref("switch", "Answer through relays."),
    "max_hops": _ref("whole", "Relays between a client and us, at most."),
    "offer_hold": _ref("duration", "How long an offered address waits for its client."),
    "decline_hold": _ref("duration", "How long a declined address is given to nobody."),
    "max_concurrent": _ref("whole", "Exchanges in progress; 0 for any number."),
    "response_delay": _ref("duration"), "response_jitter": _ref("duration"),
    "response_distribution": _words(f"one of {', '.join(DISTRIBUTIONS)}", DISTRIBUTIONS),
    "drop_rate": _ref("rate", "Share of requests that are lost on purpose."),
    "faults": _list("a list of faults", _ref("fault")),
    "seed": _ref("whole", "Of the faults' random numbers."),
    "lease_file": _ref("text"),
    "durability": _words(f"one of {', '.join(DURABILITIES)}", DURABILITIES),
    "metrics": {"title": "[ADDRESS:]PORT", "type": ["string", "integer"]},
    "stats_json": _ref("text"),
    "ring_slots": _ref("whole", "Frames that a ring holds; a power of two."),
}
# The tester's half of the same file: its values are its own, its keys are looked at.
CLIENT_KEYS = (
    "server", "server_ip", "server_port", "port", "local_address", "local_port", "interface",
    "relay", "relay_block", "server_mac", "vlan", "vlan_type", "qdisc", "answer_arp",
    "answer_ping",
    "clients", "test_size", "mac_base", "mac_step", "mac_carry", "mac_list", "client_id",
    "hostname", "vendor_class", "user_class", "circuit_id", "remote_id", "request_options",
    "max_message_size", "option", "template", "raw_template", "malform", "rapid_commit",
    "broadcast_flag", "mix", "behaviour", "discover_only", "avalanche", "hold", "return_after",
    "cycles", "time_scale", "offer", "offer_wait", "aging_after", "aging_for", "timeout", "retry",
    "max_discover_retries", "max_request_retries", "backoff", "concurrency", "rate", "duration",
    "exchanges", "poisson", "ramp", "stages", "preload", "warm_up", "renew_rate", "release_rate",
    "max_drop", "drain", "expect", "expect_server", "seed", "ring_slots", "lang", "json",
    "clients_csv", "progress", "live", "live_stats", "verbose", "wrap")
_LOGGING: Schema = {
    "level": _words(f"one of {', '.join(LOG_LEVELS)}", (*LOG_LEVELS, "warn")),
    "format": _words(f"one of {', '.join(LOG_FORMATS)}", LOG_FORMATS),
    "verbose": _ref("switch", "Say what was asked and answered."),
    "live_stats": _ref("switch", "Show a live panel."), "live": _ref("switch"),
}
_OPTION_VALUE: Schema = {
    "title": "the value of an option", "type": ["string", "number", "boolean", "array", "object"],
    "items": {"title": "one value", "type": ["string", "number", "boolean"]}, "minItems": 1,
    "properties": {"hex": {"title": "octets in hexadecimal", "type": ["string", "integer"]}},
    "required": ["hex"], "additionalProperties": False,
}
_ADDRESS: Schema = {"title": "an IPv4 address", "type": "string",
                    "pattern": r"^\s*[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+\s*$"}
_SHARED: Schema = {"name": _ref("name"), "interface": _ref("interface"),
                   "subnets": {**_list("a list of subnets", _ref("subnet")), "minItems": 1,
                               "type": "array"},
                   **_SETTINGS}
_CLASS: Schema = {"name": _ref("name"), "vendor_class": _ref("match"),
                  "user_class": _ref("match"), **_SETTINGS}
_DEFS: Schema = {
    "address": _ADDRESS,
    "addresses": {"title": "a list of IPv4 addresses", "type": ["string", "array"],
                  "minItems": 1, "items": _ADDRESS},
    "duration": {"title": "a time such as 10ms, 30s or 24h", "type": ["string", "number"],
                 "minimum": 0},
    "lease": {"title": "a time such as 30m, 24h or infinite", "type": ["string", "number"],
              "minimum": 0},
    "rate": {"title": "a rate such as 0.05 or 5%", "type": ["string", "number"],
             "minimum": 0, "maximum": 1},
    "switch": {"title": "true or false", "type": "boolean"},
    "whole": {"title": "a whole number", "type": ["integer", "string"], "minimum": 0,
              "pattern": "^[0-9]+$"},
    "text": {"title": "a text", "type": ["string", "number"], "minLength": 1},
    "name": {"title": "a name", "type": ["string", "number"], "minLength": 1},
    "names": _one_or_more("a name or a list of names", "string"),
    "interface": {"title": "the name of an interface", "type": "string", "minLength": 1},
    "interfaces": _one_or_more("the name of an interface or a list of names", "string"),
    "octets": {"title": "a text, or octets as 0x...", "type": ["string", "number"],
               "minLength": 1},
    "patterns": {"title": "a text, or a list of texts", "type": ["string", "number", "array"],
                 "minLength": 1, "minItems": 1,
                 "items": {"title": "a text", "type": ["string", "number"], "minLength": 1}},
    "ranges": _one_or_more("an address, a range or a list of these", "string"),
    "options": {"title": "options by name or number", "type": ["object", "null"],
                "additionalProperties": _OPTION_VALUE},
    "match": {**_closed("a text, or is, starts_with or contains with a text", _MATCH),
              "type": ["string", "number", "object"], "minLength": 1, "minProperties": 1},
    "pool": {**_closed("a pool", _POOL, ("range",)), "type": ["object", "string"]},
    "reservation": _closed("a reservation", _RESERVATION, ("address",)),
    "subnet": _closed("a subnet", _SUBNET, ("subnet",)),
    "lone_subnet": _closed("a subnet", {**_SUBNET, "interface": _ref("interface")}, ("subnet",)),
    "shared_network": _closed("a shared network", _SHARED, ("name", "subnets")),
    "class": _closed("a class", _CLASS, ("name",)),
    "fault": _closed("a fault", _FAULT, ("kind",)),
    "server": _closed("a mapping of settings for dhcp-server", _SERVER, null=True),
    "client": _closed("a mapping of settings for dhcp-tester",
                      dict.fromkeys(CLIENT_KEYS, True), null=True),
    "logging": _closed("a mapping of level, format, verbose and live_stats", _LOGGING, null=True),
}
SCHEMA: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_closed("a mapping with server, client and logging", {
        "server": _ref("server"), "client": _ref("client"), "logging": _ref("logging"),
    }, null=True),
    "$defs": _DEFS,
}


def published() -> Schema:
    """SCHEMA for editors: every key with `_` may have `-` instead."""

    def both(value: Any) -> Any:
        if isinstance(value, list):
            return [both(item) for item in value]
        if not isinstance(value, dict):
            return value
        found = {key: both(item) for key, item in value.items()}
        keys = found.get("properties")
        if isinstance(keys, dict):
            found["properties"] = {form: item for key, item in keys.items()
                                   for form in dict.fromkeys((key, key.replace("_", "-")))}
        return found

    result: Schema = both(SCHEMA)
    return result


def document() -> str:
    """The text of docs/dhcp-server.schema.json."""
    return json.dumps(published(), indent=1) + "\n"


def check(root: Node) -> None:
    """Raise AtLine for the first line whose shape is wrong."""
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(SCHEMA)
    problems = [_problem(root, error)
                for error in islice(validator.iter_errors(root.plain()), _MOST_ERRORS)]
    if problems:
        raise min(problems, key=lambda problem: problem.line)


def _problem(root: Node, error: Any) -> AtLine:
    node, line, where = root, root.line, ""
    for step in error.absolute_path:
        if node.entries is not None:
            line, where, node = node.key_lines[step], f"{step}: ", node.entries[step]
        else:
            node = (node.items or [])[step]
            line = node.line
    schema = error.schema
    if error.validator in ("additionalProperties", "required"):
        known = list(schema["properties"])
        unknown = next((key for key in node.entries or () if key not in known), None)
        # A key that is missing may be the one that is misspelt.
        if unknown is not None:
            return AtLine(node.key_lines[unknown], f"{where}unknown key {shown(unknown)}",
                          did_you_mean(unknown, known))
        missing = next(key for key in error.validator_value if key not in error.instance)
        return AtLine(node.line, f"{schema['title']} without {missing}", f"add {missing}: ...")
    said = "nothing" if node.empty else "an empty list" if node.items == [] else \
        "a list" if node.items is not None else "a mapping" if node.entries is not None else \
        shown(node.text)
    return AtLine(line, f"{where}{said} is not {schema['title']}",
                  did_you_mean(node.text, schema["enum"]) if node.text and "enum" in schema
                  else _quoting(node))


def _quoting(node: Node) -> str:
    """What to do about a text that YAML takes for something else."""
    if isinstance(node.value, bool):
        return f'put it in quotes if it is a text: "{node.text}"'
    if isinstance(node.value, str) and node.text.lower() in ("true", "false"):
        return "write it without quotes"
    return ""


if __name__ == "__main__":
    print(document(), end="")
