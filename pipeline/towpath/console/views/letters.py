"""Dead letters: a list with a filter, and replaying or dropping one, some, or all that the filter finds.

The page that asks counts dead letters, and its form names each of them. The action takes these and no others: what
matches the filter by then stays. If one of them is gone, nothing is done, and the page asks again.
"""

from __future__ import annotations

import shlex
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
from towpath.errors import NotDone, NotReadable, PipelineError
from towpath.flow import deadletters, operating
from towpath.outbox.models import all_outboxes
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.http import HttpRequest, HttpResponse, QueryDict

    from towpath.flow.deadletters import Done
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
        outbox, error = given.get("outbox", ""), given.get("error", "")
        # An invalid number counts as ticked: it must not come to mean all.
        ticked = _numbers(given.getlist("id")) if "id" in given else None
        return cls(outbox.replace("\x00", ""), error.replace("\x00", ""), ticked)

    def find(self) -> Sequence[Letter]:
        """Raises NotReadable."""
        if self.ids is not None:
            return deadletters.find(list(self.ids))
        return deadletters.find_newest(outbox=self.outbox, error=self.error, limit=_MOST_LETTERS)

    @property
    def query(self) -> str:
        return urlencode({"outbox": self.outbox, "error": self.error})


def _numbers(texts: Sequence[str]) -> tuple[int, ...]:
    """Return the numbers in these texts. One text may hold many: Django refuses a form with 1,000 fields."""
    numbers = {number for text in texts for one in text.split() if (number := _number(one)) is not None}
    return tuple(sorted(numbers))[:_MOST_LETTERS]


def _number(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0  # noqa: PLR2004 - digits of bigint
    return number if 0 < number <= _LARGEST_NUMBER else None


@for_viewers
def letters(request: HttpRequest) -> HttpResponse:
    """The newest that the filter finds."""
    asked = _Asked.of(request.GET)
    context: dict[str, Any] = {
        "asked": asked,
        # One that no class has may be asked for, too: the ledger can have its letters.
        "outboxes": list(dict.fromkeys([*all_outboxes(), *filter(None, [asked.outbox])])),
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
        done = operating.replay(found, by=person(request), batch_ids=config().batch_ids, enqueue=enqueue_batches)
        return _said(done, "requeued")

    return _act(request, "replay", do)


@for_operators
def drop(request: HttpRequest) -> HttpResponse:
    """Delete their events for good."""

    def do(found: Sequence[Letter]) -> str:
        return _said(operating.drop(found, by=person(request)), "dropped")

    return _act(request, "drop", do)


def _said(done: Done, what: str) -> str:
    said = f"{len(done.letters):,} dead letter{'' if len(done.letters) == 1 else 's'} {what}."
    return f"{said} {done.missed}." if done.gone else said


def _act(request: HttpRequest, action: str, do: Callable[[Sequence[Letter]], str]) -> HttpResponse:
    is_asking = request.method != "POST"
    asked = _Asked.of(request.GET if is_asking else request.POST)
    problem = ""
    found: Sequence[Letter] = ()
    try:
        if not is_asking:
            numbers = _numbers(request.POST.getlist("confirmed"))
            said = carry_out(request, lambda: do(_confirmed(numbers)), action=action, target=_target(asked, numbers))
            messages.success(request, said, fail_silently=True)
            return redirect("console:letters")
    except NotDone as error:
        problem = str(error)
    try:
        found = asked.find()
    except NotReadable as error:
        problem = str(error)
    context = {
        "action": action,
        "asked": asked,
        "found": found,
        "first": found[:5],
        "most": _MOST_LETTERS,
        "problem": problem,
        "in_a_terminal": _in_a_terminal(action, asked),
    }
    return render(
        request,
        "towpath/console/letters_confirm.html",
        frame(request, here="Pipeline") | context,
        status=409 if problem else 200,
    )


def _in_a_terminal(action: str, asked: _Asked) -> str:
    """Return the command that acts on the same dead letters; of a filter, on all that match by then."""
    words = ["python", "manage.py", "pipeline", "deadletters", action, *map(str, asked.ids or ())]
    if asked.ids is None:
        given = (("--outbox", asked.outbox), ("--error", asked.error))
        # In one word: a text may begin with a hyphen.
        words += [f"{name}={text}" for name, text in given if text] or ["--all"]
    return shlex.join(words)


class _NotConfirmed(PipelineError):
    """The text says why the page asks again."""


def _confirmed(numbers: Sequence[int]) -> Sequence[Letter]:
    """Return the letters that the page has counted. Raises _NotConfirmed if one of them is gone, and NotReadable."""
    if not numbers:
        raise _NotConfirmed("Nothing was done, because no dead letter was confirmed. Check the number, and confirm it.")
    found = deadletters.find(numbers)
    if gone := len(numbers) - len(found):
        is_or_are = "is" if gone == 1 else "are"
        raise _NotConfirmed(
            f"Nothing was done: of the {len(numbers):,} that you confirmed, {gone:,} {is_or_are} gone. Somebody has"
            " replayed or dropped what is missing. Check the new number, and confirm it."
        )
    return found


def _target(asked: _Asked, numbers: Sequence[int]) -> str:
    if asked.ids is not None:
        return " ".join(map(str, numbers))
    of_what = f"all of {asked.outbox or 'every outbox'}"
    return f"{of_what} with {asked.error!r}" if asked.error else of_what
