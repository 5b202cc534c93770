"""dhcp-relay: one relay hop between clients and DHCP servers (RFC 1542, RFC 3046)."""
