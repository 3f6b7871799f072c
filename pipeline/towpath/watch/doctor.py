"""The doctor: checks every service and setting that the promises rest on, and says how to fix each fault."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

from django.db import DatabaseError, InterfaceError, connection, connections, transaction
from django.db.migrations.executor import MigrationExecutor

from towpath import driver
from towpath.conf.config import Config
from towpath.errors import BrokerUnreachable
from towpath.eventlog import schema
from towpath.eventlog.connect import connect
from towpath.eventlog.errors import EventStoreError
from towpath.eventlog.store import Finding
from towpath.ledger import database_errors
from towpath.ledger.moment import Parts, one_moment
from towpath.ledger.receipts import read_store_errors
from towpath.rabbitmq import queues
from towpath.telemetry.secrets import without_secrets
from towpath.watch import tables, vacuum
from towpath.watch.connections import Fleet, connection_problems, is_pooled, read_limits
from towpath.watch.consumers import nobody_consumes
from towpath.watch.database import (
    hiding_problems,
    limit_problems,
    meddling_problems,
    problems_of_database,
    reading_problems,
)
from towpath.watch.status import read_status

#: The time limit of each check, in seconds. The checks run in parallel.
CHECK_SECONDS = 10.0
#: xid8 and pg_snapshot came with PostgreSQL 13.
_OLDEST_POSTGRESQL = 130000
#: Clocks that are further apart make latencies, and the event times of a lean outbox, misleading. Correctness does not
#: depend on clocks: leases use the database's.
_LARGEST_CLOCK_DIFFERENCE = timedelta(seconds=5)


#: The settings on which PostgreSQL's durability rests. The last one is that of this process's role.
_DURABLE = {
    "fsync": "a power cut loses commits and can corrupt the database; run ALTER SYSTEM SET fsync = on, and reload",
    "full_page_writes": (
        "a power cut can leave half-written pages; run ALTER SYSTEM SET full_page_writes = on, and reload"
    ),
    "synchronous_commit": "a power cut can undo commits; set it to on, for the server or the role (ALTER ROLE ... SET)",
}


def examine(config: Config) -> list[Finding]:
    """Make every check, even if others fail, hang or raise. Changes nothing, and takes little more than
    CHECK_SECONDS."""
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "PostgreSQL": _postgresql,
        "ledger": _ledger,
        "connections": partial(_connections, config),
        "RabbitMQ": partial(_rabbitmq, config),
        "RabbitMQ settings": _rabbitmq_settings,
        "event store": partial(_event_store, config),
        "event store verifier": partial(_reader, config, name="verifier", url=config.event_store_verifier_url),
        "event store explorer": partial(_reader, config, name="explorer", url=config.event_store_explorer_url),
        "settings": partial(_settings, config),
    }
    checks = [_Check(name, look) for name, look in looks.items()]
    for check in checks:
        check.start()
    deadline = time.monotonic() + CHECK_SECONDS
    return [finding for check in checks for finding in check.findings(deadline)]


class _Check:
    """One group of checks, in its own thread, with its own database connection and a time limit."""

    def __init__(self, name: str, look: Callable[[], Iterator[Finding]]) -> None:
        self._name = name
        self._look = look
        self._found: list[Finding] = []
        self._thread = threading.Thread(target=self._run, name=f"doctor-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def findings(self, deadline: float) -> list[Finding]:
        """Return what was found by the deadline."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        found = list(self._found)
        if self._thread.is_alive():
            told = f"no answer within {CHECK_SECONDS:g} s: check whether its service hangs or is overloaded"
            found.append(Finding(self._name, False, told))
        return found

    def _run(self) -> None:
        try:
            for finding in self._look():
                self._found.append(finding)
        except (DatabaseError, InterfaceError) as error:
            self._found.append(Finding(self._name, False, database_errors.describe(error)))
        except Exception as error:  # noqa: BLE001 - a check that cannot be made is a finding like the others
            text = f"cannot be checked: {type(error).__name__} {database_errors.first_line(error)}"
            self._found.append(Finding(self._name, False, without_secrets(text)))
        finally:
            connections.close_all()


def _postgresql() -> Iterator[Finding]:
    try:
        connection.ensure_connection()
        version = connection.connection.info.server_version
    except (DatabaseError, InterfaceError) as error:
        text = (
            f"not reachable ({without_secrets(database_errors.first_line(error))}): start it, or correct DATABASE_URL"
        )
        yield Finding(
            "PostgreSQL", False, text if database_errors.is_outage(error) else database_errors.describe(error)
        )
        return
    shown = f"{version // 10000}.{version % 10000}"
    if version < _OLDEST_POSTGRESQL:
        yield Finding("PostgreSQL", False, f"version {shown} is too old: use PostgreSQL 13 or later")
        return
    yield Finding("PostgreSQL", True, f"version {shown}")
    with transaction.atomic(), driver.cursor() as cursor:
        # The role's own time limits are checked here, so they must not end the check: CHECK_SECONDS does.
        cursor.execute("SET LOCAL statement_timeout = 0")
        yield from _promises()
        executor = MigrationExecutor(connection)
        unapplied = executor.migration_plan(executor.loader.graph.leaf_nodes())
        if unapplied:
            yield Finding("migrations", False, f"{len(unapplied)} not applied: run `python manage.py migrate`")
            return
        yield Finding("migrations", True, "all applied")
        yield _finding("tables", [*tables.problems()], "outboxes and ledger are as `migrate` made them")
        yield from _visibility()


def _promises() -> Iterator[Finding]:
    """Check the server's clock, and its durability."""
    yield _clock("PostgreSQL clock", _now_in_postgresql)
    with driver.cursor() as cursor:
        cursor.execute("SELECT name, setting FROM pg_settings WHERE name = ANY(%(names)s)", {"names": list(_DURABLE)})
        durable = dict(cursor.fetchall())
    for setting, if_off in _DURABLE.items():
        is_on = durable[setting] != "off"
        yield Finding(setting, is_on, durable[setting] if is_on else f"off: {if_off}")


def _ledger() -> Iterator[Finding]:
    try:
        status = read_status()
    except (DatabaseError, InterfaceError) as error:
        if database_errors.is_outage(error) or database_errors.is_not_migrated(error):
            return  # another check says so
        raise
    if unread := status.problems_of("unread"):
        yield Finding("ledger", False, "; ".join(unread))
    yield _finding("shifts", status.problems_of("shift", "interruption"), "dispatch and recover shifts are alive")
    # RabbitMQ counts the consumers of a queue, and does not say whose they are. The ledger knows what arrives.
    yield _finding("messages", status.problems_of("message"), "those of this project arrive, and no others do")
    yield _finding("outboxes", status.problems_of("outbox"), "no stranded rows, and no name without its class")
    if (canary := status.figures.ledger.canary) is not None:
        took = "the first is on its way" if canary.seconds is None else f"the last one took {canary.seconds:.1f} s"
        yield _finding("canary", status.problems_of("canary"), took)
    unseen = vacuum.unseen()
    yield _finding(
        "vacuum",
        status.problems_of("vacuum"),
        f"nothing has held it back for ten minutes{f', as far as can be seen: {unseen}' if unseen else ''}",
    )
    yield _finding("receipts", status.problems_of("receipt"), "none is known to differ from the event store")
    with one_moment() as cursor:
        stored = Parts(cursor).read("errors of windows that are stored", partial(read_store_errors, days=1))
    if stored:
        text = (
            f"{stored.windows} window(s) of the last day were stored, but the event store answered with an error,"
            f" such as {stored.example!r}. A materialized view on event_log may lack their rows: see docs/stores.md"
        )
        yield Finding("views", False, text)


def _visibility() -> Iterator[Finding]:
    """Check whether the role, the schemas or the database keep events from being seen."""
    problems = [
        *(text for text, _ in problems_of_database(connection)),
        *reading_problems(),
        *hiding_problems(),
        *limit_problems(),
        *meddling_problems(),
    ]
    yield _finding("PostgreSQL role", problems, "sees every event, and has time to read it")


def _connections(config: Config) -> Iterator[Finding]:
    """Check the connections to PostgreSQL. RabbitMQ knows the fleet; without it, only those in use now are checked."""
    fleet = None
    with contextlib.suppress(BrokerUnreachable):
        states = queues.queue_states(config)
        fleet = Fleet(states[config.queues.dispatch].consumers, states[config.queues.aggregate].consumers)
    try:
        limits, is_shared = read_limits(), is_pooled()
    except (DatabaseError, InterfaceError) as error:
        if database_errors.is_outage(error):
            return  # another check says so
        raise
    problems = connection_problems(limits, None if is_shared else fleet, writers=config.window_writers)
    shown = ", ".join(f"{limit.used} of {limit.most} in use ({limit.name})" for limit in limits)
    yield _finding("connections", [*problems], shown)


def _rabbitmq(config: Config) -> Iterator[Finding]:
    try:
        states = queues.queue_states(config)
    except BrokerUnreachable as error:
        yield Finding("RabbitMQ", False, without_secrets(str(error)))
        return
    shown = ", ".join(f"{queue} {state.messages}" for queue, state in states.items() if state.messages)
    yield Finding("RabbitMQ", True, shown or "queues empty")
    for queue, role in config.queues.roles.items():
        consumers = states[queue].consumers
        text = f"{consumers} consumer(s)" if consumers else nobody_consumes(queue, role=role)
        yield Finding(f"queue {queue}", bool(consumers), text)
    yield _finding("queues", queues.refused_declarations(config), "as workers declare them")
    for queue in config.queues:
        if failed := states[queue + queues.FAILED].messages:
            text = (
                f"{failed} message(s) failed, or killed their worker repeatedly. Their events are delivered from"
                " the ledger. Find out what killed workers, then purge the queue: see"
                " docs/runbook.md#messages-that-failed"
            )
            yield Finding(f"queue {queue}{queues.FAILED}", False, text)


def _rabbitmq_settings() -> Iterator[Finding]:
    yield _finding("RabbitMQ settings", queues.problems(), "confirms and heartbeats on")


def _event_store(config: Config) -> Iterator[Finding]:
    timeout_seconds = min(10.0, config.store_timeout_seconds)
    store = connect(config.event_store_url, timeout_seconds=timeout_seconds, own_columns=config.columns)
    try:
        clock = _clock("event store clock", store.now)
        yield Finding("event store", True, "reachable")
        yield _finding("event store table", store.problems(), "columns and settings are correct")
        yield _finding("event store columns", [*schema.conflicts(store)], "every applied column is declared")
        yield clock
        yield from store.findings()
    except EventStoreError as error:
        variable = f"{config.variable_prefix}EVENT_STORE_URL"
        text = without_secrets(f"not reachable ({error}): start it, or correct {variable}")
        yield Finding("event store", False, text)
    finally:
        store.close()


def _reader(config: Config, *, name: str, url: str) -> Iterator[Finding]:
    """Check the separate store user with which one part reads, if it has one."""
    if not url:
        return
    check, variable = f"event store {name}", f"{config.variable_prefix}EVENT_STORE_{name.upper()}_URL"
    timeout_seconds = min(10.0, config.store_timeout_seconds)
    store = connect(url, timeout_seconds=timeout_seconds, own_columns=config.columns, setting=variable)
    try:
        yield _finding(check, store.reading_problems(), "reads every column of event_log")
    except EventStoreError as error:
        text = without_secrets(f"cannot read event_log ({error}): start it, or correct {variable}")
        yield Finding(check, False, text)
    finally:
        store.close()


def _settings(config: Config) -> Iterator[Finding]:
    too_large = config.batch_ids > config.window_rows
    yield Finding(
        "BATCH_IDS",
        not too_large,
        "larger than WINDOW_ROWS, so windows would exceed that limit: lower it" if too_large else "fits a window",
    )


def _finding(check: str, problems: Sequence[str], if_none: str) -> Finding:
    return Finding(check, not problems, "; ".join(problems) or if_none)


def _now_in_postgresql() -> datetime:
    with driver.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        (now,) = cursor.fetchone()
    return now  # type: ignore[no-any-return]  # a cursor's rows have no types


def _clock(check: str, read: Callable[[], datetime]) -> Finding:
    """The difference that the time of the question does not explain: a slow answer does not make a clock wrong."""
    before = datetime.now(UTC)
    theirs = read()
    difference = max(before - theirs, theirs - datetime.now(UTC), timedelta())
    is_ok = difference <= _LARGEST_CLOCK_DIFFERENCE
    detail = f"{difference.total_seconds():.3f} s from this machine's"
    return Finding(check, is_ok, detail if is_ok else f"{detail}: synchronise the clocks (NTP)")
