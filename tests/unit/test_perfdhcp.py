"""perfdhcp's own line: each option, what does not go together, and the table in the docs."""

from __future__ import annotations

import shlex
import subprocess
from ipaddress import IPv4Address
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastpath.errors import NetlabError, SystemRefused, UserError
from tester.cells import RELAYS, SOCKET
from tester.cli import main_command
from tester.compose import mac_of
from tester.config import Identity, TestConfig
from tester.configure import configure
from tester.make import make_test
from tester.perfdhcp import translate
from tester.perfdhcp_options import ROWS, table
from tester.plan import ClosedLoop
from tester.speech import make_messages
from tester.wrap import wrapped
from tests.kernels import examples, wraps

DOC = Path(__file__).parents[2] / "docs/perfdhcp.md"
LOOP = "127.0.0.1"

pytestmark = wraps


def said(line: str) -> dict[str, list[str]]:
    """Our options with their values; a switch has none."""
    found: dict[str, list[str]] = {}
    for word in translate(line):
        name, given_one, value = word.partition("=")
        found.setdefault(name, []).extend([value] if given_one else [])
    return found


def configured(line: str, *more: str) -> TestConfig:
    """The test that our own command line makes of it."""
    ctx = main_command.make_context("dhcp-tester", ["--perfdhcp", line, *more])
    return configure(ctx.params, ctx)


ALWAYS = {
    "--server": [LOOP], "--relay": ["self"], "--clients": ["1"], "--exchanges": ["0"],
    "--duration": ["7d"], "--timeout": ["1"], "--mac-base": ["00:0c:01:02:03:04"],
    "--no-mac-carry": [], "--client-id": ["hex:01{mac}"], "--request-options": [""],
    "--max-message-size": ["0"], "--option": ["discover,request:55=hex:011c02030f060c"]}


def test_a_line_that_says_nothing_but_the_server() -> None:
    assert said(LOOP) == ALWAYS


@pytest.mark.parametrize(("line", "differs"), [
    ("perfdhcp", {}),
    ("sudo /usr/sbin/perfdhcp -4", {}),
    ("-1 -B -u -C , -g multi -x aeilstT -e address-only -b duid=0102030405060708", {}),
    ("-r 10", {"--rate": ["10"]}),
    ("-r10", {"--rate": ["10"]}),
    ("-4r+10", {"--rate": ["10"]}),
    ("-r 5 -r 10", {"--rate": ["10"]}),
    ("-R 50000", {"--clients": ["50000"]}),
    ("-R 0", {}),
    ("-n 7", {"--exchanges": ["7"], "--duration": None}),
    ("-n 7 -n 3", {"--exchanges": ["3"], "--duration": None}),
    ("-p 10", {"--duration": ["10"]}),
    ("-n 7 -p 10", {"--exchanges": ["7"], "--duration": ["10"]}),
    ("-d 0.25", {"--timeout": ["0.25"]}),
    ("-d 0.25 -d 2", {"--timeout": ["2"]}),
    ("-D 1", {"--max-drop": ["0"]}),
    ("-D 9 -D 5", {"--max-drop": ["4"]}),
    ("-D 2.5%", {"--max-drop": ["2.5%"]}),
    ("-D 5% -D 2%", {"--max-drop": ["2%"]}),
    ("-W 1500000", {"--drain": ["1.5"]}),
    ("-W 1", {"--drain": ["1e-06"]}),
    ("-W 0", {}),
    ("-r 10 -f 4 -F 6", {"--rate": ["10"], "--renew-rate": ["4"], "--release-rate": ["6"]}),
    ("-P 5", {"--preload": ["1"]}),
    ("-P 5 -R 9", {"--preload": ["5"], "--clients": ["9"]}),
    ("-P 0", {}),
    ("-i", {"--discover-only": []}),
    ("-t 5", {"--progress": []}),
    ("-s 7", {"--seed": ["7"]}),
    ("-s 0", {}),
    ("-w './my script'", {"--wrap": ["./my script"]}),
    ("-y 10 -Y 3", {"--aging-after": ["3"], "--aging-for": ["10"]}),
    ("-L 6768", {"--local-port": ["6768"]}),
    ("-N 6700", {"--port": ["6700"], "--local-port": ["67"]}),
    ("-N 6700 -L 6768", {"--port": ["6700"], "--local-port": ["6768"]}),
    ("-N 0 -L 0", {}),
    ("-l 127.0.0.5", {"--local-address": ["127.0.0.5"]}),
    ("-l lo", {"--interface": ["lo"]}),
    ("-b mac=00:0C:01:aa:BB:cc", {"--mac-base": ["00:0c:01:aa:bb:cc"]}),
    ("-b Ether=0::c::1::2::3::4", {"--mac-base": ["00:0c:01:02:03:04"]}),
    ("-b mac=2:0:0:0:0:1 -b duid=010203040506", {"--mac-base": ["02:00:00:00:00:01"]}),
    ("-M macs -R 3", {"--mac-list": ["macs"], "--mac-base": None, "--no-mac-carry": None,
                      "--clients": None}),
    ("-J relays", {"--relay": ["@relays"]}),
    ("-4 -o 60,646F63 -o 12,", {"--option": [*ALWAYS["--option"], "60=hex:646f63", "12=hex:"]}),
    ("-4 -o 55,2a", {"--option": ["discover,request:55=hex:011c02030f060c2a",
                                  "renew,release:55=hex:2a"]}),
    ("--scenario avalanche -R 9 -p 3 -n 4 -d 2 -W 5 -D 1", {
        "--avalanche": [], "--backoff": ["1s..64s"], "--clients": ["9"], "--exchanges": None,
        "--duration": None, "--timeout": None}),
    ("--scen=basic", {}),
    ("-T a", {"--raw-template": ["discover=a,xid=4,mac=33,secs=0"]}),
    ("-T a -X 5 -O 40", {"--raw-template": ["discover=a,xid=5,mac=40,secs=0"]}),
    ("-T a -T b", {"--raw-template": [
        "discover=a,xid=4,mac=33,secs=0",
        "request=b,xid=4,mac=33,secs=8,server-option=54,address-option=240"]}),
    ("-T a -T b -X 5 -O 40 -E 0", {"--raw-template": [
        "discover=a,xid=5,mac=40,secs=0",
        "request=b,xid=5,mac=40,secs=8,server-option=54,address-option=240"]}),
    ("-T a -T b -X 5 -X 6 -O 40 -O 41 -E 9 -S 250 -I 260", {"--raw-template": [
        "discover=a,xid=5,mac=40,secs=0",
        "request=b,xid=6,mac=41,secs=9,server-option=250,address-option=260"]}),
])
def test_each_option(line: str, differs: dict[str, list[str] | None]) -> None:
    expected = {**ALWAYS, **differs}
    assert said(f"{line} {LOOP}") == {name: words for name, words in expected.items()
                                      if words is not None}


@pytest.mark.parametrize(("line", "words"), [
    ("-l lo all", "--server=255.255.255.255 --interface=lo --relay=self"),
    ("-B -l lo", "--server=255.255.255.255 --interface=lo --relay=self"),
    ("all -l lo -r 1", "--server=255.255.255.255 --interface=lo --relay=self"),
    ("-l lo -- 10.9.8.7", "--server=10.9.8.7 --interface=lo --relay=self"),
    ("-l lo -J f all", "--server=255.255.255.255 --interface=lo --relay=@f "
     "--server-mac=ff:ff:ff:ff:ff:ff"),
    ("-l 127.0.0.1 -J f 10.9.8.7", "--server=10.9.8.7 --interface=lo --relay=@f"),
    ("-- --name", "--server=--name --relay=self"),
])
def test_server_and_interface(line: str, words: str) -> None:
    assert translate(line)[:len(words.split())] == words.split()


@pytest.mark.parametrize(("line", "option"), [
    ("-h", "--help"), ("-r 5 -v -r x", "--version"), ("-4h all", "--help")])
def test_help_and_version_look_no_further(line: str, option: str) -> None:
    assert translate(line) == [option]


REFUSED = """
-6 | DHCPv6
-A 1 | DHCPv6
-i -c | DHCPv6
-a 1 | option 'a' is none
-z | option 'z' is none
--speed 1 | option 'speed' is none
--s=x | basic or avalanche
-- --scenario | two servers
-r 0 | -r wants
-r -5 | -r wants
-r 1.5 | -r wants
-r 0x10 | -r wants
-r ٣ | -r wants
-r 1_000 | -r wants
-n 99999999999 | -n wants
-p 0.5 | -p wants
-d 0 | -d wants
-d inf | -d wants
-d nan | -d wants
-D 0 | -D wants
-D 0% | -D wants
-D 100% | -D wants
-D % | -D wants
-D 1 -D 2 -D 3 | -D comes more than twice
-D 1 -D 2% | as a number and as a share
-n 1 -n 1 -n 1 | -n comes more than twice
-R -1 | -R wants
-L 65536 | -L wants
-N -1 | -N wants
-P -1 | -P wants
-s -1 | -s wants
-W -1 | -W wants
-t 0 | -t wants
-g both | single or multi
-e prefix-only | address-only
-x '' | -x wants
-w '' | -w wants
-T '' | -T wants
-T a,b | has a comma
-b mac=1:2:3:4:5 | -b wants
-b mac=1:2:3:4:5:100 | -b wants
-b mac=1:2:3:4:5:g | -b wants
-b mac=1:2:3:4:5:+6 | -b wants
-b eth=1:2:3:4:5:6 | -b wants
-b duid=01 | -b wants
-b duid=0102030405060 | -b wants
-b mac=0:0:0:0:0:1 -M f | -b does not go with -M
-M a -M b | -M comes more than once
-J a -J b | -J comes more than once
-J a -L 6700 | -L does not go with -J
-o 60,61 | -o is for DHCPv4 or
-o 60,61 -4 | -o is for DHCPv4 or
-4 -o 60 | -o wants
-4 -o 60,6 | -o wants
-4 -o 60,zz | -o wants
-4 -o 0,61 | -o wants
-4 -o 255,61 | -o wants
-4 -o 60,61 -o 60,62 | would come twice
-4 -o 61,61 | would come twice
-4 -o 53,01 | would come twice
-4 -o 60,61 -T a -T b | cannot add to a template
-O 40 | -O is an offset
-X 40 | -X is an offset
-T a -O 40 -O 41 | -O is an offset
-T a -O 2 | -O wants
-T a -X 0 | -X wants
-T a -T b -T c | -T comes more than twice
-E 8 | -E is an offset
-T a -S 8 | -S is an offset
-T a -I 8 | -I is an offset
-f 5 | need -r
-F 5 | need -r
-r 10 -f 6 -F 5 | need -r
-y 3 | only go together
-Y 3 | only go together
-Y 0 -y 0 | -y wants
--scenario avalanche | needs -R
--scenario avalanche -R 0 | needs -R
--scenario flood | basic or avalanche
-i -1 | -1 does not go with -i
-i -r 9 -f 1 | -f does not go with -i
-i -r 9 -F 1 | -F does not go with -i
-i -d 1 -d 2 | second -d
-i -n 1 -n 2 | second -n
-i -D 1 -D 2 | second -D
-i -T a -T b | second -T
10.0.0.1 | two servers
all | two servers
"unclosed | no closing quotation
"""


@pytest.mark.parametrize(("line", "words"), [
    tuple(row.rsplit(" | ", 1)) for row in REFUSED.strip().splitlines()])
def test_what_is_refused_in_one_line(line: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        translate(f"{line} {LOOP}")
    assert words in refused.value.what and "\n" not in refused.value.what + refused.value.remedy


@pytest.mark.parametrize(("line", "words"), [
    ("", "no server"), ("-l 127.0.0.1", "no server"), ("all", "name it with -l"),
    ("-r", "option 'r' wants a value"), ("-4r", "option 'r' wants a value"),
    ("--scenario", "wants a value")])
def test_what_is_missing_at_the_end(line: str, words: str) -> None:
    with pytest.raises(UserError) as refused:
        translate(line)
    assert words in f"{refused.value.what} {refused.value.remedy}"


@given(st.lists(st.one_of(st.sampled_from([row.name for row in ROWS if row.name != "server"]),
                          st.sampled_from(["1", "0", "-1", "5%", "all", LOOP, "lo", "--", "-",
                                           "mac=0:0:0:0:0:2", "60,61", "avalanche", "single"]),
                          st.text(max_size=6)), max_size=8))
def test_any_line_is_translated_or_refused(words: list[str]) -> None:
    words = [word for word in words if word not in ("-l", "-J")]  # no names are looked up
    try:
        told = translate(shlex.join(words))
    except UserError as error:
        assert "\n" not in error.what
        return
    known = {name for param in main_command.params
             for name in (*param.opts, *param.secondary_opts)} | {"--help"}
    assert all(word.partition("=")[0] in known for word in told)


def test_the_line_makes_a_test_of_our_own() -> None:
    config = configured(f"-4 -r 1000 -R 300 -p 10 -W 500000 -f 5 -4 -o 60,6162 {LOOP}",
                        "--seed", "1")
    where, identity = config.where, config.identity
    assert (where.mode, where.server, where.relays) == (SOCKET, IPv4Address(LOOP),
                                                        (IPv4Address(LOOP),))
    assert where.local_port is None and where.server_port == 67
    assert config.clients == 300 and config.exchanges == 10_000
    assert config.limits.duration_s == 10 and config.limits.drain_s == 0.5
    assert config.patience.timeout_s == 1.0 and config.renew_rate == 5
    assert identity.wanted == () and identity.max_message == 0
    assert config.mac_of(251).hex() == "000c010203ff"
    assert config.mac_of(252).hex() == "000c01020300"
    assert config.mac_of(256).hex() == "000c01020404"
    assert len({config.mac_of(i) for i in range(300)}) == 300
    messages = make_messages(config)
    discover = bytes(messages.heads[0, :messages.lengths[0]])[28 + 240:]
    assert discover == bytes.fromhex("350101" "3707011c02030f060c" "3c026162")
    renew = bytes(messages.heads[3, :messages.lengths[3]])[28 + 240:]
    assert renew == bytes.fromhex("350103" "3c026162")


@examples(300, 60)
@given(st.binary(min_size=6, max_size=6), st.integers(1, 1 << 32), st.booleans(), st.integers(0, 7))
def test_hardware_addresses_with_and_without_carry(base: bytes, step: int, carry: bool, row: int,
                                                   ) -> None:
    config = TestConfig(clients=8, identity=Identity(mac_base=base, mac_step=step, mac_carry=carry))
    mac = int(mac_of(make_test(config, 0), row)).to_bytes(6, "big")
    assert mac == config.mac_of(row)
    added = row * step
    plain = (int.from_bytes(base, "big") + added) % (1 << 48)
    octets = [(a + (added >> 8 * (5 - at))) % 256 for at, a in enumerate(base)]
    assert mac == (plain.to_bytes(6, "big") if carry else bytes(octets))


def test_addresses_without_carry_go_round_where_others_end() -> None:
    base = "mac=00:ff:ff:ff:ff:ff"
    config = configured(f"-R 3 -b {base} {LOOP}")
    assert [config.mac_of(i).hex() for i in range(3)] == [
        "00ffffffffff", "00ffffffff00", "00ffffffff01"]
    with pytest.raises(UserError, match="do not fit"):
        configured(f"-R 3 -b {base} {LOOP}", "--mac-carry")
    with pytest.raises(UserError, match="do not fit"):
        configured(f"-R 300 -b {base} {LOOP}", "--mac-step", str(1 << 32))


def test_forever_and_avalanche_and_relays(tmp_path: Path) -> None:
    assert configured(LOOP).limits.duration_s == 7 * 86400
    config = configured(f"--scenario avalanche -R 9 -p 1 {LOOP}")
    assert config.exchanges == 9 and config.patience.backoff_s == (1.0, 64.0)
    relays, macs = tmp_path / "relays", tmp_path / "macs"
    relays.write_text("10.1.0.1\n10.1.0.2\n")
    macs.write_text("00:0c:01:02:03:04\n00:0c:01:02:03:09\n")
    config = configured(f"-J {relays} -M {macs} -l lo -n 5 10.0.0.1")
    assert config.where.mode == RELAYS and len(config.where.relays) == 2
    assert config.clients == 2 and config.exchanges == 5
    config = configured(f"-J {relays} -l lo -n 5")
    assert config.where.server_mac == b"\xff" * 6


def test_templates(tmp_path: Path) -> None:
    header = bytes(236) + bytes.fromhex("63825363")
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text((header + b"\x35\x01\x01\xff").hex(" "))
    two.write_text((header + b"\x35\x01\x03" + b"\xff" * 13).hex())
    config = configured(f"-T {one} -T {two} -S 243 -I 249 -n 1 {LOOP}")
    discover, request = (config.identity.captured[name] for name in ("discover", "request"))
    assert (discover.xid, discover.chaddr_end, discover.secs) == (4, 33, None)
    assert (request.xid, request.chaddr_end, request.secs) == (4, 33, 8)
    assert (request.server, request.address) == (245, 251)
    assert request.payload[243:] == b"\x36\x04" + b"\xff" * 4 + b"\x32\x04" + b"\xff" * 5
    # An option that reaches past the end of its template.
    for places in ("-S 251", "-I 251", "-S 65535", "-X 253", "-E 255 -S 243"):
        with pytest.raises((UserError, click.UsageError), match="outside of"):
            make_messages(configured(f"-T {one} -T {two} -I 249 {places} -n 1 {LOOP}"))


def test_our_options_stand_beside_it() -> None:
    config = configured(f"-n 5 {LOOP}", "--concurrency", "3", "--exchanges", "9")
    assert config.exchanges == 9 and config.plan == ClosedLoop(3)
    with pytest.raises(click.UsageError):
        main_command.make_context("dhcp-tester", ["--perfdhcp"])
    with pytest.raises(NetlabError):
        main_command.make_context("dhcp-tester", ["--perfdhcp="])


def test_an_interface_without_an_address_cannot_ask_everybody() -> None:
    with pytest.raises((SystemRefused, click.UsageError, UserError)):
        configured("-n 1 -l nosuch0 all")


def test_the_documentation_has_the_table() -> None:
    text = DOC.read_text()
    wrong = [line for line in table().splitlines() if line not in text.splitlines()]
    assert not wrong, "tester.perfdhcp_options.table() makes what belongs there"
    rows = [line for line in text.split("## Numbers")[0].splitlines() if line.startswith("| ")]
    assert rows == [line for line in table().splitlines() if line.startswith("| ")]


def test_the_table_has_every_option_of_the_manual() -> None:
    letters = "1 4 6 A b B c C d D e E f F g h i I J l L M n N o O p P r R s S t T u v w W x X y Y"
    assert {row.name for row in ROWS} == {f"-{letter}" for letter in letters.split()} | {
        "--scenario", "server"}


def test_a_wrapped_program_is_told_start_and_stop(tmp_path: Path) -> None:
    log, script = tmp_path / "log", tmp_path / "script"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\n')
    script.chmod(0o755)
    with pytest.raises(KeyError), wrapped(str(script)):
        subprocess.run(["sh", "-c", f"until [ -s {log} ]; do sleep 0.01; done"], timeout=5)
        assert log.read_text() == "start\n"
        raise KeyError
    assert log.read_text() == "start\nstop\n"
    with wrapped(None):
        pass


def test_a_wrapped_program_that_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                           ) -> None:
    for name in (tmp_path / "none", tmp_path, "nul\0"):
        with pytest.raises(SystemRefused, match="--wrap"), wrapped(str(name)):
            raise AssertionError
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\nrm "$0"\n')
    script.chmod(0o755)
    with wrapped(str(script)):
        subprocess.run(["sh", "-c", f"while [ -e {script} ]; do sleep 0.01; done"], timeout=5)
    assert "cannot run" in capsys.readouterr().err
