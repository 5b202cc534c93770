"""The command line that programs share: Go forms, durations, and one line for each mistake.

No test here may reach a network: `-interface` names one that does not exist, so that a command
line that is accepted ends with "no interface", exit code 1.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

from fastpath.cli import DURATION, Command, Group, parse_duration_s, run, say_error
from fastpath.errors import Malformed, NetlabError, SystemRefused, UserError
from tester import cli as tester_cli

ROOT = Path(__file__).parents[2]
NOWHERE = "-interface=no-such-if"
HEAVY = ("numba", "numpy", "rich", "psutil", "pyroute2", "matplotlib")


@click.command(cls=Command)
@click.option("--interface", "-i")
@click.option("--retry/--no-retry", default=False)
@click.option("--live", is_flag=True)
@click.option("--clients", "-n", type=int)
@click.option("--timeout", type=DURATION)
@click.option("--backoff", is_flag=False, flag_value="usual")
@click.option("--start-ip")
@click.argument("rest", nargs=-1)
def sample(**values: Any) -> Any:
    return {name: value for name, value in values.items() if value not in (None, False, ())}


def parsed(*args: str) -> Any:
    return sample.main(list(args), standalone_mode=False)


@pytest.mark.parametrize(("args", "values"), [
    (["-interface=eth0"], {"interface": "eth0"}), (["-interface", "eth0"], {"interface": "eth0"}),
    (["--interface=eth0"], {"interface": "eth0"}), (["-i", "eth0"], {"interface": "eth0"}),
    (["-ieth0"], {"interface": "eth0"}), (["-i=eth0"], {"interface": "eth0"}),
    (["-interface="], {"interface": ""}), (["-interface=a=b"], {"interface": "a=b"}),
    (["-backoff", "-clients=3"], {"backoff": "usual", "clients": 3}),
    (["-backoff", "-clients", "3"], {"backoff": "usual", "clients": 3}),
    (["--backoff", "-n=3"], {"backoff": "usual", "clients": 3}),
    (["-backoff", "1s", "-n", "3"], {"backoff": "1s", "clients": 3}),
    (["-backoff=1s"], {"backoff": "1s"}), (["-backoff"], {"backoff": "usual"}),
    (["-interface", "-live"], {"interface": "-live"}), (["-i", "-n=1"], {"interface": "-n=1"}),
    (["-clients", "100"], {"clients": 100}), (["-clients=100"], {"clients": 100}),
    (["-n100"], {"clients": 100}), (["-n", "100"], {"clients": 100}), (["-n=7"], {"clients": 7}),
    (["-clients=-5"], {"clients": -5}),
    (["-timeout", "10s"], {"timeout": 10.0}), (["-timeout=1h30m"], {"timeout": 5400.0}),
    (["-start-ip", "10.0.0.1"], {"start_ip": "10.0.0.1"}),
    (["-retry"], {"retry": True}), (["-retry=true"], {"retry": True}),
    (["--retry=true"], {"retry": True}), (["-retry=1"], {"retry": True}),
    (["-retry=T"], {"retry": True}), (["-retry=false"], {}), (["--retry=FALSE"], {}),
    (["-retry", "-retry=0"], {}), (["-no-retry=false"], {"retry": True}),
    (["-retry", "-no-retry=true"], {}), (["-live"], {"live": True}), (["-live=false"], {}),
    (["-live=true", "-clients", "3", "-retry"], {"live": True, "clients": 3, "retry": True}),
    (["--", "-clients", "3"], {"rest": ("-clients", "3")}),
    (["-live", "--", "-live=x"], {"live": True, "rest": ("-live=x",)}),
    (["-"], {"rest": ("-",)}), (["a", "-live", "b"], {"live": True, "rest": ("a", "b")})])
def test_go_form(args: list[str], values: dict[str, Any]) -> None:
    assert parsed(*args) == values


@pytest.mark.parametrize(("args", "said"), [
    (["-retry=maybe"], "--retry is a switch: 'maybe' is neither true nor false"),
    (["-retry="], "--retry is a switch"), (["-live=2"], "--live is a switch"),
    (["-intreface", "x"], "No such option '-intreface'. Did you mean '-interface'?"),
    (["-intreface=x"], "No such option '-intreface'. Did you mean '-interface'?"),
    (["-clinets", "100"], "Did you mean '-clients'?"), (["-tiemout=1s"], "Did you mean '-timeout'"),
    (["--intreface", "x"], "Did you mean '--interface'?"), (["--zzz"], "No such option '--zzz'"),
    (["-zzz"], "No such option"), (["-clients"], "requires an argument"),
    (["-clients", "many"], "'many' is not a valid integer"),
    (["-timeout", "soon"], "'soon' is not a duration: write 10ms, 30s, 5m or 24h")])
def test_wrong_usage(args: list[str], said: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        parsed(*args)
    assert said in refused.value.format_message()


@click.group(cls=Group)
@click.option("--name", "-n", default="")
@click.version_option("1", "--version")
@click.pass_context
def many(ctx: click.Context, name: str) -> None:
    ctx.obj = name


@many.command()
@click.option("--hops", type=int)
@click.pass_obj
def setup(name: str, hops: int) -> Any:
    return name, hops


@many.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.option("--node", default="")
@click.pass_obj
def exec_(name: str, words: tuple[str, ...], node: str) -> Any:
    return name, node, words


@pytest.mark.parametrize(("args", "result"), [
    (["setup", "-hops=3"], ("", 3)), (["-name=x", "setup", "-hops", "3"], ("x", 3)),
    (["-name", "setup", "setup", "-hops=3"], ("setup", 3)),
    # Words of another program stay as they are, however like ours they look.
    (["exec", "-node=c", "dig", "-vresion", "-nmae=x"], ("", "c", ("dig", "-vresion", "-nmae=x"))),
    (["exec", "ip", "-vresion", "-name=x"], ("", "", ("ip", "-vresion", "-name=x"))),
    (["exec", "--", "ip", "-node=x"], ("", "", ("ip", "-node=x")))])
def test_commands_of_a_group(args: list[str], result: Any) -> None:
    assert many.main(args, standalone_mode=False) == result


@pytest.mark.parametrize("args", [["-nmae=x", "setup"], ["setup", "-hosp=3"]])
def test_typos_in_a_group(args: list[str]) -> None:
    with pytest.raises(click.UsageError, match="Did you mean"):
        many.main(args, standalone_mode=False)


@pytest.mark.parametrize(("text", "seconds"), [
    ("10ms", 0.01), ("30s", 30), ("24h", 86400), ("5m", 300), ("1h30m", 5400), ("1.5h", 5400),
    ("2d", 172_800), ("1m30.5s", 90.5), ("250us", 0.00025), ("250µs", 0.00025),
    ("5000000ns", 0.005), (".5s", 0.5), ("1.s", 1), ("0", 0), ("0s", 0), ("10", 10), ("2.5", 2.5),
    ("1e-3", 0.001), (" 10s ", 10)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration_s(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", [
    "", " ", "s", "10 s", "10x", "10sec", "-1s", "-5", "1h 30m", "s10", "10s!", "nan", "inf",
    "-inf", "1e400", "9" * 400 + "h", "9" * 100_000,
    "1s" * 100, "ten", "10s-5s", "1,5s", "10S", "0x10"])
def test_no_durations(text: str) -> None:
    with pytest.raises(UserError, match="is not a duration") as refused:
        parse_duration_s(text)
    assert refused.value.remedy == "write 10ms, 30s, 5m or 24h" and refused.value.exit_code == 2


def ending(raises: Callable[[], Any], capsys: pytest.CaptureFixture[str],
           monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """Exit code and standard error of a program that does this."""
    @click.command(cls=Command)
    def command() -> Any:
        return raises()

    monkeypatch.setattr(sys, "argv", ["prog"])
    with pytest.raises(SystemExit) as left:
        run(command, "prog")
    assert isinstance(left.value.code, int)
    return left.value.code, capsys.readouterr().err


def fail(error: BaseException) -> Callable[[], Any]:
    def raises() -> Any:
        raise error

    return raises


@pytest.mark.parametrize(("raises", "code", "err"), [
    (lambda: None, 0, ""), (lambda: 3, 3, ""), (lambda: 99, 99, ""), (lambda: "text", 0, ""),
    (fail(UserError("bad", "do good")), 2, "prog: bad\n      do good\n"),
    (fail(UserError("bad")), 2, "prog: bad\n"),
    (fail(SystemRefused("no", "sudo")), 1, "prog: no\n      sudo\n"),
    (fail(Malformed("json", "r.json: cut")), 1, "prog: r.json: cut\n"),
    (fail(NetlabError("x")), 1, "prog: x\n"),
    (fail(click.UsageError("odd")), 2, "prog: odd\n      see: prog --help\n"),
    (fail(click.ClickException("odd")), 1, "prog: odd\n"),
    # click ends the line on which a terminal has shown ^C.
    (fail(KeyboardInterrupt()), 130, "\n"), (fail(click.Abort()), 130, "")])
def test_exit_codes(raises: Callable[[], Any], code: int, err: str,
                    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert ending(raises, capsys, monkeypatch) == (code, err)


def test_our_own_bug_is_not_hidden(capsys: pytest.CaptureFixture[str],
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        ending(lambda: 1 // 0, capsys, monkeypatch)


def program(module: str, *args: str, script: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program (or a script that imports one) as its own process."""
    how = ["-c", script, *args] if script else ["-m", module, *args]
    return subprocess.run([sys.executable, *how], capture_output=True, text=True, timeout=30,
                          cwd=ROOT)


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    script = ("import click\nfrom fastpath.cli import Command, run\n"
              "@click.command(cls=Command)\ndef c():\n    for _ in range(100000): print('x' * 99)\n"
              "run(c, 'prog')\n")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) != 0


@pytest.mark.parametrize("module", ["tester.cli", "server.cli"])
@pytest.mark.parametrize("option", ["--help", "-h", "-help"])
def test_help_is_quick(module: str, option: str) -> None:
    """It imports nothing that takes time to import."""
    script = (f"import sys, runpy\nsys.argv = ['prog', {option!r}]\ntry:\n"
              f"    runpy.run_module({module!r}, run_name='__main__')\n"
              f"except SystemExit as left:\n    code = left.code\n"
              f"print(code, [m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\n")
    done = program("", script=script)
    assert done.stderr == "0 []\n"
    assert done.stdout.startswith("Usage: dhcp-") and "--interface" in done.stdout
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert program(module, option).returncode == 0
        took.append(time.monotonic() - began)
    # 0.3 s is promised and benchmarked; here another test may have the processor.
    assert min(took) < 1.0


@pytest.mark.parametrize("module", ["tester.cli", "server.cli"])
def test_version(module: str) -> None:
    done = program(module, "-version")
    assert done.returncode == 0 and done.stdout.startswith("dhcp-")


WRONG: list[tuple[str, str]] = [
    ("-interface ''", "--interface"), ("-server ''", "--server"), ("-server 0.0.0.0", "--server"),
    ("-server 224.0.0.1", "--server"), ("-server no.such.host", "--server"),
    ("-port 0", "--port"), ("-port 65535", "--port"), ("-port x", "--port"),
    ("-local-address 10.0.0", "--local-address"), ("-local-address ''", "--local-address"),
    ("-local-port 0", "--local-port"), ("-local-port 65536", "--local-port"),
    ("-relay 10.0.0.300", "--relay"), ("-relay ''", "--relay"), ("-relay 10.0.0.1", "--relay"),
    ("-relay-block 0", "--relay-block"), ("-relay-block x", "--relay-block"),
    ("-server 10.0.0.1 -relay 10.0.0.9 -server-mac zz", "--server-mac"),
    ("-vlan ''", "--vlan"), ("-vlan 4096", "--vlan"), ("-vlan 1.2.3.4", "--vlan"),
    ("-vlan-type 802.1x", "--vlan-type"), ("-answer-arp=2", "--answer-arp"),
    ("-answer-ping=2", "--answer-ping"), ("-qdisc=2", "--qdisc"),
    ("-clients 0", "--clients"), ("-clients 1.5", "--clients"), ("-clients x", "--clients"),
    ("-clients 40000000", "--clients"), ("-exchanges -1", "--exchanges"),
    ("-exchanges 1e3", "--exchanges"), ("-exchanges 0", "--exchanges"),
    ("-exchanges 9999999999999", "--exchanges"), ("-concurrency 0", "--concurrency"),
    ("-concurrency 9999999", "--concurrency"), ("-rate 0", "--rate"), ("-rate -1", "--rate"),
    ("-rate nan", "--rate"), ("-rate inf", "--rate"), ("-rate 1e8", "--rate"),
    ("-rate x", "--rate"), ("-rate 1e7 -duration 1h", "--clients"), ("-poisson", "--poisson"),
    ("-poisson -avalanche", "--poisson"), ("-ramp 1s", "--ramp"), ("-ramp 0 -rate 1", "--ramp"),
    ("-ramp 1s -stages 1s:5", "--ramp"), ("-ramp x", "--ramp"), ("-stages 1s", "--stages"),
    ("-stages ''", "--stages"), ("-stages 1s:nan", "--stages"), ("-stages 1s:0", "--stages"),
    ("-stages 1s:1 -rate 5", "--stages"), ("-avalanche=2", "--avalanche"),
    ("-avalanche -rate 5", "--avalanche"), ("-duration 0", "--duration"),
    ("-duration 1us", "--duration"), ("-duration 8d", "--duration"),
    ("-duration x", "--duration"), ("-duration -1s", "--duration"), ("-preload -1", "--preload"),
    ("-preload 9 -clients 8", "--preload"), ("-warm-up x", "--warm-up"),
    ("-warm-up 8d", "--warm-up"), ("-renew-rate nan", "--renew-rate"),
    ("-renew-rate -1", "--renew-rate"), ("-release-rate nan", "--release-rate"),
    ("-release-rate 1e8", "--release-rate"), ("-max-drop x", "--max-drop"),
    ("-max-drop 101%", "--max-drop"), ("-max-drop -1", "--max-drop"),
    ("-max-drop 0.5", "--max-drop"), ("-max-drop 5%%", "--max-drop"), ("-drain 8d", "--drain"),
    ("-drain x", "--drain"), ("-timeout 0", "--timeout"), ("-timeout 2h", "--timeout"),
    ("-timeout 100us", "--timeout"), ("-timeout x", "--timeout"), ("-timeout nan", "--timeout"),
    ("-retry=2", "--retry"), ("-max-discover-retries -1", "--max-discover-retries"),
    ("-max-discover-retries 101", "--max-discover-retries"),
    ("-max-request-retries x", "--max-request-retries"), ("-backoff soon", "--backoff"),
    ("-backoff 9s..4s", "--backoff"), ("-backoff 0..4s", "--backoff"),
    ("-backoff 1s..2s..3s", "--backoff"), ("-backoff 4s..2h", "--backoff"),
    ("-behaviour sleep", "--behaviour"), ("-behaviour ''", "--behaviour"),
    ("-behaviour stay,leave", "--behaviour"), ("-mix stay=x", "--mix"), ("-mix ''", "--mix"),
    ("-mix stay=1,stay=2", "--mix"), ("-mix stay=0", "--mix"), ("-mix stay=1e308", "--mix"),
    ("-mix stay -behaviour leave", "--mix"), ("-discover-only=2", "--discover-only"),
    ("-discover-only -mix stay", "--discover-only"), ("-hold soon", "--hold"),
    ("-hold nan", "--hold"), ("-return-after 8d", "--return-after"), ("-cycles -1", "--cycles"),
    ("-cycles 65536", "--cycles"), ("-time-scale nan", "--time-scale"),
    ("-time-scale 0", "--time-scale"), ("-time-scale 1e7", "--time-scale"),
    ("-offer ''", "--offer"), ("-offer any", "--offer"), ("-offer 0.0.0.0", "--offer"),
    ("-offer-wait x", "--offer-wait"), ("-rapid-commit=2", "--rapid-commit"),
    ("-malform spelling", "--malform"), ("-malform empty=2", "--malform"),
    ("-malform empty=60% -malform hops=60%", "--malform"),
    ("-malform hops -malform hops", "--malform"), ("-aging-after 8d", "--aging-after"),
    ("-aging-for x", "--aging-for"), ("-mac-base zz", "--mac-base"),
    ("-mac-base 02:00:00:00:00", "--mac-base"), ("-mac-base 01:00:5e:00:00:01", "--mac-base"),
    ("-mac-base 02:ff:ff:ff:ff:ff", "--mac-base"), ("-mac-step 0", "--mac-step"),
    ("-mac-step 4294967296 -clients 300", "--mac-base"), ("-mac-carry=2", "--mac-carry"),
    ("-mac-list no-such-file", "--mac-list"), ("-mac-list ''", "--mac-list"),
    ("-mac-list /dev/null", "--mac-list"), ("-mac-list /dev/zero", "--mac-list"),
    ("-client-id {index", "--client-id"), ("-client-id ''", "--client-id"),
    ("-hostname {who}", "--hostname"), ("-vendor-class hex:0", "--vendor-class"),
    ("-user-class hex:", "--user-class"), ("-circuit-id }", "--circuit-id"),
    ("-remote-id {1/2}", "--remote-id"), ("-request-options tea", "--request-options"),
    ("-request-options 0", "--request-options"), ("-request-options 255", "--request-options"),
    ("-max-message-size 65536", "--max-message-size"),
    ("-max-message-size x", "--max-message-size"), ("-broadcast-flag=2", "--broadcast-flag"),
    ("-option 12", "--option"), ("-option tea=1", "--option"), ("-option hello:12=a", "--option"),
    ("-option 51={index}", "--option"), ("-option 0=hex:00", "--option"),
    ("-template discover", "--template"), ("-template offer=x", "--template"),
    ("-template discover=no-such-file", "--template"), ("-template ''", "--template"),
    ("-template discover,request=x", "--template"), ("-raw-template discover=", "--raw-template"),
    ("-raw-template discover=/dev/null", "--raw-template"), ("-expect tea", "--expect"),
    ("-expect router=x", "--expect"), ("-expect !", "--expect"),
    ("-expect-server x", "--expect-server"), ("-json /tmp", "--json"), ("-json ''", "--json"),
    ("-json", "--json"), ("-clients-csv /tmp", "--clients-csv"),
    ("-clients-csv ''", "--clients-csv"), ("-progress=2", "--progress"), ("-live=2", "--live"),
    ("-verbose=2", "--verbose"), ("-lang de", "--lang"), ("-wrap ''", "--wrap"),
    ("-seed -1", "--seed"), ("-seed 4294967296", "--seed"), ("-ring-slots 100", "--ring-slots"),
    ("-ring-slots 32", "--ring-slots"), ("-ring-slots 262144", "--ring-slots"),
    ("-perfdhcp", "--perfdhcp"), ("-perfdhcp -4", "--perfdhcp"),
    ("-config no-such-file", "no-such-file"), ("-config /dev", "--config"),
    ("-zzz", "-z"), ("--no-such", "--no-such"), ("extra", "extra")]

RIGHT = [
    "", "-clients 1 -concurrency 1", "-rate 0.1 -duration 10ms", "-retry -max-discover-retries=0",
    "-mac-base 0200.0000.0001 -seed 0 -port 1", "-ring-slots 64 -timeout 1ms",
    "-mac-base 02:ff:ff:ff:ff:fe -clients 2", "-duration 7d", "-timeout=1h -progress -live=false",
    "-json r.json -clients-csv r.csv",
    "-relay 10.0.0.9 -server 10.0.0.1 -server-mac 02-00-00-00-00-01",
    "-vlan {1+index%48}.7 -vlan-type 802.1q",
    "-rate 5 -ramp 1s -poisson", "-stages 1s:5,1s:0 -poisson", "-avalanche -max-drop 5%",
    "-exchanges 0 -duration 1s", "-preload 8 -clients 8 -warm-up 1s -drain 0", "-backoff",
    "-backoff 1s..16s", "-backoff -clients 5", "-mix stay=70,release=20%,leave=10 -cycles 0",
    "-behaviour flap -hold 1s -return-after 0 -time-scale 1000", "-hold forever",
    "-discover-only -malform no-cookie=5% -malform bad-op=0", "-offer all -offer-wait 0",
    "-offer 10.0.0.1 -expect-server 10.0.0.1", "-aging-after 0 -aging-for 1m",
    "-client-id hex:01{mac} -hostname sw{index//48}-p{index%48} -user-class a -user-class b",
    "-request-options 1,router -option discover,request:43=hex:0102 -option 51=1h",
    "-expect router -expect !dns -expect 51=3600 -rapid-commit -lang ko -v"]


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
         ) -> Callable[..., tuple[int, str, str]]:
    """Run dhcp-tester in this process on an interface that is not there, and know no names."""
    def nobody_knows(host: str) -> str:
        host.encode("idna")
        raise OSError

    def tester(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dhcp-tester", NOWHERE, *args])
        with pytest.raises(SystemExit) as left:
            tester_cli.main()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    for name in [name for name in os.environ if name.startswith("DHCP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("socket.gethostbyname", nobody_knows)
    return tester


Ends = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(("line", "names"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_values(line: str, names: str, ends: Ends) -> None:
    """Exit code 2, one line that names the option, and a remedy under it."""
    code, out, err = ends(*shlex.split(line))
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0].startswith("dhcp-tester: ") and names in lines[0]
    assert len(lines) <= 2 and all(more.startswith(" " * 13) for more in lines[1:])


def test_every_option_has_a_wrong_value() -> None:
    """So that an option added later is not forgotten above."""
    tried = {word.partition("=")[0].lstrip("-") for line, _ in WRONG for word in line.split()
             if word[0] == "-"}
    assert set(OPTIONS) - tried == {"version"}


@pytest.mark.parametrize("line", RIGHT)
def test_right_values_get_as_far_as_the_interface(
        line: str, ends: Ends, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ends(*shlex.split(line))
    assert (code, out) == (1, "")
    assert err.startswith("dhcp-tester: no interface 'no-such-if' in this network namespace\n"
                          "             there is: ")
    assert os.listdir(tmp_path) == []


HOSTILE = [
    "", " ", "nan", "inf", "-inf", "0", "1e400", "9" * 400, "9" * 5000, "-9223372036854775809",
    "\0", "a\0b", "\n", "a\nb", "\x1b[2J", "\udcff\udcfe", "\ud800", "=", "=x", "x=", "1=\udcff",
    ",", ",,", ":", ".", "..", "100.", "{", "}", "{}", "{index", "{index}.", "{" * 5000, "hex:",
    "hex:0", "hex:zz", "12=hex:0", "12=\0", "12={index", "stay=nan", "stay=\u0663", "stay=-0",
    "@", "@no-such-file", "@folder", "@octets", "@empty", "no-such-file", "folder", "folder/",
    "octets", "empty", "octets/x", "discover=", "discover=no-such-file", "discover=folder",
    "discover=octets", "discover=empty", "discover=\0", "discover=hex,xid=" + "9" * 5000,
    "discover=hex,mac=4", "discover=hex,server=239", "10.0.0.1-", "-", "0.0.0.0-255.255.255.255",
    "10.0.0.9-10.0.0.1", "10.0.0.1,10.0.0.1", "0x10", "1_000", " 5", "5%", "-5%", "nan%", "%",
    "4s..", "..4s", "\uff11", "x" * 100_000]
OPTIONS = {max(parameter.opts, key=len)[2:]: parameter
           for parameter in tester_cli.main_command.params if isinstance(parameter, click.Option)}


@pytest.mark.parametrize("option", [name for name, each in OPTIONS.items() if not each.is_flag])
def test_hostile_values(option: str, ends: Ends, monkeypatch: pytest.MonkeyPatch,
                        tmp_path: Path) -> None:
    """Never a traceback: the test is ready to begin, or one line says what is wrong."""
    def ready(*_: Any) -> int:
        raise SystemRefused("ready")

    monkeypatch.setattr("tester.app.run_test", ready)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "octets").write_bytes(b"\xff\xfe\0\1" * 100)
    (tmp_path / "empty").touch()
    (tmp_path / "hex").write_text("01010600" + "00" * 232 + "63825363 350101 ff")
    for value in HOSTILE:
        server = ["-server=10.0.0.1"] if option in ("relay", "server-mac", "local-address") else []
        code, out, err = ends(*server, f"--{option}={value}")
        lines = err.splitlines()
        assert out == "" and code in (1, 2), value
        assert err == "dhcp-tester: ready\n" or 1 <= len(lines) <= 2, value
        assert all(line.isprintable() and len(line) < 800 for line in lines), value
    assert sorted(os.listdir(tmp_path)) == ["empty", "folder", "hex", "octets"]


@pytest.mark.parametrize("module", ["tester.cli", "server.cli"])
@pytest.mark.parametrize("args", [["--intreface", "x"], ["-intreface=x"], ["-port", "many"]])
def test_typos_in_the_program_itself(module: str, args: list[str]) -> None:
    done = program(module, NOWHERE, *args)
    assert done.returncode == 2 and done.stdout == ""
    first, *more = done.stderr.splitlines()
    assert first.startswith("dhcp-") and (args[0].partition("=")[0] in first or "--port" in first)
    assert len(more) == 1 and more[0].strip().endswith("--help")


@pytest.mark.parametrize(("line", "outputs"), [
    ("", {}), ("-progress -live -verbose -lang ko", {"progress": True, "live": True,
                                                     "verbose": True, "lang": "ko"}),
    ("-json r.json -clients-csv=c.csv", {"json_file": Path("r.json"),
                                         "clients_csv": Path("c.csv")})])
def test_what_is_run_and_shown(line: str, outputs: dict[str, Any], ends: Ends,
                               monkeypatch: pytest.MonkeyPatch) -> None:
    """Its exit code is that of the program."""
    taken: list[Any] = []

    def run_test(*given: Any) -> int:
        taken.extend(given)
        return 4

    monkeypatch.setattr("tester.app.run_test", run_test)
    assert ends(*line.split()) == (4, "", "")
    config, shown = taken
    assert config.where.interface == "no-such-if"
    usual = {field.name: field.default for field in fields(shown)}
    assert {field.name: getattr(shown, field.name) for field in fields(shown)} == usual | outputs


def test_an_error_is_one_line_of_what_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say_error("prog", "a\nb\x1b[2J\udcff\u202e \uac00", "see\r" + "x" * 5000 + "end")
    first, second, *rest = capsys.readouterr().err.split("\n")
    assert first == "prog: a\\nb\\x1b[2J\\udcff\\u202e \uac00" and rest == [""]
    assert second.startswith("      see\\rxxx") and second.endswith("xxxend")
    assert len(second) < 700 and "x ... x" in second


@pytest.mark.parametrize(("argument", "said"), [
    (b"-hostname=\xff", b"--hostname: a character that is not UTF-8"),
    (b"-mac-list=\xff.txt", b"cannot read \\udcff.txt: No such file or directory"),
    (b"-server=\xff", b"no address is known for '\\udcff'"), (b"-port=\xff", b"'--port'"),
    (b"\xff", b"(\\udcff)"), (b"--\xff", b"--\\udcff")])
def test_arguments_that_are_no_text(argument: bytes, said: bytes) -> None:
    done = subprocess.run([os.fsencode(sys.executable), b"-m", b"tester.cli", NOWHERE.encode(),
                           argument], capture_output=True, timeout=30, cwd=ROOT)
    assert (done.returncode, done.stdout) == (2, b"")
    assert said in done.stderr and len(done.stderr.splitlines()) == 2
