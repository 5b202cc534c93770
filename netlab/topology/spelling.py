"""Names that are keys, as they were written: a document has `_` for every `-` in a key.

The one thing to know: that suits keys that mean something (`max-hops`), not those that name
something (`relay-1`), so the text is looked through a second time for these, once one is asked
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from fastpath.document import AtLine


class Spelling:
    """The keys of one YAML text that `document.read` has taken."""

    def __init__(self, text: str) -> None:
        self._text = text

    def of(self, key: str, line: int) -> str:
        """How the key on `line` was written; AtLine where one line spells it in two ways."""
        if "_" not in key:
            return key
        # A merged key stands on the line of <<, and was written somewhere else.
        found = self._keys.get((line, key)) or self._keys.get((0, key), set())
        if len(found) > 1:
            raise AtLine(line, f"{' and '.join(sorted(found))} are one key here",
                         "write them on lines of their own, or name one otherwise")
        return next(iter(found), key)

    @cached_property
    def _keys(self) -> dict[tuple[int, str], set[str]]:
        """Spellings by (line, key), and by (0, key) for all lines together."""
        import yaml

        found: dict[tuple[int, str], set[str]] = {}
        # Of each collection that is open: whether a key comes next; None in a list.
        wants_key: list[bool | None] = []
        loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        events: Iterator[Any] = yaml.parse(self._text, Loader=loader)
        for event in events:
            kind = type(event).__name__
            if kind in ("SequenceEndEvent", "MappingEndEvent"):
                wants_key.pop()
            elif wants_key and wants_key[-1] and kind == "ScalarEvent":
                written, line = event.value, event.start_mark.line + 1
                for place in (line, 0):
                    found.setdefault((place, written.replace("-", "_")), set()).add(written)
            if kind in ("MappingStartEvent", "SequenceStartEvent"):
                wants_key.append(kind == "MappingStartEvent")
            elif wants_key and wants_key[-1] is not None:
                # A key or a value has ended.
                wants_key[-1] = not wants_key[-1]
        return found
