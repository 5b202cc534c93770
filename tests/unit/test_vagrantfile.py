"""The Vagrantfile and what provisions the VM, as far as they can be checked without a VM.

A provider's own settings are validated where Vagrant has the provider and its program: Debian's
package has VirtualBox's, and here a stand-in says that it is installed. Those of plugins are
only read by Vagrant that has the plugin.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from netlab.doctor import _SYSCTLS

ROOT = Path(__file__).parents[2]
PROVISION = ROOT / "vagrant/provision.sh"


def validate(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("vagrant") is None:
        pytest.skip("no vagrant: apt install --no-install-recommends vagrant")
    virtualbox = tmp_path / "bin/VBoxManage"
    virtualbox.parent.mkdir()
    virtualbox.write_text("#!/bin/sh\necho 7.0.20r163906\n")
    virtualbox.chmod(0o755)
    return subprocess.run(
        ["vagrant", "validate", *words], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PATH": f"{virtualbox.parent}:{os.environ['PATH']}",
             "VAGRANT_HOME": str(tmp_path / "home"), "VAGRANT_CHECKPOINT_DISABLE": "1",
             # Nothing is to appear in the project.
             "VAGRANT_DOTFILE_PATH": str(tmp_path / "dot"),
             "VAGRANT_DEFAULT_PROVIDER": "virtualbox", **environment})


@pytest.mark.parametrize("words", [(), ("--ignore-provider",)])
def test_it_is_valid(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = validate(tmp_path, *words, DHCP_NETLAB_VM_CPUS="3", DHCP_NETLAB_VM_MEMORY_MB="2048",
                    DHCP_NETLAB_VM_BOX="own/box")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validated successfully" in done.stdout


@pytest.mark.parametrize("name, value", [
    ("DHCP_NETLAB_VM_CPUS", "0"), ("DHCP_NETLAB_VM_CPUS", "two"), ("DHCP_NETLAB_VM_CPUS", "4\n5"),
    ("DHCP_NETLAB_VM_MEMORY_MB", "4G")])
def test_a_number_that_is_none_is_named(tmp_path: Path, name: str, value: str) -> None:
    done = validate(tmp_path, **{name: value})
    assert done.returncode != 0
    assert f"{name}: " in done.stderr and "is no whole number" in done.stderr
    assert "Traceback" not in done.stderr and ".rb:" not in done.stderr


def test_the_script_is_sound_bash() -> None:
    subprocess.run(["bash", "-n", PROVISION], check=True)
    assert os.access(PROVISION, os.X_OK)
    # A carriage return would be part of every last word.
    assert b"\r" not in PROVISION.read_bytes()


def test_the_script_refuses_where_it_has_no_business(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        done = subprocess.run([PROVISION], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "") and "run it as root" in done.stderr
        return
    done = subprocess.run([PROVISION], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], "PROJECT_DIR": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"dhcp-netlab: no project in {tmp_path}\n")


def test_the_vm_has_what_doctor_asks_for() -> None:
    given = dict(re.findall(r"([a-z0-9_.]+)=(\d+)", re.search(  # type: ignore[union-attr]
        r"^SYSCTLS=\((.*?)\)", PROVISION.read_text(), re.MULTILINE | re.DOTALL)[1]))
    for name, value in given.items():
        assert int(value) >= _SYSCTLS[name][0], name


def test_the_script_links_every_program() -> None:
    scripts = re.search(r"\[project\.scripts\]\n(.*?)\n\n", (ROOT / "pyproject.toml").read_text(),
                        re.DOTALL)
    assert scripts is not None
    names = re.findall(r"^([\w-]+) = ", scripts[1], re.MULTILINE)
    linked = re.search(r"for program in (.*?); do", PROVISION.read_text())
    assert linked is not None and sorted(linked[1].split()) == sorted(names)
