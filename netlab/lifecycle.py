"""Set up, take down, collect what the dead left: the rules of a lab's life.

Whoever calls `ensure_up` or `remove` holds the lab's lock (`state.locked`). Removal goes by
stamps, not by a plan, so it needs no topology and is the same after a crash as after a test.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from fastpath.errors import SystemRefused, UserError
from netlab import apply, attach, namespaces, plan, processes, progress, state
from netlab.namespaces import Entry
from netlab.plan import Plan
from netlab.processes import Resident
from netlab.signals import held
from netlab.state import Journal, Phase, Unreadable

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Removed:
    """What `remove` did. guests: processes of others that still live in a namespace of ours.

    returned: a line for each interface that went back to the machine.
    """

    namespaces: tuple[str, ...]
    programs: int
    guests: tuple[Resident, ...]
    journal: bool
    returned: tuple[str, ...] = ()

    @property
    def anything(self) -> bool:
        return bool(self.namespaces or self.programs or self.journal or self.returned)


def ensure_up(wanted: Plan, say: Say, temporary: bool = False) -> tuple[Journal, bool]:
    """The journal of the lab, and whether it had to be built.

    A lab that is up stays as it is; one that died half-way is removed and built again.
    temporary: what is built goes again after a test, unless it mends a lab that was up.
    Raises UserError when another topology is up or a name is taken, SystemRefused when the
    machine refuses; then nothing is left of the attempt.
    """
    lab = wanted.lab
    if (journal := _standing(lab, say)) is not None:
        if journal.topology != wanted.topology:
            raise UserError(f"lab {lab!r} is up with another topology: {journal.topology.name}",
                            f"lab teardown --name {lab}, or use another lab: --name")
        if not (wrong := apply.missing(wanted)):
            return journal, False
        say(f"{lab}: not whole ({', '.join(wrong[:3])}): removed, to be built again")
        remove(lab)
        temporary = False
    if taken := namespaces.find(wanted.namespaces.values()):
        raise UserError(f"namespace {taken[0].name!r} exists and is not a lab's",
                        "use another lab: --name")
    return _build(wanted, temporary), True


def _standing(lab: str, say: Say) -> Journal | None:
    """The journal of a lab that is up; what any other left is removed, and said."""
    try:
        journal = state.read(lab)
    except Unreadable as error:
        say(f"{lab}: journal unreadable ({error}): removed by what is stamped")
        remove(lab)
        return None
    if journal is None:
        if remove(lab).namespaces:
            say(f"{lab}: found without a journal: removed")
        return None
    _refuse_living_owner(journal)
    if journal.stands_alone:
        return journal
    say(f"{lab}: left {journal.phase} by pid {journal.owner.pid}, which died: removed")
    remove(lab)
    return None


def _refuse_living_owner(journal: Journal) -> None:
    # We hold the lock, so this is somebody whose lock file was deleted.
    if not journal.stands_alone and journal.owner.alive:
        raise SystemRefused(f"lab {journal.lab!r} is busy: {journal.phase} by pid "
                            f"{journal.owner.pid}", "wait until that is done")


def _build(wanted: Plan, temporary: bool) -> Journal:
    with held():
        owner = processes.identify(os.getpid())
        journal = state.write(Journal(wanted.lab, wanted.topology, Phase.BUILDING, owner,
                                      temporary))
    try:
        with progress.shown() as show:
            apply.apply(wanted, show)
        return state.move(journal, Phase.UP)
    except BaseException:
        remove(wanted.lab)
        raise


def tear_down(lab: str) -> Removed:
    """`remove`, unless somebody is at work on it (SystemRefused)."""
    with contextlib.suppress(Unreadable):
        if (journal := state.read(lab)) is not None:
            _refuse_living_owner(journal)
    return remove(lab)


def remove(lab: str) -> Removed:
    """Everything of `lab`: programs, namespaces, logs, journal. Nothing that is not stamped.

    Signals wait until it is done. Safe to repeat, whatever an earlier attempt left.
    """
    with held():
        journal, was_known = None, True
        with contextlib.suppress(Unreadable):
            journal = state.read(lab)
            was_known = journal is not None
        if journal:
            # A full disk is no reason to leave everything where it is.
            with contextlib.suppress(SystemRefused):
                state.move(journal, Phase.REMOVING, journal.programs)
        ours = stamped_entries(lab)
        inodes = {entry.inode for entry in ours if entry.inode is not None}
        residents = processes.living_in(inodes)
        mine = {started.process for started in (journal.programs if journal else ())
                if started.process.alive}
        # Children of our programs: they inherit the mark, even in a session of their own.
        mine |= {r.process for r in residents if _is_marked(r, lab)}
        processes.end(mine)
        # Before the namespaces go: what was lent to them would go with them.
        returned = tuple(attach.restore(lab))
        namespaces.let_go(ours)
        state.forget(lab)
        guests = tuple(r for r in residents if r.process not in mine)
        return Removed(tuple(entry.name for entry in ours), len(mine), guests, was_known,
                       returned)


def stamped_entries(lab: str | None = None) -> list[Entry]:
    """What stands in /run/netns with our stamp: of one lab, or of all."""
    prefix = plan.namespace(lab, "") if lab else ""
    found = []
    for entry in namespaces.entries(prefix):
        owner = state.stamped(entry.stamp)
        if owner and lab in (None, owner[0]):
            found.append(entry)
    return found


def all_labs() -> list[str]:
    """Every lab that there is a trace of, in the state directory or in /run/netns."""
    owners = (state.stamped(entry.stamp) for entry in stamped_entries())
    return sorted({owner[0] for owner in owners if owner} | set(state.known()) | attach.labs())


def left_behind(lab: str) -> bool:
    """Whether `gc` may have it: its owner died at work, or its journal is no more."""
    try:
        journal = state.read(lab)
    except Unreadable:
        return True
    return journal is None or journal.left_behind


def take_filters(lab: str) -> int:
    """Take off the counters that dead processes left on a lab that stands; how many filters.

    Those of the living stay, and so does what others put there. SystemRefused.
    """
    # Here: most labs have none, and who has no lab needs neither.
    from ebpf.probe import take_all

    names = [entry.name for entry in stamped_entries(lab) if entry.inode is not None]
    try:
        return take_all(names, abandoned=True)
    except OSError as error:
        raise SystemRefused(f"cannot take the counters off lab {lab!r}: {error.strerror}",
                            f"lab teardown --name {lab} removes all of it") from error


def _is_marked(resident: Resident, lab: str) -> bool:
    owner = state.stamped(processes.environment(resident.process.pid).get(state.NODE_ENV, ""))
    return owner is not None and owner[0] == lab
