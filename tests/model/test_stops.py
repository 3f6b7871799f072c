"""What the model takes for granted of the product: where its processes can stand still, and in which order."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from django.db import transaction

from tests.integration.windows import recover
from tests.model.faulty_store import FaultyStore
from tests.model.puppets import Order, Puppet
from towpath.conf.current import config
from towpath.flow.accumulate import WindowLimits
from towpath.flow.aggregator import Aggregator, _Member
from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.ledger.batches import UnsealedBatch
from towpath.outbox.models import OutboxEvent, all_outboxes
from towpath.wiring import window_rules

if TYPE_CHECKING:
    from tests.model.ledger import Ledger
    from towpath.ledger.batches import BatchMessage

LIMITS = WindowLimits(rows=8, max_rows=8, payload_bytes=1600, linger_seconds=0)


def stops_of(puppet: Puppet) -> list[str]:
    """Where the puppet stands, and will stand until the end of its job; requests without their tokens."""
    stops = []
    while puppet.stop is not None:
        stops.append(puppet.stop.split()[0])
        puppet.tell(Order.GO_ON)
    return stops


def dispatched(puppet: Puppet) -> tuple[list[str], BatchMessage]:
    """One event, brought into a batch by a dispatcher, and the dispatcher's stops."""
    with transaction.atomic():
        OutboxEvent.objects.create(event_type="paid", event_date_time=datetime(2024, 1, 1, tzinfo=UTC))
    batches: list[BatchMessage] = []

    limits = DispatchLimits(batch_ids=100, batch_bytes=1000, in_flight_rows=1000)
    dispatcher = Dispatcher(all_outboxes(), limits=limits, enqueue=batches.extend)
    dispatcher.create_cursors()
    puppet.start(dispatcher.look)
    stops = stops_of(puppet)
    (batch,) = batches
    return stops, batch


def test_a_dispatcher_can_die_before_and_after_its_commit_and_after_its_messages(
    ledger: Ledger, puppets: list[Puppet]
) -> None:
    stops, _ = dispatched(puppets[0])

    assert stops == ["batches_inserted", "cursor_committed", "enqueued"]
    assert len(ledger.sample().in_batches) == 1


def test_an_aggregator_seals_releases_its_members_and_then_loads_writes_and_acks(
    ledger: Ledger, puppets: list[Puppet]
) -> None:
    _, batch = dispatched(puppets[0])
    aggregator = Aggregator(FaultyStore(token_log_entries=2), window_rules(config()), limits=LIMITS, writers=0)
    member = _Member(UnsealedBatch(batch.id, rows=0, payload_bytes=0))

    puppets[0].start(lambda: aggregator._seal_and_deliver([member]))

    assert puppets[0].stop == "sealed"
    assert not member.is_released.is_set()
    assert stops_of(puppets[0]) == ["sealed", "loaded", "write", "written", "acked"]
    assert member.is_released.is_set()
    assert not ledger.sample().in_outbox


def test_a_replay_reads_back_before_and_after_it_writes(ledger: Ledger, puppets: list[Puppet]) -> None:
    _, batch = dispatched(puppets[0])
    store = FaultyStore(token_log_entries=2)
    aggregator = Aggregator(store, window_rules(config()), limits=LIMITS, writers=0)
    puppets[0].start(lambda: aggregator._seal_and_deliver([_Member(UnsealedBatch(batch.id, rows=0, payload_bytes=0))]))
    puppets[0].die()

    ledger.expire_leases()
    puppets[1].start(lambda: recover(store, should_stop=lambda: False))

    assert stops_of(puppets[1]) == ["loaded", "read_back", "write", "read_back", "written", "acked"]
    assert len(store.rows) == 1
