"""The doctor: checks every service and setting that the promises stand on, and says what to do about each fault."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connection
from django.db.migrations.executor import MigrationExecutor

from backend.eventlog.errors import EventStoreError
from backend.eventlog.store import connect
from pipeline import broker
from pipeline.errors import BrokerUnreachable
from pipeline.status import mismatch_problems, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator

#: xid8 and pg_snapshot came with PostgreSQL 13.
_OLDEST_POSTGRESQL = 130000
#: Clocks further apart than this make latencies and the event times of a lean outbox misleading. Correctness does
#: not hang on clocks: leases are on the database's.
_LARGEST_CLOCK_DIFFERENCE = timedelta(seconds=5)


#: What PostgreSQL's promise to keep what it has committed stands on; the last is that of this process's own role.
_DURABLE = {
    "fsync": "a power cut loses commits and can ruin the database; ALTER SYSTEM SET fsync = on, and reload",
    "full_page_writes": "a power cut can leave half-written pages; ALTER SYSTEM SET full_page_writes = on, and reload",
    "synchronous_commit": "a power cut can undo commits; set it to on, for the server or the role (ALTER ROLE ... SET)",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: `is_ok`, and what was found or what to do."""

    check: str
    is_ok: bool
    detail: str


def examine() -> list[Finding]:
    """Every check, also after one has failed. Changes nothing."""
    return [*_postgresql(), *_rabbitmq(), *_event_store(), *_knobs()]


def _postgresql() -> Iterator[Finding]:
    try:
        connection.ensure_connection()
        version = connection.cursor().connection.server_version
    except (DatabaseError, InterfaceError) as error:
        yield Finding("PostgreSQL", False, f"not reachable ({_brief(error)}): start it, or correct DATABASE_URL")
        return
    shown = f"{version // 10000}.{version % 10000}"
    if version < _OLDEST_POSTGRESQL:
        yield Finding("PostgreSQL", False, f"version {shown}: the dispatcher's cursor needs 13 or later")
        return
    yield Finding("PostgreSQL", True, f"version {shown}")
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (database_now,) = cursor.fetchone()
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", [list(_DURABLE)])
        durable = dict(cursor.fetchall())
    yield _clock("PostgreSQL clock", database_now)
    for setting, if_off in _DURABLE.items():
        is_on = durable[setting] != "off"
        yield Finding(setting, is_on, durable[setting] if is_on else f"off: {if_off}")
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        yield Finding("migrations", False, f"{len(missing)} not applied: run `python manage.py migrate`")
        return
    yield Finding("migrations", True, "all applied")
    status = read_status()
    problems = [problem for problem in status.problems if "shift" in problem]
    yield Finding("shifts", not problems, "; ".join(problems) or "dispatch and recover shifts are alive")
    problems = mismatch_problems(status.mismatched_receipts, since=status.mismatched_since)
    yield Finding("receipts", not problems, "; ".join(problems) or "none is known to differ from the event store")


def _rabbitmq() -> Iterator[Finding]:
    try:
        lengths = broker.queue_lengths()
    except BrokerUnreachable as error:
        yield Finding("RabbitMQ", False, f"{error}: start it, or correct RABBITMQ_URL")
    else:
        shown = ", ".join(f"{queue} {length}" for queue, length in lengths.items() if length) or "queues empty"
        yield Finding("RabbitMQ", True, shown)
    problems = broker.problems()
    yield Finding("RabbitMQ settings", not problems, "; ".join(problems) or "confirms and heartbeats on")


def _event_store() -> Iterator[Finding]:
    store = connect(settings.EVENT_STORE_URL, timeout_seconds=min(10.0, settings.STORE_TIMEOUT_SECONDS))
    try:
        now = store.now()
        yield Finding("event store", True, "reachable")
        problems = store.problems()
        yield Finding("event store table", not problems, "; ".join(problems) or "columns and settings as they must be")
        yield _clock("event store clock", now)
        yield from (Finding(one.check, one.is_ok, one.detail) for one in store.findings())
    except EventStoreError as error:
        yield Finding("event store", False, f"not reachable ({error}): start it, or correct EVENT_STORE_URL")
    finally:
        store.close()


def _knobs() -> Iterator[Finding]:
    too_large = settings.BATCH_IDS > settings.WINDOW_ROWS
    yield Finding(
        "BATCH_IDS",
        not too_large,
        "larger than WINDOW_ROWS: windows would be larger than asked for; lower it" if too_large else "fits a window",
    )


def _clock(check: str, theirs: datetime) -> Finding:
    difference = abs(theirs - datetime.now(UTC))
    is_ok = difference <= _LARGEST_CLOCK_DIFFERENCE
    detail = f"{difference.total_seconds():.3f} s from this machine's"
    return Finding(check, is_ok, detail if is_ok else f"{detail}: synchronise the clocks (NTP)")


def _brief(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
