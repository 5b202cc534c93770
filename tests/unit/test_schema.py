"""The JSON Schema: published as it is, valid itself, and saying what the reader really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import yaml
from jsonschema import Draft202012Validator

from fastpath.faultmodel import DISTRIBUTIONS, FAULT_KINDS
from server import configfile, schema
from server.model import DURABILITIES, TRANSPORTS, Config, Settings
from tester.cli import main_command
from tester.configfile import _SYNONYMS
from tests.unit.test_structure import reference_yaml

DOCS = Path(__file__).parents[2] / "docs"


def accepts(document: Any) -> bool:
    return bool(Draft202012Validator(schema.published()).is_valid(document))


def test_the_published_schema_is_current() -> None:
    printed = subprocess.run([sys.executable, "-m", "server.schema"], capture_output=True,
                             text=True, check=True, cwd=DOCS.parent).stdout
    assert (DOCS / "dhcp-server.schema.json").read_text() == printed, \
        "python -m server.schema > docs/dhcp-server.schema.json"


def test_it_is_a_schema_without_loose_ends() -> None:
    Draft202012Validator.check_schema(schema.published())
    text = json.dumps(schema.published())
    named = {f'"#/$defs/{name}"' for name in schema.SCHEMA["$defs"]}
    used = {f'"{part.split(chr(34))[0]}"' for part in text.split('"$ref": "')[1:]}
    assert used == named


def test_every_kind_of_value_has_a_title() -> None:
    """A refusal says what the value is not, in the words of the title."""

    def look(value: Any, at: str) -> None:
        if isinstance(value, dict):
            if {"type", "enum"} & set(value) and not at.endswith("properties"):
                assert "title" in value, at
            for key, inner in value.items():
                look(inner, f"{at}/{key}")

    look(schema.SCHEMA, "#")


def test_editors_accept_the_example_and_both_spellings() -> None:
    assert accepts(yaml.safe_load(reference_yaml()))
    assert accepts({"server": {"lease-time": "1h", "max_hops": 4, "shared-networks": []}})
    assert accepts(None) and accepts({"client": {"max-discover-retries": 3}})
    assert not accepts({"server": {"lease-tim": "1h"}})
    assert not accepts({"server": {"relay": "true"}})


def test_words_are_those_of_the_model() -> None:
    server = schema.SCHEMA["$defs"]["server"]["properties"]
    assert tuple(server["transport"]["enum"]) == TRANSPORTS
    assert tuple(server["durability"]["enum"]) == DURABILITIES
    assert tuple(server["response_distribution"]["enum"]) == DISTRIBUTIONS
    kinds = schema.SCHEMA["$defs"]["fault"]["properties"]["kind"]["enum"]
    assert set(FAULT_KINDS) <= set(kinds) and {"silence", "late", "missing_option"} <= set(kinds)


def test_every_key_means_something() -> None:
    """Each key of `server` is a flag's or the structure's, and each flag has its key."""
    keys = set(schema.SCHEMA["$defs"]["server"]["properties"])
    flags = set(configfile._FLAGS)
    structure = {"ip_pool", "renewal_time", "rebinding_time", "dns", "options", "classes",
                 "subnets", "shared_networks", "faults"}
    assert keys - structure <= flags | set(configfile._SYNONYMS)
    assert flags - keys == {"option", "fault", "verbose", "live", "log_level", "log_format"}
    logging = set(schema.SCHEMA["$defs"]["logging"]["properties"])
    assert logging == set(configfile._OF_LOGGING)


def test_every_field_of_the_model_can_be_said() -> None:
    keys = {key.removesuffix("_s") for key in schema.SCHEMA["$defs"]["server"]["properties"]}
    said = {name.removesuffix("_s") for name in Config.__slots__} - {"range", "networks",
                                                                     "settings"}
    assert said | {name.removesuffix("_s") for name in Settings.__slots__} <= keys


def test_the_clients_half_knows_the_testers_options() -> None:
    """Its long options and no others; `perfdhcp` is no setting, but other words for several."""
    names = {option[2:].replace("-", "_") for param in main_command.params
             if isinstance(param, click.Option) for option in param.opts if option[:2] == "--"}
    keys = schema.SCHEMA["$defs"]["client"]["properties"]
    assert set(keys) == names - {"version", "config", "perfdhcp"} | set(_SYNONYMS)
    assert len(keys) == len(schema.CLIENT_KEYS)
