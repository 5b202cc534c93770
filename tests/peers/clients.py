"""Real DHCP clients in a namespace of tests.peers.net, and perfdhcp.

The one thing to know: each client runs in front with a script of ours instead of Debian's, which
sets the address inside the namespace and records the environment it was called with. What a
client says happened is read from there; nothing under /etc, /run or /var/lib is touched.

    with two_namespaces() as net, Kea(net.server), Udhcpc(net.client) as client:
        assert client.get().address == "10.16.0.16"
        client.renew()
        client.release()
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from tests.peers.net import INTERFACE, Namespace, stop, wait_until
from tests.peers.unpack import program

# $1 is udhcpc's event, $reason that of the others. dhcpcd sets the address itself. A record
# appears under its name complete: tests wait for it.
_SCRIPT = """\
#!/bin/sh
{probe}
case "$1$reason" in
bound|renew) ip -4 addr replace "$ip/$mask" dev "$interface" ;;
BOUND|RENEW|REBIND|REBOOT)
    [ -n "$if_up" ] || ip -4 addr replace "$new_ip_address/$new_subnet_mask" dev "$interface" ;;
deconfig|EXPIRE|FAIL|RELEASE|STOP) ip -4 addr flush dev "$interface" ;;
esac
record=$(date +%s%N)
event=$1 env -0 > "{folder}/.$record"
mv "{folder}/.$record" "{folder}/$record.event"
"""
# An address in use makes the script end with 1, which dhclient answers with a DECLINE.
_ARPING = """\
case "$reason" in
BOUND) {arping} -q -D -c 1 -w 1 -I "$interface" "$new_ip_address" || exit 1 ;;
esac"""
# dhcpcd cannot be told to keep its state elsewhere; these mounts are seen by it alone.
_PRIVATE_STATE = ("mount -t tmpfs none /run && mount -t tmpfs none /var/lib && "
                  "mkdir /run/dhcpcd /var/lib/dhcpcd && mount --bind \"$0\" /var/lib/dhcpcd && "
                  "exec \"$@\"")
_LEASED = frozenset({"bound", "renew", "rebind", "reboot"})


@dataclass(frozen=True)
class Event:
    """One thing a client told its script.

    what: `bound`, `renew`, `rebind`, `reboot`, `nak`, `expire`, `deconfig`, ... in lower case.
    env: every variable it gave, by the client's own names.
    """

    what: str
    address: str = ""
    server_id: str = ""
    lease_time_s: int = 0
    netmask: str = ""
    router: str = ""
    dns: str = ""
    env: dict[str, str] = field(default_factory=dict, repr=False)


# Our name, then those of dhclient and dhcpcd, then udhcpc's.
_NAMES = (("address", "new_ip_address", "ip"),
          ("server_id", "new_dhcp_server_identifier", "serverid"),
          ("lease_time_s", "new_dhcp_lease_time", "lease"),
          ("netmask", "new_subnet_mask", "subnet"),
          ("router", "new_routers", "router"),
          ("dns", "new_domain_name_servers", "dns"))


def _event(record: bytes) -> Event:
    env = dict(pair.split("=", 1) for pair in record.decode(errors="replace").split("\0") if pair)
    known: dict[str, Any] = {ours: env.get(isc, env.get(busybox, ""))
                             for ours, isc, busybox in _NAMES}
    known["lease_time_s"] = int(known["lease_time_s"] or 0)
    return Event(what=(env["event"] or env.get("reason", "")).lower(), env=env, **known)


@dataclass
class Client(ABC):
    """A client on one interface; started by `get`, ended with the `with` block at the latest.

    arguments: further command-line words. config: further lines of its configuration file.
    """

    namespace: Namespace
    interface: str = INTERFACE
    arguments: Sequence[str] = ()
    config: str = ""
    folder: Path = field(init=False)
    process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    released_words: ClassVar[str]  # in its log once a RELEASE was sent

    @abstractmethod
    def _command(self) -> list[str]:
        """The command that stays in front, its files in `folder`."""

    def __enter__(self) -> Self:
        self.folder = Path(tempfile.mkdtemp(prefix=f"dnt-{type(self).__name__.lower()}-"))
        self._script.write_text(_SCRIPT.format(folder=self.folder, probe=self._probe()))
        self._script.chmod(0o755)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        if value is not None:
            value.add_note(f"{type(self).__name__} said:\n{self.log}")
        if self.process:
            stop(self.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _probe(self) -> str:
        """What the script does before anything else."""
        return ""

    @property
    def _script(self) -> Path:
        return self.folder / "script"

    @property
    def log(self) -> str:
        place = self.folder / "log"
        return place.read_text(errors="replace") if place.exists() else ""

    @property
    def events(self) -> list[Event]:
        """Everything told so far, oldest first."""
        return [_event(place.read_bytes()) for place in sorted(self.folder.glob("*.event"))]

    @property
    def leased(self) -> list[Event]:
        """Of `events` those that gave or prolonged a lease."""
        return [event for event in self.events if event.what in _LEASED]

    def _next_lease(self, known: int, timeout_s: float) -> Event:
        def come() -> bool:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"{type(self).__name__} is not running:\n{self.log}")
            return len(self.leased) > known

        wait_until(f"a lease by {type(self).__name__}", come, timeout_s)
        return self.leased[known]

    def start(self) -> None:
        """Start the client and wait for nothing."""
        self.process = self.namespace.popen(self._command(), log=self.folder / "log")

    def get(self, timeout_s: float = 10.0) -> Event:
        """Start the client; returns its `bound`. Raises TimeoutError where none comes."""
        known = len(self.leased)
        self.start()
        return self._next_lease(known, timeout_s)

    def next(self, *what: str, after: int, timeout_s: float = 10.0) -> Event:
        """The first event of these names since number `after`; waits for it."""
        def found() -> list[Event]:
            return [event for event in self.events[after:] if event.what in what]

        wait_until(f"{type(self).__name__} to say {' or '.join(what)}", lambda: bool(found()),
                   timeout_s)
        return found()[0]

    def leave(self) -> None:
        """End the client without a word to the server; `get` starts it again from its files."""
        if self.process:
            stop(self.process)

    def renew(self, timeout_s: float = 10.0) -> Event:
        """Have the client renew with its server (unicast REQUEST); returns its `renew`."""
        known = len(self.leased)
        self._ask_to_renew()
        return self._next_lease(known, timeout_s)

    def release(self, timeout_s: float = 5.0) -> None:
        """Have the client release its lease; returns once it said that it sent the message."""
        words = self.released_words
        known = self.log.count(words)
        self._ask_to_release()
        wait_until(f"{type(self).__name__} to say «{words}»",
                   lambda: self.log.count(words) > known, timeout_s)

    def _ask_to_renew(self) -> None:
        self._signal(signal.SIGUSR1)

    def _ask_to_release(self) -> None:
        self._signal(signal.SIGUSR2)

    def _signal(self, number: int) -> None:
        if self.process is None:
            raise RuntimeError(f"{type(self).__name__} was not started: call get() first")
        self.process.send_signal(number)


class Udhcpc(Client):
    """busybox udhcpc; tries once a second.

    It renews from a connected socket that it closes at once, and loses an answer that comes
    before: a fast server sees a second REQUEST a second later.
    """

    released_words = "entering released state"

    def _command(self) -> list[str]:
        return program("udhcpc").argv("-f", "-i", self.interface, "-s", str(self._script),
                                      "-t", "5", "-T", "1", "-A", "1", *self.arguments)



@dataclass
class Dhclient(Client):
    """ISC dhclient. It renews on its own only, so `renew` waits for the client's T1.

    renew_after_s: T1 counted from each lease, whatever the server says; None believes the server.
    probe: look for a new address by ARP first, and decline it where somebody answers.
    """

    renew_after_s: int | None = None
    probe: bool = False
    released_words = "DHCPRELEASE of"

    def _probe(self) -> str:
        return _ARPING.format(arping=shlex.join(program("arping").argv())) if self.probe else ""

    def _files(self) -> list[str]:
        t1 = f"supersede dhcp-renewal-time {self.renew_after_s};\n" if self.renew_after_s else ""
        place = self.folder / "dhclient.conf"
        place.write_text(f"timeout 10;\nretry 1;\ninitial-interval 1;\n{t1}{self.config}")
        return ["-4", "-v", "-cf", str(place), "-lf", str(self.folder / "leases"),
                "-pf", str(self.folder / "pid"), "-sf", str(self._script)]

    def _command(self) -> list[str]:
        return program("dhclient").argv(*self._files(), "-d", "--decline-wait-time", "1",
                                        *self.arguments, self.interface)

    def leave(self) -> None:
        # It calls the script before all is written down.
        wait_until("dhclient to be done", lambda: self.log.count("bound to") >= len(self.leased))
        super().leave()

    def _ask_to_renew(self) -> None:
        pass

    def _ask_to_release(self) -> None:
        if self.process:
            stop(self.process)  # the lease file says what to release
        self.namespace.popen(program("dhclient").argv(*self._files(), "-r", self.interface),
                             log=self.folder / "log").wait(10)


@dataclass
class Dhcpcd(Client):
    """dhcpcd. It takes no lease under 20 s: a shorter one it treats as one of 20 s.

    probe: look for the address by ARP first, about 5 s, as it does by default.
    """

    probe: bool = False
    released_words = "sending RELEASE"

    def _command(self) -> list[str]:
        place = self.folder / "dhcpcd.conf"
        place.write_text(f"nodelay\nnoipv4ll\n{'' if self.probe else 'noarp'}\n{self.config}")
        command = program("dhcpcd").argv(
            "-4", "-B", "-d", "--nodev", "-f", str(place), "-c", str(self._script),
            *self.arguments, self.interface)
        state = self.folder / "state"
        state.mkdir(exist_ok=True)
        return ["sh", "-c", _PRIVATE_STATE, str(state), *command]

    def rebind(self, timeout_s: float = 10.0) -> Event:
        """Have the client confirm its lease by broadcast (`dhcpcd -n`), a `renew` in its words."""
        known = len(self.leased)
        self._signal(signal.SIGHUP)
        return self._next_lease(known, timeout_s)

    def _ask_to_release(self) -> None:
        self._signal(signal.SIGALRM)


@dataclass(frozen=True)
class Exchange:
    """What perfdhcp says of one leg. Delays in milliseconds; 0 where nothing was received."""

    sent: int
    received: int
    drops: int
    orphans: int
    rejected: int
    non_unique: int
    min_ms: float
    avg_ms: float
    max_ms: float
    stddev_ms: float


@dataclass(frozen=True)
class PerfReport:
    """perfdhcp's report.

    rate_per_s: as printed. Its clock runs on through the exit wait (-W), so that a short run
    looks slower than it was; `completed_per_s` divides by the period asked for (-p) instead,
    and is 0 where there was none.
    renewal, release: zeros where -f and -F asked for none. What answers a renewal is an orphan
    of `request_ack` too, where perfdhcp looks for its request first.
    code: 0, or 3 where some exchange was not completed: releases never are.
    """

    rate_per_s: float
    completed_per_s: float
    malformed: int
    discover_offer: Exchange
    request_ack: Exchange
    renewal: Exchange
    release: Exchange
    code: int
    output: str = field(repr=False)


def _number(text: str, label: str) -> float:
    found = re.search(rf"^{label}: (-?[\d.]+)", text, re.M)
    return float(found[1]) if found else 0.0


def _exchange(output: str, name: str) -> Exchange:
    found = re.search(rf"\*\*\*Statistics for: {re.escape(name)}\*\*\*\n"
                      r"(.*?)(?:\n\*\*\*|\Z)", output, re.S)
    text = found[1] if found else ""
    counts = ("sent packets", "received packets", "drops", "orphans", "rejected leases",
              "non unique addresses")
    delays = ("min delay", "avg delay", "max delay", "std deviation")
    return Exchange(*(int(_number(text, label)) for label in counts),
                    *(_number(text, label) for label in delays))


def perfdhcp(namespace: Namespace, arguments: Sequence[str], interface: str = INTERFACE,
             exit_wait_ms: int = 500, timeout_s: float = 60.0) -> PerfReport:
    """Run perfdhcp to its end, broadcasting on `interface`, which must have an address.

    arguments: rate and bounds, such as `["-r", "1000", "-R", "100000", "-p", "5"]`; one of -p
    (seconds) and -n (exchanges) must be there, for it would never end otherwise. It speaks as a
    relay: the server sees giaddr set to the interface's address. Where `arguments` name a local
    interface or address (-l), they must end with the server's address, and nothing is broadcast.
    Raises RuntimeError where perfdhcp itself failed.
    """
    if not {"-p", "-n"} & set(arguments):
        raise ValueError("perfdhcp: one of -p and -n must bound the run")
    target = [] if "-l" in arguments else ["-B", "-l", interface, "all"]
    # The first options: a server's address must come last.
    command = program("perfdhcp").argv("-4", "-W", str(exit_wait_ms * 1000), *arguments, *target)
    done = namespace.run(command, timeout_s=timeout_s, check=False)
    if done.returncode not in (0, 3) or "***Rate statistics***" not in done.stdout:
        raise RuntimeError(f"perfdhcp ended with {done.returncode}: "
                           f"{(done.stderr or done.stdout).strip()}")
    acks = _exchange(done.stdout, "REQUEST-ACK")
    words = list(arguments)
    period_s = float(words[words.index("-p") + 1]) if "-p" in words else 0.0
    return PerfReport(_number(done.stdout, "Rate"), acks.received / period_s if period_s else 0.0,
                      int(_number(done.stdout, "Malformed packets")),
                      _exchange(done.stdout, "DISCOVER-OFFER"), acks,
                      _exchange(done.stdout, "REQUEST-ACK (renewal)"),
                      _exchange(done.stdout, "RELEASE"), done.returncode, done.stdout)
