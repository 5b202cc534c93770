"""Whose is what: the journal of each lab, the lock on it, and the stamp on all that it makes.

The journal is written before anything is made, so a lab that died half-way is known by its
phase and a dead owner. The stamp is on the things themselves, so what a lost or damaged
journal spoke of is found all the same. All of it lives in one directory (/run/dhcp-netlab,
or $DHCP_NETLAB_STATE) that a reboot empties; a journal of another boot is no journal.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from netlab import topology as topologies
from netlab.checkpoint import checkpoint
from netlab.plan import LAB_NAME, namespace
from netlab.processes import Process, identify
from netlab.topology import Topology

STATE_ENV = "DHCP_NETLAB_STATE"
# In the environment of every program the lab starts: the stamp, which its children inherit.
NODE_ENV = "DHCP_NETLAB_NODE"
DEFAULT_ROOT = Path("/run/dhcp-netlab")
# In a directory that $DHCP_NETLAB_STATE names: we may remove what is in it. Stays there.
_CLAIM = ".dhcp-netlab"
SCHEMA = "dhcp-netlab/lab/1"
_STAMP = "dhcp-netlab"


class Phase(StrEnum):
    """What a lab is in the middle of; `up` is the only one to last."""

    BUILDING = "building"
    UP = "up"
    TESTING = "testing"
    REMOVING = "removing"


class Unreadable(Exception):
    """A journal that is damaged: what it said is lost, what it spoke of is still stamped."""


@dataclass(frozen=True, slots=True)
class Started:
    """A program that the lab started inside a node."""

    node: str
    program: str
    process: Process


@dataclass(frozen=True, slots=True)
class Journal:
    """What one lab is, and how far it has come. owner: who works on it, or did last.

    temporary: made by `lab test` for itself, to be removed at its end. described: the topology as
    the file has it, once it was written or read: with thousands of nodes that takes a while.
    """

    lab: str
    topology: Topology
    phase: Phase
    owner: Process
    temporary: bool = False
    programs: tuple[Started, ...] = field(default=())
    described: dict[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def stands_alone(self) -> bool:
        """Whether it is up for its own sake, and needs nobody to be at work on it."""
        return self.phase is Phase.UP and not self.temporary

    @property
    def left_behind(self) -> bool:
        """Whether its owner died in the middle of something."""
        return not self.stands_alone and not self.owner.alive

    def namespace(self, node: str) -> str:
        """The namespace of a node of this lab."""
        return namespace(self.lab, node)


def root() -> Path:
    """Where journals, locks, logs and sockets are."""
    return Path(os.environ.get(STATE_ENV) or DEFAULT_ROOT).absolute()


def directory(lab: str) -> Path:
    """Where the logs and sockets of a lab are; it need not be there."""
    return root() / lab


def stamp(lab: str, node: str) -> str:
    """What marks a thing as made for `node` of `lab` (an interface alias, at most 256 octets).

    A state directory of one's own is a world of one's own: its stamp says so.
    """
    place = root()
    suffix = "" if place == DEFAULT_ROOT else ":" + hashlib.sha256(bytes(place)).hexdigest()[:8]
    return f"{_STAMP}:{lab}:{node}{suffix}"


def stamped(text: str) -> tuple[str, str] | None:
    """The (lab, node) that a stamp of ours speaks of; None for anybody else's."""
    parts = text.split(":")
    if len(parts) < 3 or text != stamp(parts[1], parts[2]):
        return None
    return parts[1], parts[2]


@cache
def boot_id() -> str:
    """Names this boot of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def read(lab: str) -> Journal | None:
    """The journal of `lab`; None when there is none of this boot. Raises Unreadable."""
    if not _claimed(root()):
        return None
    try:
        text = _journal(lab).read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{_journal(lab)}: {error}") from error
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA:
            raise ValueError(f"schema {document['schema']!r}")
        if document["boot_id"] != boot_id():
            return None
        return Journal(
            lab=lab,
            topology=topologies.from_json(document["topology"]),
            phase=Phase(document["phase"]),
            owner=Process(**document["owner"]),
            temporary=document["temporary"],
            programs=tuple(Started(p["node"], p["program"], Process(p["pid"], p["started"]))
                           for p in document["programs"]),
            described=document["topology"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Unreadable(f"{_journal(lab)}: {error}") from error


def write(journal: Journal) -> Journal:
    """Put the journal in its place, whole or not at all; returns it.

    Raises SystemRefused when the directory cannot be written.
    """
    described = journal.described or topologies.to_json(journal.topology)
    document: dict[str, Any] = {
        "schema": SCHEMA, "lab": journal.lab, "boot_id": boot_id(), "phase": journal.phase,
        "owner": {"pid": journal.owner.pid, "started": journal.owner.started},
        "temporary": journal.temporary,
        "programs": [{"node": p.node, "program": p.program, "pid": p.process.pid,
                      "started": p.process.started} for p in journal.programs],
        "topology": described,
    }
    path, draft = _journal(journal.lab), _draft(journal.lab)
    # Not `fastpath.files`: the draft has a name of its lab's, so that a kill here leaves nothing
    # that `forget` would not know. And nothing waits for the disk: the kernel keeps the file
    # whatever becomes of us, and when the kernel ends so do the lab and what this says of it.
    try:
        checkpoint()
        draft.write_text(json.dumps(document))
        checkpoint()
        draft.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise SystemRefused(f"cannot write {path}: {(error.strerror or '').lower()}",
                            "") from error
    return replace(journal, described=described)


def move(journal: Journal, phase: Phase, programs: tuple[Started, ...] = ()) -> Journal:
    """Write that the lab entered `phase`, with us as its owner and these programs running."""
    return write(replace(journal, phase=phase, owner=identify(os.getpid()), programs=programs))


def forget(lab: str) -> None:
    """Remove what is kept of a lab, its journal last: until then it counts as not removed."""
    checkpoint()
    if directory(lab).is_dir():
        shutil.rmtree(directory(lab))
    _draft(lab).unlink(missing_ok=True)
    checkpoint()
    _journal(lab).unlink(missing_ok=True)


def known() -> list[str]:
    """Every lab that left a journal, a draft of one, a lock or a directory."""
    if not _claimed(root()):
        return []
    names = {path.name.partition(".")[0] for path in root().iterdir()}
    return sorted(name for name in names if LAB_NAME.fullmatch(name))


@contextmanager
def locked(lab: str, command: str) -> Iterator[None]:
    """Hold `lab` for this process; `command` is what others are told it is doing.

    The lock ends with the process, however that ends. Raises SystemRefused when somebody
    else has it, or when the directory cannot be made.
    """
    path = root() / f"{lab}.lock"
    lock = _take(path)
    if lock is None:
        holder = path.read_text().strip() if path.exists() else ""
        raise SystemRefused(f"lab {lab!r} is busy: {holder or 'another command'}",
                            "wait until that is done, or use another lab: --name")
    try:
        # Only for others to read; on a full disk they have to do without.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.write(lock, f"{command} (pid {os.getpid()})\n".encode())
        yield
    finally:
        if not _journal(lab).exists():
            # Only while we have it: whoever waits for this file will see it is another.
            checkpoint()
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                root().rmdir()
        os.close(lock)


def _take(path: Path) -> int | None:
    """A descriptor that holds the lock file; None when somebody else does."""
    while True:
        try:
            _claim(path.parent)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            continue  # a lab that ended took the empty directory with it
        except OSError as error:
            raise SystemRefused(f"cannot write {path}: {error.strerror}",
                                "run with sudo" if os.geteuid() else "") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == path.stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        os.close(lock)


def _claimed(place: Path) -> bool:
    return place.is_dir() and (place == DEFAULT_ROOT or (place / _CLAIM).exists())


def _claim(place: Path) -> None:
    """Make the state directory; SystemRefused when it holds what is not ours to remove."""
    place.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not _claimed(place):
        if any(place.iterdir()) and not _claimed(place):
            raise SystemRefused(f"{place} holds other things than labs",
                                f"set {STATE_ENV} to a new directory")
        (place / _CLAIM).touch()


def _journal(lab: str) -> Path:
    return root() / f"{lab}.json"


def _draft(lab: str) -> Path:
    return root() / f"{lab}.json.new"
