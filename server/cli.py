"""The command line of dhcp-server."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import NoReturn

import click

from fastpath.cli import ADDRESS, DURATION, Command, run


@click.command(cls=Command)
@click.option("--interface", "-i", metavar="NAME", envvar="DHCP_INTERFACE",
              help="Interface to serve on; default: the one that has --listen, else the only one.")
@click.option("--listen", type=ADDRESS, envvar=["DHCP_LISTEN_IP", "DHCP_SERVER_IP"],
              help="Our address, the server identifier; default: the interface's first.")
@click.option("--port", type=click.IntRange(1, 65534), default=67, show_default=True,
              envvar="DHCP_PORT", help="UDP port; clients are answered on the next one.")
@click.option("--start-ip", type=ADDRESS, envvar=["DHCP_START_IP", "DHCP_POOL_START"],
              help="First address of the pool; default: the interface's whole prefix.")
@click.option("--end-ip", type=ADDRESS, envvar=["DHCP_END_IP", "DHCP_POOL_END"],
              help="Last address of the pool.")
@click.option("--netmask", type=ADDRESS, envvar="DHCP_NETMASK",
              help="Default: the interface's own where the pool lies inside it, else the "
                   "smallest that holds pool, gateway and server.")
@click.option("--gateway", type=ADDRESS, envvar="DHCP_GATEWAY", help="Router given to clients.")
@click.option("--dns1", type=ADDRESS, envvar="DHCP_DNS1", help="First name server.")
@click.option("--dns2", type=ADDRESS, envvar="DHCP_DNS2", help="Second name server.")
@click.option("--lease-time", type=DURATION, default="24h", show_default=True,
              envvar="DHCP_LEASE_TIME", help="How long a lease lasts.")
@click.option("--offer-hold", type=DURATION, default="30s", show_default=True,
              help="How long an offered address waits for its client.")
@click.option("--decline-hold", type=DURATION, default="10m", show_default=True,
              help="How long a declined address is given to nobody.")
@click.option("--authoritative/--no-authoritative", default=True, show_default=True,
              help="Refuse (NAK) addresses on this subnet that we did not give.")
@click.option("--ring-slots", type=click.IntRange(64, 1 << 17), default=4096, show_default=True,
              help="Frames that a ring holds; a power of two.")
@click.option("--stats-json", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write all counts here when the server ends.")
@click.option("--verbose", is_flag=True, help="Say what was asked and answered (bounded).")
@click.option("--live", is_flag=True, help="Show a live panel.")
@click.version_option(package_name="dhcp-netlab", prog_name="dhcp-server")
def main_command(
    interface: str | None, listen: IPv4Address | None, port: int, start_ip: IPv4Address | None,
    end_ip: IPv4Address | None, netmask: IPv4Address | None, gateway: IPv4Address | None,
    dns1: IPv4Address | None, dns2: IPv4Address | None, lease_time: float, offer_hold: float,
    decline_hold: float, authoritative: bool, ring_slots: int, stats_json: Path | None,
    verbose: bool, live: bool,
) -> int:
    """Serve DHCPv4 on one interface, in the foreground.

    Runs until Ctrl-C or SIGTERM, then says what it did. Every option may be written in Go
    form too: -start-ip 10.0.0.10, -live, -lease-time=24h.
    """
    from fastpath.interface import choose
    from server.app import Server
    from server.config import ServerConfig

    _check_times(lease_time, offer_hold, decline_hold)
    if ring_slots & (ring_slots - 1):
        raise click.BadParameter(f"{ring_slots} is not a power of two", param_hint="--ring-slots")
    config = ServerConfig(
        interface=interface or choose(listen), start=start_ip, end=end_ip, port=port,
        listen=None if listen == IPv4Address(0) else listen, netmask=netmask, gateway=gateway,
        dns=tuple(a for a in (dns1, dns2) if a), lease_time_s=round(lease_time),
        offer_hold_s=max(1, round(offer_hold)), decline_hold_s=max(1, round(decline_hold)),
        authoritative=authoritative, ring_slots=ring_slots)
    return Server(config, verbose=verbose, live=live, stats_file=stats_json).run()


def _check_times(lease_time: float, *holds: float) -> None:
    if not 1 <= lease_time <= 0xFFFFFFFF:
        raise click.BadParameter("must be from 1s to 4294967295s (which means for ever)",
                                 param_hint="--lease-time")
    if any(not 0 <= hold <= 86400 * 365 for hold in holds):
        raise click.BadParameter("must be from 1s to one year",
                                 param_hint="--offer-hold / --decline-hold")


def main() -> NoReturn:
    run(main_command, "dhcp-server")


if __name__ == "__main__":
    main()
