"""`manage.py eventlog retain` and `erase`: drop old months, and mask a person's data."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from towpath.conf.current import config
from towpath.errors import NotDroppable, NotErasable
from towpath.eventlog.query import QueryError
from towpath.eventlog.store import Change, Store
from towpath.ledger.seals import database_now
from towpath.management.consent import confirm
from towpath.management.operator import operator, record_reading
from towpath.proof import erasure, retention
from towpath.proof.erasure import Plan
from towpath.proof.retention import Month
from towpath.proof.selection import Selection, select

#: A statement may read a whole month, or rewrite an hour's rows, before the event store answers.
SHORTEST_TIMEOUT_SECONDS = 3600.0

#: A thousand years.
_MOST_MONTHS = 12_000


def add_retain(parser: ArgumentParser) -> None:
    """Add the arguments of `eventlog retain`."""
    parser.add_argument(
        "--months",
        type=_months,
        metavar="NUMBER",
        required=True,
        help="keep this month, and this many whole months before it",
    )
    _add_common(parser)


def add_erase(parser: ArgumentParser) -> None:
    """Add the arguments of `eventlog erase`."""
    whose = parser.add_argument_group("whose events", "events that match all of these")
    whose.add_argument("--actor", help="events with this actor")
    whose.add_argument("--target", help="events with this target")
    whose.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="QUERY",
        help="events that match a query (docs/query.md): 'context.email:jane@example.com -type:order_*'",
    )
    parser.add_argument(
        "--fields",
        nargs="+",
        action="extend",
        required=True,
        metavar="FIELD",
        help="what to mask: a column, `context`, or a path such as context.email",
    )
    parser.add_argument("--reason", required=True, help="why you do this; recorded in an event, with your account")
    _add_common(parser)


def retain(command: BaseCommand, store: Store, options: dict[str, Any]) -> bool:
    """Drop whole months that are old enough, and print which. False if one of them must not be dropped yet.

    Raises CommandError, StoreUnavailable.
    """
    _require_right(store, "drop", options)
    # The earlier of two clocks: what one that is ahead drops is gone for good.
    today = min(datetime.now(UTC), database_now()).astimezone(UTC).date()
    before = retention.first_kept(today=today, months=options["months"])
    months = list(retention.find_months(store, before=before))
    ready = [month for month in months if not month.refusal]
    if ready and not options["dry_run"]:
        names = ", ".join(month.name for month in ready)
        confirm(f"Drop {names} of the event log for good? Type drop: ", "drop", is_sure=options["yes"])
    is_dropped = not options["dry_run"]
    refused = {month.name: month.refusal for month in months if month.refusal}
    for month in ready if is_dropped else ():
        try:
            retention.drop(month, store, reason=f"kept for {options['months']} month(s)", by=operator())
        except NotDroppable as error:
            refused[month.name] = str(error)
    done = [month for month in ready if month.name not in refused]
    proofs = retention.purge_proofs() if is_dropped else 0
    if options["json"]:
        answer = {
            "kept_from": f"{before:%Y-%m}",
            "dropped" if is_dropped else "would_drop": [_month_as_json(month) for month in done],
            "refused": refused,
            "proofs_deleted": proofs,
        }
        command.stdout.write(json.dumps(answer))
    else:
        verb = "dropped" if is_dropped else "would be dropped"
        lines = [f"{month.name}  {_size(month)}  {verb}" for month in done]
        lines += [f"! {reason}." for reason in refused.values()]
        command.stdout.write("\n".join(lines) or f"nothing to drop: the event log begins in {before:%Y-%m} or later")
    return not refused


def erase(command: BaseCommand, store: Store, options: dict[str, Any]) -> bool:
    """Mask fields of a person's events. False if some of these events are on their way to the event store.

    Raises CommandError, StoreUnavailable.
    """
    selection = _selection(options)
    if not options["reason"].strip():
        raise CommandError("Say why: --reason TEXT.", returncode=2)
    _require_right(store, "rewrite", options)
    own = config().columns
    on_their_way = 0
    try:
        plan = _plan(selection, store, options)
        if plan.has_any and not options["dry_run"]:
            question = f"Mask {', '.join(selection.fields)} of {_found(plan)} for good? Type erase: "
            confirm(question, "erase", is_sure=options["yes"])
            on_their_way = erasure.erase(plan, store, own, reason=options["reason"].strip(), by=operator())
    except NotErasable as error:
        raise CommandError(f"Nothing was erased: {error}.") from error
    is_dry_run = options["dry_run"]
    if options["json"]:
        command.stdout.write(_erased_as_json(plan, on_their_way, is_dry_run=is_dry_run))
    else:
        command.stdout.write(_erased_as_text(plan, on_their_way, is_dry_run=is_dry_run))
    return not on_their_way


def _erased_as_json(plan: Plan, on_their_way: int, *, is_dry_run: bool) -> str:
    return json.dumps(
        {
            "is_dry_run": is_dry_run,
            "rows": plan.rows,
            "windows": len(plan.windows),
            "undelivered": plan.undelivered.rows,
            "on_their_way": on_their_way,
            "context_fields": plan.names,
        }
    )


def _erased_as_text(plan: Plan, on_their_way: int, *, is_dry_run: bool) -> str:
    if not plan.has_any:
        return "nothing to erase"
    fields = ", ".join(plan.selection.fields)
    lines = [f"{_found(plan)} {'would be masked' if is_dry_run else 'masked'}: {fields}"]
    if is_dry_run and plan.names:
        lines.append(f"fields of the first context: {', '.join(plan.names)}")
    if on_their_way:
        lines.append(
            f"! {on_their_way} of these events may be stored unmasked: run the same command again in a minute."
        )
    return "\n".join(lines)


def _plan(selection: Selection, store: Store, options: dict[str, Any]) -> Plan:
    """Find the events, and publish that they were read, before anything about them is shown: it may be that nothing is
    erased."""
    rows = 0
    try:
        plan = erasure.plan(selection, store, config().columns)
        rows = plan.rows + plan.undelivered.rows
    finally:
        # Who is told why they cannot be erased has learned something about them, too.
        what = f"{', '.join(selection.fields)} of {selection.query_on_record}: {options['reason'].strip()}"
        record_reading("eventlog erase", rows=rows, detail=f"{'dry run, ' if options['dry_run'] else ''}{what}")
    return plan


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="show what would be done, and change nothing")
    parser.add_argument("--yes", action="store_true", help="do not ask for confirmation")


def _require_right(store: Store, change: Change, options: dict[str, Any]) -> None:
    """Raise CommandError if the store's user may not make the change, before the ledger says that it was made. A dry
    run only reads."""
    problems = [] if options["dry_run"] else store.keeping_problems(change)
    if problems:
        raise CommandError(f"Nothing was changed: {'; '.join(problems)}.")


def _selection(options: dict[str, Any]) -> Selection:
    columns = {name: options[name] for name in ("actor", "target") if options[name] is not None}
    try:
        return select(
            options["where"],
            options["fields"],
            config().columns,
            columns=columns,
            environment=config().environment,
        )
    except QueryError as error:
        raise CommandError(error.pointed(), returncode=2) from error
    except ValueError as error:
        raise CommandError(f"{error}.", returncode=2) from error


def _found(plan: Plan) -> str:
    waiting = f" and {plan.undelivered.rows:,} undelivered event(s)" if plan.undelivered.rows else ""
    return f"{plan.rows:,} stored event(s) of {len(plan.windows):,} window(s){waiting}"


def _size(month: Month) -> str:
    return "an earlier run is completed" if month.is_begun else f"{month.windows:,} window(s), {month.rows:,} row(s)"


def _month_as_json(month: Month) -> dict[str, Any]:
    return {"month": month.name, "windows": month.windows, "rows": month.rows, "is_completed": month.is_begun}


def _months(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MOST_MONTHS:
        raise ArgumentTypeError(f"{text!r} is not a number of months, 1 or more")
    return int(text)
