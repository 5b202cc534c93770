"""From impairments to what carries them out on this machine. Pure data: print it, test it.

netem does all of it. Without netem a token bucket limits the rate, an XDP program loses frames,
and what is left our own relay and server can do to DHCP messages, where one of them stands at an
end of the link. What nothing can do is refused by name, never left out.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from fastpath.errors import SystemRefused, UserError
from netlab import plan
from netlab.qdisc import Discipline, Netem, Tbf
from netlab.topology import Link, Role, Topology
from netlab.topology.model import Impairment
from netlab.topology.quantities import plain
from netlab.topology.routing import Routing

End = tuple[str, str]

# A frame of full length: what a limit in frames is in octets.
_FRAME_BYTES = 1514
# A short DHCP message on the wire: at a given rate no more frames than these are under way.
_LEAST_FRAME_BYTES = 300
# A queue before a slow link, as long as Linux gives an Ethernet device by default.
_QUEUE_FRAMES = 1000
# On a link without a rate only the delay fills the queue, and it must lose nothing.
_UNDER_WAY_FRAMES = 100_000
_MOST_DELAY_MS = 60_000.0
_REQUESTS, _REPLIES = "discover+request+decline+release+inform", "offer+ack+nak"
# What can be faulted by our own programs.
_OURS = ("dhcp-server", "dhcp-relay")
# Field of an Impairment -> what is done to frames, the kind of fault that does it to messages.
_BY_FAULT = {"loss_percent": ("lose", "drop"), "duplicate_percent": ("double", "duplicate"),
             "reorder_percent": ("reorder", "reorder"), "delay_ms": ("delay", "delay")}
NO_NETEM = "this kernel has no netem (CONFIG_NET_SCH_NETEM)"
_GET_NETEM = "see `lab doctor` for a kernel that has it"
_OR_OURS = "; in a topology file dhcp-relay or dhcp-server at an end of the link can do it"


@dataclass(frozen=True, slots=True)
class Setting:
    """One direction of one link, for a time. `sender` and `receiver` are (node, ifname).

    discipline: of the sender's queue; None leaves it. loss_percent: of what arrives at the
    receiver, beyond what the discipline loses. until_s: 0 for ever.
    """

    sender: End
    receiver: End
    discipline: Discipline | None = None
    loss_percent: float = 0.0
    from_s: float = 0.0
    until_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What this machine cannot do to `end`. can: it could by a fault in a program of ours."""

    end: End
    doing: str
    missing: str
    by_fault: bool

    def error(self) -> SystemRefused:
        return SystemRefused(f"{shown(self.end)}: cannot {self.doing} frames: {self.missing}",
                             _GET_NETEM + (_OR_OURS if self.by_fault else ""))


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How the impairments of a topology are carried out.

    settings: by the kernel, while the test runs (`schedule`). faults: words for the command
    line of the program in a node, each after `--fault`. refused: what nothing here can do.
    """

    settings: tuple[Setting, ...] = ()
    faults: Mapping[str, tuple[str, ...]] | None = None
    refused: tuple[Refusal, ...] = ()

    def check(self) -> None:
        """Raise the first refusal (SystemRefused)."""
        if self.refused:
            raise self.refused[0].error()

    def faults_for(self, node: str) -> list[str]:
        """What to add to the command line of the program in `node`."""
        return [word for fault in (self.faults or {}).get(node, ()) for word in ("--fault", fault)]


def shown(end: End) -> str:
    """An interface of a node, as a user writes it."""
    return f"{end[0]}:{end[1]}"


def check(impairment: Impairment) -> None:
    """UserError unless the impairment can be meant."""
    where = shown((impairment.node, impairment.ifname))
    amounts = (impairment.loss_percent, impairment.duplicate_percent, impairment.reorder_percent,
               impairment.delay_ms, impairment.jitter_ms, impairment.rate_kbit_per_s)
    if not any(amounts):
        raise UserError(f"{where}: nothing to impair",
                        "give --loss, --delay, --rate, --duplicate or --reorder")
    if min(amounts) < 0 or max(amounts[:3]) > 100:
        raise UserError(f"{where}: an impairment is out of its range",
                        "shares go from 0% to 100%, nothing is negative")
    if impairment.jitter_ms > impairment.delay_ms:
        raise UserError(f"{where}: jitter of {plain(impairment.jitter_ms)} ms is more than the "
                        f"delay of {plain(impairment.delay_ms)} ms",
                        "no frame arrives before it was sent: give a longer --delay")
    if impairment.delay_ms + impairment.jitter_ms > _MOST_DELAY_MS:
        raise UserError(f"{where}: a delay of more than a minute", "give a shorter --delay")
    if impairment.reorder_percent and not impairment.delay_ms:
        raise UserError(f"{where}: reordering needs a delay",
                        "the frames that overtake are those that are not delayed: give --delay")
    if 0 < impairment.rate_kbit_per_s < 1:
        raise UserError(f"{where}: a rate of less than 1kbit", "give a higher --rate")
    if impairment.until_s and impairment.until_s <= impairment.from_s:
        raise UserError(f"{where}: it ends before it starts", "--until is later than --from")


def find_link(topology: Topology, end: End) -> Link:
    """The link that ends in that interface; UserError when none does."""
    for link in topology.links_of(end[0]):
        if link.end == end:
            return link
    raise UserError(f"{topology.name}: no link ends in {shown(end)}", "see: lab status")


def directions(impairment: Impairment) -> tuple[str, ...]:
    """Which of "out" and "in" it is about."""
    return ("out", "in") if impairment.direction == "both" else (impairment.direction,)


def arrange(topology: Topology, has: Container[str], programs: Mapping[str, str] | None = None,
            *, limit: int = 0, seed: int | None = None) -> Arrangement:
    """How this machine carries out the impairments of `topology`.

    has: which of "netem", "tbf" and "xdp" there is. programs: what will run in each node, by
    adapter's name; none where programs run already. limit: frames that may wait on a link, 0
    for as many as fit it. seed: of netem's dice. Raises UserError for impairments that cannot
    be meant, or that meet on one link at one time.
    """
    routing = Routing(topology)
    settings: list[Setting] = []
    ways: list[Setting] = []
    faults: dict[str, list[str]] = {}
    refused: list[Refusal] = []
    for impairment in topology.impairments:
        check(impairment)
        link = find_link(topology, (impairment.node, impairment.ifname))
        for direction in directions(impairment):
            bare = _bare(topology, link, direction, impairment)
            _check_alone(bare, ways)
            ways.append(bare)
            setting, rest = _by_kernel(bare, impairment, has, limit, seed)
            if setting != bare:
                settings.append(setting)
            for name in rest:
                _by_fault(routing, link, direction, impairment, name, programs or {}, faults,
                          refused)
    return Arrangement(tuple(settings), {node: tuple(words) for node, words in faults.items()},
                       tuple(refused))


def _bare(topology: Topology, link: Link, direction: str, impairment: Impairment) -> Setting:
    own, other = link.end, plan.peer(topology, link)
    sender, receiver = (own, other) if direction == "out" else (other, own)
    return Setting(sender, receiver, from_s=impairment.from_s, until_s=impairment.until_s)


def _by_kernel(bare: Setting, impairment: Impairment, has: Container[str], limit: int,
               seed: int | None) -> tuple[Setting, list[str]]:
    """What the kernel does, and the fields of the impairment that are left."""
    rate = round(impairment.rate_kbit_per_s * 1000 / 8)
    if "netem" in has:
        frames = limit or _frames(rate, impairment.delay_ms + impairment.jitter_ms)
        return replace(bare, discipline=Netem(
            frames, impairment.loss_percent, impairment.duplicate_percent,
            impairment.reorder_percent, impairment.delay_ms, impairment.jitter_ms, rate,
            seed)), []
    if seed is not None:
        raise SystemRefused(f"--seed: {NO_NETEM}", _GET_NETEM)
    if limit and not rate:
        raise UserError("--limit is of a queue, and without a rate there is none here",
                        "leave it out, or give --rate")
    left = [name for name in (*_BY_FAULT, "rate_kbit_per_s") if getattr(impairment, name)]
    setting = bare
    if rate and "tbf" in has:
        left.remove("rate_kbit_per_s")
        setting = replace(setting, discipline=Tbf(rate, _FRAME_BYTES * (limit or _QUEUE_FRAMES)))
    if impairment.loss_percent and "xdp" in has:
        left.remove("loss_percent")
        setting = replace(setting, loss_percent=impairment.loss_percent)
    return setting, left


def _frames(rate_bytes_per_s: int, delay_ms: float) -> int:
    """Room in netem's queue, where delayed frames wait too, for a link that loses none of them."""
    if not rate_bytes_per_s:
        return _UNDER_WAY_FRAMES
    under_way = rate_bytes_per_s * delay_ms / 1000 / _LEAST_FRAME_BYTES
    return _QUEUE_FRAMES + min(_UNDER_WAY_FRAMES, round(under_way))


def _check_alone(one: Setting, others: list[Setting]) -> None:
    """UserError where another is in force on the same way at the same time."""
    for other in others:
        if one.sender == other.sender and (
                one.from_s < (other.until_s or float("inf"))
                and other.from_s < (one.until_s or float("inf"))):
            raise UserError(f"what {shown(one.sender)} sends is impaired twice at one time",
                            "write one impairment with both, or let the first end (until)")


def _by_fault(routing: Routing, link: Link, direction: str, impairment: Impairment, name: str,
              programs: Mapping[str, str], faults: dict[str, list[str]],
              refused: list[Refusal]) -> None:
    """Add what is left to the faults of a program of ours, or to what is refused."""
    end = (impairment.node, impairment.ifname)
    if name == "rate_kbit_per_s":
        refused.append(Refusal(end, "slow down", f"{NO_NETEM} nor tbf (CONFIG_NET_SCH_TBF)",
                               by_fault=False))
        return
    doing, kind = _BY_FAULT[name]
    for node, messages in _hosts(routing, link, direction):
        if programs.get(node) in _OURS:
            faults.setdefault(node, []).append(_spelled(kind, messages, impairment, name))
            return
    refused.append(Refusal(end, doing, NO_NETEM, by_fault=True))


def _hosts(routing: Routing, link: Link, direction: str) -> list[tuple[str, str]]:
    """The nodes whose program sees just the DHCP messages of that link and direction, and which.

    The node at its end; and the one at the other end, where no third is on the segment.
    """
    on_it = routing.topology.links_on(link.segment)
    candidates = [(link, direction)]
    if len(on_it) == 2:
        other = on_it[0] if on_it[1] == link else on_it[1]
        candidates.append((other, "in" if direction == "out" else "out"))
    found = []
    for each, way in candidates:
        role = routing.topology.node(each.node).role
        if role.serves and len(routing.topology.links_of(each.node)) == 1:
            found.append((each.node, _REQUESTS if way == "in" else _REPLIES))
        elif role is Role.RELAY and each == routing.uplink(each.node):
            found.append((each.node, _REQUESTS if way == "out" else _REPLIES))
        elif role is Role.RELAY and routing.downlinks(each.node) == (each,):
            found.append((each.node, _REQUESTS if way == "in" else _REPLIES))
    return found


def _spelled(kind: str, messages: str, impairment: Impairment, name: str) -> str:
    """One argument of `--fault` (fastpath.faultspec)."""
    words = [kind, messages]
    times = []
    if kind == "delay":
        times += [f"delay={plain(impairment.delay_ms)}ms",
                  f"jitter={plain(impairment.jitter_ms)}ms"]
    else:
        words.append(f"{plain(getattr(impairment, name))}%")
    if impairment.from_s:
        times.append(f"from={plain(impairment.from_s)}s")
    if impairment.until_s:
        times.append(f"until={plain(impairment.until_s)}s")
    return ":".join((*words, *([",".join(times)] if times else [])))
