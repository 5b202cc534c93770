"""The lab on a machine of its own: see `machine`."""
