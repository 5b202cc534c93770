"""The commands on macOS and Windows: they start there, and carry themselves into the VM.

Beside each test's project stand an `ssh` and a `vagrant` of its own: the VM is a shell on this
machine, and what the programs in it would be is one script that notes what it was given.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import click
import pytest

from fastpath import vm_paths
from fastpath.errors import SystemRefused, UserError
from fastpath.vm_errand import _check_readable, _unpack, script, target_of
from fastpath.vm_machine import SHARED_BOTH_WAYS, find_directory
from fastpath.vm_paths import FILES, Errand, Host, Use, plan

ROOT = Path(__file__).parents[2]
MODULES = {"lab": "netlab.cli", "dhcp-server": "server.cli", "dhcp-relay": "relay.cli",
           "dhcp-tester": "tester.cli"}
WORK = "/var/tmp/dhcp-netlab-0"

# A Python that believes it is elsewhere. What Linux alone has is gone from the standard library;
# what only Linux needs cannot be imported.
ELSEWHERE = """
import os, signal, socket, sys
import click, contextlib, copy, pathlib, re, secrets, shlex, shutil, subprocess, tarfile, tempfile
import importlib.metadata, difflib, textwrap, inspect
gone = {"fcntl", "termios", "resource", "pwd", "grp", "tty", "pty", "pyroute2", "numba", "numpy",
        "psutil", "llvmlite", "yaml", "rich", "jsonschema"}
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in gone:
            raise ImportError(f"{name} is not on this system")
sys.meta_path.insert(0, Missing())
sys.platform = sys.argv[1]
for name in ("sched_setaffinity", "sched_getaffinity", "pidfd_open", "pipe2", "setns", "unshare"):
    if hasattr(os, name):
        delattr(os, name)
if sys.platform == "win32":
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "pidfd_send_signal",
                 "pthread_sigmask", "set_wakeup_fd"):
        delattr(signal, name)
for name in [name for name in dir(socket) if name.startswith(("AF_PACKET", "AF_NETLINK",
             "AF_UNIX", "SO_BINDTO", "PACKET_", "CMSG_", "SCM_"))]:
    delattr(socket, name)
share = os.environ.pop("TEST_SHARE", "")
if share:
    import fastpath.vm_paths
    fastpath.vm_paths.SHARE = share
module, sys.argv = sys.argv[2], sys.argv[3:]
import importlib
importlib.import_module(module).main()
"""
# The same for several command lines: JSON, [module, program, words...] each.
EACH = ELSEWHERE.rpartition("module, sys.argv =")[0] + """
import importlib, json
for module, *words in json.loads(sys.argv[2]):
    sys.argv = words
    try:
        importlib.import_module(module).main()
    except SystemExit as ended:
        print("exit", ended.code, flush=True)
"""

# Notes what it got, and does what the file `does` says: Python, in the directory it runs in.
PROGRAM = """#!{python}
import json, os, sys
noted = {{"words": sys.argv, "directory": os.getcwd(), "environment": dict(os.environ)}}
if {stdin}:
    noted["stdin"] = sys.stdin.read()
open("{base}/noted", "w").write(json.dumps(noted))
exec(open("{base}/does").read())
"""
SSH = """#!/bin/sh
# As `ssh -F CONFIG -o .. -o .. -T|-tt default COMMAND`; each attempt is noted. What runs in a VM
# inherits no signals that are ignored here.
PATH={base}/guest:/usr/bin:/bin
for last; do :; done
echo "$7" >> {base}/ssh.log
[ -e {base}/down ] && exit 255
[ -e {base}/cut ] && case $last in *"/run'"*) exit 255;; esac
exec env --default-signal sh -c "$last"
"""
VAGRANT = """#!/bin/sh
PATH=/usr/bin:/bin
echo "$*" >> {base}/vagrant.log
case $1 in
status) printf '1,default,provider-name,%s\\n1,default,state,%s\\n' "$(cat {base}/provider)" \
    "$(cat {base}/state)";;
ssh-config) rm -f {base}/down; printf 'Host default\\n  Port 2222\\n';;
esac
"""


class World:
    """A project with its VM, and a directory of the user's.

    base: what stands in for the VM. project: where its Vagrantfile is. home: where the user is.
    """

    def __init__(self, base: Path) -> None:
        self.base, self.project, self.home = base, base / "project", base / "home of user"
        for directory in (self.project / "vagrant", self.home, base / "bin", base / "guest"):
            directory.mkdir(parents=True)
        (self.project / "Vagrantfile").touch()
        (self.project / "vagrant/provision.sh").touch()
        self.put("bin/ssh", SSH.format(base=base))
        self.put("bin/vagrant", VAGRANT.format(base=base))
        self.put("guest/sudo", "#!/bin/sh\nshift\nexec \"$@\"\n")
        self.program()
        self.does("")
        self.vm("qemu", "running")

    def put(self, name: str, text: str) -> None:
        (self.base / name).write_text(text)
        (self.base / name).chmod(0o755)

    def program(self, stdin: bool = False) -> None:
        for name in MODULES:
            self.put(f"guest/{name}",
                     PROGRAM.format(python=sys.executable, base=self.base, stdin=stdin))

    def does(self, code: str) -> None:
        (self.base / "does").write_text(code)

    def vm(self, provider: str, state: str) -> None:
        (self.base / "provider").write_text(provider)
        (self.base / "state").write_text(state)

    def start(self, *words: str, platform: str = "darwin", cwd: Path | None = None,
              stdin: int | None = subprocess.DEVNULL, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ELSEWHERE, platform, MODULES[words[0]], *words],
            cwd=cwd or self.home, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, env={"PATH": f"{self.base}/bin", "PYTHONPATH": str(ROOT),
                            "DHCP_NETLAB_VM_DIR": str(self.project), **environment})

    def run(self, *words: str, stdin: str | None = None, **more: object) -> tuple[int, str, str]:
        process = self.start(*words, **more,  # type: ignore[arg-type]
                             **({"stdin": subprocess.PIPE} if stdin is not None else {}))
        out, err = process.communicate(stdin, timeout=60)
        return process.returncode, out, err

    @property
    def noted(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.base / "noted").read_text())
        return found

    def work(self) -> Path:
        """Of the last command: the directory that was made for it."""
        environment = self.noted["environment"]
        assert isinstance(environment, dict)
        return Path(str(self.noted["directory"])).parent


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def elsewhere(platform: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Each program with the same words, where there is neither ssh nor vagrant."""
    return subprocess.run(
        [sys.executable, "-c", EACH, platform,
         json.dumps([[module, program, *words] for program, module in MODULES.items()])],
        cwd="/", capture_output=True, text=True, timeout=60,
        env={"PATH": "/nowhere", "PYTHONPATH": str(ROOT)})


# Started elsewhere.


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
@pytest.mark.parametrize("word, expected", [("--help", "Usage"), ("-h", "Usage"),
                                            ("--version", "0.")])
def test_help_and_version_need_no_vm_and_nothing_of_linux(platform: str, word: str, expected: str,
                                                          ) -> None:
    done = elsewhere(platform, word)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert done.stdout.count("exit 0") == done.stdout.count(expected) == len(MODULES)


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_every_command_starts_and_says_what_to_install(platform: str) -> None:
    done = elsewhere(platform, "test", "--json", "a file")
    assert done.stdout.splitlines() == ["exit 1"] * len(MODULES)
    said = [line for line in done.stderr.splitlines() if not line.startswith(" ")]
    assert said == [f"{program}: no ssh here" for program in MODULES]


def test_without_vagrant_it_says_where_to_get_it(world: World) -> None:
    (world.base / "bin/vagrant").unlink()
    code, out, err = world.run("lab", "test", "--json", "a file")
    assert (code, out) == (1, "")
    assert "Vagrant is not installed" in err and "https://" in err
    assert err.splitlines()[-1] == "     lab test --json 'a file'"


@pytest.mark.parametrize("state, said", [
    ("not_created", "there is none yet"), ("poweroff", "it is not running (poweroff)"),
    ("saved", "(saved)")])
def test_without_a_vm_it_says_the_two_commands(world: World, state: str, said: str) -> None:
    world.vm("virtualbox", state)
    code, out, err = world.run("dhcp-tester", "-n", "5", cwd=world.project / "vagrant")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[0].startswith("dhcp-tester: this is macOS") and said in lines[0]
    assert lines[1:] == ["             vagrant up", "             dhcp-tester -n 5"]
    # From elsewhere `vagrant up` would not find its file.
    _, _, err = world.run("lab", "status")
    assert err.splitlines()[1:] == [f"     (cd {world.project} && vagrant up)", "     lab status"]


def test_no_project_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fastpath.vm_machine.__file__", str(tmp_path / "lib/fastpath/vm.py"))
    with pytest.raises(SystemRefused, match="neither here nor above") as caught:
        find_directory({})
    assert "DHCP_NETLAB_VM_DIR" in caught.value.remedy
    with pytest.raises(UserError, match="no Vagrantfile in"):
        find_directory({"DHCP_NETLAB_VM_DIR": str(tmp_path)})


def test_a_project_is_found_above_and_another_one_is_passed_over(
        world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = world.project / "a/b"
    deep.mkdir(parents=True)
    # Somebody's own Vagrantfile on the way.
    (world.project / "a/Vagrantfile").touch()
    monkeypatch.chdir(deep)
    assert find_directory({}) == world.project
    assert find_directory({"DHCP_NETLAB_VM_DIR": str(world.project / "a")}) == world.project / "a"
    monkeypatch.chdir(world.home)
    assert find_directory({}) == ROOT or not (ROOT / "Vagrantfile").exists()


# What is carried.


def test_words_arrive_as_they_were(world: World) -> None:
    words = ["a b", "it's", '"quoted"', "$HOME", "`id`", "a\nb", "", "한국어", "*", "\\", "a\\ b",
             "--x=$(id)", ";exit 5", "~", "\t", "!!", "-", "%PATH%", "x" * 50_000, "--"]
    code, _, err = world.run("lab", "exec", "client", "--", "echo", *words)
    assert (code, err) == (0, "")
    assert world.noted["words"][1:] == ["exec", "client", "--", "echo", *words]  # type: ignore[index]


@pytest.mark.parametrize("code", [0, 3, 130, 255])
def test_exit_codes_come_back(world: World, code: int) -> None:
    world.does(f"sys.exit({code})")
    assert world.run("dhcp-tester", "-n", "1")[0] == code


def test_standard_streams_are_those_of_the_program(world: World) -> None:
    world.program(stdin=True)
    world.does("print('out'); print('err', file=sys.stderr)")
    assert world.run("lab", "exec", "a", "cat", stdin="typed\n") == (0, "out\n", "err\n")
    assert world.noted["stdin"] == "typed\n"
    # No terminal here, so none there: it would change what is written.
    assert (world.base / "ssh.log").read_text().split() == ["-T", "-T", "-T"]


def test_variables_are_carried(world: World) -> None:
    world.run("lab", "test", DHCP_CLIENTS="5 $x", LANG="ko_KR.UTF-8")
    found = world.noted["environment"]
    assert isinstance(found, dict)
    assert found["DHCP_CLIENTS"] == "5 $x"
    assert found["LC_MESSAGES"] == "ko_KR.UTF-8" and found["LC_CTYPE"] == "C.UTF-8"


def test_variables_of_this_machine_stay_here() -> None:
    errand = plan("lab", ["status"], {
        "DHCP_NETLAB_STATE": "/x", "DHCP_NETLAB_CACHE": "/z", "PATH": "/y", "DHCP_X;id": "z",
        "DHCP_RELAY_MAX_HOPS": "2", "MAX_HOPS": "7", "LOG_LEVEL": "debug"},
        Host(PurePosixPath("/home"), None, lambda path: ""), WORK)
    assert re.findall("^export (.*)$", script(errand), re.MULTILINE) == [
        "DHCP_RELAY_MAX_HOPS=2", "MAX_HOPS=7", "LOG_LEVEL=debug", "LC_CTYPE=C.UTF-8"]


def test_a_file_goes_there_and_results_come_back(world: World) -> None:
    (world.home / "office.yaml").write_text("nodes: {}\n")
    (world.home / "results").mkdir()
    world.does("""
assert open("office.yaml").read() == "nodes: {}\\n"
open("results/r.json", "w").write("{}")
open("c.csv", "wb").write(bytes(range(256)) * 1000)
os.makedirs("logs/deep"); open("logs/deep/a b.log", "w").write("x")
""")
    code, _, err = world.run("lab", "test", "office.yaml", "--json=results/r.json", "--clients-csv",
                             "c.csv", "-logs", "logs", "--", "--clients", "5")
    assert (code, err) == (0, "")
    assert world.noted["words"][1:] == [  # type: ignore[index]
        "test", "office.yaml", "--json=results/r.json", "--clients-csv", "c.csv", "-logs", "logs",
        "--", "--clients", "5"]
    assert (world.home / "results/r.json").read_text() == "{}"
    assert (world.home / "c.csv").read_bytes() == bytes(range(256)) * 1000
    assert (world.home / "logs/deep/a b.log").read_text() == "x"
    assert not world.work().exists()


def test_results_come_back_also_when_the_program_fails(world: World) -> None:
    world.does("open('r.json', 'w').write('3'); sys.exit(3)")
    assert world.run("dhcp-tester", "--json", "r.json")[0] == 3
    assert (world.home / "r.json").read_text() == "3"


def test_files_of_other_directories_go_both_ways(world: World) -> None:
    other = world.base / "other place"
    other.mkdir()
    (other / "t.yaml").write_text("there")
    (world.base / "up.txt").write_text("02:00:00:00:00:01\n")
    world.does("""
words = sys.argv
assert open(words[2]).read() == "there"
assert open(words[words.index("--mac-list") + 1]).read().startswith("02:")
open(words[words.index("--json") + 1], "w").write("new")
""")
    code, _, err = world.run("lab", "test", str(other / "t.yaml"), "--json", str(other / "r.json"),
                             "--", "--mac-list", "../up.txt")
    assert (code, err) == (0, "")
    assert (other / "r.json").read_text() == "new"
    assert sorted(path.name for path in other.iterdir()) == ["r.json", "t.yaml"]
    assert not world.work().exists()


def test_what_was_not_changed_is_not_touched(world: World) -> None:
    file = world.home / "leases"
    file.write_bytes(b"1")
    os.utime(file, (1, 1))
    world.run("dhcp-server", "leases", "leases")
    assert file.stat().st_mtime == 1
    # A file that is added to is there as it was, and comes back as it is then.
    world.does("open('leases', 'ab').write(b'2')")
    world.run("dhcp-server", "--lease-file", "leases")
    assert file.read_bytes() == b"12"
    assert not list(world.home.glob(".dhcp-netlab-*"))


def test_permissions_of_a_file_that_was_there_stay(world: World) -> None:
    file = world.home / "r.json"
    file.touch(0o600)
    world.does("open('r.json', 'w').write('x')")
    world.run("dhcp-tester", "--json", "r.json")
    assert file.stat().st_mode & 0o777 == 0o600 and file.read_text() == "x"


def test_a_result_that_cannot_be_stored_stays_in_the_vm(world: World) -> None:
    (world.home / "r.json").mkdir()
    world.does("os.rmdir('r.json'); open('r.json', 'w').write('x')")
    code, _, err = world.run("dhcp-tester", "--json", "r.json")
    try:
        assert code == 1
        assert "cannot store results here: is a directory" in err
        assert str(world.work()) in err
        assert (world.work() / "here/r.json").read_text() == "x"
    finally:
        subprocess.run(["rm", "-rf", world.work()])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemRefused, match=r"cannot read .*absent: No such file"):
        _check_readable(tmp_path / "absent")


def test_an_argument_in_the_shared_folder_is_not_copied(world: World) -> None:
    world.vm("virtualbox", "running")
    inside = world.project / "labs"
    inside.mkdir()
    (inside / "t.yaml").write_text("x")
    world.does("assert open(sys.argv[2]).read() == 'x'; open(sys.argv[4], 'w').write('y')")
    code, _, err = world.run("lab", "test", "t.yaml", "--json", str(inside / "r.json"), cwd=inside,
                             TEST_SHARE=str(world.project))
    assert (code, err) == (0, "")
    assert world.noted["directory"] == str(inside)
    assert (inside / "r.json").read_text() == "y"


# What happens to connections and signals.


def test_vagrant_is_asked_once(world: World) -> None:
    for _ in range(3):
        assert world.run("lab", "status")[0] == 0
    assert (world.base / "vagrant.log").read_text().split() == ["status", "--machine-readable",
                                                                "ssh-config"]


def test_a_vm_that_moved_is_found_again(world: World) -> None:
    world.run("lab", "status")
    (world.base / "down").touch()
    assert world.run("lab", "status")[0] == 0
    assert (world.base / "vagrant.log").read_text().count("ssh-config") == 2


def test_a_vm_that_was_halted_since_is_named(world: World) -> None:
    world.run("lab", "status")
    (world.base / "down").touch()
    world.vm("qemu", "poweroff")
    code, _, err = world.run("lab", "status")
    assert code == 1 and "not running (poweroff)" in err


def test_a_vm_without_ssh(world: World) -> None:
    world.run("lab", "status")
    (world.base / "down").touch()
    world.put("bin/vagrant", VAGRANT.format(base=world.base).replace("rm -f", "true"))
    code, _, err = world.run("lab", "status")
    assert code == 1
    assert err == ("lab: the VM runs, and does not answer to ssh\n     type: vagrant reload\n")


def test_a_connection_that_is_lost_leaves_nothing_there(world: World) -> None:
    (world.base / "cut").touch()
    before = {*Path("/var/tmp").glob("dhcp-netlab-*")}
    code, _, err = world.run("lab", "status")
    assert code == 1 and "connection to the VM was lost" in err
    assert {*Path("/var/tmp").glob("dhcp-netlab-*")} <= before


def test_a_vm_that_lacks_the_program(world: World) -> None:
    (world.base / "guest/lab").unlink()
    code, _, err = world.run("lab", "status")
    assert (code, err) == (1, "lab: the VM lacks it; type: vagrant provision\n")


def test_vagrant_that_fails_is_quoted(world: World) -> None:
    world.put("bin/vagrant", "#!/bin/sh\nprintf %s '1,,error-exit,X::Y,No%!(VAGRANT_COMMA) not "
                             "here\\nTruly'; exit 1\n")
    code, _, err = world.run("lab", "status")
    assert (code, err) == (1, "lab: vagrant status: No, not here Truly\n     see: vagrant status\n")


@pytest.mark.parametrize("sent, heard", [(signal.SIGINT, "SIGINT"), (signal.SIGTERM, "SIGTERM"),
                                         (signal.SIGHUP, "SIGTERM")])
def test_a_signal_reaches_the_program(world: World, sent: signal.Signals, heard: str) -> None:
    world.does("""
import signal, time
def end(number, frame):
    open("r.json", "w").write(signal.Signals(number).name)
    sys.exit(3)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, end)
print("ready", flush=True)
time.sleep(30)
""")
    with world.start("dhcp-tester", "--json", "r.json") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sent)
        assert process.wait(20) == 3
    assert (world.home / "r.json").read_text() == heard
    assert not world.work().exists()


def test_the_second_interrupt_is_passed_on_too(world: World) -> None:
    # By os.write: a signal that comes within a print may not print itself.
    world.does("""
import os, signal, time
heard = []
signal.signal(signal.SIGINT, lambda *_: (heard.append(1), os.write(1, b"%d\\n" % len(heard))))
os.write(1, b"ready\\n")
while len(heard) < 2:
    time.sleep(0.05)
""")
    with world.start("dhcp-server") as process:
        assert process.stdout is not None
        for expected in ("ready\n", "1\n"):
            assert process.stdout.readline() == expected
            process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "2\n"
        assert process.wait(20) == 0


def test_a_program_that_dies_of_a_signal(world: World) -> None:
    world.does("import signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert world.run("dhcp-server")[0] == 137


# Paths, as each system writes them.


def host(directory: PurePath, *, shared: PurePath | None = None, files: tuple[str, ...] = (),
         directories: tuple[str, ...] = ()) -> Host:
    kind = type(directory)
    known = {kind(name): "file" for name in files} | {kind(name): "directory"
                                                      for name in directories}
    return Host(directory, shared, lambda path: known.get(kind(path), ""))


WINDOWS = host(PureWindowsPath(r"C:\Users\Ada\lab"), shared=PureWindowsPath(r"c:\src\netlab"),
               files=(r"C:\Users\Ada\lab\nets\a.yaml", r"D:\x y\b.yaml", r"C:\src\netlab\c.yaml"),
               directories=(r"C:\Users\Ada\lab\nets", r"D:\x y"))


@pytest.mark.parametrize("word, expected, copied", [
    (r"nets\a.yaml", "nets/a.yaml", "here/nets/a.yaml"),
    ("nets/a.yaml", "nets/a.yaml", "here/nets/a.yaml"),
    (r"C:\Users\ada\LAB\nets\a.yaml", "nets/a.yaml", "here/nets/a.yaml"),
    (r".\nets\..\nets\a.yaml", "nets/a.yaml", "here/nets/a.yaml"),
    (r"D:\x y\b.yaml", f"{WORK}/there/1/b.yaml", "there/1/b.yaml"),
    (r"C:\SRC\netlab\c.yaml", "/vagrant/c.yaml", None),
    (r"..\..\..\src\netlab\c.yaml", "/vagrant/c.yaml", None),
    (r"D:\absent.yaml", r"D:\absent.yaml", None),
    ("direct", "direct", None),
])
def test_windows_names(word: str, expected: str, copied: str | None) -> None:
    errand = plan("lab", ["test", word], {}, WINDOWS, WORK)
    assert errand.words == ["lab", "test", expected]
    assert list(errand.copies) == ([copied] if copied else [])


def test_windows_in_the_shared_folder() -> None:
    inside = host(PureWindowsPath(r"C:\src\netlab\docs"), shared=PureWindowsPath(r"C:\src\netlab"),
                  files=(r"C:\src\netlab\docs\a\b.yaml",))
    errand = plan("lab", ["test", r"a\b.yaml", "--json", r"..\r.json", "--logs", r"E:\l"], {},
                  inside, WORK)
    assert errand.directory == "/vagrant/docs"
    assert errand.words[2:] == ["a/b.yaml", "--json", "../r.json", "--logs", f"{WORK}/there/0/l"]
    assert errand.copies == {} and errand.returns == {"there/0": PureWindowsPath("E:\\")}


def test_windows_perfdhcp_line_keeps_its_backslashes() -> None:
    found = plan("dhcp-tester", ["--perfdhcp", r"-T nets\a.yaml '-Md:\x y\b.yaml' -r 5 10.0.0.1"],
                 {}, WINDOWS, WORK)
    assert shlex.split(found.words[2]) == [
        "-T", r"nets/a.yaml", f"-M{WORK}/there/1/b.yaml", "-r", "5", "10.0.0.1"]


MAC = host(PurePosixPath("/Users/ada"), shared=PurePosixPath("/Users/ada/netlab"),
           files=("/Users/ada/a.pcap", "/Users/ada/m.txt", "/tmp/b,c.hex", "/Users/ada/s.yaml",
                  "/Users/ada/config/staging.yaml", "/etc/hosts", "/Users/ada/leases"),
           directories=("/tmp", "/Users/ada"))


@pytest.mark.parametrize("words, expected, copied", [
    # Each form of each option, as click and Go's flag package take them.
    ("dhcp-tester --json=x.json", "--json=x.json", ""),
    ("dhcp-tester -json x.json", "-json x.json", ""),
    ("dhcp-tester --json /tmp/x.json", f"--json {WORK}/there/1/x.json", ""),
    ("dhcp-tester --json -", "--json -", ""),
    ("dhcp-tester --json /dev/null", "--json /dev/null", ""),
    ("dhcp-tester --json", "--json", ""),
    ("dhcp-tester --mac-list m.txt", "--mac-list m.txt", "here/m.txt"),
    ("dhcp-tester --relay @m.txt", "--relay @m.txt", "here/m.txt"),
    ("dhcp-tester --relay 10.0.0.1", "--relay 10.0.0.1", ""),
    ("dhcp-tester --template discover=a.pcap", "--template discover=a.pcap", "here/a.pcap"),
    ("dhcp-tester --raw-template discover=a.pcap,xid=4", "--raw-template discover=a.pcap,xid=4",
     "here/a.pcap"),
    ("dhcp-tester --template=discover=/Users/ada/a.pcap", "--template=discover=a.pcap",
     "here/a.pcap"),
    ("dhcp-server -c s.yaml", "-c s.yaml", "here/s.yaml"),
    ("dhcp-server -cs.yaml", "-cs.yaml", "here/s.yaml"),
    ("dhcp-server -config=/Users/ada/s.yaml", "-config=s.yaml", "here/s.yaml"),
    ("dhcp-server -check -config s.yaml", "-check -config s.yaml", "here/s.yaml"),
    ("dhcp-server leases /Users/ada/leases --json", "leases leases --json", "here/leases"),
    ("dhcp-server leases leases --import /etc/hosts",
     f"leases leases --import {WORK}/there/1/hosts", "here/leases there/1/hosts"),
    # The relay's -c is no file, and neither is the tester's.
    ("dhcp-relay -c 4 --many m.txt", "-c 4 --many m.txt", "here/m.txt"),
    ("dhcp-tester -c s.yaml", "-c s.yaml", ""),
    ("lab test --json /tmp/r -- --json /tmp/q",
     f"test --json {WORK}/there/1/r -- --json {WORK}/there/1/q", ""),
    ("lab --rootless test s.yaml", "--rootless test s.yaml", "here/s.yaml"),
    ("lab test --name s.yaml", "test --name s.yaml", ""),
    # --json of these is a switch.
    ("lab status --json", "status --json", ""),
    ("lab plan --json s.yaml", "plan --json s.yaml", "here/s.yaml"),
    ("lab validate s.yaml /tmp/absent.yaml", "validate s.yaml /tmp/absent.yaml", "here/s.yaml"),
    ("lab save /tmp/new.yaml", f"save {WORK}/there/1/new.yaml", ""),
    ("lab save netlab/new.yaml", "save /vagrant/new.yaml", ""),
    ("lab capture lan -o/tmp/x.pcapng", f"capture lan -o{WORK}/there/1/x.pcapng", ""),
    ("lab capture lan -o -", "capture lan -o -", ""),
    # A path of the VM that is one here too stays what it is.
    ("lab exec client cat /etc/hosts", "exec client cat /etc/hosts", ""),
    ("lab exec client -- cat /etc/hosts", "exec client -- cat /etc/hosts", ""),
    ("lab exec --name x client dhcp-tester --mac-list m.txt",
     "exec --name x client dhcp-tester --mac-list m.txt", "here/m.txt"),
    ("lab exec client -- dhcp-tester --mac-list m.txt",
     "exec client -- dhcp-tester --mac-list m.txt", "here/m.txt"),
    ("dhcp-server --option 67=/tmp/boot.img", "--option 67=/tmp/boot.img", ""),
    # The second file of one directory has the same place.
    ("lab test --json /tmp/r --clients-csv /tmp/c",
     f"test --json {WORK}/there/1/r --clients-csv {WORK}/there/1/c", ""),
    ("dhcp-tester --perfdhcp '-T /tmp/b,c.hex -Mm.txt 10.0.0.1'",
     f"--perfdhcp '-T {WORK}/there/1/b,c.hex -Mm.txt 10.0.0.1'", "there/1/b,c.hex here/m.txt"),
    ("dhcp-tester --perfdhcp \"-T 'unclosed\"", "--perfdhcp \"-T 'unclosed\"", ""),
])
def test_words_and_what_they_take_along(words: str, expected: str, copied: str) -> None:
    program, *given = shlex.split(words)
    errand = plan(program, given, {}, MAC, WORK)
    assert errand.words == [program, *shlex.split(expected)]
    assert list(errand.copies) == copied.split()


def test_files_that_variables_name() -> None:
    errand = plan("dhcp-server", [], {
        "DHCP_CONFIG": "/Users/ada/s.yaml", "DHCP_JSON": "/tmp/r.json", "DHCP_ENV": "staging",
        "DHCP_RELAY_CONFIG": "s.yaml", "DHCP_RELAY": "@m.txt"}, MAC, WORK)
    assert errand.environment["DHCP_CONFIG"] == "s.yaml"
    assert errand.environment["DHCP_JSON"] == f"{WORK}/there/1/r.json"
    assert errand.environment["DHCP_RELAY"] == "@m.txt"
    assert set(errand.copies) == {"here/s.yaml", "here/config/staging.yaml", "here/m.txt"}


@pytest.mark.parametrize("name, expected", [
    ("here/a", "/home/u/a"), ("here/a/b", "/home/u/a/b"), ("there/1/x", "/tmp/x"),
    ("here", None), ("there/1", None), ("there/2/x", None), ("run", None), ("here/../x", None),
    ("/etc/passwd", None), ("there/1/../../x", None), ("", None)])
def test_only_what_has_a_place_comes_back(name: str, expected: str | None) -> None:
    errand = Errand(Host(PurePosixPath("/home/u"), None, lambda path: ""), WORK)
    errand.returns["there/1"] = PurePosixPath("/tmp")
    assert target_of(name, errand) == (expected and Path(expected))


@pytest.mark.parametrize("name", [r"here/..\x", "here/c:x", "here/a:stream", "here/a?"])
def test_names_that_mean_something_else_on_windows_are_not_stored(name: str) -> None:
    assert target_of(name, Errand(WINDOWS, WORK)) is None


def test_links_and_devices_of_the_vm_are_not_stored(tmp_path: Path) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, kind in (("here/l", tarfile.SYMTYPE), ("here/h", tarfile.LNKTYPE),
                           ("here/f", tarfile.FIFOTYPE), ("here/d", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    made.seek(0)
    errand = Errand(Host(tmp_path, None, lambda path: ""), WORK)
    assert _unpack(made, errand) is None
    assert [path for path in tmp_path.iterdir() if not path.is_dir()] == []


# The tables against what they are about.


def _commands() -> list[tuple[str, str, click.Command]]:
    found = []
    for program, module in MODULES.items():
        commands = importlib.import_module(module)
        top = commands.lab if program == "lab" else commands.main_command
        found.append((program, "", top))
        if isinstance(top, click.Group):
            context = click.Context(top)
            for name in top.list_commands(context):
                command = top.get_command(context, name)
                assert command is not None
                found.append((program, name, command))
    return found


def test_every_option_that_takes_a_file_is_in_the_table() -> None:
    for program, name, command in _commands():
        known = FILES.get((program, name), {})
        for param in command.params:
            names = {each.lstrip("-") for each in param.opts} if isinstance(
                param, click.Option) else {""}
            if isinstance(param.type, click.Path) or param.metavar in ("FILE", "DIR"):
                assert names <= known.keys(), f"{program} {name}: {param.opts}"


def test_the_table_has_no_option_that_is_not_there() -> None:
    there = {(program, name): {each.lstrip("-") for param in command.params
                               for each in (*param.opts, *([""] if isinstance(
                                   param, click.Argument) else []))}
             for program, name, command in _commands()}
    for key, options in FILES.items():
        assert options.keys() <= there[key], key


def test_commands_whose_argument_is_a_topology_are_in_the_table() -> None:
    for program, name, command in _commands():
        if any(isinstance(param, click.Argument) and param.metavar == "[TOPOLOGY]"
               for param in command.params):
            assert FILES[program, name][""][1] is Use.READ


def test_the_vagrantfile_shares_both_ways_with_the_same_providers() -> None:
    text = (ROOT / "Vagrantfile").read_text()
    shares = dict(re.findall(r'^  "(\w+)" +=> \{ box: .*share: \{ type: "(\w+)" \}', text,
                             re.MULTILINE))
    assert shares.keys() == SHARED_BOTH_WAYS
    # These two go one way, or need more than the provider.
    assert not {"rsync", "nfs"} & set(shares.values())
    assert f'"{vm_paths.SHARE}"' in text


def test_on_linux_nothing_of_this_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from fastpath.vm import carried; carried('lab'); "
         "print([name for name in sys.modules if name.startswith('fastpath.vm_')])"],
        cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_signal_before_the_program_began_waits_for_it(world: World) -> None:
    world.put("guest/lab", f"#!/bin/sh\ntouch {world.base}/began\nexec sleep 30\n")
    world.put("guest/sh", "#!/bin/sh\ncase $2 in *exec*) sleep 1;; esac\nexec /bin/sh \"$@\"\n")
    with world.start("lab", "status") as process:
        deadline = time.monotonic() + 20
        log = world.base / "ssh.log"
        # The first connection takes the files.
        while not (log.exists() and log.read_text() == "-T\n-T\n"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
