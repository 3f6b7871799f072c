"""Windows made and looked at by the test itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import connection

from tests.integration.dispatching import Sent, dispatch_all, make_dispatcher
from towpath import wiring
from towpath.conf.current import config
from towpath.flow import delivery
from towpath.flow import recover as recovery
from towpath.flow.delivery import Delivery
from towpath.ledger import windows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from towpath.eventlog.store import EventStore
    from towpath.ledger.open_windows import Found
    from towpath.ledger.windows import SealedWindow


def seal(batch_ids: Sequence[int], *, found: Found = "message") -> SealedWindow | None:
    return windows.seal(batch_ids, lease_seconds=config().lease_seconds, found=found)


def claim_expired(*, is_isolated: bool = False, renamed: Mapping[str, str] | None = None) -> SealedWindow | None:
    return windows.claim_expired(lease_seconds=config().lease_seconds, is_isolated=is_isolated, renamed=renamed)


def has_room() -> bool:
    return windows.has_room(max_open_windows=config().max_open_windows)


def deliver(window: SealedWindow, store: EventStore) -> Delivery:
    return delivery.deliver(window, store, wiring.window_rules(config()))


def recover(store: EventStore, *, should_stop: Callable[[], bool]) -> int:
    return recovery.recover(
        store,
        wiring.window_rules(config()),
        limits=wiring.window_limits(config()),
        unsealed_seconds=config().unsealed_seconds,
        should_stop=should_stop,
    )


def deliver_all(store: EventStore) -> None:
    assert deliver(sealed(), store) is Delivery.ACKED


def dispatched(*, batch_ids: int = 500) -> list[int]:
    """Dispatch everything that waits; the numbers of the batches."""
    sent = Sent()
    dispatch_all(make_dispatcher(sent, batch_ids=batch_ids))
    return [batch.id for batch in sent.batches]


def sealed(*, batch_ids: int = 500) -> SealedWindow:
    """One window of everything that waits."""
    window = seal(dispatched(batch_ids=batch_ids))
    assert window is not None
    return window


def taken_over(window: SealedWindow) -> SealedWindow:
    """The same window after its lease has run out and somebody else has claimed it."""
    expire_leases()
    claimed = claim_expired()
    assert claimed is not None
    assert claimed.id == window.id
    return claimed


def expire_leases() -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE pipeline_window SET lease_until = clock_timestamp() - interval '1 second'")


def age_batches() -> None:
    """As if those without a window had waited for a minute for somebody to seal them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE pipeline_batch SET dispatched_at = clock_timestamp() - interval '1 minute' WHERE window_id IS NULL"
        )


def members() -> dict[UUID, list[tuple[str, int]]]:
    """(outbox, id) of every open window's rows, sorted, as often as its batches hold them."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT window_id, outbox, unnest(ids) AS id FROM pipeline_batch WHERE window_id IS NOT NULL"
            " ORDER BY window_id, outbox, id"
        )
        found: dict[UUID, list[tuple[str, int]]] = {}
        for window_id, outbox, id_ in cursor.fetchall():
            found.setdefault(window_id, []).append((outbox, id_))
        return found
