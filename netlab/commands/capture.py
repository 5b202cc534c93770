"""`lab capture`: the frames of links, as a pcapng file or as lines of text."""

from __future__ import annotations

import math
import os
import re
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from fastpath.cli import DURATION, Command
from fastpath.errors import Malformed
from netlab.commands.common import journal_of, name_option, need_privilege, say

if TYPE_CHECKING:
    from netlab.capture import Capture, Captured, Line, Recording

# Frames no veth carries more of: net/core/dev.c, GSO_MAX_SIZE and a header.
_MOST_SNAPLEN = 1 << 18
_WORDS = {"dhcp": "udp dst port 67 or udp dst port 68", "all": ""}
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}


class Size(click.ParamType[int]):
    """Octets: 500K, 100M, 2G; 1K is 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None,
                ctx: click.Context | None) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None or not int(match[1]):
            self.fail(f"{value!r} is not a size like 500K, 100M or 2G", param, ctx)
        return int(match[1]) << _POWERS[match[2].lower()]


@click.command(cls=Command)
@click.argument("wanted", nargs=-1, metavar="[LINK|SEGMENT|NODE]...")
@click.option("-o", "--output", metavar="FILE", help="Write pcapng; - is standard output.")
@click.option("--text", is_flag=True, help="Say each frame in a line, also with -o FILE.")
@click.option("--filter", "which", type=click.Choice(list(_WORDS)), default="dhcp",
              show_default=True, help="What to capture.")
@click.option("--count", type=click.IntRange(1), metavar="N", help="End after N frames.")
@click.option("--duration", type=DURATION, help="End after so long.")
@click.option("--max-size", type=Size(), default="1G", show_default=True,
              help="End when the file is so large.")
@click.option("--snaplen", type=click.IntRange(64, _MOST_SNAPLEN), default=_MOST_SNAPLEN,
              metavar="N", help="Keep the first N octets of each frame [default: all].")
@name_option
def capture(wanted: tuple[str, ...], output: str | None, text: bool, which: str,
            count: int | None, duration: float | None, max_size: int, snaplen: int,
            name: str) -> None:
    """Capture links of a lab, all of them if none is named, until Ctrl-C.

    A link is NODE.IFNAME; a segment has each frame once, however many ports it leaves by. Without
    -o, each DHCP message is said in a line.

    \b
    lab capture                                    every message, live
    lab capture lan -o lan.pcapng --duration 10s
    lab capture relay1.eth1 -o - | wireshark -k -i -
    """
    if output == "-" and text:
        raise click.UsageError("--text and -o - would both go to standard output")
    if output == "-" and sys.stdout.isatty():
        raise click.UsageError("a capture is nothing to look at: -o FILE, or pipe it somewhere")
    journal = journal_of(name)
    from netlab import capture as capturing
    from netlab.tap import filter_of

    lines = capturing.lines(journal, wanted)
    need_privilege()
    with capturing.Capture(journal, lines, filter_of(which, snaplen)) as captured:
        session = _Session(captured, lines, count or 0, max_size)
        until_s = math.inf if duration is None else time.monotonic() + duration
        if output is None:
            session.run(until_s, None, True)
        else:
            kept = 0 if snaplen == _MOST_SNAPLEN else snaplen
            with capturing.Recording(output, lines, _WORDS[which], kept) as recording:
                session.run(until_s, recording, text)
        _sum_up(name, session, captured, output)


class _Session:
    """One run of the command. seen: frames so far."""

    def __init__(self, capture: Capture, lines: list[Line], count: int, max_size: int) -> None:
        self.capture, self.lines = capture, lines
        self.seen = 0
        self.dropped = 0
        self._count, self._max_size = count, max_size
        self._width = max(len(line.name) for line in lines)

    def run(self, until_s: float, recording: Recording | None, text: bool) -> None:
        """Capture until it is enough; a reader that goes away is the end too."""
        from fastpath.process import Stop

        say(f"capturing {_counted(len(self.lines), 'link')}; Ctrl-C ends it")
        with Stop(signal.SIGHUP) as stop:
            try:
                for frames in self.capture.follow(stop.fd, until_s):
                    if self._enough(frames, recording, text):
                        break
                dropped = self.capture.dropped()
                self.dropped = sum(dropped)
                if recording:
                    recording.finish(self.capture.started_ns, dropped)
            except BrokenPipeError:
                # Nothing more can be said there, at exit neither.
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

    def _enough(self, frames: list[Captured], recording: Recording | None, text: bool) -> bool:
        if self._count:
            frames = frames[:self._count - self.seen]
        if recording:
            recording.add(frames)
        if text and frames:
            sys.stdout.write("".join(self._line(frame) for frame in frames))
            sys.stdout.flush()
        self.seen += len(frames)
        full = recording is not None and recording.size >= self._max_size
        return full or 0 < self._count <= self.seen

    def _line(self, frame: Captured) -> str:
        """`09:00:00.123456 relay1.eth0 > DISCOVER xid ...`; > is what the link's node sends."""
        from netlab.pcapng import OUTBOUND

        second, rest_ns = divmod(frame.heard.time_ns, 1_000_000_000)
        at = time.strftime("%H:%M:%S", time.localtime(second))
        way = ">" if frame.direction == OUTBOUND else "<"
        return (f"{at}.{rest_ns // 1000:06d} {self.lines[frame.line].name:{self._width}} {way} "
                f"{describe(frame.heard.frame, frame.heard.length, frame.heard.summed)}\n")


def describe(frame: bytes, length: int, summed: bool = True) -> str:
    """One line for a frame: a DHCP message in its own terms; never raises.

    length: what it had on the wire. summed: False where its UDP checksum is unfinished.
    """
    from fastpath.message import Message
    from fastpath.packet import Frame

    if len(frame) < length:
        return f"{length} octets, cut to {len(frame)}"
    try:
        around = Frame.decode(frame, checksum_ready=summed)
        message = Message.decode(around.payload)
    except Malformed as problem:
        kind = f"ethertype 0x{frame[12:14].hex()}"
        return f"no sound DHCP message: {problem.reason} ({problem}), {kind}, {length} octets"
    kind = message.type.name if message.type else f"BOOTP op {message.op}"
    tags = "".join(f" vlan {tci & 0xFFF}" for tci in around.vlans)
    values = (("yiaddr", message.yiaddr), ("ciaddr", message.ciaddr), ("giaddr", message.giaddr))
    said = "".join(f" {label} {value}" for label, value in values if int(value))
    agent = f" option82 {message.options[82].hex()}" if 82 in message.options else ""
    return (f"{kind:8} xid 0x{message.xid:08x} chaddr {message.chaddr.hex(':') or '-'} "
            f"hops {message.hops}{said}{agent}  {around.src_ip} to {around.dst_ip}{tags}")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def _sum_up(lab: str, session: _Session, capture: Capture, output: str | None) -> None:
    where = f" in {output}" if output and output != "-" else ""
    lost = f", {session.dropped:,} lost for want of room" if session.dropped else ", none lost"
    gone = "" if capture.stands else f"{lab} is gone: "
    say(f"{gone}{_counted(session.seen, 'frame')}{where}{lost}")
