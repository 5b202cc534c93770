"""`lab attach`, `lab detach`: a real interface in a node, and back."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

import click

from fastpath.cli import Command
from fastpath.errors import SystemRefused, UserError
from netlab import plan
from netlab.commands.common import check_node, journal_of, name_option, need_privilege, say

if TYPE_CHECKING:
    from netlab.lent import Attachment
    from netlab.state import Journal

_CARRIER_TIMEOUT_S = 5.0


@click.command(cls=Command)
@click.argument("node")
@click.argument("iface")
@name_option
@click.option("--as", "rename", default="", metavar="IFNAME",
              help="Its name in the node [default: its own].")
@click.option("--mode", type=click.Choice(["move", "macvlan"]), default="move", show_default=True,
              help="The interface itself, or a second one on its wire.")
@click.option("--address", metavar="CIDR", help="Give it this address: 192.0.2.7/24.")
@click.option("--force", is_flag=True, help="Even if a default route leads over it.")
def attach(node: str, iface: str, name: str, rename: str, mode: str, address: str | None,
           force: bool) -> None:
    """Move interface IFACE of this machine into NODE, until `lab detach` or the lab's end."""
    from netlab import attach as lending
    from netlab import signals, state
    from netlab.wish import Wish

    wish = Wish(node, iface, rename, mode, _address(address), force)
    need_privilege()
    with signals.handled(signals.leave), state.locked(name, "lab attach"):
        journal = _standing(name, node)
        made = lending.attach(journal, wish)
        which = "" if name == plan.DEFAULT_LAB else f" --name {name}"
        click.echo(f"{name}: {iface} is {made.ifname} of {node}; it comes back with: "
                   f"lab detach {node} {made.ifname}{which}")
        if not lending.await_carrier(journal, made, _CARRIER_TIMEOUT_S):
            say(f"{name}: {made.ifname} of {node} has no carrier: is the cable in?")


@click.command(cls=Command)
@click.argument("node")
@click.argument("iface", required=False)
@name_option
def detach(node: str, iface: str | None, name: str) -> None:
    """Give back what `lab attach` moved into NODE."""
    need_privilege()
    from netlab import attach as lending
    from netlab import state

    with state.locked(name, "lab detach"):
        journal = _standing(name, node)
        chosen = _choose([each for each in lending.attached(name) if each.node == node], node,
                         iface)
        for wrong in lending.detach(journal, chosen):
            say(f"{name}: {wrong}")
    click.echo(f"{name}: {chosen.before.ifname} is the machine's again")


def _standing(name: str, node: str) -> Journal:
    journal = journal_of(name)
    check_node(journal, node)
    if not journal.stands_alone:
        raise SystemRefused(f"{name}: {journal.phase} by pid {journal.owner.pid}",
                            "wait until that is done, or if it died: lab gc")
    return journal


def _choose(lent: list[Attachment], node: str, iface: str | None) -> Attachment:
    chosen = [each for each in lent if iface in (None, each.ifname)] or [
        each for each in lent if iface == each.before.ifname]
    if len(chosen) == 1:
        return chosen[0]
    names = ", ".join(each.ifname for each in lent)
    if not chosen:
        raise UserError(f"nothing called {iface} is attached to {node}" if iface
                        else f"nothing is attached to {node}",
                        f"there is: {names}" if names else "lab attach NODE IFACE")
    raise UserError(f"several interfaces are attached to {node}", f"name one of: {names}")


def _address(text: str | None) -> ipaddress.IPv4Interface | None:
    if text is None:
        return None
    try:
        found = ipaddress.IPv4Interface(text)
    except ValueError:
        raise UserError(f"--address: {text!r} is not an IPv4 address with a prefix",
                        "write 192.0.2.7/24") from None
    if "/" not in text:
        raise UserError(f"--address: {text!r} says nothing of its prefix",
                        "write 192.0.2.7/24")
    return found
