"""A machine of qemu: an image and a kernel, no network, watched until it powers itself off."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fastpath.errors import SystemRefused
from vagrant.vm_progress import Timings, say

CPUS, MEMORY_MIB = max(2, min(4, os.cpu_count() or 2)), 4096
# A kernel that runs says something in a second or two, an emulated one after six.
_FIRST_WORD_S = 20.0
# What the first process says (vm-test-init).
_UP = b"vm-test: up"


@dataclass(frozen=True)
class Arch:
    """How a machine of one kind is emulated. kernel: linux-image-... of Debian."""

    package: str
    qemu: str
    kernel: str
    console: str
    machine: str
    emulated: str


ARCHES = {
    "x86_64": Arch("qemu-system-x86", "qemu-system-x86_64", "amd64", "ttyS0", "pc",
                   "max"),
    "aarch64": Arch("qemu-system-arm", "qemu-system-aarch64", "arm64", "ttyAMA0", "virt", "max"),
}


@dataclass(frozen=True)
class Vm:
    """What qemu is told, but for who does the work of the CPU."""

    arch: Arch
    image: Path
    kernel: tuple[Path, Path]
    results: Path
    clients: int

    def argv(self, accelerator: str) -> list[str]:
        emulated = accelerator == "tcg"
        # The emulated time stamp counter is the host's: steady, and far cheaper than a timer chip.
        clock = " tsc=reliable clocksource=tsc" if emulated and self.arch.machine == "pc" else ""
        return [
            "setpriv", "--pdeathsig", "KILL", "--",
            self.arch.qemu, "-nodefaults", "-no-reboot", "-display", "none", "-nic", "none",
            "-machine", self.arch.machine, "-smp", str(CPUS), "-m", str(MEMORY_MIB),
            "-accel", "tcg,thread=multi" if emulated else accelerator,
            "-cpu", self.arch.emulated if emulated else "host",
            "-kernel", str(self.kernel[0]), "-initrd", str(self.kernel[1]),
            "-append", f"console={self.arch.console} root=/dev/vda rw init=/sbin/vm-test-init "
                       f"panic=-1 quiet CLIENTS={self.clients}{clock}",
            "-drive", f"file={self.image},format=raw,if=virtio,cache=unsafe",
            "-virtfs", f"local,path={self.results},mount_tag=results,security_model=none",
            "-serial", "stdio"]

    def boot(self, timings: Timings, timeout_s: float) -> str:
        """Run the VM until it powers itself off; returns who did the work of its CPU.

        A host can have /dev/kvm and no CPU to run a guest on: where the kernel says nothing,
        it is emulated.
        """
        for accelerator in ("kvm", "tcg"):
            if accelerator == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
                continue
            first_word_s = _FIRST_WORD_S if accelerator == "kvm" else timeout_s
            if self._watch(accelerator, timings, first_word_s, timeout_s):
                return accelerator
            say(f"qemu's {accelerator} runs no kernel here")
        raise SystemRefused("qemu ran no kernel", f"see {self.results / 'console.log'}")

    def _watch(self, accelerator: str, timings: Timings, first_word_s: float,
               timeout_s: float) -> bool:
        """Show what the VM says; whether its first process was heard of."""
        say(f"booting {self.kernel[0].name}, {CPUS} CPUs, by {accelerator}")
        began = time.monotonic()
        process = subprocess.Popen(self.argv(accelerator), stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout
        said, up = b"", False
        try:
            with (self.results / "console.log").open("wb") as log:
                while True:
                    left_s = began + (timeout_s if up else first_word_s) - time.monotonic()
                    if left_s <= 0 or not select.select([process.stdout], [], [], left_s)[0]:
                        say("qemu was stopped: its time was up")
                        break
                    if not (piece := os.read(process.stdout.fileno(), 1 << 16)):
                        break
                    log.write(piece)
                    sys.stdout.buffer.write(piece)
                    sys.stdout.flush()
                    if not up:
                        said += piece
                        up = _UP in said
                        timings.seconds["boot_s"] = round(time.monotonic() - began, 1)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        timings.seconds["vm_s"] = round(time.monotonic() - began, 1)
        return up
