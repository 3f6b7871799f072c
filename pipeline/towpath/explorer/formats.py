"""The text formats of an export: CSV for spreadsheets, and JSON with a line for each event."""

from __future__ import annotations

import json
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from towpath.eventlog.columns import Kind, added_columns
from towpath.eventlog.query.syntax import ColumnField, Path
from towpath.eventlog.stored import streamed_columns, streamed_kinds
from towpath.eventlog.values import as_text
from towpath.explorer.columns import TIME
from towpath.explorer.summary import Written, decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.search import FoundEvents
    from towpath.explorer.columns import Shown
    from towpath.explorer.export import Progress

    _Cells = Callable[[Sequence[Any]], Sequence[str]]

CONTEXT = "event_context"
_COMMA = Written(",")
#: First characters that make a spreadsheet run a cell instead of showing it.
_FORMULA = frozenset("=+-@\t\r\n")


def exported_columns(own: tuple[Column, ...]) -> list[str]:
    """Return the name of every column, the time first and the context last."""
    names = streamed_columns(own)
    return [TIME, *(name for name in names if name not in {TIME, CONTEXT}), CONTEXT]


class Csv:
    """CSV (RFC 4180) in UTF-8. A text that a spreadsheet would run as a formula starts with an apostrophe."""

    content_type = "text/csv; charset=utf-8"
    suffix = "csv"

    def __init__(self, chosen: Sequence[Shown] | None, own: tuple[Column, ...]) -> None:
        """Write the time and the chosen columns, or every column if `chosen` is None."""
        self._names = exported_columns(own) if chosen is None else [TIME, *(_name(shown) for shown in chosen)]
        paths = {shown.name: shown.field for shown in chosen or () if isinstance(shown.field, Path)}
        kinds = streamed_kinds(own)
        self._columns = [
            (CONTEXT, _at_path(paths[name])) if name in paths else (name, _CELLS[kinds[name]]) for name in self._names
        ]

    def begin(self) -> bytes:
        return self._rows([[name] for name in _texts(self._names)])

    def events(self, found: FoundEvents) -> bytes:
        # Column by column: a call for each value of a million rows would take long.
        return self._rows([cells(found.column(name)) for name, cells in self._columns])

    def finish(self, progress: Progress) -> bytes:
        return self._rows([[f"# {progress.in_words}"]])

    @staticmethod
    def _rows(columns: Iterable[Sequence[str]]) -> bytes:
        # Python's csv module checks each character, which takes three times as long (tests/benchmarks/exporting.py).
        rows = zip(*map(_quoted, columns), strict=True)
        # No store holds a lone surrogate. If one ever does, the file must still be complete.
        return "".join([f"{row}\r\n" for row in map(",".join, rows)]).encode("utf-8", "replace")


def _quoted(texts: Sequence[str]) -> Sequence[str]:
    """Return the column's cells, all in quotes if one needs them (RFC 4180, section 2, rules 5 to 7)."""
    every = "".join(texts)
    if not any(special in every for special in ',"\r\n'):
        return texts
    return ['"' + text.replace('"', '""') + '"' for text in texts]


class NdJson:
    """A JSON object on each line. A context is the stored text, so that its numbers stay exact."""

    content_type = "application/x-ndjson"
    suffix = "ndjson"

    def __init__(self, own: tuple[Column, ...]) -> None:
        kinds = streamed_kinds(own)
        self._added = [column.name for column in added_columns(own)]
        self._names = [name for name in streamed_columns(own) if name != CONTEXT]
        self._columns = [(name, _JSON_CELLS.get(kinds[name], _json_cells)) for name in self._names]
        self._object = "{" + ",".join(f"{compact_json(name)}:%s" for name in [*self._names, CONTEXT]) + "}"

    def begin(self) -> bytes:
        return b""

    def events(self, found: FoundEvents) -> bytes:
        return "".join([f"{one}\n" for one in self.objects(found)]).encode("utf-8", "replace")

    def objects(self, found: FoundEvents) -> Iterator[str]:
        """Yield the JSON object of each event."""
        columns = [cells(found.column(name)) for name, cells in self._columns]
        for row in zip(*columns, _json_contexts(found), strict=True):
            yield self._object % row

    def finish(self, progress: Progress) -> bytes:
        end = {"rows": progress.rows, "end": progress.end, "text": progress.in_words}
        return to_json({"towpath_export": end}) + b"\n"


class CloudEvents(NdJson):
    """CloudEvents 1.0 in JSON, one on each line. The last line is an event of its own type: the end of the export."""

    content_type = "application/x-ndjson"
    suffix = "cloudevents.ndjson"

    def objects(self, found: FoundEvents) -> Iterator[str]:
        columns = [found.column(name) for name in self._names]
        for *row, context in zip(*columns, _json_contexts(found), strict=True):
            attributes = self._attributes(dict(zip(self._names, row, strict=True)))
            yield f'{to_json(attributes).decode()[:-1]},"data":{context}}}'

    def finish(self, progress: Progress) -> bytes:
        values = {
            "specversion": "1.0",
            "id": "end",
            "source": "urn:towpath:export",
            "type": "towpath.export.ended",
            "datacontenttype": "application/json",
            "data": {"rows": progress.rows, "end": progress.end, "text": progress.in_words},
        }
        return to_json(values) + b"\n"

    def _attributes(self, values: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {
            "specversion": "1.0",
            "id": str(values["outbox_id"]),
            # Source and id together identify the event.
            "source": f"urn:towpath:{values['environment']}:{values['outbox']}",
            "type": values["event_type"],
            "time": values["event_date_time"],
            "datacontenttype": "application/json",
        }
        if target := values.get("target"):
            found["subject"] = target
        for name in self._added:
            # Names of extensions are lowercase letters and digits. An attribute without a value is left out.
            if name != "target" and values[name] not in (None, ""):
                found[name.replace("_", "").lower()] = as_text(values[name])
        return found


def _json_contexts(found: FoundEvents) -> list[str]:
    """Return the contexts as JSON values: the stored text, or a JSON string of it if it is not JSON."""
    # In JSON, line breaks occur only between values.
    return [
        context.replace("\r", " ").replace("\n", " ") if _is_json(context) else compact_json(context)
        for context in found.column(CONTEXT)
    ]


def _is_json(text: str) -> bool:
    """True if the text is strict JSON, without NaN and Infinity."""
    try:
        from_json(text, allow_inf_nan=False, cache_strings="keys")
    except ValueError:
        # It may still be JSON: the faster parser stops after 200 levels, and refuses a lone surrogate.
        return _is_json_of_any_depth(text)
    return True


def _is_json_of_any_depth(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(name: str) -> None:
    raise ValueError(name)


def _name(shown: Shown) -> str:
    return CONTEXT if shown.field is None else shown.field.name if isinstance(shown.field, ColumnField) else shown.name


def _texts(values: Sequence[Any]) -> list[str]:
    return [f"'{text}" if text and text[0] in _FORMULA else text for text in values]


def _times(values: Sequence[Any]) -> list[str]:
    return [text.strip('"') for text in _json_cells(values)]


def _numbers(values: Sequence[Any]) -> list[str]:
    return list(map(str, values))


def _others(values: Sequence[Any]) -> list[str]:
    return list(map(as_text, values))


def _uuids(values: Sequence[Any]) -> list[str]:
    # Many rows share few windows, and comparing numbers is faster than comparing UUIDs.
    numbers = [value.int for value in values]
    texts = {number: str(value) for number, value in dict(zip(numbers, values, strict=True)).items()}
    return [texts[number] for number in numbers]


def _at_path(path: Path) -> _Cells:
    return lambda contexts: [_at(context, path) for context in contexts]


_CELLS: dict[Kind, _Cells] = {
    Kind.TEXT: _texts,
    Kind.LOW_CARDINALITY_TEXT: _texts,
    Kind.WHOLE_NUMBER: _numbers,
    Kind.SIGNED_NUMBER: _numbers,
    Kind.BOOLEAN: _others,
    Kind.DECIMAL: _others,
    Kind.FLOAT: _others,
    Kind.TIME: _times,
    Kind.UUID: _uuids,
}


def _json_cells(values: Sequence[Any]) -> list[str]:
    """Return each value as JSON. No JSON of the kind may have a comma. Converting all together takes a fifth of the
    time."""
    return to_json(values).decode()[1:-1].split(",") if values else []


def _json_texts(values: Sequence[Any]) -> list[str]:
    return list(map(encode_basestring, values))


def _json_uuids(values: Sequence[Any]) -> list[str]:
    return [f'"{text}"' for text in _uuids(values)]


def _json_decimals(values: Sequence[Any]) -> list[str]:
    # As a text, with every digit and no exponent: a JSON number could lose some.
    return _json_cells(_others(values))


_JSON_CELLS: dict[Kind, _Cells] = {
    Kind.TEXT: _json_texts,
    Kind.LOW_CARDINALITY_TEXT: _json_texts,
    Kind.DECIMAL: _json_decimals,
    Kind.UUID: _json_uuids,
}


def _at(context: str, path: Path) -> str:
    """Return what the path leads to: a text or a number as it is, anything else as JSON. A text never becomes a
    formula."""
    try:
        value = decoder.decode(context)
    except (ValueError, RecursionError):
        return ""
    for key in path.keys:
        if not isinstance(value, dict) or key not in value:
            return ""
        value = value[key]
    return exact_json(value) if isinstance(value, Written) or not isinstance(value, str) else _texts([value])[0]


def exact_json(value: object) -> str:
    """Return a value of a context as JSON, with its numbers as they are written in the context."""
    written: list[str] = []
    # What is still to be written, the next one last: a context may have more levels than a function can call itself.
    rest = [value]
    while rest:
        match rest.pop():
            case Written() as text:
                written.append(str(text))
            case dict() as members:
                pairs = ((_COMMA, Written(f"{compact_json(key)}:"), inner) for key, inner in members.items())
                rest += [Written("}"), *[part for pair in pairs for part in pair][:0:-1], Written("{")]
            case list() as elements:
                rest += [Written("]"), *[part for each in elements for part in (_COMMA, each)][:0:-1], Written("[")]
            case other:
                written.append(compact_json(other))
    return "".join(written)


#: Returns a value as JSON without spaces.
compact_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
