"""Texts and numbers that differ per client: `sw{index//48}-p{index%48}`, `hex:01{mac:6}`.

A template is parsed once into a program for a small stack machine; `tester.emit` runs it for
one client. The one thing to know is its arithmetic, the same wherever an expression is worked
out: every number is from 0 to 2**63 - 1, and each operation keeps only the lowest 63 bits of
its result (so 0 - 1 is 2**63 - 1); division and modulo by zero give 0; a shift count above 62
counts as 62. Precedence is Python's.

    text          fields in braces, {{ and }} for braces
    hex:...       octets: pairs of hex digits (blanks and : between them) and fields
    {expr}        decimal; {mac} alone as aa:bb:cc:dd:ee:ff; after hex: 4 octets, {mac} 6
    {expr:05d}    text: d, x or X, before it 0 and the least number of digits
    {expr:N}      after hex: only, N octets, highest first, 1 to 8
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath.document import did_you_mean, shown
from fastpath.errors import UserError

VARIABLES = ("index", "mac", "relay", "vlan")
MOST = (1 << 63) - 1
MOST_SHIFT = 62
# Numbers that wait while another is worked out; parentheses go no deeper either.
STACK = 16

# What a program is made of: (code, operand). The number worked out last is the top; NUMBER and
# VARIABLE push another, what begins with PUT writes it. BINARY + operator takes the two topmost,
# IMMEDIATE + operator has its right side as operand. A TEXT is start << 32 | length.
(TEXT, NUMBER, VARIABLE, PUT_DECIMAL, PUT_HEX, PUT_UPPER_HEX, PUT_MAC, PUT_OCTETS,
 BINARY) = range(9)
(OR, XOR, AND, LEFT, RIGHT, ADD, SUBTRACT, MULTIPLY, DIVIDE, MODULO) = range(10)
IMMEDIATE = BINARY + MODULO + 1

_PRECEDENCE = {"|": 0, "^": 1, "&": 2, "<<": 3, ">>": 3, "+": 4, "-": 4, "*": 5, "//": 5, "%": 5}
_OPERATORS = {sign: operator for operator, sign in enumerate(_PRECEDENCE)}
_COMMUTATIVE = (OR, XOR, AND, ADD, MULTIPLY)
_CALCULATE: dict[int, Callable[[int, int], int]] = {
    OR: lambda a, b: a | b,
    XOR: lambda a, b: a ^ b,
    AND: lambda a, b: a & b,
    LEFT: lambda a, b: a << min(b, MOST_SHIFT),
    RIGHT: lambda a, b: a >> min(b, MOST_SHIFT),
    ADD: lambda a, b: a + b,
    SUBTRACT: lambda a, b: a - b,
    MULTIPLY: lambda a, b: a * b,
    DIVIDE: lambda a, b: a // b,
    MODULO: lambda a, b: a % b,
}

_HEX = "hex:"
_MAC_ALONE = [(VARIABLE, VARIABLES.index("mac"))]
_MAC_TEXT, _MAC_OCTETS, _NUMBER_OCTETS = 17, 6, 4
_MOST_DIGITS = {"d": len(f"{MOST}"), "x": len(f"{MOST:x}"), "X": len(f"{MOST:X}")}
_PUT = {"d": PUT_DECIMAL, "x": PUT_HEX, "X": PUT_UPPER_HEX}
_FORMAT = re.compile(r"(?=.)(?:0([1-9][0-9]{0,2}))?([dxX]?)")
_WORDS = re.compile(r"(?:[^{}]|\{\{|\}\})+")
_PAIRS = re.compile(r"(?:[\s:]*[0-9A-Fa-f]{2})*[\s:]*", re.ASCII)
_TOKEN = re.compile(r"\s*(?:(?P<number>0[xX][0-9A-Fa-f]+|[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
                    r"|(?P<sign><<|>>|//|[-+*%&|^()])|(?P<other>\S))", re.ASCII)
_SIGNS = "operators are + - * // % & | ^ << >> and parentheses"

Op = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """A part that differs per client: how to work it out, and the fewest and most octets."""

    ops: tuple[Op, ...]
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed template: octets as they are, and fields. No two `bytes` are neighbours.

    That of `parse_number` has one Field, which writes nothing.
    """

    parts: tuple[bytes | Field, ...]

    @property
    def is_constant(self) -> bool:
        """True where every client gets the same."""
        return not any(code == VARIABLE for part in self.parts if isinstance(part, Field)
                       for code, _ in part.ops)

    @property
    def number(self) -> int | None:
        """The number of a constant `parse_number` template; None of any other."""
        match self.parts:
            case (Field(((code, value),)),) if code == NUMBER:
                return value
        return None

    @property
    def shortest(self) -> int:
        """No client gets fewer octets."""
        return sum(len(p) if isinstance(p, bytes) else p.least for p in self.parts)

    @property
    def longest(self) -> int:
        """No client gets more octets; reached only where numbers are as wide as can be."""
        return sum(len(p) if isinstance(p, bytes) else p.most for p in self.parts)


class Programs(NamedTuple):
    """The programs of several templates, one behind another; neither array is ever empty.

    ops: int64[n, 2], code and operand. text: uint8[m], what TEXT operands point into.
    """

    ops: npt.NDArray[np.int64]
    text: npt.NDArray[np.uint8]


class _Source(NamedTuple):
    """The text that is parsed, and what the user calls it."""

    text: str
    what: str

    def refusal(self, problem: str, at: int, remedy: str) -> UserError:
        where = f"at position {at + 1} of {shown(self.text)}"
        return UserError(f"{self.what}: {problem} {where}", remedy)


class _Value(NamedTuple):
    """An expression: its program, and how many places of the stack that takes."""

    ops: list[Op]
    places: int

    @property
    def constant(self) -> int | None:
        return self.ops[0][1] if len(self.ops) == 1 and self.ops[0][0] == NUMBER else None


def _combine(operator: int, left: _Value, right: _Value) -> _Value:
    """Both under one operator, worked out now where both are constant; reuses their lists."""
    a, b = left.constant, right.constant
    if a is not None and b is not None:
        return _Value([(NUMBER, _CALCULATE[operator](a, b) & MOST)], 1)
    if a is not None and operator in _COMMUTATIVE:
        left, right, b = right, left, a
    if b is not None:
        left.ops.append((IMMEDIATE + operator, b))
        return left
    left.ops.extend([*right.ops, (BINARY + operator, 0)])
    return _Value(left.ops, max(left.places, right.places + 1))


class _Expression:
    """Reads the expression in text[start:end], one token ahead."""

    def __init__(self, source: _Source, start: int, end: int) -> None:
        self._source, self._next, self._end = source, start, end
        self._step()

    def read(self) -> _Value:
        """All of it; raises UserError."""
        value = self._operation(0, 0)
        if self._kind:
            raise self._unexpected()
        return value

    def _step(self) -> None:
        found = _TOKEN.match(self._source.text, self._next, self._end)
        self._kind = found.lastgroup if found else None
        self._token = found[self._kind] if found and self._kind else ""
        self._at = found.end() - len(self._token) if found else self._end
        self._next = found.end() if found else self._end

    def _unexpected(self) -> UserError:
        remedy = "write // to divide" if self._token == "/" else _SIGNS
        return self._source.refusal(f"unexpected {shown(self._token)}", self._at, remedy)

    def _too_deep(self, at: int) -> UserError:
        return self._source.refusal("expression nested too deeply", at,
                                    f"at most {STACK} levels: use fewer parentheses")

    def _operation(self, weakest: int, depth: int) -> _Value:
        """Operands joined by operators that bind at least as `weakest`."""
        left = self._operand(depth)
        while self._kind == "sign" and _PRECEDENCE.get(self._token, -1) >= weakest:
            sign, at = self._token, self._at
            self._step()
            right = self._operation(_PRECEDENCE[sign] + 1, depth)
            if _OPERATORS[sign] in (DIVIDE, MODULO) and right.constant == 0:
                raise self._source.refusal(f"{sign} by a constant 0", at, "divide by 1 or more")
            left = _combine(_OPERATORS[sign], left, right)
            if left.places > STACK:
                raise self._too_deep(at)
        return left

    def _operand(self, depth: int) -> _Value:
        kind, token, at = self._kind, self._token, self._at
        if kind == "other":
            raise self._unexpected()
        if kind is None or (kind == "sign" and token != "("):
            problem = (f"expected a number or a variable, not {token!r}," if token else
                       "a number or a variable is missing")
            known = ", ".join(VARIABLES)
            raise self._source.refusal(problem, at, f"for example index%48; variables are {known}")
        self._step()
        if kind == "number":
            return _Value([(NUMBER, self._number(token, at))], 1)
        if kind == "name":
            return _Value([(VARIABLE, self._variable(token, at))], 1)
        if depth == STACK:
            raise self._too_deep(at)
        value = self._operation(0, depth + 1)
        if self._token != ")":
            if self._kind:
                raise self._unexpected()
            raise self._source.refusal("( without its )", at, "close it with )")
        self._step()
        return value

    def _number(self, token: str, at: int) -> int:
        digits = token[2:] if token[:2] in ("0x", "0X") else token
        # Not to have int() read, or refuse, thousands of digits.
        short = len(digits.lstrip("0")) <= _MOST_DIGITS["d"]
        value = int(digits.lstrip("0") or "0", 10 if digits is token else 16) if short else MOST + 1
        if value > MOST:
            raise self._source.refusal("a number too large", at, f"at most {MOST} (2**63 - 1)")
        return value

    def _variable(self, token: str, at: int) -> int:
        if token in VARIABLES:
            return VARIABLES.index(token)
        raise self._source.refusal(f"unknown variable {shown(token)}", at,
                                   did_you_mean(token.lower(), list(VARIABLES)))


def _text_field(value: _Value, form: str | None) -> bytes | Field | None:
    """The field of a text; its octets where it is constant; None for a format unknown."""
    if form is None and value.ops == _MAC_ALONE:
        return Field((*value.ops, (PUT_MAC, 0)), _MAC_TEXT, _MAC_TEXT)
    found = _FORMAT.fullmatch("d" if form is None else form)
    if found is None:
        return None
    digits, kind = int(found[1] or 1), found[2] or "d"
    if value.constant is not None:
        return format(value.constant, f"0{digits}{kind}").encode()
    return Field((*value.ops, (_PUT[kind], digits)), digits, max(digits, _MOST_DIGITS[kind]))


def _octets_field(value: _Value, form: str | None) -> bytes | Field | None:
    """The same after `hex:`."""
    if form is None:
        octets = _MAC_OCTETS if value.ops == _MAC_ALONE else _NUMBER_OCTETS
    elif form in ("1", "2", "3", "4", "5", "6", "7", "8"):
        octets = int(form)
    else:
        return None
    if value.constant is not None:
        return (value.constant & (1 << 8 * octets) - 1).to_bytes(octets, "big")
    return Field((*value.ops, (PUT_OCTETS, octets)), octets, octets)


def _field(source: _Source, at: int, binary: bool) -> tuple[bytes | Field, int]:
    """The field that begins at text[at], and where it ends."""
    text = source.text
    end = text.find("}", at)
    if end < 0:
        raise source.refusal("{ without its }", at,
                             "close it with }" if binary else "close it with }, or write {{")
    colon = text.find(":", at, end)
    value = _Expression(source, at + 1, end if colon < 0 else colon).read()
    form = None if colon < 0 else text[colon + 1:end]
    part = (_octets_field if binary else _text_field)(value, form)
    if part is None:
        raise source.refusal("unknown format", colon + 1,
                             "after hex: a format is the number of octets, 1 to 8" if binary else
                             "formats are d, x, X, and with a least number of digits 05d, 04x")
    return part, end + 1


def _words(source: _Source, at: int) -> tuple[bytes, int]:
    """The text as it is from text[at] on, and where it ends."""
    found = _WORDS.match(source.text, at)
    if found is None:
        raise source.refusal("} without its {", at, "write }} for a brace")
    try:
        octets = found[0].encode()
    except UnicodeEncodeError as error:
        raise source.refusal("a character that is not UTF-8", at + error.start,
                             "write such octets after hex:") from None
    return octets.replace(b"{{", b"{").replace(b"}}", b"}"), found.end()


def _pairs(source: _Source, at: int) -> tuple[bytes, int]:
    """The octets in hex from text[at] on, and where they end."""
    found = _PAIRS.match(source.text, at)
    end = found.end() if found else at
    character = source.text[end:end + 1]
    if character not in ("", "{"):
        single = character in "0123456789abcdefABCDEF"
        raise source.refusal(f"{character!r}, {'half an octet,' if single else 'no hex digit,'}",
                             end, "write two hex digits for each octet, for example hex:01 0a{mac}")
    return bytes.fromhex("".join(source.text[at:end].replace(":", " ").split())), end


def parse(text: str, what: str, most_octets: int = 255) -> Template:
    """The template in `text`; raises UserError, which calls it `what` (say `--hostname`).

    It is refused where every client would get more than `most_octets`. Where only wide numbers
    would, it is taken, and `emit.render` cuts it off.
    """
    source = _Source(text, what)
    binary = text.startswith(_HEX)
    at = len(_HEX) if binary else 0
    parts: list[bytes | Field] = []
    while at < len(text):
        part: bytes | Field
        if text[at] == "{" and (binary or text[at + 1:at + 2] != "{"):
            part, at = _field(source, at, binary)
        else:
            part, at = (_pairs if binary else _words)(source, at)
        if isinstance(part, bytes) and parts and isinstance(parts[-1], bytes):
            parts[-1] += part
        elif part:
            parts.append(part)
    template = Template(tuple(parts))
    if template.shortest > most_octets:
        raise UserError(f"{what}: at least {template.shortest} octets, {most_octets} is the most",
                        "make it shorter")
    return template


def parse_number(text: str, what: str) -> Template:
    """The expression in `text`, with or without braces; raises UserError, as `parse`.

    Its number is `Template.number` where it is constant, else what `emit.evaluate` gives.
    """
    source = _Source(text, what)
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    if text[start:start + 1] == "{":
        if text[end - 1] != "}":
            raise source.refusal("{ without its }", start, "close it with }")
        start, end = start + 1, end - 1
    return Template((Field(tuple(_Expression(source, start, end).read().ops), 0, 0),))


def pack(templates: Sequence[Template]) -> tuple[Programs, list[tuple[int, int]]]:
    """The programs of `templates`, and for each the first of its ops and how many there are."""
    ops: list[Op] = []
    text = bytearray()
    places: list[tuple[int, int]] = []
    for template in templates:
        first = len(ops)
        for part in template.parts:
            if isinstance(part, bytes):
                ops.append((TEXT, len(text) << 32 | len(part)))
                text += part
            else:
                ops += part.ops
        places.append((first, len(ops) - first))
    programs = Programs(np.array(ops or [(NUMBER, 0)], np.int64),
                        np.frombuffer(bytes(text or b"\0"), np.uint8).copy())
    return programs, places
