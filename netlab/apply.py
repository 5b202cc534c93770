"""Take the steps of a plan: from pure data to namespaces, bridges, links, addresses and routes.

Namespaces first. Then, node by node, the links: each is asked for in the namespace of one end
with the other end in its own, so neither ever stands in the namespace of the machine. Then,
again node by node, what is set on them. One datagram takes many steps, because a large lab has
thousands. Readiness is seen, never slept for.
"""

from __future__ import annotations

import errno
import ipaddress
import resource
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from fastpath.errors import SystemRefused
from netlab import messages, namespaces, state
from netlab.messages import LinkState, Message
from netlab.namespaces import Birth, Space
from netlab.netlink import MOST_CHANGES, Refused, Rtnl
from netlab.plan import (
    AddRoutes,
    AwaitCarrier,
    GiveAddress,
    JoinBridges,
    MakeBridge,
    MakeCable,
    MakeLink,
    MakeNamespace,
    Plan,
    Step,
)
from netlab.progress import Progress, silent
from netlab.signals import held
from netlab.topology.routing import Route

READY_TIMEOUT_S = 10.0
# Namespaces begun at once: Ctrl-C waits until they are done.
_BATCH = 64
# Beside two for each namespace: the directory of names, its lock, threads' own.
_OTHER_DESCRIPTORS = 64
# A kernel may make interfaces of its own in a new namespace: lo, tunl0, sit0.
_FIRST_INDEX = 100

# What a node is asked to do, each with the step it is part of.
Order = list[tuple[Step, Message]]


def apply(plan: Plan, progress: Progress = silent) -> None:
    """Take every step of `plan`; Ctrl-C and the like count between batches, never within one.

    Raises SystemRefused with the step that failed; what was made until then is left.
    """
    spaces: dict[str, Space] = {}
    births = [step for step in plan.steps if isinstance(step, MakeNamespace)]
    try:
        with _descriptors(2 * len(births) + _OTHER_DESCRIPTORS):
            for start in range(0, len(births), _BATCH):
                with held():
                    _make_namespaces(births[start:start + _BATCH], plan, spaces)
                progress(len(spaces), len(births), "nodes")
            orders = _Orders(plan, spaces)
            _carry_out(orders.links, spaces, progress, "links")
            _carry_out(orders.settings, spaces, progress, "settings")
            for step in plan.steps:
                if isinstance(step, AwaitCarrier):
                    try:
                        _await_carrier(step, spaces)
                    except OSError as error:
                        raise _refused(step, error) from error
    finally:
        for space in spaces.values():
            space.close()


@contextmanager
def _descriptors(more: int) -> Iterator[None]:
    """Room for so many more open files; programs that are started later get the old limit."""
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(list(Path("/proc/self/fd").iterdir())) + more
    if soft == resource.RLIM_INFINITY or needed <= soft:
        yield
        return
    try:
        # Beyond the hard limit with CAP_SYS_RESOURCE only.
        resource.setrlimit(resource.RLIMIT_NOFILE, (
            needed, hard if hard == resource.RLIM_INFINITY else max(hard, needed)))
    except (OSError, ValueError) as error:
        raise SystemRefused(f"a lab needs {needed:,} open files, two for each node, and only "
                            f"{hard:,} are allowed", f"ulimit -Hn {needed}") from error
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _make_namespaces(steps: Sequence[MakeNamespace], plan: Plan,
                     spaces: dict[str, Space]) -> None:
    births = [Birth(step.namespace, state.stamp(plan.lab, step.node), step.switches,
                    step.forwards) for step in steps]
    waiting = iter(steps)
    try:
        with closing(namespaces.create(births)) as made:
            for space in made:
                spaces[next(waiting).node] = space
    except OSError as error:
        raise _refused(next(waiting), error) from error


def _carry_out(orders: dict[str, Order], spaces: dict[str, Space], progress: Progress,
               what: str) -> None:
    done, total = 0, sum(map(len, orders.values()))
    for node, order in orders.items():
        for start in range(0, len(order), MOST_CHANGES):
            part = order[start:start + MOST_CHANGES]
            try:
                with held():
                    spaces[node].rtnl.change(*(message for _, message in part))
            except OSError as error:
                at = error.at if isinstance(error, Refused) else 0
                raise _refused(part[at][0], error) from error
            done += len(part)
            progress(done, total, what)


class _Orders:
    """What the steps ask of each node: `links` to make first, then `settings` on them.

    Every interface gets the index that is chosen here, and no two of a lab the same: of a veth
    whose ends have equal ones the kernel thinks that nothing is behind it, and takes its time
    to tell that it carries (linkwatch_urgent_event() in net/core/link_watch.c).
    """

    def __init__(self, plan: Plan, spaces: dict[str, Space]) -> None:
        self.links: dict[str, Order] = {}
        self.settings: dict[str, Order] = {}
        self._lab, self._spaces = plan.lab, spaces
        self._indexes: dict[str, dict[str, int]] = {}
        self._next = count(_FIRST_INDEX)
        for step in plan.steps:
            if isinstance(step, MakeBridge):
                index = self._new(step.node, step.name)
                self._make(step, step.node, messages.new_bridge(step.name, index, step.mtu))
                self._set(step, step.node, step.name)
            elif isinstance(step, MakeLink):
                self._pair(step, (step.bridge_node, step.port), (step.node, step.ifname),
                           step.bridge)
                self._set(step, step.bridge_node, step.port, learning=step.learning)
                self._set(step, step.node, step.ifname, up=True)
            elif isinstance(step, MakeCable):
                self._pair(step, (step.node, step.ifname), (step.peer_node, step.peer_ifname))
                self._set(step, step.node, step.ifname, up=True)
                self._set(step, step.peer_node, step.peer_ifname, up=True)
            elif isinstance(step, JoinBridges):
                self._pair(step, (step.node, step.port), (step.node, step.other_port),
                           step.bridge)
                self._set(step, step.node, step.port)
                self._set(step, step.node, step.other_port, up=True,
                          bridge=self._indexes[step.node][step.other_bridge])
            elif isinstance(step, GiveAddress):
                index = self._indexes[step.node][step.ifname]
                self._ask(step, step.node, messages.new_address(index, step.address))
            elif isinstance(step, AddRoutes):
                for route in step.routes:
                    self._ask(step, step.node, messages.new_route(route.network, route.via))

    def _new(self, node: str, ifname: str) -> int:
        index = self._indexes.setdefault(node, {})[ifname] = next(self._next)
        return index

    def _make(self, step: Step, node: str, message: Message) -> None:
        self.links.setdefault(node, []).append((step, message))

    def _ask(self, step: Step, node: str, message: Message) -> None:
        self.settings.setdefault(node, []).append((step, message))

    def _pair(self, step: MakeLink | MakeCable | JoinBridges, here: tuple[str, str],
              there: tuple[str, str], bridge: str = "") -> None:
        self._make(step, here[0], messages.new_veth(
            here[1], self._new(*here), there[1], self._new(*there),
            self._spaces[there[0]].descriptor, step.mtu,
            self._indexes[here[0]][bridge] if bridge else 0))

    def _set(self, step: Step, node: str, ifname: str, *, up: bool = False,
             learning: bool | None = None, bridge: int = 0) -> None:
        """Set that, and whose the interface is."""
        self._ask(step, node, messages.set_link(
            self._indexes[node][ifname], up=up, alias=state.stamp(self._lab, node),
            learning=learning, bridge=bridge))


@dataclass(frozen=True, slots=True)
class _Seen:
    """A namespace as it is: links by name, addresses by index of the link."""

    links: dict[str, LinkState]
    addresses: dict[int, list[ipaddress.IPv4Interface]]
    routes: set[Route]


def _see(rtnl: Rtnl) -> _Seen:
    return _Seen({link.ifname: link for link in rtnl.links()}, rtnl.addresses(), rtnl.routes())


def missing(plan: Plan) -> list[str]:
    """What is not there, or not working, of a lab that was built by this plan."""
    names = plan.namespaces
    looks = dict(zip(names, namespaces.look_into(names.values(), _see), strict=True))
    nodes: dict[str, _Seen] = {}
    wrong: list[str] = []
    for step in plan.steps:
        if isinstance(step, MakeNamespace):
            seen = looks[step.node]
            if isinstance(seen, OSError) or seen.links["lo"].alias != state.stamp(plan.lab,
                                                                                  step.node):
                wrong.append(f"namespace {step.namespace}")
            else:
                nodes[step.node] = seen
        elif isinstance(step, AwaitCarrier):
            for node, ifname in step.interfaces:
                link = nodes[node].links.get(ifname) if node in nodes else None
                if node in nodes and not (link and link.carries):
                    wrong.append(f"{ifname} of {node}")
        elif not isinstance(step, (GiveAddress, AddRoutes)) or step.node not in nodes:
            continue
        elif isinstance(step, AddRoutes):
            if not nodes[step.node].routes.issuperset(step.routes):
                wrong.append(f"routes of {step.node}")
        elif not _has(nodes[step.node], step):
            wrong.append(f"address {step.address} of {step.node}")
    return wrong


def _has(seen: _Seen, step: GiveAddress) -> bool:
    link = seen.links.get(step.ifname)
    return link is not None and step.address in seen.addresses.get(link.index, ())


def _await_carrier(step: AwaitCarrier, spaces: dict[str, Space]) -> None:
    """Look at the links again whenever the kernel says that one changed, until all carry."""
    waiting: dict[str, set[str]] = {}
    for node, ifname in step.interfaces:
        waiting.setdefault(node, set()).add(ifname)
    for node in list(waiting):
        _strike_off(waiting, node, spaces[node].rtnl)
    poll = select.poll()
    for node in list(waiting):
        poll.register(spaces[node].rtnl, select.POLLIN)
        # What changed before we listened is not told again.
        spaces[node].rtnl.watch()
        _strike_off(waiting, node, spaces[node].rtnl)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while waiting:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise SystemRefused(f"no carrier after {READY_TIMEOUT_S:g} s: {_listed(waiting)}", "")
        ready = {descriptor for descriptor, _ in poll.poll(left_s * 1000)}
        for node in list(waiting):
            rtnl = spaces[node].rtnl
            if rtnl.fileno() in ready:
                rtnl.drain()
                if _strike_off(waiting, node, rtnl):
                    poll.unregister(rtnl)


def _strike_off(waiting: dict[str, set[str]], node: str, rtnl: Rtnl) -> bool:
    """Take what carries now off the list; True when the node waits for nothing more.

    A kernel with much to tell tells it a second later. Asked for one link, it first brings that
    one up to date (linkwatch_sync_dev() in rtnl_getlink(), net/core/rtnetlink.c).
    """
    late = [link.index for link in rtnl.links() if link.ifname in waiting[node]
            and not link.carries]
    waiting[node] = {link.ifname for link in map(rtnl.link, late) if not link.carries}
    if waiting[node]:
        return False
    del waiting[node]
    return True


def _listed(waiting: dict[str, set[str]]) -> str:
    late = [f"{ifname} of {node}" for node, names in waiting.items() for ifname in sorted(names)]
    more = f" and {len(late) - 5:,} more" if len(late) > 5 else ""
    return ", ".join(late[:5]) + more


def _refused(step: Step, error: OSError) -> SystemRefused:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EPERM, errno.EACCES):
        return SystemRefused(f"cannot {step}: {reason}", "run with sudo")
    if (isinstance(step, (MakeBridge, MakeLink, MakeCable, JoinBridges))
            and error.errno in (errno.EOPNOTSUPP, errno.ENODEV)):
        kind = "bridge" if isinstance(step, MakeBridge) else "veth"
        return SystemRefused(f"cannot {step}: {reason}", f"the kernel needs: modprobe {kind}")
    return SystemRefused(f"cannot {step}: {reason}", "")
