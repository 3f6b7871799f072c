"""The catalogue of event types, as `manage.py eventlog events` prints it: JSON, a table, or a page of Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from towpath.outbox.registry import EventType


def as_json(types: Sequence[EventType]) -> str:
    """Return a JSON list with an object for each event type."""
    return json.dumps([asdict(event_type) for event_type in types])


def as_text(types: Sequence[EventType]) -> str:
    """Return a table with a line for each event type."""
    rows = [
        ("event", "version", "outbox", "what happened"),
        *(
            (event_type.type, str(event_type.version), event_type.outbox, event_type.description.replace("\n", " "))
            for event_type in types
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(f"{text:<{width}}" for text, width in zip(row, widths, strict=False)), row[3]]).rstrip()
        for row in rows
    )


def as_markdown(types: Sequence[EventType]) -> str:
    """Return a page with a section for each event type and a table of its fields."""
    lines = ["# Events", ""]
    for event_type in types:
        lines += [
            f"## {event_type.type}",
            "",
            event_type.description,
            "",
            f"Version {event_type.version}, published into `{event_type.outbox}`.",
            "",
        ]
        fields = event_type.schema.get("properties", {})
        if fields:
            lines += ["| field | value | |", "| --- | --- | --- |"]
            lines += [
                f"| `{name}` | {_value_text(field)} | {field.get('protected', '')} |" for name, field in fields.items()
            ]
            lines.append("")
    return "\n".join(lines).rstrip()


def _value_text(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_value_text(choice) for choice in schema["anyOf"])
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    kind = str(schema.get("type", "anything"))
    if kind == "array" and "items" in schema:
        return f"list of {_value_text(schema['items'])}"
    return f"{kind} ({schema['format']})" if "format" in schema else kind
