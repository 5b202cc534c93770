"""What befalls links, and the load, as a topology file says it.

The one thing to know: whether this machine can do it is not asked here, nor which options
dhcp-tester has.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from fastpath import values
from fastpath.document import AtLine, Node, shown
from netlab.topology import quantities
from netlab.topology.model import Impairment
from netlab.topology.problems import Problems, one
from netlab.topology.schema import DIRECTIONS, entries

# What `lab test` says to dhcp-tester itself.
_LABS_OWN = {"interface": "it is that of the client node: remove it",
             "server": "lab test --server NAME", "json": "lab test --json FILE",
             "clients-csv": "lab test --clients-csv FILE"}
MOST_DELAY_MS = 60_000.0
# A long option of dhcp-tester, without its two dashes.
OPTION = re.compile("[a-z][a-z0-9]*(-[a-z0-9]+)*")


def read_impairment(node: Node, problems: Problems) -> Impairment:
    """What befalls one link; what is wrong goes into `problems`, or is raised as an AtLine."""
    of = entries(node, "impairment")
    end = one(of["link"], "link").text
    name, _, ifname = end.partition(".")
    read, before = problems.value, len(problems.found)
    found = Impairment(
        name, ifname, read(of, "direction", values.choice(*DIRECTIONS), "both"),
        read(of, "loss", quantities.percent, 0.0), read(of, "duplicate", quantities.percent, 0.0),
        read(of, "reorder", quantities.percent, 0.0),
        read(of, "delay", quantities.milliseconds, 0.0),
        read(of, "jitter", quantities.milliseconds, 0.0),
        read(of, "rate", quantities.kbit_per_s, 0.0),
        read(of, "from", values.duration_s, 0.0), read(of, "until", values.duration_s, 0.0))
    if len(problems.found) == before:
        with problems.caught():
            _check_impairment(found, end, of, node.line)
    return found


def _check_impairment(found: Impairment, end: str, of: Mapping[str, Node], line: int) -> None:
    """Raise AtLine unless an impairment can be meant."""
    amounts = (found.loss_percent, found.duplicate_percent, found.reorder_percent,
               found.delay_ms, found.jitter_ms, found.rate_kbit_per_s)
    for wrong, key, what, remedy in (
            (not any(amounts), "link", "does nothing",
             "add loss, delay, jitter, rate, duplicate or reorder"),
            (found.jitter_ms > found.delay_ms, "jitter", "has more jitter than delay",
             "no frame arrives before it was sent: give a longer delay"),
            (found.delay_ms + found.jitter_ms > MOST_DELAY_MS, "delay",
             "delays by more than a minute", "give a shorter delay"),
            (found.reorder_percent and not found.delay_ms, "reorder", "reorders without a delay",
             "the frames that overtake are those that are not delayed: add delay: ..."),
            (0 < found.rate_kbit_per_s < 1, "rate", "has a rate of less than 1kbit",
             "give a higher rate"),
            (0 < found.until_s <= found.from_s, "until", "ends before it starts",
             "until is later than from")):
        if wrong:
            raise AtLine(of[key].line if key in of else line, f"impairment of {end} {what}",
                         remedy)


def read_load(node: Node) -> tuple[str, ...]:
    """Words for dhcp-tester, which says itself which options it has. Raises AtLine."""
    if node.empty:
        return ()
    if node.items is not None:
        for each in node.items:
            _not_ours(one(each, "load").text.lstrip("-").partition("=")[0], each.line)
        return tuple(each.text for each in node.items)
    if node.entries is None:
        raise AtLine(node.line, "load is not a mapping of dhcp-tester's options",
                     "for example load: {clients: 1000}")
    words = []
    for key, child in node.entries.items():
        line, option = node.key_lines[key], key.replace("_", "-")
        if not OPTION.fullmatch(option):
            raise AtLine(line, f"load: {shown(option)} is no option", "see: dhcp-tester --help")
        _not_ours(option, line)
        if child.empty or child.entries is not None or child.items == []:
            raise AtLine(line, f"load: {option} has no value",
                         "a switch is true or false, anything else a value or a list")
        for each in child.each():
            value = one(each, option)
            words.append(f"--{option}={value.text}" if value.value is not True
                         else f"--{option}")
    return tuple(words)


def _not_ours(option: str, line: int) -> None:
    """Raise AtLine for what `lab test` says to dhcp-tester itself."""
    if option in _LABS_OWN:
        raise AtLine(line, f"load: {option} is for the lab to say", _LABS_OWN[option])
