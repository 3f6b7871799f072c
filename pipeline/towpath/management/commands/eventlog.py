"""`manage.py eventlog`: manage the One Big Table."""

from __future__ import annotations

import functools
import json
import re
import time
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError
from django.db.models import Model

from towpath.conf.current import config
from towpath.errors import NotBackfillable
from towpath.eventlog import schema
from towpath.eventlog.comparison import SIDES, Comparison, compare
from towpath.eventlog.connect import connect, with_server
from towpath.eventlog.errors import EventStoreError
from towpath.eventlog.store import MigratableStore, Store
from towpath.flow import backfill
from towpath.ledger import backfills
from towpath.management import catalogue, keeping, tables
from towpath.management.answers import nothing_but_the_answer
from towpath.management.arguments import moment, pace
from towpath.management.examples import EVENTLOG, add_examples
from towpath.management.operator import record_reading
from towpath.outbox import registry
from towpath.outbox.event import Event
from towpath.wiring import event_store

#: Seconds between two lines about how far a backfill is.
_TOLD_SECONDS = 5.0
#: Events younger than this may not be in the event log yet.
_STILL_ON_ITS_WAY = timedelta(minutes=5)


class Command(BaseCommand):
    help = "Manage the event log's table in the event store."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        migrate = actions.add_parser("migrate", help="create the table, or bring it up to date")
        migrate.add_argument("--plan", action="store_true", help="show what would be done, and change nothing")
        migrate.add_argument(
            "--check", action="store_true", help="change nothing; exit code 1 if a migration is pending"
        )
        status = actions.add_parser("status", help="list every migration, and whether it is applied")
        comparison = actions.add_parser(
            "compare", help="compare event_log with a table that should hold the same events"
        )
        _add_compare(comparison)
        filling = actions.add_parser(
            "backfill", help="publish the rows that a model had before it got a lean outbox, each once"
        )
        _add_backfill(filling)
        events = actions.add_parser("events", help="print the catalogue of event types")
        events.add_argument("--markdown", action="store_true", help="print a page of Markdown")
        events.add_argument("--write", action="store_true", help="add new types and versions to the checked-in files")
        events.add_argument("--check", action="store_true", help="exit code 1 if the checked-in files are out of date")
        retaining = actions.add_parser("retain", help="drop whole months that are older than --months")
        keeping.add_retain(retaining)
        erasing = actions.add_parser("erase", help="mask fields of a person's events (GDPR, article 17)")
        keeping.add_erase(erasing)
        for action in (migrate, status, comparison, filling, events, retaining, erasing):
            action.add_argument("--json", action="store_true", help="print JSON")
        add_examples(actions.choices, EVENTLOG, of="eventlog")

    def handle(self, *_args: Any, **options: Any) -> None:
        with nothing_but_the_answer(self):
            self._handle(options)

    def _handle(self, options: dict[str, Any]) -> None:
        if options["action"] == "events":
            try:
                self._events(options)
            except ValueError as error:
                raise CommandError(f"{error}.") from error
            return
        actions: dict[str, Callable[[Store, dict[str, Any]], bool]] = {
            "migrate": self._migrate,
            "status": self._status,
            "compare": self._compare,
            "backfill": self._backfill,
            "retain": functools.partial(keeping.retain, self),
            "erase": functools.partial(keeping.erase, self),
        }
        # A step of `migrate` may build an index over every event.
        is_change = options["action"] in {"retain", "erase", "migrate"}
        shortest = keeping.SHORTEST_TIMEOUT_SECONDS if is_change else 0.0
        store = event_store(config(), shortest_timeout_seconds=shortest)
        try:
            is_ok = actions[options["action"]](store, options)
        except EventStoreError as error:
            raise CommandError(
                f"The event store does not answer, or refuses the request: {error}. Check"
                f" {config().variable_prefix}EVENT_STORE_URL."
            ) from error
        except schema.SchemaConflictError as error:
            raise CommandError(str(error)) from error
        finally:
            store.close()
        if not is_ok:
            raise SystemExit(1)

    def _migrate(self, store: MigratableStore, options: dict[str, Any]) -> bool:
        todo = schema.plan(store)
        is_only_shown = options["plan"] or options["check"]
        if not is_only_shown:
            todo = schema.migrate(store)
        # Somebody may have changed the table since: no migration of ours undoes that.
        problems = [] if is_only_shown else store.problems()
        lines = [f"{step.number:>4}  {step.name}  {step.checksum}" for step in todo]
        if options["json"]:
            self.stdout.write(json.dumps({"pending" if is_only_shown else "done": [step.name for step in todo]}))
        elif lines:
            self.stdout.write("\n".join(["to be applied:" if is_only_shown else "applied:", *lines]))
        else:
            self.stdout.write(f"nothing to do: {'every step is applied' if problems else 'the table is up to date'}")
        for problem in problems:
            self.stderr.write(f"! {problem}")
        return not (options["check"] and todo)

    def _status(self, store: MigratableStore, options: dict[str, Any]) -> bool:
        states = schema.states(store)
        if options["json"]:
            self.stdout.write(json.dumps([asdict(step) for step in states]))
        else:
            for step in states:
                self.stdout.write(f"{step.number:>4}  {step.state:<8}  {step.name}")
        return all(step.state == "applied" for step in states)

    def _events(self, options: dict[str, Any]) -> None:
        if options["write"]:
            for path in registry.update_files():
                self.stdout.write(f"written: {path}")
        if options["write"] or options["check"]:
            problems = registry.disagreements()
            for problem in problems:
                self.stderr.write(problem)
            if problems:
                raise SystemExit(1)
            return
        types = registry.catalogue()
        if options["json"]:
            self.stdout.write(catalogue.as_json(types))
        else:
            self.stdout.write(catalogue.as_markdown(types) if options["markdown"] else catalogue.as_text(types))

    def _compare(self, store: Store, options: dict[str, Any]) -> bool:
        until = options["until"] or datetime.now(UTC) - _STILL_ON_ITS_WAY
        since = options["since"] or until - timedelta(days=1)
        if since >= until:
            raise CommandError("--since must be before --until.", returncode=2)
        there = store
        if options["at"]:
            there = connect(_store_url(options["at"]), timeout_seconds=config().store_timeout_seconds)
        try:
            found = compare(
                store,
                there,
                options["table"],
                since=since,
                until=until,
                slack=timedelta(seconds=options["slack_seconds"]),
                most_differences=options["limit"],
                # Towpath's own events, such as the one about each comparison: no other log has them.
                only_here={
                    event.event_type
                    for event in Event.__subclasses__()
                    if event.__module__ in {"towpath.events", "towpath.explorer.events"}
                },
            )
        except EventStoreError as error:
            raise CommandError(f"The tables cannot be compared: {error}") from error
        finally:
            there.close()
        record_reading("eventlog compare", rows=len(found.differences), detail=f"with {options['table']}")
        names = {"here": "event_log", "there": options["table"]}
        if options["json"]:
            self.stdout.write(json.dumps(_as_json(found, since=since, until=until)))
        else:
            self.stdout.write(tables.of_comparison(found, names, since=since, until=until))
        return found.is_equal

    def _backfill(self, store: Store, options: dict[str, Any]) -> bool:
        try:
            source = backfill.source_of(_model(options["model"]))
        except NotBackfillable as error:
            raise CommandError(str(error)) from error
        told = _Told(self, rows=backfill.estimated_rows(source))
        name = source.outbox.outbox_name()
        try:
            backfill.backfill(
                source,
                store,
                rows_per_second=options["rows_per_second"],
                again=options["again"],
                on_page=told.tell,
            )
        except KeyboardInterrupt:
            self.stderr.write("Stopped. What is published stays published. Run it again to continue.")
        except EventStoreError as error:
            raise CommandError(
                f"The event store does not say which rows it has: {error}. {told.report.published} row(s) were"
                " published. Run it again to continue."
            ) from error
        report, progress = told.report, backfills.read(name)
        if options["json"]:
            answer = {
                "model": source.model._meta.label,
                "outbox": name,
                **{field: getattr(report, field) for field in ("looked_at", "published", "already_published")},
                "published_by_all_runs": progress.published,
                "is_finished": progress.finished_at is not None,
            }
            self.stdout.write(json.dumps(answer))
        else:
            self.stdout.write(
                f"{report.looked_at} row(s) of {source.model._meta.label} checked: {report.published} published,"
                f" {report.already_published} published before."
                + (f" Finished: {progress.published} published by all runs." if progress.finished_at else "")
            )
        return progress.finished_at is not None


class _Told:
    """Tells a person how far a backfill is, every few seconds."""

    def __init__(self, command: BaseCommand, *, rows: int) -> None:
        self.report = backfill.Report()
        self._command = command
        self._rows = rows
        self._due = time.monotonic() + _TOLD_SECONDS

    def tell(self, report: backfill.Report) -> None:
        self.report = report
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _TOLD_SECONDS
            waits = (
                ". Waiting: thousands of events are not dispatched yet. Check that the dispatcher is running."
            ) * report.is_waiting
            self._command.stderr.write(
                f"{report.before + report.looked_at} of about {self._rows} rows checked, {report.published} published"
                f" by this run{waits}"
            )


def _model(label: str) -> type[Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise CommandError(f"{label!r} is not a model: write APP.MODEL, such as users.User.", returncode=2) from error


def _table(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)?", text):
        raise ArgumentTypeError(f"{text!r} is not the name of a table: write TABLE or SCHEMA.TABLE")
    return text


def _store_url(url: str) -> str:
    try:
        return with_server(url, database_url=url)
    except ImproperlyConfigured as error:
        raise CommandError(f"--at: {error}", returncode=2) from error


def _as_json(found: Comparison, *, since: datetime, until: datetime) -> dict[str, Any]:
    return {
        "since": since.isoformat(),
        "until": until.isoformat(),
        "is_equal": found.is_equal,
        "hours": [
            {"event_type": event_type, "hour": hour.isoformat(), **{side: rows[side] for side in SIDES}}
            for (event_type, hour), rows in sorted(found.rows.items())
        ],
        "missing": {side: found.missing[side] for side in SIDES},
        "differences": [{**asdict(row), "at": row.at.isoformat()} for row in found.differences],
    }


def _add_compare(comparison: ArgumentParser) -> None:
    comparison.add_argument(
        "--with", dest="table", type=_table, metavar="TABLE", required=True, help="the other table, or a view"
    )
    comparison.add_argument(
        "--at", metavar="URL", help="the event store that has the other table (default: EVENT_STORE_URL)"
    )
    comparison.add_argument("--since", type=moment, help="ISO 8601, in UTC (default: a day before --until)")
    comparison.add_argument("--until", type=moment, help="ISO 8601, in UTC (default: five minutes ago)")
    comparison.add_argument(
        "--slack-seconds",
        type=float,
        default=60,
        help="how far apart the two logs' times of an event may be (default: %(default)g)",
    )
    comparison.add_argument(
        "--limit", type=int, default=20, help="show at most this many differences (default: %(default)d)"
    )


def _add_backfill(filling: ArgumentParser) -> None:
    filling.add_argument("model", metavar="MODEL", help="APP.MODEL: the model, or its lean outbox")
    filling.add_argument(
        "--rows-per-second",
        type=pace,
        metavar="ROWS",
        default=1000.0,
        help="publish at most this many rows per second (default: %(default)g)",
    )
    filling.add_argument("--again", action="store_true", help="look at every row again, even if a run has finished")
