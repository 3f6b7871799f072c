"""Millions of events on ClickHouse, made by the server itself: 51 types over 30 days, contexts of some 200 bytes."""

from __future__ import annotations

DAYS = 30
#: Within a month, so that few rows are in another partition.
END = "2026-01-31 00:00:00"
COLUMNS = (
    "event_type, event_date_time, environment, event_context, metadata_version, outbox, outbox_id, window_id,"
    " written_at, actor, request_id, ip, target, outcome"
)


def events(start: int, count: int, rows: int, *, end: str = END) -> str:
    """A SELECT of some of so many events, in the order of their time. The lower a type's number, the more it has."""
    step = DAYS * 24 * 3600 * 1_000_000 // rows
    return f"""
        SELECT
            rand(2) / 4294967296 AS r,
            multiIf(rand(1) % 500000 = 1, 51, rand(1) % 20000 = 0, 50, 1 + floor(pow(r, 4) * 49)) AS n,
            concat('type_', leftPad(toString(toUInt8(n)), 2, '0')) AS event_type,
            toDateTime64('{end}', 6, 'UTC') - toIntervalMicrosecond(({rows} - number) * {step}) AS event_date_time,
            'production' AS environment,
            ['order', 'refund', 'invoice', 'card', 'declined', 'shipping', 'address', 'changed', 'login', 'reset']
                AS words,
            arrayStringConcat(arrayMap(at -> words[1 + cityHash64(number, at) % 10], range(12)), ' ') AS note,
            format(
                '{{{{"amount": {{}}, "email": "person{{}}@example.com", "note": "{{}}", "id": "{{}}", "x": "{{}}"}}}}',
                toString(rand(3) % 100000), toString(rand(4) % 1000000), note, hex(cityHash64(number)),
                concat('needle', leftPad(toString(number), 9, '0'))
            ) AS event_context,
            1 AS metadata_version,
            'outbox_event' AS outbox,
            number AS outbox_id,
            reinterpretAsUUID(toFixedString(unhex(leftPad(hex(intDiv(number, 1000)), 32, '0')), 16)) AS window_id,
            event_date_time AS written_at,
            concat('user:', toString(rand(5) % 1000000)) AS actor,
            concat('request-', toString(number)) AS request_id,
            '203.0.113.7' AS ip,
            concat('invoice:', toString(number)) AS target,
            ['success', 'failure', 'denied'][1 + (rand(6) % 40 = 0) + (rand(7) % 100 = 0)] AS outcome
        FROM numbers({start}, {count})
    """
