"""Lend an interface of the machine to a node, and give it back whatever happens.

What it was is on disk before anything is changed, and the interface itself carries whose it
is now, as its alias: `gc` and `teardown` find it by either. Its own alias comes back last, so
that an interface half given back is still known as one. Whoever calls holds the lab's lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import time
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

from fastpath.errors import SystemRefused
from netlab import device, lent, namespaces, plan, state
from netlab.device import Before, Device
from netlab.enter import open_namespace
from netlab.lent import Attachment
from netlab.messages import Message, new_address
from netlab.netlink import Rtnl
from netlab.processes import identify
from netlab.signals import held
from netlab.state import Journal
from netlab.wish import Wish, check

T = TypeVar("T")

# A name for an interface whose own is taken both by us and by another.
_ANY_NAME = "lab%d"


def attached(lab: str) -> tuple[Attachment, ...]:
    """What is lent to nodes of `lab`; SystemRefused when the record of it cannot be read."""
    records, sound = lent.read(lab)
    if not sound:
        raise SystemRefused(f"{lab}: the record of attached interfaces cannot be read",
                            f"lab teardown --name {lab} gives them back")
    return records


def attach(journal: Journal, wish: Wish, *, lasting: bool = True) -> Attachment:
    """Have the interface in the node, up, with its address if one is wished for.

    Raises UserError or SystemRefused with all as it was.
    """
    lab = journal.lab
    try:
        there = _inside(journal.namespace(wish.node), _devices)
        with _home() as home:
            devices = _devices(home)
            routes = _ask(home, device.get_routes(), bytes)
            addresses = _ask(home, device.get_addresses(), bytes)
    except OSError as error:
        raise _refused(wish, error) from error
    found = check(wish, lab, attached(lab), devices, there, routes)
    made = Attachment(wish.node, wish.name, wish.mode, identify(os.getpid()), False,
                      device.before(found, addresses, routes))
    with held():
        lent.write(lab, (*attached(lab), made))
        try:
            _take(lab, wish, found, made)
            made = replace(made, lasting=lasting)
            lent.write(lab, (*lent.others(lab, made), made))
        except OSError as error:
            raise _refused(wish, error, _return(lab, made)) from error
        except BaseException:
            _return(lab, made)
            raise
    return made


def detach(journal: Journal, attachment: Attachment) -> list[str]:
    """Give it back; what of it could not be as it was, in words."""
    attached(journal.lab)
    with held():
        mine = replace(attachment, lasting=False, holder=identify(os.getpid()))
        lent.write(journal.lab, (*lent.others(journal.lab, attachment), mine))
        return _return(journal.lab, mine)


@contextmanager
def attached_for(journal: Journal, wish: Wish, say: Callable[[str], None]) -> Iterator[Attachment]:
    """An interface for the length of a block. After a kill -9 in it `lab gc` gives it back."""
    made = attach(journal, wish, lasting=False)
    try:
        yield made
    finally:
        for wrong in detach(journal, made):
            say(wrong)


def restore(lab: str) -> list[str]:
    """Give back all that `lab` has of the machine's; what could not be as it was, in words.

    To be called before its namespaces are let go. By the record; where that or the journal
    is damaged or lost, by what carries the lab's mark.
    """
    with held():
        records, sound = lent.read(lab)
        wrong = [line for each in records for line in _return(lab, each)]
        known = {each.before.ifname for each in records}
        with _home() as home:
            strays = [("", each) for each in _devices(home)]
        if not sound or not _has_journal(lab):
            strays += _within(lab)
        for node, each in strays:
            if (name := _mark(each.state.alias, lab)) is not None and name not in known:
                wrong.append(f"{name}: the record is lost; it comes back without its addresses "
                             "and routes")
                wrong += _attempt(lab, _from_mark(each, node))[0]
        if not sound:
            lent.forget(lab)
        return wrong


def collect(lab: str) -> list[str]:
    """Give back what a command that died had of the machine's, of a lab that is up.

    Says what it did, one line an interface.
    """
    with held():
        records, sound = lent.read(lab)
        if not sound:
            return [f"{lab}: the record of attached interfaces cannot be read"]
        if not records:
            lent.forget(lab)
        said = []
        for each in records:
            if each.left_behind:
                said.append(f"{lab}: {each.before.ifname} given back by {each.node}")
                said += _return(lab, each)
        return said


def labs() -> set[str]:
    """The labs whose mark an interface of the machine carries."""
    with _home() as home:
        marks = (each.state.alias.split(" ")[0] for each in _devices(home))
        return {owner[0] for owner in map(state.stamped, marks) if owner}


def await_carrier(journal: Journal, attachment: Attachment, timeout_s: float) -> bool:
    """Whether the interface carries frames; waits for that, as cards take seconds."""

    def wait(rtnl: Rtnl) -> bool:
        deadline = time.monotonic() + timeout_s
        rtnl.watch()
        while True:
            if any(link.ifname == attachment.ifname and (link.carries or (
                    link.up and link.operstate == "UNKNOWN")) for link in rtnl.links()):
                return True
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return False
            select.select([rtnl], [], [], left_s)
            rtnl.drain()

    return _inside(journal.namespace(attachment.node), wait)


def _take(lab: str, wish: Wish, found: Device, made: Attachment) -> None:
    """Bring the interface into the node; OSError with what the kernel said."""
    index = found.state.index
    mark = (f"{state.stamp(lab, wish.node)} {wish.mode} {found.state.mtu} "
            f"{'up' if found.state.up else 'down'} {wish.ifname}")
    macvlan = wish.mode == "macvlan"
    space = open_namespace(plan.namespace(lab, wish.node))
    try:
        with _home() as home:
            if macvlan:
                home.change(device.new_macvlan(_born(made), index, space))
            else:
                home.change(device.set_alias(index, mark))
                home.change(device.move(index, space, wish.name))
    finally:
        os.close(space)

    def finish(rtnl: Rtnl) -> None:
        here = next((each for each in _devices(rtnl) if (
            each.state.ifname == _born(made) if macvlan else each.state.alias == mark)), None)
        if here is None:
            raise OSError(errno.ENODEV, "it went away")
        if macvlan:
            rtnl.change(device.set_alias(here.state.index, mark))
        rtnl.change(device.settle(here.state.index, wish.name, up=True))
        if wish.address:
            rtnl.change(new_address(here.state.index, wish.address))

    _inside(plan.namespace(lab, wish.node), finish)


def _born(attachment: Attachment) -> str:
    """What a macvlan is called until it has its own name, which may be the card's. Whoever finds
    the record of one that was killed then knows it by this."""
    return f"labmac{attachment.holder.pid}"


def _refused(wish: Wish, error: OSError, wrong: Sequence[str] = ()) -> SystemRefused:
    """wrong: what of the machine's could not be as it was, which is the user's to mend first."""
    reason = (error.strerror or str(error)).lower()
    remedy = ""
    if error.errno == errno.EINVAL and wish.mode == "move":
        # netif_is_netns_local: bridges, bonds, most wireless cards.
        reason, remedy = "it is bound to its network namespace", "try --mode macvlan"
    elif error.errno == errno.EOPNOTSUPP and wish.mode == "macvlan":
        remedy = "the kernel needs: modprobe macvlan"
    elif error.errno in (errno.EPERM, errno.EACCES):
        remedy = "run with sudo"
    return SystemRefused(f"cannot attach {wish.ifname} to {wish.node}: {reason}",
                         "; ".join(filter(None, (*wrong, remedy))))


def _return(lab: str, attachment: Attachment) -> list[str]:
    """Give one back, and strike it from the record unless that failed."""
    wrong, done = _attempt(lab, attachment)
    if done:
        lent.write(lab, lent.others(lab, attachment))
    return wrong


def _attempt(lab: str, attachment: Attachment) -> tuple[list[str], bool]:
    """What could not be as it was, in words, and whether it is given back at all."""
    try:
        return _give_back(lab, attachment), True
    except OSError as error:
        return [f"{attachment.before.ifname} could not be given back: "
                f"{(error.strerror or str(error)).lower()}"], False


def _give_back(lab: str, attachment: Attachment) -> list[str]:
    was = attachment.before
    if attachment.mode == "macvlan":
        # One that is not there has gone with its namespace.
        with contextlib.suppress(OSError):
            _inside(plan.namespace(lab, attachment.node),
                    lambda rtnl: _delete(rtnl, {attachment.ifname, _born(attachment)}))
        return []
    with contextlib.suppress(FileNotFoundError):
        _send_home(lab, attachment)
    with _home() as home:
        devices = _devices(home)
        for each in devices:
            if _mark(each.state.alias, lab) == was.ifname:
                return _settle(home, each, was)
    # Without a mark: nothing was changed yet, or all is as it was.
    if any(each.state.ifname == was.ifname for each in devices):
        return []
    return [f"{was.ifname}: no such interface any more"]


def _send_home(lab: str, attachment: Attachment) -> None:
    """Move it out of its node if it is there; FileNotFoundError when there is no such node."""
    was = attachment.before
    machine = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def send(rtnl: Rtnl) -> None:
        for each in _devices(rtnl):
            if _mark(each.state.alias, lab) == was.ifname:
                try:
                    rtnl.change(device.move(each.state.index, machine, was.ifname))
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        raise
                    rtnl.change(device.move(each.state.index, machine, _ANY_NAME))

    try:
        _inside(plan.namespace(lab, attachment.node), send)
    finally:
        os.close(machine)


def _settle(home: Rtnl, here: Device, was: Before) -> list[str]:
    """Name, MTU, MAC, addresses, routes, and at last its own alias."""
    index, wrong = here.state.index, []
    name = was.ifname if was.ifname != here.state.ifname else ""
    if name and any(d.state.ifname == name for d in _devices(home)):
        name = ""
        wrong.append(f"{was.ifname}: another interface has this name now; it is "
                     f"{here.state.ifname}")
    mac = was.mac if was.mac != here.state.mac else ""
    if here.state.up and (name or mac or not was.up):
        home.change(device.bring_down(index))
    home.change(device.settle(index, name, up=was.up, mtu=was.mtu, mac=mac))
    wrong += device.give_back(home, index, was)
    home.change(device.set_alias(index, was.alias))
    return wrong


def _delete(rtnl: Rtnl, names: Container[str]) -> None:
    for each in _devices(rtnl):
        if each.state.ifname in names and each.state.kind == "macvlan":
            rtnl.change(device.delete(each.state.index))


def _mark(alias: str, lab: str) -> str | None:
    """The name that a moved interface with this alias had; None when it is not lent to `lab`."""
    words = alias.split(" ", 4)
    owner = state.stamped(words[0])
    ours = owner is not None and owner[0] == lab and len(words) == 5 and words[1] == "move"
    return words[4] if ours else None


def _from_mark(found: Device, node: str) -> Attachment:
    """What the mark alone says of an interface."""
    _, mode, mtu, up, ifname = found.state.alias.split(" ", 4)
    was = Before(ifname, found.state.index, found.state.mac,
                 int(mtu) if mtu.isdigit() else found.state.mtu, up == "up", "")
    return Attachment(node, found.state.ifname, mode, identify(os.getpid()), False, was)


def _within(lab: str) -> list[tuple[str, Device]]:
    """(node, interface) of every interface in a namespace of `lab`."""
    ours = [(owner[1], entry.name) for entry in namespaces.entries(plan.namespace(lab, ""))
            if (owner := state.stamped(entry.stamp)) and owner[0] == lab]
    found = namespaces.look_into((name for _, name in ours), _devices)
    return [(node, each) for (node, _), devices in zip(ours, found, strict=True)
            if not isinstance(devices, OSError) for each in devices]


def _devices(rtnl: Rtnl) -> list[Device]:
    return _ask(rtnl, device.get_devices(), device.read_device)


def _ask(rtnl: Rtnl, request: Message, read: Callable[[bytes], T]) -> list[T]:
    return rtnl._dump(request, read)


@contextmanager
def _home() -> Iterator[Rtnl]:
    """A socket in the network namespace that this process is in: the machine's."""
    rtnl = Rtnl()
    try:
        yield rtnl
    finally:
        rtnl.close()


def _inside(namespace: str, work: Callable[[Rtnl], T]) -> T:
    """`work` in one namespace; raises OSError when there is none, or what it raised."""
    (outcome,) = namespaces.look_into([namespace], work)
    if isinstance(outcome, OSError):
        raise outcome
    return outcome


def _has_journal(lab: str) -> bool:
    try:
        return state.read(lab) is not None
    except state.Unreadable:
        return False
