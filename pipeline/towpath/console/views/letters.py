"""Dead letters: a list with a filter, and replaying or dropping one, some, or all that the filter finds.

The action is confirmed with the number of dead letters. If that number has changed, nothing is done, and the page asks
again: so nobody drops what they have not seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from django.contrib import messages
from django.shortcuts import redirect, render

from towpath.actors import enqueue_batches
from towpath.conf.current import config
from towpath.console.actions import carry_out, person
from towpath.console.models import OPERATE
from towpath.console.views.access import for_operators, for_viewers
from towpath.errors import NotDone, NotReadable
from towpath.flow import deadletters, operating
from towpath.outbox.models import all_outboxes
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.http import HttpRequest, HttpResponse, QueryDict

    from towpath.ledger.deadletters import Letter

_PAGE_LETTERS = 50
#: The most dead letters of one action. For more, repeat it.
_MOST_LETTERS = 1000
_LARGEST_NUMBER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """The filter, and the numbers that are ticked; without any, all that the filter finds."""

    outbox: str
    error: str
    #: None: nothing is ticked.
    ids: tuple[int, ...] | None

    @classmethod
    def of(cls, given: QueryDict) -> _Asked:
        ids = {number for text in given.getlist("id") if (number := _number(text)) is not None}
        outbox, error = given.get("outbox", ""), given.get("error", "")
        # An invalid number counts as ticked: it must not come to mean all.
        ticked = tuple(sorted(ids))[:_MOST_LETTERS] if "id" in given else None
        return cls(outbox.replace("\x00", ""), error.replace("\x00", ""), ticked)

    def find(self) -> Sequence[Letter]:
        """Raises NotReadable."""
        if self.ids is not None:
            return deadletters.find(list(self.ids))
        return deadletters.find_newest(outbox=self.outbox, error=self.error, limit=_MOST_LETTERS)

    @property
    def query(self) -> str:
        return urlencode({"outbox": self.outbox, "error": self.error})


def _number(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0  # noqa: PLR2004 - digits of bigint
    return number if 0 < number <= _LARGEST_NUMBER else None


@for_viewers
def letters(request: HttpRequest) -> HttpResponse:
    """The newest that the filter finds."""
    asked = _Asked.of(request.GET)
    context: dict[str, Any] = {
        "asked": asked,
        "outboxes": list(all_outboxes()),
        "may_operate": request.user.has_perm(OPERATE),
    }
    try:
        found = deadletters.find_newest(
            outbox=asked.outbox,
            error=asked.error,
            before=_number(request.GET.get("before", "")),
            limit=_PAGE_LETTERS + 1,
        )
    except NotReadable as error:
        return render(
            request, "towpath/console/letters.html", frame(request, here="Pipeline") | context | {"problem": error}
        )
    context["letters"] = found[:_PAGE_LETTERS]
    if len(found) > _PAGE_LETTERS:
        context["older"] = f"?{asked.query}&before={found[_PAGE_LETTERS - 1].id}"
    return render(request, "towpath/console/letters.html", frame(request, here="Pipeline") | context)


@for_operators
def replay(request: HttpRequest) -> HttpResponse:
    """Send them through the pipeline again."""

    def do(found: Sequence[Letter]) -> str:
        operating.replay(found, by=person(request), batch_ids=config().batch_ids, enqueue=enqueue_batches)
        return f"{_counted(found)} requeued."

    return _act(request, "replay", do)


@for_operators
def drop(request: HttpRequest) -> HttpResponse:
    """Delete their events for good."""

    def do(found: Sequence[Letter]) -> str:
        deadletters.drop(found, by=person(request))
        return f"{_counted(found)} dropped."

    return _act(request, "drop", do)


def _counted(found: Sequence[Letter]) -> str:
    return f"{len(found):,} dead letter{'' if len(found) == 1 else 's'}"


def _act(request: HttpRequest, action: str, do: Callable[[Sequence[Letter]], str]) -> HttpResponse:
    is_asking = request.method != "POST"
    asked = _Asked.of(request.GET if is_asking else request.POST)
    problem = ""
    found: Sequence[Letter] = ()
    try:
        found = asked.find()
    except NotReadable as error:
        problem = str(error)
    if not is_asking and not problem:
        if request.POST.get("number") != str(len(found)):
            problem = f"The number of dead letters is {len(found):,} now. Check them, and confirm the new number."
        else:
            try:
                said = carry_out(request, lambda: do(found), action=action, target=_target(asked, found))
            except NotDone as error:
                problem = str(error)
            else:
                messages.success(request, said, fail_silently=True)
                return redirect("console:letters")
    context = {
        "action": action,
        "asked": asked,
        "found": found,
        "first": found[:5],
        "most": _MOST_LETTERS,
        "problem": problem,
    }
    return render(
        request,
        "towpath/console/letters_confirm.html",
        frame(request, here="Pipeline") | context,
        status=409 if problem else 200,
    )


def _target(asked: _Asked, found: Sequence[Letter]) -> str:
    if asked.ids is not None:
        return " ".join(str(letter.id) for letter in found)
    of_what = f"all of {asked.outbox or 'every outbox'}"
    return f"{of_what} with {asked.error!r}" if asked.error else of_what
