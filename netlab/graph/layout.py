"""Where everything of a picture goes: a grid of character cells, clients left, servers right.

The one thing to know: boxes stand in columns, bars in the gaps between them, and every wire is a
straight row from a box's edge to its bar: a bar is as long as its wires need, and a box is
stretched where its interfaces had better stand opposite others. Too many columns for the width
go on in another band, which begins with the bars that the one above ends with.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from netlab.graph.picture import Bar, Box, Picture, Port
from netlab.topology import Topology
from netlab.topology.routing import Routing

# A wire at either side of a lane of bars, and the frame and blanks of a box.
_WIRE, _FRAME = 1, 4
_BETWEEN_BOXES = 1


@dataclass(slots=True)
class PlacedBox:
    """Cells: left edge x, top y, width, height. rows: each port's, and whether it leads right."""

    box: Box
    x: int = 0
    y: int = 0
    width: int = 0
    height: int = 0
    rows: list[tuple[int, Port, bool]] = field(default_factory=list)


@dataclass(slots=True)
class PlacedBar:
    """A line at x from row `top` to `bottom`; its label begins at (label_x, label_y).

    joints: (row, whether the wire comes from the right).
    """

    bar: Bar
    label: tuple[str, ...]
    x: int = 0
    top: int = 0
    bottom: int = 0
    label_x: int = 0
    joints: list[tuple[int, bool]] = field(default_factory=list)

    @property
    def label_y(self) -> int:
        return self.top - len(self.label)


@dataclass(frozen=True, slots=True)
class Wire:
    """From cell x to cell `end` (both its own) in `row`."""

    x: int
    end: int
    row: int


@dataclass(slots=True)
class Band:
    """One row of columns and what is between them."""

    width: int
    height: int
    boxes: list[PlacedBox]
    bars: list[PlacedBar]
    wires: list[Wire]


def cells(text: str) -> int:
    """How many character cells `text` takes."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def arrange(topology: Topology, picture: Picture, width: int | None = None) -> list[Band]:
    """Bands of at most `width` cells (None: one band), where a single column fits in that."""
    at = layers(topology, picture)
    columns: dict[int, list[Box]] = {}
    gaps: dict[int, list[Bar]] = {}
    for box in picture.boxes:
        columns.setdefault(at["node", box.name], []).append(box)
    for bar in picture.bars:
        gaps.setdefault(at["segment", bar.name], []).append(bar)
    last = max((*columns, *gaps), default=0)
    bands, first = [], 0
    while first <= last:
        most = last
        band = _band(columns, gaps, first, most, last)
        while width is not None and band.width > width and most > first + 1:
            most -= 1 if most % 2 == 0 else 2
            band = _band(columns, gaps, first, most, last)
        bands.append(band)
        first = most if most < last else last + 1
    return bands


def layers(topology: Topology, picture: Picture) -> dict[tuple[str, str], int]:
    """The layer of each ("node", name), even, and each ("segment", name), odd; clients' is 0."""
    return _by_distance(topology, picture) or _from_clients(picture)


def _by_distance(topology: Topology, picture: Picture) -> dict[tuple[str, str], int] | None:
    """Layers by the distance from a server: boxes even, bars odd. None where that leaves a wire
    between layers that are not side by side."""
    distance = Routing(topology).distance
    if any(bar.name not in distance for bar in picture.bars):
        return None
    farthest = max(distance.values(), default=0)
    layers = {("segment", bar.name): 2 * (farthest - distance[bar.name]) + 1
              for bar in picture.bars}
    for box in picture.boxes:
        met = [layers["segment", port.segment] for port in box.ports]
        if box.role.serves:
            at = max(met, default=1) + 1
        else:
            at = (max(met, default=1) if box.role.forwards else min(met, default=1)) - 1
        if any(abs(at - layer) != 1 for layer in met):
            return None
        layers["node", box.name] = at
    return layers


def _from_clients(picture: Picture) -> dict[tuple[str, str], int]:
    """Layers by the distance from a client; what no client reaches begins at the left too."""
    met: dict[tuple[str, str], list[tuple[str, str]]] = {
        ("segment", bar.name): [] for bar in picture.bars}
    for box in picture.boxes:
        met["node", box.name] = [("segment", port.segment) for port in box.ports]
        for port in box.ports:
            met["segment", port.segment].append(("node", box.name))
    layers: dict[tuple[str, str], int] = {}
    clients = [("node", box.name) for box in picture.boxes if box.role == "client"]
    others = [("node", box.name) for box in picture.boxes if box.role != "client"]
    for start in (clients, *([other] for other in others), *(
            [("segment", bar.name)] for bar in picture.bars)):
        begun = [key for key in start if key not in layers]
        layers.update((key, int(key[0] == "segment")) for key in begun)
        waiting = deque(begun)
        while waiting:
            key = waiting.popleft()
            for other in met[key]:
                if other not in layers:
                    layers[other] = layers[key] + 1
                    waiting.append(other)
    return layers


def _band(columns: Mapping[int, list[Box]], gaps: Mapping[int, list[Bar]], first: int, most: int,
          last: int) -> Band:
    """The layers from `first` to `most`; what goes on above or below is marked."""
    placed = {layer: [PlacedBox(box) for box in columns.get(layer, ())]
              for layer in range(first, most + 1) if layer % 2 == 0}
    bars = {layer: [_bar(bar, first == layer > 1, most == layer < last)
                    for bar in gaps.get(layer, ())]
            for layer in range(first, most + 1) if layer % 2}
    _place_rows(placed, {bar.name: layer for layer, group in gaps.items() for bar in group})
    joined = {bar.bar.name: bar for group in bars.values() for bar in group}
    for box in (box for boxes in placed.values() for box in boxes):
        for row, port, leads_right in box.rows:
            if port.segment in joined:
                joined[port.segment].joints.append((row, not leads_right))
    for bar in joined.values():
        bar.top = min((row for row, _ in bar.joints), default=len(bar.label))
        bar.bottom = max((row for row, _ in bar.joints), default=bar.top)
    _shift(placed, joined.values())
    width = 0
    for layer in range(first, most + 1):
        width = _columns(placed[layer], width) if layer % 2 == 0 else _lanes(bars[layer], width)
    boxes = [box for group in placed.values() for box in group]
    bottoms = [box.y + box.height for box in boxes] + [bar.bottom + 1 for bar in joined.values()]
    return Band(width, max(bottoms, default=0), boxes, list(joined.values()),
                _wires(boxes, joined))


def _bar(bar: Bar, above: bool, below: bool) -> PlacedBar:
    title = f"{'↑ ' * above}{bar.title}{' ↓' * below}"
    return PlacedBar(bar, (title, *bar.lines))


def _place_rows(placed: Mapping[int, list[PlacedBox]], gap_of: Mapping[str, int]) -> None:
    """Give boxes and ports their rows: the fullest column first, the others opposite to it."""
    def full(layer: int) -> int:
        return sum(len(box.box.ports) + len(box.box.lines) + 2 for box in placed[layer])

    if not placed:
        return
    middle = max(placed, key=full)
    rows: dict[str, list[int]] = {}
    for layer in (*range(middle, max(placed) + 1, 2), *range(middle - 2, min(placed) - 1, -2)):
        _stack(placed[layer], rows)
    for layer, boxes in placed.items():
        for box in boxes:
            box.rows = [(row, port, gap_of[port.segment] > layer) for row, port, _ in box.rows]


def _stack(boxes: list[PlacedBox], rows: dict[str, list[int]]) -> None:
    """Stack one column, each port as near as may be to what is on its segment already."""
    def opposite(port: Port) -> float | None:
        met = rows.get(port.segment)
        return sum(met) / len(met) if met else None

    def wanted(box: PlacedBox) -> float:
        met = [at for port in box.box.ports if (at := opposite(port)) is not None]
        return sum(met) / len(met) if met else float("inf")

    boxes.sort(key=wanted)
    free = 0
    found: dict[str, list[int]] = {}
    for box in boxes:
        ports = [(opposite(port), port) for port in box.box.ports]
        ports.sort(key=lambda pair: float("inf") if pair[0] is None else pair[0])
        head = 1 + len(box.box.lines)
        first = ports[0][0] if ports else None
        box.y = free if first is None else max(free, round(first) - head)
        row = box.y + head
        for at, port in ports:
            row = row if at is None else max(row, round(at))
            box.rows.append((row, port, False))
            found.setdefault(port.segment, []).append(row)
            row += 1
        box.height = row + 1 - box.y
        free = row + 1 + _BETWEEN_BOXES
    for segment, met in found.items():
        rows.setdefault(segment, []).extend(met)


def _shift(placed: Mapping[int, list[PlacedBox]], bars: Iterable[PlacedBar]) -> None:
    """Move everything down where a label would stand above the first row."""
    down = -min((bar.label_y for bar in bars), default=0)
    if down <= 0:
        return
    for boxes in placed.values():
        for box in boxes:
            box.y += down
            box.rows = [(row + down, port, right) for row, port, right in box.rows]
    for bar in bars:
        bar.top, bar.bottom = bar.top + down, bar.bottom + down
        bar.joints = [(row + down, right) for row, right in bar.joints]


def _columns(boxes: list[PlacedBox], x: int) -> int:
    """Put one column of boxes at x, all as wide as the widest; where it ends."""
    texts = [text for box in boxes for text in (
        box.box.title, *box.box.lines, *(port.label for port in box.box.ports))]
    width = max((cells(text) for text in texts), default=-_FRAME) + _FRAME
    for box in boxes:
        box.x, box.width = x, width
    return x + width


def _lanes(bars: list[PlacedBar], x: int) -> int:
    """Put the bars of one gap at x, side by side where they overlap; where it ends."""
    lanes: list[list[PlacedBar]] = []
    for bar in sorted(bars, key=lambda bar: bar.label_y):
        free = next((lane for lane in lanes if lane[-1].bottom < bar.label_y), None)
        if free is None:
            lanes.append(free := [])
        free.append(bar)
    for lane in lanes:
        x += _WIRE
        width = max(cells(text) for bar in lane for text in (*bar.label, " "))
        for bar in lane:
            bar.label_x, bar.x = x, x + (width - 1) // 2
        x += width
    return x + _WIRE * bool(lanes)


def _wires(boxes: Sequence[PlacedBox], bars: Mapping[str, PlacedBar]) -> list[Wire]:
    found = []
    for box in boxes:
        for row, port, _ in box.rows:
            bar = bars.get(port.segment)
            if bar is not None and bar.x >= box.x + box.width:
                found.append(Wire(box.x + box.width, bar.x, row))
            elif bar is not None:
                found.append(Wire(bar.x, box.x - 1, row))
    return found
