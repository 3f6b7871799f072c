"""The HTTP API in the hands of whoever can reach it: every request gets a clear answer, in JSON."""

from __future__ import annotations

import contextlib
import http.client
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from django.conf import settings
from django.test import Client

from backend.users.models import OutboxUser, User

if TYPE_CHECKING:
    from tests.integration.workers import Workers
    from tests.services import Services

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


def post(body: object) -> Any:  # noqa: ANN401 - the test client's own response class
    return Client().post("/api/users", json.dumps(body), content_type="application/json")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"email=a@b.c", b"[" * 100_000, b"1" * 5000])
def test_a_body_that_is_not_json_is_told_so(body: bytes) -> None:
    response = Client().post("/api/users", body, content_type="application/x-www-form-urlencoded")

    assert response.status_code == 400
    assert "not JSON" in response.json()["detail"]


@pytest.mark.parametrize("body", ["", "[]", "null", "7", '"text"'])
def test_a_body_that_is_no_object_is_the_client_s_fault(body: str) -> None:
    response = Client().post("/api/users", body, content_type="application/json")

    assert response.status_code == 422
    assert response.json()["detail"]


def test_a_body_that_is_too_large_is_told_how_large_it_may_be() -> None:
    response = post({**ADA, "first_name": "x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE})

    assert response.status_code == 413
    assert "1,048,576 bytes" in response.json()["detail"]
    assert (User.objects.count(), OutboxUser.objects.count()) == (0, 0)


def test_a_body_in_chunks_is_told_to_have_a_length() -> None:
    # As gunicorn hands it on: with its header, and without a length.
    response = Client().post(
        "/api/users", "", content_type="application/json", headers={"Transfer-Encoding": "chunked"}
    )

    assert response.status_code == 411
    assert "Content-Length" in response.json()["detail"]


@pytest.mark.parametrize("method", ["get", "put", "patch", "delete"])
def test_another_method_is_told_which_there_is(method: str) -> None:
    response = getattr(Client(), method)("/api/users")

    assert response.status_code == 405
    assert response["Allow"] == "POST"


@pytest.mark.parametrize("path", ["/api/users/", "/api/nothing", "/api/", "/api/nothing%00here"])
def test_an_address_the_api_does_not_have_is_told_so(path: str) -> None:
    client = Client(enforce_csrf_checks=True)

    response = client.post(path, json.dumps(ADA), content_type="application/json")

    assert response.status_code == 404
    assert "/api/docs" in response.json()["detail"]
    assert User.objects.count() == 0


def test_a_database_that_is_down_is_no_fault_of_the_request(services: Services, workers: Workers) -> None:
    workers.web(DATABASE_URL="postgresql://towpath@127.0.0.1:1/towpath")
    workers.wait_until_ready()

    with urllib3.PoolManager() as http:
        answer = http.request("POST", f"http://127.0.0.1:{services.web_port}/api/users", json=ADA, retries=False)

    assert answer.status == 503
    assert answer.headers["Retry-After"] == "5"
    assert "try again" in answer.json()["detail"]


def test_a_visitor_behind_a_proxy_cannot_choose_their_address_by_headers_of_their_own(
    services: Services, workers: Workers
) -> None:
    """Through the real server, which is what puts several headers of a name together."""
    workers.web(TRUSTED_PROXIES="1")
    workers.wait_until_ready()

    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", services.web_port, timeout=30)) as connection:
        body = json.dumps(ADA).encode()
        connection.putrequest("POST", "/api/users")
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            ("X-Forwarded-For", "10.0.0.1"),
            ("X-Forwarded-For", "10.0.0.2, 192.0.2.7"),  # the proxy's own
            ("X_Forwarded_For", "10.0.0.3"),
        ):
            connection.putheader(name, value)
        connection.endheaders(body)
        assert connection.getresponse().status == 201

    assert [values and values["ip"] for values in OutboxUser.objects.values_list("bound", flat=True)] == ["192.0.2.7"]


def test_a_visitor_cannot_choose_what_events_say_of_them() -> None:
    for number, request_id in enumerate(("x" * 101, "two words", "line\nbreak", "7; DROP TABLE")):
        response = Client(REMOTE_ADDR="192.0.2.7").post(
            "/api/users",
            json.dumps({**ADA, "email": f"{number}@example.com"}),
            content_type="application/json",
            headers={"X-Request-ID": request_id, "X-Forwarded-For": "10.0.0.1", "Actor": "user:1"},
        )
        assert response.status_code == 201
        assert response["X-Request-ID"] != request_id

    bound = OutboxUser.objects.values_list("bound", flat=True)
    assert len(bound) == 4
    for values in bound:
        assert values is not None
        assert values.keys() == {"ip", "request_id"}
        assert values["ip"] == "192.0.2.7"
        uuid.UUID(values["request_id"])
