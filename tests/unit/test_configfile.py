"""Configuration files: what flags they become, and which line of a bad one is blamed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastpath import document
from fastpath.cli import ADDRESS, DURATION
from fastpath.configfile import find_default
from fastpath.errors import UserError
from server.configfile import File, load
from server.structure import Structure

DEVELOPMENT = """\
# config/development.yaml
server:
  listen_ip: "127.0.0.1"
  port: 6700  # 표준 포트 충돌 방지
  ip_pool:
    start: "10.0.100.10"
    end: "10.0.100.50"
  lease_time: "1h"

client:
  server_ip: "127.0.0.1"
  server_port: 6700
  test_size: 100
  concurrency: 10
  timeout: "10s"

logging:
  level: "debug"
  verbose: true
  live_stats: true
"""
LOCAL = """\
listen-ip=0.0.0.0
port=67
start-ip=192.168.100.10
end-ip=192.168.100.250
gateway=192.168.100.1
dns1=8.8.8.8
dns2=8.8.4.4
lease-time=24h
"""
TESTER = """\
server=127.0.0.1
port=67
clients=1000
"""
PRODUCTION = """\
# DHCP Production Configuration
DHCP_LISTEN_IP=0.0.0.0
DHCP_PORT=67
DHCP_START_IP=172.16.1.100
DHCP_END_IP=172.16.10.250
DHCP_GATEWAY=172.16.1.1
DHCP_DNS1=172.16.1.10
DHCP_DNS2=8.8.8.8
DHCP_LEASE_TIME=24h
DHCP_MAX_CONCURRENT=5000
DHCP_RESPONSE_DELAY=0ms
DHCP_DROP_RATE=0.0
LOG_LEVEL=info
ENABLE_RELAY=true
MAX_HOPS=4
"""


def loaded(folder: Path, text: str | bytes, name: str = "test.yaml") -> File:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load(path)


def refused(folder: Path, text: str | bytes, name: str = "test.yaml") -> str:
    """`LINE: what; remedy`."""
    with pytest.raises(UserError) as info:
        loaded(folder, text, name)
    assert info.value.what.startswith(f"{folder / name}:") and "\n" not in info.value.what
    assert type(info.value) is UserError, "an error without the file's name must not get out"
    return f"{info.value.what.removeprefix(f'{folder / name}:').strip()}; {info.value.remedy}"


def test_yaml_of_the_guide(tmp_path: Path) -> None:
    file = loaded(tmp_path, DEVELOPMENT)
    assert file.flags == {"listen": "127.0.0.1", "port": "6700", "start_ip": "10.0.100.10",
                          "end_ip": "10.0.100.50", "lease_time": "1h", "log_level": "debug",
                          "verbose": True, "live": True}
    assert file.structure == Structure(settings=file.structure.settings)  # type: ignore[union-attr]
    assert file.structure and file.structure.settings.lease_time_s == 3600
    assert file.line_of["end_ip"] == 7 and file.line_of["log_level"] == 18


def test_lines_of_the_guide(tmp_path: Path) -> None:
    file = loaded(tmp_path, LOCAL, "dhcp-server.conf")
    assert file.flags == {"listen": "0.0.0.0", "port": "67", "start_ip": "192.168.100.10",
                          "end_ip": "192.168.100.250", "gateway": "192.168.100.1",
                          "dns1": "8.8.8.8", "dns2": "8.8.4.4", "lease_time": "24h"}
    assert file.structure is None and file.line_of["lease_time"] == 8


def test_environment_of_the_guide(tmp_path: Path) -> None:
    assert loaded(tmp_path, PRODUCTION, "production.conf").flags == {
        "listen": "0.0.0.0", "port": "67", "start_ip": "172.16.1.100", "end_ip": "172.16.10.250",
        "gateway": "172.16.1.1", "dns1": "172.16.1.10", "dns2": "8.8.8.8", "lease_time": "24h",
        "max_concurrent": "5000", "response_delay": "0ms", "drop_rate": "0.0",
        "log_level": "info", "relay": True, "max_hops": "4"}


def test_staging_names(tmp_path: Path) -> None:
    text = "DHCP_SERVER_IP=192.168.200.1\nDHCP_POOL_START=192.168.200.100\n" \
           "DHCP_POOL_END=192.168.200.200\nDHCP_LOG_LEVEL=debug\n"
    assert loaded(tmp_path, text, "staging.conf").flags == {
        "listen": "192.168.200.1", "start_ip": "192.168.200.100", "end_ip": "192.168.200.200",
        "log_level": "debug"}


def test_the_testers_file_is_recognised(tmp_path: Path) -> None:
    said = refused(tmp_path, TESTER, "dhcp-tester.conf")
    assert said.startswith("1: server is a setting of dhcp-tester")


@pytest.mark.parametrize(("line", "flags"), [
    ("", {}), ("# port=1", {}), ("   ; x", {}), ("\ufeffport=67", {"port": "67"}),
    ("port = 67", {"port": "67"}), ("port=67\r", {"port": "67"}), ("port=67 # std", {"port": "67"}),
    ("port=\"67\" # std", {"port": "67"}), ("boot-file='a # b'", {"boot_file": "a # b"}),
    ("boot-file=a#b", {"boot_file": "a#b"}), ("boot_file=a b  c", {"boot_file": "a b  c"}),
    ("boot-file=\"it's\"", {"boot_file": "it's"}), ("ENABLE_RELAY=off", {"relay": False}),
    ("live=1", {"live": True}), ("drop-rate=5%", {"drop_rate": "0.05"}),
    ("lease-time=infinite", {"lease_time": "4294967295"}), ("log-level=WARN",
                                                          {"log_level": "warning"}),
    ("interface=eth0\ninterface=eth1", {"interface": ["eth0", "eth1"]}),
    ("option=domain-name=a=b", {"option": ["domain-name=a=b"]}),
    ("fault=drop:offer:5%\nfault=drop:offer:5%", {"fault": ["drop:offer:5%"] * 2}),
])
def test_line(tmp_path: Path, line: str, flags: dict[str, object]) -> None:
    assert loaded(tmp_path, line + "\n", "x.conf").flags == flags


@pytest.mark.parametrize(("text", "said"), [
    ("port=67\n\nfoo", "3: 'foo' is not key=value"),
    ("=67", "1: '=67' is not key=value"), ("port='67", "1: \"port='67\" is not key=value"),
    ("port=67\nport=68", "2: port is given twice; first on line 1"),
    ("listen-ip=1.2.3.4\nDHCP_SERVER_IP=1.2.3.4", "2: DHCP_SERVER_IP is given twice"),
    ("#\nstrat-ip=1.2.3.4", "2: unknown key 'strat-ip'; did you mean start-ip"),
    ("DHCP_STRAT_IP=1.2.3.4", "1: unknown key 'DHCP_STRAT_IP'; did you mean start-ip"),
    ("DHCP_CLIENTS=3", "1: DHCP_CLIENTS is a setting of dhcp-tester"),
    ("start-ip=1.2.3", "1: start-ip: '1.2.3' is not an IPv4 address"),
    ("port=0", "1: port: '0' is not a whole number from 1 to 65534"),
    ("port=", "1: port: '' is not"), ("port=\uff16", "1: port: '\uff16' is not a whole number"),
    ("port=" + "9" * 5000, "1: port: '999"), ("x" * 9000 + "=1", "1: 'xxx"),
    ("relay=maybe", "1: relay: 'maybe' is neither true nor false"),
    ("drop-rate=1.5", "1: drop-rate: '1.5' is not a rate"),
    ("drop-rate=nan", "1: drop-rate: 'nan' is not a rate"),
    ("lease-time=0", "1: lease-time: '0' is not from 1s"),
    ("lease-time=nan", "1: lease-time: 'nan' is not a duration"),
    ("lease-time=1 day", "1: lease-time: '1 day' is not a duration"),
    ("durability=strickt", "1: durability: 'strickt' is not known; did you mean strict"),
    ("interface=a-name-far-too-long", "1: interface: 'a-name-far-too-long' cannot be"),
    ("interface=../x", "1: interface: '../x' cannot be"),
    ("fault=drip", "1: fault: fault 'drip': 'drip' is not known; did you mean drop"),
    ("option=domain-nam=x", "1: option: unknown DHCP option \"domain-nam\"; did you mean"),
    ("option=lease-time=5", "1: option: option lease-time cannot be set"),
    ("boot-file=" + "x" * 128, "1: boot-file: 'xxx"),
    (b"port=67\nboot-file=\xff", "2: not UTF-8"),
])
def test_bad_line(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refused(tmp_path, text, "x.conf").startswith(said)


@pytest.mark.parametrize(("text", "said"), [
    ("serer:\n  port: 1", "1: unknown key 'serer'; did you mean server?"),
    ("server:\n  prot: 67", "2: server: unknown key 'prot'; did you mean port?"),
    ("server:\n  port: 67\nclient:\n  conurrency: 3", "4: client: unknown key 'conurrency'; did"),
    ("server:\n  ip_pool:\n    begin: 1.2.3.4", "3: ip_pool: unknown key 'begin'; known are: end"),
    ("server:\n  port: [1]", "2: port: a list is not a whole number"),
    ("server:\n  relay: 'true'", "2: relay: 'true' is not true or false; write it without"),
    ("server:\n  user: on", "2: user: 'on' is not a text; put it in quotes"),
    ("server:\n  port: 67\n\n  port: 68", "4: 'port' is given twice; first on line 2"),
    ("server:\n  max_hops: 1\n  max-hops: 2", "3: 'max_hops' is given twice"),
    ("server:\n  listen: 1.2.3.4\n  listen_ip: 1.2.3.4", "3: listen_ip is given twice"),
    ("server:\n  listen:\n  port: 1", "2: listen: nothing is not an IPv4 address"),
    ("server:\n  listen: 1.2.3.444", "2: listen: '1.2.3.444' is not an IPv4 address"),
    ("server:\n  drop_rate: 1.5", "2: drop_rate: '1.5' is not a rate"),
    ("server: 5", "1: server: '5' is not a mapping"), ("- a", "1: a list is not a mapping with"),
    ("a: b: c", "1: not YAML: mapping values are not allowed"),
    ("server:\n\tport: 1", "2: not YAML: "), ("server: {port: 1", "1: not YAML: "),
    ("server:\n  user: 'a", "2: not YAML: "), ("server:\n  a: \0", "2: character '\\x00'"),
    ("server:\n  user: \"\\ud800\"", "2: "), ("server:\n  user: \"\\UFFFFFFFF\"", "2: not YAML"),
    ("%YAML " + "9" * 5000 + ".1\n---\na: 1", "1: not YAML"),
    ("server: {}\n---\nserver: {}", "2: a second document begins"),
    ("server: !!python/object:os.system {}", "1: tag "),
    ("server:\n user: !!binary aGk=", "2: tag"),
    ("server:\n  user: *nobody", "2: alias 'nobody' stands for nothing"),
    ("server: &a {options: *a}", "1: alias 'a' stands for nothing"),
    ("server:\n  ? [a]\n  : 1", "2: a key is a list"),
    ("server:\n  <<: 5", "2: << merges mappings"),
    (b"server:\n  user: \xff", "2: not UTF-8"),
    ("[" * 100_000, "1: more than 32 levels"),
    ("".join(f"a{i}: &a{i} [{f'*a{i - 1}' if i else 'x'}]\n" for i in range(99)),
     "32: more than 32 levels"),
    ("a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [{','.join([f'*a{i}'] * 10)}]\n"
                               for i in range(20)), "7: more than 1,048,576 values"),
])
def test_bad_yaml(tmp_path: Path, text: str | bytes, said: str) -> None:
    assert refused(tmp_path, text).startswith(said)


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastpath.document.MOST_VALUES", 100)
    assert refused(tmp_path, "- a\n" * 101).startswith("101: more than 100 values")
    shared = "x: &x {" + ", ".join(f"k{i}: 1" for i in range(20)) + "}\n"
    assert "are merged" in refused(tmp_path, shared + "".join(
        f"y{i}: {{<<: *x}}\n" for i in range(9)))
    monkeypatch.setattr("fastpath.configfile.MOST_OCTETS", 1 << 20)
    assert "more than 1 MiB" in refused(tmp_path, "#" * (1 << 20) + "\n")
    assert loaded(tmp_path, "#" * ((1 << 20) - 1) + "\n").flags == {}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "a\0b", tmp_path / ("x" * 300)):
        with pytest.raises(UserError, match="cannot be read"):
            load(path)


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "~", "server:\n", "{}",
                                  "server:\nclient:\nlogging:\n", "\ufeffserver:\n"])
def test_nothing_said(tmp_path: Path, text: str) -> None:
    file = loaded(tmp_path, text)
    assert file.flags == {} and file.structure == Structure()


def test_the_format_is_seen_where_the_name_says_nothing(tmp_path: Path) -> None:
    assert loaded(tmp_path, LOCAL, "63").structure is None
    assert loaded(tmp_path, DEVELOPMENT, "config").flags["port"] == "6700"


def test_anchors_and_merges(tmp_path: Path) -> None:
    file = loaded(tmp_path, "client: &base {port: 6700}\nserver:\n  <<: [*base, {port: 1}]\n"
                            "  seed: &n 5\n  ring-slots: 64\n  max_hops: *n\n")
    assert file.flags == {"port": "6700", "seed": "5", "ring_slots": "64", "max_hops": "5"}


@pytest.mark.parametrize(("written", "value"), [
    ("12:34:56:12:34:56", "12:34:56:12:34:56"), ("0x0102", "0x0102"), ("0123", "0123"),
    ("1_000", "1_000"), ("2026-01-31", "2026-01-31"), ("10", 10), ("-3", -3), ("1.5", 1.5),
    ("1.10", 1.1), ("yes", True), ("Off", False), ("~", None), ("null", None), ("'1'", "1"),
    ("!!str 1", "1"), ("! 1", "1"), (".inf", ".inf"), ("9" * 30, "9" * 30), ("1e3", "1e3"),
    ("=", "="), ("n", "n"), ("'~'", "~"),
])
def test_scalars_are_what_they_look_like(written: str, value: object) -> None:
    node = document.read(f"a: {written}").get("a")
    found = node.value if node else None
    assert found == value and type(found) is type(value)
    if node and written[0] not in "'!":
        assert node.text == written


def test_values_are_for_click(tmp_path: Path) -> None:
    """Given as default_map, a file's values are converted as flags are, and flags win."""
    seen: dict[str, Any] = {}

    @click.command()
    @click.option("--interface", multiple=True)
    @click.option("--listen", type=ADDRESS)
    @click.option("--port", type=click.IntRange(1, 65534))
    @click.option("--lease-time", type=DURATION)
    @click.option("--drop-rate", type=click.FloatRange(0, 1))
    @click.option("--relay/--no-relay", default=True)
    @click.option("--seed", type=int, envvar="DHCP_SEED")
    def command(**values: Any) -> None:
        seen.update(values)

    file = loaded(tmp_path, "server: {interface: eth1, listen: 10.0.0.1, port: 67, relay: no,\n"
                            "  drop_rate: 5%, lease_time: 1h30m, seed: 3}")
    command.main(["--port", "68"], standalone_mode=False, default_map=file.flags)
    assert seen["interface"] == ("eth1",) and str(seen["listen"]) == "10.0.0.1"
    assert (seen["port"], seen["lease_time"], seen["drop_rate"], seen["relay"], seen["seed"]) == \
        (68, 5400.0, 0.05, False, 3)


def test_default_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_default({}) is None and find_default({"DHCP_ENV": ""}) is None
    (tmp_path / "config").mkdir()
    monkeypatch.setattr("fastpath.configfile._PLACES", (Path("config"), tmp_path / "etc"))
    (tmp_path / "etc").mkdir()
    assert find_default({"DHCP_ENV": "staging"}) is None
    for place in ("etc/staging.conf", "etc/staging.yaml", "config/staging.conf",
                  "config/staging.yaml"):
        (tmp_path / place).write_text("")
        found = find_default({"DHCP_ENV": "staging"})
        assert found and (tmp_path / found) == tmp_path / place
    for wrong in ("prod", "../staging", "Staging"):
        with pytest.raises(UserError, match="no environment") as info:
            find_default({"DHCP_ENV": wrong})
        assert info.value.remedy == "one of: development, staging, production"


def test_nothing_slow_is_imported_without_a_file() -> None:
    code = "import sys, server.configfile; " \
           "print([m for m in ('yaml', 'jsonschema', 'numpy', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@settings(max_examples=150, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.text(), st.text("aA=\"'# \t:\n-[]{}&*<|>?!%@,0.x"),
                 st.lists(st.sampled_from(PRODUCTION.split("\n")), max_size=6).map("\n".join)),
       st.sampled_from(["x.yaml", "x.conf", "x"]))
@example("a: !<x> b", "x.yaml").via("a verbatim tag")
def test_any_text_is_a_file_or_refused(tmp_path: Path, text: str, name: str) -> None:
    octets = text.encode("utf-8", "surrogatepass")
    try:
        assert isinstance(loaded(tmp_path, octets, name), File)
    except UserError as error:
        assert error.what.startswith(f"{tmp_path / name}:")
