"""Configuration files as all programs here have them: where they are, what a line of one is.

The one thing to know: what a file says reaches a program as the `default_map` of its click
command, so that one rule of precedence holds for all: flag, environment, file, default. Which
keys there are is each program's to say.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fastpath.document import MOST_OCTETS, AtLine, Node, shown
from fastpath.errors import UserError

ENVIRONMENTS = ("development", "staging", "production")
_PLACES = (Path("config"), Path("/etc/dhcp-test"))
MOST_LINE = 8192
# NAME=VALUE, a value perhaps in quotes, a comment behind a blank.
_LINE_FORM = re.compile(
    r"""\s*(?P<key>[A-Za-z][\w.-]*)\s*=\s*
        (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<plain>[^"'\s#]\S*(?:\s+[^\s#]\S*)*|))
        \s*(?:(?<![^\s"'=])\#.*)?""", re.VERBOSE)


@dataclass(frozen=True, slots=True)
class File:
    """What a file says. flags: values under the names of click's parameters, as text, bool, or
    list of text. line_of: the line on which each of these is first given.
    """

    path: Path
    flags: dict[str, object]
    line_of: dict[str, int] = field(default_factory=dict)


class Flags:
    """Collects flags with their lines; a second value for one is an error.

    lists: names of those that may be given more than once.
    """

    def __init__(self, lists: Collection[str]) -> None:
        self._lists = lists
        self.values: dict[str, object] = {}
        self.line_of: dict[str, int] = {}

    def add(self, name: str, value: object, line: int, key: str) -> None:
        """key: `name` as it was written on `line`. Raises AtLine."""
        if name in self._lists:
            before = self.values.setdefault(name, [])
            assert isinstance(before, list)
            before.append(value)
        elif name in self.values:
            raise AtLine(line, f"{key} is given twice", f"first on line {self.line_of[name]}")
        else:
            self.values[name] = value
        self.line_of.setdefault(name, line)


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


@contextmanager
def blamed(path: Path) -> Iterator[None]:
    """Put `PATH:LINE: ` before what an AtLine says: it becomes a UserError for the user."""
    try:
        yield
    except AtLine as error:
        raise UserError(f"{path}:{error.line}: {error.what}", error.remedy) from None


def content(path: Path) -> str:
    """The text of the file; raises UserError, or AtLine where it is not UTF-8."""
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


def is_lines(path: Path, text: str) -> bool:
    """Whether it holds `key=value` lines, by its name or else by its first line; else YAML."""
    if path.suffix in (".conf", ".env"):
        return True
    if path.suffix in (".yaml", ".yml", ".json"):
        return False
    first = next((line for line in text.splitlines() if line.strip() and line.strip()[0] != "#"),
                 "")
    return re.match(r"\s*[\w.-]+\s*=", first) is not None


def each_line(text: str, example: str) -> Iterator[tuple[str, Node]]:
    """Key as written, and value, of every `key=value` line; raises AtLine.

    example: such a line, for the remedy.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip() or line.lstrip()[0] in "#;":
            continue
        match = _LINE_FORM.fullmatch(line.rstrip()) if len(line) <= MOST_LINE else None
        if match is None:
            raise AtLine(number, f"{shown(line.strip())} is not key=value",
                         f"for example {example}; # begins a comment")
        written = next(match[form] for form in ("double", "single", "plain")
                       if match[form] is not None)
        yield match["key"], Node(number, written, written)


def bare_name(key: str) -> str:
    """`start_ip` for `start-ip`, `start_ip` and an environment's `DHCP_START_IP`."""
    name = key.lower().replace("-", "_")
    return name.removeprefix("dhcp_") if key.isupper() else name
