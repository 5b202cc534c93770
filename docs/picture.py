"""Draw the terminal report of a result document: python docs/picture.py results/demo.json

Writes docs/report.svg, the picture in the README. Fonts are the reader's own, so the picture
fetches nothing.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI

from tester.report import render
from tester.result import read_json

WIDTH = 118

console = Console(width=WIDTH, record=True, file=io.StringIO(), force_terminal=True)
console.print("[bold green]$[/] sudo make demo")
console.print(render(read_json(Path(sys.argv[1]))))
drawing = console.export_svg(title="dhcp-netlab", theme=MONOKAI)
drawing = re.sub(r"@font-face \{.*?\}", "", drawing, flags=re.DOTALL)
drawing = drawing.replace("Fira Code, ", "ui-monospace, Menlo, DejaVu Sans Mono, ")
(Path(__file__).parent / "report.svg").write_text(drawing)
