"""Files that a run leaves behind: checked before it begins, and written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused


def check_writable(path: Path) -> None:
    """Raise SystemRefused now, rather than after an hour's run, where `path` cannot be written.

    Tries it with a file of another name; directories that are missing are made by `write`.
    """
    if path.is_dir():
        raise SystemRefused(f"cannot write {path}: it is a directory")
    place = next(p for p in path.absolute().parents if p.exists())
    try:
        handle, name = tempfile.mkstemp(dir=place, prefix=f".{path.name}.")
        os.close(handle)
        Path(name).unlink()
    except OSError as error:
        raise SystemRefused(f"cannot write {path}: {error.strerror}") from None


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write `document` to `path`, making its directory; raises SystemRefused.

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
