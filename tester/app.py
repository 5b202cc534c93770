"""`dhcp-tester` as a program: one test, its report and its files."""

from __future__ import annotations

import gc
import select
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import cast

from fastpath import elsewhere, interface
from fastpath.clock import Clock
from fastpath.errors import SystemRefused
from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from fastpath.udp import Udp
from tester.cells import RELAYS
from tester.collect import collect
from tester.config import TestConfig
from tester.describe import describe
from tester.fleet import make_fleet
from tester.gather import gather, rows_of
from tester.listing import write_clients_csv
from tester.live import live_view
from tester.losses import Losses
from tester.make import make_test
from tester.ports import opened
from tester.report import print_failed, print_report
from tester.resolve import server_mac
from tester.result import EXIT_CODES
from tester.rounds import FleetRunner
from tester.run import Runner, touch
from tester.speech import make_messages
from tester.wrap import wrapped


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
    # Before the ports are opened: see `FleetRunner`.
    with select.epoll() as epoll, opened(config) as ports:
        local_port = ports[0].port if isinstance(ports[0], Udp) else 0
        fleet = make_fleet(config, Clock().now_ns()) if config.where.interfaces else None
        test = fleet.whole if fleet else make_test(
            config, Clock().now_ns(), mac=ports[0].interface.mac, local_port=local_port)
        for note in config.notes:
            print(f"dhcp-tester: {note}", file=sys.stderr, flush=True)
        if outputs.verbose:
            done = describe(config, local_port, outputs.lang)
            print(f"dhcp-tester: {done}", file=sys.stderr, flush=True)
        # Before `Stop`: Ctrl-C while kernels compile simply ends the program.
        warm_up("tester", lambda: touch(fleet.lanes[0] if fleet else test))
        # Nothing is thrown away while packets fly, so there is nothing to collect.
        gc.freeze()
        gc.disable()
        # Frames that found the ring full while we compiled are no loss of this test.
        losses = Losses(config, ports)
        started_at = datetime.now(UTC)
        with wrapped(outputs.wrap), Stop() as stop, _panel(outputs) as panel:
            said = outputs.progress or (outputs.verbose and not outputs.live)
            runner = FleetRunner(config, fleet, cast(list[Ring], ports), stop, epoll,
                                 progress=said, panel=panel) if fleet else Runner(
                config, test, ports[0], stop, progress=said, panel=panel)
            try:
                outcome = runner.run()
            except SystemRefused as error:
                # What was measured before the interface went away is still worth its report.
                refused, outcome = error, runner.cut_short(error.what)
        lost = losses.since()
        if fleet:
            gather(fleet, runner.measured_from_ns)
        document = collect(config, test, outcome, started_at, lost,
                           "udp" if isinstance(ports[0], Udp) else "ring")
        if fleet:
            document["interfaces"] = rows_of(config.where.interfaces, fleet.lanes, losses.rx_ring,
                                             runner.measured_from_ns)
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
    namespace, name = elsewhere.split(where.interface)
    tags = [(tpid, tag.number or 0) for tpid, tag in where.tags]
    if any(tag.number is None for _, tag in where.tags):
        raise SystemRefused("a server cannot be asked for its hardware address in many VLANs",
                            "give it with --server-mac")
    server, giaddr = where.server, where.relays[0]
    mac = elsewhere.within(namespace, lambda: server_mac(
        name, server, giaddr, interface.find(name).mac, tags=tags))
    return replace(config, where=replace(where, server_mac=mac))
