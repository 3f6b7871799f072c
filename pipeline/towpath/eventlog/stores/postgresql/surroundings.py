"""What is around the OBT on PostgreSQL: tables of its names, and what triggers, policies and indexes do to its rows.

Looks, and changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.columns import ADDED_COLUMNS
from towpath.eventlog.store import Finding
from towpath.eventlog.stores.postgresql.schema import COLUMN_TYPES, TABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from towpath.eventlog.stores.postgresql.session import Sessions

_MIGRATIONS, _TOKENS = f"{TABLE}_migration", f"{TABLE}_token"
_ELSEWHERE = "Rename it, or name a database of its own in EVENT_STORE_URL, and run `python manage.py eventlog migrate`"
_MOVE = (
    f"rename the table (ALTER TABLE ... RENAME), drop {_MIGRATIONS}, run `python manage.py eventlog migrate`, and copy"
    " its events with INSERT INTO ... SELECT"
)

_KINDS = {
    "r": "a table without partitions",
    "p": "a partitioned table",
    "v": "a view",
    "m": "a materialized view",
    "f": "a foreign table",
    "S": "a sequence",
    "i": "an index",
    "c": "a type",
}
_RECORD_COLUMNS = {
    "number": "integer",
    "name": "text",
    "checksum": "text",
    "applied_at": "timestamp with time zone",
}
_TOKEN_COLUMNS = {"token": "text", "month": "date", "written_at": "timestamp with time zone"}
_ADDED = {column.name for column in ADDED_COLUMNS}

#: The OBT, its partitions, and the table of the tokens.
_OURS = (
    "(SELECT inhrelid AS oid FROM pg_inherits WHERE inhparent = to_regclass(%s)"
    " UNION SELECT to_regclass(%s)::oid UNION SELECT to_regclass(%s)::oid)"
)


def applied_migrations(sessions: Sessions) -> Mapping[int, tuple[str, str]]:
    """What is recorded of the table; nothing of one that is gone, so that it can be made again."""
    if _reasons_of_record(sessions) or not _kind(sessions, _MIGRATIONS) or not _kind(sessions, TABLE):
        return {}
    rows = sessions.query(f"SELECT number, name, checksum FROM {_MIGRATIONS}")
    return {number: (name, checksum) for number, name, checksum in rows}


def foreign_tables(sessions: Sessions) -> list[str]:
    """What `migrate` must not touch."""
    found = {_MIGRATIONS: _reasons_of_record(sessions)}
    if not applied_migrations(sessions):
        reasons = _differences(sessions, is_recorded=False) if _kind(sessions, TABLE) else {}
        found[TABLE] = [what for what in reasons if reasons[what] != _PENDING]
        found[_TOKENS] = _reasons_of_tokens(sessions)
    return [
        f"the table {_schema(sessions, name)}.{name} is not one that Towpath made: {'; '.join(reasons)}. {_ELSEWHERE}"
        for name, reasons in found.items()
        if reasons
    ]


def table_problems(sessions: Sessions) -> list[str]:
    """What the promises miss in the tables, each with how to fix it."""
    if foreign := foreign_tables(sessions):
        return foreign
    if not _kind(sessions, TABLE):
        return [f"table {TABLE} does not exist: run `python manage.py eventlog migrate`"]
    found = [
        f"{what}: {remedy}"
        for what, remedy in _differences(sessions, is_recorded=bool(applied_migrations(sessions))).items()
    ]
    if reasons := _reasons_of_tokens(sessions):
        found.append(f"{_TOKENS}: {'; '.join(reasons)}: drop it, drop {_MIGRATIONS}, and run `eventlog migrate`")
    elif not _kind(sessions, _TOKENS):
        found.append(f"table {_TOKENS} does not exist: drop {_MIGRATIONS}, and run `python manage.py eventlog migrate`")
    if sessions.query("SELECT current_setting('fsync')") != [("on",)]:
        found.append("fsync is off: a power cut loses what was acknowledged; set it to on in postgresql.conf")
    if sessions.query("SELECT current_setting('server_encoding')") != [("UTF8",)]:
        found.append("the database's encoding is not UTF8: give the event store a database that has it")
    return found


def findings(sessions: Sessions) -> list[Finding]:
    """Triggers, rules and policies, each of which can leave rows out of an insert or of an answer."""
    names = [TABLE, TABLE, _TOKENS]
    triggers = sessions.query(
        f"SELECT tgrelid::regclass::text, tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid IN {_OURS}"
        " AND tgenabled <> 'D' ORDER BY 1, 2",
        names,
    )
    rules = sessions.query(
        f"SELECT ev_class::regclass::text, rulename FROM pg_rewrite WHERE ev_class IN {_OURS} ORDER BY 1, 2", names
    )
    policies = sessions.query(
        f"SELECT oid::regclass::text FROM pg_class WHERE oid IN {_OURS} AND row_security_active(oid) ORDER BY 1", names
    )
    return [
        _finding("triggers", [f"{name} on {table}" for table, name in triggers], "each insert runs them. Drop them"),
        _finding(
            "rules", [f"{name} on {table}" for table, name in rules], "they change what an insert does. Drop them"
        ),
        _finding(
            "policies",
            [table for (table,) in policies],
            "row level security applies to the role of EVENT_STORE_URL: ALTER TABLE ... DISABLE ROW LEVEL SECURITY,"
            " or ALTER ROLE ... BYPASSRLS",
        ),
    ]


def _finding(what: str, found: list[str], remedy: str) -> Finding:
    return Finding(f"event store {what}", not found, f"{', '.join(found)}: {remedy}" if found else "none")


#: Of a step that `eventlog migrate` still has to take.
_PENDING = "run `python manage.py eventlog migrate`"


def _differences(sessions: Sessions, *, is_recorded: bool) -> dict[str, str]:
    """What a promise misses in the OBT, and what to do about it."""
    kind = _kind(sessions, TABLE)
    if kind != "p":
        return {f"it is {_KINDS.get(kind, kind)}, not a partitioned table": _MOVE}
    found: dict[str, str] = {}
    ((key, persistence),) = sessions.query(
        "SELECT pg_get_partkeydef(oid), relpersistence FROM pg_class WHERE oid = to_regclass(%s)", [TABLE]
    )
    if key != "RANGE (event_date_time)":
        found[f"its partition key is {key}, not RANGE (event_date_time)"] = _MOVE
    if persistence != "p":
        found["it is not logged: a crash empties it"] = _MOVE
    partitions = sessions.query(
        "SELECT inhrelid::regclass::text FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid"
        " WHERE inhparent = to_regclass(%s) AND (relpersistence <> 'p' OR relkind <> 'r') ORDER BY 1",
        [TABLE],
    )
    for (name,) in partitions:
        found[f"its partition {name} is not a logged table of this server: a crash can empty it"] = (
            f"run ALTER TABLE {name} SET LOGGED"
        )
    found |= dict(_column_differences(sessions, is_recorded=is_recorded))
    found |= dict(_index_differences(sessions))
    checks = sessions.query(
        "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype IN ('c', 'f') ORDER BY 1",
        [TABLE],
    )
    for (name,) in checks:
        remedy = f"run ALTER TABLE {TABLE} DROP CONSTRAINT {name}"
        found[f"it has the constraint {name}: rows that it refuses become dead letters"] = remedy
    return found


def _column_differences(sessions: Sessions, *, is_recorded: bool) -> Iterator[tuple[str, str]]:
    rows = sessions.query(
        "SELECT attname, format_type(atttypid, atttypmod), attgenerated::text || attidentity::text, attnotnull,"
        " pg_get_expr(adbin, adrelid)"
        " FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum"
        " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
        [TABLE],
    )
    columns = {name: rest for name, *rest in rows}
    for name, wanted in COLUMN_TYPES.items():
        if name not in columns:
            is_pending = not is_recorded and name in _ADDED
            remedy = (
                f"run ALTER TABLE {TABLE} ADD COLUMN {name} {wanted} NOT NULL, with a DEFAULT for the rows there are"
            )
            yield (
                f"column {name} is missing, not {wanted}",
                _PENDING if is_pending else remedy if is_recorded else _MOVE,
            )
            continue
        kind, made, _, default = columns[name]
        if kind != wanted:
            yield f"column {name} is {kind}, not {wanted}", _MOVE
        elif made:
            yield f"column {name} is generated, not a plain value", _MOVE
        elif name == "written_at" and default != "clock_timestamp()":
            change = f"ALTER TABLE {TABLE} ALTER written_at SET DEFAULT clock_timestamp()"
            yield f"column written_at has the default {default}, not clock_timestamp()", f"run {change}"
    for name, (_, made, is_required, default) in columns.items():
        if name not in COLUMN_TYPES and is_required and not made and default is None:
            change = f"ALTER TABLE {TABLE} ALTER {name} DROP NOT NULL"
            yield f"column {name}, which no insert fills, takes no NULL", f"run {change}"


def _index_differences(sessions: Sessions) -> Iterator[tuple[str, str]]:
    indexes = sessions.query(
        "SELECT indexrelid::regclass::text, indisunique OR indisexclusion, pg_get_indexdef(indexrelid, 1, true)"
        " FROM pg_index WHERE indrelid = to_regclass(%s)",
        [TABLE],
    )
    for name, is_unique, _ in indexes:
        if is_unique:
            yield (
                f"its index {name} is unique: an id that comes again after a restore is refused",
                f"drop the constraint or index {name}",
            )
    if not any(first == "window_id" for _, _, first in indexes):
        statement = f"CREATE INDEX {TABLE}_by_window ON {TABLE} (window_id)"
        yield "it has no index on window_id: a read-back reads everything", f"run {statement}"


def _reasons_of_record(sessions: Sessions) -> list[str]:
    return _reasons(sessions, _MIGRATIONS, _RECORD_COLUMNS)


def _reasons_of_tokens(sessions: Sessions) -> list[str]:
    reasons = _reasons(sessions, _TOKENS, _TOKEN_COLUMNS)
    if not reasons and _kind(sessions, _TOKENS):
        keys = sessions.query(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = to_regclass(%s) AND contype = 'p'",
            [_TOKENS],
        )
        if keys != [("PRIMARY KEY (token, month)",)]:
            reasons.append("its primary key is not (token, month)")
    return reasons


def _reasons(sessions: Sessions, name: str, wanted: Mapping[str, str]) -> list[str]:
    """Why what has this name is not the plain table with these columns; nothing if there is none."""
    kind = _kind(sessions, name)
    if not kind:
        return []
    if kind != "r":
        return [f"it is {_KINDS.get(kind, kind)}, not a table"]
    columns = dict(
        sessions.query(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
            [name],
        )
    )
    return [
        f"column {column} is {columns.get(column, 'missing')}, not {kind}"
        for column, kind in wanted.items()
        if columns.get(column) != kind
    ]


def _kind(sessions: Sessions, name: str) -> str:
    rows = sessions.query("SELECT relkind::text FROM pg_class WHERE oid = to_regclass(%s)", [name])
    return str(rows[0][0]) if rows else ""


def _schema(sessions: Sessions, name: str) -> str:
    ((schema,),) = sessions.query(
        "SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = to_regclass(%s)", [name]
    )
    return str(schema)
