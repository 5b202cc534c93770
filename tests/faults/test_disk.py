"""dhcp-server when the disk under its lease file is full or refuses: silent, never untruthful.

No ACK leaves for what could not be stored, one clear line says why nobody is answered, and
service goes on by itself when the disk does.
"""

from __future__ import annotations

import contextlib
import json
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ours import POOL, Finished, OurServer, Talker, program, run_tester
from tests.peers.net import Namespace, Net, two_namespaces, wait_until

pytestmark = pytest.mark.root

# What a while of trouble may say at most.
MOST_LINES = 40
IMPATIENT = ("--timeout", "300ms", "--concurrency", "64")


@pytest.fixture
def net() -> Iterator[Net]:
    with two_namespaces() as net:
        yield net


@contextlib.contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def hold_to(seen: list[Finished], namespace: Namespace, file: Path) -> int:
    """Every ACK that a client saw is in the file; returns how many there were."""
    said = namespace.run([*program("server"), "leases", str(file), "--json"]).stdout
    kept = {row["address"]: row["chaddr"] for row in json.loads(said)}
    bound = [row for run in seen for row in run.clients if row["outcome"] == "bound"]
    lost = [row for row in bound if kept.get(row["yiaddr"]) != row["chaddr"]]
    assert not lost, f"{len(lost)} of {len(bound)} ACKs are not in the file: {lost[:3]}"
    assert len({row["yiaddr"] for row in bound}) == len(bound)
    return len(bound)


@pytest.mark.parametrize("durability", ["strict", "batch"])
def test_a_full_disk_silences_and_room_restores(net: Net, tmp_path: Path,
                                                durability: str) -> None:
    with small_disk(tmp_path / "disk", "128k") as disk:
        file = disk / "leases"
        with OurServer(net.server, (*POOL, "--lease-file", str(file), "--durability",
                                    durability)) as server:
            # 128 KiB are some two thousand leases.
            first = run_tester(net.client, "--clients", "3000", *IMPATIENT, "--rate", "4000")
            assert first.document["clients"]["bound"] > 500
            assert first.document["clients"]["failed"] > 500
            assert (f"cannot write lease file {file}: No space left on device; answering nobody "
                    "until it can be written") in server.log
            silent = server.dump()
            assert not silent["lease_file"]["storing"] and silent["lease_file"]["failures"] == 1
            assert silent["causes"]["not_stored"] > 0
            with Talker(net.client) as talker:
                assert talker.ask("discover", "02:ee:00:00:00:01", 0.3) is None
            subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
            wait_until("the disk to be tried again", lambda: "can be written again" in server.log)
            again = run_tester(net.client, "--clients", "500", "--mac-base", "02:00:00:10:00:00")
            assert again.code == 0
            server.kill()
            assert len(server.log.splitlines()) < MOST_LINES
        assert hold_to([first, again], net.server, file) > 1000


@pytest.mark.parametrize("durability", ["strict", "batch"])
def test_a_server_ends_well_on_a_full_disk(net: Net, tmp_path: Path, durability: str) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        file = disk / "leases"
        arguments = (*POOL, "--lease-file", str(file), "--durability", durability)
        with OurServer(net.server, arguments) as server:
            seen = run_tester(net.client, "--clients", "1500", *IMPATIENT, "--rate", "4000")
            assert "answering nobody" in server.log
            server.stop(signal.SIGTERM)
            assert server.code == 0 and "Traceback" not in server.said
            assert "ended after" in server.said
        assert hold_to([seen], net.server, file) > 100
        # It starts there too: nothing has to be written for that.
        with OurServer(net.server, arguments) as server:
            assert server.stop()["pool"]["bound"] > 100


def test_a_limit_on_the_file_is_as_good_as_a_full_disk(net: Net, tmp_path: Path) -> None:
    """Another error than a full disk: EFBIG, which a limit on file sizes makes."""
    file = tmp_path / "leases"
    with OurServer(net.server, (*POOL, "--lease-file", str(file), "--durability",
                                "strict")) as server:
        kept = run_tester(net.client, "--clients", "50")
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE,
                         (file.stat().st_size + 10, limits[1]))
        refused = run_tester(net.client, "--clients", "50", "--mac-base", "02:00:00:10:00:00",
                             *IMPATIENT)
        assert refused.document["clients"]["bound"] == 0
        assert f"cannot write lease file {file}: File too large" in server.log
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
        wait_until("the file to be tried again", lambda: "can be written again" in server.log)
        again = run_tester(net.client, "--clients", "50", "--mac-base", "02:00:00:20:00:00")
        assert (kept.code, again.code) == (0, 0)
        server.kill()
    assert hold_to([kept, again], net.server, file) == 100


@pytest.mark.parametrize(("make", "said"), [
    ("missing", "no directory"),
    ("read-only", "Read-only file system"),
    ("directory", "Is a directory"),
])
def test_where_no_lease_file_can_be_it_says_so(net: Net, tmp_path: Path, make: str,
                                               said: str) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        file = disk / "leases"
        if make == "missing":
            file = disk / "nowhere" / "leases"
        elif make == "directory":
            file.mkdir()
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        done = net.server.run([*program("server"), "-i", "eth0", *POOL, "--lease-file", str(file)],
                              check=False)
    lines = done.stderr.splitlines()
    assert done.returncode in (1, 2) and "Traceback" not in done.stderr and done.stdout == ""
    assert said in lines[0] or make == "directory" or "cannot write" in lines[0]
    assert 1 <= len(lines) <= 2 and str(disk) in lines[0]
