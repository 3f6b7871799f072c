"""`make demo`: real traffic through the whole pipeline, with a killed worker and a purged queue on the way.

The ledger at the end does not ask the pipeline. What was committed is written down by the traffic itself, context by
context, and compared with what the event store holds.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pika
import urllib3

from deploy.local.credentials import LOCAL
from deploy.local.errors import LocalStackError
from deploy.local.event_log import open_event_log
from deploy.local.stack import Stack, variables_of_this_process
from deploy.local.traffic import compact, people, sign_up

if TYPE_CHECKING:
    from collections.abc import Callable

    from deploy.local.event_log import EventLog

WEB_CLIENTS = 6
WEB_EVENTS = 3_000
BULK_USERS = 100_000
BULK_EVENTS = 10_000
USERS_PER_TRANSACTION = 3_000
#: Each so-many-th bulk transaction is rolled back: none of its events may arrive.
ROLL_BACK_EVERY = 10
#: Shares of the traffic after which the worker is killed and the queue purged.
KILL_AT, PURGE_AT = 0.3, 0.6
DRAIN_SECONDS = 120

_WHAT_HAPPENS = f"""\
Towpath carries a Django application's events through RabbitMQ into {{store}}. This demo, in about two minutes:

  1. starts PostgreSQL, RabbitMQ, the event store and Towpath on this machine
  2. signs up {WEB_EVENTS:,} people over HTTP, and publishes {BULK_USERS + BULK_EVENTS:,} events in bulk
  3. meanwhile kills workers and empties RabbitMQ's queues
  4. waits until every event is stored, and compares each payload with what was committed
"""
_WHAT_NEXT = """
Nothing was lost and nothing was doubled. To try next:

  make run TRAFFIC=5      the same stack until Ctrl-C, with people who sign up; it prints its addresses:
                          /events/ shows the events, /pipeline/ shows whether they flow
  make chaos SECONDS=60   more faults, under load, and the same count at the end
  docs/start.md           how to publish your first event
"""


@dataclass
class Committed:
    """What the traffic committed, written down at the moment it knew."""

    contexts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, contexts: list[str]) -> None:
        with self._lock:
            self.contexts.update(contexts)

    def count(self) -> int:
        with self._lock:
            return self.contexts.total()


def main() -> int:
    """Exit code 0 if nothing was lost or doubled, else 1."""
    folder = LOCAL / "demo"
    if not os.environ.get("DATABASE_URL"):
        shutil.rmtree(folder, ignore_errors=True)
    variables = variables_of_this_process()
    store = "PostgreSQL" if variables.get("EVENT_STORE_URL", "").startswith("postgres") else "ClickHouse"
    print(_WHAT_HAPPENS.format(store=store))
    try:
        with Stack(folder, environment=variables) as stack:
            code = _run(stack)
    except LocalStackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if code == 0:
        print(_WHAT_NEXT)
    return code


def _run(stack: Stack) -> int:
    _connect_django(stack)
    store = open_event_log(stack.environment["EVENT_STORE_URL"])
    committed = Committed()
    before = _stored_contexts(store)
    began = time.monotonic()
    print(
        f"\n{WEB_CLIENTS} web clients and one bulk writer publish."
        f" Every {ROLL_BACK_EVERY}th bulk transaction is rolled back: none of its events may arrive.\n"
    )
    with ThreadPoolExecutor(WEB_CLIENTS + 1) as pool:
        traffic = [
            pool.submit(_bulk_traffic, committed),
            *(pool.submit(_web_traffic, stack.environment["WEB_URL"], n, committed) for n in range(WEB_CLIENTS)),
        ]
        broken_at = _break_things(stack, committed, store, is_over=lambda: all(client.done() for client in traffic))
        for client in traffic:
            client.result()
    _say(f"all traffic is committed: waiting for the outboxes to empty, at most {DRAIN_SECONDS} s", mark="…")
    is_drained = _wait_until_drained(committed, store)
    seconds = time.monotonic() - began
    stored = _stored_contexts(store) - before
    _show_figures(store, committed, seconds, broken_at=broken_at)
    _show_proof()
    # That the log was sealed is an event, too, and no part of the traffic.
    is_drained = is_drained and _wait_until_drained(committed, store)
    return _show_ledger(committed, stored, is_drained=is_drained)


def _connect_django(stack: Stack) -> None:
    os.environ.update(stack.environment, LOG_LEVEL="WARNING")
    import django  # noqa: PLC0415 - the settings read the stack's URLs, which are known only now

    django.setup()


def _web_traffic(web_url: str, client: int, committed: Committed) -> None:
    """One user at a time, as from a browser, each request waiting for its answer."""
    http = urllib3.PoolManager(retries=False)
    for person in itertools.islice(people(f"web{client}"), WEB_EVENTS // WEB_CLIENTS):
        sign_up(http, web_url, person)
        committed.add([compact(person)])


def _bulk_traffic(committed: Committed) -> None:
    """Thousands of rows in a transaction, through the ORM and through `publish_many`."""
    from django.db import transaction  # noqa: PLC0415 - as in _connect_django

    from backend.users.models import OutboxUser, User  # noqa: PLC0415 - Django is set up only now
    from towpath import Event, publish_many  # noqa: PLC0415 - the same

    class ReportViewed(Event):
        report: int
        note: str

    contexts = list(itertools.islice(people("bulk"), BULK_USERS))
    for number, start in enumerate(range(0, BULK_USERS, USERS_PER_TRANSACTION), start=1):
        chunk = contexts[start : start + USERS_PER_TRANSACTION]
        with transaction.atomic():
            users = User.objects.bulk_create(User(**context) for context in chunk)
            OutboxUser.objects.bulk_create(OutboxUser(user=user) for user in users)
            is_rolled_back = number % ROLL_BACK_EVERY == 0
            transaction.set_rollback(is_rolled_back)
        if not is_rolled_back:
            committed.add([compact(context) for context in chunk])
    events = [ReportViewed(report=n, note=f"\x01\x7f\u2028 {n}") for n in range(BULK_EVENTS)]
    with transaction.atomic():
        publish_many(events)
    committed.add([compact({"report": event.report, "note": event.note}) for event in events])


def _break_things(stack: Stack, committed: Committed, store: EventLog, *, is_over: Callable[[], bool]) -> datetime:
    """Return when the first thing was broken."""
    from towpath.conf.current import config  # noqa: PLC0415 - as in _connect_django

    broken_at = datetime.max.replace(tzinfo=UTC)
    expected = WEB_EVENTS + BULK_USERS * (1 - 1 / ROLL_BACK_EVERY) + BULK_EVENTS
    is_killed = is_purged = False
    while not is_over():
        share = committed.count() / expected
        if not is_killed and share >= KILL_AT:
            is_killed = True
            broken_at = datetime.now(UTC)
            _say("kill -9 aggregator-1")
            _say(
                f"its windows wait {config().lease_seconds:g} s for their leases to end; then the other one takes over"
            )
            stack.kill("aggregator-1")
        if not is_purged and share >= PURGE_AT:
            is_purged = True
            _purge_queue(stack)
        _show_progress(committed, store)
        time.sleep(0.1)
    return broken_at


def _purge_queue(stack: Stack) -> None:
    """With both aggregators killed, messages pile up until the supervisor has them back; then they are gone."""
    from towpath.conf.current import config  # noqa: PLC0415 - as in _connect_django

    _say("kill -9 aggregator-1 and aggregator-2: waiting for messages to pile up in RabbitMQ")
    stack.kill("aggregator-1")
    stack.kill("aggregator-2")
    connection = pika.BlockingConnection(pika.URLParameters(stack.environment["RABBITMQ_URL"]))
    channel = connection.channel()
    deadline = time.monotonic() + DRAIN_SECONDS
    purged = 0
    while not purged and time.monotonic() < deadline:
        purged = sum(
            channel.queue_purge(queue).method.message_count
            for queue in ("towpath.aggregate", "towpath.aggregate_backlog")
        )
        connection.sleep(0.1)
    connection.close()
    _say(f"emptied RabbitMQ's queues: {purged} message(s) are gone, but no event: PostgreSQL has them all")
    wait = f"{config().unsealed_seconds:g} s"
    _say(f"thousands of rows are now stuck: after {wait} without a message, recovery delivers them")


def _wait_until_drained(committed: Committed, store: EventLog) -> bool:
    """True if everything that was committed has left the outboxes in time."""
    from towpath.watch.status import read_status  # noqa: PLC0415 - as in _connect_django

    deadline = time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < deadline:
        figures = read_status().figures
        _show_progress(committed, store)
        if figures.batches.total == 0 and figures.pending == 0:
            return True
        time.sleep(0.2)
    return False


def _show_progress(committed: Committed, store: EventLog) -> None:
    from towpath.watch.status import read_status  # noqa: PLC0415 - as in _connect_django

    figures = read_status().figures
    line = (
        f"published {committed.count():>8,}   in flight {figures.in_flight:>7,}"
        f"   stored {int(store.query('SELECT count(*) FROM event_log')[0][0]):>8,}"
        f"   oldest {figures.oldest_age_seconds or 0:>5.1f} s"
    )
    if sys.stdout.isatty():
        print(f"\r\033[K  {line}", end="", flush=True)
    elif time.monotonic() - _last_line.at > 1:
        _last_line.at = time.monotonic()
        print(f"  {line}", flush=True)


@dataclass
class _LastLine:
    at: float = 0.0


_last_line = _LastLine()


def _say(text: str, *, mark: str = "!") -> None:
    start = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{start}  {mark} {text}", flush=True)


def _stored_contexts(store: EventLog) -> Counter[str]:
    return Counter(row[0] for row in store.query("SELECT event_context FROM event_log"))


def _show_figures(store: EventLog, committed: Committed, seconds: float, *, broken_at: datetime) -> None:
    rows = store.query("SELECT event_context, event_date_time, written_at, window_id FROM event_log")
    first = min(written_at for _, _, written_at, _ in rows)
    counts = Counter(int((written_at - first).total_seconds()) for _, _, written_at, _ in rows)
    most = max(counts.values())
    print("\n\nEvents stored in each second:\n")
    for second in range(max(counts) + 1):
        count = counts[second]
        print(f"  {second:>4} s {count:>7,} {'█' * round(40 * count / most)}")
    # The ClickHouse client gives times in UTC that do not say so, PostgreSQL's says so.
    broken_at = broken_at if first.tzinfo else broken_at.replace(tzinfo=None)
    print('\nSeconds from commit to stored; "before the faults" is what was stored before the first kill:\n')
    print(f"  {'':<40}{'p50':>8}{'p99':>8}{'max':>8}")
    for name, prefix in (("web API, one by one", "web"), ("bulk transactions", "bulk")):
        for when, is_undisturbed in (("before the faults", True), ("with the faults", False)):
            ages = sorted(
                (written_at - event_date_time).total_seconds()
                for context, event_date_time, written_at, _ in rows
                if context.startswith(f'{{"email":"{prefix}') and (written_at < broken_at) is is_undisturbed
            )
            if ages:
                half, nearly_all, longest = (ages[int(share * (len(ages) - 1))] for share in (0.5, 0.99, 1))
                print(f"  {f'{name}, {when}':<40}{half:>8.2f}{nearly_all:>8.2f}{longest:>8.2f}")
    windows = len({window_id for *_, window_id in rows})
    print(f"\n  {committed.count():,} events in {windows:,} inserts, {seconds:.0f} s in all\n")


def _show_proof() -> None:
    """As `pipeline verify`, `pipeline seals make` and `pipeline verify --deep` do."""
    from towpath.conf.current import config  # noqa: PLC0415 - as in _connect_django
    from towpath.flow.verify import verify_receipts  # noqa: PLC0415 - as in _connect_django
    from towpath.proof.audit import audit  # noqa: PLC0415 - as in _connect_django
    from towpath.proof.deep import Pace  # noqa: PLC0415 - as in _connect_django
    from towpath.proof.sealing import seal_all  # noqa: PLC0415 - as in _connect_django
    from towpath.wiring import event_store  # noqa: PLC0415 - as in _connect_django

    store = event_store(config())
    _say("comparing receipts with the event store, sealing the log, and reading every row again", mark="…")
    verify_receipts(store, should_stop=lambda: False)
    for seal in seal_all(key=config().seal_key):
        print(f"  sealed: number {seal.number}, digest {seal.digest}")
    began = time.monotonic()
    found = audit(store, pace=Pace(0), on_page=lambda _: None)
    store.close()
    verdict = "nothing was changed" if found.is_ok else f"{found.findings} findings: see `pipeline verify --deep`"
    print(f"  audited: {found.rows:,} rows read again in {time.monotonic() - began:.1f} s, {verdict}\n")


def _show_ledger(committed: Committed, stored: Counter[str], *, is_drained: bool) -> int:
    from towpath.watch.status import read_status  # noqa: PLC0415 - as in _connect_django

    figures = read_status().figures
    lost = (committed.contexts - stored).total()
    duplicated = (stored - committed.contexts).total()
    print(
        f"published={committed.count()} stored={stored.total()} pending={figures.waiting}"
        f" dead={figures.dead_letters} lost={lost} duplicated={duplicated}"
    )
    if not is_drained:
        print(f"\nNot everything arrived within {DRAIN_SECONDS} s. The logs are in .local/demo/log.", file=sys.stderr)
    return 0 if is_drained and lost == 0 and duplicated == 0 else 1


if __name__ == "__main__":
    sys.exit(main())
