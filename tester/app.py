"""`dhcp-tester` as a program: one test, its report and its files."""

from __future__ import annotations

import gc
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from fastpath import interface
from fastpath.clock import Clock
from fastpath.errors import SystemRefused
from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from fastpath.udp import Udp
from tester.cells import RELAYS, SOCKET
from tester.collect import collect
from tester.config import MOST_TAGS, TestConfig
from tester.describe import describe
from tester.listing import write_clients_csv
from tester.live import live_view
from tester.losses import Losses
from tester.make import make_test
from tester.report import print_failed, print_report
from tester.resolve import server_mac
from tester.result import EXIT_CODES
from tester.run import Runner, touch
from tester.speech import make_messages
from tester.wrap import wrapped

_LOWEST_FREE_PORT = 1024


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be shown, written and run. lang: "en", "ko", or None for the locale's.

    wrap: a program to run before and after.
    """

    progress: bool = False
    live: bool = False
    verbose: bool = False
    json_file: Path | None = None
    clients_csv: Path | None = None
    lang: str | None = None
    wrap: str | None = None


def run_test(config: TestConfig, outputs: Outputs) -> int:
    """Run one test and say what came of it; returns the exit code."""
    for path in (outputs.json_file, outputs.clients_csv):
        if path:
            check_writable(path)
    refused: SystemRefused | None = None
    # What cannot be said is refused before anything is asked of the machine.
    make_messages(config)
    config = _settled(config)
    with _opened(config) as port:
        local_port = port.port if isinstance(port, Udp) else 0
        test = make_test(config, Clock().now_ns(), mac=port.interface.mac, local_port=local_port)
        if outputs.verbose:
            done = describe(config, local_port, outputs.lang)
            print(f"dhcp-tester: {done}", file=sys.stderr, flush=True)
        # Before `Stop`: Ctrl-C while kernels compile simply ends the program.
        warm_up("tester", lambda: touch(test))
        # Nothing is thrown away while packets fly, so there is nothing to collect.
        gc.freeze()
        gc.disable()
        # Frames that found the ring full while we compiled are no loss of this test.
        losses = Losses(config, port)
        started_at = datetime.now(UTC)
        with wrapped(outputs.wrap), Stop() as stop, _panel(outputs) as panel:
            runner = Runner(config, test, port, stop, panel=panel,
                            progress=outputs.progress or (outputs.verbose and not outputs.live))
            try:
                outcome = runner.run()
            except SystemRefused as error:
                # What was measured before the interface went away is still worth its report.
                refused, outcome = error, runner.cut_short(error.what)
        document = collect(config, test, outcome, started_at, losses.since(),
                           "udp" if isinstance(port, Udp) else "ring")
    try:
        if outputs.json_file:
            write_json(outputs.json_file, document)
        if outputs.clients_csv:
            write_clients_csv(outputs.clients_csv, config, test)
    finally:
        # A full disk must not cost the user the numbers as well.
        print_report(document, outputs.lang)
        if outputs.verbose:
            print_failed(config, test, outputs.lang)
    if refused is not None:
        raise refused
    return EXIT_CODES[document["verdict"]]


def _panel(outputs: Outputs) -> Panel:
    return Panel(partial(live_view, lang=outputs.lang), outputs.live)


def _settled(config: TestConfig) -> TestConfig:
    """The config with what has to be asked of the network: the server's hardware address."""
    where = config.where
    if where.mode != RELAYS or where.server_mac is not None or where.server is None:
        return config
    found = interface.find(where.interface)
    tags = [(tpid, tag.number or 0) for tpid, tag in where.tags]
    if any(tag.number is None for _, tag in where.tags):
        raise SystemRefused("a server cannot be asked for its hardware address in many VLANs",
                            "give it with --server-mac")
    mac = server_mac(where.interface, where.server, where.relays[0], found.mac, tags=tags)
    return replace(config, where=replace(where, server_mac=mac))


def _opened(config: TestConfig) -> Ring | Udp:
    where = config.where
    if where.mode == SOCKET:
        return _socket(config)
    ports = (where.client_port, where.server_port) if where.relays else (where.client_port,)
    return Ring(where.interface, ports, slots=config.ring_slots, promiscuous=True,
                neighbours=where.answers_arp or where.answers_ping, tags=MOST_TAGS)


def _socket(config: TestConfig) -> Udp:
    """A socket to speak from: the port of clients, or of relays, or where that is not for us any.
    """
    where = config.where
    port = where.local_port or (where.server_port if where.relays else where.client_port)
    address: IPv4Address | None = where.local_address
    try:
        return Udp(address, port, interface=where.interface, slots=config.ring_slots)
    except SystemRefused:
        if port >= _LOWEST_FREE_PORT or where.local_port is not None:
            raise
    opened = Udp(address, 0, interface=where.interface, slots=config.ring_slots)
    print(f"dhcp-tester: port {port} is not for us; speaking from port {opened.port}: a server "
          f"that answers to port {port} will not be heard (sudo, or --local-port)",
          file=sys.stderr)
    return opened

