"""Faults as people write them: one argument of the command line, or fields of a file.

`KIND[:MESSAGES][:RATE][:KEY=VALUE,...]`: `drop:offer:5%`, `delay:ack:10%:delay=200ms`,
`silence:from=10s,for=5s`. The parts after KIND may come in any order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from fastpath import values
from fastpath.document import did_you_mean, shown
from fastpath.errors import UserError
from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS, REPLIES, REQUESTS, Fault

MESSAGES = (*REQUESTS, *(name for name in REPLIES if name not in REQUESTS))
# What people also say, and the kind it is: silence is all messages dropped, for a time.
SHORT_FORMS = {"silence": "drop", "late": "delay"}
KINDS = (*FAULT_KINDS, *SHORT_FORMS)
FIELDS = ("messages", "rate", "delay", "jitter", "distribution", "option", "from", "until",
          "every", "for")
_OF_DELAY = ("delay", "jitter", "distribution")
_OF_OPTION = ("missing-option", "corrupt-option")


def parse_fault(text: str) -> Fault:
    """The fault in one argument of `--fault`; raises UserError."""
    kind, *parts = text.split(":")
    fields: dict[str, str] = {}
    for part in parts:
        if "=" in part:
            pairs = [pair.partition("=") for pair in part.split(",")]
        elif re.match(r"[0-9.]", part.strip()):
            pairs = [("rate", "=", part)]
        else:
            pairs = [("messages", "=", part)]
        for key, equals, value in pairs:
            name = key.strip().lower()
            if name not in FIELDS or not equals:
                raise UserError(f"fault {shown(text)}: unknown field {shown(key)}",
                                did_you_mean(name, list(FIELDS)))
            if name in fields:
                raise UserError(f"fault {shown(text)}: {name} is given twice")
            fields[name] = value
    try:
        return make_fault(kind, fields)
    except UserError as error:
        raise UserError(f"fault {shown(text)}: {error.what}", error.remedy or
                        "for example drop:offer:5% or delay:ack:10%:delay=200ms") from None


def make_fault(kind: str, fields: Mapping[str, str]) -> Fault:
    """The fault of `kind` with `fields` (out of FIELDS) as text; raises UserError.

    messages: names joined by `+`. `for` without `every` says how long it lasts from `from` on.
    """
    said = values.choice(*KINDS)(kind)
    kind = SHORT_FORMS.get(said, said)
    _check_fields(said, kind, fields)
    messages = frozenset(_message(word) for word in fields["messages"].split("+")) \
        if "messages" in fields else frozenset()
    times = {name: values.duration_s(fields[name])
             for name in ("delay", "jitter", "from", "until", "every", "for") if name in fields}
    if kind == "delay" and not times.get("delay", 0) + times.get("jitter", 0):
        raise UserError(f"{said} of no time", "give delay, for example delay: 50ms")
    start, until, every, lasts = _window(times)
    return Fault(
        kind=kind, messages=messages, rate=values.rate(fields.get("rate", "1")),
        delay_s=times.get("delay", 0.0), jitter_s=times.get("jitter", 0.0),
        distribution=values.choice(*DISTRIBUTIONS)(fields.get("distribution", "uniform")),
        option=_option(fields["option"]) if "option" in fields else 0,
        from_s=start, until_s=until, every_s=every, for_s=lasts)


def _check_fields(said: str, kind: str, fields: Mapping[str, str]) -> None:
    if kind in _OF_OPTION and "option" not in fields:
        raise UserError(f"{said} needs option", "for example option: lease-time")
    if kind not in _OF_OPTION and "option" in fields:
        raise UserError(f"option belongs to {' and '.join(_OF_OPTION)}, not to {said}",
                        "remove it")
    for name in _OF_DELAY:
        if kind != "delay" and name in fields:
            raise UserError(f"{name} belongs to delay, not to {said}", "remove it")
    if said == "silence" and "messages" in fields:
        raise UserError("silence is about all messages", "use drop, or leave messages out")


def _window(times: Mapping[str, float]) -> tuple[float, float, float, float]:
    """from_s, until_s, every_s and for_s of a Fault."""
    start, until = times.get("from", 0.0), times.get("until", math.inf)
    every, lasts = times.get("every", 0.0), times.get("for", 0.0)
    if "for" in times and not lasts:
        raise UserError("for must be longer than no time")
    if "every" in times and not 0 < lasts < every:
        raise UserError("every needs a for that is shorter", "for example every: 10s, for: 2s")
    if lasts and not every:
        if "until" in times:
            raise UserError("until and for both say when it ends", "leave one of them out")
        until, lasts = start + lasts, 0.0
    if until <= start:
        raise UserError(f"it ends at {until:g} s, before it begins at {start:g} s")
    return start, until, every, lasts


def _message(text: str) -> str:
    name = text.strip().lower()
    if name not in MESSAGES:
        raise UserError(f"{shown(text)} is no message", did_you_mean(name, list(MESSAGES)))
    return name


def _option(text: str) -> int:
    from fastpath.options import code_of

    code = code_of(text.strip())
    if not 1 <= code <= 254:
        raise UserError(f"option {code} carries no value", "codes go from 1 to 254")
    return code
