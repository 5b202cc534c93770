"""Putting impairments on the links of a lab that stands, taking them off, reading what is there.

The kernel is the only memory: what `conditions` tells is what acts on frames now, whoever put
it there. A lab that is removed takes it all along.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastpath.elsewhere import side_by_side
from fastpath.errors import SystemRefused
from netlab import plan
from netlab.impairment import loss
from netlab.impairment.arrange import End, Setting, shown
from netlab.impairment.loss import Loss
from netlab.impairment.schedule import Change
from netlab.qdisc import Device, Queue
from netlab.topology import Link, Topology

if TYPE_CHECKING:
    from netlab.tc import Tc


@dataclass(frozen=True, slots=True)
class Condition:
    """One direction of a link as it is. queue: of the sender, None where it is the default one;
    loss: at the receiver."""

    queue: Queue | None
    loss: Loss | None

    @property
    def clear(self) -> bool:
        return self.queue is None and self.loss is None


@dataclass(frozen=True, slots=True)
class _At:
    """What acts at one interface: on what it sends, on what it receives."""

    queue: Queue | None
    loss: Loss | None


def put(lab: str, settings: Iterable[Setting]) -> None:
    """Bring the settings into force, each in place of what was there. SystemRefused."""
    for setting in settings:
        _at(lab, setting.sender, partial(_queue, setting=setting))
        _at(lab, setting.receiver, partial(loss.put, percent=setting.loss_percent))


def clear(lab: str, ways: Iterable[tuple[End, End]]) -> None:
    """Let frames pass again from each sender to its receiver. SystemRefused."""
    for sender, receiver in ways:
        put(lab, [Setting(sender, receiver)])


def carry_out(lab: str, changes: Iterable[Change]) -> None:
    """Carry out what `Schedule.due` returned. SystemRefused."""
    due = list(changes)
    begins = {change.setting.sender for change in due if change.on}
    # What is followed at once by another is replaced, so that no frame slips through between.
    for change in due:
        if change.on:
            put(lab, [change.setting])
        elif change.setting.sender not in begins:
            clear(lab, [(change.setting.sender, change.setting.receiver)])


def conditions(lab: str, topology: Topology,
               links: Sequence[Link]) -> dict[End, tuple[Condition, Condition]]:
    """What befalls frames that each link's interface sends and receives: {end: (out, in)}.

    SystemRefused where a node is not there, or may not be looked at.
    """
    pairs = [(link.end, plan.peer(topology, link)) for link in links]
    nodes = list(dict.fromkeys(end[0] for pair in pairs for end in pair))
    try:
        looks = side_by_side([(plan.namespace(lab, node), _look) for node in nodes])
    except OSError as error:
        raise _refused(lab, error) from error
    seen = dict(zip(nodes, looks, strict=True))

    def at(end: End) -> _At:
        if end[1] not in seen[end[0]]:
            raise SystemRefused(f"{shown(end)}: not there", f"lab status --name {lab}")
        return seen[end[0]][end[1]]

    return {own: (Condition(at(own).queue, at(peer).loss), Condition(at(peer).queue, at(own).loss))
            for own, peer in pairs}


def _look() -> dict[str, _At]:
    """What acts at each interface of the namespace that the calling thread is in."""
    from netlab.tc import Tc

    with Tc() as tc:
        queues = tc.queues()
        return {name: _At(_ours(queues.get(device.index)),
                          loss.read(device.xdp_program) if device.xdp_program else None)
                for name, device in tc.devices().items()}


def _ours(queue: Queue | None) -> Queue | None:
    """A queue that impairs; what devices have by default does not."""
    return queue if queue and queue.discipline else None


def _queue(tc: Tc, device: Device, setting: Setting) -> None:
    if setting.discipline:
        tc.replace(device.index, setting.discipline)
        _check_seed(tc, device, setting)
    elif _ours(tc.queues().get(device.index)):
        tc.remove(device.index)


def _check_seed(tc: Tc, device: Device, setting: Setting) -> None:
    """SystemRefused, and the queue off again, where netem took no notice of its seed.

    Attributes that a kernel does not know it leaves unread (sch_netem.c before 6.7).
    """
    seed = getattr(setting.discipline, "seed", None)
    queue = tc.queues().get(device.index)
    if seed is not None and getattr(queue and queue.discipline, "seed", None) != seed:
        tc.remove(device.index)
        raise SystemRefused(f"{shown(setting.sender)}: netem of this kernel has no seed",
                            "boot Linux 6.7 or later, or leave --seed out")


def _at(lab: str, end: End, work: Callable[[Tc, Device], None]) -> None:
    """Do `work` with the interface at hand; SystemRefused for what the kernel said."""
    from netlab.tc import Tc

    node, ifname = end

    def inside() -> None:
        with Tc() as tc:
            device = tc.devices().get(ifname)
            if device is None:
                raise SystemRefused(f"{shown(end)}: not there", f"lab status --name {lab}")
            work(tc, device)

    try:
        side_by_side([(plan.namespace(lab, node), inside)])
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise SystemRefused(f"{shown(end)}: another XDP program is there already",
                                "end the program that put it there") from error
        raise _refused(shown(end), error) from error


def _refused(where: str, error: OSError) -> SystemRefused:
    said = error.strerror or str(error)
    return SystemRefused(f"{where}: the kernel refused: {said[:1].lower()}{said[1:]}",
                         "see: lab doctor")
