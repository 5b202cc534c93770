"""Real DHCP programs as peers: fetched privately, run in namespaces only, never installed."""
