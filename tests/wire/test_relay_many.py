"""dhcp-relay --many: several hops in one process, each in a namespace of its own.

The one thing to know: `relayed(1, 1, 1)` has a branch each for three of them, with one server.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from fastpath.packet import parse_mac
from fastpath.wire import MessageType
from tests.ours import Client, Talker, entered, program
from tests.peers.net import Namespace, quiet, stop, wait_until
from tests.peers.relays import DOWN, SERVER, UP, Relayed, relayed
from tests.relaying import compiled
