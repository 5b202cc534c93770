"""Faults as plain values: what a program can be told to do wrong, to which messages, how often.

The one thing to know: what a fault does to a message is the same in every program that has
faults; which messages pass it is the program's own affair.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

FAULT_KINDS = ("drop", "delay", "duplicate", "reorder", "nak", "wrong-xid", "wrong-server-id",
               "missing-option", "corrupt-option")
# What clients send, and what servers send: a fault may be named by either.
REQUESTS = ("discover", "request", "decline", "release", "inform")
REPLIES = ("offer", "ack", "nak")
DISTRIBUTIONS = ("uniform", "normal", "exponential", "pareto")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to misbehave. kind: one of FAULT_KINDS.

    messages: names out of REQUESTS and REPLIES; empty for all. A request named here is treated
    so itself (drop: as if it had been lost on its way), or is answered so; a reply is
    treated so after the server has decided on it.
    rate: share of the messages, 0 to 1. delay_s, jitter_s, distribution: of `delay`.
    option: code, for `missing-option` and `corrupt-option`.
    from_s, until_s: seconds since the server was ready. every_s, for_s: of that time only the
    first `for_s` of each `every_s`; 0 for all of it.
    """

    kind: str
    messages: frozenset[str] = frozenset()
    rate: float = 1.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    distribution: str = "uniform"
    option: int = 0
    from_s: float = 0.0
    until_s: float = math.inf
    every_s: float = 0.0
    for_s: float = 0.0
