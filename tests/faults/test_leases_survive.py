"""dhcp-server killed again and again: nothing that a client was promised is lost.

kill -9 loses nothing that has been written, whatever the durability: what these tests hold is
that it *was* written before the ACK went out, and that recovery and compaction keep it. A loss
of power is not simulated; tests/unit/test_journal.py looks at what is synced when.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fastpath.wire import MessageType
from tests.journals import block, lease, opened
from tests.ours import POOL, Finished, OurServer, OurTester, Talker, program
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root

# Who finds no server while there is none gives up after some seconds, and others come.
PATIENT = ("--concurrency", "128", "--retry", "--timeout", "250ms", "--max-discover-retries",
           "10", "--max-request-retries", "3")
# What is in the file before, at addresses of another pool part than the clients get.
OLD = IPv4Address("10.31.0.0")
OLD_LEASES = 50_000


@pytest.fixture
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


def leases(namespace: Namespace, file: Path) -> dict[str, dict[str, Any]]:
    """{address: row} as `dhcp-server leases` says it."""
    said = namespace.run([*program("server"), "leases", str(file), "--json"]).stdout
    rows = json.loads(said)
    assert len({row["address"] for row in rows}) == len(rows)
    return {row["address"]: row for row in rows}


def size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def killed_under_load(net: Net, file: Path, durability: str, growths: list[int]) -> Finished:
    """Kill one server after another, each when the file has grown by so many octets.

    All this while one tester goes on; returns what it saw.
    """
    arguments = (*POOL, "--lease-file", str(file), "--durability", durability)
    with OurTester(net.client, ("--duration", "10m", *PATIENT)) as test:
        for growth in growths:
            with OurServer(net.server, arguments) as server:
                before = size(file)
                wait_until("leases to be written", lambda: size(file) > before + growth,  # noqa: B023
                           30)
                server.kill()
        test.process.send_signal(signal.SIGINT)
        return test.finish(60)


def hold_to(seen: Finished, kept: dict[str, dict[str, Any]]) -> list[dict[str, str]]:
    """Every ACK that a client saw is in the file, with that client; returns these clients."""
    bound = [row for row in seen.clients if row["outcome"] == "bound"]
    assert seen.document["errors"]["duplicate_address"] == 0
    assert len({row["yiaddr"] for row in bound}) == len(bound)
    lost = [row for row in bound if row["yiaddr"] not in kept]
    assert not lost, f"{len(lost)} of {len(bound)} ACKs are not in the file: {lost[:3]}"
    wrong = [row for row in bound if (kept[row["yiaddr"]]["chaddr"], kept[row["yiaddr"]]["state"])
             != (row["chaddr"], "bound")]
    assert not wrong, f"{len(wrong)} of {len(bound)} ACKs were another's: {wrong[:3]}"
    return bound


def hold_after_restart(net: Net, file: Path, bound: list[dict[str, str]]) -> None:
    """Whoever was bound may go on using his address, and nobody else gets it."""
    chosen = random.Random(7).sample(bound, min(100, len(bound)))
    taken = {row["yiaddr"] for row in bound}
    with OurServer(net.server, (*POOL, "--lease-file", str(file))) as server, \
            Talker(net.client) as talker:
        for i, row in enumerate(chosen):
            chaddr, address = row["chaddr"], row["yiaddr"]
            if i % 2:
                answer = talker.ask("request", chaddr, requested_address=address)
            else:
                answer = talker.ask("request", chaddr, ciaddr=address)
            assert answer is not None and answer.type == MessageType.ACK
            assert str(answer.yiaddr) == address
        stranger = talker.ask("request", "02:ee:00:00:00:01", 0.3,
                              requested_address=chosen[0]["yiaddr"])
        assert stranger is None or stranger.type == MessageType.NAK
        for i in range(50):
            offer = talker.ask("discover", f"02:ee:00:00:01:{i:02x}",
                               requested_address=chosen[i % len(chosen)]["yiaddr"])
            assert offer is not None and str(offer.yiaddr) not in taken
        assert server.stop()["pool"]["bound"] >= len(bound)


@pytest.mark.parametrize(("durability", "rounds"), [("strict", 5), ("batch", 1), ("none", 1)])
def test_every_ack_survives_kill_9_under_load(net: Net, tmp_path: Path, durability: str,
                                              rounds: int) -> None:
    file = tmp_path / "leases"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    growths = [chance.randrange(2_000, 600_000) for _ in range(rounds)]
    seen = killed_under_load(net, file, durability, growths)
    bound = hold_to(seen, leases(net.server, file))
    assert len(bound) > sum(growths) / 64 / 2
    hold_after_restart(net, file, bound)


def old_leases(file: Path, ends: int) -> dict[str, str]:
    """Fill a lease file with enough that it is compacted; returns {address: chaddr}."""
    journal = opened(file)
    first = int(OLD) - 0x0A000000
    given = {}
    for version in range(5):
        for start in range(0, OLD_LEASES, 1000):
            journal.append(block(*(replace(
                lease(first + number, version << 32 | number, ends=ends, id_length=0), prefix=12)
                for number in range(start, start + 1000))))
    for number in range(OLD_LEASES):
        given[str(OLD + number)] = (4 << 32 | number).to_bytes(6, "big").hex(":")
    journal.close()
    return given


def test_every_ack_survives_kill_9_while_the_file_is_compacted(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "leases"
    given = old_leases(file, int(time.time()) + 86400)
    whole, beside = size(file), tmp_path / "leases.compact"
    arguments = (*POOL, "--lease-file", str(file), "--durability", "strict")
    interrupted = 0
    with OurTester(net.client, ("--duration", "10m", *PATIENT)) as test:
        for _ in range(2):
            with OurServer(net.server, arguments) as server:
                before = size(file)
                wait_until("a compaction under load", lambda: size(beside) > 0 < size(file)
                           - before, 30)  # noqa: B023
                server.kill()
                interrupted += beside.exists()
        with OurServer(net.server, arguments) as server:
            wait_until("a compacted file", lambda: size(file) < whole, 30)
            assert server.dump()["lease_file"]["compactions"] == 1
            server.kill()
        test.process.send_signal(signal.SIGINT)
        seen = test.finish(60)
    assert interrupted
    kept = leases(net.server, file)
    hold_to(seen, kept)
    assert {address: kept[address]["chaddr"] for address in given} == given
    beside.write_bytes(b"left over")
    with OurServer(net.server, arguments) as server:
        # The file is long enough for another compaction: what lies there now may be its own.
        assert not beside.exists() or beside.read_bytes()[:9] != b"left over"
        assert server.stop()["pool"]["bound"] >= len(given)
    assert not beside.exists()


def test_one_server_a_file(net: Net, tmp_path: Path) -> None:
    file = tmp_path / "leases"
    arguments = (*POOL, "--lease-file", str(file))
    with OurServer(net.server, arguments) as server:
        done = net.client.run([*program("server"), "-i", INTERFACE, "--listen", "10.16.0.2",
                               *arguments], check=False)
        assert done.returncode == 1
        assert done.stderr.splitlines()[0] == \
            f"dhcp-server: lease file {file} is in use by another server"
        # To look at it is allowed.
        assert leases(net.server, file) == {}
        server.kill()
    with OurServer(net.server, arguments):
        pass


def test_a_damaged_file_is_refused_and_salvaged(net: Net, tmp_path: Path) -> None:
    file, new = tmp_path / "leases", tmp_path / "salvaged"
    arguments = (*POOL, "--lease-file")
    with OurServer(net.server, (*arguments, str(file))) as server, \
            OurTester(net.client, ("--clients", "500")) as test:
        seen = test.finish()
        server.kill()
    assert seen.code == 0
    octets = bytearray(file.read_bytes())
    middle = len(octets) // 2
    octets[middle] ^= 0xFF
    file.write_bytes(octets)
    done = net.server.run([*program("server"), "-i", INTERFACE, *arguments, str(file)],
                          check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert str(file) in lines[0] and "damaged" in lines[0]
    offset = int("".join(c for c in lines[0].split("octet")[1].split()[0] if c.isdigit()))
    assert 0 < offset <= middle
    assert lines[1].strip().endswith(f"dhcp-server leases {file} --salvage NEWFILE")
    assert file.read_bytes() == octets
    net.server.run([*program("server"), "leases", str(file), "--salvage", str(new)], check=False)
    kept = leases(net.server, new)
    # A block of records is what is lost.
    assert 500 - 256 <= len(kept) < 500
    bound = {row["yiaddr"]: row["chaddr"] for row in seen.clients}
    assert all(bound[address] == row["chaddr"] for address, row in kept.items())
    with OurServer(net.server, (*arguments, str(new))) as server:
        assert server.stop()["pool"]["bound"] == len(kept)
