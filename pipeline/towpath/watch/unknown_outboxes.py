"""Names in the ledger that no outbox class has, for people: what waits under them, and the way out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.ledger import names
from towpath.outbox.models import all_outboxes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.ledger.names import UnknownName


def problems() -> Iterator[str]:
    """What is under a name that no class has; in the ledger, and in tables of outboxes that it does not know.

    The ledger knows an outbox from the first look of a dispatcher that has its class, until it is discarded.
    """
    outboxes = list(all_outboxes())
    unknown = names.find_unknown(outboxes)
    yield from (problem(name) for name in unknown.values())
    for table in names.tables_with_rows(besides=[*outboxes, *unknown]):
        yield (
            f"{table}: no outbox class has this name, and its table has undelivered rows. Deploy code that has the"
            " class (this may be an older program in a rolling update), or delete the rows"
        )


def problem(name: UnknownName) -> str:
    """What waits under the name, and the way out."""
    held = f"{name.batches} batch(es) of {name.rows:,} row(s) and {name.dead_letters} dead letter(s)"
    return f"{name.outbox}: no outbox class has this name, under which the ledger has {held}. {_way_out(name)}"


def _way_out(name: UnknownName) -> str:
    command = "python manage.py pipeline outboxes"
    if name.renamed_to:
        return f"Its table is now {name.renamed_to}: run `{command} rename {name.outbox} {name.renamed_to}`"
    if name.has_table:
        return (
            "Its table is there: deploy code that has the class (this may be an older program in a rolling update),"
            f" or give the events up with `{command} discard {name.outbox}`"
        )
    return (
        f"Its table is gone. If it was renamed, run `{command} rename {name.outbox} NEW`; if it was dropped,"
        f" `{command} discard {name.outbox}`"
    )
