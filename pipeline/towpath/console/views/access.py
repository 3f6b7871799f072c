"""Who may see the console, and who may act in it. Others learn why not, and a refused action is recorded.

A view is in no transaction of the project's (ATOMIC_REQUESTS): what an action does is committed before it is said.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.db import DatabaseError, InterfaceError, transaction
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_http_methods, require_safe

from towpath.conf.current import config
from towpath.console.actions import record_refusal
from towpath.console.models import OPERATE, VIEW
from towpath.ledger.database_errors import is_outage
from towpath.pages.frame import frame
from towpath.pages.policy import strict

if TYPE_CHECKING:
    from django.http import HttpRequest, HttpResponseBase

_Arguments = ParamSpec("_Arguments")


_View = Callable[Concatenate["HttpRequest", _Arguments], "HttpResponseBase"]


def for_viewers(view: _View[_Arguments]) -> _View[_Arguments]:
    """Decorate a view for GET and HEAD, for people with the permission to see the pipeline."""
    return transaction.non_atomic_requests(strict(require_safe(_guarded(view, (VIEW,)))))


def for_operators(view: _View[_Arguments]) -> _View[_Arguments]:
    """Decorate a view that asks by GET and acts by POST, for people with the permission to act. It is named after its
    action."""
    methods = require_http_methods(["GET", "HEAD", "POST"])
    return transaction.non_atomic_requests(strict(methods(_guarded(view, (VIEW, OPERATE)))))


def _guarded(view: _View[_Arguments], permissions: tuple[str, ...]) -> _View[_Arguments]:
    @functools.wraps(view)
    def guarded(request: HttpRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return _sign_in(request)
        if missing := next((permission for permission in permissions if not request.user.has_perm(permission)), ""):
            if request.method == "POST":
                record_refusal(request, action=view.__name__)
            return _refused(request, missing)
        return view(request, *args, **kwargs)

    return _told_of_outages(guarded)


def _told_of_outages(view: _View[_Arguments]) -> _View[_Arguments]:
    """A view that says so if PostgreSQL, which knows who asks, does not answer. Anyone may see this answer."""

    @functools.wraps(view)
    def told(request: HttpRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HttpResponseBase:
        try:
            return view(request, *args, **kwargs)
        except (DatabaseError, InterfaceError) as error:
            if not is_outage(error):
                raise
            context = {"places": [], "environment": config().environment, "person": ""}
            return render(request, "towpath/console/away.html", context, status=503)

    return told


def _refused(request: HttpRequest, permission: str) -> HttpResponse:
    context = {"permission": permission, "is_to_act": permission == OPERATE}
    return render(request, "towpath/console/refused.html", frame(request, here="Pipeline") | context, status=403)


def _sign_in(request: HttpRequest) -> HttpResponseBase:
    """Redirect to the sign-in page. A part of a page cannot do that: the page does, when it is loaded again."""
    if "X-Part" in request.headers:
        return HttpResponse("Sign in first.", status=401, content_type="text/plain")
    return redirect_to_login(request.get_full_path())
