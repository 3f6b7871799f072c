"""The HTTP API in the hands of anyone who can reach it: every request gets a clear answer, in JSON."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import uuid
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from django.conf import settings
from django.test import Client, override_settings

from backend.users.models import OutboxUser, User
from tests.integration.superusers import superuser

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
        "",
        "text/plain",
        "text/plain; charset=utf-8",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "text/json",
        "application/octet-stream",
        "application/json-patch+json",
        "application/jsonp",
        "text/plain, application/json",
        "application/json, text/plain",
        "text/plain; application/json",
        "text/plain; x=application/json",
        "application/json; charset=latin-1",
        "json",
        "*/*",
        "application/*",
    ],
)
@pytest.mark.parametrize("method", ["post", "patch"])
def test_a_body_that_does_not_say_that_it_is_json_is_not_read(content_type: str, method: str) -> None:
    """Which is what a page of another site can send: a form, a beacon, a request without a question before it."""
    client, path = Client(), "/api/users"
    if method == "patch":
        root = superuser()
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


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("get", "/api/users", 405),
        ("get", "/api", 404),
        ("post", "/api", 404),
        ("get", "/api/nothing", 404),
        ("get", "/api/users/0", 401),
        ("patch", "/api/users/1", 401),
        ("get", "/api/users/99999999999999999999", 401),
        ("get", "/api/users/-1", 404),
    ],
)
def test_every_refusal_is_json(method: str, path: str, status: int) -> None:
    response = getattr(Client(), method)(path)

    assert response.status_code == status
    assert response["Content-Type"].startswith("application/json")
    assert response.json()["detail"]


def test_what_django_refuses_before_the_api_sees_it_is_json_too(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["towpath.example"]

    response = Client(headers={"Host": "evil.example"}).get("/api/users/1")

    assert response.status_code == 400
    assert response.json() == {"detail": "Bad Request"}
    assert int(response["Content-Length"]) == len(response.content)


def test_pages_outside_of_the_api_stay_html() -> None:
    assert Client().get("/apiary")["Content-Type"].startswith("text/html")


def test_the_documentation_names_what_a_request_may_get() -> None:
    paths = Client().get("/api/openapi.json").json()["paths"]

    of_a_body = {"400", "413", "415", "422"}
    assert set(paths["/api/users"]["post"]["responses"]) == {"201", "409", *of_a_body}
    one = paths["/api/users/{user_id}"]
    assert set(one["get"]["responses"]) == {"200", "401", "403", "404"}
    assert set(one["patch"]["responses"]) == {"200", "401", "403", "404", "409", *of_a_body}
    assert set(one["delete"]["responses"]) == {"204", "401", "403", "404", "409"}


def test_the_example_of_the_documentation_can_be_sent_as_it_is() -> None:
    fields = Client().get("/api/openapi.json").json()["components"]["schemas"]["CreateUserRequest"]["properties"]
    example = {name: field["examples"][0] for name, field in fields.items()}

    assert post(example).status_code == 201
    assert post({**example, "email": "no address"}).json()["detail"][0].keys() >= {"loc", "msg", "type"}


@pytest.mark.parametrize("method", ["patch", "delete"])
def test_the_page_of_the_documentation_can_change_users_for_whoever_is_signed_in(method: str) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(superuser())
    user = User.objects.create(email="b@example.com", first_name="B", last_name="C")
    page = client.get("/api/docs").content.decode()
    token = re.search(r'data-csrf-token="(\w+)"', page)
    assert token is not None
    assert 'data-api-csrf="true"' in page
    request = getattr(client, method)

    without = request(f"/api/users/{user.pk}", {"first_name": "X"}, content_type="application/json")
    with_token = request(
        f"/api/users/{user.pk}",
        {"first_name": "X"},
        content_type="application/json",
        headers={"X-CSRFToken": token[1]},
    )

    assert (without.status_code, with_token.status_code) == (403, {"patch": 200, "delete": 204}[method])


def test_an_account_sees_itself_and_others_with_the_permission() -> None:
    client = Client()
    ada = User.objects.create(**ADA)
    root = superuser()

    client.force_login(ada)
    itself, other = client.get(f"/api/users/{ada.pk}"), client.get(f"/api/users/{root.pk}")
    client.force_login(root)
    by_root, nobody = client.get(f"/api/users/{ada.pk}"), client.get("/api/users/0")

    assert (itself.status_code, itself.json()) == (200, {"id": ada.pk, **ADA})
    assert (other.status_code, by_root.status_code, nobody.status_code) == (403, 200, 404)


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
