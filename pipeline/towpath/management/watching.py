"""`manage.py pipeline status --watch` and `pipeline tail`: they keep running until Ctrl-C."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from django.db import DatabaseError, InterfaceError, connection

from towpath.conf.current import config
from towpath.ledger import database_errors
from towpath.ledger.finished import finished_since, here
from towpath.management import tables
from towpath.telemetry.secrets import without_secrets
from towpath.watch.overview import read_overview
from towpath.watch.within import NoAnswerYet

if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Callable

    from django.core.management.base import BaseCommand

    from towpath.ledger.finished import FinishedWindow

_EVERY_SECONDS = 2.0
_SECONDS = 5.0
_TAIL_SECONDS = 0.5
#: Moves the cursor to the top left, and clears the screen.
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


def add_watch(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline status` that watch."""
    parser.add_argument("--watch", action="store_true", help=f"refresh every {_EVERY_SECONDS:g} s, until Ctrl-C")
    parser.add_argument("--looks", type=int, default=0, help="with --watch: stop after this many refreshes")


def add_tail(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline tail`."""
    parser.add_argument("--windows", type=int, default=0, help="stop after this many windows (default: never)")
    parser.add_argument("--json", action="store_true", help="print a JSON document for each window")


def watch(command: BaseCommand, *, looks: int) -> None:
    """Show the status again and again, `looks` times, or until Ctrl-C if that is 0. If PostgreSQL does not answer, the
    screen says so, and the next look asks again."""
    is_terminal = command.stdout.isatty()
    done = 0
    try:
        while True:
            command.stdout.write(_CLEAR * is_terminal + _screen(command), ending="\n")
            command.stdout.flush()
            done += 1
            if done == looks:
                return
            time.sleep(_EVERY_SECONDS)
    except KeyboardInterrupt:
        return


def _screen(command: BaseCommand) -> str:
    now = time.strftime("%H:%M:%S", time.gmtime())
    try:
        status = read_overview(config(), seconds=_SECONDS)
    except NoAnswerYet:
        return command.style.ERROR(f"{now} UTC: PostgreSQL does not answer within {_SECONDS:g} s")
    except (DatabaseError, InterfaceError) as error:
        connection.close()
        return command.style.ERROR(f"{now} UTC: {without_secrets(database_errors.describe(error))}")
    colour = command.style.ERROR if status.problems else command.style.SUCCESS
    head = f"{len(status.problems)} problem(s)" if status.problems else "all is well"
    lines = tables.of_status(status).splitlines()
    shown = [command.style.ERROR(line) if line.startswith("! ") else line for line in lines]
    return "\n".join([colour(f"{now} UTC: {head}"), "", *shown])


def tail(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Print a line for each window as it finishes. Always return True."""
    show = _as_json if options["json"] else _as_text
    place, shown, seen = here(), 0, dict[Any, None]()
    try:
        while True:
            found, place = finished_since(place)
            for window in found:
                if window.id in seen:
                    continue
                seen[window.id] = None
                _write(command, window, show)
                shown += 1
                if shown == options["windows"]:
                    return True
            for old in [*seen][: max(0, len(seen) - 5000)]:
                del seen[old]
            time.sleep(_TAIL_SECONDS)
    except KeyboardInterrupt:
        return True


def _write(command: BaseCommand, window: FinishedWindow, show: Callable[[FinishedWindow], str]) -> None:
    text = show(window)
    command.stdout.write(command.style.ERROR(text) if window.refused or window.vanished else text)
    command.stdout.flush()


def _as_text(window: FinishedWindow) -> str:
    rows = ", ".join(f"{name} {count:,}" for name, count in window.delivered.items()) or "no row"
    wrong = "".join(
        f"   {what} {sum(rows.values()):,}"
        for what, rows in (("refused", window.refused), ("vanished", window.vanished))
        if rows
    )
    again = f"   attempt {window.attempts}" if window.attempts > 1 else ""
    time, name = f"{window.acked_at:%H:%M:%S.%f}"[:-3], str(window.id)[-8:]
    return f"{time}  {name}  {window.seconds:6.2f} s  {rows}{wrong}{again}"


def _as_json(window: FinishedWindow) -> str:
    return json.dumps(
        {
            "window": str(window.id),
            "acked_at": window.acked_at.isoformat(),
            "seconds": round(window.seconds, 3),
            "attempts": window.attempts,
            "delivered": window.delivered,
            "refused": window.refused,
            "vanished": window.vanished,
        }
    )
