"""Bring back stranded rows: undelivered, and no cursor will ever see them (pipeline/towpath/ledger/stranded.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.ledger import cursors, stranded
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Callable

    from towpath.outbox.models import Outbox

log = structlog.get_logger()

#: The most rows of one transaction.
_ROWS_PER_STEP = 10_000


def bring_back(*, should_stop: Callable[[], bool] = lambda: False) -> dict[str, int]:
    """Let the dispatcher see the stranded rows of every outbox, once. Returns their number by outbox.

    If it is stopped, each outbox has had a step at most since, and the others are left for the next time.

    They get the xid of the transaction that does it. That transaction holds the cursor's lock, so neither the
    dispatcher nor another of these commands works at the outbox in the meantime.
    """
    found: dict[str, int] = {}
    for name, model in all_outboxes().items():
        while rows := _bring_back_some(model):
            found[name] = found.get(name, 0) + rows
            if should_stop():
                break
    for name, rows in found.items():
        log.warning("rows_brought_back", outbox=name, rows=rows)
    return found


def _bring_back_some(model: type[Outbox]) -> int:
    with transaction.atomic():
        # A separate statement: the snapshot of the next one must be younger than the cursor that it starts from.
        cursor = cursors.read(model.outbox_name(), is_locked=True)
        if cursor is None:
            return 0
        return stranded.dispatch_again(model, stranded.find(model, cursor, most=_ROWS_PER_STEP))
