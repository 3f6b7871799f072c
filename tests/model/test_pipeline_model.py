"""A model of the pipeline: any interleaving of its processes and any fault of the store, invariants after each step.

The code is the product's own, on the real PostgreSQL: `Dispatcher.look`, `seal`, `deliver` (load, write, ack, split),
`recover`, `deadletters`. It runs in puppets (puppets.py), which stand still at every failpoint and before every
request to the store; a rule says who continues, and what happens to the request. A process that dies never continues. A
zombie is one that continues after its lease has run out. The store (faulty_store.py) has a token log of two blocks in
half of the examples.

Invariants: I1 no loss, I2 no phantom, I3 each once, I4 bytes equal, I5 a row gone from its outbox is in the store or
was dropped, I6 a row is in one batch, I7 all drains when the faults are over, I8 each receipt adds up, I9 no mark has
passed what is still to be looked for.

What can double a row. An insert is *late* if it reaches the store after another owner has taken its window over and
read it back: it was sent, or its sender stood still with it in hand, for longer than a lease and the store's time
limit. A late insert is harmless, because the store drops it by its token, except when

1. the store has *forgotten* the token: as many blocks as its token log holds were written since; or
2. the store had *refused* a row by itself, no other row of its month was there to use up the window's token, and the
   store was *repaired* before the late insert: then it takes that month of the window, and the row again when it is
   replayed.

Nothing else doubles a row: not a forgotten token or a repaired refusal without a late insert, nor a late insert without
one of them. These two combinations are what the model lets pass (`FaultyStore._limit`), and no others; test_limits.py
shows each of them, and what is just short of it. Rows that are lost after the store has acknowledged them are outside
the model: it acknowledges what is on disk.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from django.db import transaction
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backend.users.models import OutboxUser, User
from tests.integration.windows import deliver, recover, seal
from tests.model.faulty_store import FaultyStore
from tests.model.puppets import Order, Puppet, stand_still
from towpath.flow import deadletters
from towpath.flow.accumulate import Accumulator, WindowLimits
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.flow.verify import verify_receipts
from towpath.ledger.stuck import move_marks_and_look
from towpath.outbox.models import OutboxEvent, all_outboxes
from towpath.telemetry import failpoints

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.model.ledger import Ledger
    from towpath.eventlog.rows import Identity
    from towpath.ledger.batches import BatchMessage

#: The same examples in each run. The long profile, with others each time, is `MODEL_EXAMPLES=20000`.
_FIRST_EXAMPLES, _EXAMPLES = 40, int(os.environ.get("MODEL_EXAMPLES", "500"))
_IS_LONG = "MODEL_EXAMPLES" in os.environ
_STEPS = 30

_MONTHS = (datetime(2024, 1, 31, 23, 59, 59, 999999, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
#: Stops after which a puppet is left standing; the last one is never reached.
_STOPS = st.sampled_from([0, 1, 2, 3, 4, 1000, 1000])
_WHICH = st.integers(0, 5)
_ROWS = st.sampled_from(["small", "other month", "large", "user"])
_FAULTS = st.sampled_from(
    [
        Order.GHOST,
        Order.ANSWER_LOST,
        Order.DELAYED,
        Order.FIRST_MONTH_ONLY,
        Order.UNAVAILABLE,
        Order.DIE,
        Order.VIEW_FAILS,
        Order.TOO_LARGE,
    ]
)


class Pipeline(RuleBasedStateMachine):
    """The processes, what is between them, and what was published."""

    ledger: Ledger
    puppets: list[Puppet]

    @initialize(
        token_log_entries=st.sampled_from([10_000, 2]),
        rows=st.lists(_ROWS, min_size=2, max_size=7),
        stops=st.sampled_from([None, 1, 2, 3]),
    )
    def begin(self, token_log_entries: int, rows: list[str], stops: int | None) -> None:
        """Empty, or with a window that has come some way: faults are only met further down the flow."""
        self.ledger.clear()
        self.store = FaultyStore(token_log_entries=token_log_entries)
        self.queue: list[BatchMessage] = []
        self.aggregators = [_accumulator(), _accumulator()]
        limits = DispatchLimits(batch_ids=2, batch_bytes=400, in_flight_rows=1000)
        self.dispatchers = [Dispatcher(all_outboxes(), limits=limits, enqueue=self.queue.extend) for _ in range(2)]
        self.dispatchers[0].create_cursors()
        self.ledger.begin_cursors_here()
        self.published: dict[Identity, str] = {}
        self.dropped: set[Identity] = set()
        self.writers: dict[str, list[tuple[Identity, str]]] = {}
        if stops is not None:
            self.publish(rows, "commit")
            while self.dispatchers[0].look():
                pass
            while self.queue:
                self.accumulate(0, 0, is_delivered_again=False)
            self.seal_and_deliver(0, stops)

    # --- Publish -----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.idle)
    @rule(
        rows=st.lists(_ROWS, min_size=1, max_size=3),
        ending=st.sampled_from(["commit", "commit", "roll back", "leave open"]),
    )
    def publish(self, rows: list[str], ending: str) -> None:
        puppet = self.idle[0]
        mine: list[tuple[Identity, str]] = []
        self.writers[puppet.name] = mine
        puppet.start(lambda: _publish(rows, mine))
        if ending != "leave open":
            self._end_transaction(puppet, is_committed=ending == "commit")

    @precondition(lambda self: self.writers)
    @rule(which=_WHICH, is_committed=st.booleans())
    def end_transaction(self, which: int, is_committed: bool) -> None:
        name = list(self.writers)[which % len(self.writers)]
        self._end_transaction(self._puppet(name), is_committed=is_committed)

    def _end_transaction(self, puppet: Puppet, *, is_committed: bool) -> None:
        puppet.tell(Order.GO_ON if is_committed else Order.ROLL_BACK)
        rows = self.writers.pop(puppet.name)
        if is_committed:
            self.published.update(rows)

    # --- Dispatch and RabbitMQ ---------------------------------------------------------------------------------------

    @precondition(lambda self: self.idle)
    @rule(which=_WHICH, stops=_STOPS)
    def dispatch(self, which: int, stops: int) -> None:
        self._begin(self.dispatchers[which % 2].look, stops=stops)

    @precondition(lambda self: self.queue)
    @rule(which=_WHICH, aggregator=st.integers(0, 1), is_delivered_again=st.booleans())
    def accumulate(self, which: int, aggregator: int, is_delivered_again: bool) -> None:
        position = which % len(self.queue)
        batch = self.queue[position] if is_delivered_again else self.queue.pop(position)
        self.aggregators[aggregator].add(batch.id, rows=len(batch.ids), payload_bytes=batch.bytes, now=0)

    # --- Aggregators and recovery ------------------------------------------------------------------------------------

    @precondition(lambda self: self.idle and any(self.aggregators))
    @rule(aggregator=st.integers(0, 1), stops=_STOPS)
    def seal_and_deliver(self, aggregator: int, stops: int) -> None:
        batch_ids = (self.aggregators[aggregator] or self.aggregators[1 - aggregator]).take(now=0).batches

        def job() -> None:  # as Aggregator._seal_and_deliver, without its threads and its retries
            window = seal(batch_ids)
            failpoints.reach("sealed")
            if window is not None:
                deliver(window, self.store)

        self._begin(job, stops=stops)

    @precondition(lambda self: self.idle)
    @rule(stops=_STOPS)
    def take_over(self, stops: int) -> None:
        """All leases have run out, and all batches have waited for too long."""
        self.ledger.expire_leases()
        self.ledger.age_batches()
        self._begin(lambda: recover(self.store, should_stop=lambda: False), stops=stops)

    @precondition(lambda self: self.idle)
    @rule()
    def verify(self) -> None:
        """And the marks move, no matter who stands where."""
        move_marks_and_look(list(all_outboxes()), unsealed_seconds=0)
        verify_receipts(self.store, should_stop=lambda: False)

    @precondition(lambda self: self.queue or any(self.aggregators))
    @rule()
    def lose_messages(self) -> None:
        """The queue is purged, and an aggregator dies with what it has accumulated."""
        self.queue.clear()
        self.aggregators = [_accumulator(), self.aggregators[0]]

    # --- What standing processes do next -----------------------------------------------------------------------------

    @precondition(lambda self: self.standing)
    @rule(which=_WHICH, stops=_STOPS)
    def go_on(self, which: int, stops: int) -> None:
        self.standing[which % len(self.standing)].go_on(stops=stops + 1)

    @precondition(lambda self: self.standing)
    @rule(which=_WHICH, fault=_FAULTS, stops=_STOPS)
    def fail(self, which: int, fault: Order, stops: int) -> None:
        puppet = self.standing[which % len(self.standing)]
        puppet.tell(fault)
        puppet.go_on(stops=stops)

    # --- The store ---------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.store.delayed)
    @rule(which=_WHICH)
    def delayed_request_arrives(self, which: int) -> None:
        self.store.arrive(which % len(self.store.delayed))

    @precondition(lambda self: self.published)
    @rule(which=st.integers(0, 20))
    def a_row_becomes_unwritable(self, which: int) -> None:
        self.store.poison.add(list(self.published)[which % len(self.published)])

    @precondition(lambda self: self.store.poison)
    @rule()
    def mend(self) -> None:
        self.store.mend()

    @rule()
    def referenced_rows_grow(self) -> None:
        self.ledger.execute("UPDATE users SET first_name = repeat('x', 150)")

    # --- Dead letters ------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.store.poison)
    @rule()
    def replay_dead_letters(self) -> None:
        deadletters.replay(deadletters.find(None), batch_ids=2, enqueue=self.queue.extend)

    @precondition(lambda self: self.store.poison)
    @rule()
    def drop_a_dead_letter(self) -> None:
        letters = deadletters.find(None)[:1]
        self.dropped |= {(letter.outbox, letter.row_id) for letter in letters}
        deadletters.drop(letters, by="the model")
        audit = OutboxEvent.objects.filter(event_type="dead_letter_dropped").values_list("id", "event_context")
        self.published.update({("outbox_event", id_): context for id_, context in audit})

    # --- Invariants --------------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_lost_doubled_or_invented(self) -> None:
        ledger = self.ledger.sample()
        stored = {row.identity for row in self.store.rows}
        assert not stored - self.published.keys(), "I2: a row that nobody committed"
        assert not self.store.doubled, "I3: a row is stored twice"
        assert not self.published.keys() - ledger.in_outbox - stored - self.dropped, "I5: a row is nowhere"
        assert len(ledger.in_batches) == len(set(ledger.in_batches)), "I6: a row is in two batches"
        assert not ledger.dead & set(ledger.in_batches), "I6: a dead letter is in a batch"
        assert not ledger.wrong_receipts, "I8: a receipt does not add up"
        assert not ledger.missed, "I9: below a mark, and not late: nobody looks for it any more"

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None and hasattr(self, "store"):
                self._heal_and_drain()
        finally:
            for puppet in self.puppets:
                puppet.die()

    def _heal_and_drain(self) -> None:
        for name in list(self.writers):
            self._end_transaction(self._puppet(name), is_committed=True)
        for puppet in self.standing:
            if puppet.stop in {"batches_inserted", "cursor_committed", "enqueued"}:
                puppet.go_on(stops=1000)
        self.store.mend()
        self.queue.clear()
        for _ in range(20):
            if self._is_drained():
                break
            self.ledger.expire_leases()
            self.ledger.age_batches()
            while self.dispatchers[0].look():
                pass
            deadletters.replay(deadletters.find(None), batch_ids=2, enqueue=self.queue.extend)
            recover(self.store, should_stop=lambda: False)
        assert self._is_drained(), "I7: does not drain"
        # Now the zombies wake up, and what was under way arrives.
        for puppet in self.standing:
            puppet.go_on(stops=1000)
        while self.store.delayed:
            self.store.arrive(0)
        self.nothing_is_lost_doubled_or_invented()
        assert self._is_drained(), "I7: is not drained any more"
        stored = {row.identity: row.event_context.decode() for row in self.store.rows}
        assert self.published.keys() - self.dropped <= stored.keys(), "I1: a row is lost"
        frozen = {identity: context for identity, context in stored.items() if identity[0] == "outbox_event"}
        assert all(context == self.published[identity] for identity, context in frozen.items()), "I4: other bytes"

    def _is_drained(self) -> bool:
        sample = self.ledger.sample()
        return not (sample.in_outbox or sample.in_batches or sample.dead or sample.open_windows)

    # --- Puppets -----------------------------------------------------------------------------------------------------

    @property
    def idle(self) -> list[Puppet]:
        return [puppet for puppet in self.puppets if puppet.stop is None]

    @property
    def standing(self) -> list[Puppet]:
        return [puppet for puppet in self.puppets if puppet.stop is not None and puppet.name not in self.writers]

    def _puppet(self, name: str) -> Puppet:
        return next(puppet for puppet in self.puppets if puppet.name == name)

    def _begin(self, job: Callable[[], object], *, stops: int) -> None:
        puppet = self.idle[0]
        self.store.job_starts((puppet.name, puppet.job + 1))
        puppet.start(job)
        puppet.go_on(stops=stops)


def _accumulator() -> Accumulator[int]:
    return Accumulator(WindowLimits(rows=8, max_rows=8, payload_bytes=1600, linger_seconds=0))


def _publish(rows: list[str], published: list[tuple[Identity, str]]) -> None:
    with transaction.atomic():
        for number, kind in enumerate(rows):
            if kind == "user":
                user = User.objects.create(email=f"{os.urandom(8).hex()}@example.org")
                lean = OutboxUser.objects.create(user=user)
                published.append((("outbox_user", lean.id), ""))
                continue
            context = json.dumps({"n": number, "text": "a\tb\\N\n" + "x" * (600 if kind == "large" else 5)})
            event = OutboxEvent.objects.create(
                event_type="paid", event_date_time=_MONTHS[kind == "other month"], event_context=context
            )
            published.append((("outbox_event", event.id), context))
        if stand_still("before the commit") is Order.ROLL_BACK:
            transaction.set_rollback(True)


@pytest.mark.timeout(0 if _IS_LONG else 600)
@pytest.mark.parametrize("examples", [_FIRST_EXAMPLES, pytest.param(_EXAMPLES, marks=pytest.mark.slow)])
def test_no_interleaving_and_no_fault_loses_or_doubles_a_row(
    ledger: Ledger, puppets: list[Puppet], examples: int
) -> None:
    class Model(Pipeline):
        pass

    Model.ledger, Model.puppets = ledger, puppets
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=examples,
            stateful_step_count=_STEPS,
            derandomize=not _IS_LONG,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        ),
    )
