"""dnsmasq as a relay and nothing else.

It leaves option 82 alone and cannot be told how many hops are too many: a job that asks for
either is refused. What a relay before it has sent it passes on, with one more hop and the giaddr
as it is, until it passed 21 relays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastpath.errors import UserError
from netlab import sockets
from netlab.adapter import RelayJob, Running
from netlab.servers.dnsmasq import ALONE, without
from netlab.servers.foreign import Foreign


class DnsmasqRelay(Foreign):
    """dnsmasq --dhcp-relay."""

    program = "dnsmasq"
    package = "dnsmasq-base"

    def prepare(self, job: RelayJob) -> None:
        """UserError for a policy; it has none."""
        policy = job.policy
        asked = {"max-hops": policy.max_hops,
                 "option82": policy.option82 if policy.option82 != "none" else "",
                 "circuit-id": policy.circuit_id, "remote-id": policy.remote_id}
        for name, value in asked.items():
            if value not in (None, ""):
                raise UserError(f"dnsmasq in {job.node} cannot have {name} {value!r}: it relays "
                                "everything as it is", "leave it out, or use dhcp-relay")

    def command(self, executable: Path, job: RelayJob) -> Sequence[str]:
        """Answers are heard on the uplink only."""
        ours = (*ALONE, "--conf-file=/dev/null",
                *(f"--dhcp-relay={port.address.ip},{target},{job.uplink.ifname}"
                  for port in job.downlinks for target in job.targets))
        return (str(executable), *without(ours, job.options), *job.options)

    def ready(self, job: RelayJob, running: Running) -> bool:
        return sockets.serves(running.pid)


RELAY = DnsmasqRelay()
