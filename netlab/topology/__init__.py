"""What a lab looks like: nodes, the segments that join them, addresses, roles. Pure data.

Nothing here knows the machine: `plan` turns a topology into steps and `apply` takes them.
"""

from netlab.topology.builtin import (
    BUILT_IN,
    MOST_HOPS,
    MOST_SEGMENTS,
    direct,
    redundant,
    relay,
    rogue,
    star,
)
from netlab.topology.model import (
    Impairment,
    Link,
    Node,
    Program,
    RelayPolicy,
    Role,
    Segment,
    Subnet,
    Topology,
    from_json,
    to_json,
)

__all__ = ["BUILT_IN", "MOST_HOPS", "MOST_SEGMENTS", "Impairment", "Link", "Node", "Program",
           "RelayPolicy", "Role", "Segment", "Subnet", "Topology", "direct", "from_json",
           "redundant", "relay", "rogue", "star", "to_json"]
