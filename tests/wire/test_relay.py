"""dhcp-relay on real interfaces: ARP, several of them, the kernel beside it, and its life.

The one thing to know: no server runs here; what one would say is said by a `Talker`.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
import time
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from fastpath.errors import Malformed
from fastpath.message import Message
from fastpath.packet import Frame, parse_mac
from fastpath.wire import BOOTREPLY, MessageType
from tests.ours import Talker, entered
from tests.peers.net import INTERFACE, Namespace, stop, wait_until
from tests.peers.relays import DOWN, SERVER, UP, Relayed, relayed
from tests.relaying import OurRelay

pytestmark = pytest.mark.root
IP = IPv4Address
CLIENT = "02:00:00:00:00:07"
OUR_UP, OUR_DOWN = IP("10.16.0.2"), IP("10.20.0.1")


@pytest.fixture(scope="module")
def net() -> Iterator[Relayed]:
    with relayed(1) as net:
        relay = net.relays[0][0]
        relay.ip("link add name second index 300 type veth peer name eth1 index 301 netns "
                 f"{net.clients[0].name}\naddr add 10.21.0.1/24 dev second\n"
                 "link set dev second up\n")
        net.clients[0].ip("link set dev eth1 up\n")
        yield net


def running(net: Relayed, *words: str, server: str = SERVER, by_route: bool = False) -> OurRelay:
    return OurRelay(net.relays[0][0], server, words, by_route=by_route)


class Ear(Talker):
    """A Talker that hears what comes by."""

    def next(self, op: int, timeout_s: float = 2.0) -> Frame | None:
        """The next frame with a message of that op; None when none comes in time."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            with contextlib.suppress(Malformed, TimeoutError):
                frame = Frame.decode(self._socket.recv(2048), checksum_ready=False)
                if Message.decode(frame.payload).op == op:
                    return frame
        return None


def discover(xid: int = 7) -> bytes:
    return Message(xid=xid, chaddr=parse_mac(CLIENT), options={53: b"\1"}).encode()


def offer(request: bytes) -> bytes:
    asked = Message.decode(request)
    made = Message(op=BOOTREPLY, xid=asked.xid, chaddr=asked.chaddr, giaddr=asked.giaddr,
                   yiaddr=IP("10.20.0.50"), options={53: bytes([MessageType.OFFER])})
    if 82 in asked.options:
        made.options[82] = asked.options[82]
    return made.encode()


def say_arp(namespace: Namespace, sender: str, mac: bytes) -> None:
    """Announce an address on eth0 (RFC 5227 section 3)."""
    with entered(namespace), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((INTERFACE, 0x0806))
        sock.send(b"\xff" * 6 + mac + b"\x08\x06" + struct.pack(
            ">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, IP(sender).packed, bytes(6),
            IP(sender).packed))


def test_there_and_back_by_each_downlink_and_no_other(net: Relayed) -> None:
    with running(net, "--downlink", "second", "-a") as relay, \
            Ear(net.clients[0], "eth0") as first, Ear(net.clients[0], "eth1") as second, \
            Ear(net.server) as server:
        for here, there, giaddr in ((first, second, OUR_DOWN), (second, first, IP("10.21.0.1"))):
            here.send(discover(), src_mac=parse_mac(CLIENT))
            asked = server.next(1)
            assert asked and (asked.src_ip, asked.dst_ip) == (OUR_UP, IP(SERVER))
            assert asked.dst_mac == parse_mac(net.server.mac())
            assert Message.decode(asked.payload).giaddr == giaddr
            server.send(offer(asked.payload), src_mac=asked.dst_mac, dst_mac=asked.src_mac,
                        src_ip=IP(SERVER), dst_ip=giaddr, src_port=67, dst_port=67)
            answer = here.next(2)
            assert answer and (answer.src_ip, answer.dst_ip) == (giaddr, IP("10.20.0.50"))
            assert answer.dst_mac == parse_mac(CLIENT)
            assert 82 not in Message.decode(answer.payload).options
            assert there.next(2, 0.05) is None
        stats = relay.finish()
    assert stats["replies"]["relayed"]["offer"] == stats["option82"]["removed"] == 2
    assert [row["role"] for row in stats["interfaces"]] == ["downlink", "downlink", "uplink"]


def test_one_interface_may_be_both(net: Relayed) -> None:
    relay = running(net, by_route=True)
    relay.downlink = UP
    with relay, Ear(net.server) as server:
        server.send(discover(), src_mac=parse_mac(CLIENT))
        found = [server.next(1), server.next(1, 0.2)]
        relayed_one = next(each for each in found if each and each.dst_ip == IP(SERVER))
        assert Message.decode(relayed_one.payload).giaddr == OUR_UP
        stats = relay.finish()
    assert stats["interfaces"][0]["role"] == "both" and len(stats["interfaces"]) == 1


def test_a_server_that_comes_later_and_moves(net: Relayed) -> None:
    """Until it answers ARP nothing is sent, and that is counted."""
    with running(net, server="10.16.0.77") as relay, Ear(net.server) as server, \
            Talker(net.clients[0]) as client:
        client.send(discover(), src_mac=parse_mac(CLIENT))
        assert server.next(1, 0.1) is None
        wait_until("the count", lambda: relay.dump()["discarded"]["no_next_hop"] == 1)
        net.server.ip("addr add 10.16.0.77/24 dev eth0\n")
        try:
            wait_until("ARP", lambda: "10.16.0.77 on up is" in relay.log)
        finally:
            net.server.ip("addr del 10.16.0.77/24 dev eth0\n")
        for mac in (parse_mac(net.server.mac()), b"\x02moved"):
            say_arp(net.server, "10.16.0.77", mac)
            wait_until("the move", functools.partial(relay.said, mac.hex(":")))
            client.send(discover(), src_mac=parse_mac(CLIENT))
            found = server.next(1)
            assert found and found.dst_mac == mac
        stats = relay.finish()
    assert stats["servers"][0] == {"address": "10.16.0.77", "reachable": True, "sent": 2,
                                   "replies": 0, "no_next_hop": 1}


@pytest.mark.parametrize("address", ["255.255.255.255", "10.16.0.255"])
def test_servers_may_be_everybody(address: str, net: Relayed) -> None:
    with running(net, server=address), Ear(net.server) as server, \
            Talker(net.clients[0]) as client:
        client.send(discover(), src_mac=parse_mac(CLIENT))
        found = server.next(1)
    assert found and (found.dst_ip, found.dst_mac) == (IP(address), b"\xff" * 6)


def test_the_kernel_beside_it_refuses_nothing_and_forwards_the_rest(net: Relayed) -> None:
    """No "port unreachable" for what the ring has heard; other traffic passes."""
    client = net.clients[0]
    client.ip("addr add 10.20.0.9/24 dev eth0\nroute add default via 10.20.0.1\n")
    try:
        with running(net) as relay:
            with entered(client):
                asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                passing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with entered(net.server):
                echo = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            with asking, passing, echo:
                asking.connect(("10.20.0.1", 67))
                asking.send(discover())
                asking.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    asking.recv(100)
                echo.bind((SERVER, 5000))
                echo.settimeout(2)
                passing.sendto(b"hello", (SERVER, 5000))
                assert echo.recvfrom(100)[0] == b"hello"
            stats = relay.finish()
    finally:
        client.ip("addr flush dev eth0\n")
    assert stats["requests"]["relayed"]["discover"] == 1


def test_two_relays_do_not_share_an_interface(net: Relayed) -> None:
    with running(net):
        again = running(net)
        with pytest.raises(RuntimeError, match="ended with 1") as failed, again:
            pass
    assert "UDP port 67 on 'down' is in use" in str(failed.value.__notes__)


def test_as_an_ordinary_user_with_metrics(net: Relayed) -> None:
    namespace = net.relays[0][0]
    with running(net, "--user", "nobody", "--metrics", "9109") as relay, \
            Talker(net.clients[0]) as client, Ear(net.server) as server:
        client.send(discover(), src_mac=parse_mac(CLIENT))
        assert server.next(1)
        status = Path(f"/proc/{relay.process.pid}/status").read_text()
        assert "\nUid:\t65534\t65534" in status
        fetch = ("import urllib.request as r; print(r.urlopen('http://127.0.0.1:9109/metrics')"
                 ".read().decode())")

        def counted() -> bool:
            said = namespace.run(["python3", "-c", fetch]).stdout
            return ('dhcp_relay_relayed_total{direction="requests",type="discover"} 1' in said
                    and 'dhcp_relay_server_reachable{server="10.16.0.1"} 1' in said)

        wait_until("the count", counted)


def test_an_interface_that_goes_away_ends_it_with_one_line(net: Relayed) -> None:
    namespace = net.relays[0][0]
    namespace.ip("link add name gone type veth peer name far\nlink set dev far up\n"
                 "addr add 10.66.0.1/24 dev gone\nlink set dev gone up\n")
    with running(net, "--downlink", "gone") as relay:
        namespace.ip("link del gone\n")
        assert relay.process.wait(5) == 1
        said = relay.log
    assert "interface 'gone' went down or away" in said and "Traceback" not in said


def test_no_route_and_no_uplink_is_said(net: Relayed) -> None:
    relay = running(net, server="172.31.0.1", by_route=True)
    with pytest.raises(RuntimeError, match="ended with 1") as failed, relay:
        pass
    assert "no route" in str(failed.value.__notes__)
    mine = running(net, server="10.16.0.2", by_route=True)
    with pytest.raises(RuntimeError, match="ended with 2") as failed, mine:
        pass
    assert "address of this machine" in str(failed.value.__notes__)


def test_it_tells_systemd_when_it_is_ready(net: Relayed, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    place = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(place)
        told.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", place)
        with running(net):
            assert told.recv(100) == b"READY=1"


def test_nothing_remains(net: Relayed) -> None:
    """A relay that is killed leaves nothing that the next would stumble over."""
    with running(net) as relay:
        relay.process.kill()
        relay.process.wait()
    with running(net) as relay:
        assert stop(relay.process) == 0
    assert set(net.relays[0][0].links()) == {"lo", DOWN, UP, "second"}
