"""System checks: refuse an outbox that would lose or change events before anything runs, and say how to fix it.

They run with every `manage.py` command that runs checks: `check`, `migrate`, `runserver`, `test`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's name
from django.db import DEFAULT_DB_ALIAS, models, router

from towpath.conf.current import config
from towpath.eventlog import columns
from towpath.eventlog.columns import OUTCOMES, FromEvent
from towpath.outbox import lean, own_columns
from towpath.outbox.event import Event
from towpath.outbox.fields import RowLimits, TableStorage
from towpath.outbox.models import MOST_ROW_BYTES, FrozenOutbox, LeanOutbox, Outbox, OutboxQuerySet, base_fields
from towpath.outbox.registry import installed_events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

#: The most bytes of a name in PostgreSQL.
_LONGEST_NAME = 63

#: A problem and its hint.
_Problem = tuple[str, str]


def check_outboxes(app_configs: Sequence[object] | None = None, **_kwargs: object) -> list[CheckMessage]:  # noqa: ARG001 - Django's signature
    """Check every outbox of the installed apps, and conflicts between outboxes and between events."""
    models_of_rows = [model for model in apps.get_models() if issubclass(model, Outbox)]
    outboxes = [model for model in models_of_rows if not model._meta.proxy]
    found = [error for model in models_of_rows for error in problems_of(model)]
    return [*found, *problems_between(outboxes), *_event_problems(), *_setting_problems(), *_column_problems(outboxes)]


def problems_of(outbox: type[Outbox]) -> Iterator[CheckMessage]:
    """Yield what is wrong with one outbox, or with a proxy, which only adds managers to one."""
    checks = _CHECKS_OF_A_PROXY if outbox._meta.proxy else _CHECKS
    for number, check in checks.items():
        for problem, hint in check(outbox):
            yield Error(f"{outbox.__name__}: {problem}.", hint=hint, obj=outbox, id=f"outbox.E{number:03}")


def problems_between(outboxes: Iterable[type[Outbox]]) -> Iterator[CheckMessage]:
    """Yield the names and events that two outboxes claim."""
    by_name: dict[str, list[type[Outbox]]] = defaultdict(list)
    by_event: dict[type[Event], list[type[Outbox]]] = defaultdict(list)
    for outbox in outboxes:
        by_name[outbox.outbox_name()].append(outbox)
        if issubclass(outbox, FrozenOutbox) and _is_listed(outbox.events):
            for event in outbox.events:
                by_event[event].append(outbox)
    for name, same in by_name.items():
        if len(same) > 1:
            yield Error(
                f"{_labels(same)} have the same name, {name!r}: the pipeline would see only one of them.",
                hint="Give each a db_table of its own.",
                obj=same[0],
                id="outbox.E020",
            )
    for event, same in by_event.items():
        if len(same) > 1:
            yield Error(
                f"{_labels(same)} both name {event.__name__} in `events`: publish() could not know which one to use.",
                hint="Name it in one of them.",
                obj=same[0],
                id="outbox.E021",
            )


def _event_problems() -> Iterator[CheckMessage]:
    try:
        events = installed_events()
    except ValueError as error:
        yield Error(f"{error}.", hint="Two events of one type cannot be told apart in the log.", id="outbox.E030")
        return
    for event in events:
        outcome = event.event_outcome
        if not (outcome is None or isinstance(outcome, property) or outcome in OUTCOMES):
            yield Error(
                f"{event.__name__}.event_outcome is {outcome!r}.",
                hint=f"Write one of {', '.join(OUTCOMES)}, or leave it out.",
                obj=event,
                id="outbox.E032",
            )


def _setting_problems() -> Iterator[CheckMessage]:
    most = config().event_context_max_bytes
    if isinstance(most, int) and most > MOST_ROW_BYTES:  # otherwise `towpath.checks` names it
        yield Error(
            f"EVENT_CONTEXT_MAX_BYTES is {most:,}, but an outbox's table accepts at most {MOST_ROW_BYTES:,} bytes.",
            hint=f"Set it to {MOST_ROW_BYTES:,} or less, and publish a reference to larger data.",
            id="outbox.E031",
        )


def _column_problems(outboxes: Iterable[type[Outbox]]) -> Iterator[CheckMessage]:
    """Check the project's own columns of the event log, once `towpath.checks` has accepted their declarations."""
    if any(columns.problems(config().columns)):
        return
    offered = {name for outbox in outboxes for name in outbox.own_columns()}
    for column in config().columns:
        if isinstance(column.source, FromEvent) and column.name not in offered:
            yield Warning(
                f"TOWPATH: no outbox has a column {column.name!r}, so the event log's column stays empty.",
                hint="Give it the name of an outbox's column, or use FromContext(key) for a bound value.",
                id="outbox.W033",
            )


def _labels(outboxes: Iterable[type[Outbox]]) -> str:
    return " and ".join(outbox._meta.label for outbox in outboxes)


def _kind(outbox: type[Outbox]) -> Iterator[_Problem]:
    if not issubclass(outbox, LeanOutbox | FrozenOutbox):
        yield "it is neither a LeanOutbox nor a FrozenOutbox", "Subclass one of them: they say what the event is."
    if outbox._meta.parents:
        yield (
            "it inherits from another table, so its rows are not in its own table",
            "Subclass LeanOutbox or FrozenOutbox, or a model with `abstract = True`.",
        )


def _managed(outbox: type[Outbox]) -> Iterator[_Problem]:
    if not outbox._meta.managed:
        yield (
            "it is not managed, so nothing makes sure that its table has the columns and defaults of an outbox",
            "Remove `managed = False`, and let makemigrations create the table.",
        )
    if router.db_for_write(outbox) != DEFAULT_DB_ALIAS:
        yield (
            f"it is routed to the database {router.db_for_write(outbox)!r}, where the pipeline does not look",
            "Keep outboxes, and what they report, in the database 'default'.",
        )

    for field in outbox._meta.concrete_fields:
        if isinstance(field, models.ForeignKey) and router.db_for_write(field.related_model) != DEFAULT_DB_ALIAS:
            yield (
                f"{field.name!r} points to a table of the database {router.db_for_write(field.related_model)!r}",
                "Keep outboxes, and what they report, in the database 'default'.",
            )


def _inherited_fields(outbox: type[Outbox]) -> Iterator[_Problem]:
    for name, field in base_fields(outbox).items():
        own = {field.name: field for field in outbox._meta.concrete_fields}.get(name)
        if type(own) is type(field) and own.deconstruct()[1:] == field.deconstruct()[1:]:
            continue
        loss = "its rows would never be dispatched" if name == "xid" else "the pipeline relies on it"
        yield (
            f"its field {name!r} is not the one that every outbox has ({_default_of(name)}); {loss}",
            f"Remove {name!r} from the class.",
        )


def _default_of(name: str) -> str:
    return "an xid8 whose default is pg_current_xact_id()" if name == "xid" else "as in towpath.outbox.models"


def _inherited_meta(outbox: type[Outbox]) -> Iterator[_Problem]:
    has_index = any(index.fields[:2] == ["xid", "id"] for index in outbox._meta.indexes)
    has_storage = any(isinstance(one, TableStorage) for one in outbox._meta.constraints)
    base = "LeanOutbox" if issubclass(outbox, LeanOutbox) else "FrozenOutbox"
    hint = f"Write `class Meta({base}.Meta):`, and extend `indexes` and `constraints` rather than replace them."
    if not has_index or not has_storage:
        missing = "index on (xid, id)" if not has_index else "storage parameters"
        yield f"it does not inherit the {missing}: each look of the dispatcher would read the whole table", hint
    elif not any(isinstance(one, RowLimits) for one in outbox._meta.constraints):
        yield "it does not inherit the limits of its rows: its table would accept what no event store can hold", hint


def _foreign_keys(outbox: type[Outbox]) -> Iterator[_Problem]:
    for field in outbox._meta.concrete_fields:
        if not isinstance(field, models.ForeignKey):
            continue
        on_delete = field.remote_field.on_delete
        if on_delete not in (models.PROTECT, models.RESTRICT, models.DO_NOTHING):
            what = "delete" if on_delete is models.CASCADE else "change"
            yield (
                f"deleting what {field.name!r} points to would {what} undelivered events",
                f"Give {field.name!r} on_delete=models.PROTECT.",
            )
        elif not getattr(field, "db_constraint", True):
            yield (
                f"{field.name!r} has no constraint in the database: the row that it points to could be deleted",
                f"Remove db_constraint=False from {field.name!r}.",
            )


def _lean(outbox: type[Outbox]) -> Iterator[_Problem]:
    if not issubclass(outbox, LeanOutbox):
        return
    event = getattr(outbox, "event", None)
    if not (isinstance(event, type) and issubclass(event, Event)):
        yield "`event` is not an Event class", "Write `event = ...`, the class whose type and version the rows get."
    elif not isinstance(getattr(outbox, "event_date_time", None), str):
        yield "`event_date_time` is not a path", 'Say which field is the event\'s time, as in "user__created_at".'
    elif not isinstance(getattr(outbox, "event_context", None), Mapping):
        yield "`event_context` is missing", "Give the path of each of the event's fields."
    else:
        yield from lean.time_problems(outbox, outbox.event_date_time)
        yield from lean.problems_of(outbox, event, outbox.event_context)
        if outbox.event_target is not None:
            yield from lean.target_problems(outbox, outbox.event_target)


def _frozen(outbox: type[Outbox]) -> Iterator[_Problem]:
    if not issubclass(outbox, FrozenOutbox):
        return
    if not _is_listed(outbox.events):
        named = getattr(outbox.events, "__name__", repr(outbox.events))
        yield f"`events` is {named}, not a tuple: publish() would fail", f"Write `events = ({named},)`, with the comma."
        return
    for event in outbox.events:
        if not (isinstance(event, type) and issubclass(event, Event)):
            yield f"`events` names {event!r}, which is not an Event class", "Name the classes of its events."
    if all(isinstance(event, type) and issubclass(event, Event) for event in outbox.events):
        yield from own_columns.problems_of(outbox)


def _is_listed(events: object) -> bool:
    return isinstance(events, tuple | list)


def _managers(outbox: type[Outbox]) -> Iterator[_Problem]:
    for manager in outbox._meta.managers:
        if not isinstance(manager.get_queryset(), OutboxQuerySet):
            yield (
                f"its manager {manager.name!r} can create rows outside transactions, or in another database",
                f"Write `{manager.name} = {type(manager).__name__}.from_queryset(OutboxQuerySet)()`.",
            )


def _pointed_to(outbox: type[Outbox]) -> Iterator[_Problem]:
    # Including hidden ones: those without a name, and those in the tables of a ManyToManyField.
    for relation in outbox._meta.get_fields(include_hidden=True):
        if not isinstance(relation, models.ForeignObjectRel) or isinstance(relation, models.ManyToManyRel):
            continue
        field: Any = relation.field
        if getattr(field, "db_constraint", False) and not relation.parent_link:
            yield (
                f"{field.model.__name__}.{field.name} points to its rows, so they could not be deleted once delivered",
                "Point to what the event reports, or give the key db_constraint=False and on_delete=models.DO_NOTHING.",
            )


def _table(outbox: type[Outbox]) -> Iterator[_Problem]:
    name = outbox.outbox_name()
    if '"' in name or "%" in name:
        yield (
            f"its table is {name!r}, a name that migrate and doctor cannot find in PostgreSQL's catalogues",
            'Use a name without " or %. A schema of its own must be in the search_path of the database or the role.',
        )
    elif len(name.encode()) > _LONGEST_NAME:
        yield (
            f"its table is {name!r}, but PostgreSQL cuts names after {_LONGEST_NAME} bytes",
            "Give it a shorter db_table.",
        )


_CHECKS: dict[int, Callable[[Any], Iterator[_Problem]]] = {
    1: _kind,
    2: _managed,
    3: _inherited_fields,
    4: _inherited_meta,
    5: _foreign_keys,
    6: _lean,
    7: _frozen,
    8: _managers,
    9: _table,
    10: _pointed_to,
}
_CHECKS_OF_A_PROXY = {8: _managers}
