"""ISC dhcrelay. It counts what it discards for nobody to see, so nothing is known of that.

`-c N` lets through what passed fewer than N relays; RFC 1542 section 4.1.1 discards what passed
more than max-hops, so N is one more than that. Without `-c` it is 10.

Its option 82 is not quite that of RFC 3046. `append` adds a second one behind another relay (keep
and replace leave one), and a client's own is not discarded but by `drop`. With any of them, every
option 82 is taken out of replies, a client's own too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastpath.errors import UserError
from netlab import sockets
from netlab.adapter import RelayJob, Running
from netlab.servers.foreign import Foreign

# dhcrelay(8). Without -a it leaves option 82 alone.
_OPTION82 = {"": (), "none": (), "append": ("-a", "-m", "append"), "keep": ("-a", "-m", "forward"),
             "replace": ("-a", "-m", "replace"), "drop": ("-a", "-m", "discard")}
_CIRCUIT_ID = "{ifname}"


class Dhcrelay(Foreign):
    """dhcrelay of ISC DHCP 4."""

    program = "dhcrelay"
    package = "isc-dhcp-relay"

    def prepare(self, job: RelayJob) -> None:
        """UserError for sub-options that it cannot be told."""
        policy = job.policy
        if policy.circuit_id not in ("", _CIRCUIT_ID):
            raise UserError(f"dhcrelay in {job.node} cannot have circuit-id {policy.circuit_id!r}: "
                            "it is always the interface's name",
                            f"leave it out, write {_CIRCUIT_ID}, or use dhcp-relay")
        if policy.remote_id:
            raise UserError(f"dhcrelay in {job.node} cannot have remote-id {policy.remote_id!r}: "
                            "it adds none", "leave it out, or use dhcp-relay")
        if policy.circuit_id and not _OPTION82.get(policy.option82, "?") \
                and "-a" not in job.options:
            raise UserError(f"dhcrelay in {job.node} adds no option 82, and circuit-id is a part "
                            "of it", "add --option82 append, or leave --circuit-id out")
        if policy.option82 not in _OPTION82:
            raise UserError(f"dhcrelay in {job.node} has no policy {policy.option82!r} for option "
                            "82", f"there is: {', '.join(name for name in _OPTION82 if name)}")

    def command(self, executable: Path, job: RelayJob) -> Sequence[str]:
        """The user's options go last but for the servers, which are no options."""
        policy = job.policy
        hops = () if policy.max_hops is None else ("-c", str(policy.max_hops + 1))
        # -U IFNAME is an uplink too; named twice, every frame would be heard twice.
        up = () if "-U" in job.options else ("-iu", job.uplink.ifname)
        return (str(executable), "-4", "-d", "--no-pid", *hops, *_OPTION82[policy.option82],
                *(word for port in job.downlinks for word in ("-id", port.ifname)), *up,
                *job.options, *map(str, job.targets))

    def ready(self, job: RelayJob, running: Running) -> bool:
        """A packet socket for each interface, and last the UDP socket that sends to servers."""
        return sockets.serves(running.pid, len(job.downlinks) + 1)


RELAY = Dhcrelay()
