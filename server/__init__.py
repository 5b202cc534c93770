"""dhcp-server: the reference DHCPv4 server."""
