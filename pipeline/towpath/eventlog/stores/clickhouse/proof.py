"""The digests of a proof, as ClickHouse computes them: `towpath.eventlog.proof` in its SQL.

Each statement gives one array, and no setting of a profile changes a byte of what is digested: numbers, times and
booleans become text by functions that no format's setting reaches.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from towpath.eventlog.columns import Column, Kind, row_columns
from towpath.eventlog.proof import RowDigest, WindowDigest, kinds, month_of
from towpath.eventlog.rows import escapes
from towpath.eventlog.stores.clickhouse.schema import TABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: The bytes of a value, of each kind that is not text.
_TEXTS = {
    Kind.WHOLE_NUMBER: "toString({name})",
    Kind.SIGNED_NUMBER: "toString({name})",
    Kind.DECIMAL: "toDecimalString({name}, 9)",
    Kind.TIME: "toString(toUnixTimestamp64Micro({name}))",
}
#: With their lengths, of those that need not be measured.
_FORMS = {
    Kind.BOOLEAN: "if({name}, '4:true', '5:false')",
    # hex() leaves out the zeros in front of a number.
    Kind.FLOAT: "concat('16:', leftPad(lower(hex(reinterpretAsUInt64({name}))), 16, '0'))",
    Kind.UUID: "concat('36:', toString({name}))",
}

#: Aliases stand for columns of their name as well: a project's column cannot begin so.
_ROW = "towpath_digest"
_MONTH = "towpath_month"

_MONTH_NUMBER = "toYYYYMM(event_date_time)"

#: Windows that `windows_of` asks for at a time: enough that looking through the month again costs little beside what
#: is done with them.
PAGE_WINDOWS = 10_000


def digests_of_windows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """For `%(windows)s`. The answer is read by `window_digests`."""
    # Bytes in the order of their hexadecimal digits. They are joined as digits: a FixedString that becomes text loses
    # the zeros at its end.
    joined = f"lower(arrayStringConcat(arrayMap(one -> hex(one), arraySort(groupArray({_ROW})))))"
    # The first 8 bytes, without the last 2 of them.
    number = f"bitShiftRight(byteSwap(reinterpretAsUInt64({_ROW})), 16)"
    return f"""
        SELECT groupArray((window_id, outbox, {_MONTH}, towpath_rows, towpath_window, towpath_sum, towpath_id_sum))
        FROM (
            SELECT window_id, outbox, {_MONTH}, count() AS towpath_rows,
                lower(hex(SHA256({joined}))) AS towpath_window,
                toString(sum(toUInt256({number}))) AS towpath_sum,
                toString(sum(toUInt256({number}) * outbox_id)) AS towpath_id_sum
            FROM (
                SELECT window_id, outbox, outbox_id, {_MONTH_NUMBER} AS {_MONTH}, {_digest(columns, own)} AS {_ROW}
                FROM {TABLE} WHERE window_id IN %(windows)s
            )
            GROUP BY window_id, outbox, {_MONTH}
        )
        """


def window_digests(found: Sequence[Any]) -> list[WindowDigest]:
    return sorted(
        (
            WindowDigest(UUID(str(window_id)), str(outbox), month_of(month), rows, digest, int(total), int(id_total))
            for window_id, outbox, month, rows, digest, total, id_total in found
        ),
        key=lambda one: (one.window_id, one.outbox, one.month),
    )


def digests_of_rows(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    """For `%(windows)s`. The answer is read by `row_digests`."""
    return f"""
        SELECT groupArray((
            window_id, outbox, outbox_id, {_MONTH_NUMBER}, event_type, toUnixTimestamp64Micro(event_date_time),
            lower(hex({_digest(columns, own)}))
        ))
        FROM {TABLE} WHERE window_id IN %(windows)s
        """


def row_digests(found: Sequence[Any]) -> dict[UUID, list[RowDigest]]:
    digests: dict[UUID, list[RowDigest]] = {}
    for window_id, outbox, outbox_id, month, event_type, microseconds, digest in found:
        at = _EPOCH + timedelta(microseconds=int(microseconds))
        row = RowDigest(str(outbox), int(outbox_id), month_of(month), str(event_type), at, digest)
        digests.setdefault(UUID(str(window_id)), []).append(row)
    return {
        window: sorted(rows, key=lambda one: (one.outbox, one.outbox_id, one.digest))
        for window, rows in digests.items()
    }


def digests_of_bodies(own: tuple[Column, ...]) -> str:
    """For `%(windows)s`, for the `%(orders)s` of outboxes that there are among them, and for `%(order_of_windows)s`:
    the place that the order of each window has there, from 1 on."""
    line = ", '\\t', ".join(_field(column) for column in row_columns(own))
    order = "%(orders)s[transform(toString(window_id), %(windows)s, %(order_of_windows)s, 0)]"
    # An outbox that is in no order is none that was loaded: its rows come first, and change the digest.
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


#: Grouped by the key of the partitions, and no more: the parts say it, and no row is read.
MONTHS = f"""
SELECT groupArray({_MONTH}) FROM (SELECT {_MONTH_NUMBER} AS {_MONTH} FROM {TABLE} GROUP BY {_MONTH} HAVING count() > 0)
"""


def windows_of(*, is_first: bool) -> str:
    """A page of the windows of `%(month)s`, those that follow `%(after)s` unless it is the first."""
    after = "" if is_first else "AND window_id > toUUID(%(after)s)"
    return f"""
        SELECT groupArray(window_id) FROM (
            SELECT DISTINCT window_id FROM {TABLE} WHERE {_MONTH_NUMBER} = %(month)s {after}
            ORDER BY window_id LIMIT {PAGE_WINDOWS}
        )
        """


def _digest(columns: Sequence[str], own: tuple[Column, ...]) -> str:
    form = ", ".join(_form(name, kind) for name, kind in kinds(columns, own))
    # No column of ours can hold NULL. Should one, its row is still a row, with a digest.
    return f"SHA256(ifNull(concat('', {form}), ''))"


def _form(name: str, kind: Kind) -> str:
    if kind in _FORMS:
        return _FORMS[kind].format(name=name)
    text = _TEXTS.get(kind, "{name}").format(name=name)
    return f"toString(length({text})), ':', {text}"


def _field(column: Column) -> str:
    """A column's value in COPY text. The settings of formats reach none of these functions."""
    match column.kind:
        case Kind.TEXT | Kind.LOW_CARDINALITY_TEXT:
            text = column.name
            for plain, escaped in escapes():
                text = f"replaceAll({text}, {_literal(plain)}, {_literal(escaped)})"
            return text
        case Kind.BOOLEAN:
            return f"if({column.name}, 'true', 'false')"
        case Kind.TIME:
            microseconds = f"positiveModulo(toUnixTimestamp64Micro({column.name}), 1000000)"
            fraction = f"concat('.', trim(TRAILING '0' FROM leftPad(toString({microseconds}), 6, '0')))"
            return f"concat(formatDateTime({column.name}, '%%F %%T'), if({microseconds} = 0, '', {fraction}), '+00')"
        case Kind.UUID:
            return f"toString({column.name})"
    return _TEXTS[column.kind].format(name=column.name)


def _literal(text: str) -> str:
    return "unhex('" + text.encode().hex() + "')"
