"""From faults as they are told to the rows that kernels read."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS, REPLIES, REQUESTS, Fault
from fastpath.faults import NEVER_US, RULE_COLUMNS
from fastpath.wire import MessageType

# Faults on arrival; all others befall a reply.
_ARRIVING = ("drop", "nak")
_KEEPING = ("delay", "reorder")


def _mask(names: frozenset[str] | tuple[str, ...]) -> int:
    return sum(1 << MessageType[name.upper()] for name in names)


def _us(seconds: float) -> int:
    return NEVER_US if math.isinf(seconds) else round(seconds * 1e6)


def _masks(fault: Fault) -> list[tuple[int, int]]:
    """(types of requests, types of replies) of each rule that a fault becomes."""
    # A message without a type (BOOTP, bit 0) is a request of its own.
    requests = _mask(fault.messages & set(REQUESTS)) if fault.messages else _mask(REQUESTS) | 1
    replies = _mask(fault.messages & set(REPLIES))
    if fault.kind == "nak":
        # Only a REQUEST may be refused by the rules; others as well if told so.
        return [(requests if fault.messages & set(REQUESTS) else _mask(("request",)), 0)]
    if fault.kind in _ARRIVING and requests and replies:
        # One is lost on its way here, the other on its way back.
        return [(requests, 0), (0, replies)]
    return [(requests, replies)]


def fault_rows(faults: tuple[Fault, ...]) -> npt.NDArray[np.int64]:
    """int64[rules, RULE_COLUMNS]; `labels` names them."""
    rows = []
    for fault in faults:
        for requests, replies in _masks(fault):
            rows.append((FAULT_KINDS.index(fault.kind), requests, replies,
                         round(fault.rate * 2**32), _us(fault.delay_s), _us(fault.jitter_s),
                         DISTRIBUTIONS.index(fault.distribution), fault.option,
                         _us(fault.from_s), _us(fault.until_s), _us(fault.every_s),
                         _us(fault.for_s)))
    return np.array(rows, np.int64).reshape(-1, RULE_COLUMNS)


def labels(faults: tuple[Fault, ...]) -> list[str]:
    """A name for each row of `fault_rows`; rows of equal faults share one."""
    names = []
    for fault in faults:
        parts = [fault.kind]
        if fault.messages:
            parts.append("+".join(sorted(fault.messages)))
        if fault.option:
            parts.append(f"option={fault.option}")
        names += [":".join(parts)] * len(_masks(fault))
    return names


def waits(faults: tuple[Fault, ...]) -> bool:
    """Whether replies may have to be kept."""
    return any(fault.kind in _KEEPING for fault in faults)
