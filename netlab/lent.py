"""The record of what a lab has of the machine's interfaces: on disk before anything is changed.

It lies beside the journal, not in the lab's directory, which goes before the journal does.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from netlab import state
from netlab.checkpoint import checkpoint
from netlab.device import Before
from netlab.processes import Process

SCHEMA = "dhcp-netlab/attached/1"


@dataclass(frozen=True, slots=True)
class Attachment:
    """Interface `ifname` of `node`, which is `before.ifname` of the machine, or a macvlan of it.

    lasting: until `detach` or the end of the lab; otherwise for as long as `holder` lives.
    """

    node: str
    ifname: str
    mode: str
    holder: Process
    lasting: bool
    before: Before

    @property
    def left_behind(self) -> bool:
        """Whether who was at work on it, or needed it, is dead."""
        return not self.lasting and not self.holder.alive


def others(lab: str, attachment: Attachment) -> tuple[Attachment, ...]:
    """What is lent to `lab` besides that one."""
    return tuple(each for each in read(lab)[0]
                 if (each.node, each.ifname) != (attachment.node, attachment.ifname))


def _record(lab: str) -> Path:
    # `state.known` goes by what stands before the dot.
    return state.root() / f"{lab}.attached"


def _draft(lab: str) -> Path:
    return state.root() / f"{lab}.attached-new"


def read(lab: str) -> tuple[tuple[Attachment, ...], bool]:
    """What the record says, and whether it can be believed."""
    try:
        document = json.loads(_record(lab).read_text())
        if document["schema"] != SCHEMA:
            raise ValueError(document["schema"])
        if document["boot_id"] != state.boot_id():
            return (), True
        return tuple(map(_attachment, document["attached"])), True
    except FileNotFoundError:
        return (), True
    except (OSError, ValueError, KeyError, TypeError):
        return (), False


def _attachment(document: dict[str, Any]) -> Attachment:
    was = document["before"]
    return Attachment(**{**document, "holder": Process(**document["holder"]), "before": Before(
        **{**was, "addresses": tuple(was["addresses"]), "routes": tuple(was["routes"])})})


def write(lab: str, lent: tuple[Attachment, ...]) -> None:
    """Put the record on disk, whole or not at all; take it away when nothing is lent."""
    if not lent:
        forget(lab)
        return
    document = {"schema": SCHEMA, "boot_id": state.boot_id(),
                "attached": [asdict(each) for each in lent]}
    try:
        checkpoint()
        with _draft(lab).open("w") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        checkpoint()
        _draft(lab).replace(_record(lab))
    except OSError as error:
        raise SystemRefused(f"cannot write {_record(lab)}: {error.strerror}", "") from error


def forget(lab: str) -> None:
    """Nothing is lent to `lab`."""
    checkpoint()
    _draft(lab).unlink(missing_ok=True)
    _record(lab).unlink(missing_ok=True)
