"""Backfill: publish the rows that a model had before its lean outbox, each once, however often the command is killed.

A row is already published if its event is in the outbox or in the event store. The outbox is checked first, in the
statement that reads the rows, and the store afterwards. An event is in the store before it leaves its outbox, so it is
seen in one of the two. An event's `target` names its row, and tells events apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from django.db import DEFAULT_DB_ALIAS, connection, models, transaction
from django.db.models import Exists, F, OuterRef

from towpath import driver
from towpath.errors import NotBackfillable
from towpath.ledger import backfills
from towpath.ledger.pending import read_pending
from towpath.outbox import lean
from towpath.outbox.models import LeanOutbox, all_outboxes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from towpath.eventlog.store import ReadableStore
    from towpath.ledger.backfills import Progress

#: Rows of one transaction, which protects them from deletion until it ends; and of one query to the event store, whose
#: text has a key for each row.
_PAGE_ROWS = 500
#: While this many rows of an outbox are not in a batch yet, the pipeline is late: more rows would only wait, and make
#: those that the application publishes wait.
_MOST_PENDING_ROWS = 5000
_PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Source:
    """The model whose rows are published, and the outbox. `key` is the field that the outbox's foreign key `link`
    names."""

    model: type[models.Model]
    outbox: type[LeanOutbox]
    link: models.ForeignKey[Any, Any]
    key: models.Field[Any, Any]


def source_of(model: type[models.Model]) -> Source:
    """Return the source for a model, or for its lean outbox. Raises NotBackfillable, which says why there is none."""
    label = model._meta.label
    if issubclass(model, LeanOutbox):
        links = [field for field in model._meta.concrete_fields if isinstance(field, models.ForeignKey)]
        if len(links) != 1:
            raise NotBackfillable(
                f"{label} has {len(links)} foreign keys, but only an outbox with a single foreign key can be"
                " backfilled."
            )
        return _checked(links[0])
    found = [
        field
        for outbox in all_outboxes().values()
        if issubclass(outbox, LeanOutbox)
        for field in outbox._meta.concrete_fields
        if isinstance(field, models.ForeignKey)
        and field.related_model._meta.concrete_model is model._meta.concrete_model
    ]
    if not found:
        raise NotBackfillable(
            f"{label} has no lean outbox: write a LeanOutbox with a foreign key to it (docs/publishing.md). Old rows"
            " do not show what a FrozenOutbox would have reported: publish such events with publish_many() in a"
            " script of your own."
        )
    if len(found) > 1:
        names = ", ".join(sorted(field.model._meta.label for field in found))
        raise NotBackfillable(f"{label} has several lean outboxes: name one of {names} instead.")
    return _checked(found[0])


def _checked(link: models.ForeignKey[Any, Any]) -> Source:
    outbox: Any = link.model
    source = Source(link.related_model, outbox, link, link.target_field)
    label = outbox._meta.label
    unknown = [
        name
        for name in outbox.own_columns()
        if name != link.attname and not (field := outbox._meta.get_field(name)).null and not field.has_default()
    ]
    if unknown:
        raise NotBackfillable(
            f"{label} cannot be backfilled: the values of its column(s) {', '.join(unknown)} are unknown for old rows."
        )
    keys = {link.name, link.attname, f"{link.name}__{source.key.name}"}
    if source.key.primary_key:
        keys.add(f"{link.name}__pk")
    paths = lean.target_paths(outbox.event_target) if outbox.event_target else []
    if not keys.intersection(paths):
        raise NotBackfillable(
            f"{label} has no event_target that names the row, so nothing shows which rows are already published:"
            f' write event_target = "{link.name}:{{{link.attname}}}".'
        )
    for path in (outbox.event_date_time, *paths):
        if path not in keys and not path.startswith(f"{link.name}__"):
            raise NotBackfillable(
                f"{label} cannot be backfilled: it reads {path!r} from its own row, which old rows of {link.name} do"
                " not have."
            )
    return source


@dataclass(frozen=True, slots=True)
class Report:
    """What a run has done so far. `before` is the number of rows that earlier runs have looked at."""

    before: int = 0
    looked_at: int = 0
    published: int = 0
    already_published: int = 0
    #: True while it waits for the pipeline.
    is_waiting: bool = False


def backfill(
    source: Source,
    store: ReadableStore,
    *,
    rows_per_second: float,
    again: bool = False,
    on_page: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Publish the rows that are not published yet, in the order of their keys, from where an earlier run has stopped.

    After a run that has finished, nothing is done, unless `again`: then every row is checked again.
    Raises StoreUnavailable; the next run resumes at the same row.
    """
    name = source.outbox.outbox_name()
    progress = backfills.begin(name, again=again)
    report = Report(before=progress.published + progress.already_published)
    while progress.finished_at is None:
        # If the power fails here, the earlier pages are published and noted, and the next run continues after them.
        _wait_for_the_pipeline(report, on_page)
        began = time.monotonic()
        # Here, or while the event store is asked: nothing of this page has happened, and no transaction is open.
        page = _read(source, after=progress.position, rows=max(1, min(_PAGE_ROWS, int(rows_per_second))))
        missing = _missing(source, page, store)
        # Here: the page is published and noted, both or neither.
        published = _publish(source, page, missing, progress)
        if published is not None:
            report = replace(
                report,
                looked_at=report.looked_at + len(page),
                published=report.published + published,
                already_published=report.already_published + len(page) - len(missing),
            )
            on_page(report)
            time.sleep(max(0.0, began + len(page) / rows_per_second - time.monotonic()))
        progress = backfills.read(name)
    return report


def estimated_rows(source: Source) -> int:
    """Return how many rows the model has, from PostgreSQL's statistics: counting them would read all."""
    with driver.cursor() as cursor:
        table = connection.ops.quote_name(source.model._meta.db_table)
        cursor.execute(
            "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = %(table)s::regclass", {"table": table}
        )
        return int(cursor.fetchone()[0])


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the model, with the values of its event."""

    key: Any
    target: str
    at: datetime
    is_pending: bool


def _read(source: Source, *, after: str | None, rows: int) -> list[_Row]:
    """Read a page, and whether the outbox has an event of each row: one statement, so both are of one snapshot."""
    key = source.key.name
    found = source.model._base_manager.using(DEFAULT_DB_ALIAS).filter(**{f"{key}__isnull": False})
    if after is not None:
        found = found.filter(**{f"{key}__gt": source.key.to_python(after)})
    pending = source.outbox._base_manager.filter(**{source.link.attname: OuterRef(key)})
    template = source.outbox.event_target or ""
    values = found.order_by(key).values_list(
        key,
        lean.target_text(template, to_path=lambda path: _of_model(source, path)),
        F(_of_model(source, source.outbox.event_date_time)),
        Exists(pending),
    )
    return [_Row(*row) for row in values[:rows]]


def _of_model(source: Source, path: str) -> str:
    """Return a path of the outbox as a path of the model that its foreign key points to."""
    inner = path.removeprefix(f"{source.link.name}__")
    return source.key.name if path in (source.link.name, source.link.attname) else inner


def _missing(source: Source, page: Sequence[_Row], store: ReadableStore) -> list[Any]:
    """Return the keys of the rows whose event is nowhere."""
    asked = [row for row in page if not row.is_pending]
    if not asked:
        return []
    stored = store.stored_targets(
        source.outbox.event.event_type,
        [row.target for row in asked],
        since=min(row.at for row in asked),
        until=max(row.at for row in asked),
    )
    return [row.key for row in asked if row.target not in stored]


def _publish(source: Source, page: Sequence[_Row], missing: Sequence[Any], progress: Progress) -> int | None:
    """Publish the page's missing rows, and note that it is done. Returns how many rows, or None if another run did it.

    If the power fails before the COMMIT, neither has happened, and the next run repeats the page. After it, both have.
    """
    with transaction.atomic():
        existing = _hold(source, missing) if missing else []
        is_ours = backfills.advance(
            source.outbox.outbox_name(),
            after=progress,
            to=str(page[-1].key) if page else None,
            published=len(existing),
            already_published=len(page) - len(missing),
        )
        if not is_ours:
            return None
        source.outbox.objects.bulk_create([source.outbox(**{source.link.attname: key}) for key in existing])
    return len(existing)


def _hold(source: Source, keys: Sequence[Any]) -> list[Any]:
    """Return the rows that still exist, protected from deletion until the transaction ends."""
    quote = connection.ops.quote_name
    column = quote(str(source.key.column))
    table = quote(source.model._meta.db_table)
    by_stored = {source.key.get_db_prep_value(key, connection): key for key in keys}
    with driver.cursor() as cursor:
        cursor.execute(
            f"SELECT {column} FROM {table} WHERE {column} = ANY(%(keys)s) ORDER BY {column} FOR KEY SHARE",
            {"keys": list(by_stored)},
        )
        return [by_stored[stored] for (stored,) in cursor.fetchall()]


def _wait_for_the_pipeline(report: Report, on_page: Callable[[Report], None]) -> None:
    while any(
        read_pending(outbox, counted_rows=_MOST_PENDING_ROWS).rows >= _MOST_PENDING_ROWS
        for outbox in all_outboxes().values()
    ):
        on_page(replace(report, is_waiting=True))
        time.sleep(_PAUSE_SECONDS)
