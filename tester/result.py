"""The result document: made once from a finished test, and all that others may read of it.

`lab` reads these documents and must not drag compiled kernels in, so this module knows
plain numbers only; `collect` turns a test into them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastpath.errors import Malformed, SystemRefused

SCHEMA = "dhcp-netlab/result/1"
Document = dict[str, Any]

PASS, INCOMPLETE, THRESHOLD, GENERATOR_BOUND = "pass", "incomplete", "threshold", "generator-bound"
EXIT_CODES = {PASS: 0, INCOMPLETE: 3, GENERATOR_BOUND: 4, THRESHOLD: 99}
# More starts missed than this, and what was offered was not what the plan says.
MISSED_SHARE = 0.01
# In a closed loop what is in flight waits where it is slowest. Where for at least so many seconds
# the generator hardly ever slept, and in most turns found half the window before its own door,
# it measured itself.
STEADY_S = 5.0
BUSY_PERCENT = 95.0
FULL_PERCENT = 50.0


def own_limits(document: Document) -> list[str]:
    """In what the generator, not the server, was the limit: rx_ring, missed_starts, cpu."""
    started = document["clients"]["started"]
    limits = []
    if document["losses"]["rx_ring"]:
        limits.append("rx_ring")
    if document["missed_starts"] > MISSED_SHARE * max(started, document["exchanges"]["started"]):
        limits.append("missed_starts")
    if (document["config"]["load"] == "closed" and document["duration_s"] >= STEADY_S
            and document["generator"]["busy_percent"] >= BUSY_PERCENT
            and document["generator"]["full_turns_percent"] >= FULL_PERCENT):
        limits.append("cpu")
    return limits


def verdict(document: Document) -> str:
    """The verdict that the numbers of a document give.

    The generator's own failings come first: losses in its ring, starts that it missed, a
    processor that was never idle say nothing about the server.
    """
    if own_limits(document):
        return GENERATOR_BOUND
    exchanges, limits = document["exchanges"], document["config"]
    whole = not (document["interrupted"] or document["stopped"] or exchanges["failed"]
                 or exchanges["in_flight"] or document["clients"]["leases_lost"])
    whole = whole and not any(leg["lost"] for leg in document["legs"].values())
    short = limits["duration_s"] is None and exchanges["started"] < exchanges["planned"]
    done = exchanges["completed"] or any(leg.get("answered") for leg in document["legs"].values())
    return PASS if whole and done and not short else INCOMPLETE


def read_json(path: Path) -> Document:
    """Read a document; raises SystemRefused or Malformed, naming the file and the line."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise Malformed("json", f"{path}: not a result document: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise Malformed("schema", f"{path}: not a result document ({SCHEMA})")
    return document
