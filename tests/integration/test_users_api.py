"""Creating users over HTTP and in the admin: both through the use case."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.core.management import call_command
from django.test import Client

from backend.users.admin import UserAdmin
from backend.users.models import OutboxUser, OutboxUserChange, User
from backend.users.use_cases import CreateUser, CreateUserOutcome, CreateUserRequest, UserCreated
from tests.integration.superusers import superuser
from towpath.testing.delivering import Deliver
from towpath.testing.published import Published

ADA = {"email": "ada@example.com", "first_name": "Ada", "last_name": "Lovelace"}


def post(body: object) -> Any:
    return Client().post("/api/users", json.dumps(body), content_type="application/json")


def test_a_post_creates_the_user_and_its_event(published: Published) -> None:
    response = post(ADA)

    assert response.status_code == 201
    user = User.objects.get()
    assert response.json() == {"id": user.id, **ADA}
    published.one(UserCreated, **ADA)


def test_what_a_post_publishes_is_stored_with_the_request_that_caused_it(
    published: Published, deliver: Deliver
) -> None:
    response = post(ADA)

    found = published.one(UserCreated)
    stored = deliver().one(UserCreated)

    assert found.bound == stored.bound

    assert stored.event_context == UserCreated(**ADA).model_dump_json()
    caused = {"request_id": response["X-Request-ID"], "ip": "127.0.0.1"}
    assert dict(stored.bound) == {**caused, "target": f"user:{response.json()['id']}", "outcome": "success"}


def test_createsuperuser_publishes_like_everything_else(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", "a long secret text")
    call_command("createsuperuser", interactive=False, verbosity=0, **ADA)

    user = User.objects.get()
    assert user.is_superuser
    assert user.check_password("a long secret text")
    published.one(UserCreated, **ADA)


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

    assert f"/admin/users/outboxuser/{row.id}/change/" in admin.get("/admin/users/outboxuser/").content.decode()
    assert "ada@example.com" in admin.get(f"/admin/users/outboxuser/{row.id}/change/").content.decode()
    assert admin.get("/admin/users/outboxuser/add/").status_code == 403
    assert admin.post(f"/admin/users/outboxuser/{row.id}/delete/", {"post": "yes"}).status_code == 403


# --- Changing and deleting ---------------------------------------------------------------------------------------


@pytest.fixture
def bob() -> User:
    return User.objects.create(email="bob@example.com", first_name="Bob", last_name="B")


def published() -> list[tuple[str, int, str | None]]:
    """(type, user, actor) of the undelivered changes."""
    rows = OutboxUserChange.objects.order_by("id")
    return [(row.event_type, row.user_id, (row.bound or {}).get("actor")) for row in rows]


def patch(client: Client, user: User, body: object) -> Any:
    return client.patch(f"/api/users/{user.pk}", json.dumps(body), content_type="application/json")


def test_a_patch_changes_what_it_gives_and_says_who_did_it(admin: Client, bob: User) -> None:
    response = patch(admin, bob, {"first_name": "Robert"})

    assert response.status_code == 200
    assert response.json() == {
        "id": bob.pk,
        "email": "bob@example.com",
        "first_name": "Robert",
        "last_name": "B",
    }
    root = User.objects.get(email="root@example.com")
    assert published() == [("user_updated", bob.pk, f"user:{root.pk}")]


def test_a_patch_that_cannot_be_done_says_why(admin: Client, bob: User) -> None:
    User.objects.create(email="taken@example.com")

    assert patch(admin, bob, {"email": "taken@example.com"}).status_code == 409
    assert patch(admin, bob, {"email": "no address"}).status_code == 422
    assert patch(admin, bob, {"is_superuser": True}).status_code == 422
    bob.pk += 1_000_000
    assert patch(admin, bob, {"first_name": "Robert"}).status_code == 404
    assert published() == []


def test_a_delete_deletes_and_is_a_conflict_while_the_creation_is_undelivered(admin: Client, bob: User) -> None:
    new = post(ADA).json()["id"]

    refused = admin.delete(f"/api/users/{new}")
    done = admin.delete(f"/api/users/{bob.pk}")
    gone = admin.delete(f"/api/users/{bob.pk}")

    assert (refused.status_code, done.status_code, gone.status_code) == (409, 204, 404)
    assert "Try again in a few seconds" in refused.json()["error"]
    assert [type_ for type_, _, _ in published()] == ["user_deleted"]


def test_changing_and_deleting_takes_a_session_with_the_permission(bob: User) -> None:
    clerk = Client()
    clerk.force_login(User.objects.create(email="clerk@example.com", is_staff=True))

    for client, status in ((Client(), 401), (clerk, 403)):
        assert patch(client, bob, {"first_name": "Robert"}).status_code == status
        assert client.delete(f"/api/users/{bob.pk}").status_code == status
    assert published() == []


def test_changing_takes_a_csrf_token_where_there_is_a_session(bob: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(superuser())

    assert patch(client, bob, {"first_name": "Robert"}).status_code == 403
    assert published() == []


def test_the_admin_changes_a_user_through_the_use_case(admin: Client, bob: User) -> None:
    group = Group.objects.create(name="auditors")
    form = {"email": "bob@example.com", "first_name": "Bob", "last_name": "Builder", "groups": [group.pk]}

    response = admin.post(f"/admin/users/user/{bob.pk}/change/", form)

    assert response.status_code == 302
    row = OutboxUserChange.objects.get()
    assert json.loads(row.event_context)["changes"] == {
        "last_name": {"old": "B", "new": "Builder"},
        "is_active": {"old": True, "new": False},
        "groups": {"old": [], "new": [group.pk]},
    }
    assert [one.name for one in User.objects.get(pk=bob.pk).groups.all()] == ["auditors"]


def test_the_admin_s_change_form_refuses_what_the_use_case_refuses(admin: Client, bob: User) -> None:
    form = {"email": "bob@", "first_name": "Bob", "last_name": "B"}

    assert admin.post(f"/admin/users/user/{bob.pk}/change/", form).status_code == 200
    assert published() == []


def test_the_admin_deletes_one_and_many_through_the_use_case(admin: Client, bob: User) -> None:
    others = [User.objects.create(email=f"{n}@example.com") for n in range(2)]

    one = admin.post(f"/admin/users/user/{bob.pk}/delete/", {"post": "yes"})
    chosen = {"action": "delete_selected", "_selected_action": [user.pk for user in others], "post": "yes"}
    many = admin.post("/admin/users/user/", chosen)

    assert (one.status_code, many.status_code) == (302, 302)
    assert sorted((type_, user) for type_, user, _ in published()) == [
        ("user_deleted", user.pk) for user in sorted([bob, *others], key=lambda user: user.pk)
    ]


def test_the_admin_says_that_a_user_with_an_undelivered_event_cannot_be_deleted_yet(
    admin: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    post(ADA)
    user = User.objects.get(email=ADA["email"])

    # On the page that asks whether to delete
    page = admin.get(f"/admin/users/user/{user.pk}/delete/").content.decode()
    assert "undelivered user event" in page
    assert admin.post(f"/admin/users/user/{user.pk}/delete/", {"post": "yes"}).status_code != 302

    # And when the event was published after that page had looked
    monkeypatch.setattr(UserAdmin, "get_deleted_objects", lambda *_: ([], {}, set(), []))
    url, chosen = f"/admin/users/user/{user.pk}/delete/", {"action": "delete_selected", "_selected_action": [user.pk]}
    for response in (
        admin.post(url, {"post": "yes"}, follow=True),
        admin.post("/admin/users/user/", {**chosen, "post": "yes"}, follow=True),
    ):
        assert "still being delivered. Try again in a few seconds" in response.content.decode()
    assert User.objects.filter(pk=user.pk).exists()
    assert published() == []
