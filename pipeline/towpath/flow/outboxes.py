"""Outboxes that are renamed or given up while their events are under way.

When a class is removed or its table renamed, the ledger keeps the old name. Nobody touches what is under a name that no
class has: it waits for a program that knows the name, or for a person with one of these commands.
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
    """Let the outbox `new`, whose table was `old` once, have what the ledger has under that name; each event once.

    What may be stored as `old` already is delivered under that name: its window is replayed as it was, and the store
    tells which rows it has. Everything else gets the new name. Can be repeated. Raises OutboxInUse, which says how.
    """
    _check_rename(old, new, is_sure=is_sure)
    with transaction.atomic():
        names.begin_rename(old, new)
    while names.has_begun_windows(old):
        window = claim_expired(lease_seconds=rules.lease_seconds, renamed={old: new})
        if window is None:
            raise OutboxInUse(f"A worker has a window of {old}, or has had one until now: run this again in a minute.")
        if deliver(window, store, rules) is not Delivery.ACKED:
            why = read_last_error(window.id) or "somebody else has it now"
            raise OutboxInUse(f"A window of {old} could not be delivered ({why}): then run this again.")
    with transaction.atomic():
        names.finish_rename(old, new)
    log.warning("outbox_renamed", outbox=new, formerly=old)


def _check_rename(old: str, new: str, *, is_sure: bool) -> None:
    outboxes = all_outboxes()
    unknown = names.find_unknown(list(outboxes))
    if old in outboxes:
        raise OutboxInUse(f"{old} is the outbox of {outboxes[old].__name__}: only a name that no class has is renamed.")
    if old not in unknown:
        raise OutboxInUse(f"The ledger has nothing under {old}: see `pipeline outboxes list`.")
    if new not in outboxes:
        raise OutboxInUse(f"No outbox class has the name {new}: name one of {', '.join(outboxes)}.")
    if unknown[old].has_table:
        raise OutboxInUse(
            f"The table {old} is still there, so its rows are not in {new}. Deploy code that has its class."
        )
    if unknown[old].renamed_to != new and not is_sure:
        raise OutboxInUse(
            f"Nothing says that the table {new} was {old} once. If its rows have the ids that they had there,"
            " add --yes; else their events would be counted as vanished."
        )


def discard(name: str, *, by: str) -> UnknownName:
    """Give up what the ledger has under a name that no class has. That it was done is an event itself, in the same
    transaction. Rows of a table of that name stay where they are. Raises OutboxInUse."""
    outboxes = all_outboxes()
    if name in outboxes:
        raise OutboxInUse(f"{name} is the outbox of {outboxes[name].__name__}: its events are delivered.")
    with transaction.atomic():
        unknown = names.find_unknown(list(outboxes)).get(name)
        if unknown is None:
            raise OutboxInUse(f"The ledger has nothing under {name}: see `pipeline outboxes list`.")
        publish(OutboxDiscarded(outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, discarded_by=by))
        names.discard(name)
    log.warning("outbox_discarded", outbox=name, rows=unknown.rows, dead_letters=unknown.dead_letters, by=by)
    return unknown
