"""A Debian system in a directory: made with debootstrap, changed by commands that run in it.

The one thing to know: what runs in it has mount and process namespaces of its own, so that
nothing is ever mounted for others to see, and nothing lives on when a command, or we, end.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from fastpath.errors import SystemRefused
from vagrant import vm_host
from vagrant.vm_boot import Arch

SUITE = "bookworm"
# As in every box: what the bare system has before it is provisioned.
_BARE = ("ca-certificates", "kmod", "iproute2", "procps")
# Room in the image beyond what the system takes.
_FREE_MIB = 2048
_REMOVALS = 10
# $1: the system, the rest: the directories of the host to be read there, then "--", then a command.
# Daemons of packages are not to start here: this is the host's network.
_ENTER = """
root=$1; shift
# A mount point, as / is on every machine.
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sys "$root/sys"
mount -t tmpfs run "$root/run"
mount -t devpts devpts "$root/dev/pts" 2> /dev/null || :
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind -o ro "$1" "$root$1"
    shift
done
shift
exec chroot "$root" "$@"
"""
_POLICY = "usr/sbin/policy-rc.d"
_CERTIFICATES = "tmp/host-certificates.crt"


def isolated(command: Sequence[str]) -> list[str]:
    """`command` in mount and process namespaces that end with it, and it with us."""
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--mount", "--pid", "--fork",
            "--kill-child", "--", *command]


def run(command: Sequence[str], env: Mapping[str, str], log: Path, timeout_s: float) -> None:
    """Run to the end, output into `log`; SystemRefused with the end of that where it fails."""
    with log.open("ab") as out:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            process.kill()
            process.wait()
    if code:
        for line in log.read_text(errors="replace").splitlines()[-20:]:
            print(f"  {line}", file=sys.stderr)
    if code != 0:
        raise SystemRefused(f"{log.stem}: " + (f"ended with {code}" if code else
                            f"not done in {timeout_s:g} s (VM_TEST_TIMEOUT_S)"),
                            "see what it said above")


def remove(tree: Path) -> None:
    """Delete it, and nothing that might be mounted in it."""
    for _ in range(_REMOVALS):
        if not subprocess.run(["rm", "-rf", "--one-file-system", str(tree)]).returncode:
            return
        # What was killed a moment ago may still have been writing.
        time.sleep(0.2)
    raise SystemRefused(f"cannot remove {tree}", "remove it yourself")


class System:
    """A Debian system in a directory, which commands can be run in."""

    def __init__(self, root: Path, logs: Path, timeout_s: float) -> None:
        self.root = root
        self._logs = logs
        self._timeout_s = timeout_s
        self._pip = vm_host.pip_settings()
        self._places = [str(place) for place in vm_host.local_places(self._pip)]
        self._certificates = self._pip.get("PIP_CERT")

    def bare(self, arch: Arch, base: Path) -> None:
        """A copy of `base`, made with debootstrap where it is not there."""
        if not base.exists():
            mirrors = vm_host.mirrors()
            new = base.with_name("new")
            remove(new)
            packages = ",".join((f"linux-image-{arch.kernel}", *_BARE))
            run(isolated(["debootstrap", "--variant=minbase", f"--include={packages}", SUITE,
                          str(new), mirrors.main]),
                {**os.environ, **vm_host.proxies()}, self._logs / "debootstrap.log",
                self._timeout_s)
            (new / "etc/apt/sources.list").write_text(mirrors.sources(SUITE))
            new.rename(base)
        remove(self.root)
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(self.root)], check=True)
        for name in ("resolv.conf", "hosts"):
            shutil.copyfile(Path("/etc", name), self.root / "etc" / name)

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """What the host lends while the system is made, taken back at the end of the block."""
        policy = self.root / _POLICY
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
        if self._certificates:
            shutil.copyfile(self._certificates, self.root / _CERTIFICATES)
        yield
        policy.unlink()
        (self.root / _CERTIFICATES).unlink(missing_ok=True)
        for place in self._places:
            with contextlib.suppress(OSError):
                os.removedirs(f"{self.root}{place}")

    def run(self, name: str, *command: str, **env: str) -> None:
        """Run to the end in the system; SystemRefused where it fails."""
        settings = self._pip | ({"PIP_CERT": f"/{_CERTIFICATES}"} if self._certificates else {})
        run(isolated(["sh", "-euc", _ENTER, "sh", str(self.root), *self._places, "--", *command]),
            {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
             "HOME": "/root", "LANG": "C.UTF-8", **vm_host.proxies(), **settings, **env},
            self._logs / f"{name}.log", self._timeout_s)

    def whole_seconds(self, *places: str) -> None:
        """Cut the times of sources: an image keeps no more of them (mkfs.ext4 -d), and code that
        was compiled of a source with another time is not used."""
        for place in places:
            for path in (self.root / place).rglob("*.py"):
                second = int(path.lstat().st_mtime)
                os.utime(path, (second, second), follow_symlinks=False)

    def image(self, path: Path) -> None:
        """The system as a file system in a file."""
        used = subprocess.run(["du", "-sm", str(self.root)], check=True, capture_output=True)
        run(["mkfs.ext4", "-q", "-F", "-d", str(self.root), str(path),
             f"{int(used.stdout.split()[0]) * 5 // 4 + _FREE_MIB}M"],
            dict(os.environ), self._logs / "mkfs.log", self._timeout_s)

    def kernel(self) -> tuple[Path, Path]:
        """Kernel and initial RAM disk, the newest that it has."""
        newest = max((self.root / "boot").glob("vmlinuz-*"), key=lambda path: path.stat().st_mtime)
        return newest, newest.with_name(newest.name.replace("vmlinuz", "initrd.img"))
