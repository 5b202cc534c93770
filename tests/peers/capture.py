"""Captures of one interface in a namespace, taken by dumpcap and read by tshark.

The one thing to know: dumpcap gets frames from the kernel in blocks, up to 250 ms late, and
forgets what it has not read yet when told to stop. So `stop` sends a marker frame and waits
until that is in the file: everything before it is in there then. `fields` does not show it.

    with Capture(tmp_path / "one.pcapng", *net.tap) as capture:
        ...
    fields(capture.path, ["frame.time_epoch", "dhcp.option.dhcp"])
"""

from __future__ import annotations

import ipaddress
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.peers.net import INTERFACE, Namespace, stop, wait_until
from tests.peers.unpack import program

DHCP_PORTS = "udp port 67 or udp port 68"
# An ethertype set aside for local experiments (IEEE 802): no stack listens to it.
MARKER_TYPE = "88b5"
# To and from locally administered addresses that nobody has.
_MARKER_HEADER = "0200dead0001" "0200dead0002" + MARKER_TYPE
_SEND = ("import socket,sys;s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW);"
         "s.bind((sys.argv[1],0));s.send(bytes.fromhex(sys.argv[2]))")
READ_TIMEOUT_S = 120


@dataclass
class Capture:
    """A capture into `path`, from entering the `with` block to `stop` or to leaving it.

    filter: in libpcap's words; frames with a VLAN tag need `vlan and ...`.
    seen, dropped: known after the stop; frames that passed, and those lost for want of buffer.
    """

    path: Path
    namespace: Namespace
    interface: str = INTERFACE
    filter: str = DHCP_PORTS
    buffer_mib: int = 32
    seen: int = field(init=False, default=0)
    dropped: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        self._log = self.path.with_suffix(".log")
        self._stopped = False
        for place in (self.path, self._log):
            place.unlink(missing_ok=True)
        accept = f"({self.filter}) or ether proto 0x{MARKER_TYPE}"
        self._process: subprocess.Popen[bytes] = self.namespace.popen(
            program("dumpcap").argv("-q", "-i", self.interface, "-f", accept,
                                    "-B", str(self.buffer_mib), "-w", str(self.path)),
            log=self._log)
        wait_until(f"dumpcap on {self.interface}", self._ready)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if value is None:
            self.stop()
        elif not self._stopped:
            stop(self._process)

    def _ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"dumpcap: {self._log.read_text().strip()}")
        # Named once its socket is open and has its filter.
        return "File: " in self._log.read_text()

    def stop(self) -> Path:
        """End the capture with everything that passed until now in the file; returns `path`."""
        if self._stopped:
            return self.path
        self._stopped = True
        token = secrets.token_bytes(46)
        self.namespace.run([sys.executable, "-ISc", _SEND, self.interface,
                            _MARKER_HEADER + token.hex()])
        with self.path.open("rb") as file:
            read = b""

            def written() -> bool:
                nonlocal read
                read = read[-len(token):] + file.read()
                return token in read

            wait_until("the end of the capture in its file", written)
        stop(self._process, signal.SIGINT)
        counts = re.search(r"received/dropped on interface .*: (\d+)/(\d+)", self._log.read_text())
        if counts is None:
            raise RuntimeError(f"dumpcap: {self._log.read_text().strip()}")
        self.seen, self.dropped = int(counts[1]) - 1, int(counts[2])
        return self.path


def fields(path: Path, names: Sequence[str], display_filter: str = "dhcp",
           options: Sequence[str] = ()) -> list[dict[str, str]]:
    """Each frame that passes `display_filter` as {name: value}; "" where it has no such field.

    Several values of one field are joined by commas. options: further words for tshark.
    Raises RuntimeError with tshark's words.
    """
    chosen = [word for name in names for word in ("-e", name)]
    with tempfile.TemporaryDirectory(prefix="dnt-tshark-") as home:
        # The user's own preferences would change what is dissected.
        settings = os.environ | {"HOME": home, "XDG_CONFIG_HOME": home, "TZ": "UTC"}
        done = subprocess.run(
            program("tshark").argv("-n", "-r", str(path), "-Y", display_filter, "-T", "fields",
                                   "-E", "separator=/t", *options, *chosen),
            env=settings, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=READ_TIMEOUT_S)
    if done.returncode:
        raise RuntimeError(f"tshark: {done.stderr.strip()}")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [dict(zip(names, row, strict=True)) for row in rows]


@dataclass
class Problems:
    """What is wrong in a capture: frame numbers, as tshark counts them.

    unfinished_udp: the checksum is what the kernel leaves for hardware to finish (the folded
    sum of the pseudo header): a frame from a local socket that never left the machine. Not
    corruption, and not counted in `wrong`.
    complaints: {frame number: tshark's words} of severity "warning" and "error".
    """

    frames: int
    malformed: list[int] = field(default_factory=list)
    bad_ip_checksum: list[int] = field(default_factory=list)
    bad_udp_checksum: list[int] = field(default_factory=list)
    unfinished_udp: list[int] = field(default_factory=list)
    complaints: dict[int, str] = field(default_factory=dict)

    @property
    def wrong(self) -> bool:
        return bool(self.malformed or self.bad_ip_checksum or self.bad_udp_checksum
                    or self.complaints)


def _pseudo_header_sum(source: str, target: str, udp_length: int) -> int:
    """RFC 768: the folded, not yet inverted sum that CHECKSUM_PARTIAL leaves in the field."""
    total = 17 + udp_length
    for address in (source, target):
        number = int(ipaddress.IPv4Address(address))
        total += (number >> 16) + (number & 0xFFFF)
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return total


_BAD = frozenset({"0", "Bad"})  # by number or by name, as the release has it
_WARNING = 0x00600000  # epan/proto.h: PI_WARN; PI_ERROR is above it


def problems(path: Path, display_filter: str = "udp") -> Problems:
    """Look for malformed frames, wrong checksums and what else tshark complains of."""
    names = ["frame.number", "ip.src", "ip.dst", "udp.length", "udp.checksum",
             "ip.checksum.status", "udp.checksum.status", "_ws.malformed",
             "_ws.expert.severity", "_ws.expert.message"]
    rows = fields(path, names, display_filter,
                  ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"))
    found = Problems(len(rows))
    for row in rows:
        number = int(row["frame.number"])
        if row["_ws.malformed"]:
            found.malformed.append(number)
        if row["ip.checksum.status"] in _BAD:
            found.bad_ip_checksum.append(number)
        if row["udp.checksum.status"] in _BAD:
            partial = _pseudo_header_sum(row["ip.src"], row["ip.dst"], int(row["udp.length"]))
            unfinished = int(row["udp.checksum"], 16) == partial
            (found.unfinished_udp if unfinished else found.bad_udp_checksum).append(number)
        severities = [int(word) for word in row["_ws.expert.severity"].split(",") if word]
        words = [w for w in row["_ws.expert.message"].split(",") if "hecksum" not in w]
        if max(severities, default=0) >= _WARNING and words:
            found.complaints[number] = "; ".join(words)
    return found
