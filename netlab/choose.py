"""Which topology a user means: a built-in name with its options, or a YAML file.

One set of arguments for every command that takes a topology.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from fastpath.errors import UserError
from netlab import topology
from netlab.topology import RelayPolicy, Topology

OPTION82 = ("none", "append", "keep", "replace", "drop")
_RANGE = re.compile(r"(\d{1,3})(?:\.\.(\d{1,3}))?")


@dataclass(frozen=True, slots=True)
class Choice:
    """What was said of a topology on a command line. hops: several for a sweep."""

    wanted: str = "direct"
    hops: tuple[int, ...] = ()
    segments: int | None = None
    policy: RelayPolicy | None = None

    def one(self) -> Topology:
        """The topology; UserError where a sweep is asked for, or what fits nothing."""
        if len(self.hops) > 1:
            raise UserError(f"--hops {self.hops[0]}..{self.hops[-1]} is for `lab test` alone",
                            "name one number of hops")
        return self.each()[0]

    def each(self) -> list[Topology]:
        """One topology, or as many as hops are asked for."""
        if self.wanted not in topology.BUILT_IN:
            return [self._from_file()]
        if self.hops and self.wanted != "relay":
            raise UserError(f"--hops says nothing of topology {self.wanted}",
                            "lab test relay --hops N")
        if self.segments is not None and self.wanted != "star":
            raise UserError(f"--segments says nothing of topology {self.wanted}",
                            "lab test star --segments N")
        if self.wanted == "relay":
            return [topology.relay(hops, self.policy) for hops in self.hops or (1,)]
        if self.wanted == "star":
            return [topology.star(4 if self.segments is None else self.segments, self.policy)]
        if self.wanted == "redundant":
            return [topology.redundant(self.policy)]
        if self.policy:
            raise UserError(f"topology {self.wanted} has no relay for --max-hops and --option82",
                            "relay, star and redundant have")
        return [topology.BUILT_IN[self.wanted]()]

    def _from_file(self) -> Topology:
        if self.hops or self.segments is not None:
            raise UserError("--hops and --segments are for built-in topologies",
                            f"one of: {', '.join(topology.BUILT_IN)}")
        path = Path(self.wanted)
        if path.suffix not in (".yaml", ".yml") and not path.exists():
            raise UserError(f"no topology {self.wanted!r}",
                            f"there is: {', '.join(topology.BUILT_IN)}; or name a YAML file")
        from netlab.topology.file import load

        found = load(path)
        if not self.policy:
            return found
        # What the command line says of relays wins over what the file says.
        return replace(found, nodes=tuple(
            replace(node, policy=self._over(node.policy)) if node.role is topology.Role.RELAY
            else node for node in found.nodes))

    def _over(self, policy: RelayPolicy | None) -> RelayPolicy:
        assert self.policy is not None
        if policy is None:
            return self.policy
        return replace(policy, max_hops=self.policy.max_hops or policy.max_hops,
                       option82=self.policy.option82 or policy.option82,
                       circuit_id=self.policy.circuit_id or policy.circuit_id,
                       remote_id=self.policy.remote_id or policy.remote_id)


class Hops(click.ParamType[tuple[int, ...]]):
    """`3`, or `1..8`: every number from 1 to 8."""

    name = "N|A..B"

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        match = _RANGE.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is neither a number of hops nor a range like 1..8", param, ctx)
        first, last = int(match[1]), int(match[2] or match[1])
        if not 0 <= first <= last <= topology.MOST_HOPS:
            self.fail(f"{value!r} is not between 0 and {topology.MOST_HOPS}, smaller first",
                      param, ctx)
        return tuple(range(first, last + 1))


_ARGUMENT = click.argument("wanted", metavar="[TOPOLOGY]", default="direct")
_OPTION = click.option("--topology", "wanted", default="direct", show_default=True,
                       metavar="NAME|FILE", help="Where: a built-in topology or a YAML file.")


def topology_options(command: Callable[..., Any], name: Callable[..., Any] = _ARGUMENT,
                     ) -> Callable[..., Any]:
    """Give a click command the argument TOPOLOGY and its options, as one `choice`.

    name: what takes the topology's name, for a command whose arguments are other things.
    """

    @wraps(command)  # click keeps the options already given on the function itself
    def with_choice(*, wanted: str, hops: tuple[int, ...], segments: int | None,
                    max_hops: int | None, option82: str, circuit_id: str, remote_id: str,
                    **others: Any) -> Any:
        policy = RelayPolicy(max_hops, option82 or "", circuit_id or "", remote_id or "")
        return command(choice=Choice(wanted, hops or (), segments,
                                     policy if policy != RelayPolicy() else None), **others)

    for decorate in reversed((
        name,
        click.option("--hops", type=Hops(), help="Topology relay: relays in a row [default: 1]."),
        click.option("--segments", type=click.IntRange(1, topology.MOST_SEGMENTS), metavar="M",
                     help="Topology star: client segments, each with a relay [default: 4]."),
        click.option("--max-hops", type=click.IntRange(1, 16),
                     help="Hops after which relays discard a message [default: the relay's own]."),
        click.option("--option82", type=click.Choice(OPTION82),
                     help="What relays do about relay agent information [default: the relay's "
                     "own]."),
        click.option("--circuit-id", metavar="TEMPLATE", help="Relays' circuit-id: eth{ifname}."),
        click.option("--remote-id", metavar="TEMPLATE", help="Relays' remote-id."),
    )):
        with_choice = decorate(with_choice)
    return with_choice


def topology_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same with an option --topology."""
    return topology_options(command, _OPTION)
