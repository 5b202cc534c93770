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
_LDH_ABS, _LDB_ABS, _LDH_IND, _LDX_MSH = 0x28, 0x30, 0x48, 0xB1
_JEQ, _JSET, _RET = 0x15, 0x45, 0x06
_ACCEPT, _REJECT = (_RET, 0, 0, 0xFFFFFFFF), (_RET, 0, 0, 0)


def dhcp_filter(ports: tuple[int, ...]) -> list[Instruction]:
    """Accept UDP over IPv4 to one of `ports`, behind at most two VLAN tags in the frame.

    Later fragments carry no port and are rejected here; first fragments pass, so that the
    frame check can count them.
    """
    program = []
    for tags in range(MAX_TAGS + 1):
        last = tags == MAX_TAGS
        ethertype, l3 = 12 + tags * wire.VLAN_TAG, wire.ETH_HEADER + tags * wire.VLAN_TAG
        body: list[Instruction] = [
            (_LDB_ABS, 0, 0, l3 + 9),
            (_JEQ, 1, 0, wire.IP_PROTO_UDP),
            _REJECT,
            (_LDH_ABS, 0, 0, l3 + 6),
            (_JSET, 0, 1, 0x1FFF),
            _REJECT,
            (_LDX_MSH, 0, 0, l3),
            (_LDH_IND, 0, 0, l3 + 2),
        ]
        body += [(_JEQ, len(ports) - i, 0, port) for i, port in enumerate(ports)]
        body += [_REJECT, _ACCEPT]
        # Not IPv4: a tag leads past `body` to what it hides, anything else is rejected.
        head: list[Instruction] = [
            (_LDH_ABS, 0, 0, ethertype),
            (_JEQ, 3, 0, wire.ETH_P_IP),
            (_JEQ, 0 if last else len(body) + 2, 0, wire.ETH_P_8021Q),
            (_JEQ, 0 if last else len(body) + 1, 0, wire.ETH_P_8021AD),
            _REJECT,
        ]
        program += head + body
    return program


NOTHING: list[Instruction] = [_REJECT]


def attach(sock: socket.socket, program: list[Instruction]) -> None:
    """Attach `program` to `sock` (socket(7), SO_ATTACH_FILTER)."""
    code = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    memory = ctypes.create_string_buffer(code, len(code))
    fprog = struct.pack("@HP", len(program), ctypes.addressof(memory))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, fprog)
