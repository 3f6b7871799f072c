"""What can double a row, and what cannot: each combination of faults by itself, in the order in which it must happen.

The limits that are documented are shown to be limits, so that nobody takes the model's exceptions on trust; everything
just short of one is shown to be safe.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from django.db import transaction

from backend.users.models import OutboxUser, User
from tests.integration.windows import deliver, recover, seal
from tests.model.faulty_store import FaultyStore
from tests.model.puppets import Order, Puppet
from towpath.flow import deadletters
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.outbox.models import OutboxEvent, all_outboxes

if TYPE_CHECKING:
    from tests.model.ledger import Ledger
    from towpath.eventlog.rows import Identity
    from towpath.ledger.batches import BatchMessage


class Race:
    """One window, the owner that sealed it, and a second one that takes it over while the first stands still."""

    def __init__(self, ledger: Ledger, puppets: list[Puppet], *, token_log_entries: int = 10_000) -> None:
        self.ledger = ledger
        self.store = FaultyStore(token_log_entries=token_log_entries)
        self.first, self.second, self.third = puppets[:3]
        self._queue: list[BatchMessage] = []
        limits = DispatchLimits(batch_ids=100, batch_bytes=100_000, in_flight_rows=1000)
        self._dispatcher = Dispatcher(all_outboxes(), limits=limits, enqueue=self._queue.extend)
        self._dispatcher.create_cursors()

    def seal_and_stop_before_writing(self) -> None:
        """The first owner has sealed and loaded, and is about to send its insert."""
        while self._dispatcher.look():
            pass
        batch_ids = [batch.id for batch in self._queue]

        def job() -> None:
            window = seal(batch_ids)
            assert window is not None
            deliver(window, self.store)

        self._begin(self.first, job)
        self.run_to(self.first, "write")

    def take_over(self, puppet: Puppet, *, stop: str) -> None:
        """Another owner claims the window and continues to a stop."""
        self.ledger.expire_leases()
        self._begin(puppet, lambda: recover(self.store, should_stop=lambda: False))
        self.run_to(puppet, stop)

    def run_to(self, puppet: Puppet, stop: str) -> None:
        while puppet.stop is not None and not puppet.stop.startswith(stop):
            puppet.tell(Order.GO_ON)

    def finish(self, puppet: Puppet) -> None:
        puppet.go_on(stops=1000)

    def forget_all_tokens(self) -> None:
        self.store.token_log.clear()

    def copies(self) -> set[int]:
        """How often the rows are stored."""
        return set(Counter(row.identity for row in self.store.rows).values())

    def _begin(self, puppet: Puppet, job: object) -> None:
        assert callable(job)
        self.store.job_starts((puppet.name, puppet.job + 1))
        puppet.start(job)


@pytest.fixture
def race(ledger: Ledger, puppets: list[Puppet]) -> Race:
    return Race(ledger, puppets)


def publish_users(*first_names: str) -> list[Identity]:
    with transaction.atomic():
        users = [User(email=f"{number}@example.org", first_name=name) for number, name in enumerate(first_names)]
        User.objects.bulk_create(users)
        rows = OutboxUser.objects.bulk_create(OutboxUser(user=user) for user in users)
    return [("outbox_user", row.id) for row in rows]


def publish_events(count: int, *, months: int = 1) -> list[Identity]:
    """Of one month, or of several in turn."""
    with transaction.atomic():
        rows = OutboxEvent.objects.bulk_create(
            OutboxEvent(
                event_type="paid", event_date_time=datetime(2024, 1 + n % months, 1, tzinfo=UTC), event_context="{}"
            )
            for n in range(count)
        )
    return [("outbox_event", row.id) for row in rows]


def test_an_insert_that_arrives_after_the_takeover_is_dropped_by_its_token(race: Race) -> None:
    publish_events(4)
    race.seal_and_stop_before_writing()

    race.take_over(race.second, stop="the end")
    race.finish(race.first)

    assert race.copies() == {1}


def test_a_forgotten_token_doubles_nothing_that_the_next_owner_can_read_back(race: Race) -> None:
    # Given an insert whose answer is lost, and whose token is forgotten
    publish_events(4)
    race.seal_and_stop_before_writing()
    race.first.tell(Order.ANSWER_LOST)
    race.forget_all_tokens()

    race.take_over(race.second, stop="the end")

    assert race.copies() == {1}


def test_limit_an_insert_after_the_takeover_whose_token_is_forgotten_doubles_its_window(race: Race) -> None:
    publish_events(4)
    race.seal_and_stop_before_writing()
    race.take_over(race.second, stop="the end")

    race.forget_all_tokens()
    race.finish(race.first)

    assert race.copies() == {2}
    assert set(race.store.doubled_within_limits.values()) == {"late and forgotten"}


@pytest.mark.parametrize("months", [1, 2])
def test_a_refused_window_s_insert_that_arrives_when_the_table_is_repaired_is_dropped_by_its_token(
    race: Race, months: int
) -> None:
    # Given a refused row, for which the next owner writes the window in parts (under tokens of their own)
    rows = publish_events(5, months=months)
    race.store.poison = {rows[2]}
    race.seal_and_stop_before_writing()
    race.take_over(race.second, stop="the end")
    assert race.copies() == {1}

    # When the store is repaired, so that it takes the whole window, and the first owner's insert arrives
    race.store.mend()
    race.finish(race.first)

    # Then the token of the whole is used up already
    assert race.copies() == {1}
    assert race.ledger.sample().dead == {rows[2]}


def test_limit_a_refused_row_alone_in_its_month_is_doubled_by_a_late_insert_and_its_replay(race: Race) -> None:
    # Given a dead letter in whose month the store took no other row, so that it remembers no token for it
    rows = publish_events(2, months=2)
    race.store.poison = {rows[1]}
    race.seal_and_stop_before_writing()
    race.take_over(race.second, stop="the end")

    # When the store is repaired, the first owner's insert arrives, and the dead letter is replayed
    race.store.mend()
    race.finish(race.first)
    deadletters.replay(deadletters.find(None), batch_ids=1000, enqueue=lambda _batches: None)
    race.ledger.age_batches()
    race.take_over(race.third, stop="the end")

    assert race.copies() == {1, 2}
    assert set(race.store.doubled_within_limits) == {rows[1]}
    assert set(race.store.doubled_within_limits.values()) == {"late and repaired"}


def test_an_owner_that_has_lost_its_lease_sends_no_parts(race: Race) -> None:
    # Given an owner that has read back that nothing is stored, and is about to send the window
    rows = publish_events(2)
    race.seal_and_stop_before_writing()
    race.store.poison = {rows[0]}
    race.take_over(race.second, stop="write")

    # When another one dead-letters a row, the store is repaired, and the row is replayed
    race.take_over(race.third, stop="the end")
    race.store.mend()
    deadletters.replay(deadletters.find(None), batch_ids=1000, enqueue=lambda _batches: None)
    race.ledger.age_batches()
    race.take_over(race.third, stop="the end")
    race.finish(race.second)
    race.finish(race.first)

    # Then the first two find the token of the window used up, and stop
    assert race.copies() == {1}


def test_a_row_that_another_owner_has_stored_meanwhile_does_not_use_up_a_token(race: Race) -> None:
    # Given an owner that was refused, and is about to try the row at fault by itself
    rows = publish_events(2)
    race.store.poison = {rows[0]}
    race.seal_and_stop_before_writing()
    race.first.tell(Order.GO_ON)
    race.run_to(race.first, "write")

    # When another one stores the other row, the token is forgotten, and the first one continues to that row
    race.take_over(race.second, stop="the end")
    race.forget_all_tokens()
    race.finish(race.first)

    assert race.copies() == {1}


def test_an_insert_after_the_takeover_of_a_refused_window_is_refused_as_well(race: Race) -> None:
    rows = publish_events(4)
    race.store.poison = {rows[2]}
    race.seal_and_stop_before_writing()
    race.take_over(race.second, stop="the end")

    race.finish(race.first)

    assert race.copies() == {1}


def test_two_owners_that_replace_the_rows_lost_behind_a_token_store_them_once(race: Race) -> None:
    # Given a token without its rows, and a second owner that has found out and is about to write them again
    publish_events(4)
    race.seal_and_stop_before_writing()
    race.first.tell(Order.GHOST)
    window = race.ledger.only_window()
    race.take_over(race.second, stop=f"write {window}:")

    # When a third owner does the same before it
    race.take_over(race.third, stop="the end")
    race.finish(race.second)

    assert race.copies() == {1}


def test_a_token_that_lost_its_rows_twice_is_replaced_again(race: Race) -> None:
    publish_events(4)
    race.seal_and_stop_before_writing()
    race.first.tell(Order.GHOST)
    window = race.ledger.only_window()
    race.take_over(race.second, stop=f"write {window}:")
    race.second.tell(Order.GHOST)

    race.take_over(race.third, stop="the end")
    race.take_over(race.third, stop="the end")

    assert race.copies() == {1}
    assert not race.ledger.sample().in_outbox


def test_a_window_that_outgrew_its_limit_is_not_split_while_its_first_insert_may_be_under_way(race: Race) -> None:
    # Given a window of rows by reference, whose insert is on its way
    publish_users(*("short" for _ in range(8)))
    race.seal_and_stop_before_writing()

    # When the rows grow beyond WINDOW_BYTES before the next owner loads them, and the insert arrives afterwards
    race.ledger.execute("UPDATE users SET first_name = repeat('x', 150)")
    race.take_over(race.second, stop="the end")
    race.finish(race.first)
    race.take_over(race.third, stop="the end")

    assert race.copies() == {1}


def test_a_row_that_is_refused_only_when_it_is_replaced_stops_nothing_else(race: Race) -> None:
    # Given rows lost behind their token, and a store that refuses one of them from now on
    rows = publish_events(4)
    race.seal_and_stop_before_writing()
    race.first.tell(Order.GHOST)
    window = race.ledger.only_window()
    race.take_over(race.second, stop=f"write {window}:")
    race.store.poison = {rows[2]}

    # When the owner sends them, its recovery continues, and the next one dead-letters the row
    race.finish(race.second)
    race.take_over(race.third, stop="the end")

    assert race.copies() == {1}
    assert race.ledger.sample().in_outbox == race.ledger.sample().dead == {rows[2]}


def test_a_half_of_which_one_month_is_stored_is_completed_under_its_own_token(race: Race) -> None:
    # Given a window written by halves, and its first owner about to send a half of two months
    rows = publish_events(8, months=2)
    race.store.poison = {rows[6]}
    race.seal_and_stop_before_writing()
    half = f"write {race.ledger.only_window()}:0-4"
    race.run_to(race.first, half)

    # When the second owner gets one month of it stored, the third one the rest, and the first one wakes up
    race.take_over(race.second, stop=half)
    race.second.tell(Order.FIRST_MONTH_ONLY)
    race.take_over(race.third, stop="the end")
    race.finish(race.first)

    assert race.copies() == {1}


@pytest.mark.parametrize("months", [1, 2])
def test_a_window_of_many_refused_rows_whose_insert_arrives_when_the_table_is_repaired_is_dropped_by_its_token(
    race: Race, months: int
) -> None:
    # Given refused rows at the beginning, in the middle and at the end of each month, and good ones between them
    rows = publish_events(5 * months, months=months)
    race.store.poison = {row for month in range(months) for row in rows[month::months][::2]}
    race.seal_and_stop_before_writing()
    race.take_over(race.second, stop="the end")
    assert race.copies() == {1}

    # When the store is repaired, and the first owner's insert arrives
    race.store.mend()
    race.finish(race.first)

    # Then the good rows are stored once
    assert race.copies() == {1}
