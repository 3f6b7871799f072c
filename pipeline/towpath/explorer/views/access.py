"""Who may see a page of the explorer: people who are signed in and have the permission. Others learn why not."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.db import transaction
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST, require_safe

from towpath.explorer import access
from towpath.explorer.models import EXPORT, SHARE, VIEW
from towpath.explorer.scope import ScopeUnknown
from towpath.explorer.views.problems import problem
from towpath.pages.frame import frame
from towpath.pages.policy import strict

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

_Arguments = ParamSpec("_Arguments")


_View = Callable[Concatenate["HttpRequest", _Arguments], "HttpResponseBase"]

#: The name of each permission in Django's admin, and what a person cannot do without it.
_IN_WORDS = {
    VIEW: ("Can search and read events", "read events"),
    EXPORT: ("Can export events", "export events"),
    SHARE: ("Can share views with everybody", "share views"),
}


def for_readers(view: _View[_Arguments]) -> _View[_Arguments]:
    """Decorate a view for GET and HEAD, for people who may read events. It has the pages' strict security policy."""
    return _guarded(require_safe(view), (VIEW,))


def for_writers(view: _View[_Arguments]) -> _View[_Arguments]:
    """Decorate a view for POST, for people who may read events: it changes what the explorer keeps about them."""
    return _guarded(require_POST(view), (VIEW,))


def for_exporters(view: _View[_Arguments]) -> _View[_Arguments]:
    """Decorate a view for GET and HEAD, for people who may read and export events."""
    return _guarded(require_safe(view), (VIEW, EXPORT))


def for_programs(*more: str) -> Callable[[_View[_Arguments]], _View[_Arguments]]:
    """Decorate a view of the API for GET and HEAD, for people who may read events and have `more` permissions. Refusals
    are JSON."""

    def decorate(view: _View[_Arguments]) -> _View[_Arguments]:
        @functools.wraps(view)
        def guarded(request: HttpRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HttpResponseBase:
            if not request.user.is_authenticated:
                return problem(401, "Sign in first.")
            for permission in (VIEW, *more):
                if not request.user.has_perm(permission):
                    access.refused(request.user, permission)
                    return problem(403, f"You lack the permission {permission}. Ask an administrator for it.")
            try:
                return view(request, *args, **kwargs)
            except ScopeUnknown:
                return problem(500, "Your limits could not be determined: see explorer_scope_failed in the log.")

        return transaction.non_atomic_requests(strict(require_safe(guarded)))

    return decorate


def _guarded(view: _View[_Arguments], permissions: tuple[str, ...]) -> _View[_Arguments]:
    @functools.wraps(view)
    def guarded(request: HttpRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return _sign_in(request)
        for permission in permissions:
            if not request.user.has_perm(permission):
                return refuse(request, permission)
        try:
            return view(request, *args, **kwargs)
        except ScopeUnknown:
            return render(request, "towpath/explorer/no_scope.html", frame(request, here="Events"), status=500)

    # Records are committed before the answer is sent, even if the project has ATOMIC_REQUESTS.
    return transaction.non_atomic_requests(strict(guarded))


def refuse(request: HttpRequest, permission: str) -> HttpResponse:
    """Record that a person lacks the permission, and return a page that says which one, and whom to ask."""
    access.refused(request.user, permission)
    name, action = _IN_WORDS[permission]
    context = frame(request, here="Events") | {"permission": permission, "name": name, "action": action}
    return render(request, "towpath/explorer/refused.html", context, status=403)


def _sign_in(request: HttpRequest) -> HttpResponseBase:
    """Redirect to the sign-in page. For a part of a page, answer 401: the page redirects when it is loaded again."""
    if "HX-Request" in request.headers or request.headers.get("Accept", "").startswith("application/json"):
        return HttpResponse("Sign in first.", status=401, content_type="text/plain")
    return redirect_to_login(request.get_full_path())
