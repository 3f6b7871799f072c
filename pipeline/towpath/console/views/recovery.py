"""Recover now: what the recover shift does each second, for a person who does not want to wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.contrib import messages
from django.shortcuts import redirect, render

from towpath import wiring
from towpath.conf.current import config
from towpath.console.actions import carry_out, person
from towpath.console.views.access import for_operators
from towpath.errors import NotDone
from towpath.flow.operating import recover_now
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponse


#: A web server ends a request that takes much longer than this and the delivery after it.
_STRANDED_SECONDS = 5.0


@for_operators
def recover(request: HttpRequest) -> HttpResponse:
    """Deliver what is overdue, in this process and for a few seconds."""

    def do() -> str:
        store = wiring.event_store(config())
        try:
            found = recover_now(
                store,
                wiring.window_rules(config()),
                limits=wiring.window_limits(config()),
                unsealed_seconds=config().unsealed_seconds,
                by=person(request),
                stranded_seconds=_STRANDED_SECONDS,
            )
        finally:
            store.close()
        windows, rows = found.windows, found.stranded_rows
        brought = f", and handed {rows:,} stranded row{'' if rows == 1 else 's'} to the dispatcher" if rows else ""
        failed = f" {found.undelivered:,} could not be delivered: {found.why}." if found.undelivered else ""
        more = "" if found.is_complete else " There may be more stranded rows: recover again."
        return f"Recovery delivered {windows:,} window{'' if windows == 1 else 's'}{brought}.{failed}{more}"

    problem = ""
    if request.method == "POST":
        try:
            said = carry_out(request, do, action="recover", target="")
        except NotDone as error:
            problem = str(error)
        else:
            messages.success(request, said, fail_silently=True)
            return redirect("console:page")
    return render(
        request,
        "towpath/console/recover.html",
        frame(request, here="Pipeline") | {"problem": problem},
        status=409 if problem else 200,
    )
