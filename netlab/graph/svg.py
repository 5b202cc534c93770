"""A picture as SVG that needs nothing else: no script, no font of its own, on plain white.

It is the terminal's grid with smoother lines, so that no text can stand on another: every cell
is wider than a letter of any usual monospaced font at this size.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from netlab.graph.layout import Band, PlacedBar, PlacedBox, arrange, cells
from netlab.graph.picture import Picture
from netlab.topology import Role, Topology

_CELL, _ROW, _FONT, _MARGIN = 8.4, 19, 13, 16
_FILL = {Role.CLIENT: "#e3f0fb", Role.SERVER: "#e4f4e4", Role.RELAY: "#fdf1dc",
         Role.ROGUE: "#fbe1e1", Role.ROUTER: "#eee8f7", Role.SWITCH: "#f0f0f0"}
_STYLE = (f"text{{font:{_FONT}px ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;"
          "fill:#1a1a1a;white-space:pre}.h{font-weight:bold}.q{fill:#555}"
          ".w{stroke:#777;stroke-width:1.5}.b{stroke:#2b5f9e;stroke-width:4;stroke-linecap:round}"
          ".c{stroke:#777;stroke-width:1.5}.n{stroke:#555;stroke-width:1.2}"
          ".f{stroke-dasharray:5 4}.j{fill:#2b5f9e}")


def draw(topology: Topology, picture: Picture) -> str:
    """One document, as large as the picture needs."""
    (band,) = arrange(topology, picture)
    width = max(band.width, cells(picture.title)) * _CELL + 2 * _MARGIN
    height = (band.height + 2) * _ROW + 2 * _MARGIN
    return "\n".join((
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}">',
        f"<title>{escape(picture.title)}</title><style>{_STYLE}</style>",
        '<rect width="100%" height="100%" fill="#fff"/>',
        _text(0, -2, picture.title, "h"), *_parts(band), "</svg>", ""))


def _x(cell: float) -> float:
    return round(_MARGIN + cell * _CELL, 1)


def _y(row: float) -> float:
    """The middle of a row; above the first is room for the title."""
    return _MARGIN + (row + 2.5) * _ROW


def _text(x: float, row: int, text: str, kind: str = "", anchor: str = "start") -> str:
    return (f'<text x="{_x(x)}" y="{_y(row) + _FONT * 0.35:.1f}" class="{kind}" '
            f'text-anchor="{anchor}">{escape(text)}</text>')


def _line(x: float, y: float, to_x: float, to_y: float, kind: str) -> str:
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{kind}"/>'


def _parts(band: Band) -> list[str]:
    parts = []
    for wire in band.wires:
        # From the edge of the box to the middle of the bar.
        at_bar = {bar.x for bar in band.bars}
        start = wire.x + 0.5 if wire.x in at_bar else wire.x
        end = wire.end + 0.5 if wire.end in at_bar else wire.end + 1
        parts.append(_line(_x(start), _y(wire.row), _x(end), _y(wire.row), "w"))
    for bar in band.bars:
        parts += _bar(bar)
    for box in band.boxes:
        parts += _box(box)
    return parts


def _bar(bar: PlacedBar) -> list[str]:
    x, reach = _x(bar.x + 0.5), 0 if bar.bar.cable else _ROW * 0.4
    parts = [_line(x, _y(bar.top) - reach, x, _y(bar.bottom) + reach,
                   "c" if bar.bar.cable else "b")]
    if not bar.bar.cable:
        parts += [f'<circle cx="{x}" cy="{_y(row)}" r="3.5" class="j"/>'
                  for row in sorted({row for row, _ in bar.joints})]
    return parts + [_text(bar.label_x, bar.label_y + i, text, "q" * bool(i))
                    for i, text in enumerate(bar.label)]


def _box(box: PlacedBox) -> list[str]:
    dashed = " f" if box.box.alike > 1 else ""
    parts = [f'<rect x="{_x(box.x)}" y="{_y(box.y - 0.5):.1f}" width="{box.width * _CELL:.1f}" '
             f'height="{box.height * _ROW}" rx="5" fill="{_FILL[box.box.role]}" '
             f'class="n{dashed}"/>',
             _text(box.x + 2, box.y, box.box.title, "h")]
    parts += [_text(box.x + 2, box.y + 1 + i, text, "q") for i, text in enumerate(box.box.lines)]
    for row, port, leads_right in box.rows:
        parts.append(_text(box.x + box.width - 2, row, port.label, "", "end") if leads_right
                     else _text(box.x + 2, row, port.label))
    return parts
