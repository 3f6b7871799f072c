"""Cursors and shifts are updated all day: that costs the same while a transaction holds back vacuum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2
import pytest
from django.conf import settings
from django.db import connection

from tests.integration.block_reads import block_reads
from tests.integration.dispatching import Sent, make_dispatcher
from tests.integration.rows import write_events
from towpath.ledger import cursors, names, shifts
from towpath.ledger.moment import one_moment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Dead versions enough that walking them reads several times as much.
_UPDATES = 700


@pytest.fixture(autouse=True)
def _nothing_is_vacuumed() -> Iterator[None]:
    """A session that has taken a snapshot and forgotten about it."""
    holder = psycopg2.connect(settings.DATABASE_URL)
    holder.set_session(isolation_level="REPEATABLE READ")
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_current_xact_id()")
    yield
    holder.close()


def at_one_moment(read: Callable[[], object]) -> Callable[[], None]:
    """As `status` reads it."""

    def there() -> None:
        with one_moment():
            read()

    return there


@pytest.mark.slow
def test_looks_and_questions_read_as_much_of_a_cursor_after_many_looks_as_at_the_start() -> None:
    dispatcher = make_dispatcher(Sent())

    def look() -> None:
        write_events(["{}"])
        dispatcher.look()

    reads: dict[str, Callable[[], object]] = {
        "look": look,
        "last dispatches": at_one_moment(cursors.read_last_dispatches),
        "cursor": at_one_moment(lambda: cursors.read("outbox_event", is_locked=False)),
        "unknown names": at_one_moment(lambda: names.find_unknown(["outbox_event", "outbox_user"])),
    }
    look()
    start = {what: block_reads("pipeline_cursor", read) for what, read in reads.items()}

    for _ in range(_UPDATES):
        look()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pipeline_cursor")  # as autovacuum does, each minute: two rows, says the planner then

    end = {what: block_reads("pipeline_cursor", read) for what, read in reads.items()}
    assert end["look"] <= 2 * start["look"]
    # The index has a level more by then, for each row that is looked up.
    assert {what: blocks for what, blocks in end.items() if blocks > 2 * start[what] + 4} == {}


def test_a_shift_reads_as_much_of_its_row_after_many_signs_of_life_as_at_the_start() -> None:
    tokens = {name: shifts.take_if_free(name, silent_seconds=3) for name in ("dispatch", "recover")}

    def keep() -> None:
        for name, token in tokens.items():
            assert token is not None
            assert shifts.keep(name, token, alive_every_seconds=0)

    @at_one_moment
    def read() -> None:
        assert list(shifts.read_shifts()) == ["dispatch", "recover"]

    keep()
    start, start_read = block_reads("pipeline_shift", keep), block_reads("pipeline_shift", read)

    for _ in range(_UPDATES):
        keep()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE pipeline_shift")

    assert block_reads("pipeline_shift", keep) <= 2 * start
    assert block_reads("pipeline_shift", read) <= 2 * start_read + 4
    assert shifts.take_if_free("dispatch", silent_seconds=3) is None
