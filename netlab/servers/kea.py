"""ISC Kea: multi-threaded, leases in memory and in an append-only file (memfile).

Where clients are on a segment of its own it needs AF_PACKET sockets; where all of them come by
relays a UDP socket hears the same with less work, so it gets that.

On Debian and Ubuntu AppArmor may confine kea-dhcp4 to /etc/kea, /var/lib/kea and /run/kea: it
then ends with "permission denied" (`aa-complain kea-dhcp4`). Kea 3 writes to no other folders
than those that KEA_*_DIR name; we name the node's own.
"""

from __future__ import annotations

import csv
import json
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastpath.errors import SystemRefused
from netlab import sockets, state
from netlab.adapter import Running, ServerJob
from netlab.servers.foreign import Foreign, by_network, put

_ANSWER_TIMEOUT_S = 2.0
_MAX_SOCKET_PATH = 107  # unix(7): sun_path, with its closing zero
_FOLDERS = ("PIDFILE", "LOCKFILE", "DHCP_DATA", "LOG_FILE")


class Kea(Foreign):
    """kea-dhcp4, ready when it answers on its control socket."""

    program = "kea-dhcp4"
    package = "kea-dhcp4-server"
    asks_version = "-v"

    def prepare(self, job: ServerJob) -> None:
        """The configuration. Kea 3 wants the folder of its control socket closed to others.

        SystemRefused where the node's directory has too long a name for a socket.
        """
        if len(bytes(_control(job))) > _MAX_SOCKET_PATH:
            raise SystemRefused(f"{_control(job)} is too long for a socket",
                                f"set {state.STATE_ENV} to a shorter directory")
        _control(job).parent.mkdir(mode=0o750, exist_ok=True)
        _control(job).unlink(missing_ok=True)
        _leases(job).unlink(missing_ok=True)
        _config(job).write_text(json.dumps({"Dhcp4": _document(job)}, indent=1) + "\n")

    def command(self, executable: Path, job: ServerJob) -> Sequence[str]:
        """A second `-c` of the user's wins."""
        return (str(executable), "-c", str(_config(job)), *job.options)

    def environment(self, job: ServerJob) -> Mapping[str, str]:
        return {**{f"KEA_{name}_DIR": str(job.directory) for name in _FOLDERS},
                "KEA_CONTROL_SOCKET_DIR": str(_control(job).parent)}

    def ready(self, job: ServerJob, running: Running) -> bool:
        """Its sockets are open well before it reads them, and it empties them in between: only
        its own word counts."""
        return sockets.serves(running.pid) and _answers(_control(job))

    def leases(self, job: ServerJob) -> dict[str, str] | None:
        """Its memfile: a row for every change, so the last row of an address counts.

        Columns by their names, since each release of Kea has more of them. state 0 is assigned;
        a lifetime of 0 is how a lease is deleted.
        """
        found: dict[str, str] = {}
        try:
            with _leases(job).open(newline="", errors="replace") as file:
                rows = csv.reader((line.replace("\0", "") for line in file), quoting=csv.QUOTE_NONE)
                header = next(rows, [])
                for cells in rows:
                    row = dict(zip(header, cells, strict=False))
                    if len(cells) < len(header):
                        continue  # torn: it was killed in the middle of a row
                    held = row.get("state") == "0" and row.get("valid_lifetime") != "0"
                    put(found, row.get("address", ""), row.get("hwaddr", "") if held else None)
        except FileNotFoundError:
            return None
        return found


def _document(job: ServerJob) -> dict[str, Any]:
    direct = any(scope.hops == 0 for scope in job.scopes)
    return {
        "interfaces-config": {"interfaces": [port.ifname for port in job.ports],
                              "dhcp-socket-type": "raw" if direct else "udp"},
        "lease-database": {"type": "memfile", "persist": True, "name": str(_leases(job)),
                           # Cleaning up would start a second process in the middle of a test.
                           "lfc-interval": 0},
        "multi-threading": {"enable-multi-threading": True},
        "control-socket": {"socket-type": "unix", "socket-name": str(_control(job))},
        "valid-lifetime": job.lease_time_s,
        "authoritative": True,
        "subnet4": [
            {"id": number, "subnet": str(network),
             "pools": [{"pool": f"{scope.first} - {scope.last}"} for scope in scopes],
             "option-data": [{"name": "routers", "data": str(scopes[0].router)}]
             if scopes[0].router else []}
            for number, (network, scopes) in enumerate(by_network(job.scopes), 1)],
        "loggers": [{"name": "kea-dhcp4", "severity": "WARN",
                     "output_options": [{"output": "stdout"}]}],
    }


def _answers(control: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as channel:
        channel.settimeout(_ANSWER_TIMEOUT_S)
        try:
            channel.connect(str(control))
            channel.sendall(b'{"command": "list-commands"}')
            return bool(channel.recv(1))
        except OSError:
            return False


def _config(job: ServerJob) -> Path:
    return job.directory / "kea-dhcp4.json"


def _leases(job: ServerJob) -> Path:
    return job.directory / "kea-leases4.csv"


def _control(job: ServerJob) -> Path:
    return job.directory / "kea" / "control.socket"


SERVER = Kea()
