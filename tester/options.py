"""The options of dhcp-tester, in the sections that `--help` shows."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from fastpath.cli import ADDRESS, DURATION
from fastpath.errors import UserError

MOST_CLIENTS = 1 << 25
# --exchanges 0: more than there will ever be.
ENDLESS = 1 << 40
_MOST_LINE = 1024
FOREVER = "forever"
BACKOFF = "4s..64s"


def listed(path: Path) -> Iterator[tuple[int, str]]:
    """What stands in a file, one a line, with the number of the line; # begins a comment.

    Raises UserError.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            number = 0
            # Never more than so much of a line, for the file may be anything.
            while line := file.readline(_MOST_LINE):
                number += 1
                if len(line) == _MOST_LINE:
                    raise UserError(f"{path}:{number}: more than {_MOST_LINE} characters",
                                    "is it the right file?")
                if text := line.partition("#")[0].strip():
                    yield number, text
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"cannot read {path}: {reason}") from None


@contextlib.contextmanager
def about(option: str) -> Iterator[None]:
    """Say of which option a UserError is."""
    try:
        yield
    except UserError as error:
        remedy = f"; {error.remedy}" if error.remedy else ""
        what = error.what.removeprefix(f"{option}: ")
        raise click.BadParameter(f"{what}{remedy}", param_hint=option) from None


class _Text(click.ParamType[str]):
    """A line of text. An empty one is no value, but a variable of a shell that is not set."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> str:
        text = str(value)
        if not text.strip():
            self.fail("it is empty: leave the option out, or give a value", param, ctx)
        if any(letter < " " or letter == "\x7f" for letter in text):
            self.fail(f"{text!r} has a character that cannot be printed", param, ctx)
        return text


class _File(click.Path):
    """A file's name, whose file need not be there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> Path:
        name = str(value)
        try:
            if not name:
                raise ValueError
            return Path(os.fsdecode(super().convert(name, param, ctx)))
        except ValueError:
            self.fail(f"{name!r} can be no file's name", param, ctx)


class _Number(click.FloatRange):
    """A number from one to another: `nan`, which is not out of any range, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> float:
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


_TEXT, FILE = _Text(), _File(dir_okay=False, path_type=Path)


class _Hold(type(DURATION)):  # type: ignore[misc]
    """A time, or for ever."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None,
                ) -> float:
        if isinstance(value, str) and value.strip().lower() in (FOREVER, "infinite", "inf"):
            return float("inf")
        return float(super().convert(value, param, ctx))


def _option(*names: str, **more: Any) -> click.Option:
    # Of a switch, and of "nothing", the help text says it better.
    more.setdefault("show_default", more.get("default") not in (None, True, False, 0, 0.0))
    if not more.get("is_flag") and "/" not in names[0]:
        more.setdefault("type", _TEXT)
    return click.Option(names, **more)


def _text(name: str, help_text: str, *, many: bool = False, metavar: str = "TEMPLATE",
          **more: Any) -> click.Option:
    return _option(name, multiple=many, metavar=metavar, help=help_text, **more)


def _joined(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> str | None:
    """As if all had been given at once, by commas."""
    return ",".join(value) or None


SECTIONS: dict[str, tuple[click.Option, ...]] = {
    "Where from": (
        _option("--interface", "-i", multiple=True, metavar="[NETNS:]NAME,..",
                callback=_joined,
                help="Layer 2 on this interface, or spread over several; each may be in another "
                     "network namespace. [default: the only one there is]"),
        _option("--server", metavar="HOST",
                help="Unicast UDP to this server, no root needed; with --relay: theirs."),
        _option("--port", type=click.IntRange(1, 65534), default=67,
                help="UDP port of the server; clients use the next one."),
        _option("--local-address", type=ADDRESS, metavar="ADDR",
                help="With --server: address to speak from."),
        _option("--local-port", type=click.IntRange(1, 65535), metavar="N",
                help="With --server: port to speak from. [default: --port + 1]"),
        _option("--relay", multiple=True, metavar="GIADDRS",
                help="Speak as relay agents: 10.1.0.1, 10.1.0.1-10.1.0.50, @FILE; `self` by "
                     "socket, as the address that is spoken from."),
        _option("--relay-block", type=click.IntRange(1, MOST_CLIENTS), default=1, metavar="N",
                help="So many clients in a row are behind the same relay."),
        _option("--server-mac", metavar="MAC", help="With --relay: instead of asking by ARP."),
        _option("--vlan", metavar="TAGS",
                help="VLAN tags, outermost first: 100, 100.200, {1+index%48}.7; up to three."),
        _option("--vlan-type", type=click.Choice(["802.1q", "802.1ad"]),
                help="Of the outermost tag. [default: 802.1q; where stacked, 802.1ad]"),
        _option("--qdisc", is_flag=True,
                help="Send through the interface's queueing discipline (a rate, netem) and its tc "
                     "programs, as on a veth anyway; slower."),
        _option("--answer-arp/--no-answer-arp", default=True,
                help="Bound clients and relays answer ARP for their address. [default: on]"),
        _option("--answer-ping/--no-answer-ping", default=True,
                help="They answer pings too. [default: on]"),
    ),
    "Load": (
        _option("--clients", "-n", type=click.IntRange(1, MOST_CLIENTS), metavar="N",
                help="Clients to emulate. [default: 1000, or what the load comes to]"),
        _option("--exchanges", type=click.IntRange(0, ENDLESS), metavar="N",
                help="Exchanges to begin; clients take turns. 0: until --duration. [default: one "
                     "a client]"),
        _option("--concurrency", "-c", type=click.IntRange(1, 1 << 20), default=64,
                help="Closed loop: exchanges in flight."),
        _option("--rate", "-r", type=_Number(1e-6, 10_000_000), metavar="N",
                help="Open loop: exchanges started per second, whatever the server does."),
        _option("--poisson", is_flag=True, help="With a rate: at random moments."),
        _option("--ramp", type=DURATION, help="Raise --rate from 0 over this time."),
        _option("--stages", metavar="LIST",
                help="Rates that change: 30s:1000,1m:5000,10s:0 goes to each in its time."),
        _option("--avalanche", is_flag=True,
                help="All at once, then back-off until all are bound."),
        _option("--duration", type=DURATION, help="Start nothing after this time."),
        _option("--preload", type=click.IntRange(0, MOST_CLIENTS), default=0, metavar="N",
                help="Bind so many clients before measuring begins."),
        _option("--warm-up", type=DURATION, default=0.0, help="Measure nothing before this time."),
        _option("--renew-rate", type=_Number(0, 10_000_000), default=0.0, metavar="N",
                help="Renewals per second by clients who are bound."),
        _option("--release-rate", type=_Number(0, 10_000_000), default=0.0, metavar="N",
                help="Releases per second by clients who are bound."),
        _option("--max-drop", metavar="N",
                help="Stop when more than N exchanges, or N%, are lost."),
        _option("--drain", type=DURATION,
                help="At the end, wait so long for answers. [default: --timeout]"),
    ),
    "Patience": (
        _option("--timeout", type=DURATION, default="5s", help="How long to wait for each answer."),
        _option("--retry/--no-retry", default=False,
                help="Send again what was not answered in time. [default: off]"),
        _option("--max-discover-retries", type=click.IntRange(0, 100), default=3,
                help="With --retry: repetitions of a DISCOVER at most."),
        _option("--max-request-retries", type=click.IntRange(0, 100), default=3,
                help="With --retry: repetitions of a REQUEST at most."),
        _option("--backoff", is_flag=False, flag_value=BACKOFF, metavar="[FIRST..MOST]",
                help=f"Wait longer each time, with jitter (RFC 2131 section 4.1); {BACKOFF} where "
                     "nothing is said; implies --retry."),
    ),
    "What clients do": (
        _text("--behaviour", "stay, discover-only, release, leave, flap, decline, reboot, inform, "
              "expire or handover.", metavar="NAME"),
        _text("--mix", "Shares of behaviours: stay=70,release=20,leave=10.", metavar="LIST"),
        _option("--discover-only", is_flag=True, help="DISCOVER and OFFER, nothing more."),
        _option("--hold", type=_Hold(), metavar="TIME",
                help="How long clients keep their lease, renewing it at T1 and T2; `forever`."),
        _option("--return-after", type=DURATION, help="How long who left stays away."),
        _option("--cycles", type=click.IntRange(0, 65535), metavar="N",
                help="How often a client does this; 0: until the end."),
        _option("--time-scale", type=_Number(0.001, 1_000_000), default=1.0, metavar="X",
                help="Lease times, --hold and --return-after pass so many times faster."),
        _option("--offer", default="first", metavar="first|all|ADDRESS",
                help="Take the first offer, the longest lease of all, or that of one server."),
        _option("--offer-wait", type=DURATION, help="With --offer all: for how long. [default: "
                                                    "500ms]"),
        _option("--rapid-commit", is_flag=True, help="Ask for an ACK at once (RFC 4039)."),
        _text("--malform", "Share of clients whose DISCOVER is malformed: no-cookie=5%.",
              many=True, metavar="NAME[=SHARE]"),
        _option("--aging-after", type=DURATION, metavar="TIME",
                help="From then on `secs` counts up, as of clients who wait long."),
        _option("--aging-for", type=DURATION, metavar="TIME", help="For how long it does."),
    ),
    "Who clients are": (
        _option("--mac-base", default="02:00:00:00:00:00", metavar="MAC",
                help="Hardware address of the first client."),
        _option("--mac-step", type=click.IntRange(1, 1 << 32), default=1, metavar="N",
                help="Distance to the next one's."),
        _option("--mac-carry/--no-mac-carry", default=True,
                help="Count as numbers do, or each octet by itself, as perfdhcp. [default: on]"),
        _option("--mac-list", type=FILE, metavar="FILE", help="Hardware addresses, one a line."),
        _text("--client-id", "Option 61: text, or hex:01{mac}."),
        _text("--hostname", "Option 12: sw{index//48}-p{index%48}."),
        _text("--vendor-class", "Option 60."),
        _text("--user-class", "Option 77.", many=True),
        _text("--circuit-id", "Option 82, sub-option 1."),
        _text("--remote-id", "Option 82, sub-option 2."),
        _option("--request-options", type=str, metavar="LIST",
                help="What clients ask for, by name or number. [default: 1,3,6,15,51,58,59]"),
        _option("--max-message-size", type=click.IntRange(0, 65535), default=1500, metavar="N",
                help="Option 57: how large an answer may be; 0: not said."),
        _option("--broadcast-flag/--no-broadcast-flag", default=False,
                help="Ask the server to broadcast its answers. [default: off]"),
        _text("--option", "Any option, by name or number; hex:... for octets, {index} for what "
              "differs.", many=True, metavar="[MSG,..:]OPTION=VALUE"),
        _text("--template", "A message to begin from: a capture, or hex.", many=True,
              metavar="MSG=FILE"),
        _text("--raw-template", "A message to send as it is, but for octets at offsets: "
              "discover=FILE,xid=4,mac=33,secs=8,server=N,address=N.", many=True,
              metavar="MSG=FILE[,..]"),
    ),
    "Measures": (
        _text("--expect", "What ACKs should say: router=10.0.0.1, router (any), !router (none).",
              many=True, metavar="OPTION[=VALUE]"),
        _option("--expect-server", type=ADDRESS, multiple=True, metavar="ADDR",
                help="Servers that may answer; others are called rogue."),
        _option("--json", "json_file", type=FILE, envvar="DHCP_JSON", metavar="FILE",
                help="Write the result document."),
        _option("--clients-csv", type=FILE, metavar="FILE", help="Write one row a client."),
        _option("--progress", is_flag=True, help="Say once a second how far it is."),
        _option("--live", is_flag=True, help="Show a live panel."),
        _option("--verbose", "-v", is_flag=True,
                help="Say what is done, how far it is, and which clients failed."),
        _option("--lang", type=click.Choice(["en", "ko"]),
                help="Language of the report. [default: by locale]"),
    ),
    "More": (
        _option("--wrap", metavar="PROGRAM",
                help="Run `PROGRAM start` before the test and `PROGRAM stop` after it."),
        _option("--seed", type=click.IntRange(0, 0xFFFFFFFF), metavar="N",
                help="Makes transaction ids the same in every run. [default: random]"),
        _option("--ring-slots", type=click.IntRange(64, 1 << 17), default=4096, metavar="N",
                help="Frames that a ring holds, or those of several interfaces together; a power "
                     "of two."),
        _text("--perfdhcp", "A command line of perfdhcp -4, in quotes, done here.",
              metavar="LINE", expose_value=False),
    ),
}
