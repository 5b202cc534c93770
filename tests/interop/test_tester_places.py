"""dhcp-tester from other places than a segment: as relay agents, and by UDP socket without root.

The one thing to know: the command lines are those of the guide, with addresses of the test's own
networks where the guide's are somebody's.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.ours import START_S, Finished, OurServer, program, run_tester
from tests.peers.capture import Capture, fields, problems
from tests.peers.net import Namespace, Net, stop, two_namespaces, wait_until
from tests.peers.servers import Dhcpd, Kea

pytestmark = pytest.mark.root
HOME = Path(__file__).resolve().parent.parent.parent
# Eight relays on a wire with two subnets, and two on wires of their own.
SHARED, ALONE = ("10.1.0.0/24", "10.50.0.0/24"), ("10.2.0.0/24", "10.3.0.0/24")
RELAYS = ("10.1.0.1-10.1.0.8", "10.2.0.1,10.3.0.1")
GIADDRS = [*(f"10.1.0.{last}" for last in range(1, 9)), "10.2.0.1", "10.3.0.1"]
SERVER, LEASE_S, CLIENTS = "10.16.0.1", 120, 40


def pool(subnet: str) -> tuple[str, str]:
    """Twenty addresses of a subnet: the shared wire needs both of its own."""
    network = IPv4Network(subnet)
    return str(network[20]), str(network[39])


def our_server(net: Net, folder: Path) -> OurServer:
    def subnet(text: str) -> str:
        first, last = pool(text)
        return f"{{subnet: {text}, pools: [{first} - {last}]}}"

    place = folder / "server.yaml"
    place.write_text(
        f"server:\n  interfaces: [eth0]\n  lease_time: {LEASE_S}s\n  subnets:\n"
        f"    - {{subnet: 10.16.0.0/24, interface: eth0, pools: [10.16.0.20 - 10.16.0.39]}}\n"
        + "".join(f"    - {subnet(text)}\n" for text in ALONE)
        + "  shared_networks:\n    - name: eight\n      subnets:\n"
        + "".join(f"        - {subnet(text)}\n" for text in SHARED))
    return OurServer(net.server, ("--config", str(place)))


def kea(net: Net) -> Kea:
    def subnet(number: int, text: str) -> dict[str, Any]:
        return {"id": number, "subnet": text, "pools": [{"pool": " - ".join(pool(text))}]}

    return Kea(net.server, persist=True, lease_time_s=LEASE_S, extra={
        "subnet4": [subnet(number, text) for number, text in enumerate(ALONE, 1)],
        "shared-networks": [{
            "name": "eight", "relay": {"ip-addresses": GIADDRS[:8]},
            "subnet4": [subnet(number, text) for number, text in enumerate(SHARED, 11)]}]})


@dataclass
class RelayedDhcpd(Dhcpd):
    """dhcpd for these networks; its own it has to know, without a pool."""

    def _command(self) -> list[str]:
        def subnet(text: str) -> str:
            network, (first, last) = IPv4Network(text), pool(text)
            return (f"subnet {network.network_address} netmask {network.netmask} "
                    f"{{ range {first} {last}; }}\n")

        command = super()._command()
        (self.folder / "dhcpd.conf").write_text(
            f"authoritative;\nping-check false;\ndhcp-cache-threshold 0;\n"
            f"default-lease-time {LEASE_S};\nmax-lease-time {LEASE_S};\n"
            "subnet 10.16.0.0 netmask 255.240.0.0 { }\n"
            + "".join(subnet(text) for text in ALONE)
            + "shared-network eight {\n" + "".join(subnet(text) for text in SHARED) + "}\n")
        return command


def relayed_server(kind: str, net: Net, folder: Path) -> Any:
    # Giaddrs and clients are on the wire itself: ARP finds them.
    net.server.ip("route add 10.0.0.0/8 dev eth0\n")
    if kind == "dhcp-server":
        return our_server(net, folder)
    return kea(net) if kind == "kea-dhcp4" else RelayedDhcpd(net.server)


def of_its_relay(run: Finished) -> None:
    """Every client has an address of the wire that its relay is on, and none has another's."""
    addresses = [IPv4Address(row["yiaddr"]) for row in run.clients]
    assert len(set(addresses)) == len(addresses)
    wires = [[IPv4Network(text) for text in SHARED]] * 8 + [[IPv4Network(text)] for text in ALONE]
    for row, address in zip(run.clients, addresses, strict=True):
        # Two in a row are behind the same one.
        wire = wires[int(row["client"]) // 2 % 10]
        assert any(address in network for network in wire), row


@pytest.mark.parametrize("kind", ["dhcp-server", *(
    pytest.param(kind, marks=pytest.mark.peers(kind)) for kind in ("kea-dhcp4", "dhcpd"))])
def test_relay_agents_of_many_networks(kind: str, tmp_path: Path) -> None:
    """Found by ARP, told apart by giaddr; a renewal goes past them (RFC 2131 section 4.3.2).

    One by one: in a pool as small as these Kea offers an address to two who ask at once.
    """
    with two_namespaces() as net, relayed_server(kind, net, tmp_path) as server:
        run = run_tester(
            net.client, "--relay", RELAYS[0], "--relay", RELAYS[1], "--relay-block", "2",
            "--server", SERVER, "--circuit-id", "port-{index%48}", "--remote-id", "hex:{mac:6}",
            "--clients", str(CLIENTS), "--concurrency", "1", "--timeout", "4s", "--mix",
            "stay=2,inform=1,reboot=1", "--hold", "80s", "--time-scale", "60")
        leases = server.leases() if kind != "dhcp-server" else None
    document = run.document
    assert {name: count for name, count in document["errors"].items() if count} == {}, run.out
    assert run.code == 0, run.out
    of_its_relay(run)
    if leases is not None:
        assert leases == {row["chaddr"]: row["yiaddr"] for row in run.clients}
    legs = {name: (leg["sent"], leg["answered"]) for name, leg in document["legs"].items()
            if leg["sent"]}
    assert legs == {"discover": (40, 40), "request": (40, 40), "renew": (40, 40),
                    "inform": (10, 10), "reboot": (10, 10)}
    relays = document["relays"]
    assert [relay["giaddr"] for relay in relays] == GIADDRS
    assert {(relay["started"], relay["completed"], relay["failed"]) for relay in relays} == {
        (4, 4, 0)}
    assert document["config"]["from"] == "relay" and document["config"]["relays"] == 10
    # What a server's kernel sends, it sends to who answers ARP.
    assert document["neighbours"]["arp_answered"] > 0 or kind != "dhcpd"


@pytest.mark.peers("tshark")
def test_relays_say_who_they_are_and_where_a_client_is(tmp_path: Path) -> None:
    """Option 82 of each client (RFC 3046), from its own giaddr, and back as it was."""
    circuit, remote = (f"dhcp.option.agent_information_option.agent_{name}_id"
                       for name in ("circuit", "remote"))
    with two_namespaces(bridge=True) as net, Capture(tmp_path / "run.pcapng", *net.tap) as capture:
        with relayed_server("dhcp-server", net, tmp_path):
            run = run_tester(net.client, "--relay", RELAYS[0], "--server", SERVER, "--circuit-id",
                             "port-{index%48}", "--remote-id", "hex:{mac:6}", "--clients", "16")
        capture.stop()
    assert run.code == 0 and not problems(capture.path, "dhcp").wrong
    rows = fields(capture.path, ["dhcp.hw.mac_addr", "dhcp.ip.relay", circuit, remote, "dhcp.hops"],
                  "dhcp", ("-E", "occurrence=f"))
    assert len(rows) == 64
    for row in rows:
        mac = row["dhcp.hw.mac_addr"]
        client = int(mac.rpartition(":")[2], 16)
        assert row["dhcp.ip.relay"] == GIADDRS[client % 8]
        assert bytes.fromhex(row[circuit].replace(":", "")) == f"port-{client}".encode()
        assert row[remote].replace(":", "") == mac.replace(":", "")


@contextlib.contextmanager
def started(namespace: Namespace, folder: Path, *arguments: str, root: bool = True,
            environment: Mapping[str, str] = MappingProxyType({}),
            ) -> Iterator[subprocess.Popen[bytes]]:
    """dhcp-server in `folder`, until it serves; without root: with no capability at all."""
    log = folder / "server.log"
    process = namespace.popen([*([] if root else UNPRIVILEGED), *program("server"), *arguments],
                              log=log, cwd=folder, env=environment_of(environment))

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "serving" in log.read_text()

    try:
        wait_until("dhcp-server to serve", ready, START_S)
        yield process
    finally:
        stop(process)


UNPRIVILEGED = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"]


def environment_of(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HOME), **more}


@dataclass
class Ended:
    """dhcp-tester with an argument line of the guide's: code, both outputs, result document."""

    code: int
    out: str
    err: str
    document: dict[str, Any]


def run_in(namespace: Namespace, folder: Path, *arguments: str, root: bool = True,
           environment: Mapping[str, str] = MappingProxyType({}), stop_at: str = "") -> Ended:
    """Run dhcp-tester in `folder`; stop_at: what it says when Ctrl-C is pressed, twice."""
    result, said = folder / "result.json", folder / "tester.err"
    with said.open("wb") as err:
        process = namespace.popen(
            [*([] if root else UNPRIVILEGED), *program("tester"), *arguments], cwd=folder,
            stdout=subprocess.PIPE, stderr=err,
            env=environment_of({"DHCP_JSON": str(result), **environment}))
    if stop_at:
        wait_until(stop_at, lambda: stop_at in said.read_text() or process.poll() is not None,
                   START_S)
        process.send_signal(signal.SIGINT)
        # Two that come at once are one.
        lines = said.read_text().count(stop_at)
        wait_until("a second more", lambda: said.read_text().count(stop_at) > lines
                   or process.poll() is not None)
        process.send_signal(signal.SIGINT)
    out = process.communicate(timeout=START_S)[0].decode()
    return Ended(process.returncode, out, said.read_text(),
                 json.loads(result.read_text()) if result.exists() else {})


# Section 4.1, scripts/dev-run.sh: 100 clients for 41 addresses.
DEVELOPMENT_SERVER = ("-port", "6700", "-start-ip", "10.0.100.10", "-end-ip", "10.0.100.50",
                      "-lease-time", "1h", "-verbose", "-live")
DEVELOPMENT_TESTER = ("-server", "127.0.0.1", "-port", "6700", "-clients", "100", "-concurrency",
                      "10", "-timeout", "10s", "-verbose")


def test_the_development_script_without_root(tmp_path: Path) -> None:
    """Those who find no address wait ten seconds, ten at once: the whole script takes a minute."""
    with two_namespaces() as net, started(net.server, tmp_path, *DEVELOPMENT_SERVER, root=False):
        run = run_in(net.server, tmp_path, *DEVELOPMENT_TESTER, root=False,
                     stop_at="41 of 100 completed")
    document = run.document
    assert document["clients"]["bound"] == document["legs"]["request"]["answered"] == 41, run.out
    assert document["exchanges"]["in_flight"] == document["legs"]["discover"]["open"] == 10
    assert (run.code, document["interrupted"]) == (3, True)
    assert document["config"]["from"] == "socket"
    assert document["servers"][0]["server_id"] == "127.0.0.1"
    assert "did not answer" not in run.out


def test_more_clients_than_the_development_server_has_addresses(tmp_path: Path) -> None:
    """The same line with less patience: 41 are served, and the server says why the rest is not."""
    with two_namespaces() as net, started(net.server, tmp_path, *DEVELOPMENT_SERVER, root=False):
        line = [word if word != "10s" else "200ms" for word in DEVELOPMENT_TESTER]
        run = run_in(net.server, tmp_path, *line, root=False)
    document = run.document
    assert (run.code, document["verdict"]) == (3, "incomplete")
    assert document["clients"]["bound"] == 41 and document["clients"]["failed"] == 59
    assert document["errors"]["discover_timeout"] == document["legs"]["discover"]["lost"] == 59
    assert document["success_rate_percent"] == 41.0
    assert run.out.count("timeout_discover") or run.err.count("timeout_discover")
    assert "59 no free address" in (tmp_path / "server.log").read_text()


DEVELOPMENT_YAML = """\
# config/development.yaml
server:
  listen_ip: "127.0.0.1"
  port: 6700  # 표준 포트 충돌 방지
  ip_pool:
    start: "10.0.100.10"
    end: "10.0.100.50"
  lease_time: "1h"

client:
  server_ip: "127.0.0.1"
  server_port: 6700
  test_size: 100
  concurrency: 10
  timeout: "10s"

logging:
  level: "debug"
  verbose: true
  live_stats: true
"""


def test_both_programs_run_from_the_development_file(tmp_path: Path) -> None:
    """DHCP_ENV names it; a flag goes before it, and there are addresses for so many clients."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config/development.yaml").write_text(DEVELOPMENT_YAML)
    environment = {"DHCP_ENV": "development", "DHCP_LOG_LEVEL": "debug"}
    with two_namespaces() as net, started(net.server, tmp_path, root=False,
                                            environment=environment):
        run = run_in(net.server, tmp_path, "-clients", "40", root=False, environment=environment)
    document = run.document
    assert run.code == 0 and document["clients"]["bound"] == 40, run.out + run.err
    config = document["config"]
    assert (config["server"], config["server_port"]) == ("127.0.0.1", 6700)
    assert (config["concurrency"], config["timeout_s"]) == (10, 10.0)
    assert "Traceback" not in run.err + (tmp_path / "server.log").read_text()


@pytest.mark.peers("kea-dhcp4")
def test_as_a_relay_agent_by_socket_against_kea(tmp_path: Path) -> None:
    """Kea by UDP socket answers relays alone: `--relay self` is one, from port 67."""
    with two_namespaces(client_address="10.16.0.2/12") as net, \
            Kea(net.server, persist=True, socket_type="udp", lease_time_s=LEASE_S) as server:
        line = ("-server", SERVER, "-clients", "30", "-timeout", "500ms", "--concurrency", "30",
                "--mix", "stay=1,release=1,inform=1", "--hold", "80s", "--time-scale", "100")
        unheard = run_in(net.client, tmp_path, *line)
        run = run_in(net.client, tmp_path, *line, "--relay", "self")
        leases = server.leases()
    assert (unheard.code, unheard.document["clients"]["bound"]) == (3, 0)
    assert "--relay self" in unheard.out
    document = run.document
    assert document["clients"]["bound"] == document["legs"]["renew"]["answered"] == 30, run.out
    assert document["legs"]["release"]["sent"] == 10
    # Kea answers an INFORM at ciaddr, where no socket listens, and not through its relay.
    assert (run.code, document["legs"]["inform"]["lost"]) == (3, 10)
    assert document["relays"][0]["giaddr"] == "10.16.0.2"
    assert document["relays"][0]["completed"] == 30
    assert len(leases) == 20


TESTER_CONF = """\
server=127.0.0.1
port=67
clients=1000
concurrency=100
timeout=30s
retry=true
max-discover-retries=3
max-request-retries=3
"""
# Sections 3.1, 6.1 and 6.2; the name of the service is this machine's.
LINES: dict[str, tuple[str, dict[str, str]]] = {
    "run-tester.sh": ("-server 127.0.0.1 -clients 1000 -concurrency 100 -retry "
                      "-max-discover-retries 3 -max-request-retries 3 -live -timeout 30s", {}),
    "docker-compose": ("-server localhost -clients 1000 -concurrency 100 -retry -live", {}),
    "environment": ("-concurrency 100 -retry",
                    {"DHCP_SERVER": "localhost", "DHCP_CLIENTS": "1000"}),
    "job": ("-server=localhost -clients=1000 -concurrency=100 -retry -timeout=30s",
            {"DHCP_LOG_LEVEL": "info"}),
    "dhcp-tester.conf": ("--config dhcp-tester.conf", {}),
}
# On its ring, as the guide starts it; a socket beside it hears loopback.
WIDE_SERVER = ("-start-ip", "10.16.1.0", "-end-ip", "10.31.255.254",
               "-gateway", "10.16.0.1", "-lease-time", "24h")


def test_a_ring_answers_unicast_from_another_host(tmp_path: Path) -> None:
    """As between containers or pods: by broadcast nobody would hear it."""
    with two_namespaces(client_address="10.16.0.2/12") as net, started(
            net.server, tmp_path, *WIDE_SERVER):
        run = run_in(net.client, tmp_path, "-server", "10.16.0.1", "-clients", "200", "-retry")
    assert (run.code, run.document["clients"]["bound"]) == (0, 200), (run.out, run.err)


def test_every_other_line_of_the_guide(tmp_path: Path) -> None:
    (tmp_path / "dhcp-tester.conf").write_text(TESTER_CONF)
    with two_namespaces() as net, started(net.server, tmp_path, *WIDE_SERVER):
        runs = {name: run_in(net.server, tmp_path, *line.split(), environment=environment)
                for name, (line, environment) in LINES.items()}
    for name, run in runs.items():
        clients, config = run.document["clients"], run.document["config"]
        assert (run.code, clients["bound"], config["concurrency"]) == (0, 1000, 100), (
            name, run.out, run.err)
        assert (config["server"], config["server_port"]) == ("127.0.0.1", 67)
        assert config["discover_tries"] == config["request_tries"] == 4
        assert config["timeout_s"] == (5.0 if name in ("docker-compose", "environment") else 30.0)


# Section 5.3, scripts/health-check.sh: its function, with its own log and folder.
HEALTH_CHECK = r"""
log() { echo "$1" >> health-check.log; }
health_check() {
    local test_name="$1"
    local clients="$2"
    local expected_success_rate="$3"
    local result_file="$PWD/dhcp-health-check-$$.log"
    timeout 60s ./dhcp-tester \
        -server "$DHCP_SERVER" \
        -port "$DHCP_PORT" \
        -clients "$clients" \
        -concurrency 10 \
        -timeout 10s \
        -progress > "$result_file" 2>&1

    local exit_code=$?

    if [ $exit_code -eq 0 ]; then
        # 성공률 추출
        local success_rate=$(grep "성공률:" "$result_file" | awk '{print $2}' | sed 's/%//')

        if [ -n "$success_rate" ]; then
            local success_rate_int=${success_rate%.*}  # 소수점 제거

            if [ "$success_rate_int" -ge "$expected_success_rate" ]; then
                log "✅ $test_name 성공: 성공률 ${success_rate}%"
                echo "PASS"
            else
                log "⚠️ $test_name 성공률 부족: ${success_rate}% (기대: ${expected_success_rate}%)"
                echo "WARN"
            fi
        else
            log "❌ $test_name 결과 파싱 실패"
            echo "FAIL"
        fi
    else
        log "❌ $test_name 실행 실패 (종료 코드: $exit_code)"
        echo "FAIL"
    fi
}
DHCP_SERVER="127.0.0.1"
DHCP_PORT="67"
health_check "기본_테스트" 10 95
health_check "중간_부하" 100 90
health_check "높은_부하" 500 85
"""


def test_the_health_check_reads_the_success_rate(tmp_path: Path) -> None:
    wrapper = tmp_path / "dhcp-tester"
    wrapper.write_text(f"#!/bin/sh\nexec {' '.join(program('tester'))} \"$@\"\n")
    wrapper.chmod(0o755)
    (tmp_path / "check.sh").write_text(HEALTH_CHECK)
    with two_namespaces() as net, started(net.server, tmp_path, *WIDE_SERVER):
        checking = net.server.popen(
            ["bash", "check.sh"], cwd=tmp_path, stdout=subprocess.PIPE,
            env=environment_of({"LANG": "ko_KR.UTF-8", "LC_ALL": "", "LC_MESSAGES": ""}))
        said = checking.communicate(timeout=START_S)[0].decode().split()
    log = (tmp_path / "health-check.log").read_text()
    assert Counter(said) == {"PASS": 3}, log
    assert log.count("성공률 100%") == 3
