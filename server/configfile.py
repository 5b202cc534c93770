"""Configuration files of dhcp-server: YAML or `key=value` lines, checked, with line numbers.

The one thing to know: what a flag can say becomes a value for that flag (`File.flags`, for
click's default_map), so that one rule of precedence holds for all; what no flag can say
becomes `File.structure`. The same keys mean the same in both formats.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastpath.errors import UserError
from server import values
from server.document import MOST_OCTETS, AtLine, Node, did_you_mean, shown, taken
from server.faultspec import parse_fault
from server.model import DISTRIBUTIONS, DURABILITIES, TRANSPORTS
from server.structure import Structure

ENVIRONMENTS = ("development", "staging", "production")
_PLACES = (Path("config"), Path("/etc/dhcp-test"))

Reader = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class File:
    """What a file says. flags: values under the names of dhcp-server's parameters, as text,
    bool, or list of text. line_of: line of each of these. structure: of a YAML file.
    """

    path: Path
    flags: dict[str, object]
    structure: Structure | None = None
    line_of: dict[str, int] = field(default_factory=dict)


def _text(read: Reader) -> Callable[[str], str]:
    """Check with `read`, and hand on the text for click to convert."""

    def checked(text: str) -> str:
        read(text)
        return text.strip()

    return checked


def _lease(text: str) -> str:
    return str(values.lease_s(text)) if text.strip() == "infinite" else _text(values.lease_s)(text)


def _level(text: str) -> str:
    known = values.choice("debug", "info", "warning", "error", "warn")(text)
    return "warning" if known == "warn" else known


def _option(text: str) -> str:
    values.parse_option(text)
    return text


_ADDRESS, _DURATION, _LINE = _text(values.address), _text(values.duration_s), values.line(4095)
_COUNT = _text(values.whole(0, (1 << 32) - 1))
_FLAGS: dict[str, Reader] = {
    "interface": values.interface, "listen": _ADDRESS, "port": _text(values.whole(1, 65534)),
    "transport": values.choice(*TRANSPORTS), "start_ip": _ADDRESS, "end_ip": _ADDRESS,
    "netmask": _ADDRESS, "gateway": _ADDRESS, "dns1": _ADDRESS, "dns2": _ADDRESS,
    "lease_time": _lease, "min_lease_time": _lease, "max_lease_time": _lease,
    "next_server": _ADDRESS, "boot_file": values.boot_file, "server_name": values.server_name,
    "option": _option, "authoritative": values.switch, "rapid_commit": values.switch,
    "bootp": values.switch, "relay": values.switch, "max_hops": _text(values.whole(0, 255)),
    "offer_hold": _DURATION, "decline_hold": _DURATION, "max_concurrent": _COUNT,
    "response_delay": _DURATION, "response_jitter": _DURATION,
    "response_distribution": values.choice(*DISTRIBUTIONS),
    "drop_rate": lambda text: repr(values.rate(text)), "fault": _text(parse_fault),
    "seed": _COUNT, "lease_file": _LINE, "durability": values.choice(*DURABILITIES),
    "metrics": _LINE, "stats_json": _LINE, "user": _LINE,
    "ring_slots": _text(values.whole(64, 1 << 17)), "verbose": values.switch,
    "live": values.switch, "log_level": _level, "log_format": values.choice("text", "json"),
}
# Parameters that may be given more than once.
_LISTS = ("interface", "fault", "option")
_SYNONYMS = {"listen_ip": "listen", "server_ip": "listen", "pool_start": "start_ip",
             "pool_end": "end_ip", "enable_relay": "relay", "live_stats": "live",
             "interfaces": "interface"}
_OF_LOGGING = {"level": "log_level", "format": "log_format", "verbose": "verbose",
               "live_stats": "live", "live": "live"}
_OF_TESTER = frozenset((
    "server", "clients", "concurrency", "rate", "duration", "timeout", "retry",
    "max_discover_retries", "max_request_retries", "mac_base", "broadcast_flag", "json",
    "clients_csv", "progress", "test_size", "server_port"))
_MOST_LINE = 8192
# NAME=VALUE, a value perhaps in quotes, a comment behind a blank.
_LINE_FORM = re.compile(
    r"""\s*(?P<key>[A-Za-z][\w.-]*)\s*=\s*
        (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^"'\s#]\S*(?:\s+[^\s#]\S*)*|))
        \s*(?:(?<![^\s"'=])\#.*)?""", re.VERBOSE)


def load(path: Path) -> File:
    """Read and check `path`; every UserError opens with `FILE:LINE: `, or `FILE: `."""
    try:
        text = _content(path)
        if _is_lines(path, text):
            return _from_lines(path, text)
        return _from_yaml(path, text)
    except AtLine as error:
        raise UserError(f"{path}:{error.line}: {error.what}", error.remedy) from None


def find_default(environ: Mapping[str, str]) -> Path | None:
    """The file that DHCP_ENV stands for, where there is one; raises UserError."""
    name = environ.get("DHCP_ENV", "")
    if not name:
        return None
    if name not in ENVIRONMENTS:
        raise UserError(f"DHCP_ENV is {shown(name)}, which is no environment",
                        f"one of: {', '.join(ENVIRONMENTS)}")
    places = (place / f"{name}{suffix}" for place in _PLACES for suffix in (".yaml", ".conf"))
    return next((path for path in places if path.is_file()), None)


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            octets = file.read(MOST_OCTETS + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no such name can be"
        raise UserError(f"{path}: cannot be read: {reason}") from None
    if len(octets) > MOST_OCTETS:
        raise UserError(f"{path}: more than {MOST_OCTETS >> 20} MiB", "is it the right file?")
    try:
        return octets.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AtLine(octets.count(b"\n", 0, error.start) + 1, "not UTF-8 text",
                     "save the file as UTF-8") from None


def _is_lines(path: Path, text: str) -> bool:
    if path.suffix in (".conf", ".env"):
        return True
    if path.suffix in (".yaml", ".yml", ".json"):
        return False
    first = next((line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"),
                 "")
    return re.match(r"\s*[\w.-]+\s*=", first) is not None


class _Flags:
    """Collects flags with their lines; a second value for one is an error."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.line_of: dict[str, int] = {}

    def add(self, name: str, value: object, line: int, key: str) -> None:
        if name in _LISTS:
            more = value if isinstance(value, list) else [value]
            before = self.values.setdefault(name, [])
            assert isinstance(before, list)
            before += [each for each in more if each not in before or name != "interface"]
        elif name in self.values:
            raise AtLine(line, f"{key} is given twice", f"first on line {self.line_of[name]}")
        else:
            self.values[name] = value
        self.line_of.setdefault(name, line)


# `key=value` lines, also those of a shell's environment.

def _from_lines(path: Path, text: str) -> File:
    flags = _Flags()
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        match = _LINE_FORM.fullmatch(line.rstrip()) if len(line) <= _MOST_LINE else None
        if match is None:
            raise AtLine(number, f"{shown(line.strip())} is not key=value",
                         "for example start-ip=10.0.0.10; # begins a comment")
        written = next(match[form] for form in ("double", "single", "plain")
                       if match[form] is not None)
        name = _parameter(match["key"], number)
        value = taken(Node(number, written, written), match["key"], _FLAGS[name])
        flags.add(name, value, number, match["key"])
    return File(path, flags.values, None, flags.line_of)


def _parameter(key: str, line: int) -> str:
    name = key.lower().replace("-", "_")
    if key.isupper():
        name = name.removeprefix("dhcp_")
    name = _SYNONYMS.get(name, name)
    if name in _FLAGS:
        return name
    if name in _OF_TESTER:
        raise AtLine(line, f"{key} is a setting of dhcp-tester, not of dhcp-server",
                     "give each program a file of its own")
    known = [each.replace("_", "-") for each in (*_FLAGS, *_SYNONYMS)]
    raise AtLine(line, f"unknown key {shown(key)}", did_you_mean(name.replace("_", "-"), known))


# YAML.

def _from_yaml(path: Path, text: str) -> File:
    from server.document import read
    from server.schema import check
    from server.structure import build

    root = read(text)
    check(root)
    flags = _Flags()
    for name, node, line, key in _flag_nodes(root):
        for each in node.each():
            flags.add(name, taken(each, key, _FLAGS[name]), line, key)
    return File(path, flags.values, build(root), flags.line_of)


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
