"""Prometheus text, and the server that hands it out: scraped by friends, strangers and nobody."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from fastpath import metrics
from fastpath.errors import SystemRefused, UserError
from fastpath.metrics import Distribution, Exposition, MetricsServer, parse_listen
from server.metrics import render

ROOT = Path(__file__).parents[2]
PATIENCE_S = 15.0


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """{(name, labels): value} as Prometheus's own client reads it; none may come twice."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def test_exposition() -> None:
    out = Exposition()
    out.counter("a_total", "Things.\nMore \\ things.", [({"k": 'a"\\\n'}, 3), ({"k": ""}, 0.5)])
    out.gauge("b", "Bees.", [({}, math.inf)])
    out.gauge("empty", "Nothing.", [])
    out.histogram("h_seconds", "Times.", [({"t": "x"}, Distribution(
        7, 1.5, ((0.001, 2), (0.01, 5), (math.inf, 7))))])
    assert out.text().splitlines() == [
        "# HELP a_total Things.\\nMore \\\\ things.", "# TYPE a_total counter",
        'a_total{k="a\\"\\\\\\n"} 3', 'a_total{k=""} 0.5',
        "# HELP b Bees.", "# TYPE b gauge", "b +Inf",
        "# HELP h_seconds Times.", "# TYPE h_seconds histogram",
        'h_seconds_bucket{t="x",le="0.001"} 2', 'h_seconds_bucket{t="x",le="0.01"} 5',
        'h_seconds_bucket{t="x",le="+Inf"} 7', 'h_seconds_sum{t="x"} 1.5',
        'h_seconds_count{t="x"} 7']


def test_a_histogram_never_decreases() -> None:
    out = Exposition()
    out.histogram("h", "x", [({}, Distribution(3, 1.0, ((1, 5), (2, 4), (3, 6))))])
    found = samples(out.text())
    assert [found["h_bucket", (("le", le),)] for le in ("1", "2", "3", "+Inf")] == [5, 5, 6, 6]
    assert found["h_count", ()] == 6


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "a\n", "é"])
def test_names_that_the_format_forbids(name: str) -> None:
    with pytest.raises(ValueError):
        Exposition().gauge(name, "x", [({}, 1)])
    with pytest.raises(ValueError):
        Exposition().gauge("a", "x", [({name: "x"}, 1)])


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=12),
                       st.integers(0, 1 << 53)))
def test_any_label_reads_back(counts: dict[str, int]) -> None:
    out = Exposition()
    out.counter("a_total", "x", [({"k": name}, number) for name, number in counts.items()])
    assert samples(out.text()) == {("a_total", (("k", name),)): float(number)
                                   for name, number in counts.items()}


SNAPSHOT: dict[str, Any] = {
    "uptime_s": 12.5, "started_at": 1_700_000_000,
    "received": {"discover": 10, "request": 8, "release": 2, "inform": 0},
    "sent": {"offer": 7, "ack": 6, "nak": 1},
    "outcomes": {"discover": {"offer": 7, "silent": 2}, "release": {"silent": 2},
                 "request": {"ack": 6, "nak": 1, "silent": 1}},
    "refused": {"bad_checksum": 3}, "causes": {"no_free": 2}, "elsewhere": 4, "expired": 5,
    "pool": {"addresses": 250, "free": 200, "offered": 1, "bound": 40, "declined": 2,
             "excluded": 4, "reserved": 3},
    "subnets": [{"subnet": "10.0.0.0/24", "addresses": 250, "free": 200, "offered": 1,
                 "bound": 40, "declined": 2}],
    "faults": {'drop "offer"': 9}, "rx_ring_drops": 11,
    "interfaces": [{"name": "eth0", "rx_ring_drops": 11, "tx_congested": 1}],
    "response_us": {"discover": {"count": 7, "sum_us": 700,
                                 "buckets": [[50, 1], [100, 5], [1000, 7]]}},
    "lease_file": {"path": "/x", "bytes": 4096, "records": 64, "compactions": 1, "failures": 2},
}


def test_what_the_server_says() -> None:
    found = samples(render(SNAPSHOT))

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    requests = {labels: number for (name, labels), number in found.items()
                if name == "dhcp_requests_total" and number}
    assert requests == {
        (("status", "answered"), ("type", "discover")): 7,
        # One DISCOVER was received and never came to a decision.
        (("status", "dropped"), ("type", "discover")): 3,
        (("status", "answered"), ("type", "request")): 6,
        (("status", "refused"), ("type", "request")): 1,
        (("status", "dropped"), ("type", "request")): 1,
        (("status", "done"), ("type", "release")): 2}
    assert sum(requests.values()) == sum(SNAPSHOT["received"].values())
    assert value("dhcp_requests_total", type="inform", status="answered") == 0
    assert value("dhcp_replies_total", type="offer") == 7
    assert value("dhcp_refused_total", reason="bad_checksum") == 3
    assert value("dhcp_faults_total", fault='drop "offer"') == 9
    assert value("dhcp_pool_addresses", subnet="10.0.0.0/24", state="bound") == 40
    assert value("dhcp_pool_size", subnet="10.0.0.0/24") == 250
    assert value("dhcp_leases", state="declined") == 2
    assert value("dhcp_addresses_excluded") == 4
    assert value("dhcp_ring_drops_total", interface="eth0") == 11
    assert value("dhcp_response_time_seconds_bucket", type="discover", le="0.0001") == 5
    assert value("dhcp_response_time_seconds_bucket", type="discover", le="+Inf") == 7
    assert value("dhcp_response_time_seconds_sum", type="discover") == pytest.approx(0.0007)
    assert value("dhcp_lease_file_bytes") == 4096
    assert value("dhcp_up") == 1 and value("process_start_time_seconds") == 1_700_000_000


@pytest.mark.parametrize("key", [*SNAPSHOT, None])
@pytest.mark.parametrize("odd", [None, [], {}, "x", 3, [None], {"discover": None}, [{"subnet": 1}],
                                 {"discover": {"count": 1, "buckets": [None, [1], ["a", 2]]}}])
def test_what_is_missing_or_odd_is_left_out(key: str | None, odd: Any) -> None:
    assert ("dhcp_up", ()) in samples(render({**SNAPSHOT, key: odd} if key else {}))


@pytest.mark.parametrize(("text", "expected"), [
    ("9100", ("127.0.0.1", 9100)), ("0", ("127.0.0.1", 0)), (" 9100 ", ("127.0.0.1", 9100)),
    ("10.0.0.1:80", ("10.0.0.1", 80)), ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ("localhost:9100", ("127.0.0.1", 9100)), ("[::1]:9100", ("::1", 9100)),
    ("[::]:1", ("::", 1))])
def test_where_to_listen(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize("text", [
    "", ":", ":9100", "x", "-1", "65536", "9100:", "::1:9100", "[10.0.0.1]:9100", "[::1]", "::1",
    "[::1]9100", "10.0.0.1", "10.0.0.1:x", "example.com:9100", "10.0.0.1:9100:9100", "٩١٠٠",
    "http://127.0.0.1:9100", "[[::1]]:9100", "1e3", "9" * 5000])
def test_nowhere_to_listen(text: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_listen(text)
    assert "9100" in caught.value.remedy


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SystemRefused) as caught:
            MetricsServer("127.0.0.1", port, str)
    assert caught.value.what == (f"cannot serve metrics on 127.0.0.1:{port}: "
                                 "address already in use")
    assert f":{port}" in caught.value.remedy


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(SystemRefused, match="cannot assign"):
        MetricsServer("192.0.2.77", 0, str)


@contextlib.contextmanager
def serving(view: Callable[[dict[str, Any]], str] = lambda snapshot: f"n {snapshot['n']}\n",
            address: str = "127.0.0.1") -> Iterator[MetricsServer]:
    with MetricsServer(address, 0, view) as server:
        yield server


def ask(server: MetricsServer, path: str = "/metrics", method: str = "GET",
        host: str = "127.0.0.1") -> tuple[int, str, http.client.HTTPResponse]:
    connection = http.client.HTTPConnection(host, server.port, timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode(), response
    finally:
        connection.close()


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


def open_files(pid: int) -> set[str]:
    """What a process has open; it may close any of it while we look."""
    names = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(os.readlink(entry))
    return names


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def test_the_latest_snapshot_is_served() -> None:
    with serving() as server:
        assert server.due() and ask(server)[0] == 503
        for n in (1, 2):
            server.show({"n": n})
            assert not server.due()
            assert eventually(lambda n=n: ask(server)[:2] == (200, f"n {n}\n"))  # type: ignore[misc]
        status, body, response = ask(server)
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        status, body, response = ask(server, method="HEAD")
        assert (status, body, response.headers["Content-Length"]) == (200, "", "4")
        assert "/metrics" in ask(server, "/")[1] and ask(server, "/metrics?x=1")[0] == 200
        assert server.url == f"http://127.0.0.1:{server.port}/metrics"
    with pytest.raises(ConnectionRefusedError):
        ask(server)


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/x", 404), ("GET", "/metrics/", 404),
    ("GET", "/../../etc/passwd", 404), ("HEAD", "/x", 404), ("POST", "/metrics", 405),
    ("DELETE", "/", 405), ("OPTIONS", "*", 405), ("FOO", "/metrics", 501)])
def test_other_requests(method: str, path: str, status: int) -> None:
    with serving() as server:
        assert ask(server, path, method)[0] == status


def test_loopback_of_ipv6() -> None:
    try:
        with serving(address="::1") as server:
            server.show({"n": 6})
            assert eventually(lambda: ask(server, host="::1")[:2] == (200, "n 6\n"))
            assert server.url == f"http://[::1]:{server.port}/metrics"
    except SystemRefused:
        pytest.skip("no IPv6 here")


def test_a_view_that_fails_says_so() -> None:
    with serving(lambda snapshot: str(1 // 0)) as server:
        server.show({})
        assert eventually(lambda: ask(server)[0] == 500)
        assert "ZeroDivisionError" in ask(server)[1]


@pytest.mark.parametrize("octets", [
    b"", b"\0" * 5000, b"GET\r\n\r\n", b"GET /metrics HTTP/9.9\r\n\r\n", b"\xff\xfe\r\n\r\n",
    b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5000,
    b"GET /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n"])
def test_hostile_requests(octets: bytes) -> None:
    with serving() as server:
        server.show({"n": 1})
        with (socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as sock,
              contextlib.suppress(ConnectionError)):
            sock.sendall(octets)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 16):
                pass
        assert eventually(lambda: ask(server)[:2] == (200, "n 1\n"))


def test_slow_and_many_strangers_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """One octet at a time, and more of them than there are places: each ends in time."""
    monkeypatch.setattr(metrics, "MOST_CONNECTION_S", 1.0)
    with serving() as server, contextlib.ExitStack() as stack:
        server.show({"n": 1})
        strangers = [stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                     for _ in range(metrics.MOST_CONNECTIONS + 5)]
        began = time.monotonic()
        open_ones = set(strangers)
        while open_ones and time.monotonic() - began < PATIENCE_S:
            for sock in list(open_ones):
                try:
                    sock.send(b"G")
                except ConnectionError:
                    open_ones.discard(sock)
            time.sleep(0.05)
        assert not open_ones and time.monotonic() - began > 0.5
        assert eventually(lambda: ask(server)[:2] == (200, "n 1\n"))


def test_a_child_that_does_not_read_holds_up_nobody() -> None:
    """Megabytes of snapshots: the rest of one goes first, so that no line is torn."""
    with serving(lambda snapshot: f"n {snapshot['n']} {len(snapshot['x'])}\n") as server:
        os.kill(server._child, signal.SIGSTOP)
        slowest = 0.0
        for n in range(50):
            began = time.monotonic()
            server.show({"n": n, "x": "x" * 3_000_000})
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2
        os.kill(server._child, signal.SIGCONT)

        def served() -> bool:
            server.show({"n": 99, "x": "x"})
            return ask(server)[1] == "n 99 1\n"

        assert eventually(served)


def test_a_child_that_was_killed() -> None:
    with serving() as server:
        os.kill(server._child, signal.SIGKILL)
        assert eventually(lambda: (server.show({"n": 1}), server.ended)[1])
        assert not server.due()
        server.show({"n": 2})
    server.close()


def test_not_started_gives_the_port_back() -> None:
    server = MetricsServer("127.0.0.1", 0, str)
    assert not server.due()
    server.show({})
    server.close()
    with socket.create_server(("127.0.0.1", server.port)):
        pass


HEAD = """
import os, signal, sys, time
from fastpath.metrics import MetricsServer
"""


@contextlib.contextmanager
def running(body: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", HEAD + body], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_program_however_that_ends(number: signal.Signals) -> None:
    """Also where another child of the program keeps the pipe open."""
    with running("""
server = MetricsServer("127.0.0.1", 0, str)
server.start()
other = os.fork()
if other == 0:
    time.sleep(20)
    os._exit(0)
print(server._child, other, flush=True)
time.sleep(60)
""") as process:
        assert process.stdout
        child, other = map(int, process.stdout.readline().split())
        assert not ended(child)
        process.send_signal(number)
        process.wait(PATIENCE_S)
        assert eventually(lambda: ended(child))
        os.kill(other, signal.SIGKILL)


def test_it_keeps_no_file_of_the_program(tmp_path: Path) -> None:
    """A lock or a ring that the child kept would outlive the program's own."""
    with open(tmp_path / "x", "w") as kept, serving() as server:
        assert eventually(lambda: kept.name not in open_files(server._child))


def test_signals_are_for_the_program() -> None:
    with serving() as server:
        server.show({"n": 1})
        assert eventually(lambda: ask(server)[0] == 200)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(server._child, number)
        time.sleep(0.2)
        assert ask(server)[0] == 200


@pytest.mark.root
def test_the_child_gives_up_root() -> None:
    from fastpath.privileges import check_user

    user = check_user("nobody")
    server = MetricsServer("127.0.0.1", 0, lambda snapshot: "x\n")
    server.start(user)
    try:
        server.show({})
        assert eventually(lambda: ask(server)[0] == 200)
        said = Path(f"/proc/{server._child}/status").read_text()
        assert f"Uid:\t{user.uid}\t{user.uid}" in said and "CapEff:\t0000000000000000" in said
    finally:
        server.close()
