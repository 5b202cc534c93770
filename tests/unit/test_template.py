"""Templates against a naive twin: Python's own parser, unbounded integers and `format`."""

from __future__ import annotations

import ast
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastpath.errors import UserError
from tester.emit import evaluate, render
from tester.template import STACK, VARIABLES, Template, pack, parse, parse_number
from tests.kernels import COMPILED, examples, several, wraps, writable

pytestmark = wraps

M63 = (1 << 63) - 1
WHO = "--hostname"
ZEROS = dict.fromkeys(VARIABLES, 0)
CLIENT = {"index": 4711, "mac": 0x02_00_5E_00_53_AF, "relay": 3, "vlan": 4094}


class Refused(Exception):
    """What the twin says where a template must not be taken."""


# --- the twin ----------------------------------------------------------------------------------

PYTHONS = {ast.BitOr: "|", ast.BitXor: "^", ast.BitAnd: "&", ast.LShift: "<<", ast.RShift: ">>",
           ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.FloorDiv: "//", ast.Mod: "%"}


def constant(tree: ast.expr) -> bool:
    return not any(isinstance(node, ast.Name) for node in ast.walk(tree))


def work_out(tree: ast.expr, client: dict[str, int]) -> int:
    """The number of an expression that Python itself has parsed."""
    if isinstance(tree, ast.Constant):
        assert isinstance(tree.value, int)
        return tree.value
    if isinstance(tree, ast.Name):
        return client[tree.id]
    assert isinstance(tree, ast.BinOp)
    a, b = work_out(tree.left, client), work_out(tree.right, client)
    sign = PYTHONS[type(tree.op)]
    if sign in ("//", "%") and b == 0:
        if constant(tree.right):
            raise Refused
        return 0
    if sign in ("<<", ">>"):
        b = min(b, 62)
    return {"|": lambda: a | b, "^": lambda: a ^ b, "&": lambda: a & b, "<<": lambda: a << b,
            ">>": lambda: a >> b, "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b,
            "//": lambda: a // b, "%": lambda: a % b}[sign]() % (1 << 63)


def number_of(expression: str, client: dict[str, int]) -> int:
    return work_out(ast.parse(expression.strip(), mode="eval").body, client)


def alone(expression: str) -> bool:
    return expression.strip(" ()") == "mac"


def text_of(piece: str | tuple[str, str | None], client: dict[str, int]) -> bytes:
    """One piece of a text template: itself, or (expression, format)."""
    if isinstance(piece, str):
        return piece.encode()
    expression, form = piece
    number = number_of(expression, client)
    if form is None and alone(expression):
        return ":".join(f"{octet:02x}" for octet in number.to_bytes(6, "big")).encode()
    return format(number, form or "d").encode()


def octets_of(piece: str | tuple[str, int | None], client: dict[str, int]) -> bytes:
    """One piece of a binary template: hex digits, or (expression, octets)."""
    if isinstance(piece, str):
        return bytes(int(piece[i:i + 2], 16) for i in range(0, len(piece), 2))
    expression, size = piece
    size = size or (6 if alone(expression) else 4)
    return (number_of(expression, client) % (1 << 8 * size)).to_bytes(size, "big")


# --- ours --------------------------------------------------------------------------------------


def values(client: dict[str, int]) -> np.ndarray:
    return np.array([client[name] for name in VARIABLES], np.int64)


def rendered(template: Template, client: dict[str, int], room: int = 2048, before: int = 3,
             others: tuple[Template, ...] = ()) -> bytes:
    """What `render` writes into `room` octets; nothing else of the memory may change."""
    programs, places = pack([*others, template])
    memory = np.full(before + room + 40, 0xA5, np.uint8)
    limit = before + room
    mem = memory if COMPILED else writable(memory, before, limit)
    stack = np.full(STACK, -1, np.int64)
    end = render(programs, *places[-1], values(client), stack, mem, before, limit)
    assert before <= end <= limit
    assert set(memory[:before].tolist() + memory[end:].tolist()) <= {0xA5}
    return memory[before:end].tobytes()


def evaluated(template: Template, client: dict[str, int]) -> int:
    programs, places = pack([template])
    stack = np.full(STACK, -1, np.int64)
    return int(evaluate(programs, *places[0], values(client), stack))


def refused(text: str, most_octets: int = 255) -> UserError:
    with pytest.raises(UserError) as caught:
        parse(text, WHO, most_octets)
    return caught.value


# --- inputs ------------------------------------------------------------------------------------

EDGES = [0, 1, 2, 7, 10, 48, 61, 62, 63, 64, 99, 100, 255, 256, 2**31, 2**32 - 1, 2**48 - 1,
         10**18 - 1, 10**18, 2**62, M63 - 1, M63]
NUMBERS = st.one_of(st.sampled_from(EDGES), st.integers(0, 100), st.integers(0, M63))
LITERALS = st.builds(lambda n, form: form.format(n), NUMBERS,
                     st.sampled_from(["{}", "{}", "0x{:x}", "0X{:X}", "0x00{:x}"]))
LEAVES = st.one_of(st.sampled_from(VARIABLES), st.sampled_from(VARIABLES), LITERALS)
BLANKS = st.sampled_from(["", "", "", " ", "  "])
# Parentheses that Python's precedence does not need, or does: Python's parser says which tree.
EXPRESSIONS = st.recursive(LEAVES, lambda inner: st.builds(
    lambda a, b, sign, blank, around: around.format(f"{a}{blank}{sign}{blank}{b}"),
    inner, inner, st.sampled_from(sorted(PYTHONS.values())), BLANKS,
    st.sampled_from(["{}", "{}", "({})", " ( {} ) "])), max_leaves=10)
CLIENTS = st.builds(
    lambda index, mac, relay, vlan: dict(zip(VARIABLES, (index, mac, relay, vlan), strict=True)),
    NUMBERS, st.one_of(st.sampled_from([0, 2**48 - 1]), st.integers(0, 2**48 - 1)),
    NUMBERS, st.integers(0, 4095))
FORMATS = st.sampled_from([None, None, "d", "x", "X", "05d", "05", "04x", "012X", "01d", "020d",
                           "0100x"])
WORDS = st.text(st.one_of(st.sampled_from("ab-.{}: é漢😀\0\n"), st.characters(codec="utf-8")),
                max_size=8)
TEXTS = st.lists(st.one_of(WORDS, st.tuples(EXPRESSIONS, FORMATS)), max_size=5)
BINARIES = st.lists(st.one_of(
    st.binary(max_size=5).map(bytes.hex),
    st.tuples(EXPRESSIONS, st.one_of(st.none(), st.integers(1, 8)))), max_size=5)


def written(pieces: list[str | tuple[str, str | None]]) -> str:
    return "".join(
        piece.replace("{", "{{").replace("}", "}}") if isinstance(piece, str)
        else "{" + piece[0] + ("" if piece[1] is None else f":{piece[1]}") + "}"
        for piece in pieces)


# --- against the twin --------------------------------------------------------------------------


@examples(400, 120)
@given(EXPRESSIONS, CLIENTS, st.sampled_from(["{}", "{{{}}}", " {{ {} }} "]))
def test_numbers(expression: str, client: dict[str, int], around: str) -> None:
    text = around.format(expression)
    try:
        expected = number_of(expression, client)
    except Refused:
        with pytest.raises(UserError, match="by a constant 0"):
            parse_number(text, WHO)
        return
    template = parse_number(text, WHO)
    assert evaluated(template, client) == expected
    fixed = constant(ast.parse(expression.strip(), mode="eval").body)
    assert template.is_constant == fixed
    assert template.number == (expected if fixed else None)


def check(text: str, expected: bytes, client: dict[str, int], cut: int) -> None:
    template = parse(text, WHO, 2000)
    assert rendered(template, client, len(expected)) == expected
    assert rendered(template, client, cut % (len(expected) + 1)) == \
        expected[:cut % (len(expected) + 1)]
    assert template.shortest <= len(expected) <= template.longest
    if template.is_constant:
        assert rendered(template, ZEROS) == expected
        assert template.shortest == len(expected) == template.longest


@examples(400, 120)
@given(TEXTS, CLIENTS, st.integers(0, 400))
def test_texts(pieces: list[str | tuple[str, str | None]], client: dict[str, int],
               cut: int) -> None:
    text = written(pieces)
    assume(not text.startswith("hex:"))
    try:
        expected = b"".join(text_of(piece, client) for piece in pieces)
    except Refused:
        assert "by a constant 0" in refused(text).what
        return
    check(text, expected, client, cut)


@examples(300, 80)
@given(BINARIES, CLIENTS, st.integers(0, 60), st.sampled_from(["", " ", ":", " : "]))
def test_binaries(pieces: list[str | tuple[str, int | None]], client: dict[str, int], cut: int,
                  between: str) -> None:
    text = "hex:" + between.join(
        between.join(piece[i:i + 2] for i in range(0, len(piece), 2)) if isinstance(piece, str)
        else "{" + piece[0] + ("" if piece[1] is None else f":{piece[1]}") + "}"
        for piece in pieces)
    try:
        expected = b"".join(octets_of(piece, client) for piece in pieces)
    except Refused:
        assert "by a constant 0" in refused(text).what
        return
    check(text, expected, client, cut)


@settings(deadline=None, max_examples=several(1500, 600))
@given(st.one_of(
    st.text(st.sampled_from("{}{}:()0x19abdXhe index%+-*/<>&|^\0é\ud800"), max_size=30),
    st.lists(st.sampled_from(["{", "}", "{{", "}}", "hex:", "index", "mac", "vlan", "//", "%", "0",
                              "1", "0x", "(", ")", ":", "04x", "05d", "x", "ff", " ", "<<", "-"]),
             max_size=14).map("".join),
    st.text(max_size=20)))
def test_any_text_is_taken_or_refused_in_two_lines(text: str) -> None:
    for read in (parse, parse_number):
        try:
            template = read(text, WHO)
        except UserError as error:
            assert error.what.startswith(f"{WHO}: ") and error.what.isprintable()
            assert error.remedy and error.remedy.isprintable()
        else:
            for value in (0, 1, M63):
                rendered(template, dict.fromkeys(VARIABLES, value) | {"mac": value & 2**48 - 1})


# --- by hand -----------------------------------------------------------------------------------

# template, what the client CLIENT gets
LOOKS: list[tuple[str, bytes]] = [
    ("", b""),
    ("pc", b"pc"),
    ("sw{index//48}-p{index%48}", b"sw98-p7"),
    ("host{index:05d}", b"host04711"),
    ("host{ index :05d}", b"host04711"),
    ("{mac}", b"02:00:5e:00:53:af"),
    ("{(mac)}", b"02:00:5e:00:53:af"),
    ("{mac:x}", b"2005e0053af"),
    ("{mac:012X}", b"02005E0053AF"),
    ("{mac+0}", str(CLIENT["mac"]).encode()),
    ("{index*2+1:04x}", b"24cf"),
    ("{{{index}}}", b"{4711}"),
    ("{{index}}", b"{index}"),
    ("{{}}", b"{}"),
    ("v{vlan}r{relay}", b"v4094r3"),
    ("{7}{8}-{0x10:x}{010}", b"78-1010"),
    ("{1+2*3<<1|1}", b"15"),
    ("{0-1}", b"9223372036854775807"),
    ("{index-index-1}", b"9223372036854775807"),
    ("{relay-index}", str(2**63 - 4708).encode()),
    ("{index//(relay-3)}.{index%(relay-3)}", b"0.0"),
    ("{1<<62}.{1<<63}.{1<<1000}", b"4611686018427387904." * 2 + b"4611686018427387904"),
    ("{relay<<index}", str(1 << 62).encode()),
    ("{9223372036854775807+1}", b"0"),
    ("HEX:{relay}", b"HEX:3"),
    ("hex :", b"hex :"),
    ("hex:", b""),
    ("hex:01{mac:6}", bytes.fromhex("0102005e0053af")),
    ("hex:{mac}", bytes.fromhex("02005e0053af")),
    ("hex:{mac:2}", bytes.fromhex("53af")),
    ("hex:{mac:8}", bytes.fromhex("000002005e0053af")),
    ("hex:0a:0B 0c{vlan}", bytes.fromhex("0a0b0c00000ffe")),
    ("hex:{vlan:1}{258:1}{257:2}", bytes.fromhex("fe020101")),
    ("hex:{0-1:8}", bytes.fromhex("7fffffffffffffff")),
]


@pytest.mark.parametrize(("text", "expected"), LOOKS)
def test_looks(text: str, expected: bytes) -> None:
    assert rendered(parse(text, WHO), CLIENT) == expected


@pytest.mark.parametrize("text", ["ab{index:06d}cd", "{mac}", "{vlan:04x}{index:X}", "漢{vlan}",
                                  "hex:01{mac}02{index:8}", "{index+(vlan*relay)}", "{010:d}"])
def test_every_limit_cuts_and_nothing_is_written_behind_it(text: str) -> None:
    template = parse(text, WHO)
    whole = rendered(template, CLIENT)
    assert len(whole) > 1
    for room in range(len(whole) + 3):
        assert rendered(template, CLIENT, room) == whole[:room]


@pytest.mark.parametrize("limit", [0, 9, 10])
@pytest.mark.parametrize("text", ["ab", "{index}", "{mac}", "{index:x}", "hex:{index:8}"])
def test_no_room_at_all(text: str, limit: int) -> None:
    programs, places = pack([parse(text, WHO)])
    memory = np.zeros(32, np.uint8)
    mem = memory if COMPILED else writable(memory, 0, 0)
    stack = np.zeros(STACK, np.int64)
    assert render(programs, *places[0], values(CLIENT), stack, mem, 10, limit) == 10
    assert not memory.any()


@pytest.mark.parametrize("number", [n + d for n in [10**k for k in range(1, 19)] for d in (-1, 0)]
                         + [0, M63] + [16**k for k in range(16)])
def test_digits_at_every_width(number: int) -> None:
    client = CLIENT | {"index": number}
    assert rendered(parse("{index}|{index:x}|{index:X}", WHO), client) == \
        f"{number}|{number:x}|{number:X}".encode()


def test_a_variable_that_is_negative_counts_by_its_lowest_63_bits() -> None:
    client = ZEROS | {"index": -1}
    assert rendered(parse("{index}.{index+1}", WHO), client) == f"{M63}.0".encode()
    assert evaluated(parse_number("index", WHO), client) == M63


# what is wrong, a part of what is said, a part of what to do
ERRORS = [
    ("sw{indx}", "unknown variable 'indx' at position 4 of 'sw{indx}'", "did you mean index?"),
    ("{MAC}", "unknown variable 'MAC' at position 2", "did you mean mac?"),
    ("{zzz}", "unknown variable 'zzz'", "known are: index, mac, relay, vlan"),
    ("{" + "z" * 500 + "}", "unknown variable 'zzzzzzzzzz", "known are"),
    ("a{index", "{ without its } at position 2", "close it with }, or write {{"),
    ("{", "{ without its } at position 1", "{{"),
    ("{{{", "{ without its } at position 3", "{{"),
    ("a}b", "} without its { at position 2", "write }} for a brace"),
    ("{index}}", "} without its { at position 8", "write }} for a brace"),
    ("{}", "a number or a variable is missing at position 2", "index%48"),
    ("{ }", "a number or a variable is missing", "index%48"),
    ("{:05d}", "a number or a variable is missing at position 2", "index%48"),
    ("{index+}", "a number or a variable is missing at position 8", "index%48"),
    ("{()}", "expected a number or a variable, not ')', at position 3", "index%48"),
    ("{-1}", "expected a number or a variable, not '-', at position 2", "index%48"),
    ("{2**3}", "not '*', at position 4", "index%48"),
    ("{index/2}", "unexpected '/' at position 7", "write // to divide"),
    ("{/2}", "unexpected '/' at position 2", "write // to divide"),
    ("{index 2}", "unexpected '2' at position 8", "operators are"),
    ("{12ab}", "unexpected 'ab' at position 4", "operators are"),
    ("{0x}", "unexpected 'x' at position 3", "operators are"),
    ("{1_000}", "unexpected '_000'", "operators are"),
    ("{1.5}", "unexpected '.' at position 3", "operators are"),
    ("{~1}", "unexpected '~' at position 2", "operators are"),
    ("{index{vlan}}", "unexpected '{' at position 7", "operators are"),
    ("{٣}", "unexpected '٣'", "operators are"),
    ("{1)}", "unexpected ')' at position 3", "operators are"),
    ("{(1}", "( without its ) at position 2", "close it with )"),
    ("{(1 2)}", "unexpected '2' at position 5", "operators are"),
    ("{9223372036854775808}", "a number too large at position 2", "at most 9223372036854775807"),
    ("{0x8000000000000000}", "a number too large", "at most 9223372036854775807"),
    ("{" + "9" * 10_000 + "}", "a number too large at position 2", "at most"),
    ("{index%0}", "% by a constant 0 at position 7", "divide by 1 or more"),
    ("{1//(2-2)}", "// by a constant 0 at position 3", "divide by 1 or more"),
    ("{index//0x0+1}", "// by a constant 0", "divide by 1 or more"),
    ("{index:}", "unknown format at position 8", "05d"),
    ("{index:5d}", "unknown format at position 8", "05d"),
    ("{index:00d}", "unknown format", "05d"),
    ("{index: d}", "unknown format", "05d"),
    ("{index:b}", "unknown format", "05d"),
    ("{index:x:x}", "unknown format at position 8", "05d"),
    ("{index:09999999999d}", "unknown format", "05d"),
    ("{index:4}", "unknown format", "05d"),
    ("hex:0", "'0', half an octet, at position 5", "two hex digits"),
    ("hex:0 1", "'0', half an octet, at position 5", "two hex digits"),
    ("hex:010{mac}", "'0', half an octet, at position 7", "two hex digits"),
    ("hex:0x01", "'0', half an octet, at position 5", "two hex digits"),
    ("hex:01-02", "'-', no hex digit, at position 7", "two hex digits"),
    ("hex:}", "'}', no hex digit, at position 5", "two hex digits"),
    ("hex:{{", "{ without its } at position 5", "close it with }"),
    ("hex:{{}}", "unexpected '{' at position 6", "operators are"),
    ("hex:{index:0}", "unknown format at position 12", "number of octets, 1 to 8"),
    ("hex:{index:9}", "unknown format", "number of octets, 1 to 8"),
    ("hex:{index:04x}", "unknown format", "number of octets, 1 to 8"),
    ("hex:{index:٣}", "unknown format", "number of octets, 1 to 8"),
    ("pc\ud800", "a character that is not UTF-8 at position 3", "hex:"),
    ("{" + "(" * 17 + "1" + ")" * 17 + "}", "nested too deeply at position 18", "at most 16"),
    ("{" + "(" * 100_000 + "}", "nested too deeply", "fewer parentheses"),
]


@pytest.mark.parametrize(("text", "what", "remedy"), ERRORS)
def test_errors(text: str, what: str, remedy: str) -> None:
    error = refused(text)
    assert error.what.startswith(f"{WHO}: ") and what in error.what and remedy in error.remedy
    assert len(error.what) < 250 and error.what.isprintable()


@pytest.mark.parametrize(("text", "what"), [
    ("", "a number or a variable is missing at position 1"),
    (" ", "a number or a variable is missing"),
    ("{", "{ without its } at position 1"),
    (" {1", "{ without its } at position 2"),
    ("{}", "a number or a variable is missing at position 2"),
    ("1}", "unexpected '}' at position 2"),
    ("}", "unexpected '}' at position 1"),
    ("{1}{2}", "unexpected '}' at position 3"),
    ("{index:04x}", "unexpected ':' at position 7"),
    ("100.200", "unexpected '.' at position 4"),
    ("vlam", "unknown variable 'vlam' at position 1"),
    ("hex:01", "unknown variable 'hex'"),
    ("index%0", "% by a constant 0 at position 6"),
])
def test_errors_of_numbers(text: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_number(text, "--vlan")
    assert caught.value.what.startswith("--vlan: ") and what in caught.value.what
    assert caught.value.remedy


# --- bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "shortest", "longest"), [
    ("", 0, 0), ("漢", 3, 3), ("sw{index}", 3, 21), ("{index:05d}", 5, 19),
    ("{index:030d}", 30, 30),
    ("{index:x}", 1, 16), ("{index:020X}", 20, 20), ("{mac}", 17, 17), ("{mac:d}", 1, 19),
    ("{1234}{{", 5, 5), ("hex:01{mac}{index}{vlan:2}", 13, 13), ("hex:{5:8}", 8, 8),
])
def test_lengths(text: str, shortest: int, longest: int) -> None:
    template = parse(text, WHO)
    assert (template.shortest, template.longest) == (shortest, longest)


@pytest.mark.parametrize(("text", "fits"), [
    ("a" * 255, 255), ("漢" * 10, 30), ("{index}" * 255, 255), ("{index:0999d}", 999),
    ("{mac}" * 15, 255), ("hex:" + "00" * 20, 20), ("hex:{index:8}{mac}", 14), ("{1000}", 4),
    ("{{" * 9, 9),
])
def test_what_can_never_fit_is_refused(text: str, fits: int) -> None:
    template = parse(text, WHO, fits)
    assert len(rendered(template, ZEROS)) == fits
    error = refused(text, fits - 1)
    assert f"{WHO}: at least {fits} octets, {fits - 1} is the most" in error.what and error.remedy


def test_only_the_widest_numbers_do_not_fit() -> None:
    template = parse("{index}", WHO, 4)
    assert template.longest > 4
    assert rendered(template, CLIENT | {"index": 123456}, 4) == b"1234"


def nested(levels: int) -> str:
    return "index-(" * levels + "vlan" + ")" * levels


def test_the_stack_is_used_to_its_end_and_no_further() -> None:
    text = nested(STACK - 1)
    assert evaluated(parse_number(text, WHO), CLIENT) == number_of(text, CLIENT)
    with pytest.raises(UserError, match="nested too deeply"):
        parse_number(nested(STACK), WHO)


def test_precedence_alone_can_overflow_the_stack() -> None:
    step = "index|index^index&index<<index+index-index*"
    for levels in range(1, 5):
        text = f"{step}(" * levels + "index*vlan" + ")" * levels
        try:
            template = parse_number(text, WHO)
        except UserError as error:
            assert "nested too deeply" in error.what and levels > 1
        else:
            assert evaluated(template, CLIENT) == number_of(text, CLIENT)
    with pytest.raises(UserError, match="nested too deeply"):
        parse_number(text, WHO)


def test_long_expressions_need_no_recursion() -> None:
    template = parse_number("+".join(["index"] * 3000), WHO)
    assert evaluated(template, CLIENT) == 3000 * CLIENT["index"]
    assert parse_number("+".join(["1"] * 30_000), WHO).number == 30_000


def test_constants_are_worked_out_when_parsed() -> None:
    assert parse("a{1+2}{{{0x10:04X}", WHO).parts == (b"a3{0010",)
    assert parse("hex:01{2:1}:03", WHO).parts == (b"\1\2\3",)
    assert parse("pc", WHO).is_constant and not parse("pc{index}", WHO).is_constant
    assert parse("{index}", WHO).number is None and parse("5", WHO).number is None


def test_several_templates_share_one_set_of_arrays() -> None:
    texts = ["sw{index//48}-p{index%48}", "", "pc", "hex:01{mac}", "{mac}", "漢{vlan}"]
    templates = [parse(text, WHO) for text in texts]
    for i, template in enumerate(templates):
        assert rendered(template, CLIENT, others=tuple(templates[:i])) == \
            rendered(template, CLIENT)
    programs, places = pack(templates)
    assert [first for first, _ in places] == [sum(n for _, n in places[:i]) for i in range(6)]
    assert len(programs.ops) == sum(n for _, n in places)


@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["{index}"]])
def test_arrays_are_never_empty(texts: list[str]) -> None:
    programs, places = pack([parse(text, WHO) for text in texts])
    assert programs.ops.dtype == np.int64 and programs.text.dtype == np.uint8
    assert programs.ops.shape[0] and programs.ops.shape[1] == 2 and len(programs.text)
    assert programs.ops.flags.c_contiguous and programs.text.flags.writeable
    assert len(places) == len(texts)


def test_templates_are_parsed_without_numba() -> None:
    code = "import sys, tester.template; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
