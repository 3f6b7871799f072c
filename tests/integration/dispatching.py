"""A dispatcher in the test's own process, whose messages go to a list instead of RabbitMQ."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from towpath.flow.dispatch import Dispatcher, DispatchLimits
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.flow.dispatch import EnqueueBatches
    from towpath.ledger.batches import BatchMessage

EVENT, USER = "outbox_event", "outbox_user"

#: Looks after which a dispatcher that is still not done is taken to be stuck.
_MOST_LOOKS = 2000


class Sent:
    """The batches whose messages were sent, in order."""

    def __init__(self) -> None:
        self.batches: list[BatchMessage] = []

    def __call__(self, batches: Sequence[BatchMessage], /) -> None:
        self.batches += batches

    def ids(self, outbox: str) -> list[int]:
        """Every id that was sent, sorted, as often as it was sent."""
        return sorted(id_ for batch in self.batches if batch.outbox == outbox for id_ in batch.ids)

    def times(self, outbox: str) -> Counter[int]:
        return Counter(self.ids(outbox))


def make_dispatcher(
    enqueue: EnqueueBatches,
    *,
    batch_ids: int = 500,
    batch_bytes: int = 8 * 1024 * 1024,
    in_flight_rows: int = 1_000_000,
    backlog_batch_ids: int = 0,
    backlog_batch_bytes: int = 0,
) -> Dispatcher:
    """A dispatcher over all outboxes, with its cursors in place."""
    limits = DispatchLimits(
        batch_ids=batch_ids,
        batch_bytes=batch_bytes,
        in_flight_rows=in_flight_rows,
        backlog_batch_ids=backlog_batch_ids,
        backlog_batch_bytes=backlog_batch_bytes,
    )
    dispatcher = Dispatcher(all_outboxes(), limits=limits, enqueue=enqueue)
    dispatcher.create_cursors()
    return dispatcher


def dispatch_all(dispatcher: Dispatcher) -> None:
    """Look until nothing is left to dispatch: twice, because a look ends with the snapshot its pages began with."""
    idle = 0
    for _ in range(_MOST_LOOKS):
        idle = 0 if dispatcher.look() else idle + 1
        if idle == 2:
            return
    raise AssertionError(f"the dispatcher still has something to do after {_MOST_LOOKS} looks")
