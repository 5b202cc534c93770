"""Giving up root: nothing is kept, and nothing can be had again.

Each test that drops does so in a child process of its own.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from fastpath import privileges
from fastpath.errors import SystemRefused, UserError
from fastpath.privileges import check_user, die_with_parent, drop

NOBODY = "nobody"


def in_child(body: Callable[[], object]) -> str:
    """What `body` returns, or the error it ends with, from a process of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            try:
                said = str(body())
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            os.write(write, said.encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


def status() -> dict[str, str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def refused(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except PermissionError:
        return True
    return False


@pytest.mark.parametrize("name", ["no-such-user-here", "", "-1", "4294967295", "99999999999999999",
                                  "nobody\n", "\0", "²", "a/b", "x" * 5000])
def test_unknown_users(name: str) -> None:
    with pytest.raises(UserError) as caught:
        check_user(name)
    assert "no user" in caught.value.what and "\n" not in caught.value.what
    assert "useradd" in caught.value.remedy and "\n" not in caught.value.remedy


@pytest.mark.parametrize("name", ["root", "0"])
def test_root_gives_nothing_up(name: str) -> None:
    with pytest.raises(UserError, match="is root"):
        check_user(name)


def test_by_name_and_by_number() -> None:
    user = check_user(NOBODY)
    assert user == check_user(str(user.uid)) and user.name == NOBODY
    assert user.uid != 0 and user.gid in user.groups


@pytest.mark.root
def test_nothing_is_kept() -> None:
    user = check_user(NOBODY)

    def body() -> str:
        os.setgroups([0, 4, 27])
        drop(user)
        now = status()
        assert now["Uid"].split() == [str(user.uid)] * 4, now["Uid"]
        assert now["Gid"].split() == [str(user.gid)] * 4, now["Gid"]
        assert set(map(int, now["Groups"].split())) == set(user.groups), now["Groups"]
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(now[name], 16) == 0, (name, now[name])
        assert now["NoNewPrivs"] == "1"
        return "all given up"

    assert in_child(body) == "all given up"


@pytest.mark.root
def test_root_cannot_be_had_again() -> None:
    user = check_user(NOBODY)

    def body() -> str:
        drop(user)
        attempts: dict[str, Callable[[], object]] = {
            "setuid": lambda: os.setuid(0), "setgid": lambda: os.setgid(0),
            "setresuid": lambda: os.setresuid(-1, 0, -1), "seteuid": lambda: os.seteuid(0),
            "setgroups": lambda: os.setgroups([0]),
            "shadow": lambda: Path("/etc/shadow").read_bytes(),
            "raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
            "mknod": lambda: os.mknod("/tmp/x", 0o020666, os.makedev(1, 3))}
        return ", ".join(name for name, attempt in attempts.items() if not refused(attempt))

    assert in_child(body) == ""


@pytest.mark.root
def test_a_program_with_the_set_uid_bit_gives_root_to_nobody() -> None:
    user = check_user(NOBODY)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        program = Path(folder, "id")
        program.write_bytes(Path("/usr/bin/id").read_bytes())
        program.chmod(0o4755)

        def body() -> str:
            drop(user)
            return subprocess.run([str(program), "-u"], capture_output=True, text=True).stdout

        assert in_child(body).strip() == str(user.uid)


@pytest.mark.root
def test_what_is_open_stays_open() -> None:
    user = check_user(NOBODY)

    def body() -> str:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
            sock.bind(("lo", 0))
            drop(user)
            return str(sock.send(bytes(60)))

    assert in_child(body) == "60"


@pytest.mark.root
def test_proc_self_stays_ours() -> None:
    """Changing the user makes a process undumpable, and its /proc root's."""
    user = check_user(NOBODY)

    def body() -> str:
        drop(user)
        os.listdir("/proc/self/fd")
        return str(os.stat("/proc/self/fd").st_uid)

    assert in_child(body) == str(user.uid)


@pytest.mark.root
def test_twice_is_harmless() -> None:
    user = check_user(NOBODY)

    def body() -> str:
        drop(user)
        drop(user)
        return "twice"

    assert in_child(body) == "twice"


@pytest.mark.root
def test_another_user_needs_root() -> None:
    user, other = check_user(NOBODY), privileges.User("daemon", 1, 1, (1,))

    def body() -> str:
        drop(user)
        try:
            drop(other)
        except SystemRefused as error:
            return f"{error.what} / {error.remedy}"
        return "no error"

    assert in_child(body).startswith("--user needs root / ")


@pytest.mark.root
def test_something_kept_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system says it changed the user and did not, the process must not go on."""
    user = check_user(NOBODY)
    monkeypatch.setattr(os, "setresuid", lambda *_: None)
    said = in_child(lambda: drop(user))
    assert said.startswith("SystemRefused: privileges could not be given up")
    assert "another user" in said and "a way back to root" in said


@pytest.mark.root
def test_groups_that_stay_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    user = check_user(NOBODY)
    monkeypatch.setattr(os, "getgroups", lambda: [0, 99999])
    assert "groups root, 99999" in in_child(lambda: drop(user))


@pytest.mark.root
def test_a_system_that_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a user namespace with one user in it."""

    def forbid(groups: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setgroups", forbid)
    said = in_child(lambda: drop(check_user(NOBODY)))
    assert said == "SystemRefused: cannot become user 'nobody': Operation not permitted"


DIES = """
import os, sys, time
from fastpath.privileges import check_user, die_with_parent, drop
parent = os.getpid()
child = os.fork()
if child == 0:
    die_with_parent(parent)
    if sys.argv[1] == "drop":
        drop(check_user("nobody"))
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


@pytest.mark.parametrize("how", ["stay", pytest.param("drop", marks=pytest.mark.root)])
def test_it_dies_with_its_parent_also_as_another_user(how: str) -> None:
    """The kernel forgets the wish when the user changes: it has to be made again."""
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", DIES, how], stdout=subprocess.PIPE, cwd=root,
                          text=True) as process:
        assert process.stdout
        assert int(process.stdout.readline()) != process.pid
        process.send_signal(signal.SIGKILL)
        # The child holds the pipe's other end: reading ends only when it has gone.
        assert process.stdout.read() == ""
        assert process.wait(10) == -signal.SIGKILL


def test_a_parent_that_has_gone_already() -> None:
    assert in_child(lambda: die_with_parent(1 << 22)) == ""
