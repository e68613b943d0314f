"""The JSON Schema of the project file; editors complete and check the file by it.

It is made from the Structs of `shared/project/model.py`, the options of every destination, connector, feed and alert, and the operators of `where`, so it
cannot differ from the code. `penstock plan` also checks references between sites, destinations and connections, and a plug-in's
own rules, which the schema lacks. `penstock/reference.py` writes it to docs/project.schema.json.
"""

from __future__ import annotations

from typing import Any

import msgspec

from connector_runner.feeds.contract import FeedRules
from connector_runner.feeds.registry import FEEDS
from connector_runner.registry import SOURCES
from loader import registry
from router.alerts.contract import AlertRules
from router.alerts.registry import CHANNELS
from shared.devices.registry import DEVICES
from shared.project.model import Project
from shared.reading.decode import json_schema
from shared.rules.operators import KINDS, OPERATORS

DIALECT = "https://json-schema.org/draft/2020-12/schema"
VARIABLE = r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"
"""Any text may hold a variable; `interpolate` puts its value in before the Structs check it."""

_SCALAR = {"type": ["string", "number", "boolean"]}
_OPERANDS: dict[str, dict[str, Any]] = {
    "in": {"type": "array", "items": _SCALAR, "minItems": 1},
    "not_in": {"type": "array", "items": _SCALAR, "minItems": 1},
    "exists": {"type": "boolean"},
    "type": {"anyOf": [{"enum": list(KINDS)}, {"type": "array", "items": {"enum": list(KINDS)}, "minItems": 1}]},
    **{name: {"type": ["string", "number"]} for name in ("gt", "gte", "lt", "lte")},
    "eq": _SCALAR,
    "ne": _SCALAR,
    "contains": _SCALAR,
}


def project_schema() -> dict[str, Any]:
    """Returns the schema, ready to be written as JSON."""
    schema = json_schema(Project)
    definitions = schema["$defs"]
    del definitions["Project"]["properties"]["devices"], definitions["DeviceConnection"]  # written among the connections
    definitions["Destination"] = {
        "oneOf": [
            *(_plugin("destination", name, registry.plugin(name).OPTIONS, definitions) for name in registry.destination_types()),
            *(_plugin("destination", name, DEVICES.get(name).OPTIONS, definitions) for name in DEVICES.names()),
        ]
    }
    definitions["Project"]["properties"]["destinations"]["additionalProperties"] = {"$ref": "#/$defs/Destination"}
    definitions["Connector"] = {
        "oneOf": [_plugin("connector", name, SOURCES.get(name).OPTIONS, definitions) for name in SOURCES.names()]
    }
    definitions["Project"]["properties"]["connectors"]["additionalProperties"] = {"$ref": "#/$defs/Connector"}
    definitions["Feed"] = {"oneOf": [_feed(name, definitions) for name in FEEDS.names()]}
    definitions["Project"]["properties"]["feeds"]["additionalProperties"] = {"$ref": "#/$defs/Feed"}
    definitions["Alert"] = {"oneOf": [_alert(name, definitions) for name in CHANNELS.names()]}
    definitions["Project"]["properties"]["alerts"]["additionalProperties"] = {"$ref": "#/$defs/Alert"}
    definitions["Where"] = _where()
    for holder in ("Site", "Connection", "SyncStream"):
        definitions[holder]["properties"]["where"]["$ref"] = "#/$defs/Where"
    return {"$schema": DIALECT, "title": "Penstock project file", **_with_variables(schema)}


def _plugin(kind: str, name: str, options_of: type[msgspec.Struct], definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of one type: its options, and `type` itself."""
    options = json_schema(options_of)
    inner = options["$defs"]
    own = inner.pop(options["$ref"].rsplit("/", 1)[-1])
    definitions.update(inner)
    own["title"] = name
    own["properties"] = {"type": {"const": name, "description": f"the type of the {kind}"}, **own["properties"]}
    own["required"] = ["type", *own.get("required", [])]
    return dict(own)


def _feed(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of one type of feed: the rules of every feed, and the options of the type."""
    own = _plugin("feed", name, FEEDS.get(name).OPTIONS, definitions)
    rules = json_schema(FeedRules)["$defs"]["FeedRules"]
    own["properties"] = {"site": rules["properties"]["site"], **own["properties"], **rules["properties"]}
    own["required"] = ["site", *own["required"]]
    return own


def _alert(name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema of one channel of alerts: its options, and the rules of every alert."""
    own = _plugin("channel", name, CHANNELS.get(name).OPTIONS, definitions)
    rules = json_schema(AlertRules)["$defs"]["AlertRules"]
    own["properties"] = {**own["properties"], **rules["properties"]}
    return own


def _where() -> dict[str, Any]:
    node = {"$ref": "#/$defs/Where"}
    conditions = {"type": "array", "items": node, "minItems": 1}
    field = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
    condition = {
        "type": "object",
        "properties": {"field": field, **{name: _OPERANDS.get(name, {"type": "string"}) for name in OPERATORS}},
        "required": ["field"],
        "minProperties": 2,
        "additionalProperties": False,
    }
    combinations = [
        {"type": "object", "properties": {word: inner}, "required": [word], "additionalProperties": False}
        for word, inner in (("all", conditions), ("any", conditions), ("not", node))
    ]
    return {
        "description": "conditions an event must meet; docs/routing.md says what each operator means",
        "anyOf": [{"type": "array", "items": node}, *combinations, condition, {"type": "null"}],
    }


def _with_variables(node: Any) -> Any:
    """Returns `node` with choices of texts that may also be a variable; numbers and booleans stay: a variable's value is a text."""
    if isinstance(node, list):
        return [_with_variables(inner) for inner in node]
    if not isinstance(node, dict):
        return node
    changed = {key: inner if key in ("enum", "default", "examples") else _with_variables(inner) for key, inner in node.items()}
    if "enum" in changed:
        changed["anyOf"] = [{"enum": changed.pop("enum")}, {"type": "string", "pattern": f"^{VARIABLE}$"}]
    return changed


def schema_text() -> str:
    """Returns the schema as the file holds it."""
    return msgspec.json.format(msgspec.json.encode(project_schema()), indent=2).decode() + "\n"
