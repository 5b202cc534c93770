"""Real DHCP servers, started in a namespace of tests.peers.net and stopped again.

The one thing to know: a server is ready when the kernel shows its sockets in that namespace
(`/proc/PID/net`), never after a pause. Each keeps its configuration, log and leases in a
temporary folder of its own, removed at the end; a failure carries the log's last lines.

    with two_namespaces() as net, Kea(net.server) as kea:
        ...
        kea.leases()                          # {"02:00:00:00:00:01": "10.16.0.16", ...}
"""

from __future__ import annotations

import csv
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.peers.net import INTERFACE, Namespace, stop, wait_until
from tests.peers.unpack import program

READY_S = 10.0
MEMORY = Path("/dev/shm")


@dataclass
class Server(ABC):
    """What every server is told. Addresses are dotted, `subnet` has its prefix length.

    start, end: the pool, both included. router, dns: options 3 and 6; "" leaves one out.
    disk: where to make its folder; None means in memory, the best case of a server that syncs
    every lease.
    """

    namespace: Namespace
    start: str = "10.16.0.16"
    end: str = "10.17.255.254"
    subnet: str = "10.16.0.0/12"
    router: str = "10.16.0.1"
    dns: str = "10.16.0.1"
    lease_time_s: int = 3600
    interface: str = INTERFACE
    disk: Path | None = None
    folder: Path = field(init=False)
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def raw_socket(self) -> bool:
        """Whether it opens an AF_PACKET socket too before it is ready."""
        return False

    @abstractmethod
    def _command(self) -> list[str]:
        """Write the configuration into `folder`; return the command that serves in front."""

    def leases(self) -> dict[str, str]:
        """{chaddr: address} of every binding the server keeps outside its own memory."""
        raise NotImplementedError(f"{type(self).__name__} keeps these leases to itself")

    @property
    def net(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.subnet)

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    def __enter__(self) -> Self:
        place = self.disk or (MEMORY if os.access(MEMORY, os.W_OK) else None)
        prefix = f"dnt-{type(self).__name__.lower()}-"
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
        try:
            self.process = self.namespace.popen(self._command(), log=self.folder / "log")
            wait_until(f"{type(self).__name__} to be ready", self._ready, READY_S)
        except BaseException as failed:
            failed.add_note(self._last_words())
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if value is not None:
            value.add_note(self._last_words())
        self.stop()

    def _last_words(self) -> str:
        log = self.folder / "log"
        lines = log.read_text(errors="replace").splitlines()[-15:] if log.exists() else []
        return "\n".join([f"{type(self).__name__} said last:", *lines])

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"{type(self).__name__} ended with {self.process.returncode}")
        pid = self.process.pid
        if not self.namespace.holds(pid):
            return False
        udp = Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]
        packet = Path(f"/proc/{pid}/net/packet").read_text().splitlines()[1:]
        served = any(int(line.split()[1].rpartition(":")[2], 16) == 67 for line in udp)
        return served and (bool(packet) or not self.raw_socket)

    def stop(self) -> None:
        """End the server and remove what it kept."""
        if hasattr(self, "process"):
            stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass
class Kea(Server):
    """ISC Kea. As configured here it is meant to be as fast as it can be.

    persist: keep the leases in a file too; without it they cannot be read. `threads=0` turns
    multi-threading off. `queue` is packet-queue-size, per thread. `socket_type` is `raw` or
    `udp`, which hears only what a relay sends to its own address. `extra` goes into the
    Dhcp4 object as it is.
    """

    persist: bool = False
    threads: int = 2
    queue: int = 64
    socket_type: str = "raw"
    log_severity: str = "WARN"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def raw_socket(self) -> bool:
        return self.socket_type == "raw"

    @property
    def _control(self) -> Path:
        return self.folder / "control"

    def _ready(self) -> bool:
        # Kea opens its sockets well before it reads them, and empties them in between.
        try:
            return super()._ready() and bool(self.command("list-commands"))
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def command(self, name: str) -> Any:
        """What Kea's control channel answers to `name`, such as `statistic-get-all`."""
        with socket.socket(socket.AF_UNIX) as channel:
            channel.settimeout(READY_S)
            channel.connect(str(self._control))
            channel.sendall(json.dumps({"command": name}).encode())
            answer = b"".join(iter(lambda: channel.recv(65536), b""))
        return json.loads(answer).get("arguments")

    def _command(self) -> list[str]:
        log = {"name": "kea-dhcp4", "severity": self.log_severity,
               "output_options": [{"output": "stdout"}]}
        options = [("routers", self.router), ("domain-name-servers", self.dns)]
        configuration = {
            "interfaces-config": {"interfaces": [self.interface],
                                  "dhcp-socket-type": self.socket_type},
            "lease-database": {"type": "memfile", "persist": self.persist, "lfc-interval": 0,
                               "name": str(self.folder / "leases.csv")},
            "multi-threading": {"enable-multi-threading": self.threads > 0,
                                "thread-pool-size": self.threads,
                                "packet-queue-size": self.queue},
            "valid-lifetime": self.lease_time_s,
            "option-data": [{"name": name, "data": data} for name, data in options if data],
            "control-socket": {"socket-type": "unix", "socket-name": str(self._control)},
            "subnet4": [{"id": 1, "subnet": self.subnet,
                         "pools": [{"pool": f"{self.start} - {self.end}"}]}],
            "loggers": [log],
        }
        place = self.folder / "kea.json"
        place.write_text(json.dumps({"Dhcp4": configuration | self.extra}, indent=1))
        # Later releases write nowhere else than in these folders, unless told.
        names = ("PIDFILE", "LOCKFILE", "DHCP_DATA", "LOG_FILE", "CONTROL_SOCKET")
        folders = {f"KEA_{name}_DIR": str(self.folder) for name in names}
        return program("kea-dhcp4").argv("-c", str(place), **folders)

    def leases(self) -> dict[str, str]:
        if not self.persist:
            return super().leases()
        holder: dict[str, str] = {}
        with (self.folder / "leases.csv").open() as file:
            for row in csv.DictReader(file):  # append-only: the last row of an address counts
                held = row["state"] == "0" and int(row["valid_lifetime"]) > 0
                holder[row["address"]] = row["hwaddr"] if held else ""
        return {mac: address for address, mac in holder.items() if mac}


@dataclass
class Dhcpd(Server):
    """ISC dhcpd, with its ping check off.

    Each lease costs it a walk through a list of the pool: 900 exchanges a second are nothing to
    a pool of 30,000 addresses, and one of 130,000 manages 10.
    """

    end: str = "10.16.31.255"

    @property
    def raw_socket(self) -> bool:
        return True

    def _command(self) -> list[str]:
        options = [("routers", self.router), ("domain-name-servers", self.dns)]
        told = "".join(f"option {name} {data};\n" for name, data in options if data)
        (self.folder / "dhcpd.conf").write_text(
            "authoritative;\nddns-update-style none;\nping-check false;\n"
            f"default-lease-time {self.lease_time_s};\nmax-lease-time {self.lease_time_s};\n"
            f"min-lease-time {self.lease_time_s};\n{told}"
            f"subnet {self.net.network_address} netmask {self.net.netmask} {{\n"
            f"  range {self.start} {self.end};\n}}\n")
        (self.folder / "leases").touch()
        return program("dhcpd").argv(
            "-4", "-f", "-d", "--no-pid", "-cf", str(self.folder / "dhcpd.conf"),
            "-lf", str(self.folder / "leases"), self.interface)

    def leases(self) -> dict[str, str]:
        holder: dict[str, str] = {}
        text = (self.folder / "leases").read_text()
        for address, body in re.findall(r"^lease (\S+) \{$(.*?)^\}$", text, re.M | re.S):
            mac = re.search(r"hardware ethernet (\S+);", body)  # append-only, as Kea's
            held = re.search(r"^  binding state active;$", body, re.M)
            holder[address] = mac[1] if mac and held else ""
        return {mac: address for address, mac in holder.items() if mac}


@dataclass
class Dnsmasq(Server):
    """dnsmasq, DHCP only.

    keep_leases: write the lease file, all of it at every change; without it the leases cannot
    be read. sequential: hand out addresses in order, not by a hash of chaddr.
    """

    keep_leases: bool = False
    sequential: bool = True
    max_leases: int = 100_000

    def _command(self) -> list[str]:
        leases = f"--dhcp-leasefile={self.folder / 'leases'}" if self.keep_leases \
            else "--leasefile-ro"
        options = [f"--dhcp-option={code},{data}".rstrip(",")
                   for code, data in ((3, self.router), (6, self.dns))]
        return program("dnsmasq").argv(
            "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--port=0",
            "--user=root", "--group=root", "--pid-file=", f"--interface={self.interface}",
            f"--dhcp-range={self.start},{self.end},{self.net.netmask},{self.lease_time_s}",
            "--dhcp-authoritative", "--no-ping", f"--dhcp-lease-max={self.max_leases}",
            *(["--dhcp-sequential-ip"] if self.sequential else []), *options, leases)

    def leases(self) -> dict[str, str]:
        if not self.keep_leases:
            return super().leases()
        rows = [row.split() for row in (self.folder / "leases").read_text().splitlines()]
        return {row[1]: row[2] for row in rows}


@dataclass
class Udhcpd(Server):
    """busybox udhcpd, with its ARP probe off. Walks its whole table: keep the pool small."""

    end: str = "10.16.0.250"

    def _command(self) -> list[str]:
        first, last = ipaddress.IPv4Address(self.start), ipaddress.IPv4Address(self.end)
        options = [("subnet", str(self.net.netmask)), ("lease", str(self.lease_time_s)),
                   ("router", self.router), ("dns", self.dns)]
        told = "".join(f"option {name} {data}\n" for name, data in options if data)
        (self.folder / "leases").touch()
        (self.folder / "udhcpd.conf").write_text(
            f"start {first}\nend {last}\nmax_leases {int(last) - int(first) + 1}\n"
            f"interface {self.interface}\nlease_file {self.folder / 'leases'}\n"
            f"pidfile {self.folder / 'pid'}\n{told}")
        return program("udhcpd").argv("-f", "-a", "0", str(self.folder / "udhcpd.conf"))

    def leases(self) -> dict[str, str]:
        """Asks for the file (SIGUSR1) first. Its format: busybox networking/udhcp/dhcpd.h."""
        place = self.folder / "leases"
        place.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        open_files = Path(f"/proc/{self.process.pid}/fd")
        wait_until("udhcpd to write its leases", lambda: place.exists() and not any(
            fd.is_symlink() and fd.readlink() == place for fd in open_files.iterdir()))
        rows = struct.iter_unpack(">I4s6s20sxx", place.read_bytes()[8:])
        return {mac.hex(":"): str(ipaddress.IPv4Address(address))
                for left_s, address, mac, _ in rows if left_s and any(mac)}
