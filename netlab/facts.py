"""A machine as it can be seen from where we run: what `doctor` makes its checks of.

Looking changes nothing, and nothing that is not there is an error.
"""

from __future__ import annotations

import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from netlab import ebpf_trial, features
from netlab.features import Features, Found

LEAST_PYTHON = (3, 10)
_TIMEOUT_S = 5.0
_EFFECTIVE = re.compile(r"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)
_VERSION = re.compile(r"\d+\.\d+[\w.+-]*")
_FAMILIES = {"debian": ("debian", "ubuntu"), "fedora": ("fedora", "rhel", "centos"),
             "suse": ("suse", "opensuse"), "arch": ("arch",), "alpine": ("alpine",)}
# What a lab can run, with the option that asks for its version.
PROGRAMS = {"kea-dhcp4": "-V", "dhcpd": "--version", "dnsmasq": "--version", "udhcpd": "--help",
            "dhcrelay": "--version", "perfdhcp": "-v", "tshark": "--version"}
SYSCTLS = ("kernel.unprivileged_userns_clone", "user.max_user_namespaces",
           "user.max_net_namespaces", "kernel.apparmor_restrict_unprivileged_userns",
           "net.core.netdev_max_backlog", "net.core.rmem_max", "net.core.wmem_max",
           "net.ipv4.neigh.default.gc_thresh3", "net.bridge.bridge-nf-call-iptables",
           "net.netfilter.nf_conntrack_max")


@dataclass(frozen=True)
class Facts:
    """A machine as it was seen. sysctls, programs: None where there is none; a program's
    version may be "". features: of this user; rootless: of one who is not root. nofile: soft and
    hard limit. capabilities: those in effect, a bit each (linux/capability.h); own_users: in a
    user namespace. btf: the kernel describes its types. ebpf: by step of `ebpf_trial`.
    left_behind: labs; None where they may not be looked at."""

    python: tuple[int, int, int]
    distribution: Mapping[str, str]
    kernel: str
    root: bool
    features: Features
    rootless: Features
    sysctls: Mapping[str, str | None]
    programs: Mapping[str, str | None]
    nofile: tuple[int, int]
    memory_bytes: int
    cpus: int
    governor: str | None
    clocksource: str
    machine: str
    capabilities: int
    own_users: bool
    btf: bool
    ebpf: Mapping[str, Found]
    left_behind: tuple[str, ...] | None

    @property
    def family(self) -> str:
        """The distribution's family: a key of the package tables, or ""."""
        said = f"{self.distribution.get('ID', '')} {self.distribution.get('ID_LIKE', '')}".split()
        return next((family for word in said for family, names in _FAMILIES.items()
                     if any(word.startswith(name) for name in names)), "")


def gather() -> Facts:
    """Look at the machine. Never raises for what is not there."""
    import psutil

    with ebpf_trial.under_way() as ebpf:
        found = features.probe()
        return Facts(
            python=sys.version_info[:3], distribution=_os_release(), kernel=platform.release(),
            root=os.geteuid() == 0, features=found, rootless=features.probe(ordinary=True),
            sysctls={name: _text(Path("/proc/sys", *name.split("."))) for name in SYSCTLS},
            programs=_programs(), nofile=resource.getrlimit(resource.RLIMIT_NOFILE),
            memory_bytes=psutil.virtual_memory().available,
            cpus=len(os.sched_getaffinity(0)),
            governor=_text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
            clocksource=_text(Path(
                "/sys/devices/system/clocksource/clocksource0/current_clocksource")) or "",
            machine=platform.machine(), capabilities=_capabilities(), own_users=_own_users(),
            btf=ebpf_trial.VMLINUX.exists(), left_behind=_left_behind(), ebpf=ebpf())


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _os_release() -> dict[str, str]:
    try:
        return platform.freedesktop_os_release()
    except OSError:
        return {}


def _capabilities() -> int:
    match = _EFFECTIVE.search(_text(Path("/proc/self/status")) or "")
    return int(match[1], 16) if match else 0


def _own_users() -> bool:
    # In the first user namespace everybody is who he is.
    told = _text(Path("/proc/self/uid_map"))
    return told is not None and told.split() != ["0", "0", "4294967295"]


def _programs() -> dict[str, str | None]:
    with ThreadPoolExecutor(len(PROGRAMS)) as pool:
        return dict(zip(PROGRAMS, pool.map(_version, PROGRAMS), strict=True))


def _version(program: str) -> str | None:
    """None where it is not found, "" where it does not say."""
    from fastpath.errors import SystemRefused
    from netlab import programs

    try:
        path = programs.find(program, "")
    except SystemRefused:
        return None
    try:
        done = subprocess.run([str(path), PROGRAMS[program]], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              timeout=_TIMEOUT_S, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = _VERSION.search(done.stdout.decode(errors="replace"))
    return match[0] if match else ""


def _left_behind() -> tuple[str, ...] | None:
    from fastpath.errors import SystemRefused
    from netlab import lifecycle

    try:
        return tuple(lab for lab in lifecycle.all_labs() if lifecycle.left_behind(lab))
    except (OSError, SystemRefused):
        return None
