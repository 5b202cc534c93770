"""Socket filters in classic BPF: what reaches a ring at all.

A filter is a list of `(code, jump_true, jump_false, k)`, as in linux/filter.h; jumps count
instructions. Frames that it rejects cost us nothing and are not counted anywhere.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from fastpath import wire

Instruction = tuple[int, int, int, int]

SO_ATTACH_FILTER = 26
MAX_TAGS = 2
_LDH_ABS, _LDB_ABS, _LDH_IND, _LDB_IND, _LDX_MSH = 0x28, 0x30, 0x48, 0x50, 0xB1
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_ACCEPT, _REJECT = (_RET, 0, 0, 0xFFFFFFFF), (_RET, 0, 0, 0)
_ETH_P_ARP, _IP_PROTO_ICMP, _ECHO_REQUEST = 0x0806, 1, 8


def dhcp_filter(ports: tuple[int, ...], *, neighbours: bool = False,
                tags: int = MAX_TAGS) -> list[Instruction]:
    """Accept UDP over IPv4 to one of `ports`, behind at most `tags` VLAN tags in the frame.

    neighbours: accept ARP and ICMP echo requests too, for who answers them itself.
    Later fragments carry no port and no type and are rejected here; first fragments pass, so
    that the frame check can count them.
    """
    program = []
    other = [(_JEQ, 0, 1, _ETH_P_ARP), _ACCEPT, _REJECT] if neighbours else [_REJECT]
    for tag in range(tags + 1):
        last = tag == tags
        ethertype, l3 = 12 + tag * wire.VLAN_TAG, wire.ETH_HEADER + tag * wire.VLAN_TAG
        body = (_echo_requests(l3) if neighbours else []) + _datagrams(l3, ports)
        past = len(other) + len(body)
        # Not IPv4: a tag leads past `body` to what it hides, `other` decides on anything else.
        program += [
            (_LDH_ABS, 0, 0, ethertype),
            (_JEQ, len(other) + 2, 0, wire.ETH_P_IP),
            (_JEQ, 0 if last else past + 1, 0, wire.ETH_P_8021Q),
            (_JEQ, 0 if last else past, 0, wire.ETH_P_8021AD),
            *other,
            *body,
        ]
    return program


def _datagrams(l3: int, ports: tuple[int, ...]) -> list[Instruction]:
    """Accept UDP to one of `ports` in the IPv4 packet at `l3`, reject anything else."""
    return [
        (_LDB_ABS, 0, 0, l3 + 9),
        (_JEQ, 1, 0, wire.IP_PROTO_UDP),
        _REJECT,
        (_LDH_ABS, 0, 0, l3 + 6),
        (_JSET, 0, 1, 0x1FFF),
        _REJECT,
        (_LDX_MSH, 0, 0, l3),
        (_LDH_IND, 0, 0, l3 + 2),
        *((_JEQ, len(ports) - i, 0, port) for i, port in enumerate(ports)),
        _REJECT,
        _ACCEPT,
    ]


def _echo_requests(l3: int) -> list[Instruction]:
    """Decide on ICMP in the IPv4 packet at `l3`; any other protocol goes on behind this."""
    return [
        (_LDB_ABS, 0, 0, l3 + 9),
        (_JEQ, 0, 7, _IP_PROTO_ICMP),
        (_LDH_ABS, 0, 0, l3 + 6),
        (_JSET, 3, 0, 0x1FFF),
        (_LDX_MSH, 0, 0, l3),
        (_LDB_IND, 0, 0, l3),
        (_JEQ, 1, 0, _ECHO_REQUEST),
        _REJECT,
        _ACCEPT,
    ]


NOTHING: list[Instruction] = [_REJECT]


def attach(sock: socket.socket, program: list[Instruction]) -> None:
    """Attach `program` to `sock` (socket(7), SO_ATTACH_FILTER)."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
