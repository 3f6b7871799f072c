"""Outboxes that are renamed or given up while their events are under way.

When a class is removed or its table renamed, the ledger keeps the old name. Nothing touches what is under a name that
no class has: it waits for a program that knows the name, or for a person with one of these commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from django.db import transaction

from towpath.errors import OutboxInUse
from towpath.events import OutboxDiscarded
from towpath.flow.delivery import Delivery, deliver
from towpath.ledger import names
from towpath.ledger.open_windows import read_last_error
from towpath.ledger.windows import claim_expired
from towpath.outbox.models import all_outboxes
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    from towpath.eventlog.store import EventStore
    from towpath.flow.delivery import WindowRules
    from towpath.ledger.names import UnknownName

log = structlog.get_logger()


def rename(old: str, new: str, store: EventStore, rules: WindowRules, *, is_sure: bool = False) -> None:
    """Give the outbox `new`, whose table used to be `old`, what the ledger has under the old name; each event once.

    Rows that may already be stored as `old` are delivered under that name: their window is replayed as it was, and the
    store tells which rows it has. Everything else gets the new name. It can be repeated. Raises OutboxInUse, which says
    what to do.
    """
    _check_rename(old, new, is_sure=is_sure)
    with transaction.atomic():
        names.begin_rename(old, new)
    while names.has_begun_windows(old):
        window = claim_expired(lease_seconds=rules.lease_seconds, renamed={old: new})
        if window is None:
            raise OutboxInUse(f"A worker has a window of {old}, or just had one. Run this again in a minute.")
        if deliver(window, store, rules) is not Delivery.ACKED:
            why = read_last_error(window.id) or "another process has it now"
            raise OutboxInUse(f"A window of {old} could not be delivered ({why}). Fix that, then run this again.")
    with transaction.atomic():
        names.finish_rename(old, new)
    log.warning("outbox_renamed", outbox=new, formerly=old)


def _check_rename(old: str, new: str, *, is_sure: bool) -> None:
    outboxes = all_outboxes()
    unknown = names.find_unknown(list(outboxes))
    if old in outboxes:
        raise OutboxInUse(
            f"{old} is the outbox of {outboxes[old].__name__}. Only a name that no class has can be renamed."
        )
    if old not in unknown:
        raise OutboxInUse(f"The ledger has nothing under {old}: see `pipeline outboxes list`.")
    if new not in outboxes:
        raise OutboxInUse(f"No outbox class has the name {new}: use one of {', '.join(outboxes)}.")
    if unknown[old].has_table:
        raise OutboxInUse(
            f"The table {old} still exists, so its rows are not in {new}. Deploy the code that has its class."
        )
    if unknown[old].renamed_to != new and not is_sure:
        raise OutboxInUse(
            f"Nothing shows that the table {new} used to be {old}. Add --yes only if its rows kept their"
            " ids: otherwise their events would count as vanished."
        )


def discard(name: str, *, by: str) -> UnknownName:
    """Give up what the ledger has under a name that no class has. An event records it, in the same transaction. Rows of
    a table of that name stay where they are. Raises OutboxInUse."""
    outboxes = all_outboxes()
    if name in outboxes:
        raise OutboxInUse(
            f"{name} is the outbox of {outboxes[name].__name__}: its events are delivered, and cannot be discarded."
        )
    with transaction.atomic():
        unknown = names.find_unknown(list(outboxes)).get(name)
        if unknown is None:
            raise OutboxInUse(f"The ledger has nothing under {name}: see `pipeline outboxes list`.")
        publish(OutboxDiscarded(outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, discarded_by=by))
        names.discard(name)
    log.warning("outbox_discarded", outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, by=by)
    return unknown
