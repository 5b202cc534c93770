"""Misbehave as told: which message is dropped, delayed, doubled or spoilt, and how often.

Every rule draws from a random sequence of its own, one number a message that it is about, so
with the same seed the same messages in the same order meet the same fate.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fastpath import wire
from fastpath.build import seal
from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS
from fastpath.frame import END, PAD, Memory, be32, put32
from fastpath.jit import kernel
from fastpath.siphash import Words, siphash

(DROP, DELAY, DUPLICATE, REORDER, SAY_NAK, WRONG_XID, WRONG_SERVER, MISSING,
 CORRUPT) = range(len(FAULT_KINDS))
_UNIFORM, _NORMAL, _EXPONENTIAL, _PARETO = range(len(DISTRIBUTIONS))

# Columns of a rule. Masks have a bit a message type; RATE is out of 2**32; times in us since
# the program was ready.
(F_KIND, F_REQUESTS, F_REPLIES, F_RATE, F_DELAY_US, F_JITTER_US, F_DISTRIBUTION, F_OPTION,
 F_FROM_US, F_UNTIL_US, F_EVERY_US, F_FOR_US) = range(12)
RULE_COLUMNS = 12
NEVER_US = 1 << 62
_SERVER_ID = 54
_XID, _OPTIONS, _BOOTP = wire.XID, wire.OPTIONS, 28
_U13, _U7, _U17, _U32 = np.uint64(13), np.uint64(7), np.uint64(17), np.uint64(32)
_ONE_OF_2_32 = 1.0 / 4294967296.0


class Faults(NamedTuple):
    """rules: int64[n, RULE_COLUMNS]. hits: int64[n], how often each came true.

    random: uint64[n], state of each rule's random sequence.
    """

    rules: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    random: Words


def make_faults(rules: npt.NDArray[np.int64], seed: int) -> Faults:
    """Rules as rows, with sequences that follow from `seed` and the number of the rule."""
    key = np.array([seed & 0xFFFFFFFFFFFFFFFF, 0x66617571], np.uint64)
    words = np.arange(len(rules), dtype=np.uint64)
    # A sequence that begins with 0 would stay there.
    random = np.array([siphash(key, words[i:], 1, 0) | 1 for i in range(len(rules))], np.uint64)
    return Faults(rules.reshape(-1, RULE_COLUMNS), np.zeros(len(rules), np.int64), random)


@kernel
def draw(faults: Faults, rule: int) -> int:
    """The next number of a rule's sequence, 0 to 2**32 - 1 (Marsaglia, xorshift64)."""
    x = faults.random[rule]
    x ^= x << _U13
    x ^= x >> _U7
    x ^= x << _U17
    faults.random[rule] = x
    return np.int64(x >> _U32)


@kernel
def strikes(faults: Faults, rule: int, asked: int, answer: int, now_us: int) -> bool:
    """Whether a rule is about this message, at this time, and chance will have it.

    asked, answer: message types; answer 0 where there is none (yet). Counts it as hit.
    """
    row = faults.rules[rule]
    by_request = np.int64(row[F_REQUESTS]) >> asked & 1
    by_reply = np.int64(row[F_REPLIES]) >> answer & 1 if answer != 0 else np.int64(0)
    if not by_request and not by_reply:
        return False
    if not row[F_FROM_US] <= now_us < row[F_UNTIL_US]:
        return False
    if row[F_EVERY_US] > 0 and (now_us - row[F_FROM_US]) % row[F_EVERY_US] >= row[F_FOR_US]:
        return False
    if draw(faults, rule) >= row[F_RATE]:
        return False
    faults.hits[rule] += 1
    return True


@kernel
def on_arrival(faults: Faults, asked: int, now_us: int) -> int:
    """What befalls a request before it is looked at: DROP, SAY_NAK, or -1 for nothing."""
    for rule in range(len(faults.rules)):
        kind = np.int64(faults.rules[rule, F_KIND])
        arriving = kind in (DROP, SAY_NAK) and faults.rules[rule, F_REQUESTS] != 0
        if arriving and strikes(faults, np.int64(rule), asked, np.int64(0), now_us):
            return kind
    return np.int64(-1)


@kernel
def delay_us(faults: Faults, rule: int) -> int:
    """How long a rule of kind DELAY holds one reply; never less than 0.

    uniform: delay +- jitter. normal: jitter is the standard deviation. exponential: delay and
    on top a mean of jitter. pareto: delay and on top jitter with a heavy tail (shape 3, so
    half of jitter on average).
    """
    row = faults.rules[rule]
    base, jitter = np.int64(row[F_DELAY_US]), np.float64(row[F_JITTER_US])
    if jitter == 0:
        return base
    u = (draw(faults, rule) + 0.5) * _ONE_OF_2_32
    how = np.int64(row[F_DISTRIBUTION])
    if how == _UNIFORM:
        extra = (2.0 * u - 1.0) * jitter
    elif how == _NORMAL:
        v = (draw(faults, rule) + 0.5) * _ONE_OF_2_32
        extra = jitter * math.sqrt(-2.0 * math.log(u)) * math.cos(2.0 * math.pi * v)
    elif how == _EXPONENTIAL:
        extra = -jitter * math.log(u)
    else:
        extra = jitter * (u ** (-1.0 / 3.0) - 1.0)
    # An hour is longer than any client waits, and keeps a rare draw from an endless one.
    return max(np.int64(0), base + np.int64(min(extra, 3.6e9)))


@kernel
def _find(mem: Memory, at: int, end: int, code: int) -> tuple[int, int]:
    """(position of option `code`, or of END if it is not there; position of END).

    An option that was spoilt before and runs past `end` is not found; END is then the last octet.
    """
    found = np.int64(-1)
    while at < end and mem[at] != END:
        if mem[at] == PAD:
            at += 1
            continue
        if at + 2 + np.int64(mem[at + 1]) >= end:
            at = end - 1
            break
        if found < 0 and mem[at] == code:
            found = at
        at += 2 + np.int64(mem[at + 1])
    return (at if found < 0 else found), at


@kernel
def spoil(mem: Memory, ip: int, end: int, kind: int, option: int, random: int) -> int:
    """Spoil the finished reply whose IPv4 header is at mem[ip:]; returns its new end, or `end`.

    random: 0 to 2**32 - 1. An option that is not in the options field cannot be spoilt.
    CORRUPT gives an option a length that runs past the end of the message.
    """
    bootp = ip + _BOOTP
    if kind == WRONG_XID:
        put32(mem, bootp + _XID, be32(mem, bootp + _XID) ^ (random | 1))
    code = np.int64(_SERVER_ID) if kind == WRONG_SERVER else option
    at, after = _find(mem, bootp + _OPTIONS, end, code)
    if kind != WRONG_XID:
        if at == after:
            return end
        if kind == WRONG_SERVER:
            put32(mem, at + 2, be32(mem, at + 2) ^ (random | 1))
        elif kind == MISSING:
            while at != after:
                # An option may come in several pieces (RFC 3396).
                size = 2 + np.int64(mem[at + 1])
                for i in range(at + size, end):
                    mem[i - size] = mem[i]
                end -= size
                at, after = _find(mem, bootp + _OPTIONS, end, code)
        else:
            # Nothing may follow that would make sense of it.
            after = at + 2
            mem[at + 1] = 255
    return seal(mem, ip, after)


@kernel
def befall(faults: Faults, mem: Memory, ip: int, end: int, asked: int, answer: int, now_us: int,
           arrived: bool) -> tuple[int, int, int, bool]:
    """What befalls the finished message whose IPv4 header is at mem[ip:]; spoils it there.

    asked, answer: as for `strikes`. arrived: what can befall a request on its arrival already
    has, or will not. Returns (its end; how long it waits in us, or -1; how often it goes out, 0
    where it is dropped; whether another is to overtake it).
    """
    wait_us = np.int64(-1)
    copies = np.int64(1)
    held = False
    for rule in range(len(faults.rules)):
        kind = np.int64(faults.rules[rule, F_KIND])
        if arrived and (kind == SAY_NAK or (kind == DROP and faults.rules[rule, F_REQUESTS] != 0)):
            continue
        if not strikes(faults, np.int64(rule), asked, answer, now_us):
            continue
        if kind == DROP:
            return end, np.int64(-1), np.int64(0), False
        if kind == DELAY:
            wait_us = max(wait_us, np.int64(0)) + delay_us(faults, np.int64(rule))
        elif kind == DUPLICATE:
            copies += 1
        elif kind == REORDER:
            held = True
        else:
            end = spoil(mem, ip, end, kind, np.int64(faults.rules[rule, F_OPTION]),
                        draw(faults, np.int64(rule)))
    return end, wait_us, copies, held
