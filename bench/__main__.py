"""`python -m bench [--only NAME ...]`: run benchmarks, print the table, write latest.json."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import click

from bench import durable, kernel, living, loads, relay, topologies
from bench.figures import Figure, save, show
from tests.peers.net import Net

ROUNDS = 5


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def tester_vs_perfdhcp(rounds: int, seconds: int) -> list[Figure]:
    """Both against dhcp-server, each at the window or rate that suits it best."""
    ratio = Figure("tester_vs_perfdhcp", "ratio", "highest DORA/s of dhcp-tester over perfdhcp's, "
                   "both against dhcp-server", "at least 6")
    with loads.place() as net, loads.our_server(net):
        window, _ = loads.best((64, 256, 1024),
                               lambda w: loads.by_tester(net, w, 1)["dora_per_s"])
        rate, _ = loads.best(loads.PERFDHCP_RATES, lambda r: loads.by_perfdhcp(net, r, 2))
        _say(f"best window {window}, perfdhcp's best rate {rate:,}")
        pairs = [(loads.by_tester(net, window, seconds)["dora_per_s"],
                  loads.by_perfdhcp(net, rate, seconds)) for _ in range(rounds)]
    ratio.runs = [ours / theirs for ours, theirs in pairs]
    ratio.more = {"window": window, "perfdhcp_rate_per_s": rate,
                  "tester_dora_per_s": [round(p[0]) for p in pairs],
                  "perfdhcp_dora_per_s": [round(p[1]) for p in pairs]}
    return [ratio]


def kea(rounds: int, seconds: int) -> list[Figure]:
    """Kea (memfile, not persistent, multi-threaded) by both generators, and our server."""
    servers = Figure("server_vs_kea", "ratio", "highest DORA/s of dhcp-server over Kea's (memfile, "
                     "not persistent), both loaded by dhcp-tester", "at least 5")
    generators = Figure("kea_by_tester_vs_by_perfdhcp", "ratio", "Kea's highest DORA/s as "
                        "dhcp-tester finds it over what perfdhcp finds for the same Kea")

    def fresh(measure: Callable[[Net], float]) -> float:
        with loads.place() as net, loads.kea(net):
            return measure(net)

    def tested(window: int, length: float) -> float:
        return fresh(lambda net: loads.by_tester(net, window, length)["dora_per_s"])

    def own(window: int, length: float) -> float:
        with loads.place() as net, loads.our_server(net):
            return float(loads.by_tester(net, window, length)["dora_per_s"])

    own_window, _ = loads.best((64, 256, 1024), lambda w: own(w, 2))
    window, _ = loads.best((16, 32, 64, 128, 256), lambda w: tested(w, 2))
    rate, _ = loads.best(loads.PERFDHCP_RATES, lambda r: fresh(
        lambda net: loads.by_perfdhcp(net, r, 2)))
    _say(f"best windows: ours {own_window}, Kea's {window}; perfdhcp's best rate {rate:,}")
    rows = []
    for _ in range(rounds):
        ours = own(own_window, seconds)
        theirs = tested(window, seconds)
        heavy = fresh(lambda net: loads.by_perfdhcp(net, rate, seconds))
        rows.append((ours, theirs, heavy))
    servers.runs = [ours / theirs for ours, theirs, _ in rows]
    generators.runs = [theirs / heavy for _, theirs, heavy in rows]
    servers.more = {"window": own_window, "kea_window": window,
                    "server_dora_per_s": [round(row[0]) for row in rows],
                    "kea_dora_per_s": [round(row[1]) for row in rows]}
    generators.more = {"window": window, "perfdhcp_rate_per_s": rate,
                       "by_tester_dora_per_s": [round(row[1]) for row in rows],
                       "by_perfdhcp_dora_per_s": [round(row[2]) for row in rows]}
    return [servers, generators]


def dora_per_s(rounds: int, seconds: int) -> list[Figure]:
    """dhcp-tester against dhcp-server at each window."""
    figures = []
    with loads.place() as net, loads.our_server(net):
        documents: dict[int, list[dict[str, Any]]] = {window: [] for window in loads.WINDOWS}
        for _ in range(rounds):
            for window, found in documents.items():
                found.append(loads.by_tester(net, window, seconds))
    for window, found in documents.items():
        latency = [document["latency_us"]["dora"] for document in found]
        figures.append(Figure(
            f"dora_per_s_window_{window}", "DORA/s", f"{window} exchanges in flight",
            runs=[document["dora_per_s"] for document in found]))
        for point in ("p50", "p99"):
            figures.append(Figure(f"dora_{point}_us_window_{window}", "us",
                                  f"{point} of an exchange, {window} in flight",
                                  runs=[float(entry[point]) for entry in latency]))
    return figures


def memory(rounds: int, seconds: int) -> list[Figure]:
    """What a client costs the tester."""
    each = Figure("bytes_per_client", "bytes", "resident memory of dhcp-tester per client, "
                  "between 100,000 and 1,000,000 clients", "at most 160")
    whole = Figure("tester_rss_1m_clients", "MiB", "peak resident memory of dhcp-tester with one "
                   "million clients", "at most 400")
    with loads.place() as net, loads.our_server(net):
        # Compiling takes more memory than a million clients: not in these runs.
        loads.by_tester(net, 1, 1, 10)
    for _ in range(rounds):
        peaks = {}
        for clients in (100_000, 1_000_000):
            with loads.place() as net, loads.our_server(net):
                document = loads.by_tester(net, 256, 120, clients)
            if document["clients"]["bound"] != clients:
                raise RuntimeError(f"only {document['clients']} were bound")
            peaks[clients] = document["generator"]["rss_max_bytes"]
        each.runs.append((peaks[1_000_000] - peaks[100_000]) / 900_000)
        whole.runs.append(peaks[1_000_000] / 2**20)
    return [each, whole]


def start(rounds: int, seconds: int) -> list[Figure]:
    """How long a user waits."""
    figures = []
    programs = {"lab": "netlab", "dhcp-server": "server", "dhcp-tester": "tester"}
    for program, module in programs.items():
        loads.help_s(module)
        figures.append(Figure(f"help_s_{program}", "s", f"{program} --help", "at most 0.3",
                              [loads.help_s(module) for _ in range(rounds)]))
    with loads.place() as net:
        loads.first_packet_s(net)
        figures.append(Figure("first_packet_s", "s", "from starting dhcp-tester to its first frame "
                              "on the wire, kernels compiled before", "at most 1.5",
                              [loads.first_packet_s(net) for _ in range(rounds)]))
    return figures


BENCHMARKS: dict[str, Callable[[int, int], list[Figure]]] = {
    "start": start, "dora_per_s": dora_per_s, "tester_vs_perfdhcp": tester_vs_perfdhcp,
    "kea": kea, "durable": durable.durable, "many_leases": durable.many_leases,
    "memory": memory, "many_clients": living.many_clients, "rate_error": living.rate_error,
    "living": living.living, "relay_vs_dhcrelay": relay.relay_vs_dhcrelay,
    "lab_vs_ip": topologies.lab_vs_ip, "ebpf_overhead": kernel.ebpf_overhead}


@click.command()
@click.option("--only", multiple=True, type=click.Choice(list(BENCHMARKS)),
              help="Run just these.")
@click.option("--rounds", type=click.IntRange(1, 100), default=ROUNDS, show_default=True)
@click.option("--seconds", type=click.IntRange(1, 60), default=3, show_default=True,
              help="Length of each timed run.")
def main(only: tuple[str, ...], rounds: int, seconds: int) -> None:
    """Measure dhcp-netlab side by side with its peers."""
    figures: list[Figure] = []
    for name, benchmark in BENCHMARKS.items():
        if only and name not in only:
            continue
        began = time.monotonic()
        _say(f"{name} ...")
        # Memory is no matter of chance: fewer rounds of a long run.
        found = benchmark(min(rounds, 3) if name == "memory" else rounds, seconds)
        save(found)
        figures += found
        _say(f"{name}: {time.monotonic() - began:.0f} s")
    show(figures)


if __name__ == "__main__":
    main()
