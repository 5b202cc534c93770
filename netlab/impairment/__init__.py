"""Impairments of links: what is wanted (`arrange`), when (`schedule`), and done (`wire`, `loss`).

What one must know: a qdisc acts where a frame is sent and an XDP program where it arrives, so
each direction of a link is dealt with at one end of it, whichever node it was asked for.
"""
