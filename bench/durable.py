"""What keeping leases costs: our server strict, and not; Kea with its lease file; many leases."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import numpy as np

from bench import loads
from bench.figures import Figure
from server.journal import Journal
from server.record import Lease, encode_record
from tests.ours import OurServer

WINDOWS = (64, 256, 1024)
KEA_WINDOWS = (32, 64, 128, 256)
# Where leases lie: a real disk, not the memory that /tmp may be.
PLACE = Path(__file__).parent
MANY = 1_000_000
_FIRST = IPv4Address("10.17.0.0")
# Two million addresses, so that there is room beside a million leases.
_WIDE = ("--start-ip", "10.16.0.1", "--end-ip", "10.47.255.254", "--netmask", "255.192.0.0")
_FIRST_CLIENT = 0x06_0000_000000


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="leases-", dir=PLACE) as name:
        yield Path(name)


def _ours(window: int, seconds: float, durability: str) -> float:
    """DORA/s of dhcp-server; durability: of its lease file, or empty for none at all."""
    with loads.place() as net, _folder() as folder:
        stored = ("--lease-file", str(folder / "leases"), "--durability", durability)
        with OurServer(net.server, (*loads.POOL, *(stored if durability else ()))):
            return float(loads.by_tester(net, window, seconds)["dora_per_s"])


def _kea(window: int, seconds: float) -> float:
    with loads.place() as net, loads.kea(net, persist=True):
        return float(loads.by_tester(net, window, seconds)["dora_per_s"])


def durable(rounds: int, seconds: int) -> list[Figure]:
    """Our `strict` against Kea with a lease file, and against no lease file."""
    against_kea = Figure(
        "server_durable_vs_kea_persist", "ratio", "highest DORA/s of dhcp-server --durability "
        "strict over Kea's with its memfile persistent, both loaded by dhcp-tester", "at least 4")
    against_none = Figure(
        "strict_vs_none", "ratio", "highest DORA/s of dhcp-server --durability strict over the "
        "same without a lease file", "at least 0.5")
    strict_window, _ = loads.best(WINDOWS, lambda w: _ours(w, 2, "strict"))
    none_window, _ = loads.best(WINDOWS, lambda w: _ours(w, 2, ""))
    kea_window, _ = loads.best(KEA_WINDOWS, lambda w: _kea(w, 2))
    rows = [(_ours(strict_window, seconds, "strict"), _ours(none_window, seconds, ""),
             _kea(kea_window, seconds)) for _ in range(rounds)]
    against_kea.runs = [strict / theirs for strict, _, theirs in rows]
    against_none.runs = [strict / none for strict, none, _ in rows]
    measured = {"strict_window": strict_window, "none_window": none_window,
                "kea_window": kea_window,
                "strict_dora_per_s": [round(row[0]) for row in rows],
                "none_dora_per_s": [round(row[1]) for row in rows],
                "kea_persist_dora_per_s": [round(row[2]) for row in rows]}
    against_kea.more = against_none.more = measured
    by_durability = [Figure(f"dora_per_s_{name}", "DORA/s", f"dhcp-server --durability {name}, "
                            "256 in flight", runs=[_ours(256, seconds, name)
                                                   for _ in range(rounds)])
                     for name in ("none", "batch", "strict")]
    return [against_kea, against_none, *by_durability]


def _lease_file(path: Path, count: int) -> None:
    """A lease file with `count` clients bound for ever."""
    journal = Journal(path, "none")
    list(journal.blocks())
    step = 10_000
    for start in range(0, count, step):
        octets = b"".join(encode_record(Lease(
            _FIRST + i, "bound", 10, 1, (_FIRST_CLIENT + i).to_bytes(6, "big"), b"", None,
            1, 0xFFFFFFFF)) for i in range(start, min(start + step, count)))
        journal.append(np.frombuffer(octets, np.uint8).copy())
    journal.close()


def many_leases(rounds: int, seconds: int) -> list[Figure]:
    """The cost of an exchange with a thousand and with a million leases; memory."""
    flat = Figure("dora_1m_leases_vs_1k", "ratio", "DORA/s of dhcp-server while it holds a "
                  "million leases over the same with a thousand, 256 in flight", "about 1")
    memory = Figure("server_rss_1m_addresses", "MiB", "peak resident memory of dhcp-server with "
                    "a pool of a million addresses, all of them leased",
                    "at most 200")
    pairs = []
    with _folder() as folder:
        for count in (1_000, MANY):
            _lease_file(folder / str(count), count)

        def measure(count: int) -> float:
            with loads.place() as net, OurServer(net.server, (
                    *_WIDE, "--lease-file", str(folder / str(count)), "--durability", "none")):
                return float(loads.by_tester(net, 256, seconds)["dora_per_s"])

        measure(1_000)
        # What a run adds to the file is little beside a million, much beside a thousand.
        pairs = [(measure(MANY), _fresh(folder, measure)) for _ in range(rounds)]
    flat.runs = [many / few for many, few in pairs]
    flat.more = {"dora_per_s_1m": [round(pair[0]) for pair in pairs],
                 "dora_per_s_1k": [round(pair[1]) for pair in pairs]}
    memory.runs = [_peak_mib(seconds) for _ in range(min(rounds, 3))]
    return [flat, memory]


def _fresh(folder: Path, measure: Callable[[int], float]) -> float:
    (folder / "1000").unlink()
    _lease_file(folder / "1000", 1_000)
    return measure(1_000)


def _peak_mib(seconds: int) -> float:
    """VmHWM of a server with a million addresses under load, in MiB."""
    with loads.place() as net, OurServer(net.server, (
            "--start-ip", "10.16.1.0", "--end-ip", "10.31.67.63")) as server:
        loads.by_tester(net, 256, 60, MANY)
        status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
