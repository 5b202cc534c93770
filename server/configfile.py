"""Configuration files of dhcp-server: YAML or `key=value` lines, checked, with line numbers.

The one thing to know: what a flag can say becomes a value for that flag (`File.flags`, for
click's default_map), so that one rule of precedence holds for all; what no flag can say
becomes `File.structure`. The same keys mean the same in both formats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastpath import configfile, values
from fastpath.configfile import Flags, bare_name
from fastpath.document import AtLine, Node, did_you_mean, shown, taken
from fastpath.faultmodel import DISTRIBUTIONS
from fastpath.faultspec import parse_fault
from server.model import DURABILITIES, TRANSPORTS
from server.structure import Structure
from server.values import boot_file, lease_s, parse_option, server_name

Reader = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class File(configfile.File):
    """structure: what a YAML file says that no flag can."""

    structure: Structure | None = None


def _text(read: Reader) -> Callable[[str], str]:
    """Check with `read`, and hand on the text for click to convert."""

    def checked(text: str) -> str:
        read(text)
        return text.strip()

    return checked


def _lease(text: str) -> str:
    return str(lease_s(text)) if text.strip() == "infinite" else _text(lease_s)(text)


def _option(text: str) -> str:
    parse_option(text)
    return text


_ADDRESS, _DURATION, _LINE = _text(values.address), _text(values.duration_s), values.line(4095)
_COUNT = _text(values.whole(0, (1 << 32) - 1))
_FLAGS: dict[str, Reader] = {
    "interface": values.interface, "listen": _ADDRESS, "port": _text(values.whole(1, 65534)),
    "transport": values.choice(*TRANSPORTS), "start_ip": _ADDRESS, "end_ip": _ADDRESS,
    "netmask": _ADDRESS, "gateway": _ADDRESS, "dns1": _ADDRESS, "dns2": _ADDRESS,
    "lease_time": _lease, "min_lease_time": _lease, "max_lease_time": _lease,
    "next_server": _ADDRESS, "boot_file": boot_file, "server_name": server_name,
    "option": _option, "authoritative": values.switch, "rapid_commit": values.switch,
    "bootp": values.switch, "relay": values.switch, "max_hops": _text(values.whole(0, 255)),
    "offer_hold": _DURATION, "decline_hold": _DURATION, "max_concurrent": _COUNT,
    "response_delay": _DURATION, "response_jitter": _DURATION,
    "response_distribution": values.choice(*DISTRIBUTIONS),
    "drop_rate": lambda text: repr(values.rate(text)), "fault": _text(parse_fault),
    "seed": _COUNT, "lease_file": _LINE, "durability": values.choice(*DURABILITIES),
    "metrics": _LINE, "stats_json": _LINE, "user": _LINE,
    "ring_slots": _text(values.whole(64, 1 << 17)), "verbose": values.switch,
    "live": values.switch, "log_level": values.log_level, "log_format": values.log_format,
}
# Parameters that may be given more than once.
_LISTS = ("interface", "fault", "option")
_SYNONYMS = {"listen_ip": "listen", "server_ip": "listen", "pool_start": "start_ip",
             "pool_end": "end_ip", "enable_relay": "relay", "live_stats": "live",
             "interfaces": "interface"}
_OF_LOGGING = {"level": "log_level", "format": "log_format", "verbose": "verbose",
               "live_stats": "live", "live": "live"}


def load(path: Path) -> File:
    """Read and check `path`; every UserError opens with `FILE:LINE: `, or `FILE: `."""
    with configfile.blamed(path):
        text = configfile.content(path)
        if configfile.is_lines(path, text):
            return _from_lines(path, text)
        return _from_yaml(path, text)


# `key=value` lines, also those of a shell's environment.

def _from_lines(path: Path, text: str) -> File:
    flags = Flags(_LISTS)
    for key, node in configfile.each_line(text, "start-ip=10.0.0.10"):
        name = _parameter(key, node.line)
        flags.add(name, taken(node, key, _FLAGS[name]), node.line, key)
    return File(path, flags.values, flags.line_of)


def _parameter(key: str, line: int) -> str:
    name = bare_name(key)
    name = _SYNONYMS.get(name, name)
    if name in _FLAGS:
        return name
    from server.schema import CLIENT_KEYS

    if name in CLIENT_KEYS:
        raise AtLine(line, f"{key} is a setting of dhcp-tester, not of dhcp-server",
                     "give each program a file of its own")
    known = [each.replace("_", "-") for each in (*_FLAGS, *_SYNONYMS)]
    raise AtLine(line, f"unknown key {shown(key)}", did_you_mean(name.replace("_", "-"), known))


# YAML.

def _from_yaml(path: Path, text: str) -> File:
    from fastpath.document import read
    from server.schema import check
    from server.structure import build

    root = read(text)
    check(root)
    flags = Flags(_LISTS)
    for name, node, line, key in _flag_nodes(root):
        for each in node.each():
            flags.add(name, taken(each, key, _FLAGS[name]), line, key)
    return File(path, flags.values, flags.line_of, build(root))


def _flag_nodes(root: Node) -> Iterator[tuple[str, Node, int, str]]:
    """Parameter, value, line and key of all that a flag can say too."""
    server, logging = root.get("server"), root.get("logging")
    for key in (server.entries or {}) if server else ():
        assert server is not None
        node, name = server.get(key), _SYNONYMS.get(key, key)
        if node is None:
            continue
        if key == "ip_pool":
            for end in ("start", "end"):
                address = node.get(end)
                if address:
                    yield f"{end}_ip", address, address.line, f"ip_pool {end}"
        elif name in _FLAGS:
            yield name, node, server.key_lines[key], key
    for key, name in _OF_LOGGING.items():
        node = logging.get(key) if logging else None
        if logging and node:
            yield name, node, logging.key_lines[key], key
