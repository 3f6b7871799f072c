"""The client's address behind proxies, from what they append to X-Forwarded-For."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.conf import settings as project
from django.http import HttpResponse
from django.test import RequestFactory

from towpath.outbox.client_address import ClientAddressMiddleware

if TYPE_CHECKING:
    from django.http import HttpRequest

    from tests.knobs import Knobs

PEER = "10.0.0.1"


def address(forwarded_for: str | None, *, trusted_proxies: int, knobs: Knobs) -> str:
    """What everything behind the middleware takes for the client's address."""
    knobs(trusted_proxies=trusted_proxies)
    seen: list[str] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.append(request.META["REMOTE_ADDR"])
        return HttpResponse()

    headers = {} if forwarded_for is None else {"X-Forwarded-For": forwarded_for}
    ClientAddressMiddleware(view)(RequestFactory(REMOTE_ADDR=PEER).get("/", headers=headers))
    return seen[0]


def test_it_comes_before_everything_that_could_look_at_the_address() -> None:
    assert project.MIDDLEWARE[0] == "towpath.outbox.client_address.ClientAddressMiddleware"


@pytest.mark.parametrize("forwarded_for", ["192.0.2.1", "192.0.2.1, 192.0.2.2", "192.0.2.1, 192.0.2.2, 192.0.2.3"])
def test_without_proxies_the_header_is_ignored(forwarded_for: str, knobs: Knobs) -> None:
    assert address(forwarded_for, trusted_proxies=0, knobs=knobs) == PEER


@pytest.mark.parametrize(
    ("trusted_proxies", "forwarded_for", "client"),
    [
        (1, "192.0.2.7", "192.0.2.7"),
        (1, "192.0.2.1, 192.0.2.7", "192.0.2.7"),
        (1, "no address, 192.0.2.1,2001:db8::7 ", "2001:db8::7"),
        (1, "192.0.2.7:50412", "192.0.2.7"),
        (1, "[2001:db8::7]:50412", "2001:db8::7"),
        (1, "[2001:db8::7]", "2001:db8::7"),
        (2, "192.0.2.7, 192.0.2.9", "192.0.2.7"),
        (2, "192.0.2.1, 192.0.2.2, 192.0.2.7, 192.0.2.9", "192.0.2.7"),
    ],
)
def test_what_a_client_writes_into_the_header_is_never_its_address(
    trusted_proxies: int, forwarded_for: str, client: str, knobs: Knobs
) -> None:
    assert address(forwarded_for, trusted_proxies=trusted_proxies, knobs=knobs) == client


@pytest.mark.parametrize(
    ("trusted_proxies", "forwarded_for"),
    [
        (1, None),
        (1, ""),
        (2, None),
        (2, "192.0.2.7"),
        (3, "192.0.2.7, 192.0.2.9"),
        (1, "192.0.2.1, unknown"),
        (1, "192.0.2.1,"),
        (1, "192.0.2.7:"),
        (1, "[unknown]:80"),
        (1, "192.0.2.7'; DROP TABLE"),
    ],
)
def test_a_request_that_not_all_proxies_have_brought_is_its_peer_s(
    trusted_proxies: int, forwarded_for: str | None, knobs: Knobs
) -> None:
    assert address(forwarded_for, trusted_proxies=trusted_proxies, knobs=knobs) == PEER
