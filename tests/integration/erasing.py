"""Erasing a person's events as `eventlog erase` does, and what is stored afterwards."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from django.db import connection

from tests.integration.manage import here
from tests.integration.proving import Tampered
from tests.integration.windows import deliver, sealed
from towpath.eventlog.query import Query, parse
from towpath.flow.delivery import Delivery
from towpath.flow.verify import verify_receipts

JANE, JOHN = "user:jane-4711", "user:john-0815"
MAIL = "jane.doe@example.com"
#: Spaces, escapes and numbers as no program of ours would write them.
ODD = '{ "n": 9007199254740993,"email":"j\\u0061ne.doe@example.com",  "deep": {"to": ["\\u00e9", 1.10]}, "ü": "\\n" }'


def write_as(actor: str, contexts: list[str], *, at: str = "2026-04-03 00:00:00+00") -> list[int]:
    """Events of a person, as text that nobody has formed anew; their ids."""
    bound = json.dumps({"actor": actor, "target": actor, "ip": "192.0.2.7", "request_id": f"request of {actor}"})
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO outbox_event (event_type, event_date_time, event_context, metadata_version, bound)
            SELECT 'tested', %s::timestamptz, context, 1, %s::jsonb
            FROM unnest(%s::text[]) WITH ORDINALITY AS t (context, n) ORDER BY n RETURNING id
            """,
            [at, bound, contexts],
        )
        return [row_id for (row_id,) in cursor.fetchall()]


def deliver_and_verify(store: Tampered) -> None:
    assert deliver(sealed(), store.store) is Delivery.ACKED
    assert verify_receipts(store.store, should_stop=lambda: False) == 0


def run(*arguments: str, fields: tuple[str, ...] = ("context.email",)) -> subprocess.CompletedProcess[str]:
    return here("eventlog", "erase", *arguments, "--fields", *fields, "--reason", "asked", "--yes")


def erase(*arguments: str, fields: tuple[str, ...] = ("context.email",)) -> dict[str, Any]:
    done = run(*arguments, "--json", fields=fields)
    assert done.stdout, done.stderr
    return {**json.loads(done.stdout), "exit": done.returncode}


def refusal(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 1
    assert not done.stdout
    return done.stderr


def stored(store: Tampered) -> dict[str, str]:
    """Every column of every row as one text, by outbox and id."""
    windows = {window for month in store.store.months() for window in store.store.windows_of(month)}
    rows = store.store.read_rows(sorted(windows), Query())
    return {f"{row.outbox} {row.outbox_id}": repr(row) for row in rows}


def contexts(store: Tampered, actor: str) -> list[str]:
    windows = {window for month in store.store.months() for window in store.store.windows_of(month)}
    rows = store.store.read_rows(sorted(windows), parse(f'actor:"{actor}"'))
    return [row.event_context for row in sorted(rows, key=lambda row: row.outbox_id)]
