"""The HTTP API: every answer is JSON, and every refusal says what is wrong with the request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.http import is_same_domain
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError
from ninja.parser import Parser
from ninja.security import django_auth

from backend.users.api import router as users_router
from towpath.explorer import openapi

log = structlog.get_logger()


class _JsonParser(Parser):
    """Reads a body that a page of another site cannot have sent: one that says that it is JSON.

    A form, a beacon or a script elsewhere may send text, forms and nothing said; for JSON a browser asks this server
    first, which allows it to nobody.
    """

    def parse_body(self, request: HttpRequest) -> dict[str, Any]:
        charset = request.content_params.get("charset", "utf-8") if request.content_params else "utf-8"
        if request.content_type != "application/json" or charset.lower() not in {"utf-8", "utf8"}:
            raise HttpError(415, "Send the body as JSON in UTF-8, and say so: Content-Type: application/json")
        if _is_from_another_site(request):
            raise HttpError(403, "This request was made by a page of another site: make it from your own program")
        return super().parse_body(request)


def _is_from_another_site(request: HttpRequest) -> bool:
    """True if a browser says so. Programs say nothing, and need not."""
    if "Origin" not in request.headers:
        return request.headers.get("Sec-Fetch-Site") == "cross-site"
    origin = urlsplit(request.headers["Origin"])
    if origin.netloc == request.get_host():
        return False
    trusted = map(urlsplit, settings.CSRF_TRUSTED_ORIGINS)
    return not any(
        origin.scheme == one.scheme and is_same_domain(origin.netloc, one.netloc.lstrip("*")) for one in trusted
    )


class _Api(NinjaAPI):
    """The application's API. Its document has the explorer's as well, which needs no ninja."""

    def get_openapi_schema(self, **options: Any) -> Any:
        schema = super().get_openapi_schema(**options)
        schema["paths"].update(openapi.paths())
        return schema


api = _Api(
    title="Towpath",
    version="1",
    description="A sample application that publishes its events.",
    parser=_JsonParser(),
    # Whatever does not say `auth=None` takes a session. The page of the documentation sends its CSRF token then.
    auth=django_auth,
)
api.add_router("/users", users_router)

_LOWEST_ERROR = 400
#: A client that got 503 should not come back sooner.
_RETRY_SECONDS = 5


@api.exception_handler(RequestDataTooBig)
def _too_large(_request: HttpRequest, _error: RequestDataTooBig) -> HttpResponse:
    return _answer(413, f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes")


@api.exception_handler(HttpError)
def _refused(_request: HttpRequest, error: HttpError) -> HttpResponse:
    if isinstance(error.__cause__, HttpError):  # the parser's own, which ninja has taken for a failure of it
        error = error.__cause__
    is_unreadable = isinstance(error.__cause__, (ValueError, RecursionError))
    return _answer(
        error.status_code,
        "The body is not JSON: send an object, as Content-Type: application/json" if is_unreadable else str(error),
    )


@api.exception_handler(ValidationError)
def _not_valid(request: HttpRequest, error: ValidationError) -> HttpResponse:
    # WSGI has no word for a body whose length is not known, and Django reads none: "missing" would be a riddle.
    if "Transfer-Encoding" in request.headers:
        return _answer(411, "Send the body with its Content-Length, not in chunks")
    return JsonResponse({"detail": error.errors}, status=422)


@api.exception_handler(OperationalError)
@api.exception_handler(InterfaceError)
def _database_away(_request: HttpRequest, error: Exception) -> HttpResponse:
    # Not "nothing was done": the answer to a COMMIT can be what got lost.
    log.error("database_unavailable", error=str(error).strip().split("\n", 1)[0])
    response = _answer(503, "The database does not answer: try again")
    response["Retry-After"] = str(_RETRY_SECONDS)
    return response


@csrf_exempt  # it does nothing, and a form's token is not what the client has forgotten
def not_found(_request: HttpRequest, _rest: str = "") -> HttpResponse:
    """What every address under /api/ answers that the API does not have."""
    return _answer(404, "There is nothing at this address. For the API's addresses, see /api/docs")


def _answer(status: int, detail: str) -> HttpResponse:
    return JsonResponse({"detail": detail}, status=status)


class JsonErrorsMiddleware:
    """Django middleware, before all that may refuse: every error under /api/ is JSON, also what never reached the API.

    Django's own refusals and ninja's 405 are HTML or text. Their status and headers stay.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self._get_response(request)
        is_of_the_api = request.path_info == "/api" or request.path_info.startswith("/api/")
        if (
            is_of_the_api
            and response.status_code >= _LOWEST_ERROR
            and not response.headers.get("Content-Type", "").startswith("application/json")
        ):
            response.content = json.dumps({"detail": response.reason_phrase}).encode()
            response.headers["Content-Type"] = "application/json"
            response.headers["Content-Length"] = str(len(response.content))
        return response
