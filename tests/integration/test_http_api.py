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
from django.test import Client, override_settings

from backend.users.models import OutboxUser, User

if TYPE_CHECKING:
    from tests.integration.workers import Workers
    from tests.services import Services

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


def post(body: object) -> Any:
    return Client().post("/api/users", json.dumps(body), content_type="application/json")


@pytest.mark.parametrize("body", [b"{", b"\xff", b"email=a@b.c", b"[" * 100_000, b"1" * 5000])
def test_a_body_that_is_not_json_is_told_so(body: bytes) -> None:
    response = Client().post("/api/users", body, content_type="application/json")

    assert response.status_code == 400
    assert "not JSON" in response.json()["detail"]


@pytest.mark.parametrize(
    "content_type",
    [
        *("", "text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded"),
        *("multipart/form-data; boundary=x", "text/json", "application/octet-stream", "application/json-patch+json"),
        *(
            "application/jsonp",
            "text/plain, application/json",
            "application/json, text/plain",
            "text/plain; application/json",
        ),
        *("text/plain; x=application/json", "application/json; charset=latin-1", "json", "*/*", "application/*"),
    ],
)
@pytest.mark.parametrize("method", ["post", "patch"])
def test_a_body_that_does_not_say_that_it_is_json_is_not_read(content_type: str, method: str) -> None:
    """Which is what a page of another site can send: a form, a beacon, a request without a question before it."""
    client, path = Client(), "/api/users"
    if method == "patch":
        root = User.objects.create_superuser("root@example.com", first_name="R", last_name="R")
        client.force_login(root)
        path += f"/{root.pk}"

    response = getattr(client, method)(path, json.dumps(ADA).encode(), content_type=content_type)

    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["detail"]
    assert not User.objects.filter(email=ADA["email"]).exists()
    assert OutboxUser.objects.count() == 0


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON", "application/json; charset=UTF-8"])
def test_a_body_that_says_that_it_is_json_is_read(content_type: str) -> None:
    assert Client().post("/api/users", json.dumps(ADA).encode(), content_type=content_type).status_code == 201


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://testserver.evil.example"}, 403),
        ({"Origin": "http://testserver:81"}, 403),
        ({"Origin": "https://evil-partner.example"}, 403),
        ({"Origin": "http://app.partner.example"}, 403),  # the scheme of the trusted one is https
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://testserver", "Sec-Fetch-Site": "same-origin"}, 201),
        ({"Origin": "https://testserver"}, 201),  # behind a proxy that speaks TLS
        ({"Origin": "https://app.partner.example", "Sec-Fetch-Site": "cross-site"}, 201),
        ({}, 201),
    ],
)
@override_settings(CSRF_TRUSTED_ORIGINS=["https://*.partner.example"])
def test_a_page_of_another_site_signs_nobody_up(headers: dict[str, str], status: int) -> None:
    response = Client().post("/api/users", json.dumps(ADA), content_type="application/json", headers=headers)

    assert response.status_code == status
    assert User.objects.count() == (status == 201)


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
