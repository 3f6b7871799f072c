"""The digests of a proof, as PostgreSQL computes them: `towpath.eventlog.proof` in its SQL.

No setting of a session changes a byte of what is digested: times and floats become text by the bytes that they are.
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: PostgreSQL counts from 2000 on.
_YEAR_2000 = (datetime(2000, 1, 1, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)

# In every version to the microsecond: what extract() gives is a float before PostgreSQL 14. Only by hand is a time
# infinite.
_MICROSECONDS = (
    "CASE WHEN isfinite({name})"
    f" THEN (('x' || encode(timestamptz_send({{name}}), 'hex'))::bit(64)::bigint + {_YEAR_2000})::text"
    " ELSE {name}::text END"
)
#: The bytes of a value, of each kind that is not text.
_TEXTS = {
    Kind.WHOLE_NUMBER: "{name}::text",
    Kind.SIGNED_NUMBER: "{name}::text",
    Kind.DECIMAL: "{name}::text",
    Kind.TIME: _MICROSECONDS,
}
#: With their lengths, of those that need not be measured.
_FORMS = {
    Kind.BOOLEAN: "CASE WHEN {name} THEN '4:true' ELSE '5:false' END",
    Kind.FLOAT: "'16:', encode(float8send({name}), 'hex')",
    Kind.UUID: "'36:', {name}::text",
}

#: Of a row's digest, the first bytes as a number.
_NUMBER = "('x' || encode(substr(digest, 1, 6), 'hex'))::bit(48)::bigint"

#: Windows that `windows_of` asks for at a time.
PAGE_WINDOWS = 10_000


def digests_of_windows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """For `%(windows)s`. The answer is read by `window_digests`."""
    # Without OFFSET, PostgreSQL would put the digest's expression in wherever its name stands, and compute each anew.
    return f"""
        SELECT window_id::text, outbox, month, count(*),
            encode(sha256(convert_to(string_agg(encode(digest, 'hex'), '' ORDER BY digest), 'UTF8')), 'hex'),
            sum({_NUMBER}), sum({_NUMBER}::numeric * outbox_id)
        FROM (
            SELECT window_id, outbox, outbox_id, {MONTH} AS month, {_digest(columns, own)} AS digest
            FROM {TABLE} WHERE window_id = ANY(%(windows)s::uuid[]) OFFSET 0
        ) AS digested
        GROUP BY window_id, outbox, month
        """


def window_digests(rows: Sequence[tuple[Any, ...]]) -> list[WindowDigest]:
    return sorted(
        (
            WindowDigest(UUID(window_id), outbox, month, stored, digest, int(total), int(id_total))
            for window_id, outbox, month, stored, digest, total, id_total in rows
        ),
        key=lambda one: (one.window_id, one.outbox, one.month),
    )


def digests_of_rows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """For `%(windows)s`. The answer is read by `row_digests`."""
    return f"""
        SELECT window_id::text, outbox, outbox_id, {MONTH}, event_type, event_date_time,
            encode({_digest(columns, own)}, 'hex')
        FROM {TABLE} WHERE window_id = ANY(%(windows)s::uuid[])
        """


def row_digests(rows: Sequence[tuple[Any, ...]]) -> dict[UUID, list[RowDigest]]:
    digests: dict[UUID, list[RowDigest]] = {}
    for window_id, outbox, outbox_id, month, event_type, at, digest in rows:
        row = RowDigest(outbox, outbox_id, month, event_type, at.astimezone(UTC), digest)
        digests.setdefault(UUID(window_id), []).append(row)
    return {
        window: sorted(rows, key=lambda one: (one.outbox, one.outbox_id, one.digest))
        for window, rows in digests.items()
    }


def digests_of_bodies(own: tuple[Column, ...]) -> str:
    """For `%(windows)s`, which is JSON: the outboxes of each window, in their order."""
    line = r", E'\t', ".join(_field(column) for column in row_columns(own))
    # Window by window: nothing is sorted but the rows of one. An outbox that is in no order is none that was loaded:
    # its rows come last, and change the digest. No column of a project's begins with outbox_.
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
    """The months of which the partitions hold rows. Of a partition for a month, one row is looked at.

    All of it through the table: who may read that may not read a partition by its own name.
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
            parts.append(f"SELECT {MONTH} FROM {TABLE} WHERE tableoid = '{quoted}'::regclass")
    return " UNION ".join(parts)


def windows_of(*, is_first: bool) -> str:
    """A page of the windows from `%(since)s` to before `%(until)s`: those that follow `%(after)s`, unless it is the
    first. Each is one look into the index."""

    def following(window: str) -> str:
        return f"""(
            SELECT window_id FROM {TABLE} WHERE event_date_time >= %(since)s AND event_date_time < %(until)s {window}
            ORDER BY window_id LIMIT 1
        )"""

    return f"""
        WITH RECURSIVE found (id) AS (
            {following("" if is_first else "AND window_id > %(after)s")}
            UNION ALL SELECT {following("AND window_id > found.id")} FROM found WHERE id IS NOT NULL
        )
        SELECT id::text FROM found WHERE id IS NOT NULL LIMIT {PAGE_WINDOWS}
        """


def bounds(month: date) -> tuple[datetime, datetime]:
    """The first moment of a month, and that of the next one."""
    first = datetime(month.year, month.month, 1, tzinfo=UTC)
    return first, datetime(month.year + month.month // 12, month.month % 12 + 1, 1, tzinfo=UTC)


def _digest(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    form = ", ".join(part for name, kind in kinds(columns, own) for part in _form(name, kind))
    # concat() has a NULL, which no column of ours can hold, as nothing: with ||, the row would have no digest.
    return f"sha256(convert_to(concat({form}), 'UTF8'))"


def _form(name: str, kind: Kind) -> Iterator[str]:
    if kind in _FORMS:
        yield _FORMS[kind].format(name=name)
        return
    text = _TEXTS.get(kind, "{name}").format(name=name)
    yield from (f"octet_length({text})", "':'", text)


def _field(column: Column) -> str:
    """A column's value in COPY text: but for the escapes, it is the text that the session's pinned settings give it."""
    text = f"{column.name}::text"
    if column.kind in {Kind.TEXT, Kind.LOW_CARDINALITY_TEXT}:
        for plain, escaped in escapes():
            text = f"replace({text}, {_literal(plain)}, {_literal(escaped)})"
    return text


def _literal(text: str) -> str:
    return "E'" + "".join(f"\\x{byte:02x}" for byte in text.encode()) + "'"
