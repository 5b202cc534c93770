"""Filters of observers that died: `lab gc` takes them off a lab that stands, and nobody else's.

The filters are real and need no compiler: two instructions, put there by what puts counters there.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter

import pytest

from netlab.features import probe
from tests.lab.machine import Machine, wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif("clsact" not in probe().has,
                       reason="needs clsact (CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_BPF)"),
]

# Puts filters on interfaces of the nodes in argv[1], named as in argv[2] ("": as its own); says
# so, and lives until it is killed or its standard input ends.
_OBSERVER = """
import ctypes, os, struct, sys
from ebpf import attach
from fastpath.elsewhere import within
from netlab.impairment import loss

nodes, name, classid = sys.argv[1].split(","), sys.argv[2], 1
TC, GPL = 3, ctypes.create_string_buffer(b"GPL")
# r0 = TC_ACT_UNSPEC; exit
code = ctypes.create_string_buffer(struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0), 16)
program = loss._bpf(loss._PROG_LOAD, struct.pack(
    "=IIQQIIQII16s", TC, 2, ctypes.addressof(code), ctypes.addressof(GPL), 0, 0, 0, 0, 0, b"t"))
for node in nodes:
    node, _, priority = node.partition("@")
    filters = [attach.Filter("eth0", side, program, classid, int(priority or 49000))
               for side in (attach.ARRIVING, attach.DEPARTING)]
    within(node, lambda: attach.put(filters, name))
print("there", flush=True)
sys.stdin.read()
"""
_FILTERS = """
import sys
from ebpf import attach
from fastpath.elsewhere import within
from fastpath.iproute import iproute

def names():
    with iproute() as ip:
        index = ip.link_lookup(ifname="eth0")[0]
        found = [name for side in (attach.ARRIVING, attach.DEPARTING)
                 for _, _, name in attach._filters(ip, index, side)]
        has = [q.get_attr("TCA_KIND") for q in ip.get_qdiscs(index=index)]
    return [*found, *(["clsact"] if "clsact" in has else [])]

print("\\n".join(within(sys.argv[1], names)))
"""
_IMPORTS = """
import json, sys
from netlab import cli
try:
    cli.main()
finally:
    print(json.dumps([name for name in ("bcc", "pyroute2", "numpy") if name in sys.modules]))
"""


def observe(host: Machine, nodes: str, name: str = "") -> subprocess.Popen[str]:
    """A process that has put filters on these nodes and lives."""
    observer = host.popen([sys.executable, "-c", _OBSERVER, nodes, name], stdin=subprocess.PIPE)
    assert observer.stdout and observer.stderr
    assert observer.stdout.readline() == "there\n", observer.stderr.read()
    return observer


def kill(observer: subprocess.Popen[str]) -> None:
    observer.send_signal(signal.SIGKILL)
    observer.wait()


def filters(host: Machine, namespace: str) -> Counter[str]:
    """What is on eth0 of a node: filters by name, and clsact."""
    return Counter(host.run([sys.executable, "-c", _FILTERS, namespace]).stdout.split())


def test_filters_of_the_dead_go_and_those_of_the_living_stay(host: Machine) -> None:
    host.lab("setup")
    living = observe(host, "netlab-client@48000")
    dead = observe(host, "netlab-client,netlab-server")
    assert filters(host, "netlab-client").total() == 5
    assert host.lab("gc").stdout == "nothing was left behind\n"
    assert filters(host, "netlab-client").total() == 5

    kill(dead)
    said = host.lab("gc").stdout
    assert said == "netlab: removed counters that a dead process left (4 filters)\n"
    (name, left), *others = filters(host, "netlab-client").most_common()
    assert f"/{living.pid}/" in name
    assert (left, others) == (2, [("clsact", 1)])
    assert filters(host, "netlab-server") == {}
    assert host.lab("gc").stdout == "nothing was left behind\n"
    assert host.status("netlab")["phase"] == "up"

    kill(living)
    assert "(2 filters)" in host.lab("gc").stdout
    assert filters(host, "netlab-client") == {}


@pytest.mark.parametrize("name", [
    "somebody.o:[classifier]", "dhcp-netlab", "dhcp-netlab/1", "dhcp-netlab/x/1",
    "dhcp-netlab//1", "dhcp-netlab/-1/1", "dhcp-netlabs/999999999/1", "999999999/1"])
def test_filters_of_others_stay(host: Machine, name: str) -> None:
    host.lab("setup")
    kill(observe(host, "netlab-server", name))
    assert host.lab("gc").stdout == "nothing was left behind\n"
    assert filters(host, "netlab-server") == {name: 2, "clsact": 1}


def test_a_process_number_that_was_used_again_is_not_the_observer(host: Machine) -> None:
    host.lab("setup")
    # Process 1 began, but not then.
    kill(observe(host, "netlab-server", "dhcp-netlab/1/18446744073709551615"))
    assert "(2 filters)" in host.lab("gc").stdout
    assert filters(host, "netlab-server") == {}


def test_every_lab_that_stands_is_looked_at_and_a_dead_one_goes_whole(host: Machine) -> None:
    for lab in ("one", "two", "half"):
        host.lab("setup", "--name", lab)
    kill(observe(host, "one-client,two-client,half-client"))
    journal = host.root / "run/dhcp-netlab/half.json"
    document = json.loads(journal.read_text())
    document |= {"phase": "testing", "owner": {"pid": 999_999_999, "started": 1}}
    journal.write_text(json.dumps(document))
    said = host.lab("gc").stdout.splitlines()
    assert said[0].startswith("half: removed (")
    assert said[1:] == [f"{lab}: removed counters that a dead process left (2 filters)"
                        for lab in ("one", "two")]
    assert not any(name.startswith("half-") for name in host.names())


def test_setup_of_a_lab_that_stands_takes_them_off_too(host: Machine) -> None:
    host.lab("setup")
    kill(observe(host, "netlab-client,netlab-server"))
    said = host.lab("setup").stdout.splitlines()
    assert said[0] == "netlab: removed counters that a dead process left (4 filters)"
    assert said[1].endswith("nothing to do")
    assert filters(host, "netlab-server") == {}


def test_a_lab_that_somebody_works_on_is_left_alone(host: Machine) -> None:
    host.lab("setup")
    kill(observe(host, "netlab-server"))
    holder = host.popen([sys.executable, "-c", "import sys\nfrom netlab import state\n"
                         "with state.locked('netlab', 'lab impair'):\n"
                         "    print('held', flush=True)\n    sys.stdin.read()"],
                        stdin=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    said = host.lab("gc")
    assert "busy" in said.stderr
    assert filters(host, "netlab-server").total() == 3
    holder.communicate()
    assert "(2 filters)" in host.lab("gc").stdout


def test_a_node_that_somebody_removed_is_no_obstacle(host: Machine) -> None:
    host.lab("setup")
    kill(observe(host, "netlab-server"))
    host.run(["ip", "netns", "del", "netlab-client"])
    wait_until("the end of the client's namespace", lambda: "netlab-client" not in host.names())
    assert "(2 filters)" in host.lab("gc").stdout


def test_without_a_lab_neither_bcc_nor_pyroute2_is_needed(host: Machine) -> None:
    def imported() -> list[str]:
        last = host.run([sys.executable, "-c", _IMPORTS, "gc"]).stdout.splitlines()[-1]
        return list(json.loads(last))

    assert imported() == []
    host.lab("setup")
    assert "bcc" not in imported()
