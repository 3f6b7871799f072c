"""Binds the context of a request, and carries the context of a message's sender to the actor that processes it.

Request id and actor are bound for the events that are published there, and for every line that is logged there.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import re
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import dramatiq
import structlog
from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.db import connections, transaction
from django.http import HttpRequest, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.functional import LazyObject, empty

from towpath.conf.production import require_services
from towpath.outbox.context import bind, bind_for_good, bound

log = structlog.get_logger()

#: A request id from outside is accepted only if it can do no harm in a log line.
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


#: The part of the context that is logged: an application may bind values that belong into the event log, but not into
#: logs.
_LOGGED = ("request_id", "actor")


def _logged(**values: str | None) -> dict[str, str]:
    return {name: value for name in _LOGGED if (value := values.get(name)) is not None}


class EventContextMiddleware:
    """Django middleware: `actor`, `request_id` and `ip` for every event of the request, sync or async, streamed or not.

    Put it after AuthenticationMiddleware. The actor is the request's user at the moment of publishing, whether a view,
    a token or the session's cookie set it. A request that publishes nothing does not look up its user. The request id
    is the proxy's X-Request-ID or a new one, and is sent with the answer. `ip` is REMOTE_ADDR. Behind proxies, that
    must be set to the client's address first (the setting TRUSTED_PROXIES).
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        """Raises ImproperlyConfigured in production without the services' addresses: the web process does not start."""
        require_services()
        self._get_response = get_response
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        if iscoroutinefunction(self):
            return self._answer(request)
        context = _RequestContext(request)
        with context.entered():
            response = self._get_response(request)
        return context.finish(response)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        context = _RequestContext(request)
        with context.entered():
            response = await self._get_response(request)
        return context.finish(response)


class _RequestContext:
    """What is bound and logged while a request is processed, and while its answer is streamed."""

    def __init__(self, request: HttpRequest) -> None:
        given = request.headers.get("X-Request-ID", "")
        self._request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid.uuid4())
        self._logged: dict[str, Any] = {"request_id": self._request_id, "actor": RequestActor(request)}
        self._bound = {**self._logged, "ip": request.META.get("REMOTE_ADDR")}

    def entered(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        stack.enter_context(bind(**self._bound))
        stack.enter_context(structlog.contextvars.bound_contextvars(**self._logged))
        return stack

    def finish(self, response: HttpResponseBase) -> HttpResponseBase:
        response["X-Request-ID"] = self._request_id
        # The content of a file publishes nothing, and the server may want to send it on its own.
        if isinstance(response, StreamingHttpResponse) and getattr(response, "file_to_stream", None) is None:
            content: Any = response.streaming_content
            response.streaming_content = self._pieces_async(content) if response.is_async else self._pieces(content)
            close = response.close
            response.close = lambda: self._of_stream.run(close)  # type: ignore[method-assign]
        return response

    @functools.cached_property
    def _of_stream(self) -> contextvars.Context:
        """One context for all pieces, so that what is bound between two of them stays bound. It is a copy of the
        consumer's, which may run in another thread or event loop than the view did."""
        context = contextvars.copy_context()
        context.run(bind_for_good, **self._bound)
        context.run(structlog.contextvars.bind_contextvars, **self._logged)
        return context

    def _pieces(self, content: Iterator[bytes]) -> Iterator[bytes]:
        end = object()
        while (piece := self._of_stream.run(next, content, end)) is not end:
            yield cast("bytes", piece)

    async def _pieces_async(self, content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        end = object()

        async def step() -> object:
            return await anext(content, end)

        while (piece := await asyncio.create_task(step(), context=self._of_stream)) is not end:
            yield cast("bytes", piece)


class RequestActor:
    """The user of a request. A call looks it up, which may take two queries. A log shows it only if already known."""

    def __init__(self, request: HttpRequest) -> None:
        self._request = request

    def __call__(self) -> str | None:
        user = self._user()
        try:
            with _savepoints() if _is_unknown(user) else contextlib.nullcontext():
                return _name_of(user)
        except Exception as error:  # noqa: BLE001 - whatever a session, a cache or a backend raises
            # The event matters more than its actor, and the caller's transaction matters most.
            log.warning("actor_unknown", error=type(error).__name__)
            return None

    def __structlog__(self) -> str | None:
        user = self._user()
        return None if _is_unknown(user) else _name_of(user)

    def __repr__(self) -> str:
        return self.__structlog__() or ""

    def _user(self) -> Any:
        # django-ninja puts a token's owner there, and leaves `user` to the cookie.
        authenticated = getattr(self._request, "auth", None)
        if getattr(authenticated, "is_authenticated", False) is True and hasattr(authenticated, "pk"):
            return authenticated
        user = getattr(self._request, "user", None)
        if _is_unknown(user):
            # `auser` has put it there if an asynchronous view has already asked.
            return getattr(self._request, "_acached_user", user)
        return user


def _is_unknown(user: object) -> bool:
    return isinstance(user, LazyObject) and user._wrapped is empty


def _name_of(user: Any) -> str | None:
    return f"user:{user.pk}" if user is not None and user.is_authenticated else None


@contextlib.contextmanager
def _savepoints() -> Iterator[None]:
    """A query that fails inside does not break a transaction of any database."""
    with contextlib.ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            if connection.in_atomic_block:
                stack.enter_context(transaction.atomic(using=connection.alias))
        yield


class ActorContext(dramatiq.Middleware):
    """dramatiq middleware: enters a context before an actor processes a message, and leaves it however that ends.

    It does so in the actor's own thread. A subclass says which context.
    """

    def __init__(self) -> None:
        self._entered = threading.local()

    def context_of(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> AbstractContextManager[object]:
        """Return the context in which the message is processed."""
        raise NotImplementedError

    def before_process_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        self._entered.stack = contextlib.ExitStack()
        self._entered.stack.enter_context(self.context_of(broker, message))

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any | None = None,  # noqa: ARG002 - dramatiq's signature
        exception: BaseException | None = None,  # noqa: ARG002 - the same
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
