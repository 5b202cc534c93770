"""Names of filters: whose they are, and whether that process is still there."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ebpf import attach


def own_name() -> str:
    return attach.new_name().rpartition("/")[0]


def test_names_of_this_process_are_its_own_and_all_different() -> None:
    names = [attach.new_name() for _ in range(3)]
    assert len(set(names)) == 3
    for name in (*names, own_name()):
        assert attach.is_ours(name)
        assert not attach.is_abandoned(name)


def test_the_same_number_at_another_time_is_another_process() -> None:
    for name in (f"{own_name()}0", f"{own_name()}0/1", own_name()[:-1]):
        assert not attach.is_ours(name)
        assert attach.is_abandoned(name)


@pytest.mark.parametrize("name", [
    "", "/", "//", "cls", "dhcp-netlab", "dhcp-netlab/", "dhcp-netlab/1", "dhcp-netlab//",
    "dhcp-netlab/-1/1", "dhcp-netlab/self/1", "dhcp-netlab/x/1", "dhcp-netlab/\xb2/1",
    "dhcp-netlab2/999999999/1", "other/999999999/1", "/dhcp-netlab/999999999/1"])
def test_what_others_call_theirs(name: str) -> None:
    assert not attach.is_abandoned(name)
    assert not attach.is_ours(name)


@pytest.mark.parametrize("name", [
    "dhcp-netlab/999999999/1", "dhcp-netlab/99999999999999999999/1", "dhcp-netlab/1/",
    "dhcp-netlab/999999999/1/7"])
def test_whose_process_never_was(name: str) -> None:
    assert attach.is_abandoned(name)


def test_a_process_that_calls_itself_something_odd_lives_until_it_is_gone() -> None:
    """In /proc/PID/stat its name stands in brackets, unescaped. Gone is also who waits, ended,
    for a parent that does not ask."""
    script = ("import ebpf.attach as a\n"
              "open('/proc/self/comm', 'wb').write(b') Z (\\xff\\n 1')\n"
              "print(a.new_name(), flush=True)\ninput()")
    child = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert child.stdin and child.stdout
    name = child.stdout.readline().strip()
    assert name.split("/")[1] == str(child.pid)
    assert not attach.is_abandoned(name) and not attach.is_ours(name)
    child.stdin.close()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert attach.is_abandoned(name)
    child.wait()
    child.stdout.close()
    assert attach.is_abandoned(name)
