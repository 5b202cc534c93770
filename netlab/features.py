"""What this kernel has: found out by trying, in a network namespace that ends with the trial.

A configuration file says what was built, not what is loaded or allowed here. The trial is a
process of its own, so that it may take a user namespace where there is no root. It changes
nothing, but the kernel may load a module of its own for it, as it would for a lab.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from netlab import apart, syscalls
from netlab.apart import Tell
from netlab.impairment import loss
from netlab.qdisc import Netem, Tbf

if TYPE_CHECKING:
    from netlab.tc import Tc

CLONE_NEWUSER = 0x10000000  # linux/sched.h
_TIMEOUT_S = 30.0
_NOBODY = 65534
# linux/pkt_sched.h: TC_H_CLSACT with TC_H_MIN_INGRESS; no descriptor of anything
_ARRIVING, _NO_PROGRAM = 0xFFFFFFF2, 0xFFFFFFFF
# packet(7), linux/if_packet.h
_SOL_PACKET, _RX_RING, _VERSION, _TPACKET_V2 = 263, 5, 10, 1


@dataclass(frozen=True, slots=True)
class Found:
    """The outcome of one trial. said: what the kernel answered, empty where all went well."""

    ok: bool
    said: str = ""


@dataclass(frozen=True, slots=True)
class Features:
    """Outcomes by name of the trial (TRIALS). rootless: made in a user namespace."""

    found: Mapping[str, Found]
    rootless: bool = False

    @property
    def has(self) -> frozenset[str]:
        """The names of what is there."""
        return frozenset(name for name, found in self.found.items() if found.ok)


def _veth(tc: Tc) -> None:
    tc.ip.link("add", kind="veth", ifname="trial0", peer="trial1")


def _index(tc: Tc) -> int:
    devices = tc.devices()
    if "trial0" not in devices:
        raise OSError(errno.ENODEV, "no veth to try it on")
    return devices["trial0"].index


def _bridge(tc: Tc) -> None:
    tc.ip.link("add", kind="bridge", ifname="trialbr")


def _vlan(tc: Tc) -> None:
    tc.ip.link("add", kind="vlan", ifname="trialvlan", link=_index(tc), vlan_id=7)


def _macvlan(tc: Tc) -> None:
    tc.ip.link("add", kind="macvlan", ifname="trialmac", link=_index(tc))


def _tbf(tc: Tc) -> None:
    tc.replace(_index(tc), Tbf(125_000, 1 << 20))


def _netem(tc: Tc) -> None:
    tc.replace(_index(tc), Netem(1000, delay_ms=1))


def _xdp(tc: Tc) -> None:
    _index(tc)
    loss.put(tc, tc.devices()["trial0"], 1.0)


def _clsact(tc: Tc) -> None:
    tc.ip.tc("add", kind="clsact", index=_index(tc))
    try:
        tc.ip.tc("add-filter", kind="bpf", index=_index(tc), parent=_ARRIVING, fd=_NO_PROGRAM,
                 name="trial", direct_action=True)
    except OSError as error:
        # Whether there is a program is looked at last, by a classifier that is there.
        if error.errno != errno.EBADF:
            raise


def _packet_ring(tc: Tc) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as ring:
        ring.setsockopt(_SOL_PACKET, _VERSION, _TPACKET_V2)
        ring.setsockopt(_SOL_PACKET, _RX_RING, struct.pack("=IIII", 4096, 1, 2048, 2))


def _nf_tables(_: Tc) -> None:
    from pyroute2.netlink.exceptions import NetlinkError
    from pyroute2.nftables.main import NFTables

    try:
        with NFTables() as tables:
            tables.get_tables()
    except NetlinkError as error:
        raise OSError(error.code, os.strerror(error.code)) from error


# In this order: what comes later is tried on the veth.
TRIALS: dict[str, Callable[[Tc], None]] = {
    "veth": _veth, "bridge": _bridge, "packet_ring": _packet_ring, "vlan": _vlan,
    "macvlan": _macvlan, "tbf": _tbf, "netem": _netem, "nf_tables": _nf_tables, "xdp": _xdp,
    "clsact": _clsact}


def _try_all(*, ordinary: bool) -> Features:
    """All trials, in the calling process, which gives up its own network namespace."""
    from netlab.tc import Tc

    rootless = False
    try:
        if ordinary and os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        except PermissionError:
            syscalls.unshare(CLONE_NEWUSER | syscalls.CLONE_NEWNET)
            rootless = True
    except OSError as error:
        return Features({"netns": Found(False, (error.strerror or "").lower())}, rootless=True)
    found = {"netns": Found(True)}
    with Tc() as tc:
        for name, trial in TRIALS.items():
            try:
                trial(tc)
                found[name] = Found(True)
            except (OSError, ValueError) as error:
                said = error.strerror if isinstance(error, OSError) else str(error)
                found[name] = Found(False, (said or str(error)).lower())
    return Features(found, rootless)


@cache
def probe(*, ordinary: bool = False) -> Features:
    """What this kernel has and this user may use; ordinary: a user that is not root. Asked once
    a process."""
    # Here: an ordinary user may not reach the files, and who probes mostly needs them next.
    import pyroute2.nftables.main  # noqa: F401

    import netlab.tc  # noqa: F401

    def work(tell: Tell) -> None:
        try:
            tell(_told(_try_all(ordinary=ordinary)))
        except BaseException as error:
            tell(_told(_failed(f"{type(error).__name__}: {error}")))

    with apart.start(work) as child:
        answer, ended = child.answer(_TIMEOUT_S)
    if ended or not answer:
        return _failed(ended or apart.NO_ANSWER)
    document = json.loads(answer)
    return Features({name: Found(**each) for name, each in document["found"].items()},
                    document["rootless"])


def _failed(why: str) -> Features:
    return Features({"netns": Found(False, f"the trial failed: {why}")})


def _told(features: Features) -> bytes:
    return json.dumps({"rootless": features.rootless,
                       "found": {name: {"ok": each.ok, "said": each.said}
                                 for name, each in features.found.items()}}).encode()
