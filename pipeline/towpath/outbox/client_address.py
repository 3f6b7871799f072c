"""Whose request it is, behind proxies: REMOTE_ADDR becomes the client's address, for events and logins alike."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import TYPE_CHECKING

from towpath.conf.current import config

if TYPE_CHECKING:
    from collections.abc import Callable

    from django.http import HttpRequest, HttpResponse

#: Some proxies append the client's port: 192.0.2.7:50412, [2001:db8::7]:50412.
_WITH_PORT = re.compile(r"([0-9.]+):[0-9]+|\[([^\]]+)\](?::[0-9]+)?")


class ClientAddressMiddleware:
    """Django middleware, before all that looks at REMOTE_ADDR: takes the address from X-Forwarded-For, to which each of
    TRUSTED_PROXIES has appended its own peer. What stands further left is the client's invention, and ignored."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if (client := _client(request.headers.get("X-Forwarded-For", ""), config().trusted_proxies)) is not None:
            request.META["REMOTE_ADDR"] = client
        return self._get_response(request)


def _client(forwarded_for: str, trusted_proxies: int) -> str | None:
    """What the outermost of the proxies has written; None if that is not an address, because the request did not come
    through all of them: then its peer is all that is known."""
    entries = forwarded_for.split(",")
    if not 0 < trusted_proxies <= len(entries):
        return None
    entry = entries[-trusted_proxies].strip()
    if with_port := _WITH_PORT.fullmatch(entry):
        entry = with_port[1] or with_port[2]
    try:
        return str(ip_address(entry))
    except ValueError:
        return None
