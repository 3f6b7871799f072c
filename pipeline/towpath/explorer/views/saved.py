"""A person's views and columns: save, list, rename, share and delete them.

They are plain forms, which work without JavaScript. What changes something is a POST, which no link from elsewhere is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from towpath.conf.current import config
from towpath.explorer import saved
from towpath.explorer.models import SHARE, SavedView
from towpath.explorer.state import read
from towpath.explorer.views.access import for_readers, for_writers, refuse
from towpath.pages.frame import frame

if TYPE_CHECKING:
    from django.http import HttpRequest


@for_readers
def list_of_views(request: HttpRequest) -> HttpResponse:
    """List the person's own views, which they can change, and those that others share."""
    return _list(request)


@for_writers
def save(request: HttpRequest) -> HttpResponse:
    """Save the state of the page that has the form."""
    state, problems = read(request.POST.dict(), own=config().columns)
    if problems:
        return _list(request, problems[0].text)
    is_shared = "is_shared" in request.POST
    if is_shared and not request.user.has_perm(SHARE):
        return refuse(request, SHARE)
    try:
        view = saved.save(request.user, request.POST.get("name", ""), state, is_shared=is_shared)
    except saved.NotSaved as error:
        return _list(request, str(error))
    return redirect(f"{reverse('explorer:page')}?{view.parameters}")


@for_writers
def change(request: HttpRequest, number: int) -> HttpResponse:
    """Rename, share or delete a person's own view. For a view of somebody else, the answer is 404."""
    action = request.POST.get("action", "")
    own = SavedView.objects.filter(pk=number, owner_id=request.user.pk)
    # Everybody reads the name of a shared view.
    is_shown = action == "share" or (action == "rename" and own.filter(is_shared=True).exists())
    if is_shown and not request.user.has_perm(SHARE):
        return refuse(request, SHARE)
    try:
        match action:
            case "rename":
                saved.rename(request.user, number, request.POST.get("name", ""))
            case "share" | "unshare":
                saved.share(request.user, number, is_shared=action == "share")
            case "delete":
                saved.delete(request.user, number)
            case _:
                return _list(request, "Rename, share, unshare or delete a view.")
    except SavedView.DoesNotExist:
        raise Http404 from None
    except saved.NotSaved as error:
        return _list(request, str(error))
    return redirect("explorer:views")


@for_writers
def choose_columns(request: HttpRequest) -> HttpResponse:
    """Remember the chosen columns, or forget them if none is chosen, and lead to the page with them. The page says what
    is wrong with them."""
    # A form sends one parameter for each column.
    chosen = ",".join(filter(None, request.POST.getlist("columns")))
    given = {name: request.POST.get(name, "") for name in ("q", "range", "since", "until", "tz")} | {"columns": chosen}
    state, problems = read(given, own=config().columns)
    if not problems:
        saved.remember_columns(request.user, state)
    parameters = {name: text for name, text in given.items() if text} if problems else state.parameters()
    return redirect(f"{reverse('explorer:page')}?{urlencode(parameters)}")


def _list(request: HttpRequest, problem: str = "") -> HttpResponse:
    views = saved.views_of(request.user)
    context = {
        "own": [view for view in views if view.owner_id == request.user.pk],
        "shared": [view for view in views if view.owner_id != request.user.pk],
        "audits": saved.AUDITS,
        "may_share": request.user.has_perm(SHARE),
        "problem": problem,
    }
    status = 422 if problem else 200
    return render(request, "towpath/explorer/views.html", frame(request, here="Events") | context, status=status)
