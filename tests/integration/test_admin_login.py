"""Logging in to the admin: guesses are counted in PostgreSQL, for all web processes together."""

from __future__ import annotations

import re
from datetime import timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
import urllib3
from axes.models import AccessAttempt
from django.apps import apps
from django.conf import settings
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.test import Client

from backend.users.events import UserLoginFailed
from tests.integration.superusers import superuser
from tests.knobs import Knobs

if TYPE_CHECKING:
    from tests.integration.workers import Workers
    from tests.services import Services

ROOT = "root@example.com"
PASSWORD = "correct horse battery staple"

LOCKED = 429


@pytest.fixture(autouse=True)
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    # What is counted here are failures. With Django's own million rounds, each would take a third of a second.
    monkeypatch.setattr(PBKDF2PasswordHasher, "iterations", 1000)
    for email in (ROOT, "other@example.com"):
        superuser(email, PASSWORD)


def log_in(password: str, *, email: str = ROOT, address: str = "192.0.2.1", **headers: str) -> Any:
    return Client(REMOTE_ADDR=address).post("/admin/login/", {"username": email, "password": password}, headers=headers)


def guess(times: int) -> None:
    for number in range(times):
        assert log_in(f"guess {number}").status_code in {200, LOCKED}


def test_after_five_wrong_passwords_the_right_one_is_refused_too() -> None:
    guess(settings.AXES_FAILURE_LIMIT)

    assert log_in(PASSWORD).status_code == LOCKED


def test_one_guess_less_locks_nobody_out() -> None:
    guess(settings.AXES_FAILURE_LIMIT - 1)

    assert log_in(PASSWORD).status_code == 302
    # A success starts the count again.
    guess(settings.AXES_FAILURE_LIMIT - 1)
    assert log_in(PASSWORD).status_code == 302


def test_a_stranger_locks_out_neither_other_accounts_nor_the_owner_elsewhere() -> None:
    guess(settings.AXES_FAILURE_LIMIT)

    assert log_in(PASSWORD, email="other@example.com").status_code == 302
    assert log_in(PASSWORD, address="192.0.2.2").status_code == 302


def test_behind_a_proxy_a_stranger_neither_locks_out_the_owner_nor_escapes_it(knobs: Knobs) -> None:
    knobs(trusted_proxies=1)

    for number in range(settings.AXES_FAILURE_LIMIT):
        log_in(f"guess {number}", **{"X-Forwarded-For": f"192.0.2.{number}, 198.51.100.1"})

    assert log_in(PASSWORD, **{"X-Forwarded-For": "198.51.100.2"}).status_code == 302
    assert log_in(PASSWORD, **{"X-Forwarded-For": "198.51.100.2, 198.51.100.1"}).status_code == LOCKED


def test_a_lock_ends_by_itself() -> None:
    guess(settings.AXES_FAILURE_LIMIT)
    assert log_in(PASSWORD).status_code == LOCKED

    AccessAttempt.objects.update(attempt_time=F("attempt_time") - settings.AXES_COOLOFF_TIME - timedelta(seconds=1))

    assert log_in(PASSWORD).status_code == 302


def test_guesses_in_one_web_process_count_in_the_others(services: Services, workers: Workers) -> None:
    # Given all guesses but one, made in this process
    workers.web()
    workers.wait_until_ready()
    for number in range(settings.AXES_FAILURE_LIMIT - 1):
        log_in(f"guess {number}", address="127.0.0.1")

    # When the last one is made in another
    page = f"http://127.0.0.1:{services.web_port}/admin/login/"
    with urllib3.PoolManager() as http:
        shown = http.request("GET", page)
        cookie = shown.headers["Set-Cookie"].split(";", 1)[0]
        field = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', shown.data.decode())
        assert field is not None
        answer = http.request(
            "POST",
            page,
            fields={"username": ROOT, "password": "guess", "csrfmiddlewaretoken": field[1]},
            encode_multipart=False,
            headers={"Cookie": cookie},
            redirect=False,
        )

    # Then the account is locked in both
    assert answer.status == LOCKED
    assert log_in(PASSWORD, address="127.0.0.1").status_code == LOCKED


def everything_axes_keeps() -> str:
    """Every row of every table of axes, as text."""
    texts = []
    with connection.cursor() as cursor:
        for model in apps.get_app_config("axes").get_models():
            cursor.execute(f"SELECT string_agg(t::text, ' ') FROM {model._meta.db_table} AS t")
            texts.append(str(cursor.fetchone()[0]))
    return " ".join(texts)


def test_neither_password_nor_typed_name_is_kept_in_clear() -> None:
    client = Client()
    typed = {"username": "my pass phrase", "password": "guess-1", "email": "other-field", "next": "/next-field/"}
    for _ in range(2):  # created, then added to
        client.post("/admin/login/?username=in-the-address&token=secret-token", typed)
    client.post("/admin/login/", {"username": ROOT, "password": PASSWORD})
    client.post("/admin/logout/")

    kept = everything_axes_keeps()

    assert UserLoginFailed(user_name="my pass phrase").model_dump()["user_name"] in kept
    for clear in (*typed.values(), "in-the-address", "secret-token", ROOT):
        assert clear not in kept


@pytest.mark.parametrize(
    "command",
    [
        ["axes_reset"],
        ["axes_reset_username", ROOT],
        ["axes_reset_ip", "192.0.2.1"],
        ["axes_reset_ip_username", "192.0.2.1", ROOT],
    ],
)
def test_each_way_to_unlock_takes_the_name_as_it_is_typed(command: list[str]) -> None:
    guess(settings.AXES_FAILURE_LIMIT)
    assert log_in(PASSWORD).status_code == LOCKED

    call_command(*command, stdout=StringIO())

    assert log_in(PASSWORD).status_code == 302
