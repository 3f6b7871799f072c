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


class Command(BaseCommand):
    help = "The event log's table in the event store."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        migrate = actions.add_parser("migrate", help="create the table, or bring it up to date")
        migrate.add_argument("--plan", action="store_true", help="show what would be done, and do nothing")
        migrate.add_argument("--check", action="store_true", help="do nothing; exit code 1 if something is to be done")
        status = actions.add_parser("status", help="every migration, and whether it is applied")
        for action in (migrate, status):
            action.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *_args: Any, **options: Any) -> None:  # noqa: ANN401 - Django's signature
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
