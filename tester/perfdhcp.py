"""perfdhcp's own command line, in the words of dhcp-tester (`--perfdhcp LINE`).

The one thing to know: what perfdhcp 2.2 of Kea refuses is refused here too, and what it sends
was read from captures, not from its manual.
"""

from __future__ import annotations

import getopt
import shlex
import socket
from pathlib import PurePath
from typing import Any

from fastpath.document import shown
from fastpath.errors import UserError
from tester.perfdhcp_options import BROADCAST, LONGEST, ROWS, Row

# What its own messages carry: it asks for these, says who it is by its hardware address, and
# nothing else.
_REQUESTED = "011c02030f060c"
_SAYS = (("--client-id", "hex:01{mac}"), ("--request-options", ""), ("--max-message-size", 0))
_MAC_BASE = "00:0c:01:02:03:04"
_DROP_TIME_S = 1.0
# Its own offsets into templates where none are given. Its -O would be 35, past the end of
# chaddr, where no template has it.
_XID_AT, _MAC_AT, _SECS_AT, _SERVER_AT, _ADDRESS_AT = 4, 33, 8, 54, 240
# Options that it writes itself, and then refuses to write twice.
_WRITTEN = (50, 53, 54, 61)
_REQUEST_LIST = 55
_BY_NAME = {row.name: row for row in ROWS if row.name != "server"}

Given = dict[str, list[Any]]
# Our options with their values, None for a switch.
Said = list[tuple[str, object]]


def _refused(what: str, remedy: str = "") -> UserError:
    return UserError(f"--perfdhcp: {what}", remedy)


def _take(given: Given, row: Row, text: str) -> None:
    try:
        value = row.kind[0](text) if row.kind else text
    except ValueError:
        assert row.kind is not None
        raise _refused(f"{row.name} wants {row.kind[1]}, not {shown(text)}") from None
    if row.name == "-o" and "-4" not in given:
        raise _refused("-o is for DHCPv4 or DHCPv6", "say -4 before it")
    values = given.setdefault(row.name, [])
    values.append(value)
    if len(values) > row.times:
        raise _refused(f"{row.name} comes more than {_times(row.times)}")


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def _parse(words: list[str]) -> tuple[Given, list[str]]:
    """Options and arguments, taken apart as getopt_long does."""
    letters = "".join(row.name[1] + ":" * bool(row.value) for row in _BY_NAME.values()
                      if row.name[:2] != "--")
    try:
        found, arguments = getopt.gnu_getopt(words, letters, ["scenario="])
    except getopt.GetoptError as error:
        what = "wants a value" if "requires" in error.msg else "is none of perfdhcp"
        raise _refused(f"option {shown(error.opt)} {what}") from None
    given: Given = {}
    for name, text in found:
        if name in ("-h", "-v"):
            return {name: [""]}, []
        if _BY_NAME[name].ours == "refused":
            raise _refused(f"{name} is for DHCPv6", "DHCPv4 is what dhcp-tester speaks")
        _take(given, _BY_NAME[name], text)
    return given, arguments


def _check(given: Given) -> None:
    """Raise UserError for what perfdhcp does not take together."""
    def times(name: str) -> int:
        return len(given.get(name, []))

    if "-i" in given:
        for name in ("-1", "-E", "-S", "-I", "-f", "-F"):
            if name in given:
                raise _refused(f"{name} does not go with -i", "there are no REQUESTs then")
        for name in ("-n", "-d", "-D", "-T", "-X", "-O"):
            if times(name) > 1:
                raise _refused(f"a second {name} does not go with -i", "it is for REQUESTs")
    if len({sign for sign, _ in given.get("-D", [])}) > 1:
        raise _refused("-D as a number and as a share", "give one of them")
    renewed, released = (given.get(name, [0])[-1] for name in ("-f", "-F"))
    if renewed + released > given.get("-r", [0])[-1]:
        raise _refused("-f and -F need -r, which may not be less than both together")
    for name in ("-X", "-O"):
        if times(name) > times("-T"):
            raise _refused(f"{name} is an offset into a template", "name its file with -T")
    for name in ("-E", "-S", "-I"):
        if name in given and times("-T") < 2:
            raise _refused(f"{name} is an offset into a second template",
                           "name two files, each with -T")
    if "-M" in given and "-b" in given:
        raise _refused("-b does not go with -M", "the list has all addresses")
    if ("-y" in given) != ("-Y" in given):
        raise _refused("-y and -Y only go together")
    if _avalanche(given) and given.get("-R", [0])[-1] == 0:
        raise _refused("--scenario avalanche needs -R", "say how many clients there are")
    codes = [code for code, _ in given.get("-o", [])]
    for code in codes:
        if code in _WRITTEN or codes.count(code) > 1:
            raise _refused(f"option {code} would come twice", "leave out -o for it")
    if codes and times("-T") > 1:
        raise _refused("-o cannot add to a template", "write the option into its file")
    if "-J" in given and given.get("-L", [0])[-1]:
        raise _refused("-L does not go with -J here", "relay agents speak from the server's port")


def _avalanche(given: Given) -> bool:
    return bool(given.get("--scenario", ["basic"])[-1] == "avalanche")


def _interface(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except (OSError, ValueError):
        return False
    return True


def _where(given: Given, arguments: list[str]) -> Said:
    """Where it speaks from, and to whom: always as a relay agent."""
    from tester.place import resolved

    if len(arguments) > 1:
        raise _refused(f"two servers: {shown(arguments[0])} and {shown(arguments[1])}")
    local = given.get("-l", [""])[-1]
    name = local if local and _interface(local) else ""
    server = arguments[0] if arguments else ""
    if server == "all" or (not server and name):
        server = BROADCAST
    if not server:
        raise _refused("no server", "end with its address, or name an interface with -l")
    if server == BROADCAST and not local:
        raise _refused("the server `all` is everybody on an interface", "name it with -l")
    said: Said = [("--server", server)]
    if local and not name:
        address = resolved(local)
        if "-J" in given:
            from fastpath.interface import choose

            name = choose(address)
        else:
            said.append(("--local-address", address))
    if name:
        said.append(("--interface", name))
    port, local_port = (given.get(option, [0])[-1] for option in ("-N", "-L"))
    if port:
        said.append(("--port", port))
    if "-J" in given:
        said.append(("--relay", f"@{given['-J'][-1]}"))
        if server == BROADCAST:
            said.append(("--server-mac", "ff:ff:ff:ff:ff:ff"))
        return said
    said.append(("--relay", "self"))
    if local_port or port:
        said.append(("--local-port", local_port or 67))
    return said


def _load(given: Given) -> Said:
    clients = max(given.get("-R", [1])[-1], 1)
    said: Said = [] if "-M" in given else [("--clients", clients)]
    if "-i" in given:
        said.append(("--discover-only", None))
    if _avalanche(given):
        return [*said, ("--avalanche", None), ("--backoff", "1s..64s")]
    said.append(("--exchanges", min(given.get("-n", [0]))))
    if "-p" in given or "-n" not in given:
        said.append(("--duration", given.get("-p", [LONGEST])[-1]))
    said += [(option, given[name][-1]) for name, option in (
        ("-r", "--rate"), ("-f", "--renew-rate"), ("-F", "--release-rate")) if name in given]
    if preload := given.get("-P", [0])[-1]:
        said.append(("--preload", preload if "-M" in given else min(preload, clients)))
    if "-D" in given:
        sign, most = min(given["-D"])
        said.append(("--max-drop", f"{most:g}%" if sign else most - 1))
    said.append(("--timeout", f"{max(given.get('-d', [_DROP_TIME_S])):.12g}"))
    if wait_us := given.get("-W", [0])[-1]:
        said.append(("--drain", f"{wait_us / 1e6:.12g}"))
    if "-y" in given:
        said += [("--aging-after", given["-Y"][-1]), ("--aging-for", given["-y"][-1])]
    return said


def _who(given: Given) -> Said:
    """Who its clients are, and what they say."""
    bases = [mac for mac in given.get("-b", []) if mac]
    said: Said = ([("--mac-list", given["-M"][-1])] if "-M" in given else
                  [("--mac-base", bases[-1] if bases else _MAC_BASE), ("--no-mac-carry", None)])
    more = dict(given.get("-o", []))
    asked = more.pop(_REQUEST_LIST, "")
    said += [*_SAYS, ("--option", f"discover,request:{_REQUEST_LIST}=hex:{_REQUESTED}{asked}")]
    if asked:
        said.append(("--option", f"renew,release:{_REQUEST_LIST}=hex:{asked}"))
    return [*said, *(("--option", f"{code}=hex:{octets}") for code, octets in more.items()),
            *_templates(given)]


def _templates(given: Given) -> Said:
    said: Said = []
    for at, (message, path) in enumerate(zip(("discover", "request"), given.get("-T", []),
                                             strict=False)):
        if "," in path:
            raise _refused(f"-T {shown(path)} has a comma in its name", "rename the file")
        # One offset is for both files.
        xid, mac = ((given.get(name) or [otherwise])[-1 if at else 0]
                    for name, otherwise in (("-X", _XID_AT), ("-O", _MAC_AT)))
        # It leaves secs of a DISCOVER as the template has them.
        places = "secs=0"
        if message == "request":
            secs, server, address = (given.get(name, [0])[-1] or otherwise for name, otherwise in (
                ("-E", _SECS_AT), ("-S", _SERVER_AT), ("-I", _ADDRESS_AT)))
            places = f"secs={secs},server-option={server},address-option={address}"
        said.append(("--raw-template", f"{message}={path},xid={xid},mac={mac},{places}"))
    return said


def translate(line: str) -> list[str]:
    """The arguments of dhcp-tester that do what `perfdhcp LINE` does. Raises UserError."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise _refused(f"{str(error)[:1].lower()}{str(error)[1:]}") from None
    if words[:1] == ["sudo"]:
        del words[0]
    if words and PurePath(words[0]).name == "perfdhcp":
        del words[0]
    given, arguments = _parse(words)
    for name in ("-h", "-v"):
        if name in given:
            return [_BY_NAME[name].ours]
    _check(given)
    said = [*_where(given, arguments), *_load(given), *_who(given)]
    if seed := given.get("-s", [0])[-1]:
        said.append(("--seed", seed))
    if "-w" in given:
        said.append(("--wrap", given["-w"][-1]))
    if "-t" in given:
        said.append(("--progress", None))
    return [option if value is None else f"{option}={value}" for option, value in said]
