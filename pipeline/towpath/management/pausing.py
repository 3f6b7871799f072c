"""`manage.py pipeline pause` and `resume`: a person pauses dispatch, and resumes it."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from towpath.flow.operating import carry_out
from towpath.flow.pausing import is_all_paused, pause_dispatch, resume_dispatch
from towpath.ledger.pauses import EVERY_OUTBOX
from towpath.management.operator import operator

if TYPE_CHECKING:
    from argparse import ArgumentParser

    from django.core.management.base import BaseCommand


def add_pause(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline pause`."""
    _add_outbox(parser)
    parser.add_argument(
        "--reason",
        default="",
        help="why you pause dispatch; shown in `status`, and recorded in an event with your account",
    )


def add_resume(parser: ArgumentParser) -> None:
    """Add the arguments of `pipeline resume`."""
    _add_outbox(parser)


def _add_outbox(parser: ArgumentParser) -> None:
    parser.add_argument("outbox", nargs="?", default=EVERY_OUTBOX, help="the outbox's table (default: all outboxes)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def pause(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Pause dispatch of one outbox or of all, and print whether that is new. Raises NotDone."""
    outbox, reason = options["outbox"], options["reason"]
    if not reason.strip():
        command.stderr.write("Say why: `pipeline pause [OUTBOX] --reason TEXT`.")
        raise SystemExit(2)
    is_new = carry_out(
        partial(pause_dispatch, outbox, by=operator(), reason=reason), action="pause", target=outbox, by=operator()
    )
    what = outbox or "all outboxes"
    text = f"dispatch of {what} is paused" if is_new else f"dispatch of {what} was already paused"
    command.stdout.write(json.dumps({"paused": is_new, "outbox": outbox}) if options["json"] else text)
    return True


def resume(command: BaseCommand, options: dict[str, Any]) -> bool:
    """Resume dispatch of one outbox or of all, and print which. Raises NotDone."""
    outbox = options["outbox"]
    resumed = carry_out(partial(resume_dispatch, outbox, by=operator()), action="resume", target=outbox, by=operator())
    names = ", ".join(name or "all outboxes" for name in resumed)
    is_still_paused = bool(resumed and outbox) and is_all_paused()
    text = f"dispatch of {names} has resumed" if resumed else "nothing was paused"
    if is_still_paused:
        text = f"the pause of {outbox} has ended, but dispatch of all outboxes is still paused"
    found = {"resumed": resumed, **({"still_paused": True} if is_still_paused else {})}
    command.stdout.write(json.dumps(found) if options["json"] else text)
    return True
