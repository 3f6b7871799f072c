"""Sign-ins, sign-outs and failures are published from Django's signals, no matter who signs in and where."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import authenticate
from django.db import connection
from django.test import Client, RequestFactory

from backend.users.models import User
from tests.integration.superusers import superuser
from towpath.outbox.models import OutboxEvent

PASSWORD = "correct horse battery staple"


@pytest.fixture
def root() -> User:
    return superuser(password=PASSWORD)


def events() -> list[tuple[str, dict[str, Any], dict[str, str]]]:
    """(type, context, bound) of what is published."""
    rows = OutboxEvent.objects.order_by("id")
    return [(row.event_type, json.loads(row.event_context), row.bound or {}) for row in rows]


def sign_in(client: Client, name: str, password: str) -> int:
    return client.post("/admin/login/", {"username": name, "password": password}).status_code


def hashed(name: str) -> str:
    return hmac.new(
        (settings.TOWPATH.event_hash_key or settings.SECRET_KEY).encode(), name.encode(), sha256
    ).hexdigest()


def everything_stored() -> str:
    """Every row of every table that a request writes, as text."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(o::text, ' ') FROM outbox_event AS o")
        return str(cursor.fetchone()[0])


def test_signing_in_and_out_is_published_with_who_did_it(root: User) -> None:
    client = Client()

    assert sign_in(client, "root@example.com", PASSWORD) == 302
    assert client.post("/admin/logout/").status_code == 200

    assert [(type_, context) for type_, context, _ in events()] == [
        ("user_logged_in", {"user_id": root.pk}),
        ("user_logged_out", {"user_id": root.pk}),
    ]
    assert [(bound["actor"], bound["ip"]) for _, _, bound in events()] == [(f"user:{root.pk}", "127.0.0.1")] * 2


def test_nobody_s_sign_out_is_no_event() -> None:
    Client().post("/admin/logout/")

    assert events() == []


@pytest.mark.parametrize("name", ["root@example.com", "nobody@example.com", PASSWORD, "a\x00b", "é😀" * 500])
@pytest.mark.usefixtures("root")
def test_a_failure_is_published_with_a_hash_of_the_name_and_without_the_password(name: str) -> None:
    typed = "wr0ng-secret"
    assert sign_in(Client(), name, typed) == 200

    if "\x00" in name:  # refused by the form itself: nobody was asked
        assert events() == []
        return
    ((type_, context, bound),) = events()
    assert type_ == "user_login_failed"
    assert "actor" not in bound
    assert context == {"user_name": hashed(name)}
    assert typed not in everything_stored()
    assert name not in everything_stored()


@pytest.mark.usefixtures("root")
def test_credentials_of_whatever_name_are_never_stored() -> None:
    request = RequestFactory().post("/admin/login/")
    assert authenticate(request, username="root@example.com", password="s3cret-1", token="s3cret-2", otp="3") is None
    assert authenticate(request, email="root@example.com", password="s3cret-1") is None
    assert authenticate(request, token="s3cret-2") is None

    name = hashed("root@example.com")
    assert [context for _, context, _ in events()] == [
        {"user_name": name},
        {"user_name": name},
        {"user_name": hashed("")},
    ]
    assert "s3cret" not in everything_stored()
