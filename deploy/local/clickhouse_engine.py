"""One chDB handle that behaves like one HTTP session-less ClickHouse request after another.

Invariant: settings and database of one request never reach the next one. They are set on the handle, and only what
differs from the request before is set or put back to its default, because nearly all requests of a client agree.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chdb.state.sqlitelike import Connection

from deploy.local.clickhouse_rights import Guard

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME = r"(?:\w+|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")"
_COLUMNS = r"\((?:[^()`\"]|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\")*\)"
_SETTING = r"\w+\s*=\s*(?:[\w.]+|'[^'\\]*')"
_COMMENT = r"(?:\s|/\*.*?\*/|--[^\n]*\n)*"
#: INSERT INTO ... FORMAT x, then the data. VALUES and SELECT do not match: the engine reads those as one statement.
_INSERT_WITH_DATA = re.compile(
    (
        rf"{_COMMENT}(?P<target>INSERT\s+INTO\s+(?:TABLE\s+)?{_NAME}(?:\.{_NAME})?\s*(?:{_COLUMNS})?)\s*"
        rf"(?P<settings>SETTINGS\s+{_SETTING}(?:\s*,\s*{_SETTING})*\s)?\s*"
        r"FORMAT\s+(?P<format>\w+)(?:[ \t\f\r]*\n|\s|;|$)"
    ).encode(),
    re.IGNORECASE | re.DOTALL,
)
_OUTPUT_FORMAT = re.compile(r"\bFORMAT\s+(\w+)\s*(?:SETTINGS\b[^;]*)?;?\s*$", re.IGNORECASE)
#: One thread and one parser for an insert: with more, inserts of a thousand rows cost twice the CPU and time.
_INSERT_DEFAULTS = {"max_threads": "1", "max_insert_threads": "1", "input_format_parallel_parsing": "0"}
#: An error inside another one comes with the head of both.
_ERROR = re.compile(r"(?:Code: \d+\. DB::Exception: )*(?P<text>Code: (?P<code>\d+)\. DB::.*)", re.DOTALL)


class EngineError(Exception):
    """The engine refused the statement; `code` is ClickHouse's error code."""

    def __init__(self, text: str) -> None:
        # chDB puts words of its own in front, which a ClickHouse server does not send.
        match = _ERROR.search(text)
        self.code = int(match["code"]) if match else 1002
        super().__init__(match["text"] if match else f"Code: 1002. DB::Exception: {text} (UNKNOWN_EXCEPTION)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What one HTTP request asks for."""

    query: bytes
    data: bytes = b""
    database: str = "default"
    default_format: str = "TabSeparated"
    settings: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the engine said, and the counts of X-ClickHouse-Summary."""

    body: bytes = b""
    format: str = "TabSeparated"
    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int = 0
    written_bytes: int = 0


class Engine:
    """A chDB handle; use it from one thread only."""

    def __init__(self, data: Path, *, guard: Guard | None = None) -> None:
        self._data = data
        self._open()
        self.guard = guard or Guard(table_functions=self._names("table_functions"), functions=self._names("functions"))

    def _open(self) -> None:
        self._connection = Connection(str(self._data))
        self._database = "default"
        self._settings: dict[str, str] = {}
        changed = self._connection.query("SELECT name, value FROM system.settings WHERE changed", "JSONCompactEachRow")
        #: What the profile sets: `SET ... = DEFAULT` would not give it back.
        self._of_profile: dict[str, str] = dict(json.loads(line) for line in changed.bytes().splitlines())

    def close(self) -> None:
        """Give the handle back; the engine itself closes with the last handle of the process."""
        self._connection.close()

    def execute(self, statement: Statement) -> Answer:
        """Run one statement; raises EngineError, after which the handle is a fresh one."""
        try:
            insert = _INSERT_WITH_DATA.match(statement.query)
            self._use_database(statement.database)
            self._use_settings({**(_INSERT_DEFAULTS if insert else {}), **statement.settings})
            return self._insert(statement, insert) if insert else self._query(statement)
        except RuntimeError as error:
            # An error can leave the handle between two sets of settings, or inside an insert.
            self.close()
            self._open()
            raise EngineError(str(error)) from error

    def _use_database(self, name: str) -> None:
        if name != self._database:
            self._connection.query(f"USE {_identifier(name)}")
            self._database = name

    def _use_settings(self, settings: dict[str, str]) -> None:
        profile = self._of_profile
        changes = {
            name: _literal(profile[name]) if name in profile else "DEFAULT"
            for name in self._settings
            if name not in settings
        }
        for name, value in settings.items():
            if self._settings.get(name) != value:
                changes[name] = _literal(value)
        if changes:
            assignments = ", ".join(f"{_identifier(name)} = {value}" for name, value in changes.items())
            self._connection.query(f"SET {assignments}")
            self._settings = settings

    def _insert(self, statement: Statement, insert: re.Match[bytes]) -> Answer:
        """Hand the data over as a file in memory: half the CPU of a query text that has the data in it.

        Not by chDB's streaming insert: that one answers with success when the table does not take the rows (no space
        on the disk, too many parts, a constraint).
        """
        data = statement.query[insert.end() :] or statement.data
        settings = (insert["settings"] or b"").decode()
        with os.fdopen(os.memfd_create("insert"), "wb") as file:
            file.write(data)
            file.flush()
            result = self._connection.query(
                f"{insert['target'].decode()} FROM INFILE '/proc/self/fd/{file.fileno()}' COMPRESSION 'none'"
                f" {settings} FORMAT {insert['format'].decode()}"
            )
        rows, size = result.rows_written(), result.bytes_written()
        return Answer(read_rows=rows, read_bytes=size, written_rows=rows, written_bytes=size)

    def _query(self, statement: Statement) -> Answer:
        query = statement.query.decode()
        if statement.data:
            query = f"{query}\n{statement.data.decode()}"
        self._require_allowed(query)
        result = self._connection.query(query, statement.default_format, dict(statement.parameters))
        named = _OUTPUT_FORMAT.search(query)
        return Answer(
            body=result.bytes(),
            format=named[1] if named else statement.default_format,
            read_rows=result.storage_rows_read(),
            read_bytes=result.storage_bytes_read(),
            written_rows=result.rows_written(),
            written_bytes=result.bytes_written(),
        )

    def _require_allowed(self, query: str) -> None:
        """Raise EngineError if the statement reaches files, addresses or programs, and the engine would not mind."""
        # The parser takes as long as most statements do.
        if self.guard.is_harmless(query):
            return
        # By its own parser: comments, quotes and escapes are gone, and there is one statement only.
        canonical = self._connection.query(f"SELECT formatQuery({_literal(query)})", "TSVRaw").bytes().decode()
        if reason := self.guard.reason(canonical):
            raise EngineError(f"Code: 497. DB::Exception: Not enough privileges: {reason}. (ACCESS_DENIED)")

    def _names(self, table: str) -> list[str]:
        names: bytes = self._connection.query(f"SELECT name FROM system.{table}", "TSVRaw").bytes()
        return names.decode().split()


def _identifier(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _literal(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
