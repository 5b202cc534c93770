"""`make vm-test`: a Debian system provisioned as Vagrant does it, booted by qemu, and tested there.

The one thing to know: whatever ends this program, kill -9 too, nothing stays but files. What runs
in the new system while it is made does so in mount and process namespaces of its own, so the
kernel takes mounts and processes back with them, and qemu dies with us.

VM_TEST_DIR keeps the bare Debian system for the next time; what the project does to it, and the
boot, are done anew each time. The VM has no network at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from fastpath.errors import NetlabError, SystemRefused, UserError
from vagrant import vm_verdict
from vagrant.vm_boot import ARCHES, CPUS, Arch, Vm
from vagrant.vm_progress import Timings, say
from vagrant.vm_system import SUITE, System, remove

PROJECT = Path(__file__).resolve().parents[1]
# Real DHCP servers that tests in the VM run, unpacked before it loses the network.
_PEERS = ("dnsmasq-base",)
_NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "results")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Compiles what the VM runs, for no CPU in particular: emulated, it would take ten times as long.
_COMPILE = """
cd /
for path in "" /vagrant; do
    PYTHONPATH=$path lab test relay --name compile -- --clients 20
done
"""


def needs(arch: Arch, *, install: bool) -> None:
    """SystemRefused unless this machine has what it takes; `install` has apt-get get it first."""
    if os.geteuid() != 0:
        raise SystemRefused("a Debian system is made with root's rights", "sudo make vm-test")
    wanted = {"debootstrap": "debootstrap", arch.qemu: arch.package, "mkfs.ext4": "e2fsprogs",
              "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring"}

    def missing() -> list[str]:
        return [package for name, package in wanted.items()
                if not (Path(name).exists() if "/" in name else shutil.which(name))]

    if missing() and install and shutil.which("apt-get"):
        say(f"installing {' '.join(missing())}")
        quiet = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]
        for words in (["update"], ["install", "-y", "--no-install-recommends", *missing()]):
            subprocess.run([*quiet, *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if missing():
        raise SystemRefused(f"not on this machine: {', '.join(missing())}",
                            f"apt install {' '.join(missing())}")


def make(system: System, timings: Timings) -> None:
    """The project in the bare system, provisioned by the very script that Vagrant runs."""
    shutil.copytree(PROJECT, system.root / "vagrant", symlinks=True, ignore=_NOT_COPIED)
    with system.prepared():
        with timings.part("provision", "provisioning"):
            system.run("provision", "/vagrant/vagrant/provision.sh", PROJECT_DIR="/vagrant",
                       EXTRAS="dev")
        with timings.part("peers", "unpacking servers of others"):
            system.run("peers", "sh", "-c", 'cd /vagrant && exec "$0" -m tests.peers.unpack "$@"',
                       "/opt/dhcp-netlab/bin/python", *_PEERS)
        system.whole_seconds("vagrant", "opt/dhcp-netlab")
        with timings.part("compile", "compiling kernels"):
            try:
                # In a network of its own: it builds a lab.
                system.run("compile", "unshare", "--net", "sh", "-euc", _COMPILE,
                           NUMBA_CPU_NAME="generic")
            except SystemRefused as error:
                say(f"{error.what}; the VM compiles them itself, which takes it some minutes")
    shutil.copy(PROJECT / "vagrant/vm-test-init", system.root / "sbin/vm-test-init")


@contextlib.contextmanager
def workplace(named: str | None) -> Iterator[Path]:
    """The directory to work in: a temporary one, or `named`, of which only `base` stays."""
    place = Path(named).absolute() if named else Path(tempfile.mkdtemp(prefix="vm-test-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        yield place
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        for name in ("new", "system", "results", "image"):
            remove(place / name)
        if not named:
            remove(place)


def bring_back(results: Path, target: Path) -> None:
    """What the VM and the making of it left, to where the user looks for it."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(results, target)


def conclude(results: Path, plan: vm_verdict.Planned, clients: int,
             about: Mapping[str, object]) -> list[str]:
    """What is wrong with what the VM left, a line each. With nothing wrong figures.json is there,
    which begins with `about`, and the user is told of it."""
    if faults := vm_verdict.faults(results, plan, clients):
        return faults
    figures = {**about, **vm_verdict.figures(results, plan)}
    (results / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    for line in vm_verdict.told(figures):
        say(line)
    return []


def test(options: argparse.Namespace) -> int:
    arch = ARCHES.get(platform.machine())
    if arch is None:
        raise UserError(f"{platform.machine()}: known are {', '.join(ARCHES)}", "use one of those")
    needs(arch, install=options.install)
    plan = vm_verdict.planned(PROJECT)
    timings = Timings()
    began = time.monotonic()
    with workplace(options.dir) as place:
        results = place / "results"
        results.mkdir()
        (results / "tests.list").write_text(
            "".join(f"{name}\n" for files in plan.values() for name in files))
        try:
            system = System(place / "system", results, options.timeout)
            with timings.part("debootstrap", f"Debian {SUITE}"):
                system.bare(arch, place / "base")
            make(system, timings)
            with timings.part("image", "making the image"):
                system.image(place / "image")
            vm = Vm(arch, place / "image", system.kernel(), results, options.clients)
            accelerator = vm.boot(timings, options.timeout)
            timings.seconds["whole_s"] = round(time.monotonic() - began, 1)
            faults = conclude(results, plan, options.clients, {
                "accelerator": accelerator, "cpus": CPUS, **timings.seconds})
        finally:
            bring_back(results, options.results)
    for line in faults:
        say(line)
    say(f"{'failed' if faults else 'passed'}; see {options.results}")
    return 1 if faults else 0


def _stopped(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)


def main() -> int:
    parser = argparse.ArgumentParser(prog="vm-test", description=__doc__.splitlines()[0])
    parser.add_argument("--install", action="store_true", help="apt-get install what is missing")
    parser.add_argument("--dir", default=os.environ.get("VM_TEST_DIR"),
                        help="work there, and keep the bare system (VM_TEST_DIR)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS",
                        default=os.environ.get("VM_TEST_TIMEOUT_S", "3600"),
                        help="for the VM, and for each part before it (VM_TEST_TIMEOUT_S)")
    parser.add_argument("--clients", type=int, default=20_000, help="of the demo")
    parser.add_argument("--results", type=Path, default=PROJECT / "results/vm-test")
    for number in _SIGNALS:
        signal.signal(number, _stopped)
    try:
        return test(parser.parse_args())
    except NetlabError as error:
        print(f"vm-test: {error.what}\n         {error.remedy}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
