"""A picture drawn with box characters: heavy bars are bridges, light ones cables."""

from __future__ import annotations

from netlab.graph.layout import Band, PlacedBar, PlacedBox, arrange, cells
from netlab.graph.picture import Picture
from netlab.topology import Topology

# By whether a wire comes from the left, and from the right.
_BRIDGE = {(False, False): "┃", (True, False): "┨", (False, True): "┠", (True, True): "╂"}
# A cable: by up, down, left, right.
_CABLE = {
    (0, 0, 0, 0): "│", (1, 1, 0, 0): "│", (1, 0, 0, 0): "│", (0, 1, 0, 0): "│",
    (0, 0, 1, 0): "─", (0, 0, 0, 1): "─", (0, 0, 1, 1): "─",
    (1, 0, 1, 0): "┘", (1, 0, 0, 1): "└", (1, 0, 1, 1): "┴",
    (0, 1, 1, 0): "┐", (0, 1, 0, 1): "┌", (0, 1, 1, 1): "┬",
    (1, 1, 1, 0): "┤", (1, 1, 0, 1): "├", (1, 1, 1, 1): "┼"}
_ASCII = str.maketrans("┃┨┠╂│─┘└┴┐┌┬┤├┼╎╌↑↓", "||||" "|-++++++" "+++:.^v")


def draw(topology: Topology, picture: Picture, width: int, *, ascii_only: bool = False) -> str:
    """Lines of text at most `width` cells wide where that is possible."""
    lines = [picture.title]
    for band in arrange(topology, picture, width):
        lines += ["", *_band(band)]
    text = "\n".join(line.rstrip() for line in lines) + "\n"
    if ascii_only:
        return text.translate(_ASCII).encode("ascii", "backslashreplace").decode()
    return text


def _band(band: Band) -> list[str]:
    canvas = [[" "] * band.width for _ in range(band.height)]
    for wire in band.wires:
        canvas[wire.row][wire.x:wire.end + 1] = "─" * (wire.end + 1 - wire.x)
    for bar in band.bars:
        _draw_bar(canvas, bar)
    for box in band.boxes:
        _draw_box(canvas, box)
    for bar in band.bars:
        for i, text in enumerate(bar.label):
            _write(canvas, bar.label_x, bar.label_y + i, text)
    return ["".join(row) for row in canvas]


def _draw_bar(canvas: list[list[str]], bar: PlacedBar) -> None:
    for row in range(bar.top, bar.bottom + 1):
        left, right = (row, False) in bar.joints, (row, True) in bar.joints
        canvas[row][bar.x] = (_CABLE[row > bar.top, row < bar.bottom, left, right]
                              if bar.bar.cable else _BRIDGE[left, right])


def _draw_box(canvas: list[list[str]], box: PlacedBox) -> None:
    # What stands for several has a broken frame.
    across, down = ("╌", "╎") if box.box.alike > 1 else ("─", "│")
    last, right = box.y + box.height - 1, box.x + box.width - 1
    for row in range(box.y, last + 1):
        canvas[row][box.x:right + 1] = down + " " * (box.width - 2) + down
    canvas[box.y][box.x:right + 1] = "┌" + across * (box.width - 2) + "┐"
    canvas[last][box.x:right + 1] = "└" + across * (box.width - 2) + "┘"
    _write(canvas, box.x + 2, box.y, box.box.title)
    for i, text in enumerate(box.box.lines):
        _write(canvas, box.x + 2, box.y + 1 + i, text)
    for row, port, leads_right in box.rows:
        at = right - 1 - cells(port.label) if leads_right else box.x + 2
        _write(canvas, at, row, port.label)
        canvas[row][right if leads_right else box.x] = "├" if leads_right else "┤"


def _write(canvas: list[list[str]], x: int, y: int, text: str) -> None:
    for letter in text:
        size = cells(letter)
        if x + size > len(canvas[y]):
            return
        canvas[y][x:x + size] = [letter, ""][:size]
        x += size
