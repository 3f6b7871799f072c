"""Sample traffic through the web API: people who sign up.

python -m deploy.local.traffic http://127.0.0.1:8029 5       (five a second, until it or the web is stopped)
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import urllib3

from deploy.local.errors import LocalStackError

if TYPE_CHECKING:
    from collections.abc import Iterator

_CREATED = 201
#: It goes past the proxy, and with HTTPS_ONLY the web redirects what no proxy has taken over TLS.
_AS_A_PROXY = {"X-Forwarded-Proto": "https"}

_FIRST_NAMES = (
    "Ada",
    "Grace",
    "Łukasz",
    "Zoë",
    "李",
    "Ole",
    "José",
    "\N{SNOWMAN}",
    'Q"uote',
    "Back\\slash",
    "Tab\there",
)
_LAST_NAMES = ("Lovelace", "Hopper", "Kowalski", "Ødegård", "Wang", "O'Brien", "\N{GRINNING FACE}", "New\nline", "")


def people(prefix: str) -> Iterator[dict[str, str]]:
    """Sign-ups without end: the same ones for the same prefix."""
    chooser = random.Random(prefix)  # noqa: S311 - sample names, no secrets
    for n in itertools.count():
        yield {
            "email": f"{prefix}-{n}@example.com",
            "first_name": chooser.choice(_FIRST_NAMES),
            "last_name": chooser.choice(_LAST_NAMES),
        }


def sign_up(http: urllib3.PoolManager, web_url: str, person: dict[str, str]) -> None:
    """POST one user. Raises LocalStackError unless it was created."""
    answer = http.request("POST", f"{web_url}/api/users", json=person, headers=_AS_A_PROXY)
    if answer.status != _CREATED:
        raise LocalStackError(f"POST /api/users answered {answer.status}: {answer.data[:200]!r}")


def compact(context: dict[str, Any]) -> str:
    """The context as it must be stored, made without the code under test."""
    return json.dumps(context, ensure_ascii=False, separators=(",", ":"))


def start_live_traffic(web_url: str, *, per_second: float) -> None:
    """People sign up in the background for as long as the process lives, even while the web is away for a moment."""
    threading.Thread(
        target=sign_up_without_end, args=(web_url,), kwargs={"per_second": per_second}, name="live-traffic", daemon=True
    ).start()


def sign_up_without_end(web_url: str, *, per_second: float, give_up_seconds: float = float("inf")) -> None:
    """People sign up, even while the web is away for a moment; until it has been away for so long."""
    http = urllib3.PoolManager(retries=False)
    last_success = time.monotonic()
    for person in people(f"live{time.time_ns()}"):
        try:
            sign_up(http, web_url, person)
            last_success = time.monotonic()
        except (LocalStackError, urllib3.exceptions.HTTPError) as error:
            print(f"  ! live traffic: {error}", flush=True)
            if time.monotonic() - last_success > give_up_seconds:
                print(f"  live traffic ends: no sign-up for {give_up_seconds:g} s", flush=True)
                return
            time.sleep(1)
        time.sleep(1 / per_second)


if __name__ == "__main__":
    # `docker compose stop` stops what it would start, and that is not what a profile has started.
    sign_up_without_end(sys.argv[1], per_second=float(sys.argv[2]), give_up_seconds=60)
