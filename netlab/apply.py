"""Take the steps of a plan: from pure data to namespaces, bridges, links and addresses.

A veth pair is asked for inside the switch's namespace with its other end in the node's, so
neither end ever stands in the namespace of the machine. Readiness is seen, never slept for.
"""

from __future__ import annotations

import errno
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fastpath.errors import SystemRefused
from netlab import namespaces, netlink, state
from netlab.namespaces import Space
from netlab.plan import AwaitCarrier, GiveAddress, MakeBridge, MakeLink, MakeNamespace, Plan, Step
from netlab.signals import held

READY_TIMEOUT_S = 10.0


def apply(plan: Plan) -> None:
    """Take every step of `plan`; Ctrl-C and the like count between steps, never within one.

    Raises SystemRefused with the step that failed; what was made until then is left.
    """
    with _opened() as spaces:
        for step in plan.steps:
            try:
                with held():
                    _take(step, plan, spaces)
            except OSError as error:
                raise _refused(step, error) from error


def missing(plan: Plan) -> list[str]:
    """What is not there, or not working, of a lab that was built by this plan."""
    wrong: list[str] = []
    with _opened() as spaces:
        for step in plan.steps:
            try:
                if isinstance(step, MakeNamespace):
                    entry = namespaces.entry(step.namespace)
                    if entry is None or entry.stamp != state.stamp(plan.lab, step.node):
                        wrong.append(f"namespace {step.namespace}")
                    else:
                        spaces[step.node] = namespaces.open_space(step.namespace)
                elif isinstance(step, GiveAddress):
                    rtnl = spaces[step.node].rtnl
                    if step.address not in rtnl.addresses().get(rtnl.link(step.ifname).index, []):
                        wrong.append(f"address {step.address} of {step.node}")
                elif isinstance(step, AwaitCarrier):
                    wrong += [f"{ifname} of {node}" for node, ifname in step.interfaces
                              if not spaces[node].rtnl.link(ifname).carries]
            except (OSError, KeyError):
                wrong.append(f"what step \"{step}\" made")
    return wrong


@contextmanager
def _opened() -> Iterator[dict[str, Space]]:
    """An empty dict of open namespaces by node; all are closed at the end."""
    spaces: dict[str, Space] = {}
    try:
        yield spaces
    finally:
        for space in spaces.values():
            space.close()


def _take(step: Step, plan: Plan, spaces: dict[str, Space]) -> None:
    if isinstance(step, AwaitCarrier):
        _await_carrier(step, spaces)
        return
    stamp = state.stamp(plan.lab, step.node)
    if isinstance(step, MakeNamespace):
        spaces[step.node] = namespaces.create(step.namespace, stamp)
        return
    rtnl = spaces[step.node].rtnl
    if isinstance(step, MakeBridge):
        rtnl.change(netlink.new_bridge(step.name, step.mtu),
                    netlink.set_link(step.name, alias=stamp))
    elif isinstance(step, MakeLink):
        switch = spaces[step.bridge_node]
        bridge = switch.rtnl.link(step.bridge).index
        switch.rtnl.change(
            netlink.new_veth(step.port, bridge, step.ifname, spaces[step.node].descriptor,
                             step.mtu),
            netlink.set_link(step.port, alias=state.stamp(plan.lab, step.bridge_node),
                             learning=step.learning))
        rtnl.change(netlink.set_link(step.ifname, up=True, alias=stamp))
    elif isinstance(step, GiveAddress):
        rtnl.change(netlink.new_address(rtnl.link(step.ifname).index, step.address))


def _await_carrier(step: AwaitCarrier, spaces: dict[str, Space]) -> None:
    """Look at the links again whenever the kernel says that one changed, until all carry."""
    waiting: dict[str, set[str]] = {}
    for node, ifname in step.interfaces:
        waiting.setdefault(node, set()).add(ifname)
    deadline = time.monotonic() + READY_TIMEOUT_S
    poll = select.poll()
    for node in waiting:
        spaces[node].rtnl.watch()
        poll.register(spaces[node].rtnl, select.POLLIN)
    while True:
        for node in list(waiting):
            waiting[node] -= {link.ifname for link in spaces[node].rtnl.links() if link.carries}
            if not waiting[node]:
                del waiting[node]
                poll.unregister(spaces[node].rtnl)
                spaces[node].rtnl.watch(False)
        left_s = deadline - time.monotonic()
        if not waiting:
            return
        if left_s <= 0:
            late = ", ".join(f"{ifname} of {node}" for node, names in waiting.items()
                             for ifname in sorted(names))
            raise SystemRefused(f"no carrier after {READY_TIMEOUT_S:g} s: {late}", "")
        ready = {descriptor for descriptor, _ in poll.poll(left_s * 1000)}
        for node in waiting:
            if spaces[node].rtnl.fileno() in ready:
                spaces[node].rtnl.drain()


def _refused(step: Step, error: OSError) -> SystemRefused:
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.EPERM, errno.EACCES):
        return SystemRefused(f"cannot {step}: {reason}", "run with sudo")
    if isinstance(step, (MakeBridge, MakeLink)) and error.errno in (errno.EOPNOTSUPP,
                                                                  errno.ENODEV):
        kind = "bridge" if isinstance(step, MakeBridge) else "veth"
        return SystemRefused(f"cannot {step}: {reason}", f"the kernel needs: modprobe {kind}")
    return SystemRefused(f"cannot {step}: {reason}", "")
