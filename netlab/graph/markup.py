"""A picture as Mermaid and as DOT: the same boxes and bars, laid out by other programs.

Names are never identifiers there (n0, s0 are), only labels, and those are escaped: whatever a
topology is called, it is no syntax.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from netlab.graph.layout import layers
from netlab.graph.picture import Key, Picture
from netlab.topology import Topology

# mermaid.js.org/syntax/flowchart.html: entities by decimal code; everything that is not plain.
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:/-_+=")


def mermaid(topology: Topology, picture: Picture) -> str:
    """A flowchart, left to right."""
    names = _identifiers(picture)
    lines = ["---", f"title: {json.dumps(picture.title)}", "---", "flowchart LR"]
    for box in picture.boxes:
        lines.append(f'  {names["node", box.name]}["{_entities((box.title, *box.lines))}"]')
    for bar in picture.bars:
        lines.append(f'  {names["segment", bar.name]}(["{_entities((bar.title, *bar.lines))}"])')
    for one, other, label in _edges(topology, picture):
        lines.append(f'  {names[one]} ---|"{_entities((label,))}"| {names[other]}')
    return "\n".join(lines) + "\n"


def dot(topology: Topology, picture: Picture) -> str:
    """An undirected graph for Graphviz, left to right."""
    names = _identifiers(picture)
    lines = ["graph lab {", f"  graph [rankdir=LR, labelloc=t, label={_quoted(picture.title)}];",
             '  node [fontname="monospace"];', '  edge [fontname="monospace", fontsize=10];']
    for box in picture.boxes:
        style = ", style=dashed" if box.alike > 1 else ""
        lines.append(f"  {names['node', box.name]} [shape=box, "
                     f"label={_quoted(box.title, *box.lines)}{style}];")
    for bar in picture.bars:
        lines.append(f"  {names['segment', bar.name]} [shape=ellipse, "
                     f"label={_quoted(bar.title, *bar.lines)}];")
    for one, other, label in _edges(topology, picture):
        lines.append(f"  {names[one]} -- {names[other]} [label={_quoted(label)}];")
    return "\n".join((*lines, "}", ""))


def _identifiers(picture: Picture) -> dict[Key, str]:
    return {**{("node", box.name): f"n{i}" for i, box in enumerate(picture.boxes)},
            **{("segment", bar.name): f"s{i}" for i, bar in enumerate(picture.bars)}}


def _edges(topology: Topology, picture: Picture) -> Iterator[tuple[Key, Key, str]]:
    """Each port as (left end, right end, label): both programs draw in that order."""
    at = layers(topology, picture)
    for box in picture.boxes:
        for port in box.ports:
            ends = ("node", box.name), ("segment", port.segment)
            one, other = sorted(ends, key=at.__getitem__)
            yield one, other, port.label


def _entities(lines: tuple[str, ...]) -> str:
    return "<br/>".join("".join(letter if letter in _PLAIN else f"#{ord(letter)};"
                                for letter in line) for line in lines)


def _quoted(*lines: str) -> str:
    """A DOT string (graphviz.org/doc/info/lang.html); a backslash would begin an escape."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join(escaped) + '"'
