"""What this machine has for a lab, what it lacks, what that costs, and what mends it.

A pure function of what was seen (`facts`), so that every machine can be examined in a test. A
lab works when no check that is `needed` is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from netlab.ebpf_trial import NO_BCC
from netlab.facts import LEAST_PYTHON, Facts
from netlab.features import Found

_INSTALL = {"debian": "apt install", "fedora": "dnf install", "suse": "zypper install",
            "arch": "pacman -S", "alpine": "apk add"}
_REBUILD = "boot a kernel built with {option}"
# Program -> (what it is for, its package by family, "" for all others).
_PROGRAMS: dict[str, tuple[str, dict[str, str]]] = {
    "kea-dhcp4": ("--server kea", {"debian": "kea-dhcp4-server", "alpine": "kea-dhcp4",
                                   "": "kea"}),
    "dhcpd": ("--server isc-dhcpd", {"debian": "isc-dhcp-server", "fedora": "dhcp-server",
                                     "suse": "dhcp-server", "": "dhcp"}),
    "dnsmasq": ("--server dnsmasq, --relay dnsmasq", {"debian": "dnsmasq-base", "": "dnsmasq"}),
    "udhcpd": ("--server udhcpd", {"debian": "udhcpd", "": "busybox"}),
    "dhcrelay": ("--relay dhcrelay", {"debian": "isc-dhcp-relay", "fedora": "dhcp-relay",
                                      "suse": "dhcp-relay", "alpine": "dhcrelay", "": "dhcp"}),
    "perfdhcp": ("comparing with perfdhcp", {"debian": "kea-admin", "": "kea"}),
    "tshark": ("reading captures by eye", {"debian": "tshark", "alpine": "tshark",
                                           "suse": "wireshark", "": "wireshark-cli"}),
}
# Debian starts a server when its package is installed: on the user's own network.
_STARTS = {"kea-dhcp4": "kea-dhcp4-server", "dhcpd": "isc-dhcp-server",
           "dhcrelay": "isc-dhcp-relay", "udhcpd": "udhcpd"}
# Trial -> (what it is, what is not there without it, kernel option, module, needed).
_KERNEL: dict[str, tuple[str, str, str, str, bool]] = {
    "netns": ("network namespaces", "no lab", "CONFIG_NET_NS", "", True),
    "veth": ("veth pairs", "no lab", "CONFIG_VETH", "veth", True),
    "bridge": ("bridges", "no segments of more than two links", "CONFIG_BRIDGE", "bridge", True),
    "packet_ring": ("AF_PACKET rings", "dhcp-tester, dhcp-server and dhcp-relay cannot run",
                    "CONFIG_PACKET", "af_packet", True),
    "tbf": ("tbf queues", "no rates on links", "CONFIG_NET_SCH_TBF", "sch_tbf", False),
    "netem": ("netem queues", "no delay, duplication or reordering of every frame; loss by XDP, "
              "rate by tbf, delay of DHCP messages by dhcp-relay and dhcp-server remain",
              "CONFIG_NET_SCH_NETEM", "sch_netem", False),
    "vlan": ("802.1Q devices", "servers of others cannot serve tagged segments; our own programs "
             "write and read tags themselves", "CONFIG_VLAN_8021Q", "8021q", False),
    "macvlan": ("macvlan", "lab attach can only move whole interfaces", "CONFIG_MACVLAN",
                "macvlan", False),
    "nf_tables": ("nf_tables", "no nft inside nodes; the lab itself needs none",
                  "CONFIG_NF_TABLES", "nf_tables", False),
    "xdp": ("XDP programs", "no loss on links without netem, no eBPF counters",
            "CONFIG_BPF_SYSCALL", "", False),
}
# Where distributions put the modules that are not in the first package of a kernel.
_MODULES = {"fedora": "kernel-modules-extra"}
# What eBPF needs: package by family, "" for all others. bcc is for the system's Python; ours
# finds it there.
_BCC = {"debian": "python3-bpfcc", "fedora": "python3-bcc", "suse": "python3-bcc",
        "arch": "python-bcc", "alpine": "py3-bcc", "": "bcc"}
_BCC_WHOLE = {"debian": "--reinstall python3-bpfcc libbpfcc", "fedora": "bcc python3-bcc",
              "suse": "libbcc0 python3-bcc", "arch": "bcc python-bcc", "alpine": "bcc py3-bcc",
              "": "bcc"}
_LIBBPF = {"debian": "libbpf1", "suse": "libbpf1", "": "libbpf"}
_HEADERS = {"fedora": "kernel-devel-$(uname -r)", "suse": "kernel-default-devel",
            "arch": "linux-headers", "alpine": "linux-lts-dev", "": "the headers of this kernel"}
# Debian's own name for an architecture, where it is not uname's.
_DEBIAN_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "ppc64le": "ppc64el"}
# Bits; linux/capability.h. One has all the rest of these.
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38, "CAP_NET_ADMIN": 12}
_SYS_ADMIN, _OF_SYS_ADMIN = 21, ("CAP_BPF", "CAP_PERFMON")
_NO_EBPF = "no lab test --ebpf and no lab watch; everything else works"
# Sysctl -> (least value, what less costs).
_SYSCTLS = {
    "net.core.netdev_max_backlog": (
        10_000, "frames are dropped silently in a storm (/proc/net/softnet_stat)"),
    "net.core.rmem_max": (
        4 << 20, "servers on sockets lose requests in a burst that a larger buffer would hold"),
    "net.core.wmem_max": (
        4 << 20, "programs on UDP sockets wait for room when they send in bursts"),
    "net.ipv4.neigh.default.gc_thresh3": (
        8192, "all nodes share one table of neighbours: when it is full, packets are dropped"),
    "user.max_net_namespaces": (2200, "a lab of 2,000 nodes does not fit"),
}
_GOOD_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "xen",
                "riscv_clocksource", "timebase", "tod"}
# Two a node (namespace and netlink socket) and what the programs' pipes and logs take.
_FILES_OF_A_LAB = 8192
_LEAST_MEMORY = 1 << 29


class State(StrEnum):
    """ok; warning: works, at a cost; missing: something cannot be done at all."""

    OK = "ok"
    WARNING = "warning"
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. costs: what one does without; mend: a command. Both empty where all is well.

    needed: without it no lab works.
    """

    group: str
    name: str
    state: State
    found: str
    costs: str = ""
    mend: str = ""
    needed: bool = False


def examine(facts: Facts) -> list[Check]:
    """All checks, in the order in which they are shown."""
    return [*_python(facts), *_privilege(facts), *_kernel(facts), *_settings(facts),
            *_resources(facts), *_programs(facts), *_ebpf(facts), *_labs(facts)]


def works(checks: list[Check]) -> bool:
    """Whether a basic lab does."""
    return not any(check.needed and check.state is State.MISSING for check in checks)


def install(facts: Facts, packages: Mapping[str, str]) -> str:
    """The command that installs what is called so in each family ("": in all others)."""
    package = packages.get(facts.family, packages.get("", ""))
    return f"{_INSTALL.get(facts.family, 'install')} {package}"


def any_headers(distribution: Mapping[str, str], machine: str) -> str:
    """The package of Debian or its like that brings the headers of its newest kernel.

    distribution: os-release(5). machine: uname's name of it.
    """
    like = f"{distribution.get('ID', '')} {distribution.get('ID_LIKE', '')}"
    some = "generic" if "ubuntu" in like else _DEBIAN_ARCH.get(machine, machine)
    return f"linux-headers-{some}"


def _python(facts: Facts) -> Iterator[Check]:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] >= LEAST_PYTHON:
        yield Check("system", "Python", State.OK, version, needed=True)
    else:
        least = ".".join(map(str, LEAST_PYTHON))
        yield Check("system", "Python", State.MISSING, f"{version} is older than {least}",
                    "no lab", install(facts, {"": "python3"}), needed=True)
    name = facts.distribution.get("PRETTY_NAME", "unknown distribution")
    yield Check("system", "distribution", State.OK, f"{name}, kernel {facts.kernel}")


def _privilege(facts: Facts) -> Iterator[Check]:
    if facts.root and not facts.features.rootless:
        yield Check("privilege", "root", State.OK, "yes")
    elif not facts.features.rootless and "netns" in facts.features.has:
        yield Check("privilege", "root", State.OK, "no, but the capabilities that a lab needs")
    else:
        yield Check("privilege", "root", State.WARNING, "no",
                    "no eBPF, no XDP, no physical interfaces; labs in a user namespace only",
                    "sudo lab ...")
    if {"netns", "veth"} <= facts.rootless.has:
        yield Check("privilege", "user namespaces", State.OK, "for lab --rootless")
        return
    said = next((found.said for name in ("netns", "veth")
                 if (found := facts.rootless.found.get(name)) and not found.ok), "not tried")
    why, mend = _userns_mend(facts)
    yield Check("privilege", "user namespaces", State.MISSING, f"{said}{why}",
                "no lab --rootless", mend)


def _userns_mend(facts: Facts) -> tuple[str, str]:
    """What keeps user namespaces from an ordinary user, and the command that lets them."""
    for name, bad, good in (("kernel.unprivileged_userns_clone", "0", "1"),
                            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
                            ("user.max_user_namespaces", "0", "10000")):
        if facts.sysctls.get(name) == bad:
            return f" ({name} = {bad})", f"sysctl -w {name}={good}"
    return "", _REBUILD.format(option="CONFIG_USER_NS")


def _kernel(facts: Facts) -> Iterator[Check]:
    for trial, (name, costs, option, module, needed) in _KERNEL.items():
        found = facts.features.found.get(trial)
        if found and found.ok:
            yield Check("kernel", name, State.OK, "works", needed=needed)
            continue
        said = found.said if found else "not tried: no network namespace"
        if "permitted" in said or "denied" in said:
            mend = "run with sudo"
        elif not module:
            mend = _REBUILD.format(option=option)
        else:
            extra = (f"{install(facts, _MODULES)} && " if facts.family in _MODULES else "")
            mend = f"{extra}modprobe {module}, or {_REBUILD.format(option=option)}"
        yield Check("kernel", name, State.MISSING, said, costs, mend, needed)


def _settings(facts: Facts) -> Iterator[Check]:
    for name, (least, costs) in _SYSCTLS.items():
        said = facts.sysctls.get(name)
        # Of the network of another namespace these are not shown.
        if said is None or not said.isdigit():
            continue
        if int(said) >= least:
            yield Check("settings", name, State.OK, f"{int(said):,}")
        else:
            yield Check("settings", name, State.WARNING, f"{int(said):,}, less than {least:,}",
                        costs, f"sysctl -w {name}={least}")
    if facts.sysctls.get("net.bridge.bridge-nf-call-iptables") == "1":
        yield Check("settings", "net.bridge.bridge-nf-call-iptables", State.OK,
                    "1 here; a lab turns it off in its own namespaces")
    if facts.sysctls.get("net.netfilter.nf_conntrack_max") is not None:
        yield Check("settings", "nf_conntrack", State.OK,
                    "loaded; sees no frame of a lab that has no rules for it")


def _resources(facts: Facts) -> Iterator[Check]:
    soft, hard = facts.nofile
    # -1 is RLIM_INFINITY.
    if hard == -1 or hard >= _FILES_OF_A_LAB:
        yield Check("resources", "open files", State.OK, f"{soft:,} now"
                    + (", without limit" if hard == -1 else f", {hard:,} at most"))
    else:
        yield Check("resources", "open files", State.WARNING, f"{hard:,} at most",
                    f"labs of more than about {hard // 2:,} nodes cannot be built",
                    f"ulimit -n {_FILES_OF_A_LAB}")
    memory = f"{facts.memory_bytes / (1 << 30):.1f} GiB available"
    if facts.memory_bytes >= _LEAST_MEMORY:
        yield Check("resources", "memory", State.OK, memory)
    else:
        yield Check("resources", "memory", State.WARNING, memory,
                    "rings and tables of a million clients do not fit", "end other programs")
    if facts.cpus > 1:
        yield Check("resources", "CPUs", State.OK, str(facts.cpus))
    else:
        yield Check("resources", "CPUs", State.WARNING, "1",
                    "clients and server take time from one another: latencies include that",
                    "use a machine with two CPUs or more")
    if facts.governor in (None, "performance"):
        yield Check("resources", "CPU governor", State.OK, facts.governor or "the host's")
    else:
        yield Check("resources", "CPU governor", State.WARNING, str(facts.governor),
                    "latencies depend on how busy the CPU was before",
                    "cpupower frequency-set -g performance")
    if facts.clocksource in _GOOD_CLOCKS:
        yield Check("resources", "clock source", State.OK, facts.clocksource)
    else:
        yield Check("resources", "clock source", State.WARNING, facts.clocksource or "unknown",
                    "reading the time costs about a microsecond, for each frame",
                    "boot with clocksource=tsc, where the machine's is stable")


def _programs(facts: Facts) -> Iterator[Check]:
    for name, (use, packages) in _PROGRAMS.items():
        version = facts.programs.get(name)
        if version is not None:
            yield Check("programs", name, State.OK, version or "there")
            continue
        mend = install(facts, packages)
        if facts.family == "debian" and name in _STARTS:
            mend += f" && systemctl disable --now {_STARTS[name]}"
        yield Check("programs", name, State.MISSING, "not found", f"no {use}", mend)


def _ebpf(facts: Facts) -> Iterator[Check]:
    yield _capable(facts)
    clsact = facts.features.found.get("clsact", Found(False, "not tried: no network namespace"))
    rows = (
        ("bcc", facts.ebpf["bcc"], _bcc_mend(facts)),
        ("kernel headers", facts.ebpf["headers"], _headers_mend(facts)),
        ("BTF", Found(facts.btf, "the kernel describes its types" if facts.btf
                      else "the kernel does not describe its types"),
         _REBUILD.format(option="CONFIG_DEBUG_INFO_BTF")),
        ("libbpf", facts.ebpf["libbpf"], install(facts, _LIBBPF)),
        ("tc clsact", replace(clsact, said="works") if clsact.ok else clsact,
         "modprobe -a sch_ingress cls_bpf, or "
         + _REBUILD.format(option="CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF")),
        ("programs", facts.ebpf["program"], _program_mend(facts, "CONFIG_BPF_SYSCALL")),
        ("tracepoints", facts.ebpf["tracepoint"], _program_mend(facts, "CONFIG_BPF_EVENTS")))
    for name, found, mend in rows:
        if found.ok:
            yield Check("eBPF", name, State.OK, found.said)
        else:
            yield Check("eBPF", name, State.MISSING, found.said, _NO_EBPF, mend)
    reasons = facts.ebpf["reasons"]
    if not facts.btf or not facts.ebpf["libbpf"].ok:
        return
    if reasons.ok:
        yield Check("eBPF", "drop reasons", State.OK, reasons.said)
    else:
        yield Check("eBPF", "drop reasons", State.WARNING, reasons.said,
                    "losses are counted between places, but not where and why inside one",
                    "boot Linux 5.17 or later")


def _capable(facts: Facts) -> Check:
    if facts.own_users:
        return Check("eBPF", "privilege", State.MISSING,
                     "in a user namespace, where programs cannot be loaded", _NO_EBPF,
                     "run outside of it with sudo")
    lacks = [name for name, bit in _CAPABILITIES.items() if not facts.capabilities >> bit & 1
             and not (name in _OF_SYS_ADMIN and facts.capabilities >> _SYS_ADMIN & 1)]
    if lacks:
        return Check("eBPF", "privilege", State.MISSING, f"without {', '.join(lacks)}", _NO_EBPF,
                     "sudo lab doctor")
    return Check("eBPF", "privilege", State.OK, ", ".join(_CAPABILITIES))


def _bcc_mend(facts: Facts) -> str:
    missing = facts.ebpf["bcc"].said.startswith(NO_BCC)
    return install(facts, _BCC if missing else _BCC_WHOLE)


def _headers_mend(facts: Facts) -> str:
    if facts.family != "debian":
        return install(facts, _HEADERS)
    # A mirror has the headers of its newest kernels only, and a kernel of one's own has none:
    # any will do.
    some = any_headers(facts.distribution, facts.machine)
    return f"apt install linux-headers-$(uname -r) || apt install {some}"


def _program_mend(facts: Facts, option: str) -> str:
    said = facts.ebpf["program"].said + facts.ebpf["tracepoint"].said
    if _capable(facts).state is not State.OK:
        return "sudo lab doctor"
    if "not tried" in said:
        return "first mend what is missing above"
    if "permitted" in said or "denied" in said:
        return "let this container load programs, or boot without kernel lockdown"
    if "compile" in said:
        return _headers_mend(facts)
    return _REBUILD.format(option=option)


def _labs(facts: Facts) -> Iterator[Check]:
    if facts.left_behind is None:
        yield Check("labs", "left behind", State.WARNING, "may not be looked at",
                    "not known whether a lab died half-way", "sudo lab doctor")
    elif facts.left_behind:
        yield Check("labs", "left behind", State.WARNING, ", ".join(facts.left_behind),
                    "namespaces, links and programs that nobody uses", "lab gc")
    else:
        yield Check("labs", "left behind", State.OK, "none")
