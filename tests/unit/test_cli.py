"""The command line that programs share: Go forms, durations, and one line for each mistake.

No test here may reach a network: `-interface` names one that does not exist, so that a command
line that is accepted ends with "no interface", exit code 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fastpath.cli import DURATION, Command, Group, parse_duration_s, run
from fastpath.errors import Malformed, NetlabError, SystemRefused, UserError
from tester import cli as tester_cli
from tester.plan import ClosedLoop, ConstantRate

ROOT = Path(__file__).parents[2]
NOWHERE = "-interface=no-such-if"
HEAVY = ("numba", "numpy", "rich", "psutil", "pyroute2", "matplotlib")


@click.command(cls=Command)
@click.option("--interface", "-i")
@click.option("--retry/--no-retry", default=False)
@click.option("--live", is_flag=True)
@click.option("--clients", "-n", type=int)
@click.option("--timeout", type=DURATION)
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
    "-inf", "1e400", "9" * 400 + "h", "ten", "10s-5s", "1,5s", "10S", "0x10"])
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
    ("-clients 0", "--clients"), ("-clients 1.5", "--clients"), ("-clients x", "--clients"),
    ("-clients 40000000", "--clients"), ("-concurrency 0", "--concurrency"),
    ("-concurrency 9999999", "--concurrency"), ("-rate 0", "--rate"), ("-rate -1", "--rate"),
    ("-rate nan", "--rate"), ("-rate inf", "--rate"), ("-rate 1e8", "--rate"),
    ("-rate x", "--rate"), ("-rate 1e7 -duration 1h", "--rate"),
    ("-duration 0", "--duration"), ("-duration 8d", "--duration"), ("-duration x", "--duration"),
    ("-duration -1s", "--duration"), ("-timeout 0", "--timeout"), ("-timeout 2h", "--timeout"),
    ("-timeout 100us", "--timeout"), ("-timeout x", "--timeout"), ("-timeout nan", "--timeout"),
    ("-retry=2", "--retry"), ("-max-discover-retries -1", "--max-discover-retries"),
    ("-max-discover-retries 101", "--max-discover-retries"),
    ("-max-request-retries x", "--max-request-retries"), ("-mac-base zz", "--mac-base"),
    ("-mac-base 02:00:00:00:00", "--mac-base"), ("-mac-base 01:00:5e:00:00:01", "--mac-base"),
    ("-mac-base 02:ff:ff:ff:ff:ff", "--mac-base"), ("-port 0", "--port"),
    ("-port 65535", "--port"), ("-port x", "--port"), ("-seed -1", "--seed"),
    ("-seed 4294967296", "--seed"), ("-ring-slots 100", "--ring-slots"),
    ("-ring-slots 32", "--ring-slots"), ("-ring-slots 262144", "--ring-slots"),
    ("-json /tmp", "--json"), ("-clients-csv /tmp", "--clients-csv"),
    ("-broadcast-flag=2", "--broadcast-flag"), ("-json", "--json"), ("-zzz", "-z"),
    ("--no-such", "--no-such"), ("extra", "extra")]


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
         ) -> Callable[[str], tuple[int, str, str]]:
    """Run dhcp-tester in this process on an interface that is not there."""
    def tester(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["dhcp-tester", NOWHERE, *line.split()])
        with pytest.raises(SystemExit) as left:
            tester_cli.main()
        out, err = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, out, err

    return tester


@pytest.mark.parametrize(("line", "names"), WRONG, ids=[line for line, _ in WRONG])
def test_wrong_values(line: str, names: str, ends: Callable[[str], tuple[int, str, str]]) -> None:
    """Exit code 2, one line that names the option, and a remedy under it."""
    code, out, err = ends(line)
    assert (code, out) == (2, "")
    lines = err.splitlines()
    assert lines[0].startswith("dhcp-tester: ") and names in lines[0]
    assert len(lines) <= 2 and all(more.startswith(" " * 13) for more in lines[1:])


def test_every_option_with_values_has_a_wrong_one() -> None:
    """So that an option added later is not forgotten above."""
    options = {option for parameter in tester_cli.main_command.params
               if isinstance(parameter, click.Option) for option in parameter.opts[:1]}
    tried = {name for _, name in WRONG}
    assert options - tried == {"--interface", "--progress", "--live", "--version"}


@pytest.mark.parametrize("line", [
    "", "-clients 1 -concurrency 1", "-rate 0.1 -duration 10ms", "-retry -max-discover-retries=0",
    "-mac-base 0200.0000.0001 -seed 0 -port 1", "-ring-slots 64 -timeout 1ms",
    "-mac-base 02:ff:ff:ff:ff:fe -clients 2", "-duration 7d", "-timeout=1h -progress -live=false",
    "-json r.json -clients-csv r.csv"])
def test_right_values_get_as_far_as_the_interface(
        line: str, ends: Callable[[str], tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = ends(line)
    assert (code, out) == (1, "")
    assert err.startswith("dhcp-tester: no interface 'no-such-if' in this network namespace\n"
                          "             there is: ")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("module", ["tester.cli", "server.cli"])
@pytest.mark.parametrize("args", [["--intreface", "x"], ["-intreface=x"], ["-port", "many"]])
def test_typos_in_the_program_itself(module: str, args: list[str]) -> None:
    done = program(module, NOWHERE, *args)
    assert done.returncode == 2 and done.stdout == ""
    first, *more = done.stderr.splitlines()
    assert first.startswith("dhcp-") and (args[0].partition("=")[0] in first or "--port" in first)
    assert len(more) == 1 and more[0].strip().endswith("--help")


@pytest.mark.parametrize(("rate", "duration_s", "clients"), [
    (None, None, 1000), (None, 5.0, 1_000_000), (100.0, None, 1000), (100.0, 2.0, 200),
    (0.1, 1.0, 1), (3.0, 1.1, 4)])
def test_how_many_clients(rate: float | None, duration_s: float | None, clients: int) -> None:
    assert tester_cli._clients(rate, duration_s) == clients


def test_precedence_of_flag_environment_and_default() -> None:
    """Flag, then environment, then default."""
    found: list[Any] = []

    def taken(**values: Any) -> int:
        found.append((values["timeout"], values["concurrency"], values["clients"]))
        return 0

    command = Command("t", params=tester_cli.main_command.params, callback=taken)
    env = {"DHCP_TIMEOUT": "7s", "DHCP_CONCURRENCY": "9", "DHCP_CLIENTS": "11"}
    runner = CliRunner()
    assert runner.invoke(command, []).exit_code == 0
    assert runner.invoke(command, [], env=env).exit_code == 0
    assert runner.invoke(command, ["-timeout=8s", "-n", "12"], env=env).exit_code == 0
    assert found == [(5.0, 64, None), (7.0, 9, 11), (8.0, 9, 12)]


USUAL: dict[str, Any] = {
    "interface": "veth0", "clients": 1000, "plan": ClosedLoop(64), "duration_s": None,
    "timeout_s": 5.0, "discover_tries": 1, "request_tries": 1, "mac_base": b"\2\0\0\0\0\0",
    "broadcast_flag": False, "server_port": 67, "ring_slots": 4096}
QUIET = {"progress": False, "live": False, "json_file": None, "clients_csv": None}


@pytest.mark.parametrize(("line", "config", "more"), [
    ("", {}, {}),
    ("-n 7 -c 3 -timeout 1h", {"clients": 7, "plan": ClosedLoop(3), "timeout_s": 3600.0}, {}),
    ("-rate 100 -duration 2s",
     {"clients": 200, "plan": ConstantRate(100.0), "duration_s": 2.0}, {}),
    ("-duration 1m", {"clients": 1_000_000, "duration_s": 60.0}, {}),
    # A retry is one transmission more; without --retry there is none, whatever its limit.
    ("-retry", {"discover_tries": 4, "request_tries": 4}, {}),
    ("-retry=true -max-discover-retries 0 -max-request-retries=7",
     {"discover_tries": 1, "request_tries": 8}, {}),
    ("-max-discover-retries 9", {}, {}),
    ("-mac-base aa-00-00-00-00-05 -broadcast-flag -port 1067 -ring-slots 64",
     {"mac_base": b"\xaa\0\0\0\0\5", "broadcast_flag": True, "server_port": 1067,
      "ring_slots": 64}, {}),
    ("-progress -live -json r.json -clients-csv c.csv", {},
     {"progress": True, "live": True, "json_file": Path("r.json"), "clients_csv": Path("c.csv")})])
def test_what_the_options_come_to(line: str, config: dict[str, Any], more: dict[str, Any],
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[dict[str, Any], dict[str, Any]]] = []

    def run_test(config: Any, **others: Any) -> int:
        taken.append(({name: getattr(config, name) for name in USUAL}, others))
        return 4

    monkeypatch.setattr("tester.app.run_test", run_test)
    monkeypatch.setattr(sys, "argv", ["dhcp-tester", "-interface=veth0", *line.split()])
    with pytest.raises(SystemExit) as left:
        tester_cli.main()
    assert left.value.code == 4
    assert taken == [(USUAL | config, QUIET | more)]


def test_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As given, or another one each time."""
    seeds: list[int] = []
    monkeypatch.setattr("tester.app.run_test", lambda config, **_: seeds.append(config.seed))
    for given in (["-seed=0"], ["-seed=4294967295"], [], []):
        tester_cli.main_command.main([*given, "-i", "x"], standalone_mode=False)
    assert seeds[:2] == [0, 0xFFFFFFFF] and seeds[2] != seeds[3]
