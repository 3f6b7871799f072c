"""What the store does not take: nothing is doubled, no good row waits for a bad one, and nobody is blamed unheard."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from django.conf import settings as django_settings

from tests.conformance.answers import Answer, BodyLimit, Endpoint, Filter
from tests.faults.proxy import with_port
from tests.integration.event_log import EventLog
from tests.integration.invariants import assert_delivered
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.stores import PassesOn
from tests.integration.windows import deliver, dispatched, expire_leases, has_room, recover, seal, sealed
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.eventlog.connect import connect
from towpath.eventlog.store import EventStore, Store
from towpath.flow import deadletters
from towpath.flow.delivery import Delivery
from towpath.ledger.models import Batch, DeadLetter, Window
from towpath.ledger.windows import SealedWindow
from towpath.outbox.models import OutboxEvent
from towpath.watch.doctor import examine
from towpath.watch.status import read_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.knobs import Knobs
    from tests.services import Services

_GOOD = json.dumps({"n": "7"})
_BAD = json.dumps({"n": "seven"})
_TWO_MONTHS = ("2026-01-31 23:59:59+00", "2026-02-01 00:00:00+00")
#: What a proxy says, and what the server says of its memory.
_TOO_LARGE = {
    "413": Answer(413, b"<html><head><title>413 Request Entity Too Large</title></head></html>"),
    "241": Answer(
        500, b"Code: 241. DB::Exception: Memory limit exceeded. (X)\n", {"X-ClickHouse-Exception-Code": "241"}
    ),
}


@contextmanager
def failing_view(event_log: EventLog, expression: str) -> Iterator[None]:
    """A view that fails for `_BAD`, once its source has the rows."""
    event_log.command("CREATE TABLE numbers_seen (n UInt32) ENGINE = MergeTree ORDER BY n")
    event_log.command(f"CREATE MATERIALIZED VIEW seeing TO numbers_seen AS SELECT {expression} AS n FROM event_log")
    try:
        yield
    finally:
        event_log.command("DROP TABLE seeing SYNC")
        event_log.command("DROP TABLE numbers_seen SYNC")


@contextmanager
def refusing(event_log: EventLog, condition: str = "NOT event_context LIKE '%seven%'") -> Iterator[None]:
    """A constraint that no `_BAD` row meets."""
    event_log.alter(f"ADD CONSTRAINT only_numbers CHECK {condition}")
    try:
        yield
    finally:
        event_log.alter("DROP CONSTRAINT only_numbers")


@pytest.fixture
def limited(services: Services) -> Iterator[tuple[Store, Endpoint]]:
    """The store behind a proxy that takes no more than 64 KiB."""
    with Endpoint(services.clickhouse.port, inserts=BodyLimit(65_536, _TOO_LARGE["413"])) as endpoint:
        store = connect(with_port(django_settings.TOWPATH.event_store_url, endpoint.port), timeout_seconds=30)
        yield store, endpoint
        store.close()


def settle(store: EventStore, *, rounds: int = 6) -> None:
    """What recovery does in the course of time."""
    for _ in range(rounds):
        if not undelivered():
            return
        expire_leases()
        recover(store, should_stop=lambda: False)


@pytest.mark.parametrize("times", [_TWO_MONTHS[:1], _TWO_MONTHS])
@pytest.mark.parametrize(
    "expression",
    [
        "toUInt32(JSONExtractString(event_context, 'n'))",  # code 6
        "throwIf(event_context LIKE '%seven%')",  # code 395
        "intDiv(1, event_context NOT LIKE '%seven%')",  # code 153
    ],
)
def test_a_view_that_fails_for_one_event_neither_doubles_nor_condemns_any(
    store: Store, event_log: EventLog, expression: str, times: tuple[str, ...]
) -> None:
    for at in times:
        write_events([_GOOD] * 300 + [_BAD] + [_GOOD] * 199, at=at)
    window = sealed()
    with failing_view(event_log, expression):
        assert deliver(window, store) is Delivery.ACKED

    assert_delivered(event_log, committed=500 * len(times))
    assert not DeadLetter.objects.exists()
    assert Window.objects.get().store_error
    (finding,) = (finding for finding in examine(config()) if finding.check == "views")
    assert not finding.is_ok
    assert "may lack their rows" in finding.detail


def test_a_view_whose_target_is_gone_keeps_the_window_waiting(store: Store, event_log: EventLog) -> None:
    write_events([_GOOD] * 100)
    window = sealed()
    with failing_view(event_log, "toUInt32(1)"):
        event_log.command("RENAME TABLE numbers_seen TO numbers_gone")
        delivery = deliver(window, store)
        event_log.command("RENAME TABLE numbers_gone TO numbers_seen")

    assert delivery in {Delivery.POSTPONED, Delivery.ACKED}
    settle(store, rounds=1)
    assert_delivered(event_log, committed=100)


@pytest.mark.slow
def test_a_hundred_bad_rows_hold_up_no_row_that_shares_their_window(store: Store, event_log: EventLog) -> None:
    # Given a careless bulk insert, in one window with good rows of the same outbox and of another
    write_events([_GOOD] * 50 + [_BAD] * 100 + [_GOOD] * 50)
    create_users(100)
    window = sealed()

    with refusing(event_log):
        assert deliver(window, store) is Delivery.ACKED

        # Then the other outbox's rows are stored by this one attempt, and the good ones soon after
        assert sum(1 for outbox, _ in event_log.identities() if outbox == "outbox_user") == 100
        settle(store, rounds=15)
        assert event_log.count() == event_log.distinct() == 200
        assert {letter.outbox for letter in DeadLetter.objects.all()} == {"outbox_event"}
        assert has_room()


def test_windows_of_bad_rows_only_do_not_stop_others(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    # Given more windows than may be open, each with nothing but rows that the store refuses
    knobs(max_open_windows=3)
    with refusing(event_log):
        for _ in range(4):
            write_events([_BAD] * 2)
            assert deliver(sealed(), store) is Delivery.REFUSED
        assert not has_room()
        assert not DeadLetter.objects.exists(), "no row was blamed as long as the store had taken none"
        assert "the event store accepted none of these rows" in read_status().errors[0]

        # When a good event comes, it is let through after some seconds
        write_events([_GOOD])
        batches = dispatched()
        eventually(has_room, seconds=10)
        window = seal(batches)
        assert window is not None
        assert deliver(window, store) is Delivery.ACKED

        # Then it is known that the rows are at fault
        settle(store, rounds=1)
        assert DeadLetter.objects.count() == 8
        assert has_room()
    assert event_log.count() == 1


def test_a_table_that_takes_nothing_condemns_no_row(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    knobs(max_open_windows=3)
    with refusing(event_log, "0"):
        for _ in range(4):
            write_events([_GOOD] * 5)
            assert deliver(sealed(), store) is Delivery.REFUSED
        assert not has_room()
        settle(store, rounds=3)
        assert not DeadLetter.objects.exists()

    settle(store, rounds=1)
    assert_delivered(event_log, committed=20)


@pytest.mark.slow
def test_of_one_outbox_only_so_many_rows_become_dead_letters_and_the_rest_wait_for_the_table(
    store: Store, event_log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadletters, "_MOST_PER_HOUR", 4)
    write_events([_BAD] * 12 + [_GOOD] * 5)
    with refusing(event_log):
        deliver(sealed(), store)
        settle(store, rounds=8)
        assert DeadLetter.objects.count() == 4
        assert event_log.count() == 5
        assert undelivered()["outbox_event"] == 12
        assert has_room()

    # When the table is repaired, those that waited are stored by themselves
    settle(store, rounds=2)
    assert event_log.count() == event_log.distinct() == 13
    assert undelivered() == {"outbox_event": 4}


@pytest.mark.parametrize("answer", _TOO_LARGE)
def test_a_window_too_large_for_what_is_in_between_arrives_in_parts(
    limited: tuple[Store, Endpoint], event_log: EventLog, answer: str
) -> None:
    store, endpoint = limited
    endpoint.inserts = BodyLimit(65_536, _TOO_LARGE[answer])
    write_events([json.dumps({"text": "x" * 2000})] * 150)
    large = sealed()
    write_events([_GOOD])
    small = sealed()

    assert deliver(large, store) is Delivery.ACKED
    assert deliver(small, store) is Delivery.ACKED

    assert_delivered(event_log, committed=151)


def test_a_row_too_large_for_what_is_in_between_waits_by_itself_until_the_limit_is_raised(
    limited: tuple[Store, Endpoint], event_log: EventLog
) -> None:
    store, endpoint = limited
    write_events([_GOOD] * 10 + [json.dumps({"text": "x" * 100_000})] + [_GOOD] * 10)
    assert deliver(sealed(), store) is Delivery.ACKED
    assert event_log.count() == 20
    settle(store, rounds=2)
    assert undelivered() == {"outbox_event": 1, "batches": 1, "open windows": 1}
    assert not DeadLetter.objects.exists()
    assert any("413" in problem for problem in read_status().problems)

    endpoint.inserts = BodyLimit(10_000_000, _TOO_LARGE["413"])
    settle(store, rounds=1)

    assert_delivered(event_log, committed=21)


@pytest.mark.slow
def test_rows_that_something_in_between_swallows_hold_up_nobody(
    limited: tuple[Store, Endpoint], event_log: EventLog, knobs: Knobs
) -> None:
    # Given a firewall that answers in the store's place for some events, in more windows than may be open
    knobs(max_open_windows=3)
    store, endpoint = limited
    endpoint.inserts = Filter(b"seven", Answer(403, b"<html>Blocked</html>"))
    for _ in range(4):
        write_events([_GOOD] * 3 + [_BAD] + [_GOOD] * 3)
        deliver(sealed(), store)
    assert not has_room()

    # Then another's event is let through, and the good rows of those windows are stored
    settle(store, rounds=1)
    write_events([_GOOD])
    batches = dispatched()
    eventually(has_room, seconds=10)
    window = seal(batches)
    assert window is not None
    assert deliver(window, store) is Delivery.ACKED
    settle(store, rounds=6)
    assert event_log.count() == event_log.distinct() == 25
    assert has_room()
    assert len(read_status().errors) >= 1
    assert not DeadLetter.objects.exists()

    # When the firewall lets everything through
    endpoint.inserts = BodyLimit(10_000_000, _TOO_LARGE["413"])
    settle(store, rounds=20)
    assert_delivered(event_log, committed=29)


def test_windows_that_the_program_cannot_carry_hold_up_nobody(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    knobs(max_open_windows=2)
    for _ in range(4):
        write_events([_GOOD] * 3)
        sealed()
    broken = BreaksFor(store, TypeError("no such option"), "outbox_event")
    settle(broken, rounds=3)

    assert has_room()
    assert "TypeError: no such option" in read_status().errors[0]

    settle(store, rounds=3)
    assert_delivered(event_log, committed=12)


def test_a_lower_limit_of_bytes_frees_a_window_that_was_begun(store: Store, event_log: EventLog, knobs: Knobs) -> None:
    # Given a window that has been begun and cannot be split any more, and a store that takes no large inserts
    write_events([json.dumps({"text": "x" * 2000})] * 200)
    window = sealed()
    _begin_and_fail(window)

    knobs(window_bytes=50_000)
    settle(store, rounds=1)

    assert_delivered(event_log, committed=200)
    assert event_log.window_sizes() == [200]


def _begin_and_fail(window: SealedWindow) -> None:
    class Silent:
        def write(self, rows: bytes, *, row_count: int, token: str) -> None:  # noqa: ARG002 - as the protocol has it
            raise TimeoutError("no answer")

    assert deliver(window, Silent()) is Delivery.FAILED  # type: ignore[arg-type]  # write is all it is asked for


class BreaksFor(PassesOn):
    """A store whose client fails in a way of its own for some windows."""

    def __init__(self, store: Store, error: Exception, outbox: str) -> None:
        super().__init__(store)
        self._error = error
        self._outbox = outbox.encode()

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        if rows.startswith(self._outbox):
            raise self._error
        super().write(rows, row_count=row_count, token=token)


@pytest.mark.parametrize(
    "error",
    [
        TypeError("create_client() got multiple values for keyword argument 'connect_timeout'"),
        KeyError("outbox_x"),
        MemoryError(),
        OSError(24, "Too many open files"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "a payload"),
        RuntimeError("anything"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_fails_for_one_window_is_noted_and_ends_nothing_else(
    store: Store, event_log: EventLog, error: Exception
) -> None:
    # Given one window for which the program fails, and others behind it
    write_events([_GOOD] * 3)
    sealed()
    create_users(5)
    sealed()
    expire_leases()
    broken = BreaksFor(store, error, "outbox_event")

    recover(broken, should_stop=lambda: False)

    assert event_log.count() == 5
    problems = " ".join(read_status().problems)
    assert type(error).__name__ in problems
    assert "a payload" not in problems

    settle(store, rounds=1)
    assert_delivered(event_log, committed=8)


def test_dead_letters_of_bad_rows_can_be_replayed_when_the_table_is_repaired(store: Store, event_log: EventLog) -> None:
    write_events([_BAD] * 3 + [_GOOD] * 3)
    with refusing(event_log):
        deliver(sealed(), store)
        settle(store, rounds=2)
    assert OutboxEvent.objects.count() == 3

    deadletters.replay(deadletters.find(None), batch_ids=1000, enqueue=lambda _batches: None)
    window = seal(list(Batch.objects.values_list("id", flat=True)))
    assert window is not None
    deliver(window, store)

    assert_delivered(event_log, committed=6)
