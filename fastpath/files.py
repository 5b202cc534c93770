"""Files that a run leaves behind: checked before it begins, and written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused

_SCRATCH = ".dhcp-netlab-"


def _is_special(path: Path) -> bool:
    """A pipe, a terminal, /dev/null: written into, never replaced."""
    return path.exists() and not path.is_file()


def check_writable(path: Path) -> None:
    """Raise SystemRefused now, rather than after an hour's run, where `path` cannot be written.

    Tries it with a file of another name beside it; directories that are missing are made by
    `write_json`, so then it tries where those would be made.
    """
    try:
        if path.is_dir():
            raise SystemRefused(f"cannot write {path}: it is a directory")
        if _is_special(path):
            return
        place = next(p for p in path.absolute().parents if p.exists())
        handle, name = tempfile.mkstemp(dir=place, prefix=_SCRATCH)
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path`, making its directory; raises SystemRefused.

    A reader never sees half a document, also when the disk is full or we are killed. A link
    stays a link: what it leads to is written.
    """
    text = json.dumps(document, indent=1) + "\n"
    try:
        if _is_special(path):
            path.write_text(text)
            return
        target = path.resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        _replace(target, text)
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None


def _replace(target: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=_SCRATCH)
    try:
        with os.fdopen(handle, "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
