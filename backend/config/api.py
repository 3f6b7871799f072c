"""The HTTP API: every answer is JSON, and every refusal says what is wrong with the request."""

from __future__ import annotations

import structlog
from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from backend.users.api import router as users_router

log = structlog.get_logger()

api = NinjaAPI(title="Towpath", version="1", description="A sample application that publishes its events.")
api.add_router("/users", users_router)

#: A client that got 503 should not come back sooner.
_RETRY_SECONDS = 5


@api.exception_handler(RequestDataTooBig)
def _too_large(_request: HttpRequest, _error: RequestDataTooBig) -> HttpResponse:
    return _answer(413, f"The body is larger than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes")


@api.exception_handler(HttpError)
def _not_json(_request: HttpRequest, error: HttpError) -> HttpResponse:
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
    return _answer(404, "Nothing is at this address. The API's addresses: /api/docs")


def _answer(status: int, detail: str) -> HttpResponse:
    return JsonResponse({"detail": detail}, status=status)
