"""HTTP on this machine's loopback, past the proxy that the environment may name: it cannot reach that."""

from __future__ import annotations

import urllib.error
import urllib.request
from http import HTTPStatus

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_answering(url: str, *, headers: dict[str, str] | None = None) -> bool:
    """True if an HTTP GET of a loopback URL gives 200 within two seconds."""
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - our own http://127.0.0.1 URLs
    try:
        with OPENER.open(request, timeout=2) as response:
            return bool(response.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
