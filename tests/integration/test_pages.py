"""What every page carries, so that an event shown on it can never act."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import urllib3
from django.test import Client

from backend.users.models import User
from backend.users.use_cases import CreateUser, CreateUserRequest
from deploy.local.traffic import people, sign_up

if TYPE_CHECKING:
    from tests.integration.workers import Workers
    from tests.services import Services

PAGES = (
    "/admin/",
    "/admin/login/",
    "/admin/users/user/",
    "/admin/users/user/add/",
    "/admin/users/outboxuser/",
    "/api/docs",
)


@pytest.mark.parametrize("page", PAGES)
def test_no_page_runs_a_script_that_is_written_on_it(page: str, admin: Client) -> None:
    CreateUser().execute(CreateUserRequest(email="a@example.com", first_name="<script>alert(1)</script>", last_name=""))

    response = admin.get(page, follow=True)

    policy = dict(part.split(" ", 1) for part in response["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'self'"
    assert "script-src" not in policy
    assert policy["frame-ancestors"] == "'none'"
    # The pages themselves need nothing that the policy forbids.
    html = response.content.decode()
    inline = [tag for tag in re.findall(r"<script\b([^>]*)>", html) if "src=" not in tag and "json" not in tag]
    assert inline == []
    assert re.findall(r"<[^>]+\son\w+=", html) == []
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//[^"']+""", html) == []


def test_the_first_page_leads_to_the_documentation_of_the_api() -> None:
    response = Client().get("/", follow=True)

    assert (response.redirect_chain, response.status_code) == ([("/api/docs", 302)], 200)


def test_https_only_sends_everything_to_tls_but_the_probes(services: Services, workers: Workers) -> None:
    workers.web(HTTPS_ONLY="true")
    workers.wait_until_ready()
    url = f"http://127.0.0.1:{services.web_port}"

    with urllib3.PoolManager() as http:
        plain = http.request("GET", f"{url}/admin/login/", redirect=False)
        secure = http.request("GET", f"{url}/admin/login/", headers={"X-Forwarded-Proto": "https"}, redirect=False)
        probe = http.request("GET", f"{url}/healthz", redirect=False)
        sign_up(http, url, next(people("sample")))  # raises unless it was created

    assert (plain.status, plain.headers["Location"]) == (301, f"https://127.0.0.1:{services.web_port}/admin/login/")
    assert secure.status == 200
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert "Secure" in secure.headers["Set-Cookie"].split("; ")
    assert probe.status == 200
    assert User.objects.filter(email="sample-0@example.com").exists()
