"""`manage.py eventlog`: the One Big Table."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from backend.eventlog.errors import EventStoreError
from backend.eventlog.store import connect


class Command(BaseCommand):
    help = "The event log's table in the event store."

    def add_arguments(self, parser: ArgumentParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True)
        migrate = actions.add_parser("migrate", help="create the table, or bring it up to date")
        migrate.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *_args: Any, **options: Any) -> None:  # noqa: ANN401 - Django's signature
        store = connect(settings.EVENT_STORE_URL, timeout_seconds=settings.STORE_TIMEOUT_SECONDS)
        try:
            done = list(store.migrate())
        except EventStoreError as error:
            raise CommandError(f"The event store cannot be migrated: {error}. Is EVENT_STORE_URL right?") from error
        finally:
            store.close()
        if options["json"]:
            self.stdout.write(json.dumps({"done": done}))
            return
        for line in done or ["nothing to do: the table is up to date"]:
            self.stdout.write(line)
