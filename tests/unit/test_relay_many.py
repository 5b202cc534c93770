"""Files of `dhcp-relay --many`: what a line may say, and how a bad one is blamed."""

from __future__ import annotations

import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import NetlabError, UserError
from relay import many
from relay.cli import main_command
from relay.model import DEFAULT_RING_SLOTS, Config, Ways

IP = IPv4Address
LEAST = "-i eth0 10.0.0.1"


def read(place: Path, *arguments: str) -> list[many.Told]:
    words = ["--many", str(place), *arguments]
    with main_command.make_context("dhcp-relay", words) as ctx:
        return many.read(place, ctx)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "relays"


def test_lines_are_command_lines(place: Path) -> None:
    place.write_text(
        "# a comment\n\n"
        "one -i eth0 --uplink eth1 --server 10.0.0.1 --max-hops 7 --stats-json /x/1.json # end\n"
        "  /run/netns/two\t-id eth0 -a --circuit-id 'a b' 10.0.0.1 --verbose\r\n"
        "three --downlink eth0 --server 10.0.0.1 --ring-slots 64")
    found = read(place)
    assert [ways for _, ways in found] == [
        Ways("one", False, Path("/x/1.json")), Ways("/run/netns/two", True), Ways("three")]
    assert found[0][0] == Config(("eth0",), (IP("10.0.0.1"),), ("eth1",), max_hops=7)
    assert (found[1][0].option82, found[1][0].circuit_id) == ("append", "a b")
    assert [config.ring_slots for config, _ in found] == [4096, 4096, 64]


@pytest.mark.parametrize(("count", "slots"), [(1, DEFAULT_RING_SLOTS), (4, 4096), (5, 2048),
                                              (100, 128), (500, 32), (3000, 32)])
def test_rings_share_what_there_is(count: int, slots: int, place: Path) -> None:
    place.write_text(f"ns {LEAST}\n" * count)
    found = read(place)
    assert {config.ring_slots for config, _ in found} == {slots}
    if count <= 5:
        place.write_text(f"ns {LEAST}\n" * count)
        assert read(place, "--ring-slots", "256")[0][0].ring_slots == 256


def test_environment_and_files_are_below_the_line(place: Path,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    shared = place.with_suffix(".yaml")
    shared.write_text("max-hops: 9\nserver: 10.0.0.1\n")
    place.write_text(f"a -i eth0 --config {shared}\nb {LEAST}\nc --max-hops 3 {LEAST}\n")
    monkeypatch.setenv("DHCP_RELAY_MAX_HOPS", "5")
    # What is of the process is no part of any line there either.
    monkeypatch.setenv("DHCP_RELAY_METRICS", "9109")
    assert [config.max_hops for config, _ in read(place)] == [5, 5, 3]
    monkeypatch.delenv("DHCP_RELAY_MAX_HOPS")
    assert [config.max_hops for config, _ in read(place)] == [9, 4, 3]


WRONG = [
    (f"one {LEAST}\n--downlink eth0\n", "2: '--downlink' is no network namespace"),
    ("\n\none\n", "3: no interface towards clients"),
    ("one -i eth0\n", "1: no server is given"), ("one -i eth0 10.0.0\n", "1: Invalid value"),
    (f"one {LEAST} --max-hops 99\n", "1: Invalid value for '--max-hops'"),
    (f"one {LEAST} --nonsense\n", "1: No such option"),
    (f"one {LEAST} --ring-slots 1000\n", "1: Invalid value for '--ring-slots'"),
    (f"one {LEAST}\ntwo 'open {LEAST}\n", "2: no closing quotation"),
    (f"one {LEAST} \\", "1: no escaped character"), (f"'' {LEAST}\n", "1: '' is no network"),
    *[(f"one {LEAST} {words}\n", f"1: {words.split()[0]} is for all relays together")
      for words in ("--metrics 9109", "--live", "--user nobody", "--many x",
                    "--log-level debug", "--log-format json")],
    (f"one {LEAST} --help\n", "1: --help is no option of a relay"),
    (f"one {LEAST} --version\n", "1: --version is no option of a relay"),
    (f"one {LEAST} --config /nonesuch/x\n", "1: /nonesuch/x: cannot be read"),
    (f"one {LEAST} --fault nak\n", "1: fault nak"), ("a\x1b[2J b\n", "1: no line of printable"),
    ("x" * 9000, "1: no line of printable"), ("one \0 x\n", "1: no line of printable"),
    ("", " no relays in it"), ("# nothing\n", " no relays in it")]


@pytest.mark.parametrize(("text", "said"), WRONG)
def test_what_is_wrong_is_blamed_on_its_line(text: str, said: str, place: Path) -> None:
    place.write_text(text)
    with pytest.raises(UserError) as found:
        read(place)
    assert found.value.what.startswith(f"{place}:{said}") and "\n" not in found.value.what


def test_a_file_that_is_none(place: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read(place)
    place.write_bytes(b"one -i eth0 10.0.0.1\ntwo \xff\n")
    with pytest.raises(UserError, match="relays:2: not UTF-8"):
        read(place)


@pytest.mark.parametrize("words", [["--downlink", "eth0"], ["--server", "10.0.0.1"],
                                   ["10.0.0.1"], ["-a"], ["--verbose"], ["--max-hops", "4"]])
def test_what_one_relay_does_has_no_place_beside_it(words: list[str], place: Path) -> None:
    place.write_text(f"one {LEAST}\n")
    with pytest.raises(UserError, match="beside --many"):
        read(place, *words)


def test_a_configuration_file_may_name_it_and_nothing_of_one_relay(place: Path) -> None:
    whole = place.with_suffix(".yaml")
    place.write_text(f"one {LEAST}\n")
    whole.write_text(f"many: {place}\nlog-format: json\n")
    with main_command.make_context("dhcp-relay", ["--config", str(whole)]) as ctx:
        assert ctx.params["many"] == place
        assert len(many.read(place, ctx)) == 1
    whole.write_text(f"many: {place}\nmax-hops: 3\n")
    with main_command.make_context("dhcp-relay", ["--config", str(whole)]) as ctx, \
            pytest.raises(UserError, match="--max-hops beside --many"):
        many.read(place, ctx)


def test_the_program_says_it_in_two_lines(place: Path) -> None:
    place.write_text(f"one {LEAST}\n\ntwo {LEAST} --live\n")
    done = subprocess.run([sys.executable, "-m", "relay.cli", "--many", str(place)],
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.splitlines() == [
        f"dhcp-relay: {place}:3: --live is for all relays together",
        "            give it beside --many, not in the file"]


@given(st.text(max_size=100) | st.lists(st.sampled_from(
    ["one", "-i", "eth0", "10.0.0.1", "--config", "'", "#", "\n", "--", "-a", "=", "--many"]))
    .map(" ".join))
def test_no_file_makes_it_fall_over(text: str) -> None:
    import tempfile

    with tempfile.NamedTemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogateescape"))
        file.flush()
        try:
            read(Path(file.name))
        except Exception as problem:
            assert isinstance(problem, NetlabError | click.UsageError), problem
