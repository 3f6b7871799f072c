"""Secrets are blanked in whichever form they turn up."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, quote_plus

import pytest

from towpath.telemetry.secrets import blanked, parts

PASSWORD = 'p@ss w/ö;"rd\\'


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        quote_plus(PASSWORD),
        repr(PASSWORD)[1:-1],
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        base64.b64encode(f"user:{PASSWORD}".encode()).decode(),
    ],
)
@pytest.mark.parametrize(
    "secret",
    [
        f"amqp://user:{quote(PASSWORD, safe='')}@host:5672/v",
        f"amqp://a:first-one@h/v?heartbeat=6;amqp://user:{quote(PASSWORD, safe='')}@host/v",
        f"postgresql://user:{quote(PASSWORD, safe='')}@host,other/d?sslmode=require",
    ],
)
def test_the_password_of_a_url_is_blanked_in_every_form(secret: str, form: str) -> None:
    assert form not in blanked(f"cannot connect with {form}: refused", parts([secret]))


@pytest.mark.parametrize("name", ["password", "passwd", "secret", "access_token", "sslpassword"])
def test_a_password_in_the_query_is_blanked(name: str) -> None:
    forms = parts([f"clickhouse://host:8123/d?{name}=swordfish%2Fmark&compress=lz4"])

    assert blanked("swordfish/mark and swordfish%2Fmark, lz4", forms) == "*** and ***, lz4"


def test_each_password_of_several_hosts_is_blanked() -> None:
    forms = parts(["amqp://u:first-one@a/v;amqp://u:second-one@b/v;amqps://u:third-one@c?heartbeat=5"])

    assert blanked("first-one second-one third-one", forms) == "*** *** ***"


def test_a_short_password_is_blanked_where_it_stands_by_itself() -> None:
    forms = parts(["amqp://u:abc@h/v"])

    assert blanked("password 'abc' (abc) abc, alphabet abcd", forms) == "password '***' (***) ***, alphabet abcd"


def test_the_password_of_an_unknown_url_is_blanked_too() -> None:
    text = "cannot reach https://me:hunter2@proxy:3128/x?token=t0ken&a=b or amqp://u:x@y@h/v"

    shown = blanked(text, [])
    assert "hunter2" not in shown
    assert "t0ken" not in shown
    assert "x@y" not in shown
    assert "proxy:3128" in shown


def test_a_text_without_secrets_stays_as_it_is() -> None:
    text = "window 087b3 at 2026-11-26T01:00:00+00:00: http://host:8123/ answered 500; see a:b@c"

    assert blanked(text, parts(["amqp://user:swordfish@host/v", "a-long-key-of-settings"])) == text
