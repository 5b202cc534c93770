"""Errors of a topology file, gathered: who reads one value goes on with the next.

The one thing to know: reading is done in stages, and `stop` stands between them. What a stage
found wrong is all told at once; the next one may rely on what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from fastpath.document import AtLine, Node, taken

T = TypeVar("T")


class Several(AtLine):
    """The first error of a file by its line. each: all of them, in order."""

    def __init__(self, found: list[AtLine]) -> None:
        self.each = sorted(found, key=lambda error: error.line)
        first = self.each[0]
        super().__init__(first.line, first.what, first.remedy)


class Problems:
    """What is wrong with a file, as far as it is known."""

    def __init__(self) -> None:
        self.found: list[AtLine] = []

    def add(self, line: int, what: str, remedy: str = "") -> None:
        self.found.append(AtLine(line, what, remedy))

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Keep an AtLine for later; what stands in this block ends there, what follows goes on.
        """
        try:
            yield
        except AtLine as error:
            self.found.append(error)

    def stop(self) -> None:
        """Raise Several where anything is wrong."""
        if self.found:
            raise Several(self.found)

    def value(self, entries: Mapping[str, Node], key: str, read: Callable[[str], T],
              default: T) -> T:
        """What `read` makes of the one value under `key`; `default` where it is not given, or
        wrong."""
        node = entries.get(key)
        if node is not None and not node.empty:
            with self.caught():
                return taken(one(node, key), key, read)
        return default

    def line(self, entries: Mapping[str, Node], key: str, otherwise: int) -> int:
        """Where the value of `key` stands."""
        return entries[key].line if key in entries else otherwise


def one(node: Node, label: str) -> Node:
    """`node` itself; AtLine where it is a list or a mapping."""
    if node.items is not None or node.entries is not None:
        kind = "list" if node.items is not None else "mapping"
        raise AtLine(node.line, f"{label}: a {kind} is not one value", "write one value")
    return node
