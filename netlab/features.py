"""What this kernel has: found out by trying, in a network namespace that ends with the trial.

A configuration file says what was built, not what is loaded or allowed here. The trial is a
process of its own, so that it may take a user namespace where there is no root. It changes
nothing, but the kernel may load a module of its own for it, as it would for a lab.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from netlab import syscalls
from netlab.impairment import loss
from netlab.qdisc import Netem, Tbf

if TYPE_CHECKING:
    from netlab.tc import Tc

CLONE_NEWUSER = 0x10000000  # linux/sched.h
_TIMEOUT_S = 30.0
_NOBODY = 65534
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
    "macvlan": _macvlan, "tbf": _tbf, "netem": _netem, "nf_tables": _nf_tables, "xdp": _xdp}


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

    # Forked and nothing else: where a user namespace may be taken there is one thread, and what
    # an ordinary user could execute does not matter.
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writer, _told(_try_all(ordinary=ordinary)))
        except BaseException as error:
            os.write(writer, _told(_failed(f"{type(error).__name__}: {error}")))
        finally:
            os._exit(0)
    os.close(writer)
    try:
        answer = _read(reader)
        if answer is None:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(reader)
        os.waitpid(child, 0)
    if not answer:
        return _failed("no answer")
    document = json.loads(answer)
    return Features({name: Found(**each) for name, each in document["found"].items()},
                    document["rootless"])


def _failed(why: str) -> Features:
    return Features({"netns": Found(False, f"the trial failed: {why}")})


def _told(features: Features) -> bytes:
    return json.dumps({"rootless": features.rootless,
                       "found": {name: {"ok": each.ok, "said": each.said}
                                 for name, each in features.found.items()}}).encode()


def _read(reader: int) -> bytes | None:
    """All that is written until the other end is closed; None when that takes too long."""
    answer = b""
    while True:
        readable, _, _ = select.select([reader], [], [], _TIMEOUT_S)
        if not readable:
            return None
        more = os.read(reader, 1 << 16)
        if not more:
            return answer
        answer += more
