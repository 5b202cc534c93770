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


def verdict(document: Document) -> str:
    """The verdict that the numbers of a document give.

    The generator's own failings come first: losses in its ring, or starts that it missed,
    say nothing about the server.
    """
    clients = document["clients"]
    if (document["losses"]["rx_ring"]
            or document["missed_starts"] > MISSED_SHARE * clients["started"]):
        return GENERATOR_BOUND
    done = clients["bound"] == clients["started"] and not document["interrupted"]
    short = document["config"]["duration_s"] is None and clients["started"] < clients["planned"]
    return PASS if done and clients["bound"] and not short else INCOMPLETE


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
