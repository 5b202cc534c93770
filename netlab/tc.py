"""Queueing disciplines and XDP programs in the kernel, through pyroute2; see `netlab.qdisc`.

pyroute2 knows neither the seed of netem nor rates of 4 GiB/s and above, and gives tbf no bucket
in bytes, without which frames do not fit it below 3 kbit/s: these attributes are added here.
Sources: linux/pkt_sched.h, net/sched/sch_netem.c, sch_tbf.c.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

from pyroute2.netlink import nla
from pyroute2.netlink.rtnl import TC_H_ROOT
from pyroute2.netlink.rtnl.ifinfmsg import XDP_FLAGS_SKB_MODE, XDP_FLAGS_UPDATE_IF_NOEXIST
from pyroute2.netlink.rtnl.tcmsg import plugins, sched_netem, sched_tbf
from pyroute2.netlink.rtnl.tcmsg.common import tick_in_usec

from fastpath.iproute import dump, iproute
from netlab.qdisc import Device, Discipline, Netem, Queue, Tbf

_ALL = 0xFFFFFFFF


class _NetemPlugin:
    """netem in pyroute2's table of qdiscs."""

    class options(nla):  # type: ignore[misc]
        fields = sched_netem.options.fields
        nla_map = ((3, "TCA_NETEM_REORDER", "netem_reorder"), (6, "TCA_NETEM_RATE", "netem_rate"),
                   (8, "TCA_NETEM_RATE64", "uint64"), (14, "TCA_NETEM_PRNG_SEED", "uint64"))
        netem_reorder = sched_netem.options.netem_reorder
        netem_rate = sched_netem.options.netem_rate


class _TbfPlugin:
    """tbf in pyroute2's table of qdiscs."""

    class options(nla):  # type: ignore[misc]
        nla_map = ((1, "TCA_TBF_PARMS", "tbf_parms"), (2, "TCA_TBF_RTAB", "rtab"),
                   (4, "TCA_TBF_RATE64", "uint64"), (6, "TCA_TBF_BURST", "uint32"))
        tbf_parms = sched_tbf.options.tbf_parms
        rtab = sched_tbf.options.rtab


plugins |= {"netem": _NetemPlugin, "tbf": _TbfPlugin}


def told(discipline: Discipline) -> list[tuple[str, Any]]:
    """The attributes of a request for `discipline`, as pyroute2 takes them."""
    rate = discipline.rate_bytes_per_s
    more: list[tuple[str, Any]] = []
    if isinstance(discipline, Netem):
        # What is left out the kernel leaves as it was: a rate is always said.
        options = sched_netem.get_parameters({
            "limit": discipline.limit, "loss": discipline.loss_percent,
            "duplicate": discipline.duplicate_percent, "rate": min(rate, _ALL),
            "prob_reorder": discipline.reorder_percent, "delay": round(discipline.delay_ms * 1000),
            "jitter": round(discipline.jitter_ms * 1000)})
        kind = "netem"
        if discipline.seed is not None:
            more.append(("TCA_NETEM_PRNG_SEED", discipline.seed))
    else:
        options = sched_tbf.get_parameters({
            "rate": min(rate, _ALL), "limit": discipline.limit_bytes,
            "burst": discipline.burst_bytes})
        kind = "tbf"
        more.append(("TCA_TBF_BURST", discipline.burst_bytes))
    if rate > _ALL:
        more.append((f"TCA_{kind.upper()}_RATE64", rate))
    return [("TCA_KIND", kind), ("TCA_OPTIONS", {**options, "attrs": [*options["attrs"], *more]})]


def heard(kind: str, options: Any) -> Discipline | None:
    """What TCA_OPTIONS of a dump says; None for a qdisc of another kind."""
    if kind == "tbf":
        parms = options.get_attr("TCA_TBF_PARMS")
        return Tbf(options.get_attr("TCA_TBF_RATE64", parms["rate"]), parms["limit"])
    if kind == "netem":
        reorder = options.get_attr("TCA_NETEM_REORDER", {"prob_reorder": 0})
        rate = options.get_attr("TCA_NETEM_RATE", {"rate": 0})["rate"]
        return Netem(options["limit"], _percent(options["loss"]), _percent(options["duplicate"]),
                     _percent(reorder["prob_reorder"]), _ms(options["delay"]),
                     _ms(options["jitter"]), options.get_attr("TCA_NETEM_RATE64", rate),
                     options.get_attr("TCA_NETEM_PRNG_SEED"))
    return None


def _percent(share: int) -> float:
    return round(share / _ALL * 100, 6)


def _ms(ticks: int) -> float:
    return round(ticks / float(tick_in_usec) / 1000, 6)


class Tc:
    """Qdiscs and XDP programs of the namespace of the thread that opens it.

    Every method may raise OSError with what the kernel said.
    """

    def __init__(self) -> None:
        self._opened = iproute()
        self.ip = self._opened.__enter__()

    def __enter__(self) -> Tc:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._opened.__exit__(kind, error, trace)

    def replace(self, index: int, discipline: Discipline) -> None:
        """Put `discipline` at the root of the interface, whatever was there."""
        self.ip.tc("replace", index=index, parent=TC_H_ROOT, attrs=told(discipline))

    def remove(self, index: int) -> None:
        """Take the root qdisc off; the interface gets back what it had by default."""
        self.ip.tc("del", index=index, parent=TC_H_ROOT)

    def queues(self) -> dict[int, Queue]:
        """The root qdisc of every interface that has one of its own, by interface index."""
        found = {}
        for queue in dump(self.ip.tc):
            if queue["parent"] == TC_H_ROOT:
                kind, stats = queue.get_attr("TCA_KIND"), queue.get_attr("TCA_STATS2")
                waits = stats.get_attr("TCA_STATS_QUEUE")
                found[queue["index"]] = Queue(
                    queue["index"], kind, heard(kind, queue.get_attr("TCA_OPTIONS")),
                    stats.get_attr("TCA_STATS_BASIC")["packets"], waits["drops"], waits["qlen"])
        return found

    def devices(self) -> dict[str, Device]:
        """The interfaces of the namespace, by name."""
        return {link.get_attr("IFLA_IFNAME"): Device(
            link["index"], link.get_attr("IFLA_IFNAME"),
            link.get_nested("IFLA_XDP", "IFLA_XDP_PROG_ID") or 0) for link in dump(self.ip.link)}

    def attach(self, index: int, program: int, *, replace: bool = False) -> None:
        """Put the XDP program with descriptor `program` on the interface; -1 takes it off.

        replace: where one is there already, this one takes its place; else EBUSY. Generic XDP:
        native XDP on a veth puts a queue of 256 frames into the link, which loses more.
        """
        flags = XDP_FLAGS_SKB_MODE
        if program >= 0 and not replace:
            flags |= XDP_FLAGS_UPDATE_IF_NOEXIST
        self.ip.link("set", index=index, xdp={"attrs": [("IFLA_XDP_FD", program),
                                                        ("IFLA_XDP_FLAGS", flags)]})
