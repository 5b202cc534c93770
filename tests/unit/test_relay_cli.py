"""dhcp-relay's command line, environment and files: what is taken, and what is refused how."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import NetlabError
from relay.cli import main_command
from relay.configure import make_config
from relay.model import Config

IP = IPv4Address
LEAST = ["-i", "eth0", "10.0.0.1"]


def given_by(arguments: list[str]) -> dict[str, Any]:
    with main_command.make_context("dhcp-relay", list(arguments)) as ctx:
        return {name: value for name, value in ctx.params.items() if name != "config"}


def made(*arguments: str) -> Config:
    return make_config(given_by(list(arguments)))


def refused(*arguments: str, code: int = 2) -> list[str]:
    """The lines on standard error of the program, which must end with `code`."""
    done = subprocess.run([sys.executable, "-m", "relay.cli", *arguments], capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == code, done.stderr
    assert not done.stdout and "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 2 and lines[0].startswith("dhcp-relay: ")
    return lines


# --- what is taken


@pytest.mark.parametrize("arguments", [
    ["--downlink", "eth0", "--uplink", "eth1", "--server", "10.0.0.1"],
    ["--interface", "eth0", "--uplink", "eth1", "10.0.0.1"],
    ["-i", "eth0", "--iu", "eth1", "10.0.0.1"],
    ["-id", "eth0", "-iu", "eth1", "10.0.0.1"],
    ["-downlink=eth0", "-uplink=eth1", "-server=10.0.0.1"]])
def test_every_form_of_a_command_line(arguments: list[str]) -> None:
    assert made(*arguments) == Config(("eth0",), (IP("10.0.0.1"),), ("eth1",))


def test_several_of_everything() -> None:
    config = made("-i", "eth0,eth2", "-i", "eth0", "--server", "10.0.0.2", "10.0.0.1", "10.0.0.2",
                  "--giaddr", "eth0=10.1.0.1", "--giaddr", "10.2.0.1", "-a",
                  "--link-selection", "auto", "--link-selection", "eth2=10.3.0.0")
    assert config.downlinks == ("eth0", "eth2")
    assert config.servers == (IP("10.0.0.2"), IP("10.0.0.1"))
    assert config.giaddrs == {"eth0": IP("10.1.0.1"), "": IP("10.2.0.1")}
    assert config.selections == {"": None, "eth2": IP("10.3.0.0")}


@pytest.mark.parametrize(("arguments", "policy"), [
    ([], "none"), (["-a"], "append"), (["-a", "-m", "append"], "append"),
    (["-a", "-m", "replace"], "replace"), (["-a", "-m", "forward"], "keep"),
    (["-m", "discard"], "drop"), (["--option82", "keep"], "keep")])
def test_option82_in_our_words_and_dhcrelays(arguments: list[str], policy: str) -> None:
    assert made(*LEAST, *arguments).option82 == policy


def test_hops_and_a_broadcast_address() -> None:
    config = made("-c", "16", "-i", "eth0", "255.255.255.255")
    assert config.max_hops == 16 and config.servers == (IP("255.255.255.255"),)


def test_flag_then_environment_then_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "relay.yaml"
    place.write_text("relay:\n  downlink: [eth0, eth2]\n  max-hops: 7\n  min_secs: 8\n"
                     "  server: 10.0.0.1\n  fault: drop:offer:5%\n  server-id-override: true\n"
                     "  option82: append\nserver: {lease_time: 1h}\n")
    config = made("--config", str(place))
    assert (config.downlinks, config.max_hops, config.min_secs) == (("eth0", "eth2"), 7, 8)
    assert config.override and config.faults[0].kind == "drop"
    monkeypatch.setenv("DHCP_RELAY_MAX_HOPS", "9")
    assert made("--config", str(place)).max_hops == 9
    assert made("--config", str(place), "--max-hops", "2").max_hops == 2
    monkeypatch.setenv("DHCP_RELAY_DOWNLINK", "eth5 eth6")
    assert made("10.0.0.1").downlinks == ("eth5", "eth6")


def test_key_value_lines(tmp_path: Path) -> None:
    place = tmp_path / "relay.conf"
    place.write_text("# comment\ndownlink=eth0\ndownlink=eth1\nserver=10.0.0.1\nappend=true\n"
                     "DHCP_MAX_HOPS=3\n")
    config = made("--config", str(place))
    assert (config.downlinks, config.option82, config.max_hops) == (("eth0", "eth1"), "append", 3)


# --- what is refused


WRONG = [
    ([], "no interface"), (["-i", "eth0"], "no server"), (["-i", "a/b", "10.0.0.1"], "--downlink"),
    (["-i", "eth0", "10.0.0"], "IPv4"), (["-i", "eth0", "0.0.0.0"], "no address to relay to"),
    (["-i", "eth0", "127.0.0.1"], "no address to relay to"),
    ([*LEAST, "--max-hops", "17"], "max-hops"), ([*LEAST, "--max-hops", "0"], "max-hops"),
    ([*LEAST, "--min-secs", "65536"], "min-secs"),
    ([*LEAST, "--option82", "maybe"], "option82"),
    ([*LEAST, "--option82", "keep", "-a"], "--option82 beside"),
    ([*LEAST, "--circuit-id", "x"], "--circuit-id is a part"),
    ([*LEAST, "--server-id-override"], "is a part of option 82"),
    ([*LEAST, "--link-selection", "auto"], "is a part of option 82"),
    ([*LEAST, "-a", "--circuit-id", "{ifnam}"], "{ifnam}"),
    ([*LEAST, "-a", "--remote-id", "0xz"], "--remote-id"),
    ([*LEAST, "-a", "--link-selection", "eth0=somewhere"], "--link-selection"),
    ([*LEAST, "--giaddr", "eth0=0.0.0.0"], "--giaddr"),
    ([*LEAST, "--giaddr", "10.0.0.2", "--giaddr", "10.0.0.3"], "given twice"),
    ([*LEAST, "--giaddr", "=10.0.0.2"], "--giaddr"),
    ([*LEAST, "--fault", "nak"], "nak"), ([*LEAST, "--fault", "drip:5%"], "drip"),
    ([*LEAST, "--ring-slots", "1000"], "power of two"), ([*LEAST, "--log-level", "x"], "log-level"),
    ([*LEAST, "--nonsense"], "--nonsense"), ([*LEAST, "-downlnik", "x"], "Did you mean")]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_is_wrong_is_said(arguments: list[str], said: str) -> None:
    with pytest.raises(Exception) as found:
        made(*arguments)
    problem: Any = found.value
    text = problem.what if isinstance(problem, NetlabError) else problem.format_message()
    assert said in text and "\n" not in text


def test_one_line_and_exit_code_2() -> None:
    assert "no server is given" in refused("-i", "eth0")[0]
    assert refused(*LEAST, "--metrics", "nowhere:x")[0].endswith("serve metrics on")


def test_no_such_interface_user_or_place() -> None:
    assert "no interface 'nonesuch0'" in refused("-i", "nonesuch0", "10.0.0.1", code=1)[0]
    assert "there is no user" in refused(*LEAST, "--user", "nobody-at-all")[0]
    assert "cannot write" in refused(*LEAST, "--stats-json", "/proc/nowhere/x", code=1)[0]


FILES = [
    ("downlink: eth0\nmax_hop: 3\n", "2: unknown key"),
    ("downlink: eth0\n\nmax-hops: many\n", "3: max_hops"),
    ("max-hops: 3\nmax_hops: 4\n", "2: "), ("max-hops: [1, 2]\n", "1: max_hops: a list"),
    ("fault: drop:5%\noption82: sometimes\n", "2: option82"),
    ("verbose: perhaps\n", "1: verbose"), ("downlink: []\n", "1: downlink: an empty list"),
    ("server:\n", "1: server: nothing"), ("- eth0\n", "1: this is not a mapping"),
    ("relay: 3\n", "1: this is not a mapping"), ("relay:\n  a:\n    b: c\n", "2: unknown key"),
    ("server: {a: b}\n", "1: server: a list or mapping"), ("ring_slots: 1000\n", "1: ring"),
    ("config: other.yaml\n", "1: unknown key"), ("downlink: 'a\n", "")]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_files_are_blamed_on_their_line(text: str, said: str, tmp_path: Path) -> None:
    place = tmp_path / "relay.yaml"
    place.write_text(text)
    with pytest.raises(NetlabError) as found:
        made("--config", str(place), *LEAST)
    assert found.value.what.startswith(f"{place}:{said}") and found.value.exit_code == 2


def test_files_that_are_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(NetlabError, match="cannot be read"):
        made("--config", str(tmp_path / "none.yaml"))
    place = tmp_path / "relay.conf"
    place.write_bytes(b"max-hops=3\n\xff=1\n")
    with pytest.raises(NetlabError, match=r"relay\.conf:2: not UTF-8"):
        made("--config", str(place))
    place.write_text("max-hops=3\nwhat is this\n")
    with pytest.raises(NetlabError, match=r"relay\.conf:2: "):
        made("--config", str(place))


@given(st.binary(max_size=200))
def test_no_file_makes_it_fall_over(octets: bytes) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(octets)
        file.flush()
        try:
            made("--config", file.name, *LEAST)
        except Exception as problem:
            assert isinstance(problem, NetlabError) or hasattr(problem, "format_message"), problem


def test_help_names_every_option_and_is_quick_to_load() -> None:
    code = ("import sys\nfrom relay.cli import main_command\nmain_command.get_help("
            "main_command.make_context('x', [], resilient_parsing=True))\n"
            "assert not {'numba', 'numpy', 'rich'} & set(sys.modules), sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
