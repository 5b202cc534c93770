"""Several tests that make one table: over numbers of hops, or over servers.

A series is one document: {"schema": "dhcp-netlab/series/1", "kind": "hops" | "servers",
"rows": [...], "results": [...]}; `results` are whole result documents, a row is what its table
shows of them.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastpath.files import write_json
from netlab import outcome, verify
from netlab.cast import cast
from netlab.run import Order, Say, run

SCHEMA = "dhcp-netlab/series/1"
# Few in flight: what a hop adds is to be its own time, not that of a queue. And a row where
# nothing comes through is to take seconds, not minutes.
_SWEEP_LOAD = ("--clients", "1000", "--concurrency", "4", "--timeout", "1s", "--max-drop", "8")
# What the slowest of the usual servers manages in seconds.
_COMPARE_LOAD = ("--clients", "1000", "--concurrency", "16")
_INTERRUPTED = 130

Row = dict[str, Any]


def sweep(orders: Sequence[Order], hops: Sequence[int], say: Say) -> int:
    """One test for each number of hops; 3 when exchanges died anywhere."""
    labels = [f"{count} {'hop' if count == 1 else 'hops'}" for count in hops]
    orders = [replace(order, tester_options=(*_SWEEP_LOAD, *order.tester_options))
              for order in orders]
    rows, results, code = _run_each(orders, labels, say)
    before = None
    for row, count in zip(rows, hops, strict=False):
        row["hops"] = count
        p50 = row["dora_p50_us"]
        # Only where both came through is there anything that the hops between them added.
        row["added_us_per_hop"] = None
        if before is not None and p50 and before["dora_p50_us"]:
            row["added_us_per_hop"] = round((p50 - before["dora_p50_us"])
                                            / (count - before["hops"]), 1)
        before = row
    _report("hops", rows, results, orders[0].json_file, (
        ("hops", "hops"), *_COLUMNS, ("a hop adds", "added_us_per_hop"),
        ("discarded by", "discarded")))
    return code


def compare(orders: Sequence[Order], rounds: int, say: Say) -> int:
    """One test, or several in turn, of each server; 0 when all completed."""
    orders = [replace(order, tester_options=(*_COMPARE_LOAD, *order.tester_options))
              for order in orders]
    labels = [order.choices.server for order in orders]
    rows, results, code = _run_each(list(orders) * rounds, labels * rounds, say)
    merged = []
    for label in dict.fromkeys(labels):
        own = [row for row in rows if row["label"] == label]
        if own:
            merged.append(_median(own))
    _report("servers", merged, results, orders[0].json_file, (
        ("server", "label"), ("version", "version"), *_COLUMNS, ("CPU s", "cpu_s"),
        ("MiB", "rss_mib"), ("dropped", "socket_drops"), ("leases", "leases")))
    return code


def _run_each(orders: Sequence[Order], labels: Sequence[str], say: Say,
              ) -> tuple[list[Row], list[dict[str, Any]], int]:
    """Rows, documents, and the first exit code that is not 0. Ctrl-C ends it with what there is.
    """
    for order in orders:
        # What cannot be is said before the first test, not after an hour.
        cast(order.topology, order.choices, Path("/"))
    rows: list[Row] = []
    results: list[dict[str, Any]] = []
    code = 0
    for i, (order, label) in enumerate(zip(orders, labels, strict=True)):
        _progress(f"{label} ({i + 1} of {len(orders)})")
        try:
            done = run(replace(order, json_file=None, quiet=True), say)
        except SystemExit as end:
            _progress("")
            if isinstance(end.code, int) and end.code == _INTERRUPTED and rows:
                return rows, results, _INTERRUPTED
            raise
        code = code or done.exit_code
        if done.document is None:
            break
        rows.append(_row(label, done.document))
        results.append(done.document)
        if done.document["interrupted"]:
            break
    _progress("")
    return rows, results, code


def _progress(text: str) -> None:
    """On a terminal one line that the next one replaces, elsewhere a line each."""
    if sys.stderr.isatty():
        print(f"\r{f'lab: {text}' if text else ''}\x1b[K", end="", file=sys.stderr, flush=True)
    elif text:
        print(f"lab: {text}", file=sys.stderr, flush=True)


def _row(label: str, document: dict[str, Any]) -> Row:
    lab, exchanges = document["lab"], document["exchanges"]
    latency = document["latency_us"]["dora"]
    server = lab["server"] or {}
    drops = document["losses"]["server_socket"]
    return {
        "label": label, "verdict": document["verdict"], "version": server.get("version"),
        "begun": exchanges["started"], "completed": exchanges["completed"],
        "success_rate_percent": document["success_rate_percent"],
        "dora_per_s": document["dora_per_s"],
        "dora_p50_us": latency["p50"] if latency["count"] else None,
        "dora_p99_us": latency["p99"] if latency["count"] else None,
        "cpu_s": server.get("cpu_s"), "socket_drops": drops,
        "rss_mib": round(server.get("rss_bytes_max", 0) / 2**20),
        "discarded": list(outcome.discards(lab)),
        "leases": "-" if "why" in lab["leases"] else "agree"
        if verify.sound(lab["leases"]) else "WRONG",
    }


def _median(rows: list[Row]) -> Row:
    """One row of several rounds of the same: medians of numbers, the worst of words."""
    merged = dict(rows[0])
    for name, value in rows[0].items():
        values = [row[name] for row in rows if row[name] is not None]
        if isinstance(value, (int, float)) and values:
            merged[name] = statistics.median(values)
        elif name == "verdict":
            merged[name] = next((v for v in values if v != "pass"), value)
        elif name == "leases":
            merged[name] = "WRONG" if "WRONG" in values else value
    return {**merged, "rounds": len(rows)}


_COLUMNS = (("completed", "completed"), ("of", "begun"), ("success", "success_rate_percent"),
            ("DORA/s", "dora_per_s"), ("p50", "dora_p50_us"), ("p99", "dora_p99_us"))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return "\n".join(value) or "-"
    if name.endswith(("_us", "_us_per_hop")):
        return f"{value:,.0f} us" if abs(value) < 100_000 else f"{value / 1000:,.0f} ms"
    if name.endswith("_percent"):
        return f"{value:.1f} %" if value in (0, 100) else f"{value:.2f} %"
    if isinstance(value, float) and name != "cpu_s":
        return f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _report(kind: str, rows: list[Row], results: list[dict[str, Any]], path: Path | None,
            columns: Sequence[tuple[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    try:
        if path:
            write_json(path, {"schema": SCHEMA, "kind": kind, "rows": rows, "results": results})
    finally:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for heading, name in columns:
            text = name in ("label", "version", "discarded", "leases")
            table.add_column(heading, justify="left" if text else "right",
                             no_wrap=name != "discarded")
        for row in rows:
            table.add_row(*(_cell(name, row[name]) for _, name in columns))
        Console(width=None if sys.stdout.isatty() else 140, emoji=False, markup=False,
                highlight=False).print(table)
        if path:
            print(f"result     {path}")
