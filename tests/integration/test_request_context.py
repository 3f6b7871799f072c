"""The context of a request: found out when something is published, and at no cost when nothing is."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import structlog
from asgiref.sync import sync_to_async
from django.contrib.auth import login
from django.contrib.auth.models import AnonymousUser
from django.db import connection, connections, transaction
from django.http import FileResponse, HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.test import AsyncClient, Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.urls import path
from ninja import NinjaAPI
from ninja.security import HttpBearer
from pytest_django import Settings

from backend.users.models import User
from tests.integration.superusers import superuser
from towpath import Event, publish
from towpath.conf.logs import configure_logging
from towpath.outbox.context import bind, bound
from towpath.outbox.middleware import EventContextMiddleware
from towpath.outbox.models import OutboxEvent


class Noted(Event):
    step: str


@transaction.atomic
def note(step: str) -> None:
    publish(Noted(step=step))


# --- Views -------------------------------------------------------------------------------------------------------


class OwnerOfToken(HttpBearer):
    def authenticate(self, request: HttpRequest, token: str) -> Any:
        user = User.objects.filter(first_name=token).first()
        if user is not None and request.path.endswith("as-user"):
            request.user = user
            return token
        return user


api = NinjaAPI(urls_namespace="tokens", auth=OwnerOfToken())


@api.get("as-auth")
@api.get("as-user")
def with_token(request: HttpRequest) -> str:
    assert request.method == "GET"
    note("token")
    return "done"


def constant(_request: HttpRequest) -> HttpResponse:
    structlog.get_logger("test").info("constant")
    return HttpResponse("the same for all")


def publishes(_request: HttpRequest) -> HttpResponse:
    note("published")
    return HttpResponse()


def logs_in(request: HttpRequest) -> HttpResponse:
    note("before")
    login(request, User.objects.get(first_name="ada"), backend="django.contrib.auth.backends.ModelBackend")
    OutboxEvent._base_manager.filter(event_type="user_logged_in").delete()
    note("after")
    return HttpResponse()


def as_drf(request: HttpRequest) -> HttpResponse:
    """What rest_framework.request.Request does with the user of a token."""
    request.user = User.objects.get(first_name="ada")
    note("token")
    return HttpResponse()


def as_nobody(request: HttpRequest) -> HttpResponse:
    request.user = AnonymousUser()
    note("nobody")
    return HttpResponse()


def cannot_read_users(_request: HttpRequest) -> HttpResponse:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("ALTER TABLE users RENAME TO hidden")
        publish(Noted(step="without an actor"))
        cursor.execute("ALTER TABLE hidden RENAME TO users")
    return HttpResponse()


def logs_user(request: HttpRequest) -> HttpResponse:
    structlog.get_logger("test").info("before")
    assert request.user.is_authenticated
    structlog.get_logger("test").info("after")
    return HttpResponse()


def streams(_request: HttpRequest) -> StreamingHttpResponse:
    def pieces() -> Iterator[str]:
        try:
            for step in ("first", "second"):
                with bind(step=step):
                    note(step)
                    yield step
        finally:
            note("closed")

    return StreamingHttpResponse(pieces())


async def streams_async(_request: HttpRequest) -> StreamingHttpResponse:
    async def pieces() -> AsyncIterator[str]:
        for step in ("first", "second"):
            with bind(step=step):
                await sync_to_async(note)(step)
                yield step

    return StreamingHttpResponse(pieces())


def sends_file(_request: HttpRequest) -> FileResponse:
    return FileResponse(open(__file__, "rb"))  # noqa: PTH123 - the response closes it


async def publishes_async(_request: HttpRequest) -> HttpResponse:
    await sync_to_async(note)("published")
    return HttpResponse()


async def asks_async(request: HttpRequest) -> HttpResponse:
    await request.auser()
    # In the event loop itself, where no query is possible.
    return HttpResponse(json.dumps((bound() or {}).get("actor")))


async def asks_nothing_async(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps((bound() or {}).get("actor")))


VIEWS: list[Callable[..., Any]] = [
    constant,
    publishes,
    logs_in,
    as_drf,
    as_nobody,
    cannot_read_users,
    logs_user,
    streams,
    streams_async,
    publishes_async,
    asks_async,
    asks_nothing_async,
]
urlpatterns = [path("api/", api.urls), *(path(view.__name__, view) for view in VIEWS)]


# --- Tests -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def only_these_views(settings: Settings) -> None:
    settings.ROOT_URLCONF = __name__


@pytest.fixture
def ada() -> User:
    return User.objects.create(email="ada@example.com", first_name="ada", last_name="L")


@pytest.fixture
def root() -> User:
    return superuser()


@pytest.fixture
def client(root: User) -> Client:
    """Signed in, by a cookie, as root."""
    client = Client(REMOTE_ADDR="192.0.2.1", headers={"X-Request-ID": "r1"})
    client.force_login(root)
    OutboxEvent._base_manager.all().delete()  # the sign-in
    return client


def actors() -> dict[str, str | None]:
    rows = OutboxEvent.objects.all()
    return {json.loads(row.event_context)["step"]: (row.bound or {}).get("actor") for row in rows}


def test_a_request_that_publishes_nothing_asks_for_nothing(client: Client) -> None:
    with CaptureQueriesContext(connection) as queries:
        response = client.get("/constant")

    assert queries.captured_queries == []
    assert "Cookie" not in response.get("Vary", "")
    assert response["X-Request-ID"] == "r1"


def test_a_request_that_publishes_nothing_is_answered_without_postgresql(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "PORT", "9")

    assert client.get("/constant").status_code == 200


def test_the_actor_of_a_session_is_found_out_when_something_is_published(client: Client, root: User) -> None:
    response = client.get("/publishes")

    assert actors() == {"published": f"user:{root.pk}"}
    assert "Cookie" in response["Vary"]


def test_nobody_is_no_actor() -> None:
    Client().get("/publishes")

    assert actors() == {"published": None}


def test_somebody_who_signs_in_is_the_actor_from_then_on(ada: User) -> None:
    Client().get("/logs_in")

    assert actors() == {"before": None, "after": f"user:{ada.pk}"}


@pytest.mark.parametrize("url", ["/api/as-auth", "/api/as-user", "/as_drf"])
@pytest.mark.parametrize("has_cookie", [True, False])
def test_whose_token_it_is_is_the_actor_whatever_the_cookie_says(
    client: Client, ada: User, url: str, *, has_cookie: bool
) -> None:
    asker = client if has_cookie else Client()

    assert asker.get(url, headers={"Authorization": "Bearer ada"}).status_code == 200

    assert actors() == {"token": f"user:{ada.pk}"}


def test_a_view_that_knows_nobody_has_no_actor_whatever_the_cookie_says(client: Client) -> None:
    client.get("/as_nobody")

    assert actors() == {"nobody": None}


def test_a_user_that_cannot_be_read_costs_the_actor_and_not_the_transaction(client: Client) -> None:
    assert client.get("/cannot_read_users").status_code == 200

    assert actors() == {"without an actor": None}


@pytest.fixture
def json_logs() -> Iterator[None]:
    """Logs as a worker has them. Afterwards those of the test run again: a logger keeps the ones it was used with."""
    before, handlers = structlog.get_config(), logging.getLogger().handlers[:]
    configure_logging(json=True, level="INFO")
    yield
    structlog.configure(**before)
    logging.getLogger().handlers[:] = handlers


@pytest.mark.usefixtures("json_logs")
def test_a_log_line_shows_who_is_known_and_asks_for_nobody(
    client: Client, root: User, capfd: pytest.CaptureFixture[str]
) -> None:
    with CaptureQueriesContext(connection) as queries:
        client.get("/constant")
    assert queries.captured_queries == []
    client.get("/logs_user")

    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    shown = {line["event"]: (line.get("request_id"), line.get("actor")) for line in lines}
    assert shown["constant"] == shown["before"] == ("r1", None)
    assert shown["after"] == ("r1", f"user:{root.pk}")
    assert all("actor" not in line for line in lines if line["event"] in {"constant", "before"})


@pytest.mark.parametrize("view", ["streams", "streams_async"])
@pytest.mark.parametrize("is_async", [True, False])
@pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")
def test_a_stream_keeps_the_context_of_its_request(client: Client, root: User, view: str, *, is_async: bool) -> None:
    if is_async:
        content = get_async(f"/{view}", client)[1]
    else:
        response: Any = client.get(f"/{view}")
        content = b"".join(response)
        response.close()
    assert content == b"firstsecond"

    rows = {json.loads(row.event_context)["step"]: row.bound for row in OutboxEvent.objects.all()}
    who = {"actor": f"user:{root.pk}", "request_id": "r1", "ip": "127.0.0.1" if is_async else "192.0.2.1"}
    assert rows.pop("closed", who) == who
    assert rows == {step: {**who, "step": step} for step in ("first", "second")}
    assert bound() is None


def test_a_stream_that_is_given_up_is_closed_in_the_context_of_its_request(client: Client, root: User) -> None:
    response: Any = client.get("/streams")
    assert next(response.streaming_content) == b"first"
    response.close()

    assert actors() == {"first": f"user:{root.pk}", "closed": f"user:{root.pk}"}


def test_a_file_is_left_to_the_server() -> None:
    """Past the test client, which replaces the content of every stream."""
    response = EventContextMiddleware(sends_file)(RequestFactory().get("/"))

    assert response.file_to_stream is not None
    response.close()


def get_async(url: str, client: Client) -> tuple[HttpResponseBase, bytes]:
    """The same request to the application as an ASGI server runs it, in an event loop."""

    async def get() -> tuple[HttpResponseBase, bytes]:
        asynchronous = AsyncClient()
        asynchronous.cookies = client.cookies
        response: Any = await asynchronous.get(url, headers={"X-Request-ID": "r1"})
        content = b"".join([piece async for piece in response]) if response.streaming else response.content
        await sync_to_async(response.close)()
        await sync_to_async(connections.close_all)()
        return response, content

    return asyncio.run(get())


def test_an_asynchronous_view_has_the_context_in_its_threads(client: Client, root: User) -> None:
    response, _ = get_async("/publishes_async", client)

    assert response.status_code == 200
    assert actors() == {"published": f"user:{root.pk}"}


def test_in_the_event_loop_the_actor_is_who_was_asked_for_already(client: Client, root: User) -> None:
    assert json.loads(get_async("/asks_async", client)[1]) == f"user:{root.pk}"
    assert json.loads(get_async("/asks_nothing_async", client)[1]) is None
