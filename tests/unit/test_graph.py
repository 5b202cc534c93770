"""Drawings: everything that is there is in them, nothing stands on anything else."""

from __future__ import annotations

import ipaddress
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner

from fastpath.errors import SystemRefused, UserError
from netlab.commands.graph import graph
from netlab.graph import markup, svg, terminal
from netlab.graph.layout import arrange, cells
from netlab.graph.picture import MOST_ALIKE, picture
from netlab.topology import (
    Link,
    Node,
    Program,
    RelayPolicy,
    Role,
    Segment,
    Topology,
    direct,
    redundant,
    relay,
    rogue,
    star,
)

HOSTILE = 'a"b\\n<script>&#x;\x1b[31m\n]-->|}'


def clients(count: int) -> Topology:
    """So many client nodes on one segment."""
    base = direct()
    nodes = tuple(Node(f"c{i}", Role.CLIENT) for i in range(count))
    return replace(base, nodes=(*nodes, *base.nodes[1:]), links=(
        *(Link(f"c{i}", "eth0", "lan", f"c{i}") for i in range(count)), base.links[1]))


def ring(count: int) -> Topology:
    """Relays in a circle, no client and no server: every layer has two."""
    names = [f"r{i}" for i in range(count)]
    return Topology("ring", tuple(Node(name, Role.RELAY) for name in names),
                    tuple(Segment(f"s{i}") for i in range(count)),
                    tuple(link for i in range(count) for link in (
                        Link(names[i], "right", f"s{i}"),
                        Link(names[(i + 1) % count], "left", f"s{i}"))), ())


def homed_far_apart() -> Topology:
    """A client with an interface at each end of a chain: no layers by distance fit."""
    base = relay(3)
    links = tuple(replace(link, node="switch") if link.segment == "net3" and link.node == "client"
                  else link for link in base.links)
    return replace(base, nodes=(*base.nodes, Node("switch", Role.SWITCH)), links=(
        *links, Link("client", "eth1", "net3", "p1"),), segments=tuple(
            replace(s, stands_in="switch") if s.name == "net3" else s for s in base.segments))


def hostile() -> Topology:
    return Topology(HOSTILE, (Node(HOSTILE, Role.SERVER, Program(HOSTILE)),
                              Node("漢字" * 40, Role.CLIENT)), (Segment(HOSTILE),),
                    (Link(HOSTILE, HOSTILE, HOSTILE), Link("漢字" * 40, "e", HOSTILE)), ())


EVERY = [direct(), relay(0), relay(1), relay(8), relay(32), star(1), star(4), star(MOST_ALIKE),
         star(MOST_ALIKE + 1), star(500), rogue(), redundant(RelayPolicy(4, "append")),
         clients(1), clients(40), ring(7), homed_far_apart(), hostile(),
         Topology("empty", (), (), (), ()),
         Topology("alone", (Node("one", Role.ROUTER),), (Segment("bare", "one"),), (), ())]
every = pytest.mark.parametrize("topology", EVERY, ids=lambda t: t.name[:20])


@every
@pytest.mark.parametrize("width", [80, 100, 120, 400])
def test_a_drawing_fits_and_nothing_stands_on_anything(topology: Topology, width: int) -> None:
    shown = picture(topology)
    for band in arrange(topology, shown, width):
        columns = len({box.x for box in band.boxes})
        assert band.width <= width or columns <= 1
        taken: dict[tuple[int, int], object] = {}

        def take(x: int, y: int, wide: int, high: int, what: object,
                 taken: dict[tuple[int, int], object] = taken) -> None:
            for at in ((x + i, y + j) for i in range(wide) for j in range(high)):
                assert taken.setdefault(at, what) is what, at

        for box in band.boxes:
            take(box.x, box.y, box.width, box.height, box)
            assert box.x >= 0 and box.y >= 0 and box.y + box.height <= band.height
            rows = [row for row, _, _ in box.rows]
            assert len(set(rows)) == len(rows)
            assert all(box.y + len(box.box.lines) < row < box.y + box.height - 1 for row in rows)
        for bar in band.bars:
            assert bar.label_y >= 0
            for i, text in enumerate(bar.label):
                take(bar.label_x, bar.label_y + i, cells(text), 1, bar)
            take(bar.x, bar.top, 1, bar.bottom + 1 - bar.top, bar)
        edges = {(x, row) for box in band.boxes for row, _, _ in box.rows
                 for x in (box.x - 1, box.x + box.width)}
        for wire in band.wires:
            assert wire.x <= wire.end
            assert {(wire.x, wire.row), (wire.end, wire.row)} & edges
            assert not any(box.x <= x < box.x + box.width and box.y <= wire.row
                           < box.y + box.height for box in band.boxes
                           for x in (wire.x, wire.end))


@every
def test_everything_is_in_every_format(topology: Topology) -> None:
    shown = picture(topology)
    text = terminal.draw(topology, shown, 100)
    assert all(line == line.rstrip() and (line.isprintable()) for line in text.splitlines())
    root = ElementTree.fromstring(svg.draw(topology, shown))
    in_svg = [each.text or "" for each in root.iter("{http://www.w3.org/2000/svg}text")]
    dot = markup.dot(topology, shown)
    for title in (*(box.title for box in shown.boxes), *(bar.title for bar in shown.bars)):
        assert title in text and title in in_svg
        assert markup._quoted(title)[1:-1] in dot
    ports = [port.label for box in shown.boxes for port in box.ports]
    assert all(label in text and label in in_svg for label in ports)
    assert dot.count(" -- ") == len(ports)
    assert markup.mermaid(topology, shown).count(" ---|") == len(ports)


@every
def test_svg_texts_do_not_overlap(topology: Topology) -> None:
    """Taking any letter for 0.62 of the font's size, which is more than usual fonts have."""
    root = ElementTree.fromstring(svg.draw(topology, picture(topology)))
    space = "{http://www.w3.org/2000/svg}"
    lines: dict[str, list[tuple[float, float]]] = {}
    for each in root.iter(f"{space}text"):
        width, x = cells(each.text or "") * 13 * 0.62, float(each.get("x", 0))
        start = x - width if each.get("text-anchor") == "end" else x
        assert start >= 0 and start + width <= float(root.get("width", 0))
        lines.setdefault(each.get("y", ""), []).append((start, start + width))
    for spans in lines.values():
        spans.sort()
        assert all(one[1] <= other[0] for one, other in pairwise(spans))


def test_a_relay_between_two_segments() -> None:
    drawn = terminal.draw(relay(1), picture(relay(1)), 80)
    assert drawn == """\
relay --hops 1: 3 nodes, 2 segments

┌─client──────┐ lan          ┌─relay1────────────┐
│ dhcp-tester │ 10.16.0.0/12 │ dhcp-relay        │      ┌─server───────────┐
│        eth0 ├──────────────┤ eth0 10.16.0.1/12 │ net1 │ dhcp-server      │
└─────────────┘              │  eth1 10.0.1.1/24 ├──────┤ eth0 10.0.1.2/24 │
                             └───────────────────┘      └──────────────────┘
"""


def test_ascii_where_the_terminal_knows_no_more() -> None:
    drawn = terminal.draw(redundant(), picture(redundant()), 80, ascii_only=True)
    assert drawn.isascii() and "\\u" not in drawn
    assert terminal.draw(hostile(), picture(hostile()), 80, ascii_only=True).isascii()


def test_a_chain_goes_on_in_the_next_band() -> None:
    drawn = terminal.draw(relay(8), picture(relay(8)), 80)
    assert drawn.count("↓") == drawn.count("↑") >= 2
    assert max(map(len, drawn.splitlines())) <= 80
    order = [drawn.index(f"─relay{i}─") for i in range(1, 9)]
    assert order == sorted(order)


def test_many_branches_alike_are_folded() -> None:
    shown = picture(star(500))
    assert [(box.title, box.alike) for box in shown.boxes if box.role is Role.RELAY] == [
        ("relay1", 1), ("relay2", 1), ("relay3 ... relay498", 496), ("relay499", 1),
        ("relay500", 1)]
    assert [bar.title for bar in shown.bars] == [
        "core", "lan1", "lan2", "lan3 ... lan498", "lan499", "lan500"]
    client = next(box for box in shown.boxes if box.name == "client")
    assert [port.ifname for port in client.ports] == [
        "eth0", "eth1", "eth2 ... eth497", "eth498", "eth499"]
    assert all(box.alike == 1 for box in picture(star(MOST_ALIKE)).boxes)


def test_what_differs_is_not_called_alike() -> None:
    base = star(20)
    other = replace(base, nodes=tuple(
        replace(node, program=Program("dhcrelay")) if node.name == "relay10" else node
        for node in base.nodes))
    titles = [box.title for box in picture(other).boxes]
    assert "relay10" in titles and "relay3 ... relay18" in titles
    assert ("15 more alike",) in [box.lines for box in picture(other).boxes]


def test_clients_fold_each_on_its_own_segment() -> None:
    titles = [box.title for box in picture(clients(40)).boxes]
    assert titles == ["c0", "c1", "c2 ... c37", "c38", "c39", "server"]


def test_thousands_of_branches_are_drawn_at_once() -> None:
    large = star(3000)
    assert "2,996 more alike" in terminal.draw(large, picture(large), 100)


def test_hostile_names_are_no_syntax() -> None:
    shown = picture(hostile())
    mermaid = markup.mermaid(hostile(), shown)
    for line in mermaid.splitlines()[4:]:
        assert re.fullmatch(r'  [ns]\d+(\["[^"\[\]|<>]*(<br/>[^"\[\]|<>]*)*"\]|'
                            r'\(\["[^"\[\]|<>]*"\]\)| ---\|"[^"\[\]|<>]*"\| [ns]\d+)', line), line
    for line in markup.dot(hostile(), shown).splitlines():
        # Outside of strings nothing of a name remains.
        assert not set(re.sub(r'"(?:[^"\\]|\\.)*"', "", line)) & set('"\\<>&#|')


def test_programs_that_run_are_named() -> None:
    shown = picture(direct(), {"server": ["kea-dhcp4", "spy"]})
    assert shown.boxes[1].lines == ("kea-dhcp4, spy",)


def test_an_address_and_a_policy_are_shown() -> None:
    drawn = terminal.draw(redundant(RelayPolicy(4, "append")), picture(
        redundant(RelayPolicy(4, "append"))), 100)
    assert drawn.count("max-hops 4") == 2 and drawn.count("option82 append") == 2
    assert str(ipaddress.IPv4Interface("10.0.0.11/16")) in drawn


@pytest.fixture(autouse=True)
def _no_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DHCP_NETLAB_STATE", str(tmp_path / "state"))


def test_the_command(tmp_path: Path) -> None:
    run = CliRunner().invoke
    assert run(graph, []).output.startswith("direct: 3 nodes")
    assert run(graph, ["relay", "--hops", "2"]).output.startswith("relay --hops 2: 4 nodes")
    assert run(graph, ["star", "--format", "dot"]).output.startswith("graph lab {")
    for name, begins in (("a.svg", "<svg"), ("a.dot", "graph"), ("a.mmd", "---"),
                         ("a.txt", "rogue:")):
        assert run(graph, ["rogue", "-o", str(tmp_path / name)]).output == ""
        assert (tmp_path / name).read_text().startswith(begins)


@pytest.mark.parametrize("words, refused", [
    (["nothing-of-that-name"], UserError),
    (["--name", "not-up"], UserError),
    (["relay", "--name", "x"], UserError),
    (["--hops", "3"], UserError),
    (["relay", "--hops", "1..3"], UserError),
    (["direct", "-o", "/nowhere/at.svg"], SystemRefused),
    (["direct", "-o", "/dev/full"], SystemRefused),
])
def test_what_the_command_refuses(words: list[str], refused: type[Exception]) -> None:
    assert isinstance(CliRunner().invoke(graph, words).exception, refused)
