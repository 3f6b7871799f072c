"""The registry of event types: their names, versions and fields.

Each app keeps the schemas of its events in a checked-in file beside its code. A version in that file is a promise to
everyone who reads the store: its schema never changes. A new schema needs a new version.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.apps import AppConfig, apps
from django.utils.module_loading import autodiscover_modules

from towpath.outbox.event import Event
from towpath.outbox.models import LeanOutbox, all_outboxes, outbox_of

#: The name of the file, in the folder of each app that has events.
FILE_NAME = "events.schema.json"
#: The command that brings the files up to date.
COMMAND = "python manage.py eventlog events --write"

#: Parts of a JSON schema that do not affect what is stored. They are left out, so that rewording a docstring needs no
#: new version.
_WORDING = {"title", "description", "examples"}
#: Parts of a JSON schema whose keys are names from the application.
_NAMED = {"properties", "$defs"}

#: type -> version -> JSON schema, as in the files.
_Schemas = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class EventType:
    """An event type, as the catalogue shows it. `outbox` is the table that it is published into."""

    type: str
    version: int
    app: str
    outbox: str
    description: str
    schema: Mapping[str, Any]


def installed_events() -> list[type[Event]]:
    """Return every event class of the installed apps, ordered by type and version. This imports their `events` modules.

    Raises ValueError if two classes share both.
    """
    autodiscover_modules("events")
    found: dict[tuple[str, int], type[Event]] = {}
    for event in _subclasses(Event):
        if _app_of(event) is None or _is_only_a_base(event):
            continue
        other = found.setdefault((event.event_type, event.version), event)
        if other is not event:
            raise ValueError(
                f"{other.__module__}.{other.__name__} and {event.__module__}.{event.__name__} are both"
                f" {event.event_type!r} version {event.version}: rename one, or raise its version"
            )
    return [event for _, event in sorted(found.items())]


def catalogue() -> list[EventType]:
    """Return every event type of the installed apps, ordered by type and version. Raises what `installed_events`
    raises."""
    lean = {outbox.event: outbox.outbox_name() for outbox in all_outboxes().values() if issubclass(outbox, LeanOutbox)}
    return [
        EventType(
            type=event.event_type,
            version=event.version,
            app=_label(event),
            outbox=lean.get(event) or outbox_of(event).outbox_name(),
            description=inspect.cleandoc(event.__doc__ or "").partition("\n\n")[0],
            schema=_stored_schema(event),
        )
        for event in installed_events()
    ]


def disagreements() -> list[str]:
    """Return how the checked-in files differ from the code, and how to fix it. It is empty if they agree.

    Raises ValueError, which names a file that is damaged.
    """
    found = []
    for path, registered, events in _by_file():
        for event in events:
            known = registered.get(event.event_type, {})
            latest = max(map(int, known), default=0)
            name = f"{event.__name__} ({event.event_type!r} version {event.version})"
            if str(event.version) not in known:
                found.append(f"{name} is not in {path}: run `{COMMAND}` and commit the file")
            elif known[str(event.version)] != _stored_schema(event):
                found.append(
                    f"{name} does not have the fields that {path} lists: write `version = {latest + 1}` in the class,"
                    f" then run `{COMMAND}` and commit the file. (If that version has never been deployed: delete it"
                    " from the file instead, then run the command.)"
                )
    return found


def update_files() -> list[Path]:
    """Add missing event types and versions to the files, and return the files that were changed.

    What is registered stays as it is, even if the code has changed or is gone: `disagreements` reports that it has
    changed. Raises what `disagreements` raises.
    """
    changed = []
    for path, registered, events in _by_file():
        schemas: _Schemas = {type_: dict(versions) for type_, versions in registered.items()}
        for event in events:
            schemas.setdefault(event.event_type, {}).setdefault(str(event.version), _stored_schema(event))
        if schemas != registered:
            # Sorted, except within a schema, where fields have the order of the stored context.
            ordered = {
                type_: dict(sorted(versions.items(), key=lambda item: int(item[0])))
                for type_, versions in sorted(schemas.items())
            }
            path.write_text(json.dumps(ordered, indent=2) + "\n", encoding="utf-8")
            changed.append(path)
    return changed


def _by_file() -> Iterator[tuple[Path, _Schemas, list[type[Event]]]]:
    """Yield each app's file, the schemas in it, and the app's events."""
    events = installed_events()
    for app in apps.get_app_configs():
        path = Path(app.path) / FILE_NAME
        own = [event for event in events if _app_of(event) is app]
        if own or path.exists():
            yield path, _registered(path) if path.exists() else {}, own


def _registered(path: Path) -> _Schemas:
    """Return what the file registers. Raises ValueError, which names the file, if it is damaged."""
    try:
        found: _Schemas = json.loads(path.read_text(encoding="utf-8"))
        is_registry = all(version.isdecimal() for versions in found.values() for version in versions)
    except (ValueError, AttributeError, TypeError):
        is_registry = False
    if not is_registry:
        raise ValueError(f"{path} is not a registry of events: resolve its merge conflict, or restore the file")
    return found


def _stored_schema(event: type[Event]) -> dict[str, Any]:
    schema: dict[str, Any] = _without_wording(event.model_json_schema(mode="serialization"))
    return schema


def _without_wording(part: Any, *, is_named: bool = False) -> Any:
    if isinstance(part, list):
        return [_without_wording(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: value if key == "default" else _without_wording(value, is_named=not is_named and key in _NAMED)
        for key, value in part.items()
        if is_named or key not in _WORDING
    }


def _subclasses(event: type[Event]) -> Iterator[type[Event]]:
    for subclass in event.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _is_only_a_base(event: type[Event]) -> bool:
    """True if it is a generic event, or one of its forms, of which other classes are made."""
    generic = event.__pydantic_generic_metadata__
    return bool((generic["origin"] or generic["parameters"]) and event.__subclasses__())


def _app_of(event: type[Event]) -> AppConfig | None:
    return apps.get_containing_app_config(event.__module__)


def _label(event: type[Event]) -> str:
    app = _app_of(event)
    return "" if app is None else app.label
