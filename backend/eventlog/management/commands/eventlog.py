"""`manage.py eventlog`: the One Big Table."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backend.eventlog import schema
from backend.eventlog.errors import EventStoreError
from backend.eventlog.store import EventStore, connect
from backend.outbox import registry


class Command(BaseCommand):
    help = "The event log's table in the event store."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        migrate = actions.add_parser("migrate", help="create the table, or bring it up to date")
        migrate.add_argument("--plan", action="store_true", help="show what would be done, and do nothing")
        migrate.add_argument("--check", action="store_true", help="do nothing; exit code 1 if something is to be done")
        status = actions.add_parser("status", help="every migration, and whether it is applied")
        events = actions.add_parser("events", help="the catalogue of event types")
        events.add_argument("--markdown", action="store_true", help="print a page of Markdown")
        events.add_argument("--write", action="store_true", help="add new types and versions to the checked-in files")
        events.add_argument("--check", action="store_true", help="exit code 1 if the checked-in files do not agree")
        for action in (migrate, status, events):
            action.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *_args: Any, **options: Any) -> None:  # noqa: ANN401 - Django's signature
        if options["action"] == "events":
            self._events(options)
            return
        store = connect(settings.EVENT_STORE_URL, timeout_seconds=settings.STORE_TIMEOUT_SECONDS)
        try:
            is_well = self._status(store, options) if options["action"] == "status" else self._migrate(store, options)
        except EventStoreError as error:
            raise CommandError(f"The event store does not answer: {error}. Is EVENT_STORE_URL right?") from error
        except schema.SchemaConflictError as error:
            raise CommandError(str(error)) from error
        finally:
            store.close()
        if not is_well:
            raise SystemExit(1)

    def _migrate(self, store: EventStore, options: dict[str, Any]) -> bool:
        todo = schema.plan(store)
        is_only_shown = options["plan"] or options["check"]
        if not is_only_shown:
            todo = schema.migrate(store)
        lines = [f"{one.number:>4}  {one.name}  {one.checksum}" for one in todo]
        if options["json"]:
            self.stdout.write(json.dumps({"pending" if is_only_shown else "done": [one.name for one in todo]}))
        else:
            verb = "to be applied" if is_only_shown else "applied"
            self.stdout.write("\n".join([f"{verb}:", *lines]) if lines else "nothing to do: the table is up to date")
        return not (options["check"] and todo)

    def _status(self, store: EventStore, options: dict[str, Any]) -> bool:
        states = schema.states(store)
        if options["json"]:
            self.stdout.write(json.dumps([asdict(one) for one in states]))
        else:
            for one in states:
                self.stdout.write(f"{one.number:>4}  {one.state:<8}  {one.name}")
        return all(one.state == "applied" for one in states)

    def _events(self, options: dict[str, Any]) -> None:
        if options["write"]:
            for path in registry.write():
                self.stdout.write(f"written: {path}")
        if options["write"] or options["check"]:
            problems = registry.problems()
            for problem in problems:
                self.stderr.write(problem)
            if problems:
                raise SystemExit(1)
            return
        show = (
            registry.as_json if options["json"] else registry.as_markdown if options["markdown"] else registry.as_text
        )
        self.stdout.write(show(registry.catalogue()))
