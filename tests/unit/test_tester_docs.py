"""docs/dhcp-tester.md says of every behaviour and malformation what the code says of it."""

from __future__ import annotations

from pathlib import Path

from tester.behaviour import BEHAVIOURS
from tester.cells import MESSAGE_NAMES
from tester.malformations import NAMES
from tester.options import SECTIONS
from tester.template import VARIABLES

DOC = Path(__file__).parents[2] / "docs/dhcp-tester.md"


def test_behaviours() -> None:
    lines = DOC.read_text().splitlines()
    for name, (what, _) in BEHAVIOURS.items():
        assert f"| `{name}` | {what} |" in lines


def test_malformations() -> None:
    lines = DOC.read_text().splitlines()
    for row in NAMES:
        silent = "stays silent" if row.silent else "may answer"
        assert f"| `{row.name}` | {row.what} | {silent} |" in lines


def test_words_of_templates_and_options() -> None:
    text = DOC.read_text()
    for word in (*VARIABLES, *MESSAGE_NAMES):
        assert f"`{word}`" in text


def test_every_option_it_names_is_one() -> None:
    known = {name for options in SECTIONS.values() for option in options
             for name in (*option.opts, *option.secondary_opts)} | {"--config", "--help"}
    words = DOC.read_text().replace("`", " ").replace(",", " ").replace(";", " ").split()
    named = {word.strip("().:") for word in words if word.startswith("--")}
    assert named and named <= known
