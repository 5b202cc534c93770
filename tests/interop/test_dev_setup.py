"""The guide's three environments, by its own command lines: development, staging, production.

Development runs without root, by UDP on port 6700 of loopback; its clients here are sockets.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import pytest

from fastpath.message import Message
from fastpath.wire import MessageType
from tests.ours import START_S, OurServer, Talker, entered, program
from tests.peers.net import Namespace, Net, stop, two_namespaces, wait_until

pytestmark = pytest.mark.root
HOME = Path(__file__).resolve().parent.parent.parent
PORT, RELAY = 6700, "10.0.100.1"
# Section 4.1, scripts/dev-run.sh.
DEVELOPMENT: tuple[str, ...] = ("-port", "6700", "-start-ip", "10.0.100.10", "-end-ip",
                                "10.0.100.50", "-lease-time", "1h", "-verbose", "-live")
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
STAGING_ENV = {"DHCP_ENV": "staging", "DHCP_SERVER_IP": "192.168.200.1",
               "DHCP_POOL_START": "192.168.200.100", "DHCP_POOL_END": "192.168.200.200"}
PRODUCTION_CONF = """\
# DHCP Production Configuration
DHCP_LISTEN_IP=0.0.0.0
DHCP_PORT=67
DHCP_START_IP=172.16.1.100
DHCP_END_IP=172.16.10.250
DHCP_GATEWAY=172.16.1.1
DHCP_DNS1=172.16.1.10
DHCP_DNS2=8.8.8.8
DHCP_LEASE_TIME=24h
DHCP_MAX_CONCURRENT=5000
DHCP_RESPONSE_DELAY=0ms
DHCP_DROP_RATE=0.0
LOG_LEVEL=info
ENABLE_RELAY=true
MAX_HOPS=4
"""


@contextlib.contextmanager
def development(namespace: Namespace, folder: Path, arguments: tuple[str, ...],
                environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The server as the guide starts it, in the background and with no privilege at all."""
    log = folder / "log"
    process = namespace.popen(
        ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs",
         *program("server"), *arguments], log=log, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HOME), **environment})

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return "serving" in log.read_text()

    try:
        wait_until("dhcp-server to serve", ready, START_S)
        yield process
    finally:
        stop(process)


class Client:
    """A client that has an address already and speaks from the client port, or a relay."""

    def __init__(self, host: str, port: int, server: str = "127.0.0.1") -> None:
        self._server = server
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self._xid = 0x1000

    def ask(self, kind: str, number: int, *, wait_s: float = 3.0, giaddr: str = "0.0.0.0",
            ciaddr: str = "0.0.0.0", **options: object) -> Message | None:
        self._xid += 1
        message = Message(xid=self._xid, chaddr=bytes([2, 0, 0, 0, 0, number]),
                          giaddr=IPv4Address(giaddr), ciaddr=IPv4Address(ciaddr),
                          hops=int(giaddr != "0.0.0.0"))
        message.set("message-type", MessageType[kind])
        message.set("parameter-request-list", [1, 3, 6, 51, 54])
        for name, value in options.items():
            message.set(name.replace("_", "-"), value)
        self._socket.sendto(message.encode(), (self._server, PORT))
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(TimeoutError):
                answer = Message.decode(self._socket.recv(2048))
                if answer.xid == self._xid:
                    return answer
        return None

    def lease(self, number: int, giaddr: str = "0.0.0.0") -> Message:
        """DISCOVER to ACK."""
        offer = self.ask("DISCOVER", number, giaddr=giaddr)
        assert offer is not None and offer.type == MessageType.OFFER
        ack = self.ask("REQUEST", number, giaddr=giaddr, requested_address=str(offer.yiaddr),
                       server_identifier=offer.get("server-identifier"))
        assert ack is not None and ack.type == MessageType.ACK and ack.yiaddr == offer.yiaddr
        return ack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()


def exercise(client: Client, relay: Client) -> None:
    """A whole life of a lease, and one through a relay, against the development server."""
    ack = client.lease(1)
    address = str(ack.yiaddr)
    assert address == "10.0.100.10" and ack.get("lease-time") == 3600
    assert str(ack.get("server-identifier")) == "127.0.0.1"
    renewed = client.ask("REQUEST", 1, ciaddr=address)
    assert renewed is not None and renewed.type == MessageType.ACK
    assert str(renewed.yiaddr) == address
    again = client.ask("REQUEST", 1, requested_address=address)
    assert again is not None and again.type == MessageType.ACK
    assert client.ask("RELEASE", 1, ciaddr=address, wait_s=0.2,
                      server_identifier="127.0.0.1") is None
    # What was released rests behind the others.
    assert str(client.lease(2).yiaddr) == "10.0.100.11"
    relayed = relay.lease(3, giaddr=RELAY)
    assert relayed.giaddr == IPv4Address(RELAY)
    assert str(relayed.yiaddr) == "10.0.100.12"


@pytest.mark.parametrize("how", ["flags", "yaml"])
def test_development(tmp_path: Path, how: str) -> None:
    environment = {"DHCP_ENV": "development", "DHCP_LOG_LEVEL": "debug"}
    arguments, relay_is, server = DEVELOPMENT, "client", "10.16.0.1"
    if how == "yaml":
        (tmp_path / "config").mkdir()
        (tmp_path / "config/development.yaml").write_text(DEVELOPMENT_YAML)
        # It listens on loopback alone, so that its relay has to be there too.
        arguments, relay_is, server = (), "server", "127.0.0.1"
    with two_namespaces(client_address="10.16.0.2/12") as net:
        relay_place = getattr(net, relay_is)
        relay_place.ip(f"addr add {RELAY}/32 dev lo\n")
        if relay_is == "client":
            net.server.ip(f"route add {RELAY} via 10.16.0.2\n")
        with development(net.server, tmp_path, arguments, environment) as process, \
                contextlib.ExitStack() as stack:
            with entered(net.server):
                client = stack.enter_context(Client("127.0.0.1", PORT + 1))
            with entered(relay_place):
                relay = stack.enter_context(Client(RELAY, PORT, server))
            exercise(client, relay)
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "CapEff:\t0000000000000000\n" in status
            # As the script ends it.
            process.send_signal(signal.SIGTERM)
            assert process.wait(5) == 0
    said = (tmp_path / "log").read_text()
    assert "by UDP socket" in said and "Traceback" not in said
    assert "02:00:00:00:00:01 discover -> offer 10.0.100.10" in said
    assert "ended after" in said and "1 RELEASE" in said


def served(server: OurServer, net: Net) -> tuple[Message, Message]:
    """OFFER and ACK that a client gets who asks by broadcast."""
    with Talker(net.client) as talker:
        offer = talker.ask("discover", "02:00:00:00:00:01")
        assert offer is not None and offer.type == MessageType.OFFER, server.log
        ack = talker.ask("request", "02:00:00:00:00:01", requested_address=str(offer.yiaddr),
                         server_identifier=offer.get("server-identifier"))
        assert ack is not None and ack.type == MessageType.ACK, server.log
    return offer, ack


def test_staging(tmp_path: Path) -> None:
    """Section 4.2, scripts/staging-setup.sh, with what its shell puts in."""
    arguments = ("-listen", "192.168.200.1", "-port", "67", "-start-ip", "192.168.200.100",
                 "-end-ip", "192.168.200.200", "-lease-time", "2h", "-max-concurrent", "2000",
                 "-response-delay", "10ms", "-verbose")
    with two_namespaces(server_address="192.168.200.1/24") as net:
        with OurServer(net.server, arguments, interface="", environment=STAGING_ENV) as server:
            began = time.monotonic()
            _, ack = served(server, net)
            assert time.monotonic() - began >= 0.02
            assert str(ack.yiaddr) == "192.168.200.100" and ack.get("lease-time") == 7200
            assert str(ack.get("server-identifier")) == "192.168.200.1"
            # ExecReload.
            server.process.send_signal(signal.SIGHUP)
            wait_until("the reload", lambda: "configuration changed" in server.log)
            assert str(served(server, net)[1].yiaddr) == "192.168.200.100"
        # What the environment says is enough.
        with OurServer(net.server, (), interface="", environment=STAGING_ENV) as server:
            assert str(served(server, net)[1].yiaddr) == "192.168.200.100"


@pytest.mark.parametrize("how", ["flags", "file"])
def test_production(tmp_path: Path, how: str) -> None:
    """Section 4.3: systemd puts production.conf into the environment and fills in the flags."""
    of_file = dict(line.split("=", 1) for line in PRODUCTION_CONF.splitlines() if "=" in line)
    flags = {"listen": "DHCP_LISTEN_IP", "port": "DHCP_PORT", "start-ip": "DHCP_START_IP",
             "end-ip": "DHCP_END_IP", "gateway": "DHCP_GATEWAY", "dns1": "DHCP_DNS1",
             "dns2": "DHCP_DNS2", "lease-time": "DHCP_LEASE_TIME",
             "max-concurrent": "DHCP_MAX_CONCURRENT", "response-delay": "DHCP_RESPONSE_DELAY",
             "drop-rate": "DHCP_DROP_RATE"}
    arguments = [word for flag, name in flags.items() for word in (f"-{flag}", of_file[name])]
    arguments += [f"-relay={of_file['ENABLE_RELAY']}", f"-max-hops={of_file['MAX_HOPS']}"]
    environment = of_file
    if how == "file":
        file = tmp_path / "production.conf"
        file.write_text(PRODUCTION_CONF)
        arguments, environment = ["--config", str(file)], {}
    with two_namespaces(server_address="172.16.1.1/16") as net, \
            OurServer(net.server, arguments, interface="", environment=environment) as server:
        _, ack = served(server, net)
    assert str(ack.yiaddr) == "172.16.1.100" and ack.get("lease-time") == 86400
    assert [str(one) for one in ack.get("router")] == ["172.16.1.1"]
    assert [str(one) for one in ack.get("domain-name-server")] == ["172.16.1.10", "8.8.8.8"]
