"""802.1Q devices of the kernel against tags that our programs read and write themselves.

Who speaks on `eth0.7` sees no tag, who speaks on `eth0` writes it: both must be one segment to
each other, whatever is at the other end, and none to another VLAN.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest

from netlab.features import probe
from tests.ours import POOL, START_S, Finished, OurServer, OurTester, entered
from tests.peers.net import INTERFACE, Namespace, Net, two_namespaces
from tests.peers.servers import Dnsmasq

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("vlan" not in probe().has,
                       reason="needs 802.1Q devices (CONFIG_VLAN_8021Q)"),
]
CLIENTS = 50
SERVER = "10.16.0.1/12"
DEVICE = f"{INTERFACE}.7"
# linux/if_ether.h, packet(7); a protocol that nobody speaks here.
ETH_P_ALL, SOL_PACKET, PACKET_AUXDATA, EXPERIMENTAL = 0x0003, 263, 8, 0x88B5


def put_device(namespace: Namespace, name: str, tag: int, address: str = "", *,
               on: str = INTERFACE, protocol: str = "802.1Q") -> None:
    """An 802.1Q (or 802.1ad) device in the namespace, up."""
    given = f"addr add {address} dev {name}\n" if address else ""
    namespace.ip(f"link add link {on} name {name} type vlan protocol {protocol} id {tag}\n"
                 f"{given}link set {name} up\n")


@pytest.fixture
def net() -> Iterator[Net]:
    """Two namespaces with a cable; its ends have no address: those are of VLANs."""
    with two_namespaces(server_address="") as made:
        yield made


def ask(net: Net, interface: str, *words: str, clients: int = CLIENTS) -> Finished:
    with OurTester(net.client, ["--clients", str(clients), *words], interface) as run:
        return run.finish(START_S)


def bound(run: Finished) -> int:
    return int(run.document["clients"]["bound"])


@contextlib.contextmanager
def ours_on_the_device(net: Net) -> Iterator[None]:
    put_device(net.server, DEVICE, 7, SERVER)
    with OurServer(net.server, POOL, DEVICE) as server:
        yield
        assert server.dump()["sent"]["ack"] == CLIENTS


@contextlib.contextmanager
def ours_on_the_trunk(net: Net) -> Iterator[None]:
    net.server.ip(f"addr add {SERVER} dev {INTERFACE}\n")
    with OurServer(net.server, POOL, INTERFACE) as server:
        yield
        assert server.dump()["sent"]["ack"] == CLIENTS


@contextlib.contextmanager
def dnsmasq_on_the_device(net: Net) -> Iterator[None]:
    put_device(net.server, DEVICE, 7, SERVER)
    with Dnsmasq(net.server, interface=DEVICE, keep_leases=True, sequential=False) as server:
        yield
        assert len(server.leases()) == CLIENTS


Serving = Callable[[Net], AbstractContextManager[None]]
SERVERS: list[Any] = [
    ours_on_the_device, ours_on_the_trunk,
    pytest.param(dnsmasq_on_the_device, marks=pytest.mark.peers("dnsmasq"))]


@pytest.mark.parametrize("serving", SERVERS)
@pytest.mark.parametrize("tags", ["read by the kernel", "written by the tester"])
def test_one_segment_whoever_writes_the_tags(net: Net, serving: Serving, tags: str) -> None:
    interface, words = INTERFACE, ["--vlan", "7"]
    if tags == "read by the kernel":
        put_device(net.client, DEVICE, 7)
        interface, words = DEVICE, []
    with serving(net):
        run = ask(net, interface, *words)
        assert (run.code, bound(run)) == (0, CLIENTS), run.err
        assert run.document["messages"]["discover"]["retransmitted"] == 0


@pytest.mark.parametrize(("interface", "words"), [
    (INTERFACE, ()), (INTERFACE, ("--vlan", "8")), (INTERFACE, ("--vlan", "7.7")),
    (f"{INTERFACE}.8", ())])
def test_nobody_hears_another_vlan(net: Net, interface: str, words: tuple[str, ...]) -> None:
    put_device(net.client, DEVICE, 7)
    put_device(net.client, f"{INTERFACE}.8", 8)
    put_device(net.server, DEVICE, 7, SERVER)
    with OurServer(net.server, POOL, DEVICE) as server:
        run = ask(net, interface, *words, "--timeout", "300ms", clients=5)
        assert (run.code, bound(run)) == (3, 0)
        assert server.dump()["sent"]["offer"] == 0


@pytest.mark.parametrize("tags", ["read by the kernel", "written by the tester"])
def test_a_tag_in_a_tag(net: Net, tags: str) -> None:
    """QinQ: 802.1ad around 802.1Q (IEEE 802.1Q, clause 5.6)."""
    def stack(namespace: Namespace, address: str = "") -> None:
        put_device(namespace, "outer", 200, protocol="802.1ad")
        put_device(namespace, "inner", 7, address, on="outer")

    stack(net.server, SERVER)
    interface, words = INTERFACE, ["--vlan", "200.7"]
    if tags == "read by the kernel":
        stack(net.client)
        interface, words = "inner", []
    with OurServer(net.server, POOL, "inner"):
        run = ask(net, interface, *words)
        assert (run.code, bound(run)) == (0, CLIENTS), run.err


INNER = f"{DEVICE}.8"


def put_both(namespace: Namespace) -> None:
    put_device(namespace, DEVICE, 7)
    put_device(namespace, INNER, 8, on=DEVICE)


@pytest.mark.parametrize(("interface", "words", "serving"), [
    (DEVICE, ("--vlan", "8"), DEVICE), (DEVICE, ("--vlan", "8"), INTERFACE), (INNER, (), DEVICE),
    (INTERFACE, ("--vlan", "7.8", "--vlan-type", "802.1q"), INNER)])
def test_a_tag_inside_a_device(net: Net, interface: str, words: tuple[str, ...],
                               serving: str) -> None:
    """A server hears every tag on its interface, be that a device: inside `eth0.7` tag 8."""
    put_both(net.client)
    put_both(net.server)
    net.server.ip(f"addr add {SERVER} dev {serving}\n")
    with OurServer(net.server, POOL, serving) as server:
        run = ask(net, interface, *words)
        assert (run.code, bound(run)) == (0, CLIENTS), run.err
        assert server.dump()["sent"]["ack"] == CLIENTS


@pytest.mark.parametrize(("interface", "words"), [
    (DEVICE, ("--vlan", "9")), (INTERFACE, ("--vlan", "7.8"))])
def test_a_device_in_a_device_hears_its_own_stack_alone(net: Net, interface: str,
                                                        words: tuple[str, ...]) -> None:
    """Stacked tags of ours are 802.1ad around 802.1Q, and so none of `eth0.7`."""
    put_both(net.client)
    put_both(net.server)
    net.server.ip(f"addr add {SERVER} dev {INNER}\n")
    with OurServer(net.server, POOL, INNER) as server:
        run = ask(net, interface, *words, "--timeout", "300ms", clients=5)
        assert (run.code, bound(run)) == (3, 0)
        assert server.dump()["sent"]["offer"] == 0


def test_which_tag_the_kernel_takes_off(net: Net) -> None:
    """Always one, the outermost that is left where the frame is heard.

    A frame with tag 8, sent on `eth0.7`: the device adds 7 beside the octets
    (vlan_dev_hard_start_xmit, net/8021q/vlan_dev.c). On `eth0` a packet socket is told 7 and finds
    8 in the octets; before `eth0.7` hears it, 8 goes out of them as well (skb_vlan_untag in
    __netif_receive_skb_core).
    """
    put_both(net.client)
    put_both(net.server)
    with contextlib.ExitStack() as stack:
        with entered(net.server):
            ears = [stack.enter_context(open_ear(name)) for name in (INTERFACE, DEVICE)]
        with entered(net.client):
            mouth = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            mouth.bind((DEVICE, 0))
        mouth.send(b"\xff" * 6 + bytes.fromhex("020000000001" "81000008")
                   + struct.pack("!H60x", EXPERIMENTAL))
        assert [heard(ear) for ear in ears] == [((0x8100, 7), (0x8100, 8, EXPERIMENTAL)),
                                                ((0x8100, 8), (EXPERIMENTAL, 0, 0))]


def open_ear(interface: str) -> socket.socket:
    """A socket that hears all frames there, and what the kernel tells of each."""
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    ear.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
    ear.bind((interface, ETH_P_ALL))
    ear.settimeout(5)
    return ear


def heard(ear: socket.socket) -> tuple[tuple[int, int], tuple[int, ...]]:
    """(TPID, VLAN) that the kernel took off the frame of the test, and the octets after its
    addresses as three numbers."""
    while True:
        frame, told, _, _ = ear.recvmsg(2048, 256)
        if struct.pack("!H", EXPERIMENTAL) in frame[12:18] and frame[6:12].hex() == "020000000001":
            # struct tpacket_auxdata: status, len, snaplen, mac, net, vlan_tci, vlan_tpid.
            *_, tci, tpid = struct.unpack("=IIIHHHH", told[0][2])
            return (tpid, tci), struct.unpack_from("!HHH", frame, 12)


def test_a_server_of_two_vlans_gives_each_its_own(net: Net) -> None:
    """Two servers, one a device: what each client gets tells who heard it."""
    for tag, network in ((7, "10.16"), (8, "10.32")):
        put_device(net.server, f"{INTERFACE}.{tag}", tag, f"{network}.0.1/12")
    second = ("--start-ip", "10.33.0.0", "--end-ip", "10.47.255.254")
    with OurServer(net.server, POOL, DEVICE), \
            OurServer(net.server, second, f"{INTERFACE}.8"):
        run = ask(net, INTERFACE, "--vlan", "{7+index%2}")
        assert (run.code, bound(run)) == (0, CLIENTS), run.err
        servers = [row["server_id"] for row in run.clients]
        assert servers == ["10.16.0.1", "10.32.0.1"] * (CLIENTS // 2)
