"""A YAML text as a tree in which every value knows its line; what a configuration is read from.

Only the parser's events are used, never its constructors: nothing here recurses, an alias
costs one reference however often it is expanded, and a scalar keeps the text that was written
(`0x0102`, `12:34:56:00:00:01` and `1.10` are no numbers here, whatever YAML 1.1 thinks).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, TypeVar

from fastpath.errors import UserError

MOST_OCTETS = 16 << 20
MOST_DEPTH = 32
# Values in a document with its aliases written out: a 16 MiB file of reservations has fewer.
MOST_VALUES = 1 << 20

_SWITCH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_REAL = re.compile(r"-?[0-9]{1,18}\.[0-9]{1,18}")
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TEXT_TAGS = (None, "!", "tag:yaml.org,2002:str")
_UNSET = ("", "~", "null", "Null", "NULL")

Scalar = str | bool | int | float | None
T = TypeVar("T")


class AtLine(UserError):
    """A UserError that knows its line; whoever knows the file's name puts it before."""

    def __init__(self, line: int, what: str, remedy: str = "") -> None:
        super().__init__(what, remedy)
        self.line = line


@dataclass(frozen=True, slots=True)
class Node:
    """One value. value: a scalar, or None where `entries` or `items` hold what it is made of.

    text: a scalar as it was written, without quotes. entries: keys have `_` where `-` was
    written, so that both are one. key_lines: line of each key.
    size, depth: values in it, itself included, and levels, with aliases written out.
    """

    line: int
    value: Scalar = None
    text: str = ""
    entries: dict[str, Node] | None = None
    items: list[Node] | None = None
    key_lines: dict[str, int] = field(default_factory=dict)
    size: int = 1
    depth: int = 1

    @property
    def empty(self) -> bool:
        return self.value is None and self.entries is None and self.items is None

    def get(self, key: str) -> Node | None:
        """What a mapping has under `key`; None where there is nothing."""
        found = (self.entries or {}).get(key)
        return None if found is None or found.empty else found

    def each(self) -> list[Node]:
        """The items of a list; of anything else, the one that it is."""
        return [self] if self.items is None else self.items

    def plain(self) -> Any:
        """The same as dict, list and scalars."""
        if self.entries is not None:
            return {key: node.plain() for key, node in self.entries.items()}
        if self.items is not None:
            return [node.plain() for node in self.items]
        return self.value


def shown(text: object) -> str:
    """A value for one line of an error: quoted, without control characters, not long."""
    words = str(text)
    return repr(words if len(words) <= 60 else words[:57] + "...")


def taken(node: Node, label: str, read: Callable[[str], T]) -> T:
    """What `read` makes of a scalar; its UserError gets the line and, before it, `label`."""
    try:
        return read(node.text)
    except UserError as error:
        raise AtLine(node.line, f"{label}: {error.what}", error.remedy) from None


def did_you_mean(word: str, known: list[str]) -> str:
    """A remedy: the words closest to `word`, or all where few are known."""
    close = get_close_matches(word[:64], known, n=3)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are: {', '.join(sorted(known))}"


def read(text: str) -> Node:
    """The one document in `text`; an empty one is empty. Raises AtLine."""
    import yaml

    _refuse_unprintable(text)
    builder = _Builder()
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join((error.problem or error.context or "not YAML").split())
        # Where something is missing at the end, the mark is behind the last line.
        last = text.rstrip().count("\n") + 1
        raise AtLine(min(mark.line + 1, last) if mark else 1, f"not YAML: {problem}",
                     "look at the indentation, colons and quotes here and just above") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        # Numbers in escapes and directives that the parser itself cannot take.
        raise AtLine(builder.line, "not YAML: a character or number that cannot be") from None
    return builder.root or Node(1)


def _refuse_unprintable(text: str) -> None:
    bad = _FORBIDDEN.search(text.removeprefix("\ufeff"))
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise AtLine(line, f"character {bad.group()!r} has no place in a configuration",
                     "save the file as plain UTF-8 text")


@dataclass(slots=True)
class _Open:
    """A mapping or list that has begun. key: the last key read, whose value comes next."""

    line: int
    anchor: str | None
    mapping: bool
    keys: list[tuple[str, int]] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    @property
    def wants_key(self) -> bool:
        return self.mapping and len(self.keys) == len(self.nodes)


class _Builder:
    """Makes nodes out of events; `line` is that of the last event."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self.line = 1
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, Node] = {}
        self._made = 0
        self._merged = 0

    def take(self, event: Any) -> None:
        kind = type(event).__name__
        if kind in ("StreamStartEvent", "StreamEndEvent", "DocumentEndEvent"):
            return
        self.line = event.start_mark.line + 1
        if kind == "DocumentStartEvent":
            self._documents += 1
            if self._documents > 1:
                raise AtLine(self.line, "a second document begins", "remove the line ---")
        elif kind == "ScalarEvent":
            self._scalar(event)
        elif kind == "AliasEvent":
            self._alias(event.anchor)
        elif kind in ("MappingStartEvent", "SequenceStartEvent"):
            self._begin(event, kind == "MappingStartEvent")
        else:
            self._end()

    def _scalar(self, event: Any) -> None:
        if event.tag not in _TEXT_TAGS:
            raise AtLine(self.line, f"tag {shown(event.tag)} means nothing here", "remove it")
        _refuse_surrogates(event.value, self.line)
        plain = event.implicit[0] and event.tag is None
        value = _resolve(event.value) if plain else event.value
        self._add(Node(self.line, value, event.value), event.anchor)

    def _alias(self, name: str) -> None:
        if name not in self._anchors:
            raise AtLine(self.line, f"alias {shown(name)} stands for nothing",
                         "put an anchor (&name) before the value that it repeats, further up")
        self._add(self._anchors[name], None)

    def _begin(self, event: Any, mapping: bool) -> None:
        if self._open and self._open[-1].wants_key:
            raise AtLine(self.line, "a key is a list or mapping", "a key is one word")
        if len(self._open) >= MOST_DEPTH:
            raise AtLine(self.line, f"more than {MOST_DEPTH} levels inside one another")
        if event.tag is not None:
            raise AtLine(self.line, f"tag {shown(event.tag)} means nothing here", "remove it")
        self._open.append(_Open(self.line, event.anchor, mapping))

    def _end(self) -> None:
        done = self._open.pop()
        size = 1 + sum(node.size for node in done.nodes)
        depth = 1 + max((node.depth for node in done.nodes), default=0)
        if size > MOST_VALUES:
            raise AtLine(done.line, f"more than {MOST_VALUES:,} values",
                         "write less, or use fewer aliases")
        if depth > MOST_DEPTH:
            raise AtLine(done.line, f"more than {MOST_DEPTH} levels inside one another")
        if not done.mapping:
            node = Node(done.line, items=done.nodes, size=size, depth=depth)
        else:
            entries, lines = self._mapping(done)
            node = Node(done.line, entries=entries, key_lines=lines, size=size, depth=depth)
        self._add(node, done.anchor)

    def _mapping(self, done: _Open) -> tuple[dict[str, Node], dict[str, int]]:
        entries: dict[str, Node] = {}
        lines: dict[str, int] = {}
        merges = []
        for (key, line), node in zip(done.keys, done.nodes, strict=True):
            if key == "<<":
                merges += [(line, each) for each in node.each()]
            elif key in entries:
                raise AtLine(line, f"{shown(key)} is given twice", f"first on line {lines[key]}")
            else:
                entries[key], lines[key] = node, line
        # What is written here wins over what is merged, and an earlier merge over a later one.
        for line, node in merges:
            if node.entries is None:
                raise AtLine(line, "<< merges mappings only", "for example <<: *name")
            self._merged += len(node.entries)
            if self._merged > MOST_VALUES:
                raise AtLine(line, f"more than {MOST_VALUES:,} values are merged")
            for key, value in node.entries.items():
                entries.setdefault(key, value)
                lines.setdefault(key, line)
        return entries, lines

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._open:
            self.root = node
        elif not self._open[-1].wants_key:
            # Counted here too: a list that is too long must not be held until its end is seen.
            self._made += 1
            if self._made > MOST_VALUES:
                raise AtLine(self.line, f"more than {MOST_VALUES:,} values")
            self._open[-1].nodes.append(node)
        elif node.entries is not None or node.items is not None:
            raise AtLine(self.line, "a key is a list or mapping", "a key is one word")
        else:
            self._open[-1].keys.append((node.text.replace("-", "_"), self.line))


def _refuse_surrogates(text: str, line: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise AtLine(line, f"{shown(text)} is no text: half of a character") from None


def _resolve(text: str) -> Scalar:
    """The value of a scalar without quotes: a switch, a decimal number, nothing, or text."""
    if text in _UNSET:
        return None
    if text.lower() in _SWITCH:
        return _SWITCH[text.lower()]
    if _WHOLE.fullmatch(text):
        return int(text)
    return float(text) if _REAL.fullmatch(text) else text
