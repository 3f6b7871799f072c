"""`manage.py eventlog retain` and `erase`: what the event log no longer keeps."""

from __future__ import annotations

import json
from argparse import ArgumentParser, ArgumentTypeError
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from towpath.conf.current import config
from towpath.errors import NotDroppable, NotErasable
from towpath.eventlog.store import Change, Store
from towpath.management.operator import operator
from towpath.proof import erasure, retention
from towpath.proof.erasure import Plan
from towpath.proof.retention import Month
from towpath.proof.selection import Selection, select

#: A statement may read a month, or rewrite what an hour has written, before the event store answers.
SHORTEST_TIMEOUT_SECONDS = 3600.0

#: A thousand years.
_MOST_MONTHS = 12_000


def add_retain(parser: ArgumentParser) -> None:
    """The arguments of `eventlog retain`."""
    parser.add_argument(
        "--months", type=_months, required=True, help="keep this month, and so many whole months before it"
    )
    _add_common(parser)


def add_erase(parser: ArgumentParser) -> None:
    """The arguments of `eventlog erase`."""
    whose = parser.add_argument_group("whose events", "conditions, all of which must hold")
    whose.add_argument("--actor", help="events whose actor this is")
    whose.add_argument("--target", help="events whose target this is")
    whose.add_argument(
        "--where",
        type=_condition,
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="a column, or a path of the context: context.email=jane@example.com",
    )
    parser.add_argument(
        "--fields",
        nargs="+",
        action="extend",
        required=True,
        metavar="FIELD",
        help="what is masked: a column, context, or a path such as context.email",
    )
    parser.add_argument("--reason", required=True, help="why: recorded as an event, with who did it")
    _add_common(parser)


def retain(command: BaseCommand, store: Store, options: dict[str, Any]) -> bool:
    """Drop whole months that are old enough. False if one of them must not go yet."""
    _require_right(store, "drop", options)
    before = retention.first_kept(today=datetime.now(UTC).date(), months=options["months"])
    months = list(retention.find_months(store, before=before))
    ready = [month for month in months if not month.refusal]
    if ready and not options["dry_run"]:
        names = ", ".join(month.name for month in ready)
        _confirm(f"Drop {names} of the event log for good? Type drop: ", "drop", is_sure=options["yes"])
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
    """Mask fields of a person's events. False if some of them are on their way to the event store."""
    selection = _selection(options)
    if not options["reason"].strip():
        raise CommandError("Say why: --reason TEXT.", returncode=2)
    _require_right(store, "rewrite", options)
    own = config().columns
    on_their_way = 0
    try:
        plan = erasure.plan(selection, store, own)
        has_any = bool(plan.rows or plan.undelivered.rows)
        if has_any and not options["dry_run"]:
            question = f"Mask {', '.join(selection.fields)} of {_found(plan)} for good? Type erase: "
            _confirm(question, "erase", is_sure=options["yes"])
            on_their_way = erasure.erase(plan, store, own, reason=options["reason"].strip(), by=operator())
    except NotErasable as error:
        raise CommandError(f"Nothing was erased: {error}.") from error
    if options["json"]:
        answer = {
            "is_dry_run": options["dry_run"],
            "rows": plan.rows,
            "windows": len(plan.windows),
            "undelivered": plan.undelivered.rows,
            "on_their_way": on_their_way,
            "context_fields": plan.names,
        }
        command.stdout.write(json.dumps(answer))
    else:
        verb = "would be masked" if options["dry_run"] else "masked"
        lines = [f"{_found(plan)} {verb}: {', '.join(selection.fields)}" if has_any else "nothing to erase"]
        if options["dry_run"] and plan.names:
            lines.append(f"the first context has: {', '.join(plan.names)}")
        if on_their_way:
            lines.append(
                f"! {on_their_way} of these events may be stored as they were: run the same command again in a minute."
            )
        command.stdout.write("\n".join(lines))
    return not on_their_way


def _add_common(parser: ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--yes", action="store_true", help="without asking")


def _require_right(store: Store, change: Change, options: dict[str, Any]) -> None:
    """Before the ledger says that it was done. A dry run asks for no more than reading."""
    problems = [] if options["dry_run"] else store.keeping_problems(change)
    if problems:
        raise CommandError(f"Nothing was changed: {'; '.join(problems)}.")


def _selection(options: dict[str, Any]) -> Selection:
    given = [(name, options[name]) for name in ("actor", "target") if options[name] is not None]
    try:
        return select([*given, *options["where"]], options["fields"], config().columns)
    except ValueError as error:
        raise CommandError(f"{error}.", returncode=2) from error


def _confirm(question: str, word: str, *, is_sure: bool) -> None:
    if is_sure:
        return
    try:
        answer = input(question)
    except EOFError:  # nobody is there to answer
        answer = ""
    if answer.strip() != word:
        raise CommandError("Nothing was changed. Without a person to ask, add --yes.")


def _found(plan: Plan) -> str:
    waiting = f" and {plan.undelivered.rows} undelivered event(s)" if plan.undelivered.rows else ""
    return f"{plan.rows} stored event(s) of {len(plan.windows)} window(s){waiting}"


def _size(month: Month) -> str:
    return "an earlier run is completed" if month.is_begun else f"{month.windows} window(s), {month.rows} row(s)"


def _month_as_json(month: Month) -> dict[str, Any]:
    return {"month": month.name, "windows": month.windows, "rows": month.rows, "is_completed": month.is_begun}


def _months(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= _MOST_MONTHS:
        raise ArgumentTypeError(f"{text!r} is not a number of months, 1 or more")
    return int(text)


def _condition(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        # Without the text, which may be a person's.
        raise ArgumentTypeError("write NAME=VALUE")
    return name, value
