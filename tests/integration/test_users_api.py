"""Creating users over HTTP and in the admin: both through the use case."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client

from backend.users.models import OutboxUser, User
from backend.users.use_cases import CreateUser, CreateUserOutcome, CreateUserRequest, UserCreated
from pipeline.testing.delivering import Deliver
from pipeline.testing.published import Published

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


def post(body: object) -> Any:  # noqa: ANN401 - the test client's own response class
    return Client().post("/api/users", json.dumps(body), content_type="application/json")


@pytest.fixture
def admin() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root@example.com", "secret", first_name="R", last_name="R"))
    return client


def test_a_post_creates_the_user_and_its_event(published: Published) -> None:
    response = post(ADA)

    assert response.status_code == 201
    user = User.objects.get()
    assert response.json() == {"id": user.id, **ADA}
    published.one(UserCreated, **ADA)


def test_what_a_post_publishes_is_stored_with_the_request_that_caused_it(deliver: Deliver) -> None:
    response = post(ADA)

    stored = deliver().one(UserCreated)

    assert stored.event_context == UserCreated(**ADA).model_dump_json()
    assert dict(stored.bound) == {"request_id": response["X-Request-ID"], "ip": "127.0.0.1"}


def test_a_taken_email_is_a_conflict_and_no_event(published: Published) -> None:
    post(ADA)

    response = post({**ADA, "first_name": "Another"})

    assert response.status_code == 409
    assert response.json() == {"error": "User with this email already exists"}
    assert User.objects.count() == 1
    published.one(UserCreated)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"email": "not an address"}, "email"),
        ({"email": ""}, "email"),
        ({"email": f"{'a' * 64}@{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}.com"}, "email"),
        ({"email": None}, "email"),
        ({"email": "a\x00b@example.com"}, "email"),
        ({"first_name": "x" * 151}, "first_name"),
        ({"first_name": "a\x00b"}, "first_name"),
        ({"first_name": "\ud800"}, "first_name"),
        ({"last_name": 7}, "last_name"),
        ({"is_staff": True}, "is_staff"),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_field(
    published: Published, change: dict[str, object], field: str
) -> None:
    response = post({**ADA, **change})

    assert response.status_code == 422
    assert [problem["loc"][-1] for problem in response.json()["detail"]] == [field]
    assert User.objects.count() == 0
    published.none()


def test_a_missing_field_is_named() -> None:
    response = post({"email": "ada@example.com", "last_name": "Lovelace"})

    assert response.status_code == 422
    assert [problem["loc"][-1] for problem in response.json()["detail"]] == ["first_name"]


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "\xff"])
def test_a_body_that_is_no_object_is_the_client_s_fault(body: str) -> None:
    response = Client().post("/api/users", body.encode("latin-1"), content_type="application/json")

    assert response.status_code in {400, 422}


def test_the_api_documents_itself() -> None:
    schema = Client().get("/api/openapi.json").json()

    assert set(schema["paths"]["/api/users"]["post"]["responses"]) >= {"201", "409"}
    assert Client().get("/api/docs").status_code == 200


def test_the_admin_s_form_creates_the_user_through_the_use_case(admin: Client, published: Published) -> None:
    response = admin.post("/admin/users/user/add/", ADA)

    assert response.status_code == 302
    user = User.objects.get(email=ADA["email"])
    published.one(UserCreated, **ADA)
    assert not user.is_staff
    assert not user.has_usable_password()


def test_the_admin_s_form_refuses_what_the_use_case_refuses(admin: Client, published: Published) -> None:
    CreateUser().execute(CreateUserRequest(**ADA))

    taken = admin.post("/admin/users/user/add/", ADA)
    bad = admin.post("/admin/users/user/add/", {**ADA, "email": "not an address"})

    assert (taken.status_code, bad.status_code) == (200, 200)
    assert "already exists" in taken.content.decode()
    published.one(UserCreated)


def test_the_admin_shows_the_error_of_a_race_that_was_lost_after_the_form_s_check(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CreateUser, "execute", lambda *_: CreateUserOutcome(None, CreateUser.EMAIL_TAKEN))

    response = admin.post("/admin/users/user/add/", ADA, follow=True)

    assert response.status_code == 200
    assert CreateUser.EMAIL_TAKEN in response.content.decode()


def test_changing_a_user_in_the_admin_publishes_no_creation(admin: Client, published: Published) -> None:
    user = User.objects.create(email="old@example.com", first_name="A", last_name="B")

    response = admin.post(f"/admin/users/user/{user.id}/change/", {**ADA, "is_active": "on"})

    assert response.status_code == 302
    assert User.objects.get(id=user.id).email == ADA["email"]
    published.none(UserCreated)


def test_undelivered_events_can_be_looked_at_in_the_admin_and_not_changed(admin: Client) -> None:
    CreateUser().execute(CreateUserRequest(**ADA))
    row = OutboxUser.objects.get()

    assert "ada@example.com" in admin.get("/admin/users/outboxuser/").content.decode()
    assert admin.get("/admin/users/outboxuser/add/").status_code == 403
    assert admin.post(f"/admin/users/outboxuser/{row.id}/delete/", {"post": "yes"}).status_code == 403
