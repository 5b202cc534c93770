"""What is to be attached where, and why not: told before anything is changed."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fastpath.errors import UserError
from netlab import device, state
from netlab.device import Device
from netlab.lent import Attachment

MODES = ("move", "macvlan")
MOST_NAME = 15  # linux/if.h: IFNAMSIZ, with its closing zero
_SYS = Path("/sys/class/net")


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be attached: interface `ifname` of the machine to `node`, called `rename` there.

    force: even if a default route of the machine leads over it.
    """

    node: str
    ifname: str
    rename: str = ""
    mode: str = MODES[0]
    address: ipaddress.IPv4Interface | None = None
    force: bool = False

    @property
    def name(self) -> str:
        return self.rename or self.ifname


def check(wish: Wish, lab: str, lent: Sequence[Attachment], devices: Sequence[Device],
          there: Sequence[Device], routes: Sequence[bytes]) -> Device:
    """The one of the machine's `devices` that is wished for; UserError when it cannot be had.

    lent: what the lab has already; there: the node's interfaces; routes: the machine's.
    """
    for each in lent:
        if wish.ifname == each.before.ifname and MODES[0] in (wish.mode, each.mode):
            raise UserError(f"{wish.ifname} is attached to {each.node} of {lab} already",
                            f"lab detach {each.node} --name {lab}")
    found = next((each for each in devices if each.state.ifname == wish.ifname), None)
    if found is None:
        names = ", ".join(sorted(each.state.ifname for each in devices if not each.loopback))
        raise UserError(f"no interface {wish.ifname!r} on this machine",
                        f"there is: {names or 'none'}")
    _check_free(wish, found, devices)
    _check_name(wish)
    if wish.name in (each.state.ifname for each in there):
        raise UserError(f"{wish.node} has an interface {wish.name!r} already",
                        "choose another name there: --as NAME")
    if wish.mode == "move" and device.carries_default(found, routes) and not wish.force:
        raise UserError(f"a default route of this machine leads over {wish.ifname}: without it you "
                        "may be cut off", "attach another, or --mode macvlan; or insist: --force")
    return found


def _check_name(wish: Wish) -> None:
    if (not 0 < len(os.fsencode(wish.name)) <= MOST_NAME or wish.name in (".", "..")
            or any(letter in "/:%" or letter.isspace() for letter in wish.name)):
        raise UserError(f"{wish.name!r} cannot be an interface's name",
                        f"at most {MOST_NAME} letters, digits and - _ .")


def _check_free(wish: Wish, found: Device, devices: Sequence[Device]) -> None:
    """Nothing that would break, or be destroyed, when the interface goes."""
    ifname, index = wish.ifname, found.state.index
    if found.loopback:
        raise UserError(f"{ifname} is the loopback interface", "attach a network card's")
    if state.stamped(found.state.alias.split(" ")[0]):
        raise UserError(f"{ifname} was attached by a lab that died", "lab gc")
    if found.master:
        name = next((d.state.ifname for d in devices if d.state.index == found.master), "another")
        raise UserError(f"{ifname} is in bridge or bond {name}",
                        f"take it out: ip link set {ifname} nomaster")
    if wish.mode == "macvlan":
        if not found.state.up:
            raise UserError(f"{ifname} is down: a macvlan of it would carry nothing",
                            f"ip link set {ifname} up")
        return
    above = [d.state.ifname for d in devices if index in (d.under, d.master)]
    if above:
        raise UserError(f"{ifname} carries {', '.join(above[:4])}: moving it would break that",
                        "remove that first, or use --mode macvlan")
    if (_SYS / ifname / "phy80211").exists():
        raise UserError(f"{ifname} is wireless and cannot be moved", "try --mode macvlan")
