"""The digests of a proof as PostgreSQL computes them: `towpath.eventlog.proof` in its SQL.

No setting of a session changes a byte of what is digested: the text of a time or a float comes from its binary form.
An owner of the table can let its columns be NULL. Such a row is digested and found as any other.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, Kind, row_columns
from towpath.eventlog.proof import RowDigest, WindowDigest, kinds
from towpath.eventlog.rows import escapes
from towpath.eventlog.stores.postgresql.schema import MONTH, TABLE
from towpath.eventlog.values import NO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The start of 2000 in microseconds since 1970: PostgreSQL counts times from 2000.
_YEAR_2000 = (datetime(2000, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

# Exact to the microsecond in every version: before PostgreSQL 14, extract() returns a float. A time is infinite only
# if somebody has set it by hand.
_MICROSECONDS = (
    "CASE WHEN isfinite({name})"
    f" THEN (('x' || encode(timestamptz_send({{name}}), 'hex'))::bit(64)::bigint + {_YEAR_2000})::text"
    " ELSE {name}::text END"
)
#: The bytes of a value, for kinds that are not text.
_TEXTS = {
    Kind.WHOLE_NUMBER: "{name}::text",
    Kind.SIGNED_NUMBER: "{name}::text",
    Kind.DECIMAL: "{name}::text",
    Kind.TIME: _MICROSECONDS,
}
#: The same with the length in front, for kinds whose length is known.
_FORMS = {
    Kind.BOOLEAN: "CASE {name} WHEN true THEN '4:true' WHEN false THEN '5:false' ELSE ':' END",
    Kind.FLOAT: "coalesce('16:' || encode(float8send({name}), 'hex'), ':')",
    Kind.UUID: "coalesce('36:' || {name}::text, ':')",
}

#: The first 6 bytes of a row's digest as a number.
_NUMBER = "('x' || encode(substr(digest, 1, 6), 'hex'))::bit(48)::bigint"

#: The months of the earliest and the latest time that a row can be reported with. PostgreSQL holds times that Python
#: cannot, such as infinity. No event has one, but a row that somebody has added by hand must be found.
_FIRST_MONTH, _LAST_MONTH = date(2, 1, 1), date(9998, 12, 1)
SAID_TIME = (
    f"least(greatest(event_date_time, '{_FIRST_MONTH.isoformat()}'::date::timestamp AT TIME ZONE 'UTC'),"
    f" '{_LAST_MONTH.isoformat()}'::date::timestamp AT TIME ZONE 'UTC')"
)
_SAID_MONTH = MONTH.replace("event_date_time", SAID_TIME)

#: What a row is said to be, even if somebody has taken its identity away.
SAID_WINDOW = f"coalesce(window_id, '{NO_WINDOW}')"
_SAID_OUTBOX, _SAID_ID, _SAID_TYPE = "coalesce(outbox, '')", "coalesce(outbox_id, 0)", "coalesce(event_type, '')"

# PostgreSQL decides the second line while it plans: without NO_WINDOW among the windows, it is not there.
OF_WINDOWS = f"""(
    window_id = ANY(%(windows)s::uuid[])
    OR window_id IS NULL AND '{NO_WINDOW}' = ANY(%(windows)s::uuid[])
)"""
# It decides `infinity` and `-infinity` in the same way. Only a default partition holds a row without a time, which
# counts as one of the first month.
WITHIN = """(
    event_date_time >= %(since)s AND (event_date_time < %(until)s OR %(until)s = 'infinity')
    OR event_date_time IS NULL AND %(since)s = '-infinity'
)"""

#: Windows on a page of `windows_of`.
PAGE_WINDOWS = 10_000


def digests_of_windows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """Return the statement for the digests of `%(windows)s`, whose rows `window_digests` reads."""
    # Without OFFSET, PostgreSQL would inline the digest's expression wherever it is used, and compute it each time.
    return f"""
        SELECT window_id::text, outbox, month, count(*),
            encode(sha256(convert_to(string_agg(encode(digest, 'hex'), '' ORDER BY digest), 'UTF8')), 'hex'),
            sum({_NUMBER}), sum({_NUMBER}::numeric * outbox_id)
        FROM (
            SELECT {SAID_WINDOW} AS window_id, {_SAID_OUTBOX} AS outbox, {_SAID_ID} AS outbox_id,
                {_SAID_MONTH} AS month, {_digest(columns, own)} AS digest
            FROM {TABLE} WHERE {OF_WINDOWS} OFFSET 0
        ) AS digested
        GROUP BY window_id, outbox, month
        """


def window_digests(rows: Sequence[tuple[Any, ...]]) -> list[WindowDigest]:
    """Return the digests in the rows of `digests_of_windows`, ordered by window, outbox and month."""
    return sorted(
        (
            WindowDigest(UUID(window_id), outbox, month, stored, digest, int(total), int(id_total))
            for window_id, outbox, month, stored, digest, total, id_total in rows
        ),
        key=lambda one: (one.window_id, one.outbox, one.month),
    )


def digests_of_rows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """Return the statement for the digest of each row of `%(windows)s`, whose rows `row_digests` reads."""
    return f"""
        SELECT {SAID_WINDOW}::text, {_SAID_OUTBOX}, {_SAID_ID}, {_SAID_MONTH}, {_SAID_TYPE}, {SAID_TIME},
            encode({_digest(columns, own)}, 'hex')
        FROM {TABLE} WHERE {OF_WINDOWS}
        """


def row_digests(rows: Sequence[tuple[Any, ...]]) -> dict[UUID, list[RowDigest]]:
    """Return the digests in the rows of `digests_of_rows` by window, ordered by outbox, id and digest."""
    digests: dict[UUID, list[RowDigest]] = {}
    for window_id, outbox, outbox_id, month, event_type, at, digest in rows:
        row = RowDigest(outbox, outbox_id, month, event_type, at.astimezone(UTC), digest)
        digests.setdefault(UUID(window_id), []).append(row)
    return {
        window: sorted(rows, key=lambda one: (one.outbox, one.outbox_id, one.digest))
        for window, rows in digests.items()
    }


def digests_of_bodies(own: tuple[Column, ...]) -> str:
    """Return the statement for (window, SHA-256 of the COPY text that its rows make).

    `%(windows)s` is a JSON object: the outboxes of each window, in the order in which they were loaded.
    """
    line = r", E'\t', ".join(_field(column) for column in row_columns(own))
    # Window by window, so that only the rows of one are sorted together. An outbox that is missing from the order was
    # never loaded: its rows come last, and change the digest. No column of a project may begin with outbox_.
    return rf"""
        SELECT w.id, body.digest FROM jsonb_each(%(windows)s::jsonb) AS w (id, outboxes), LATERAL (
            SELECT encode(sha256(convert_to(
                string_agg(concat({line}, E'\n'), '' ORDER BY outbox_place, outbox_id), 'UTF8'
            )), 'hex') AS digest
            FROM {TABLE}
            LEFT JOIN jsonb_array_elements_text(w.outboxes) WITH ORDINALITY AS o (outbox_name, outbox_place)
                ON outbox_name = outbox
            WHERE window_id = w.id::uuid HAVING count(*) > 0
        ) AS body
        """


#: Every partition that has rows of its own, with its bounds.
PARTITIONS = f"""
SELECT relid::text, coalesce(pg_get_expr(relpartbound, relid), '') FROM pg_partition_tree('{TABLE}'::regclass)
JOIN pg_class ON oid = relid WHERE isleaf
"""
_BOUNDS = re.compile(r"FOR VALUES FROM \('(\d{4}-\d\d-\d\d 00:00:00\+00)'\) TO \('(\d{4}-\d\d-\d\d 00:00:00\+00)'\)")


def months(partitions: Sequence[tuple[str, str]]) -> str:
    """Return the statement for the first day of each month that has rows. For a partition of one month, it looks for
    one row; in any other partition, it reads all of them.

    It reads the table only: a role that may read the table may not be allowed to read a partition by its own name.
    """
    parts = []
    for name, bound in partitions:
        found = _BOUNDS.fullmatch(bound)
        since, until = map(datetime.fromisoformat, found.groups()) if found else (None, None)
        if since is not None and bounds(since.date()) == (since, until):
            within = f"event_date_time >= '{since}' AND event_date_time < '{until}'"
            parts.append(f"SELECT '{since.date()}'::date WHERE EXISTS (SELECT FROM {TABLE} WHERE {within})")
        else:
            quoted = name.replace("'", "''")
            parts.append(f"SELECT {_SAID_MONTH} FROM {TABLE} WHERE tableoid = '{quoted}'::regclass")
    return " UNION ".join(parts)


#: One row if there is a row of NO_WINDOW from `%(since)s` to before `%(until)s`.
OF_NO_WINDOW = f"SELECT 1 FROM {TABLE} WHERE (window_id IS NULL OR window_id = '{NO_WINDOW}') AND {WITHIN} LIMIT 1"


def windows_of() -> str:
    """Return the statement for a page of the windows from `%(since)s` to before `%(until)s`, after `%(after)s`. Each
    window is one lookup in the index."""
    found = _windows("AND window_id > %(after)s")
    return f"{found} SELECT id::text FROM found WHERE id IS NOT NULL LIMIT {PAGE_WINDOWS}"


def _windows(after: str) -> str:
    def following(window: str) -> str:
        return f"""(
            SELECT window_id FROM {TABLE} WHERE {WITHIN} {window} ORDER BY window_id LIMIT 1
        )"""

    return f"""
        WITH RECURSIVE found (id) AS (
            {following(after)}
            UNION ALL SELECT {following("AND window_id > found.id")} FROM found WHERE id IS NOT NULL
        )
        """


#: How many windows have rows from `%(since)s` to before `%(until)s`.
COUNT_WINDOWS = f"{_windows('')} SELECT count(id) FROM found"


def bounds(month: date) -> tuple[datetime, datetime]:
    """Return the first moment of the month and that of the next month, in UTC."""
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    return first, datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def _digest(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    form = ", ".join(part for name, kind in kinds(columns, own) for part in _form(name, kind))
    # With ||, a row with a NULL would have no digest. concat() skips NULL, and so leaves `:` of the form of a text.
    return f"sha256(convert_to(concat({form}), 'UTF8'))"


def _form(name: str, kind: Kind) -> Iterator[str]:
    if kind in _FORMS:
        yield _FORMS[kind].format(name=name)
        return
    text = _TEXTS.get(kind, "{name}").format(name=name)
    yield from (f"octet_length({text})", "':'", text)


def _field(column: Column) -> str:
    """Return the SQL for a column's value in COPY text, which has a text of its own for NULL. Except for escapes, the
    session's settings make it."""
    text = f"{column.name}::text"
    if column.kind in {Kind.TEXT, Kind.LOW_CARDINALITY_TEXT}:
        for plain, escaped in escapes():
            text = f"replace({text}, {_literal(plain)}, {_literal(escaped)})"
    return f"coalesce({text}, {_NULL})"


def _literal(text: str) -> str:
    return "E'" + "".join(f"\\x{byte:02x}" for byte in text.encode()) + "'"


_NULL = _literal(r"\N")


def ends(month: date) -> tuple[str, str]:
    """Return `bounds` as text for SQL. The first month has no lower bound, and the last month no upper bound: they are
    infinite."""
    since, until = bounds(month)
    first = month.replace(day=1)
    return (
        "-infinity" if first == _FIRST_MONTH else since.isoformat(),
        "infinity" if first == _LAST_MONTH else until.isoformat(),
    )
