"""dhcp-relay in a router of tests.peers.relays, started and read as a user would.

    with relayed(1) as net, OurServer(net.server, ...), \\
            OurRelay(net.relays[0][0], arguments=["--option82", "append"]) as relay:
        ...
        assert relay.finish()["requests"]["relayed"]["discover"] == 1
"""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from tests.ours import START_S, program
from tests.peers.net import stop, wait_until
from tests.peers.relays import DOWN, UP, Relay

_COMPILE = "from fastpath.jit import warm_up; from relay.warm import touch; warm_up('relay', touch)"


@functools.cache
def compiled() -> None:
    """Have the kernels compiled: first use takes longer than a test waits for readiness."""
    subprocess.run([sys.executable, "-c", _COMPILE], check=True, timeout=START_S,
                   capture_output=True)


@dataclass
class OurRelay(Relay):
    """dhcp-relay between `down` and `up`. by_route: it finds the uplink itself.

    downlink, uplink: other interfaces than `down` and `up`.
    """

    by_route: bool = False
    downlink: str = DOWN
    uplink: str = UP

    def _command(self) -> list[str]:
        compiled()
        if "--user" in self.arguments:
            # He must be able to write the statistics.
            self.folder.chmod(0o777)
        up = [] if self.by_route else ["--uplink", self.uplink]
        return [*program("relay"), "--downlink", self.downlink, *up, "--server", self.server,
                "--stats-json", str(self.folder / "stats.json"), *self.arguments]

    def _serves(self) -> bool:
        return "relaying from" in self.log

    def said(self, text: str) -> bool:
        return text in self.log

    def finish(self) -> dict[str, Any]:
        """End the relay and return what it counted; it must have ended well."""
        code = stop(self.process)
        if code:
            raise RuntimeError(f"dhcp-relay ended with {code}:\n{self.log}")
        return dict(json.loads((self.folder / "stats.json").read_text()))

    def dump(self) -> dict[str, Any]:
        """What it has counted so far, by SIGUSR1."""
        place = self.folder / "stats.json"
        before = place.stat().st_mtime_ns if place.exists() else 0
        self.process.send_signal(signal.SIGUSR1)
        wait_until("statistics", lambda: place.exists() and place.stat().st_mtime_ns > before)
        return dict(json.loads(place.read_text()))
