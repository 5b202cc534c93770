"""The checks of `lab doctor` on machines of every kind, none of which is here."""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from click.testing import CliRunner

from fastpath.errors import SystemRefused
from netlab import apart, ebpf_trial, features
from netlab import facts as machine
from netlab.commands.doctor import doctor
from netlab.doctor import Check, State, examine, install, works
from netlab.ebpf_trial import STEPS
from netlab.facts import PROGRAMS, SYSCTLS, Facts
from netlab.features import TRIALS, Features, Found

YES = Found(True)
EVERYTHING = Features(MappingProxyType({"netns": YES, **dict.fromkeys(TRIALS, YES)}))
ALL_CAPABILITIES = (1 << 41) - 1
EBPF = MappingProxyType({step: Found(True, f"{step} works") for step in STEPS})
SOUND = Facts(
    python=(3, 12, 1), distribution={"ID": "debian", "PRETTY_NAME": "Debian GNU/Linux 12"},
    kernel="6.1.0", root=True, features=EVERYTHING, rootless=replace(EVERYTHING, rootless=True),
    sysctls=dict.fromkeys(SYSCTLS, "100000000") | {"kernel.unprivileged_userns_clone": "1",
                                                   "kernel.apparmor_restrict_unprivileged_userns":
                                                   "0"},
    programs=dict.fromkeys(PROGRAMS, "1.2"), nofile=(1024, 1 << 20), memory_bytes=8 << 30, cpus=8,
    governor="performance", clocksource="tsc", machine="x86_64",
    capabilities=ALL_CAPABILITIES, own_users=False, btf=True, ebpf=EBPF, left_behind=())


def without(found: Features, *names: str, said: str = "unknown device type") -> Features:
    return replace(found, found={**found.found, **dict.fromkeys(names, Found(False, said))})


def one(facts: Facts, name: str) -> Check:
    (found,) = [check for check in examine(facts) if check.name == name]
    return found


def test_a_sound_machine_lacks_nothing() -> None:
    checks = examine(SOUND)
    assert {check.state for check in checks} == {State.OK}
    assert not any(check.costs or check.mend for check in checks)
    assert works(checks)


def test_what_is_not_ok_says_what_it_costs_and_what_mends_it() -> None:
    wreck = Facts(python=(3, 8, 0), distribution={}, kernel="3.10", root=False,
                  features=Features({"netns": Found(False, "operation not permitted")}, True),
                  rootless=Features({"netns": Found(False, "operation not permitted")}, True),
                  sysctls=dict.fromkeys(SYSCTLS, "0"), programs=dict.fromkeys(PROGRAMS, None),
                  nofile=(64, 64), memory_bytes=1 << 20, cpus=1, governor="powersave",
                  clocksource="hpet", machine="riscv64", capabilities=0,
                  own_users=True, btf=False,
                  ebpf=dict.fromkeys(STEPS, Found(False, "no answer")), left_behind=None)
    checks = examine(wreck)
    assert not works(checks)
    for check in checks:
        assert (check.state is State.OK) == (not check.costs and not check.mend), check
    assert sum(check.state is State.OK for check in checks) <= 2, "the distribution, conntrack"


@pytest.mark.parametrize(("trial", "name", "needed"), [
    ("netns", "network namespaces", True), ("veth", "veth pairs", True),
    ("bridge", "bridges", True), ("packet_ring", "AF_PACKET rings", True),
    ("tbf", "tbf queues", False), ("netem", "netem queues", False),
    ("vlan", "802.1Q devices", False), ("macvlan", "macvlan", False),
    ("nf_tables", "nf_tables", False), ("xdp", "XDP programs", False)])
def test_each_trial(trial: str, name: str, needed: bool) -> None:
    facts = replace(SOUND, features=without(EVERYTHING, trial))
    check = one(facts, name)
    assert check.state is State.MISSING
    assert check.found == "unknown device type"
    assert "CONFIG_" in check.mend
    assert works(examine(facts)) is not needed


def test_what_was_not_tried_is_missing() -> None:
    facts = replace(SOUND, features=Features({"netns": Found(False, "no space left")}))
    assert one(facts, "veth pairs").state is State.MISSING
    assert "not tried" in one(facts, "veth pairs").found
    assert not works(examine(facts))


def test_what_is_forbidden_needs_no_other_kernel() -> None:
    facts = replace(SOUND, root=False, features=replace(
        without(EVERYTHING, "xdp", said="operation not permitted"), rootless=True))
    assert one(facts, "XDP programs").mend == "run with sudo"
    assert one(facts, "root").state is State.WARNING
    assert works(examine(facts))


def test_an_ordinary_user_with_the_capabilities() -> None:
    assert one(replace(SOUND, root=False), "root").state is State.OK


@pytest.mark.parametrize(("sysctl", "value", "mend"), [
    ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1",
     "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"),
    ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
    ("user.max_user_namespaces", "500", "boot a kernel built with CONFIG_USER_NS")])
def test_user_namespaces(sysctl: str, value: str, mend: str) -> None:
    # AppArmor lets the namespace be made, and then nothing in it.
    for trial in ("netns", "veth"):
        facts = replace(SOUND, rootless=without(EVERYTHING, trial, said="operation not permitted"),
                        sysctls={**SOUND.sysctls, sysctl: value})
        check = one(facts, "user namespaces")
        assert (check.state, check.mend) == (State.MISSING, mend)
        assert works(examine(facts)), "root needs none"


@pytest.mark.parametrize(("name", "value", "state"), [
    ("net.core.netdev_max_backlog", "1000", State.WARNING),
    ("net.core.netdev_max_backlog", "9999", State.WARNING),
    ("net.core.netdev_max_backlog", "10000", State.OK),
    ("net.core.rmem_max", "212992", State.WARNING),
    ("net.core.wmem_max", "4194304", State.OK),
    ("user.max_net_namespaces", "100", State.WARNING)])
def test_settings(name: str, value: str, state: State) -> None:
    check = one(replace(SOUND, sysctls={**SOUND.sysctls, name: value}), name)
    assert check.state is state
    assert check.mend.startswith(f"sysctl -w {name}=" if state is State.WARNING else "")


@pytest.mark.parametrize("value", [None, "", "max", "-1"])
def test_a_setting_that_is_not_there_or_no_number(value: str | None) -> None:
    checks = examine(replace(SOUND, sysctls=dict.fromkeys(SYSCTLS, value)))
    assert "net.core.rmem_max" not in [check.name for check in checks]
    assert works(checks)


@pytest.mark.parametrize(("release", "command"), [
    ({"ID": "debian"}, "apt install kea-dhcp4-server && systemctl disable --now kea-dhcp4-server"),
    ({"ID": "ubuntu"}, "apt install kea-dhcp4-server && systemctl disable --now kea-dhcp4-server"),
    ({"ID": "mint", "ID_LIKE": "ubuntu debian"},
     "apt install kea-dhcp4-server && systemctl disable --now kea-dhcp4-server"),
    ({"ID": "fedora"}, "dnf install kea"), ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"},
                                            "dnf install kea"),
    ({"ID": "opensuse-leap"}, "zypper install kea"), ({"ID": "arch"}, "pacman -S kea"),
    ({"ID": "alpine"}, "apk add kea-dhcp4"), ({"ID": "plan9"}, "install kea"),
    ({}, "install kea")])
def test_packages_by_distribution(release: dict[str, str], command: str) -> None:
    facts = replace(SOUND, distribution=release, programs={**SOUND.programs, "kea-dhcp4": None})
    assert one(facts, "kea-dhcp4").mend == command


def test_a_family_without_the_package() -> None:
    assert install(SOUND, {"fedora": "x", "": "y"}) == "apt install y"


def test_a_program_that_does_not_say_its_version_is_there() -> None:
    check = one(replace(SOUND, programs={**SOUND.programs, "udhcpd": ""}), "udhcpd")
    assert (check.state, check.found) == (State.OK, "there")


@pytest.mark.parametrize(("change", "name"), [
    ({"nofile": (256, 256)}, "open files"), ({"memory_bytes": 1 << 28}, "memory"),
    ({"cpus": 1}, "CPUs"), ({"governor": "powersave"}, "CPU governor"),
    ({"clocksource": "acpi_pm"}, "clock source"), ({"clocksource": ""}, "clock source"),
    ({"left_behind": ("old", "older")}, "left behind"),
    ({"left_behind": None}, "left behind")])
def test_warnings(change: dict[str, object], name: str) -> None:
    facts = replace(SOUND, **change)  # type: ignore[arg-type]
    assert one(facts, name).state is State.WARNING
    assert works(examine(facts))


def test_no_limit_of_open_files() -> None:
    assert one(replace(SOUND, nofile=(1024, -1)), "open files").state is State.OK


def ebpf(facts: Facts = SOUND, **said: str) -> Facts:
    """`facts` of a machine where these steps failed, and what they said."""
    failed = {step: Found(False, text) for step, text in said.items()}
    return replace(facts, ebpf={**facts.ebpf, **failed})


@pytest.mark.parametrize(("facts", "name", "mend"), [
    (ebpf(bcc="not found (PyPI's bcc is something else)"), "bcc", "apt install python3-bpfcc"),
    (ebpf(bcc="bcc at /usr/lib does not start: libbcc.so.0: cannot open"), "bcc",
     "apt install --reinstall python3-bpfcc libbpfcc"),
    (ebpf(bcc="killed by SIGSEGV"), "bcc", "apt install --reinstall python3-bpfcc libbpfcc"),
    (ebpf(headers="no kernel headers"), "kernel headers",
     "apt install linux-headers-$(uname -r) || apt install linux-headers-amd64"),
    (ebpf(replace(SOUND, machine="aarch64"), headers="none"), "kernel headers",
     "apt install linux-headers-$(uname -r) || apt install linux-headers-arm64"),
    (ebpf(replace(SOUND, distribution={"ID": "mint", "ID_LIKE": "ubuntu debian"}), headers="none"),
     "kernel headers",
     "apt install linux-headers-$(uname -r) || apt install linux-headers-generic"),
    (ebpf(replace(SOUND, distribution={"ID": "fedora"}), headers="none"), "kernel headers",
     "dnf install kernel-devel-$(uname -r)"),
    (ebpf(replace(SOUND, distribution={"ID": "arch"}), bcc="not found"), "bcc",
     "pacman -S python-bcc"),
    (ebpf(libbpf="libbpf is not installed"), "libbpf", "apt install libbpf1"),
    (ebpf(replace(SOUND, distribution={}), libbpf="libbpf is not installed"), "libbpf",
     "install libbpf"),
    (replace(SOUND, btf=False), "BTF", "boot a kernel built with CONFIG_DEBUG_INFO_BTF"),
    (replace(SOUND, features=without(EVERYTHING, "clsact")), "tc clsact",
     "modprobe -a sch_ingress cls_bpf, or boot a kernel built with CONFIG_NET_SCH_INGRESS and "
     "CONFIG_NET_CLS_BPF"),
    (ebpf(program="bpf: Failed to load program: Operation not permitted"), "programs",
     "let this container load programs, or boot without kernel lockdown"),
    (ebpf(replace(SOUND, capabilities=0), program="Operation not permitted"), "programs",
     "sudo lab doctor"),
    (ebpf(program="not tried without headers"), "programs", "first mend what is missing above"),
    (ebpf(program="bcc cannot compile smallest.c: unknown type"), "programs",
     "apt install linux-headers-$(uname -r) || apt install linux-headers-amd64"),
    (ebpf(program="Invalid argument"), "programs",
     "boot a kernel built with CONFIG_BPF_SYSCALL"),
    (ebpf(tracepoint="the kernel has no tracepoint kfree_skb for us"), "tracepoints",
     "boot a kernel built with CONFIG_BPF_EVENTS")])
def test_what_ebpf_lacks(facts: Facts, name: str, mend: str) -> None:
    check = one(facts, name)
    assert (check.group, check.state, check.mend) == ("eBPF", State.MISSING, mend)
    assert "--ebpf" in check.costs
    assert works(examine(facts)), "all of it is optional"


@pytest.mark.parametrize(("capabilities", "lacks"), [
    (0, "without CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN"), (1 << 12, "without CAP_BPF, CAP_PERFMON"),
    (1 << 21, "without CAP_NET_ADMIN"), (1 << 39 | 1 << 12, "without CAP_PERFMON"),
    # Before Linux 5.8 there was only the one that is all of them.
    (1 << 21 | 1 << 12, ""), (1 << 39 | 1 << 38 | 1 << 12, ""), (ALL_CAPABILITIES, "")])
def test_capabilities(capabilities: int, lacks: str) -> None:
    check = one(replace(SOUND, capabilities=capabilities), "privilege")
    assert (check.state, check.found if lacks else "") == (
        State.MISSING if lacks else State.OK, lacks)


def test_a_user_namespace_loads_no_programs_whatever_its_capabilities() -> None:
    check = one(replace(SOUND, own_users=True), "privilege")
    assert check.state is State.MISSING
    assert "user namespace" in check.found


def test_a_kernel_without_drop_reasons_counts_all_the_same() -> None:
    facts = ebpf(reasons="this kernel knows none")
    assert one(facts, "drop reasons").state is State.WARNING
    assert one(facts, "drop reasons").mend == "boot Linux 5.17 or later"


@pytest.mark.parametrize("facts", [replace(ebpf(reasons="x"), btf=False),
                                   ebpf(reasons="not tried without libbpf", libbpf="gone")])
def test_a_kernel_that_could_not_be_asked_for_drop_reasons_is_not_blamed(facts: Facts) -> None:
    assert "drop reasons" not in [check.name for check in examine(facts)]


def test_a_python_that_is_too_old() -> None:
    assert not works(examine(replace(SOUND, python=(3, 9, 18))))


@pytest.mark.parametrize(("facts", "code", "said"), [
    (SOUND, 0, "A basic lab works here."),
    (replace(SOUND, features=without(EVERYTHING, "veth", "bridge")), 1,
     "No lab works here without: veth pairs, bridges.")])
def test_the_command(monkeypatch: pytest.MonkeyPatch, facts: Facts, code: int, said: str) -> None:
    monkeypatch.setattr(machine, "gather", lambda: facts)
    told = CliRunner().invoke(doctor)
    assert (told.exit_code, told.output.splitlines()[-1]) == (code, said)
    document = json.loads(CliRunner().invoke(doctor, ["--json"]).output)
    assert document["works"] is (code == 0)
    assert {"group", "check", "state", "found", "costs", "mend", "needed"} == set(
        document["checks"][0])


def test_this_machine_can_be_looked_at() -> None:
    facts = machine.gather()
    assert facts.features.found.keys() >= {"netns"}
    assert facts.cpus >= 1
    examine(facts)


@pytest.mark.parametrize(("does", "said"), [
    (lambda **_: 1 / 0, "the trial failed: ZeroDivisionError"),
    (lambda **_: time.sleep(60), "the trial failed: no answer")])
def test_a_trial_that_fails_or_hangs(monkeypatch: pytest.MonkeyPatch, does: object,
                                     said: str) -> None:
    monkeypatch.setattr(features, "_try_all", does)
    monkeypatch.setattr(features, "_TIMEOUT_S", 0.2)
    features.probe.cache_clear()
    try:
        assert features.probe().found["netns"].said.startswith(said)
        assert features.probe().has == frozenset()
    finally:
        features.probe.cache_clear()


def steps(**changed: Callable[[object], str]) -> dict[str, object]:
    """STEPS that say their names, some of them changed."""
    return {name: (changed.get(name, lambda _, name=name: f"{name}!"), needs)
            for name, (_, needs) in STEPS.items()}


def refuse(_: object) -> str:
    raise SystemRefused("cannot", "never seen")


def crash(_: object) -> str:
    faulthandler.disable()  # pytest's, which would tell of it
    os.kill(os.getpid(), signal.SIGSEGV)
    return ""


def hang(_: object) -> str:
    time.sleep(60)
    return ""


@pytest.mark.parametrize(("changed", "expected"), [
    ({}, {name: f"{name}!" for name in STEPS}),
    ({"headers": refuse}, {"headers": "cannot", "libbpf": "libbpf!",
                           "program": "not tried without headers",
                           "tracepoint": "not tried without program"}),
    ({"bcc": lambda _: 1 / 0}, {"bcc": "ZeroDivisionError: division by zero",
                                "headers": "headers!"}),
    ({"bcc": sys.exit}, {"headers": "headers!"}),
    ({"bcc": crash}, {"bcc": "killed by SIGSEGV", "headers": "not tried after that"}),
    ({"program": crash}, {"libbpf": "libbpf!", "program": "killed by SIGSEGV",
                          "tracepoint": "not tried after that"}),
    ({"program": hang}, {"reasons": "reasons!", "program": "no answer",
                         "tracepoint": "not tried after that"}),
    ({"headers": lambda _: os._exit(1)}, {"bcc": "bcc!", "headers": "no answer"})])
def test_steps_that_fail_crash_or_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                       changed: dict[str, Callable[[object], str]],
                                       expected: dict[str, str]) -> None:
    monkeypatch.setattr(ebpf_trial, "STEPS", steps(**changed))
    monkeypatch.setattr(ebpf_trial, "_TIMEOUT_S", 0.3)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ebpf_trial.under_way() as ask:
        found = ask()
    assert {name: found[name].said for name in expected} == expected
    assert found.keys() == STEPS.keys()
    assert [name for name in STEPS if found[name].said.endswith("!")] == [
        name for name in STEPS if found[name].ok]
    assert not list(tmp_path.iterdir())


def test_steps_that_nobody_waits_for_end_with_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ebpf_trial, "STEPS", steps(bcc=hang))
    began = time.monotonic()
    with pytest.raises(KeyError), ebpf_trial.under_way():
        raise KeyError
    assert time.monotonic() - began < 5
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.root
@pytest.mark.bcc
def test_the_steps_themselves() -> None:
    with ebpf_trial.under_way() as ask:
        found = ask()
    assert {name: each.said for name, each in found.items() if not each.ok} == {}
    assert re.fullmatch(r"compiled and loaded in \d+\.\d s", found["program"].said)
    assert int(found["reasons"].said.removesuffix(" known")) > 50


@pytest.mark.root
@pytest.mark.bcc
def test_what_the_kernel_refuses_is_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    past = ebpf_trial._SMALLEST.replace("return TC_ACT_UNSPEC", "return *(u64 *)16")
    assert past != ebpf_trial._SMALLEST
    monkeypatch.setattr(ebpf_trial, "_SMALLEST", past)
    with ebpf_trial.under_way() as ask:
        found = ask()
    assert found["program"].said.startswith("the kernel does not take smallest: ")
    assert found["tracepoint"].said == "not tried without program"


def test_more_than_a_pipe_holds_is_told_whole() -> None:
    with apart.start(lambda tell: [tell(b"x" * 1000) for _ in range(1000)]) as child:
        told, ended = child.answer(10)
    assert (len(told), ended) == (1_000_000, "")


def test_what_a_child_says_elsewhere_nobody_hears(capfd: pytest.CaptureFixture[str]) -> None:
    with apart.start(lambda _: os.write(2, b"noise")) as child:
        assert child.answer(10) == (b"", "")
    assert capfd.readouterr().err == ""


def test_programs_are_asked_for_their_version(monkeypatch: pytest.MonkeyPatch,
                                              tmp_path: Path) -> None:
    for name, script in (("kea-dhcp4", "echo 2.4.1"), ("dhcpd", "echo isc-dhcpd-4.4.3-P1 >&2"),
                         ("dnsmasq", "exit 3"), ("udhcpd", "printf '\\377\\376'")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "dhcrelay").write_text("no program")
    (tmp_path / "dhcrelay").chmod(0o755)
    monkeypatch.setenv("DHCP_NETLAB_BIN", str(tmp_path))
    monkeypatch.setenv("PATH", "/nonexistent")
    assert machine.gather().programs == {
        "kea-dhcp4": "2.4.1", "dhcpd": "4.4.3-P1", "dnsmasq": "", "udhcpd": "", "dhcrelay": "",
        "perfdhcp": None, "tshark": None}
