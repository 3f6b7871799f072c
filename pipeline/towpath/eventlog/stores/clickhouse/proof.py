"""The digests of a proof as ClickHouse computes them: `towpath.eventlog.proof` in its SQL.

Each statement returns one array. No setting of a profile changes a byte of what is digested: the functions that turn
numbers, times and booleans into text depend on no setting. An administrator can make columns Nullable. Such a row is
digested and found as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, Kind, row_columns
from towpath.eventlog.proof import RowDigest, WindowDigest, kinds, month_of
from towpath.eventlog.rows import escapes
from towpath.eventlog.stores.clickhouse.moments import of_microseconds
from towpath.eventlog.stores.clickhouse.schema import TABLE
from towpath.eventlog.values import NO_WINDOW

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The bytes of a value, for kinds that are not text.
_TEXTS = {
    Kind.WHOLE_NUMBER: "toString({name})",
    Kind.SIGNED_NUMBER: "toString({name})",
    Kind.DECIMAL: "toDecimalString({name}, 9)",
    Kind.TIME: "toString(toUnixTimestamp64Micro({name}))",
}
#: The same with the length in front, for kinds whose length is known.
_FORMS = {
    Kind.BOOLEAN: "multiIf(isNull({name}), ':', {name}, '4:true', '5:false')",
    # hex() omits leading zeros.
    Kind.FLOAT: "ifNull(concat('16:', leftPad(lower(hex(reinterpretAsUInt64({name}))), 16, '0')), ':')",
    Kind.UUID: "ifNull(concat('36:', toString({name})), ':')",
}

#: An alias hides a column of the same name. No column of a project may begin with towpath_.
_ROW = "towpath_digest"
_MONTH = "towpath_month"
_WINDOW = "towpath_window_id"

_MONTH_NUMBER = "toYYYYMM(event_date_time)"
SAID_WINDOW = f"ifNull(window_id, toUUID('{NO_WINDOW}'))"
# Of a column that is not Nullable, the server knows beforehand that the second line is false.
OF_WINDOWS = f"""(
    window_id IN %(windows)s
    OR window_id IS NULL AND '{NO_WINDOW}' IN %(windows)s
)"""

#: Windows on a page of `windows_of`. Each page scans the month again: with this many windows, that costs little beside
#: what is done with them.
PAGE_WINDOWS = 10_000


def digests_of_windows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """Return the statement for the digests of `%(windows)s`, whose answer `window_digests` reads."""
    # Sorted as bytes, which is the order of their hexadecimal digits, but joined as digits: a FixedString loses its
    # trailing zeros when it becomes text.
    joined = f"lower(arrayStringConcat(arrayMap(one -> hex(one), arraySort(groupArray({_ROW})))))"
    # The first 6 bytes: 8 of them, without the last 2.
    number = f"bitShiftRight(byteSwap(reinterpretAsUInt64({_ROW})), 16)"
    return f"""
        SELECT groupArray((
            {_WINDOW}, outbox, {_MONTH}, towpath_rows, towpath_window, towpath_sum, towpath_id_sum
        ))
        FROM (
            SELECT {_WINDOW}, outbox, {_MONTH}, count() AS towpath_rows,
                lower(hex(SHA256({joined}))) AS towpath_window,
                toString(sum(toUInt256({number}))) AS towpath_sum,
                toString(sum(toUInt256({number}) * outbox_id)) AS towpath_id_sum
            FROM (
                SELECT {SAID_WINDOW} AS {_WINDOW}, outbox, outbox_id, {_MONTH_NUMBER} AS {_MONTH},
                    {_digest(columns, own)} AS {_ROW}
                FROM {TABLE} WHERE {OF_WINDOWS}
            )
            GROUP BY {_WINDOW}, outbox, {_MONTH}
        )
        """


def window_digests(found: Sequence[Any]) -> list[WindowDigest]:
    """Return the digests in the answer to `digests_of_windows`, ordered by window, outbox and month."""
    return sorted(
        (
            WindowDigest(UUID(str(window_id)), str(outbox), month_of(month), rows, digest, int(total), int(id_total))
            for window_id, outbox, month, rows, digest, total, id_total in found
        ),
        key=lambda one: (one.window_id, one.outbox, one.month),
    )


def digests_of_rows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """Return the statement for the digest of each row of `%(windows)s`, whose answer `row_digests` reads."""
    return f"""
        SELECT groupArray((
            {SAID_WINDOW}, outbox, outbox_id, {_MONTH_NUMBER}, ifNull(event_type, ''),
            toUnixTimestamp64Micro(event_date_time), lower(hex({_digest(columns, own)}))
        ))
        FROM {TABLE} WHERE {OF_WINDOWS}
        """


def row_digests(found: Sequence[Any]) -> dict[UUID, list[RowDigest]]:
    """Return the digests in the answer to `digests_of_rows` by window, ordered by outbox, id and digest."""
    digests: dict[UUID, list[RowDigest]] = {}
    for window_id, outbox, outbox_id, month, event_type, number, digest in found:
        at = of_microseconds(int(number))
        row = RowDigest(str(outbox), int(outbox_id), month_of(month), str(event_type), at, digest)
        digests.setdefault(UUID(str(window_id)), []).append(row)
    return {
        window: sorted(rows, key=lambda one: (one.outbox, one.outbox_id, one.digest))
        for window, rows in digests.items()
    }


def digests_of_bodies(own: tuple[Column, ...]) -> str:
    """Return the statement for (window, SHA-256 of the COPY text that its rows make).

    Parameters: `%(windows)s`; `%(orders)s`, the distinct orders of outboxes among them; and `%(order_of_windows)s`, for
    each window the place of its order in `orders`, counted from 1.
    """
    line = ", '\\t', ".join(_field(column) for column in row_columns(own))
    order = "%(orders)s[transform(toString(window_id), %(windows)s, %(order_of_windows)s, 0)]"
    # An outbox that is missing from the order was never loaded: its rows come first, and change the digest.
    return f"""
        SELECT groupArray((toString(window_id), towpath_digest)) FROM (
            SELECT window_id, lower(hex(SHA256(arrayStringConcat(
                arrayMap(one -> one.3, arraySort(groupArray((towpath_place, outbox_id, towpath_line))))
            )))) AS towpath_digest
            FROM (
                SELECT window_id, outbox_id, indexOf({order}, outbox) AS towpath_place,
                    concat({line}, '\\n') AS towpath_line
                FROM {TABLE} WHERE window_id IN %(windows)s
            )
            GROUP BY window_id
        )
        """


#: Grouped by the partition key alone, so the server answers from the list of parts, and reads no row.
MONTHS = f"""
SELECT groupArray({_MONTH}) FROM (SELECT {_MONTH_NUMBER} AS {_MONTH} FROM {TABLE} GROUP BY {_MONTH} HAVING count() > 0)
"""


def windows_of(*, is_first: bool) -> str:
    """Return the statement for a page of the windows of `%(month)s`: the first page, or the one after `%(after)s`. The
    first one begins with NO_WINDOW, if there are rows of it."""
    after = "" if is_first else f"WHERE toString({_WINDOW}) > %(after)s"
    # ClickHouse orders ids by their second halves, which are random. The ledger finds neighbours by their first.
    return f"""
        SELECT groupArray({_WINDOW}) FROM (
            SELECT {_WINDOW} FROM (
                SELECT DISTINCT {SAID_WINDOW} AS {_WINDOW} FROM {TABLE} WHERE {_MONTH_NUMBER} = %(month)s
            ) {after} ORDER BY toString({_WINDOW}) LIMIT {PAGE_WINDOWS}
        )
        """


def _digest(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    form = ", ".join(_form(name, kind) for name, kind in kinds(columns, own))
    return f"SHA256(concat('', {form}))"


def _form(name: str, kind: Kind) -> str:
    if kind in _FORMS:
        return _FORMS[kind].format(name=name)
    text = _TEXTS.get(kind, "{name}").format(name=name)
    # One NULL would be that of the whole row.
    return f"ifNull(toString(length({text})), ''), ':', ifNull({text}, '')"


def _field(column: Column) -> str:
    """Return the SQL for a column's value in COPY text, which has a text of its own for NULL. No setting for formats
    affects these functions."""
    if column.kind is Kind.BOOLEAN:
        return f"multiIf(isNull({column.name}), {_NULL}, {column.name}, 'true', 'false')"
    return f"ifNull({_text(column)}, {_NULL})"


def _text(column: Column) -> str:
    match column.kind:
        case Kind.TEXT | Kind.LOW_CARDINALITY_TEXT:
            text = column.name
            for plain, escaped in escapes():
                text = f"replaceAll({text}, {_literal(plain)}, {_literal(escaped)})"
            return text
        case Kind.TIME:
            microseconds = f"positiveModulo(toUnixTimestamp64Micro({column.name}), 1000000)"
            fraction = f"concat('.', trim(TRAILING '0' FROM leftPad(toString({microseconds}), 6, '0')))"
            return f"concat(formatDateTime({column.name}, '%%F %%T'), if({microseconds} = 0, '', {fraction}), '+00')"
        case Kind.UUID:
            return f"toString({column.name})"
    return _TEXTS[column.kind].format(name=column.name)


def _literal(text: str) -> str:
    return "unhex('" + text.encode().hex() + "')"


_NULL = _literal(r"\N")
