"""`dhcp-tester` as a program: one test, its report and its files."""

from __future__ import annotations

import gc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from fastpath.clock import Clock
from fastpath.files import check_writable, write_json
from fastpath.jit import warm_up
from fastpath.panel import Panel
from fastpath.process import Stop
from fastpath.ring import Ring
from tester.collect import collect, softnet_dropped, write_clients_csv
from tester.config import TestConfig, make_test
from tester.report import live_view, print_report
from tester.result import EXIT_CODES
from tester.run import Runner, touch


def run_test(config: TestConfig, *, progress: bool, live: bool, json_file: Path | None,
             clients_csv: Path | None) -> int:
    """Run one test and say what came of it; returns the exit code."""
    config.check()
    for path in (json_file, clients_csv):
        if path:
            check_writable(path)
    ports = (config.server_port + 1,)
    with Ring(config.interface, ports, slots=config.ring_slots, promiscuous=True) as ring:
        test = make_test(config, Clock().now_ns())
        # Before `Stop`: Ctrl-C while kernels compile simply ends the program.
        warm_up("tester", lambda: touch(test))
        # Nothing is thrown away while packets fly, so there is nothing to collect.
        gc.freeze()
        gc.disable()
        # Frames that found the ring full while we compiled are no loss of this test.
        before = ring.statistics(), _interface_drops(config.interface), softnet_dropped()
        started_at = datetime.now(UTC)
        with Stop() as stop, Panel(live_view, live) as panel:
            runner = Runner(config, test, ring, stop, progress=progress, panel=panel)
            outcome = runner.run()
        after = ring.statistics(), _interface_drops(config.interface), softnet_dropped()
        losses = {"rx_ring": after[0] - before[0], "tx_ring": ring.unsent(),
                  "interface": _difference(before[1], after[1]),
                  "softnet": _difference(before[2], after[2]), "server_socket": None}
    document = collect(config, test, outcome, started_at, losses)
    try:
        if json_file:
            write_json(json_file, document)
        if clients_csv:
            write_clients_csv(clients_csv, config, test)
    finally:
        # A full disk must not cost the user the numbers as well.
        print_report(document)
    return EXIT_CODES[document["verdict"]]


def _difference(before: int | None, after: int | None) -> int | None:
    return None if before is None or after is None else after - before


def _interface_drops(name: str) -> int | None:
    """Packets that the interface dropped, in both directions, since it was made."""
    counters: dict[str, Any] = psutil.net_io_counters(pernic=True)
    return counters[name].dropin + counters[name].dropout if name in counters else None
