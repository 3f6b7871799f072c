"""Binds the context of a request, and carries the context of whoever sent a message to the actor that works on it.

Both for the events that are published there, and for every line that is logged there: request id and actor.
"""

from __future__ import annotations

import contextlib
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import dramatiq
import structlog
from django.http import HttpRequest, HttpResponse

from backend.outbox.context import bind, bound

#: A request id from outside is taken only if it can do no harm in a log line.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


#: What of the context is logged: an application may bind what belongs into the event log, but not into logs.
_LOGGED = ("request_id", "actor")


def _logged(**values: str | None) -> dict[str, str]:
    return {name: value for name in _LOGGED if (value := values.get(name)) is not None}


class EventContextMiddleware:
    """Django middleware: `actor` (of the signed-in user), `request_id` and `ip` for every event of the request.

    After AuthenticationMiddleware. The request id is the proxy's X-Request-ID or a new one, and is answered; `ip`
    is REMOTE_ADDR, which behind proxies must be made the client's before (the setting TRUSTED_PROXIES).
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        given = request.headers.get("X-Request-ID", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        user = getattr(request, "user", None)
        actor = f"user:{user.pk}" if user is not None and user.is_authenticated else None
        logged = structlog.contextvars.bound_contextvars(**_logged(request_id=request_id, actor=actor))
        with bind(request_id=request_id, ip=request.META.get("REMOTE_ADDR"), actor=actor), logged:
            response = self._get_response(request)
        response["X-Request-ID"] = request_id
        return response


class ActorContext(dramatiq.Middleware):
    """dramatiq middleware: enters a context before an actor works on a message, and leaves it however that ends.

    In the actor's own thread. A subclass says which context.
    """

    def __init__(self) -> None:
        self._entered = threading.local()

    def context_of(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> AbstractContextManager[object]:
        """The context in which the message is processed."""
        raise NotImplementedError

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        self._entered.stack = contextlib.ExitStack()
        self._entered.stack.enter_context(self.context_of(broker, message))

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any | None = None,  # noqa: ANN401, ARG002 - dramatiq's signature
        exception: BaseException | None = None,  # noqa: ARG002
    ) -> None:
        self.after_skip_message(broker, message)

    def after_skip_message(self, _broker: dramatiq.Broker, _message: dramatiq.MessageProxy) -> None:
        stack = getattr(self._entered, "stack", None)
        if stack is not None:
            self._entered.stack = None
            stack.close()


class EventContextCarrier(ActorContext):
    """dramatiq middleware: an actor's events carry the context that was bound where its message was sent."""

    def before_enqueue(self, _broker: dramatiq.Broker, message: dramatiq.Message[Any], _delay: int | None) -> None:
        if (values := bound()) is not None:
            message.options.setdefault("event_context", values)

    @contextlib.contextmanager
    def context_of(self, _broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> Iterator[None]:
        values = message.options.get("event_context", {})
        with bind(**values), structlog.contextvars.bound_contextvars(**_logged(**values)):
            yield
