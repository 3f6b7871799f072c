"""Pause and resume dispatch: each asks first, and says what it will do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.shortcuts import redirect, render

from towpath.console.actions import carry_out, person
from towpath.console.views.access import for_operators
from towpath.errors import NotDone
from towpath.flow.pausing import LONGEST_REASON, is_all_paused, pause_dispatch, resume_dispatch
from towpath.ledger.pauses import read_pauses
from towpath.outbox.models import all_outboxes
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse


@for_operators
def pause(request: HttpRequest) -> HttpResponse:
    """Keep committed events in their outbox."""
    outbox, reason = _asked(request, "outbox"), _asked(request, "reason")

    def do() -> str:
        is_new = pause_dispatch(outbox, by=person(request), reason=reason)
        return f"Dispatch of {_named(outbox)} {'is' if is_new else 'was already'} paused."

    return _answer(request, "pause", outbox, do if request.method == "POST" else None)


@for_operators
def resume(request: HttpRequest) -> HttpResponse:
    """Dispatch again what is paused."""
    outbox = _asked(request, "outbox")

    def do() -> str:
        resumed = resume_dispatch(outbox, by=person(request))
        names = ", ".join(_named(name) for name in resumed)
        if resumed and outbox and is_all_paused():
            return f"The pause of {outbox} has ended, but dispatch of all outboxes is still paused."
        return f"Dispatch of {names} has resumed." if resumed else "Nothing was paused."

    return _answer(request, "resume", outbox, do if request.method == "POST" else None)


def _asked(request: HttpRequest, name: str) -> str:
    return str((request.POST if request.method == "POST" else request.GET).get(name, ""))


def _named(outbox: str) -> str:
    return outbox or "all outboxes"


def _is_paused(outbox: str) -> bool:
    """True of one without a class, too: its pause must be able to end."""
    return any(pause.outbox == outbox for pause in read_pauses())


def _answer(request: HttpRequest, action: str, outbox: str, do: Callable[[], str] | None) -> HttpResponse:
    problem = ""
    if do is not None:
        try:
            said = carry_out(request, do, action=action, target=outbox)
        except NotDone as error:
            problem = str(error)
        else:
            messages.success(request, said, fail_silently=True)
            return redirect("console:page")
    context = {
        "action": action,
        "outbox": outbox,
        "reason": _asked(request, "reason"),
        "is_known": not outbox or outbox in all_outboxes() or (action == "resume" and _is_paused(outbox)),
        "problem": problem,
        "longest": LONGEST_REASON,
    }
    return render(
        request,
        "towpath/console/confirm.html",
        frame(request, here="Pipeline") | context,
        status=409 if problem else 200,
    )
