"""What people do in the console, as the commands do it: who and why are recorded, even if it is not done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import transaction

from towpath.console.seen import look_anew
from towpath.events import PipelineActionRefused
from towpath.flow import operating
from towpath.flow.operating import storable
from towpath.outbox.publishing import publish

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest


def person(request: HttpRequest) -> str:
    """Return the name of the person, as in events and `status`."""
    return f"{request.user.get_username()} (user:{request.user.pk})"


def carry_out(request: HttpRequest, do: Callable[[], str], *, action: str, target: str) -> str:
    """Return what `do` says it has done. The next look sees it. Raises NotDone."""
    said = operating.carry_out(do, action=action, target=target, by=person(request))
    look_anew()
    return said


def record_refusal(request: HttpRequest, *, action: str) -> None:
    """Record that a person tried to act who may not."""
    with transaction.atomic():
        publish(
            PipelineActionRefused(
                action=action,
                target=storable(request.POST.get("outbox", "") or " ".join(request.POST.getlist("id"))),
                reason="The account lacks the permission",
                tried_by=person(request),
            )
        )
