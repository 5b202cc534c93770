"""Run the programs of `tester.template`: the text or the number of one client.

Arithmetic is that of `tester.template`, which says what its rules and codes are. Sums and
products wrap around at 64 bits before 63 of them are kept, so nothing is lost.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastpath.frame import Memory, copy
from fastpath.jit import kernel
from tester.template import (
    ADD,
    AND,
    BINARY,
    DIVIDE,
    IMMEDIATE,
    LEFT,
    MODULO,
    MOST,
    MOST_SHIFT,
    MULTIPLY,
    NUMBER,
    OR,
    PUT_DECIMAL,
    PUT_HEX,
    PUT_MAC,
    PUT_OCTETS,
    PUT_UPPER_HEX,
    RIGHT,
    SUBTRACT,
    TEXT,
    VARIABLE,
    XOR,
    Programs,
)

Numbers = npt.NDArray[np.int64]

_ZERO, _COLON = ord("0"), ord(":")
# From the character after "9" to the letter that stands for ten.
_LOWER, _UPPER = ord("a") - ord("9") - 1, ord("A") - ord("9") - 1
_MAC_TEXT = 17


@kernel
def _calculate(operator: int, left: int, right: int) -> int:
    number = np.int64(0)
    if operator == ADD:
        number = left + right
    elif operator == SUBTRACT:
        number = left - right
    elif operator == MULTIPLY:
        number = left * right
    elif operator == DIVIDE:
        if right != 0:
            number = left // right
    elif operator == MODULO:
        if right != 0:
            number = left % right
    elif operator == AND:
        number = left & right
    elif operator == OR:
        number = left | right
    elif operator == XOR:
        number = left ^ right
    elif operator == LEFT:
        number = left << min(right, MOST_SHIFT)
    elif operator == RIGHT:
        number = left >> min(right, MOST_SHIFT)
    return number & MOST


@kernel
def _work_out(code: int, operand: int, variables: Numbers, stack: Numbers, depth: int, top: int,
              ) -> tuple[int, int]:
    """One op that makes a number; returns (how many numbers wait on the stack, the top)."""
    if code in (NUMBER, VARIABLE):
        stack[depth] = top
        return depth + 1, operand if code == NUMBER else variables[operand] & MOST
    left, right = top, operand
    if code < IMMEDIATE:
        depth -= 1
        left, right = stack[depth], top
        code += IMMEDIATE - BINARY
    return depth, _calculate(code - IMMEDIATE, left, right)


@kernel
def _put_decimal(mem: Memory, at: int, limit: int, number: int, least: int) -> int:
    """Write `number` in at least `least` digits, those before `limit`; returns the new `at`."""
    size = np.int64(1)
    above = np.int64(10)
    while size < 19 and number >= above:
        size += 1
        above *= 10
    end = at + (size if size > least else least)
    for place in range(end - 1, at - 1, -1):
        rest = number // 10
        if place < limit:
            mem[place] = _ZERO + number - rest * 10
        number = rest
    return min(end, limit)


@kernel
def _hex_digit(nibble: int, letters: int) -> int:
    return _ZERO + nibble + (letters if nibble > 9 else np.int64(0))


@kernel
def _put_hex(mem: Memory, at: int, limit: int, number: int, least: int, letters: int) -> int:
    """The same in hexadecimal; letters: _LOWER or _UPPER."""
    size = np.int64(1)
    while size < 16 and number >> 4 * size:
        size += 1
    end = at + (size if size > least else least)
    for place in range(end - 1, at - 1, -1):
        if place < limit:
            mem[place] = _hex_digit(number & 15, letters)
        number >>= 4
    return min(end, limit)


@kernel
def _put_mac(mem: Memory, at: int, limit: int, mac: int) -> int:
    """Write `mac` as aa:bb:cc:dd:ee:ff, what is before `limit`; returns the new `at`."""
    end = min(at + _MAC_TEXT, limit)
    letters = np.int64(_LOWER)
    for place in range(at, end):
        octet = mac >> 40 - 8 * ((place - at) // 3) & 0xFF
        within = (place - at) % 3
        if within == 0:
            mem[place] = _hex_digit(octet >> 4, letters)
        elif within == 1:
            mem[place] = _hex_digit(octet & 15, letters)
        else:
            mem[place] = _COLON
    return end


@kernel
def _put_octets(mem: Memory, at: int, limit: int, number: int, octets: int) -> int:
    """Write the lowest `octets` octets, highest first, as far as `limit`; the new `at`."""
    end = min(at + octets, limit)
    for place in range(at, end):
        mem[place] = number >> 8 * (octets - 1 - (place - at)) & 0xFF
    return end


@kernel
def render(programs: Programs, first: int, count: int, variables: Numbers, stack: Numbers,
           mem: Memory, at: int, limit: int) -> int:
    """Write the template of `count` ops from `first` on to mem[at:limit]; returns the new `at`.

    What does not fit is cut off. variables: int64[4], in the order of template.VARIABLES.
    stack: int64[template.STACK], of no meaning before and after.
    """
    if at >= limit:
        return at
    depth = np.int64(0)
    top = np.int64(0)
    for i in range(first, first + count):
        code = programs.ops[i, 0]
        operand = programs.ops[i, 1]
        if code >= BINARY or code in (NUMBER, VARIABLE):
            depth, top = _work_out(code, operand, variables, stack, depth, top)
            continue
        if code == TEXT:
            size = min(operand & 0xFFFFFFFF, limit - at)
            copy(mem, at, programs.text, operand >> 32, size)
            at += size
        elif code == PUT_DECIMAL:
            at = _put_decimal(mem, at, limit, top, operand)
        elif code == PUT_HEX:
            at = _put_hex(mem, at, limit, top, operand, np.int64(_LOWER))
        elif code == PUT_UPPER_HEX:
            at = _put_hex(mem, at, limit, top, operand, np.int64(_UPPER))
        elif code == PUT_MAC:
            at = _put_mac(mem, at, limit, top)
        elif code == PUT_OCTETS:
            at = _put_octets(mem, at, limit, top, operand)
        depth = np.int64(0)
    return at


@kernel
def evaluate(programs: Programs, first: int, count: int, variables: Numbers, stack: Numbers,
             ) -> int:
    """The number of a `template.parse_number` template; the arguments are those of `render`."""
    depth = np.int64(0)
    top = np.int64(0)
    for i in range(first, first + count):
        depth, top = _work_out(programs.ops[i, 0], programs.ops[i, 1], variables, stack, depth, top)
    return top
