"""What a browser may do on a page that shows events: load this site's own files, and nothing else.

An event's context is data from strangers. If a template ever forgets to escape it, the browser still runs none of it,
and sends nothing anywhere.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Concatenate, ParamSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponseBase

_Arguments = ParamSpec("_Arguments")

#: Nothing inline, neither script nor style; no evaluated text; no frame around the page.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def strict(
    view: Callable[Concatenate[HttpRequest, _Arguments], HttpResponseBase],
) -> Callable[Concatenate[HttpRequest, _Arguments], HttpResponseBase]:
    """A view whose answers have this policy, and are kept by no cache and no history of the browser's."""

    @functools.wraps(view)
    def with_policy(request: HttpRequest, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> HttpResponseBase:
        response = view(request, *args, **kwargs)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["Cache-Control"] = "private, no-store"
        return response

    return with_policy
