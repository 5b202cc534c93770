"""What very many clients cost the tester, how well it keeps time, and a million that live."""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import psutil

from bench import loads
from bench.figures import Figure
from tests.ours import OurServer, OurTester
from tests.peers.net import Net

MANY, FEW = 1_000_000, 1_000
# Renewed at a tenth of the real T1 of an hour's lease: every three minutes, for ten.
LEASE_S, SCALE, LIVING_S = 3600, 10, 600
BINDING_PER_S = 20_000


def _steady(net: Net, clients: int, seconds: float) -> float:
    """DORA/s of clients who are all bound and look for an address again, in turn."""
    document = _run(net, "--clients", str(clients), "--preload", str(clients), "--exchanges", "0",
                    "--duration", f"{seconds}s", "--concurrency", "256")
    return float(document["dora_per_s"])


def _run(net: Net, *arguments: str, timeout_s: float = 300.0) -> dict[str, Any]:
    with OurTester(net.client, arguments, clients_csv=False) as run:
        done = run.finish(timeout_s)
    if not done.document:
        raise RuntimeError(f"dhcp-tester ended with {done.code}: {done.err}{done.out}")
    return done.document


def many_clients(rounds: int, seconds: int) -> list[Figure]:
    """An exchange among a million clients, and among a thousand."""
    ratio = Figure("exchange_cost_1m_vs_1k_clients", "ratio", "time of an exchange with 1,000,000 "
                   "clients, all bound, over that with 1,000; server and tester together",
                   "at most 1.3")
    pairs = []
    for _ in range(rounds):
        rates = []
        for clients in (FEW, MANY):
            with loads.place() as net, loads.our_server(net):
                rates.append(_steady(net, clients, seconds))
        pairs.append(rates)
    ratio.runs = [few / many for few, many in pairs]
    ratio.more = {"dora_per_s_1k": [round(few) for few, _ in pairs],
                  "dora_per_s_1m": [round(many) for _, many in pairs]}
    return [ratio]


def rate_error(rounds: int, seconds: int) -> list[Figure]:
    """How far the starts of each second are from the rate asked for."""
    figures = []
    with loads.place() as net, loads.our_server(net):
        most = loads.by_tester(net, 256, 2)["dora_per_s"]
        for share in (0.1, 0.25, 0.5):
            rate = int(most * share)
            worst, missed = [], []
            for _ in range(rounds):
                document = _run(net, "--rate", str(rate), "--duration", f"{max(seconds, 5)}s")
                worst.append(_worst_percent(document["intervals"], rate))
                missed.append(document["missed_starts"])
            figures.append(Figure(
                f"rate_error_percent_at_{share:g}_of_most", "%", f"worst second of a run at "
                f"{share:.0%} of the highest closed-loop DORA/s", "under 1", worst,
                {"rate_per_s": rate, "missed_starts": missed}))
    return figures


def _worst_percent(intervals: list[dict[str, Any]], rate: float) -> float:
    """The last interval is a part of a second, and drains."""
    before, worst = 0.0, 0.0
    for interval in intervals[:-1]:
        length = interval["t_s"] - before
        before = interval["t_s"]
        worst = max(worst, abs(interval["started"] / length - rate) / rate * 100)
    return worst


class _Watch(threading.Thread):
    """Resident memory of a process, once a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process(pid)
        self.mib: list[float] = []

    def run(self) -> None:
        try:
            while True:
                self.mib.append(self._process.memory_info().rss / 2**20)
                time.sleep(1)
        except psutil.Error:
            return


def living(rounds: int, seconds: int, clients: int = MANY, living_s: int = LIVING_S,
           ) -> list[Figure]:
    """Clients who bind, renew and are not lost; one run, however many rounds were asked for."""
    late = Figure("living_1m_timer_late_p99_ms", "ms", f"{clients:,} clients for {living_s} s, "
                  f"renewing every {LEASE_S // 2 // SCALE} s: how late their timers were, p99",
                  "at most 100")
    lost = Figure("living_1m_lost", "clients", "clients who did not bind or lost their lease", "0")
    grown = Figure("living_1m_memory_growth_mib", "MiB", "resident memory of dhcp-tester: last "
                   "minute less the first minute after all were bound", "flat")
    with loads.place() as net, OurServer(net.server, (*loads.POOL, "--lease-time", str(LEASE_S))):
        arguments = ("--clients", str(clients), "--rate", str(BINDING_PER_S), "--hold",
                     str(living_s * SCALE), "--time-scale", str(SCALE), "--retry",
                     "--max-discover-retries", "3", "--timeout", "1s")
        with OurTester(net.client, arguments, clients_csv=False) as run:
            watch = _Watch(run.process.pid)
            watch.start()
            done = run.finish(living_s * 2 + 300)
    document = done.document
    binding = clients // BINDING_PER_S + 5
    settled, end = watch.mib[binding:binding + 60], watch.mib[-70:-10]
    late.runs = [document["latency_us"]["timer_late"]["p99"] / 1000]
    lost.runs = [clients - document["clients"]["bound"] + document["clients"]["leases_lost"]]
    grown.runs = [statistics.median(end) - statistics.median(settled)]
    legs = document["legs"]
    late.more = {"renewals": legs["renew"]["answered"], "renewals_lost": legs["renew"]["lost"],
                 "rebindings": legs["rebind"]["sent"], "verdict": document["verdict"],
                 "timer_late_us": document["latency_us"]["timer_late"],
                 "renew_ack_us": document["latency_us"].get("renew_ack"),
                 "rss_mib": round(max(watch.mib), 1),
                 "busy_percent": document["generator"]["busy_percent"]}
    return [late, lost, grown]
