"""The result document: made once from a finished test, and all that others may read of it.

`lab` reads these documents and must not drag compiled kernels in, so this module knows
plain numbers only; `collect` turns a test into them.
"""

from __future__ import annotations

import json
import os
import tempfile
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


def write_json(path: Path, document: Document) -> None:
    """Write the document whole or not at all; raises SystemRefused.

    A reader never sees half a document, also when the disk is full or we are killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w") as out:
                json.dump(document, out, indent=1)
                out.write("\n")
                out.flush()
                os.fsync(out.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None


def check_writable(path: Path) -> None:
    """Raise SystemRefused now rather than after the test, where `path` cannot be written."""
    place = path.parent if path.parent.exists() else next(
        p for p in path.absolute().parents if p.exists())
    if path.is_dir() or not place.is_dir() or not os.access(place, os.W_OK):
        raise SystemRefused(f"cannot write {path}: "
                            + ("it is a directory" if path.is_dir() else "permission denied"))


def read_json(path: Path) -> Document:
    """Read a document; raises SystemRefused or Malformed, naming the file and the line."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise SystemRefused(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise Malformed("json", f"{path}: not a result document: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise Malformed("schema", f"{path}: not a result document ({SCHEMA})")
    return document
