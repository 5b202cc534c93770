"""dhcp-tester: the DHCPv4 client emulator and load generator."""
