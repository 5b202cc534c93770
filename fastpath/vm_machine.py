"""The project's VM: where its Vagrantfile is, whether it runs, and commands in it through ssh.

The one thing to know: `vagrant` takes seconds to answer anything, so how to reach the VM is kept
in a file beside Vagrant's own. Vagrant is asked again when that no longer leads there.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

from fastpath.errors import SystemRefused, UserError

DIRECTORY_ENV = "DHCP_NETLAB_VM_DIR"
# ssh's own exit code where it got nowhere; a command may end with it too.
UNREACHABLE = 255
# Providers whose share of the project works both ways (the Vagrantfile has their table).
SHARED_BOTH_WAYS = {"virtualbox", "vmware_desktop", "parallels", "libvirt", "hyperv"}
_SYSTEMS = {"darwin": "macOS", "win32": "Windows"}
_OURS = Path("vagrant/provision.sh")
_SAID = "# provider: "
_CONNECT_S = 10
_VAGRANT_SITE = "https://developer.hashicorp.com/vagrant/install"
_WINDOWS_SSH = "install it: Settings, Optional features, OpenSSH Client"


class NoVm(SystemRefused):
    """There is none, or it does not run. commands: what to type before the command itself."""

    def __init__(self, what: str, *commands: str) -> None:
        super().__init__(what)
        self.commands = commands


def find_directory(environ: Mapping[str, str]) -> Path:
    """The directory with our Vagrantfile: $DHCP_NETLAB_VM_DIR, the working directory or one above
    it, else where this package was checked out. Raises UserError and SystemRefused.
    """
    if named := environ.get(DIRECTORY_ENV):
        if not (Path(named) / "Vagrantfile").is_file():
            raise UserError(f"{DIRECTORY_ENV}: no Vagrantfile in {named}",
                            "name the directory of dhcp-netlab's Vagrantfile")
        return Path(named).absolute()
    here = Path.cwd()
    # The source last: an installed package has none.
    for place in (here, *here.parents, Path(__file__).absolute().parents[1]):
        if (place / "Vagrantfile").is_file() and (place / _OURS).is_file():
            return place
    raise SystemRefused(f"this is {system()}: the lab runs in a VM, and its Vagrantfile is neither "
                        "here nor above",
                        f"go to the project's directory, or set {DIRECTORY_ENV} to it")


def system() -> str:
    """What this system calls itself."""
    return _SYSTEMS.get(sys.platform, sys.platform)


class Machine:
    """The VM of a directory. shared: the directory, where the VM sees it both ways, else None."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._config = directory / os.environ.get("VAGRANT_DOTFILE_PATH", ".vagrant") / \
            "dhcp-netlab-ssh"
        self._fresh = False
        self.shared: Path | None = None
        found = shutil.which("ssh")
        if found is None:
            raise SystemRefused("no ssh here", _WINDOWS_SSH if os.name == "nt" else "install it")
        self._ssh = found

    def connect(self) -> None:
        """Find out how to reach the VM. Raises NoVm, or SystemRefused where Vagrant says no."""
        try:
            known = self._config.read_text(encoding="utf-8")
        except (OSError, ValueError):
            self._ask()
            return
        self._use(known.partition("\n")[0].removeprefix(_SAID))

    def _use(self, provider: str) -> None:
        self.shared = self._directory if provider in SHARED_BOTH_WAYS else None

    def _ask(self) -> None:
        """Ask Vagrant, and keep what it says."""
        self._fresh = True
        said = dict(re.findall(r"^\d+,[^,\n]*,(provider-name|state),([^,\r\n]*)",
                               self._vagrant("status", "--machine-readable"), re.MULTILINE))
        state, provider = said.get("state", "not_created"), said.get("provider-name", "")
        if state != "running":
            missing = state == "not_created"
            what = "there is none yet" if missing else f"it is not running ({state})"
            raise NoVm(f"this is {system()}: the lab runs in a VM, and {what}; type:",
                       *self._up())
        config = f"{_SAID}{provider}\n{self._vagrant('ssh-config')}"
        try:
            self._config.parent.mkdir(parents=True, exist_ok=True)
            self._config.write_text(config, encoding="utf-8")
        except OSError as error:
            raise SystemRefused(f"cannot write {self._config}: {error.strerror}") from None
        self._use(provider)

    def _up(self) -> tuple[str, ...]:
        """The command that brings the VM up, from where we are."""
        if Path.cwd().is_relative_to(self._directory):
            return ("vagrant up",)
        name = str(self._directory)
        if os.name == "nt":
            return (f"pushd {subprocess.list2cmdline([name])}", "vagrant up", "popd")
        return (f"(cd {shlex.quote(name)} && vagrant up)",)

    def _vagrant(self, *words: str) -> str:
        program = shutil.which("vagrant")
        if program is None:
            raise NoVm(f"this is {system()}: the lab runs in a VM, and Vagrant is not installed; "
                       f"get it at {_VAGRANT_SITE}, then type:", *self._up())
        done = subprocess.run([program, *words], cwd=self._directory, stdin=subprocess.DEVNULL,
                              capture_output=True, encoding="utf-8", errors="replace")
        if done.returncode:
            # Its form for machines has an error in a line of its own.
            said = re.findall(r",error-exit,[^,\n]*,([^\r\n]+)", done.stdout)
            plain = said[0].replace("%!(VAGRANT_COMMA)", ",").replace("\\n", " ") if said \
                else done.stderr or f"exit code {done.returncode}"
            raise SystemRefused(f"vagrant {words[0]}: {' '.join(plain.split())}",
                                "see: vagrant status")
        return done.stdout

    def popen(self, command: str, *, terminal: bool = False, stdin: int | None = None,
              stdout: int | None = None) -> subprocess.Popen[bytes]:
        """Start `command`, words of a POSIX shell, as root in the VM."""
        # A group of its own is how Windows keeps Ctrl-C from a child.
        flags = 0 if terminal else getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
        return subprocess.Popen(
            [self._ssh, "-F", str(self._config), "-o", f"ConnectTimeout={_CONNECT_S}",
             "-o", "ServerAliveInterval=15", "-tt" if terminal else "-T", "default",
             f"sudo -n sh -c {shlex.quote(command)}"],
            stdin=stdin, stdout=stdout, creationflags=flags)

    def run(self, command: str) -> int:
        """Run `command`, which reads nothing; its exit code."""
        return self.popen(command, stdin=subprocess.DEVNULL).wait()

    def send(self, command: str, write: Callable[[IO[bytes]], None]) -> None:
        """Run `command` with what `write` gives it to read.

        Raises SystemRefused when it fails; when the VM is not where it was, Vagrant is asked and
        it is tried once more.
        """
        code = self._feed(command, write)
        if code == UNREACHABLE and not self._fresh:
            self._ask()
            code = self._feed(command, write)
        if code == UNREACHABLE:
            raise SystemRefused("the VM runs, and does not answer to ssh", "type: vagrant reload")
        if code:
            raise SystemRefused("the VM did not take the command's files", "see what it said above")

    def _feed(self, command: str, write: Callable[[IO[bytes]], None]) -> int:
        ssh = self.popen(command, stdin=subprocess.PIPE)
        assert ssh.stdin is not None
        # Who does not listen to the end says why by how it ends.
        with contextlib.suppress(OSError), ssh.stdin:
            write(ssh.stdin)
        return ssh.wait()
