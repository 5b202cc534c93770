"""dhcp-tester's configuration files: which options they set, which line of a bad one is blamed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastpath.cli import ADDRESS, DURATION, Group
from fastpath.configfile import File, find_default
from fastpath.errors import UserError
from server import configfile as servers
from server import schema
from tester.configfile import _OF_SERVER, _SYNONYMS, blame, load
from tests.unit.test_configfile import DEVELOPMENT, LOCAL, PRODUCTION

LOCAL_TESTER = """\
server=127.0.0.1
port=67
clients=1000
concurrency=100
timeout=30s
retry=true
max-discover-retries=3
max-request-retries=3
"""
# The options of dhcp-tester by kind; those that anything here is checked against have a type.
TYPES: dict[str, Any] = {
    "--port": click.IntRange(1, 65534), "--clients": click.IntRange(1, 1 << 25),
    "--concurrency": click.IntRange(1, 1 << 20), "--timeout": DURATION, "--duration": DURATION,
    "--rate": click.FloatRange(0, 10_000_000, min_open=True), "--local-address": ADDRESS,
    "--vlan-type": click.Choice(["802.1q", "802.1ad"]), "--seed": click.IntRange(0, 0xFFFFFFFF),
    "--ring-slots": click.IntRange(64, 1 << 17), "--mac-list": click.Path(path_type=Path),
    "--max-discover-retries": click.IntRange(0, 100),
    "--max-request-retries": click.IntRange(0, 100),
}
SWITCHES = ("retry", "broadcast-flag", "mac-carry", "answer-arp", "answer-ping", "rapid-commit",
            "discover-only", "avalanche", "backoff", "poisson", "progress", "live", "verbose",
            "qdisc")
MANY = ("relay", "option", "template", "raw-template", "malform", "expect", "expect-server")
ONE = ("interface", "clients", "concurrency", "rate", "duration", "timeout",
       "max-discover-retries", "max-request-retries", "mac-base", "port", "seed", "ring-slots",
       "json", "clients-csv", "server", "local-address", "local-port", "relay-block",
       "server-mac", "vlan", "vlan-type", "mac-step", "mac-list", "client-id", "hostname",
       "vendor-class", "user-class", "circuit-id", "remote-id", "request-options", "mix",
       "behaviour", "hold", "return-after", "cycles", "time-scale", "offer", "offer-wait",
       "exchanges", "ramp", "stages", "preload", "warm-up", "renew-rate", "release-rate",
       "max-drop", "drain", "lang", "wrap", "max-message-size", "aging-after",
       "aging-for")


def power_of_two(ctx: click.Context, param: click.Parameter, value: int | None) -> int | None:
    if value and value & (value - 1):
        raise click.BadParameter(f"{value} is not a power of two")
    return value


def take_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    path = find_default(os.environ) if value is None else value
    if path is not None:
        found = load(path, ctx.command.params, shared=value is None)
        ctx.default_map = {**found.flags}
        ctx.meta["file"] = found
    return path


class Blaming(Group):
    def main(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().main(*args, **kwargs)
        except click.UsageError as error:
            raise blame(error, error.ctx.meta.get("file") if error.ctx else None) or error from None


@click.group(cls=Blaming, invoke_without_command=True,
             context_settings={"auto_envvar_prefix": "DHCP"})
@click.option("--config", type=click.Path(path_type=Path), is_eager=True, callback=take_file)
@click.version_option("1")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> dict[str, Any]:
    """Stands for dhcp-tester: the same options, and checks where dhcp-tester has them."""
    if given["timeout"] is not None and not 0.001 <= given["timeout"] <= 3600:
        raise click.BadParameter("must be from 1ms to 1h", param_hint="--timeout")
    if given["max_drop"] == "both":
        raise click.BadParameter("not with drain", param_hint=("'--drain'", "'--max-drop'"))
    if given["avalanche"] and given["rate"]:
        raise click.UsageError("--avalanche beside --rate")
    return given


for word in ONE:
    command.params.append(click.Option(
        [f"--{word}", *(["json_file"] if word == "json" else [])], type=TYPES.get(f"--{word}"),
        callback=power_of_two if word == "ring-slots" else None))
for word in MANY:
    command.params.append(click.Option([f"--{word}"], multiple=True))
for word in SWITCHES:
    command.params.append(click.Option([f"--{word}/--no-{word}"]))


@command.command("report")
@click.option("--port", type=int)
def report(port: int) -> int:
    return port


def run(*arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = command.main(list(arguments), "dhcp-tester", standalone_mode=False)
    return found


def loaded(folder: Path, text: str | bytes, name: str = "test.yaml", *,
           shared: bool = False) -> File:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path, command.params, shared=shared)


def refused(folder: Path, text: str | bytes, name: str = "test.yaml", *,
            shared: bool = False) -> str:
    """`LINE: what; remedy`."""
    with pytest.raises(UserError) as info:
        loaded(folder, text, name, shared=shared)
    what, start = info.value.what, f"{folder / name}:"
    assert what.startswith(start) and what.isprintable() and len(what) < len(start) + 400
    assert type(info.value) is UserError, "an error without the file's name must not get out"
    return f"{what.removeprefix(start).strip()}; {info.value.remedy}"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("DHCP_")]:
        monkeypatch.delenv(name)


# What it is.

def test_lines_of_the_guide(tmp_path: Path) -> None:
    file = loaded(tmp_path, LOCAL_TESTER, "dhcp-tester.conf")
    assert file.flags == {"server": "127.0.0.1", "port": "67", "clients": "1000",
                          "concurrency": "100", "timeout": "30s", "retry": True,
                          "max_discover_retries": "3", "max_request_retries": "3"}
    assert file.line_of["server"] == 1 and file.line_of["max_request_retries"] == 8


def test_yaml_of_the_guide(tmp_path: Path) -> None:
    file = loaded(tmp_path, DEVELOPMENT)
    assert file.flags == {"server": "127.0.0.1", "port": "6700", "clients": "100",
                          "concurrency": "10", "timeout": "10s", "verbose": True, "live": True}
    assert (file.line_of["server"], file.line_of["live"]) == (11, 20)


def test_yaml_without_sections(tmp_path: Path) -> None:
    text = "server: 10.0.0.1\nclients: 5\nretry: yes\njson: out.json\nhostname: on\n" \
           "option: [12=a, 'discover:60=0x01']\nrelay: 10.1.0.1\nmac-base: 12:34:56:12:34:56\n"
    assert loaded(tmp_path, text).flags == {
        "server": "10.0.0.1", "clients": "5", "retry": True, "json_file": "out.json",
        "hostname": "on", "option": ["12=a", "discover:60=0x01"], "relay": ["10.1.0.1"],
        "mac_base": "12:34:56:12:34:56"}


@pytest.mark.parametrize(("line", "flags"), [
    ("", {}), ("# port=1", {}), ("\ufeffport=67\r", {"port": "67"}),
    ("DHCP_CLIENTS=5\nDHCP_SERVER=dhcp-server", {"clients": "5", "server": "dhcp-server"}),
    ("CLIENTS=5", {"clients": "5"}), ("mac_base=\"a b\" # x", {"mac_base": "a b"}),
    ("LOG_LEVEL=info\nDHCP_LOG_LEVEL=warn\nlog-format=json", {}),
    ("test-size=5\nserver-ip=a\nserver_port=6700\nlive-stats=1",
     {"clients": "5", "server": "a", "port": "6700", "live": True}),
    ("json=a", {"json_file": "a"}), ("relay=10.1.0.1", {"relay": ["10.1.0.1"]}),
    ("relay=10.1.0.1\nport=1\nrelay=10.1.0.1", {"relay": ["10.1.0.1"] * 2, "port": "1"}),
    ("option=discover:12=a=b\noption=60='x'", {"option": ["discover:12=a=b", "60='x'"]}),
    ("hostname=sw{index//48}-p{index%48}", {"hostname": "sw{index//48}-p{index%48}"}),
    ("wrap='prog -r 1000 # -p 10'", {"wrap": "prog -r 1000 # -p 10"}),
    ("interface=", {"interface": ""}), ("retry=FALSE", {"retry": False}),
])
def test_line(tmp_path: Path, line: str, flags: dict[str, object]) -> None:
    assert loaded(tmp_path, line + "\n", "x.conf").flags == flags


@pytest.mark.parametrize("text", [
    "", "# nothing\n", "~", "{}", "server:\n", "client:\n", "client:\nlogging:\nserver:\n",
    "server: {any: [thing, {at: all}]}\n", "logging: {level: warn, format: json}\n"])
def test_nothing_said(tmp_path: Path, text: str) -> None:
    assert loaded(tmp_path, text).flags == {}


def test_anchors_and_merges(tmp_path: Path) -> None:
    file = loaded(tmp_path, "server: &s {port: 6700, lease_time: 1h}\nclient: &c\n"
                            "  <<: [&b {port: 1, clients: 5}, {rate: 3}]\n  rate: &n 10\n"
                            "  seed: *n\n  hostname: &h 'x'\n  relay: [*h, *h]\n")
    assert file.flags == {"port": "1", "clients": "5", "rate": "10", "seed": "10",
                          "hostname": "x", "relay": ["x", "x"]}
    assert refused(tmp_path, "server: &s {lease_time: 1h}\nclient:\n  <<: *s\n") == \
        "3: lease_time is a setting of dhcp-server, not of dhcp-tester; " \
        "give each program a file of its own, or a section in a YAML file"


VALUES = {"port": "6700", "clients": "12", "concurrency": "3", "rate": "5.5", "timeout": "30s",
          "duration": "1h30m", "local-address": "10.0.0.9", "vlan-type": "802.1ad", "seed": "7",
          "ring-slots": "4096", "max-discover-retries": "0", "max-request-retries": "100"}
PLAIN = st.from_regex(r"[a-z0-9{}:%/.@=,-]{1,20}", fullmatch=True)


@settings(max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_form_says_the_same(tmp_path: Path, data: st.DataObject) -> None:
    """`key=value` lines as flags or environment, YAML with and without sections."""
    chosen = data.draw(st.lists(st.sampled_from([*ONE, *MANY, *SWITCHES]), unique=True, min_size=1))
    wanted: dict[str, Any] = {}
    for key in chosen:
        if key in SWITCHES:
            wanted[key] = data.draw(st.booleans())
        elif key in MANY:
            wanted[key] = data.draw(st.lists(PLAIN, min_size=1, max_size=3))
        else:
            wanted[key] = VALUES.get(key) or data.draw(PLAIN)
    lines = [(key, each) for key, value in wanted.items()
             for each in (value if isinstance(value, list) else [value])]
    forms = {"a.conf": "".join(f"{key}={value}\n" for key, value in lines),
             "b.conf": "".join(f"DHCP_{key.upper().replace('-', '_')}={value}\n"
                               for key, value in lines),
             "c.yaml": json.dumps(wanted),
             "d.yaml": json.dumps({"client": {key.replace("-", "_"): value
                                              for key, value in wanted.items()}})}
    names = {key: "json_file" if key == "json" else key.replace("-", "_") for key in wanted}
    for name, text in forms.items():
        file = loaded(tmp_path, text, name)
        assert file.flags == {names[key]: value for key, value in wanted.items()}, name
        # click takes them as they are.
        if not wanted.get("avalanche"):
            seen = run("--config", str(tmp_path / name))
            assert all(list(seen[names[key]]) == value for key, value in wanted.items()
                       if key in MANY)
            assert all(seen[names[key]] is value for key, value in wanted.items()
                       if key in SWITCHES)


# Precedence.

def test_flag_environment_file_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.conf"
    path.write_text("port=1001\nclients=11\nrelay=a\nretry=true\nmax-drop=5%\n")
    seen = run("--config", str(path))
    assert (seen["port"], seen["clients"], seen["relay"], seen["retry"]) == (1001, 11, ("a",), True)
    monkeypatch.setenv("DHCP_PORT", "1002")
    monkeypatch.setenv("DHCP_CLIENTS", "12")
    monkeypatch.setenv("DHCP_RELAY", "b c")
    monkeypatch.setenv("DHCP_RETRY", "false")
    seen = run("--config", str(path), "-clients", "13", "--relay", "d")
    assert (seen["port"], seen["clients"], seen["relay"], seen["retry"]) == \
        (1002, 13, ("d",), False)
    assert seen["max_drop"] == "5%" and seen["timeout"] is None
    monkeypatch.setenv("DHCP_CONFIG", str(path))
    assert run()["relay"] == ("b", "c") and run()["max_drop"] == "5%"


def test_subcommands_have_values_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "t.conf"
    path.write_text("port=1001\n")
    assert command.main(["--config", str(path), "report", "--port", "3"], "dhcp-tester",
                        standalone_mode=False) == 3
    with pytest.raises(click.BadParameter, match="'x' is not a valid integer"):
        run("--config", str(path), "report", "--port", "x")


def test_files_of_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "development.yaml").write_text(DEVELOPMENT)
    (tmp_path / "config" / "production.conf").write_text(PRODUCTION)
    monkeypatch.setenv("DHCP_ENV", "development")
    assert (run()["clients"], run()["port"]) == (100, 6700)
    monkeypatch.setenv("DHCP_ENV", "production")
    assert (run()["clients"], run()["port"], run()["relay"]) == (None, 67, ())
    with pytest.raises(UserError, match=r"production\.conf:2: DHCP_LISTEN_IP is a setting of dhcp"):
        run("--config", "config/production.conf")
    monkeypatch.setenv("DHCP_ENV", "prod")
    with pytest.raises(UserError, match="no environment"):
        run()
    assert run("--config", "config/development.yaml")["clients"] == 100


# A file that both programs read.

@pytest.mark.parametrize(("text", "flags"), [
    (PRODUCTION, {"port": "67"}), (LOCAL, {"port": "67"}), (LOCAL_TESTER, None),
    # Nobody else's key: relay, option, interface, seed are dhcp-server's too.
    ("start-ip=10.0.0.1\nrelay=true\noption=12=x\ninterface=a\ninterface=b\nclients=3\nlive=1",
     {"clients": "3", "live": True}),
    ("DHCP_SERVER_IP=10.0.0.1\nDHCP_POOL_START=10.0.0.2\nLOG_LEVEL=info", {}),
    # No such key: they are dhcp-tester's.
    ("relay=10.1.0.1\ninterface=eth1\nserver-ip=10.0.0.1\nrapid-commit=1",
     {"relay": ["10.1.0.1"], "interface": "eth1", "server": "10.0.0.1", "rapid_commit": True}),
])
def test_shared_lines(tmp_path: Path, text: str, flags: dict[str, object] | None) -> None:
    wanted = loaded(tmp_path, text, "x.conf").flags if flags is None else flags
    assert loaded(tmp_path, text, "x.conf", shared=True).flags == wanted


def test_shared_lines_are_checked_all_the_same(tmp_path: Path) -> None:
    said = refused(tmp_path, "start-ip=1.2.3.4\nclints=5", "x.conf", shared=True)
    assert said.startswith("2: unknown key 'clints'; did you mean clients")
    assert refused(tmp_path, "lease-time: 1h", shared=True).startswith("1: lease_time is a setting")


def test_each_program_knows_the_others_keys() -> None:
    ours = {word.replace("-", "_") for word in (*ONE, *MANY, *SWITCHES)} | set(_SYNONYMS)
    assert set(schema.CLIENT_KEYS) == ours
    theirs = {*servers._FLAGS, *servers._SYNONYMS,
              *schema.SCHEMA["$defs"]["server"]["properties"]}
    # These mean the same to both, or are checked and come to nothing.
    assert theirs - _OF_SERVER == {"port", "live", "live_stats", "verbose", "log_level",
                                   "log_format"}
    assert theirs >= _OF_SERVER


def test_the_server_takes_the_same_yaml(tmp_path: Path) -> None:
    text = "client:\n" + "".join(f"  {word}: x\n" for word in (*ONE, *MANY, *SWITCHES))
    (tmp_path / "x.yaml").write_text(text)
    assert servers.load(tmp_path / "x.yaml").flags == {}


# What is refused.

@pytest.mark.parametrize(("text", "said"), [
    ("port=67\n\nfoo", "3: 'foo' is not key=value; for example clients=1000; #"),
    ("=67", "1: '=67' is not key=value"), ("port='67", "1: \"port='67\" is not key=value"),
    ("port=67\nport=67", "2: port is given twice; first on line 1"),
    ("test-size=5\n\nDHCP_CLIENTS=5", "3: DHCP_CLIENTS is given twice; first on line 1"),
    ("retry=true\nretry=true", "2: retry is given twice"),
    ("#\nconurrency=4", "2: unknown key 'conurrency'; did you mean concurrency"),
    ("DHCP_CLEINTS=4", "1: unknown key 'DHCP_CLEINTS'; did you mean clients"),
    ("no-retry=true", "1: unknown key 'no-retry'; did you mean retry"),
    ("config=x.conf", "1: unknown key 'config'; "), ("version=1", "1: unknown key 'version'"),
    ("help=1", "1: unknown key 'help'"), ("json-file=x", "1: unknown key 'json-file'"),
    ("zzz.zzz=1", "1: unknown key 'zzz.zzz'; known are: aging-after"),
    ("start-ip=1.2.3.4", "1: start-ip is a setting of dhcp-server, not of dhcp-tester; give each"),
    ("ENABLE_RELAY=true", "1: ENABLE_RELAY is a setting of dhcp-server"),
    ("port=0", "1: port: 0 is not in the range 1<=x<=65534; "),
    ("port=", "1: port: '' is not a valid integer range"),
    ("DHCP_PORT=x", "1: DHCP_PORT: 'x' is not a valid integer"),
    ("port=" + "9" * 5000, "1: port: '999"), ("x" * 9000 + "=1", "1: 'xxx"),
    ("timeout=5 apples", "1: timeout: '5 apples' is not a duration: write 10ms, 30s, 5m or 24h"),
    ("rate=fast", "1: rate: 'fast' is not a valid float"),
    ("local-address=1.2.3", "1: local-address: '1.2.3' is not an IPv4 address"),
    ("vlan-type=802.1x", "1: vlan-type: '802.1x' is not one of '802.1q', '802.1ad'"),
    ("retry=maybe", "1: retry: 'maybe' is neither true nor false; write true or false"),
    ("log-level=loud", "1: log-level: 'loud' is not known; known are: debug"),
    ("log-format=xml", "1: log-format: 'xml' is not known"),
    ("hostname=a\0b", "1: hostname: 'a\\x00b' is not a line of printable text"),
    ("hostname=a\x1b[31m", "1: hostname: 'a\\x1b[31m' is not a line"),
    ("hostname=a\tb", "1: hostname: 'a\\tb' is not a line"),
    (b"port=67\nhostname=\xff", "2: not UTF-8"), ("por\x1bt=1", "1: 'por\\x1bt=1' is not key"),
])
def test_bad_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refused(tmp_path, text, "x.conf").startswith(said)


@pytest.mark.parametrize(("text", "said"), [
    ("client:\n  conurrency: 3", "2: unknown key 'conurrency'; did you mean concurrency"),
    ("client:\n  Clients: 3", "2: unknown key 'Clients'; did you mean clients"),
    ("clints: 3", "1: unknown key 'clints'; did you mean clients"),
    ("cleint:\n  clients: 3", "1: unknown key 'cleint'; did you mean client"),
    ("logging:\n  levle: info", "2: logging: unknown key 'levle'; did you mean level"),
    ("logging:\n  level: loud", "2: level: 'loud' is not known; known are: debug"),
    ("logging:\n  format: xml", "2: format: 'xml' is not known"),
    ("logging:\n  level: [info]", "2: level: "), ("logging:\n  level:", "2: level: "),
    ("client:\n  verbose: true\nlogging:\n  verbose: true", "4: verbose is given twice; first on"),
    ("client: {port: 1}\nclients: 5", "2: unknown key 'clients' beside sections; settings of dhcp"),
    ("server: 10.0.0.1\nlogging: {}", "1: server: this is not a mapping of settings; settings of"),
    ("client: 5", "1: client: this is not a mapping"), ("client: [a]", "1: client: this is not"),
    ("- a", "1: this is not a mapping with client and logging"), ("hello", "1: this is not a"),
    ("client:\n  start_ip: 1.2.3.4", "2: start_ip is a setting of dhcp-server"),
    ("lease-time: 1h", "1: lease_time is a setting of dhcp-server"),
    ("client:\n  port: [1]", "2: port: a list, where one value"),
    ("client:\n  port: {a: 1}", "2: port: a list or mapping, where one value"),
    ("client:\n  relay: []", "2: relay: an empty list; write a value, or leave"),
    ("client:\n  relay:\n  - a\n  - [b]", "4: relay: a list or mapping, where one"),
    ("client:\n  relay:\n  - a\n  -\n", "4: relay: nothing is given"),
    ("client:\n  relay:", "2: relay: nothing is given"),
    ("client:\n  port:", "2: port: nothing is given"), ("port: ~", "1: port: nothing is given"),
    ("client:\n  retry: 2", "2: retry: '2' is neither true nor false"),
    ("client:\n  retry: [true]", "2: retry: a list"),
    ("client:\n  port: 70000", "2: port: 70000 is not in the range"),
    ("client:\n  server: a\n  server_ip: a", "3: server_ip is given twice; first on line 2"),
    ("client:\n  port: 67\n\n  port: 68", "4: 'port' is given twice; first on line 2"),
    ("client:\n  mac-base: a\n  mac_base: b", "3: 'mac_base' is given twice"),
    ("client:\n  hostname: \"a\\0b\"", "2: hostname: 'a\\x00b' is not a line of printable"),
    ("client:\n  mac_list: \"a\\0b\"", "2: mac_list: 'a\\x00b' is not a line of printable"),
    ("client:\n  hostname: \"a\\nb\"", "2: hostname: 'a\\nb' is not a line of printable"),
    ("client:\n  hostname: " + "x" * 9000, "2: hostname: 'xxx"),
    ("client:\n  hostname: \"\\ud800\"", "2: "), ("client:\n\tport: 1", "2: not YAML: "),
    ("client:\n  a: \0", "2: character '\\x00'"), ("client: {port: 1", "1: not YAML: "),
    ("client: &a {x: *a}", "1: alias 'a' stands for nothing"),
    ("client: {}\n---\nclient: {}", "2: a second document begins"),
    ("client: !!python/object:os.system {}", "1: tag "), ("[" * 100_000, "1: more than 32 levels"),
    ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 10)}]\n"
                               for i in range(20)), "7: more than 1,048,576 values"),
    (b"client:\n  hostname: \xff", "2: not UTF-8"), (b"\xff\xfec\0l\0", "1: not UTF-8"),
])
def test_bad_yaml(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refused(tmp_path, text).startswith(said)


def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            load(path, command.params)
    monkeypatch.setattr("fastpath.configfile.MOST_OCTETS", 1 << 20)
    assert "more than 1 MiB" in refused(tmp_path, "#" * (1 << 20) + "\n")


def test_a_type_of_ours_is_heard_with_its_remedy(tmp_path: Path) -> None:
    class Refusing(click.ParamType[str]):
        name = "x"

        def convert(self, value: Any, param: Any, ctx: Any) -> str:
            raise UserError("no", "yes")

    (tmp_path / "x.conf").write_text("#\n\nname=5\n")
    with pytest.raises(UserError) as info:
        load(tmp_path / "x.conf", [click.Option(["--name"], type=Refusing())])
    assert (info.value.what, info.value.remedy) == (f"{tmp_path / 'x.conf'}:3: name: no", "yes")


# What is refused later is blamed on the file where the file said it.

@pytest.mark.parametrize(("line", "said"), [
    ("ring-slots=100", "100 is not a power of two"), ("timeout=2h", "must be from 1ms to 1h"),
    ("max-drop=both", "not with drain")])
def test_blame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str) -> None:
    path = tmp_path / "x.conf"
    path.write_text(f"clients=5\n{line}\n")
    key, _, value = line.partition("=")
    with pytest.raises(UserError) as info:
        run("--config", str(path))
    assert info.value.what == f"{path}:2: {key}: {said}"
    # Also wrong, but said by a flag or the environment: the file is not to blame.
    path.write_text("clients=5\nring-slots=128\ntimeout=3s\nmax-drop=1\n")
    with pytest.raises(click.BadParameter, match=said):
        run("--config", str(path), f"--{key}={value}")
    monkeypatch.setenv(f"DHCP_{key.upper().replace('-', '_')}", value)
    with pytest.raises(click.BadParameter, match=said):
        run("--config", str(path))
    assert run("--config", str(path), f"--{key}=256")["clients"] == 5


def test_nobody_to_blame(tmp_path: Path) -> None:
    path = tmp_path / "x.conf"
    path.write_text("avalanche=true\nrate=5\n")
    with pytest.raises(click.UsageError, match="--avalanche beside --rate"):
        run("--config", str(path))
    with pytest.raises(click.NoSuchOption):
        run("--config", str(path), "--nonsense")
    for error in (click.UsageError("x"), click.BadParameter("x"),
                  click.BadParameter("x", param_hint="--rate")):
        assert blame(error, None) is None and blame(error, loaded(tmp_path, "rate: 5")) is None


def test_it_stands_alone_and_loads_nothing_slow() -> None:
    code = "import sys, tester.configfile; " \
           "print([m for m in ('server', 'yaml', 'jsonschema', 'numpy', 'numba') " \
           "if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.text("aA=\"'# \t:\n-[]{}&*<|>?!%@,0.x"),
                 st.lists(st.sampled_from((LOCAL_TESTER + PRODUCTION).split("\n")),
                          max_size=6).map("\n".join),
                 st.lists(st.sampled_from(DEVELOPMENT.split("\n")), max_size=9).map("\n".join)),
       st.sampled_from(["x.yaml", "x.conf", "x"]), st.booleans())
@example("a: !<x> b", "x.yaml", False).via("a verbatim tag")
def test_any_text_is_a_file_or_refused(tmp_path: Path, text: str, name: str, shared: bool) -> None:
    octets = text.encode("utf-8", "surrogatepass")
    try:
        assert isinstance(loaded(tmp_path, octets, name, shared=shared), File)
    except UserError as error:
        assert error.what.startswith(f"{tmp_path / name}:")
