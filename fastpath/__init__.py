"""Ground floor: DHCP on the wire, packet rings, clocks, histograms.

Read `wire`, then `frame`, then `ring`: that is the way of a packet. Nothing here knows
what a server or a client is, and nothing here imports another package of this house.
"""
