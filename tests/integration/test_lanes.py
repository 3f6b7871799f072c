"""An aggregator's two lanes: neither fresh batches nor those of a backlog wait for the others' windows."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from django.db import connection

from tests.integration.rows import write_events
from tests.integration.stores import PassesOn
from tests.waiting import eventually
from towpath.conf.current import config
from towpath.flow.accumulate import WindowLimits
from towpath.flow.aggregator import Aggregator
from towpath.ledger import batches
from towpath.ledger.models import Batch, Window
from towpath.wiring import window_rules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from towpath.eventlog.store import Store

WAIT_SECONDS = 30

#: A window is due as soon as a writer is free.
LIMITS = WindowLimits(rows=1, max_rows=1, payload_bytes=1024**2, linger_seconds=3600)


class Holds(PassesOn):
    """Keeps the inserts with a text waiting until it is told to let go."""

    def __init__(self, store: Store, text: bytes) -> None:
        super().__init__(store)
        self._text = text
        self._is_let_go = threading.Event()
        self.waiting = 0

    def write(self, rows: bytes, *, row_count: int, token: str) -> None:
        if self._text in rows:
            self.waiting += 1
            self._is_let_go.wait(WAIT_SECONDS)
        super().write(rows, row_count=row_count, token=token)

    def let_go(self) -> None:
        self._is_let_go.set()


class Aggregating:
    """One aggregator with two writers and a spare one, whose `store` takes nothing of the text until it is let go."""

    def __init__(self, store: Store, text: str, limits: WindowLimits) -> None:
        self.store = Holds(store, text.encode())
        self._aggregator = Aggregator(self.store, window_rules(config()), limits=limits, writers=2)
        self._actors: list[threading.Thread] = []
        self._aggregator.start()

    def submit(self, text: str, *, is_backlog: bool, as_if: bool | None = None) -> int:
        """One batch of one event; its number. `as_if` is the lane that its message comes by, if it is another."""
        batch = batches.insert("outbox_event", write_events([f'"{text}"']))
        Batch.objects.filter(id=batch.id).update(is_backlog=is_backlog)
        size = {"rows": 1, "payload_bytes": 0, "is_backlog": is_backlog if as_if is None else as_if}
        actor = threading.Thread(target=self._aggregator.submit, args=[batch.id], kwargs=size)
        self._actors.append(actor)
        actor.start()
        return batch.id

    def close(self) -> None:
        self.store.let_go()
        assert self._aggregator.close(timeout_seconds=WAIT_SECONDS)
        for actor in self._actors:
            actor.join(WAIT_SECONDS)


@pytest.fixture
def aggregating(store: Store) -> Iterator[Callable[..., Aggregating]]:
    """Makes aggregators. They are closed at the end of the test, when all is delivered."""
    made: list[Aggregating] = []

    def make(text: str, limits: WindowLimits = LIMITS) -> Aggregating:
        made.append(Aggregating(store, text, limits))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert not Batch.objects.exists()


@pytest.mark.parametrize("is_backlog", [True, False])
def test_batches_pass_while_every_writer_is_at_windows_of_the_other_kind(
    aggregating: Callable[..., Aggregating], *, is_backlog: bool
) -> None:
    # Given an aggregator whose writers all wait for the store, and a third batch of the same kind
    aggregator = aggregating("held")
    for _ in range(3):
        aggregator.submit("held", is_backlog=is_backlog)
    eventually(lambda: aggregator.store.waiting == 2, seconds=WAIT_SECONDS)

    # When batches of the other kind come, they are stored one after the other
    for _ in range(3):
        passing = aggregator.submit("passing", is_backlog=not is_backlog)
        eventually(lambda: not Batch.objects.filter(id=passing).exists(), seconds=WAIT_SECONDS)

    # Then the writers wait still, the spare one has left the third batch alone, and all is delivered in the end
    assert aggregator.store.waiting == 2
    assert Batch.objects.filter(window=None).count() == 1


def test_no_more_writers_are_at_windows_of_a_kind_than_before_there_was_a_spare_one(
    aggregating: Callable[..., Aggregating],
) -> None:
    """Or windows would be smaller while all is fresh."""
    aggregator = aggregating("held")
    for _ in range(4):
        aggregator.submit("held", is_backlog=False)
    eventually(lambda: aggregator.store.waiting == 2, seconds=WAIT_SECONDS)

    passing = aggregator.submit("passing", is_backlog=True)
    eventually(lambda: not Batch.objects.filter(id=passing).exists(), seconds=WAIT_SECONDS)

    assert aggregator.store.waiting == 2


def test_a_window_is_of_one_kind(aggregating: Callable[..., Aggregating]) -> None:
    aggregator = aggregating("", WindowLimits(rows=2, max_rows=9, payload_bytes=99, linger_seconds=3600))

    for _ in range(2):
        for is_backlog in (True, False):
            aggregator.submit("any", is_backlog=is_backlog)

    eventually(lambda: Window.objects.count() == 2, seconds=WAIT_SECONDS)
    with connection.cursor() as cursor:
        cursor.execute("SELECT window_id FROM pipeline_batch GROUP BY window_id HAVING count(DISTINCT is_backlog) > 1")
        assert not cursor.fetchall()


def test_a_message_in_the_wrong_queue_does_not_move_its_batch(aggregating: Callable[..., Aggregating]) -> None:
    # Given an aggregator whose writers are at a backlog
    aggregator = aggregating("held")
    for _ in range(2):
        aggregator.submit("held", is_backlog=True)
    eventually(lambda: aggregator.store.waiting == 2, seconds=WAIT_SECONDS)

    # When somebody puts the number of a backlog's batch into the queue of fresh ones
    pushed = aggregator.submit("pushed in", is_backlog=True, as_if=False)
    passing = aggregator.submit("passing", is_backlog=False)
    eventually(lambda: not Batch.objects.filter(id=passing).exists(), seconds=WAIT_SECONDS)

    # Then it waits all the same
    assert Batch.objects.get(id=pushed).window is None
