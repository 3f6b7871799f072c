"""What the product is compared with: the same rows moved by a program that promises nothing.

Each takes what is in an outbox and returns the seconds it took until it was empty. Run in this process, on one
connection, one window after another.
"""

from __future__ import annotations

import time
import uuid
from io import BytesIO
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import connection

from backend.users.events import UserCreated
from backend.users.models import OutboxUser
from towpath.flow.load import _rows_sql
from towpath.outbox.models import Outbox

if TYPE_CHECKING:
    from tests.benchmarks.lab import Lab

#: What a program that inserts by itself fills; the columns that were added to the table have defaults.
STORED_COLUMNS = (
    "outbox",
    "outbox_id",
    "window_id",
    "event_type",
    "event_date_time",
    "environment",
    "metadata_version",
    "event_context",
)


def bare_pipe(lab: Lab, outbox: type[Outbox], *, window_rows: int) -> float:
    """COPY a window, one insert, DELETE its rows: no broker, no ledger, no lease, no receipt.

    The SELECT is the product's with another WHERE, the insert is the product's own. It knows its place by the
    last id, so rows that commit out of order would be lost: nothing to run in production.
    """
    table = connection.ops.quote_name(outbox.outbox_name())
    began = time.perf_counter()
    last_id = 0
    with connection.cursor() as cursor:
        while True:
            body = BytesIO()
            cursor.copy_expert(f"COPY ({_window_sql(cursor, outbox, after=last_id, rows=window_rows)}) TO STDOUT", body)
            count = cursor.rowcount
            if not count:
                return time.perf_counter() - began
            rows = body.getvalue()
            first_id, last_id = _id(rows, start=0), _id(rows, start=rows.rfind(b"\n", 0, -1) + 1)
            lab.store.write(rows, row_count=count, token=str(uuid.uuid4()))
            cursor.execute(f"DELETE FROM {table} WHERE id BETWEEN %s AND %s", [first_id, last_id])


def orm_loop(lab: Lab, *, rows: int) -> float:
    """What is often written first: read `rows` objects, insert them with the driver, delete them."""
    began = time.perf_counter()
    while batch := list(OutboxUser.objects.select_related("user").order_by("id")[:rows]):
        lab.clickhouse.insert(
            "event_log",
            [
                (
                    "outbox_user",
                    row.id,
                    str(uuid.uuid4()),
                    UserCreated.event_type,
                    row.user.created_at,
                    settings.TOWPATH.environment,
                    UserCreated.version,
                    _context(row),
                )
                for row in batch
            ],
            column_names=STORED_COLUMNS,
            # The driver's default waits for a flush of other clients' rows, too: the faster way is the fairer partner.
            settings={"async_insert": 0},
        )
        OutboxUser.objects.filter(id__in=[row.id for row in batch]).delete()
    return time.perf_counter() - began


def _context(row: OutboxUser) -> str:
    user = row.user
    return UserCreated(email=user.email, first_name=user.first_name, last_name=user.last_name).model_dump_json()


def _window_sql(cursor: object, outbox: type[Outbox], *, after: int, rows: int) -> str:
    """The product's own SELECT, joins and expressions and all, with another WHERE."""
    statement = _rows_sql(outbox, outbox.outbox_name(), "benchmark", (), uuid.uuid4())
    text: bytes = cursor.cursor.mogrify(*statement)  # type: ignore[attr-defined]
    select = text.decode().partition(" WHERE ")[0]
    key = f"{connection.ops.quote_name(outbox.outbox_name())}.id"
    return f"{select} WHERE {key} > {after} ORDER BY {key} LIMIT {rows}"


def _id(rows: bytes, *, start: int) -> int:
    """The outbox id of the line that starts there; without a copy of a payload of megabytes."""
    return int(rows[start : start + 200].split(b"\t", 2)[1])
