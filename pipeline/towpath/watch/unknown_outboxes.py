"""Names in the ledger that no outbox class has, for people: what waits under them, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.ledger import names
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.ledger.names import UnknownName


def problems() -> Iterator[str]:
    """Yield what is under a name that no class has, in the ledger and in tables of outboxes that it does not know.

    The ledger knows an outbox from the first look of a dispatcher that has its class, until it is discarded.
    """
    outboxes = list(all_outboxes())
    unknown = names.find_unknown(outboxes)
    yield from (problem(name) for name in unknown.values())
    for table in names.tables_with_rows(besides=[*outboxes, *unknown]):
        yield (
            f"no outbox class has the name {table}, but this table has undelivered rows. During a rolling update,"
            " this process may just be older. Otherwise deploy the code that has the class, or delete the rows"
        )


def problem(name: UnknownName) -> str:
    """Return what waits under the name, and the way out."""
    held = f"{name.batches} batch(es) with {name.rows:,} row(s) and {name.dead_letters} dead letter(s)"
    return f"no outbox class has the name {name.outbox}, but the ledger has {held} under it. {_way_out(name)}"


def _way_out(name: UnknownName) -> str:
    command = "python manage.py pipeline outboxes"
    if name.renamed_to:
        return f"Its table is now {name.renamed_to}: run `{command} rename {name.outbox} {name.renamed_to}`"
    if name.has_table:
        return (
            "Its table still exists. During a rolling update, this process may just be older. Otherwise deploy the"
            f" code that has the class, or give up the events with `{command} discard {name.outbox}`"
        )
    return (
        f"Its table is gone. If it was renamed, run `{command} rename {name.outbox} NEW`. If it was dropped, run"
        f" `{command} discard {name.outbox}`"
    )
