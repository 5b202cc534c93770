"""systemd-networkd as a DHCP client, from Debian's own package, unpacked and never installed.

The one thing to know: it runs with a /run of its own and a /sys it cannot write, which is how it
tells that no udev is there to wait for. What it got is read from its lease file and its log.
"""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.peers.clients import Client, Event
from tests.peers.net import stop
from tests.peers.unpack import program

_START = ("mount -t tmpfs none /run && mkdir -p /run/systemd/network && "
          "mount -o remount,ro,bind /sys && cp \"$0\" /run/systemd/network/10-test.network && "
          "exec \"$@\"")
_NETWORK = """\
[Match]
Name={interface}
[Network]
DHCP=ipv4
LinkLocalAddressing=no
LLMNR=no
IPv6AcceptRA=no
[DHCPv4]
UseMTU=yes
SendRelease=yes
{config}
"""
_STATES = {"requesting": "bound", "renewing": "renew", "rebinding": "rebind",
           "init-reboot": "reboot"}


@dataclass
class Networkd(Client):
    """systemd-networkd. config: lines of the section DHCPv4.

    It has no script: its events are what its log says of its exchanges, and only the newest has
    details.
    """

    released_words = "DHCPv4 client: RELEASE"

    def _command(self) -> list[str]:
        place = self.folder / "test.network"
        place.write_text(_NETWORK.format(interface=self.interface, config=self.config))
        command = program("systemd-networkd").argv(
            SYSTEMD_LOG_LEVEL="debug", SYSTEMD_LOG_TARGET="console", SYSTEMD_LOG_COLOR="0")
        return ["sh", "-c", _START, str(place), *command]

    @property
    def lease(self) -> dict[str, str]:
        """Its lease file; names are systemd's own, such as ADDRESS, T1, DOMAIN_SEARCH_LIST."""
        if self.process is None:
            return {}
        folder = Path(f"/proc/{self.process.pid}/root/run/systemd/netif/leases")
        lines = [line for place in folder.glob("[0-9]*") for line in
                 place.read_text().splitlines() if "=" in line]
        return dict(line.split("=", 1) for line in lines)

    @property
    def events(self) -> list[Event]:
        found = []
        asked = ""
        for line in self.log.splitlines():
            if request := re.search(r"DHCPv4 client: REQUEST \((.*)\)", line):
                asked = _STATES[request[1]]
            elif line.endswith("DHCPv4 client: NAK"):
                found.append(Event("nak"))
            # The line that it writes once the lease file is there.
            elif line.endswith("DHCPv4 address and routes set."):
                found.append(Event(asked))
        lease = self.lease
        if found and lease:
            found[-1] = Event(found[-1].what, lease.get("ADDRESS", ""),
                              lease.get("SERVER_ADDRESS", ""), int(lease.get("LIFETIME", 0)),
                              lease.get("NETMASK", ""), lease.get("ROUTER", ""),
                              lease.get("DNS", ""), lease)
        return found

    def _ask_to_renew(self) -> None:
        """It renews by itself at T1; `networkctl renew` would need a message bus."""

    def _ask_to_release(self) -> None:
        if self.process:
            stop(self.process, signal.SIGTERM)
