"""`lab --rootless`: all that root does with a lab, done by a user who may nothing.

The user is a uid that nobody has, on a machine of the test's own. Where this Python lies in a
directory that others may not enter, the machine is given one of the same name that they may.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fastpath.errors import SystemRefused
from netlab import keeper, rootless
from tests.lab.machine import REPOSITORY, Machine, wait_until
from tests.lab.test_run import stand_ins
from tests.peers.bin import peers_bin

pytestmark = pytest.mark.root

# Of its own for each that runs beside others: they count the processes of theirs.
_UID = 60321 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SETPRIV = ["setpriv", f"--reuid={_UID}", f"--regid={_UID}", "--clear-groups"]
# $1 becomes a directory of ours with nothing in it but $2.
_OPEN = """
mkdir /run/kept && mount --bind "$1/$2" /run/kept && mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/$2" && mount --move /run/kept "$1/$2" || mount --bind /run/kept "$1/$2"
umount /run/kept 2>/dev/null; rmdir /run/kept
"""
Result = subprocess.CompletedProcess[str]


class User:
    """Somebody without rights on `host`; `home` is his directory."""

    def __init__(self, host: Machine, home: Path) -> None:
        self.host, self.home = host, home
        self.env = {"HOME": str(home), "DHCP_NETLAB_CACHE": str(home / "cache"),
                    "NUMBA_DISABLE_JIT": "1"}

    def popen(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        env = self.env | options.pop("env", {})
        return self.host.popen([*_SETPRIV, "env", "-C", str(self.home), *words], env, **options)

    def run(self, *words: str, code: int | None = 0, **options: Any) -> Result:
        process = self.popen(*words, **options)
        out, err = process.communicate(timeout=120)
        assert code in (None, process.returncode), (words, process.returncode, out, err)
        return Result(words, process.returncode, out, err)

    def lab(self, *words: str, **options: Any) -> Result:
        return self.run(*Machine.lab_argv(*words), **options)

    def processes(self) -> list[int]:
        """His, all of them."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                status = (path / "status").read_text()
            except OSError:
                continue
            if f"\nUid:\t{_UID}\t" in status and "\nState:\tZ" not in status:
                found.append(int(path.name))
        return found

    def nothing_left(self) -> None:
        # The kernel takes a process's namespaces down before it is gone.
        wait_until("no process of the user's is left", lambda: not self.processes())


@pytest.fixture
def user(host: Machine) -> Iterator[User]:
    home = Path(tempfile.mkdtemp(prefix="lab-user-", dir="/tmp"))
    (home / "cache").mkdir(mode=0o700)
    for path in (home, home / "cache"):
        os.chown(path, _UID, _UID)
    _open_to_all(host, Path(sys.base_prefix))
    _open_to_all(host, REPOSITORY)
    made = User(host, home)
    refused = made.run("unshare", "-Urnm", "true", code=None)
    if refused.returncode:
        pytest.skip(f"needs user namespaces for everybody: {refused.stderr.strip()}")
    before = host.snapshot()
    try:
        yield made
        made.nothing_left()
        assert host.snapshot() == before
        assert sorted(p.name for p in Path("/tmp").glob(f"dhcp-netlab-{_UID}*")) == []
    finally:
        for pid in made.processes():
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home)


def _open_to_all(host: Machine, path: Path) -> None:
    for place, below in zip(reversed(path.parents), reversed([path, *path.parents][:-1]),
                            strict=True):
        if not place.stat().st_mode & 0o001:
            host.run(["sh", "-c", _OPEN, "sh", str(place), below.name])


def programs(user: User, **scripts: str) -> dict[str, str]:
    """Stand-ins where the user can get at them; the environment that names the place."""
    place = user.home / "programs"
    place.mkdir()
    return stand_ins(place, **scripts)


def keepers(user: User) -> list[int]:
    found = []
    for pid in user.processes():
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "lab-keeper\n":
                found.append(pid)
        except OSError:
            continue
    return found


def test_one_command_from_nothing_to_a_result(user: User) -> None:
    """The true server and tester; the files are the user's, in the user's directory."""
    place = user.home / "programs"
    place.mkdir()
    for name in ("server", "tester"):
        (place / f"dhcp-{name}").write_text(f"#!{sys.executable}\nfrom {name}.cli import main\n"
                                            "main()\n")
        (place / f"dhcp-{name}").chmod(0o755)
    user.lab("test", "--json", "result.json", "--", "--clients", "100",
             env={"DHCP_NETLAB_BIN": str(place)})
    result = user.home / "result.json"
    assert result.stat().st_uid == _UID
    document = json.loads(result.read_text())
    assert (document["verdict"], document["clients"]["bound"]) == ("pass", 100)
    user.nothing_left()


@pytest.mark.parametrize("words", [(), ("--rootless",)])
def test_a_standing_lab(user: User, words: tuple[str, ...]) -> None:
    assert "netlab: direct is up" in user.lab(*words, "setup").stdout
    assert len(user.processes()) == 1 == len(keepers(user))
    assert "nothing to do" in user.lab(*words, "setup").stdout
    (lab,) = json.loads(user.lab(*words, "status", "--json").stdout)["labs"]
    assert (lab["name"], lab["phase"], lab["left_behind"]) == ("netlab", "up", False)
    here = ["import os; print(os.getcwd(), os.geteuid(), sorted(os.listdir('/sys/class/net')))"]
    said = user.lab(*words, "exec", "client", "--", sys.executable, "-c", *here).stdout
    assert said == f"{user.home} 0 ['eth0', 'lo']\n"
    assert user.lab(*words, "exec", "client", "--", "sh", "-c", "exit 7", code=7).stdout == ""
    env = programs(user, tester="ip -br link | grep -c eth0; exit 3")
    assert user.lab(*words, "test", env=env, code=3).stdout.startswith("1\n")
    assert len(keepers(user)) == 1
    user.lab(*words, "gc")
    assert "netlab: removed" in user.lab(*words, "teardown").stdout
    user.nothing_left()
    assert user.lab(*words, "status").stdout == "no lab is up\n"


def test_the_keeper_ends_with_the_last_lab(user: User) -> None:
    user.lab("setup", "--name", "one")
    (first,) = keepers(user)
    user.lab("setup", "relay", "--name", "two")
    assert keepers(user) == [first]
    user.lab("teardown", "--name", "one")
    assert keepers(user) == [first]
    assert "two" in user.lab("status").stdout
    user.lab("teardown", "--all")
    user.nothing_left()


def test_a_setup_that_fails_leaves_no_keeper(user: User) -> None:
    for words, code in ((["setup", "--help"], 0), (["setup", "--no-such"], 2),
                        (["setup", "relay", "--hops", "x"], 2), (["setup", "nowhere"], 2)):
        user.lab(*words, code=code)
        user.nothing_left()


def test_the_keeper_killed_takes_the_lab_with_it(user: User) -> None:
    user.lab("setup")
    (pid,) = keepers(user)
    os.kill(pid, signal.SIGKILL)
    user.nothing_left()
    assert user.lab("gc").stdout == "nothing was left behind\n"
    assert "not up" in user.lab("exec", "client", "--", "true", code=2).stderr
    assert "built in" in user.lab("setup").stdout
    user.lab("teardown")


def test_the_keeper_hears_no_terminal(user: User) -> None:
    user.lab("setup")
    (pid,) = keepers(user)
    assert os.getsid(pid) == pid
    for number in (signal.SIGINT, signal.SIGHUP):
        os.kill(pid, number)
    assert "up" in user.lab("status").stdout
    assert {(Path(f"/proc/{pid}/fd") / str(fd)).readlink() for fd in range(3)} == {
        Path("/dev/null")}
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    user.lab("teardown")


def test_setups_at_once_share_a_keeper(user: User) -> None:
    started = [user.popen(*Machine.lab_argv("setup", "--name", f"n{i}")) for i in range(4)]
    for process in started:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), out
    assert len(keepers(user)) == 1
    labs = json.loads(user.lab("status", "--json").stdout)["labs"]
    assert [lab["name"] for lab in labs] == [f"n{i}" for i in range(4)]
    user.lab("teardown", "--all")


def test_worlds_apart(user: User) -> None:
    """$DHCP_NETLAB_STATE names another world, as it does for root; tests at once need none."""
    env = {"DHCP_NETLAB_STATE": str(user.home / "mine")}
    user.lab("setup", env=env)
    assert user.lab("status").stdout == "no lab is up\n"
    assert not (user.home / "mine").exists()
    env |= programs(user)
    assert user.lab("test", env={k: v for k, v in env.items() if "STATE" not in k}).returncode == 0
    assert "up" in user.lab("status", env=env).stdout
    user.lab("teardown", env=env)


# Where the lab is when it hears it: nothing of it stays, whatever it was.
@pytest.mark.parametrize("standing", [False, True])
@pytest.mark.parametrize("number,code", [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                         (signal.SIGHUP, 129), (signal.SIGKILL, None)])
def test_ended_in_the_middle_of_a_test(user: User, number: int, code: int | None,
                                       standing: bool) -> None:
    if standing:
        user.lab("setup")
    env = programs(user, tester="trap : INT; echo up; while :; do sleep 0.02; done")
    process = user.popen(*Machine.lab_argv("test"), env=env)
    assert process.stdout and process.stdout.readline() == "up\n"
    assert len(user.processes()) >= 3 + standing
    process.send_signal(number)
    if number == signal.SIGINT:
        time.sleep(0.2)  # the first is the tester's, which takes no notice
        process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (code if code is not None else -number)
    if standing:
        wait_until("its programs end", lambda: user.processes() == keepers(user))
        user.lab("gc")
        user.lab("teardown")
    user.nothing_left()


def test_the_users_files_are_there_and_the_machines_labs_are_not(user: User) -> None:
    run = user.host.root / "run"
    (run / "user").mkdir()
    (run / "user/mine").mkdir()
    os.chown(run / "user/mine", _UID, _UID)
    (run / "a.file").write_text("content")
    (run / "a.link").symlink_to("a.file")
    user.host.lab("setup", "--name", "roots")
    try:
        user.lab("setup")
        said = user.lab("exec", "client", "--", "sh", "-c", (
            "cat /run/a.file /run/a.link; ls /run/netns; touch /run/user/mine/new; pwd")).stdout
        assert said == ("contentcontentnetlab-client\nnetlab-server\nnetlab-switch\n"
                        f"{user.home}\n")
        assert (run / "user/mine/new").stat().st_uid == _UID
        here = user.run("env", "-C", "/run/user/mine", *Machine.lab_argv(
            "exec", "client", "--", "sh", "-c", "pwd; ls"))
        assert here.stdout == "/run/user/mine\nnew\n"
        alone = user.run("env", "-C", "/run/user/mine", *Machine.lab_argv("status", "--name", "x"))
        assert alone.stdout == "x: not up\n"
        user.lab("teardown", "--all")
        assert [n for n in user.host.names() if n.startswith("roots-")]
    finally:
        user.host.lab("teardown", "--name", "roots")
        shutil.rmtree(run / "user")
        (run / "a.file").unlink()
        (run / "a.link").unlink()


def test_what_needs_root_says_so(user: User) -> None:
    refused = user.lab("--rootless", "attach", "client", "eth0", code=2)
    assert refused.stderr == ("lab: attach: a user namespace has no physical interfaces\n"
                              "     without --rootless: sudo lab attach\n")
    assert "run with sudo" in user.lab("attach", "client", "eth0", code=1).stderr
    assert "run with sudo" in user.lab("--no-rootless", "setup", code=1).stderr


@pytest.mark.parametrize("limit", ["user", "mnt", "net"])
def test_a_system_that_allows_none_is_named(user: User, limit: str) -> None:
    """In a user namespace of ours that allows no more of them."""
    shell = f"echo 0 > /proc/sys/user/max_{limit}_namespaces; exec \"$@\""
    refused = user.run("unshare", "-Ur", "sh", "-c", shell, "sh",
                       *Machine.lab_argv("--rootless", "setup"), code=1)
    assert refused.stderr == (
        f"lab: cannot create a user namespace: user.max_{limit}_namespaces is 0\n"
        "     run with sudo, or allow it: sudo sysctl -w "
        f"user.max_{limit}_namespaces=10000\n")


REASONS = [
    (errno.EPERM, {"kernel/unprivileged_userns_clone": "0"}, "kernel.unprivileged_userns_clone=1"),
    (errno.EPERM, {"kernel/apparmor_restrict_unprivileged_userns": "1"},
     "kernel.apparmor_restrict_unprivileged_userns=0"),
    (errno.EACCES, {"kernel/apparmor_restrict_unprivileged_userns": "1\n"},
     "kernel.apparmor_restrict_unprivileged_userns=0"),
    (errno.ENOSPC, {"user/max_user_namespaces": "0"}, "user.max_user_namespaces=10000"),
    (errno.ENOSPC, {"user/max_user_namespaces": "9"}, ""),
    (errno.EPERM, {"kernel/unprivileged_userns_clone": "1",
                   "kernel/apparmor_restrict_unprivileged_userns": "0"}, ""),
    (errno.EINVAL, {"kernel/unprivileged_userns_clone": "0"}, ""),
    (errno.ENOSYS, {}, ""),
]


@pytest.mark.parametrize("number,sysctls,remedy", REASONS)
def test_reasons(tmp_path: Path, number: int, sysctls: dict[str, str], remedy: str) -> None:
    for name, value in sysctls.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value)
    refused = rootless.refusal(OSError(number, os.strerror(number)), tmp_path)
    assert refused.what.startswith("cannot create a user namespace: ")
    assert "run with sudo" in refused.remedy and remedy in refused.remedy
    assert bool(remedy) == ("sysctl" in refused.remedy)


def _listening(serve: Callable[[Any], None]) -> bytes:
    """The address of a listener that a child of ours serves once; it ends by itself."""
    where = f"\0dhcp-netlab/test/{os.getpid()}/{time.monotonic_ns()}".encode()
    listener = keeper.listen(where)
    assert listener is not None and keeper.listen(where) is None
    if not os.fork():
        try:
            connection, _ = listener.accept()
            serve(connection)
        finally:
            os._exit(0)
    listener.close()
    return where


@pytest.mark.parametrize("serve", [
    lambda connection: None,
    lambda connection: connection.sendall(b"dhcp-netlab"),
    lambda connection: connection.sendall(b"something else"),
    lambda connection: connection.close(),
], ids=["ends", "sends no namespace", "says something else", "closes"])
def test_a_keeper_that_ends_or_is_none(serve: Callable[[Any], None]) -> None:
    assert keeper.join(_listening(serve)) is None
    os.wait()


def test_a_keeper_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_ANSWER_TIMEOUT_S", 0.1)
    where = _listening(lambda connection: connection.recv(1))
    with pytest.raises(SystemRefused, match="does not answer") as refused:
        keeper.join(where)
    assert "kill -9" in refused.value.remedy
    os.wait()


def test_somebody_elses_keeper_is_refused() -> None:
    def serve(connection: Any) -> None:
        pass

    where = f"\0dhcp-netlab/test/{os.getpid()}/other".encode()
    ready, tell = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setuid(_UID)
            listener = keeper.listen(where)
            os.write(tell, b"x")
            assert listener is not None
            serve(listener.accept())
        finally:
            os._exit(0)
    os.read(ready, 1)
    with pytest.raises(SystemRefused, match=f"of uid {_UID}"):
        keeper.join(where)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(tell)
    assert keeper.join(where) is None


def test_addresses_are_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = keeper.address(None)
    assert keeper.address("/a") not in (mine, keeper.address("/b"))
    monkeypatch.setattr(os, "geteuid", lambda: _UID)
    assert keeper.address(None) != mine
    assert len(keeper.address("x" * 9999)) < 108


@pytest.mark.peers("kea-dhcp4", "dhcpd", "dnsmasq", "udhcpd", "dhcrelay")
@pytest.mark.parametrize("server,programs_of,words", [
    ("kea", ("kea-dhcp4", "dhcrelay"), ("relay", "--relay", "dhcrelay")),
    ("isc-dhcpd", ("dhcpd", "dnsmasq"), ("relay", "--relay", "dnsmasq")),
    ("dnsmasq", ("dnsmasq",), ("direct",)),
    ("udhcpd", ("udhcpd",), ("direct",)),
])
def test_programs_of_others(host: Machine, tmp_path: Path, server: str,
                            programs_of: tuple[str, ...], words: tuple[str, ...]) -> None:
    """There root is one uid and no group: whoever wants to be somebody else is told not to.

    By root, because those programs are unpacked where nobody else can read; what a user
    namespace forbids it forbids to him too.
    """
    before, result = host.snapshot(), tmp_path / "result.json"
    env = {"DHCP_NETLAB_BIN": str(peers_bin("dhcp-server", "dhcp-relay", "dhcp-tester",
                                            *programs_of)), "NUMBA_DISABLE_JIT": "1"}
    host.run(host.lab_argv("--rootless", "test", *words, "--server", server, "--json",
                           str(result), "--", "--clients", "40", "--retry"), env)
    document = json.loads(result.read_text())
    assert (document["verdict"], document["lab"]["leases"]["agree"]) == ("pass", 40)
    assert host.snapshot() == before
