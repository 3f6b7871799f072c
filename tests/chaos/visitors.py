"""People at the web API. There is no oracle in their transactions: the answer 201 is the promise they judge by."""

from __future__ import annotations

import http.client
import json
import threading
from contextlib import closing
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.oracle import Oracle

_PREFIX = "visitor-"
_PAUSE_SECONDS = 0.1


class Visitor(threading.Thread):
    """Signs up again and again, each time with another address; once, whatever the answer."""

    def __init__(self, port: int, *, number: int) -> None:
        super().__init__(name=f"visitor-{number}", daemon=True)
        self._port = port
        self._number = number
        self._stopping = threading.Event()
        self.tried: set[str] = set()
        self.promised: set[str] = set()

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        while not self._stopping.wait(_PAUSE_SECONDS):
            email = f"{_PREFIX}{self._number}-{len(self.tried)}@example.com"
            self.tried.add(email)
            try:
                if self._sign_up(email) == http.client.CREATED:
                    self.promised.add(email)
            except (OSError, http.client.HTTPException):
                continue  # maybe created, maybe not

    def _sign_up(self, email: str) -> int:
        body = json.dumps({"email": email, "first_name": "Vi", "last_name": "Sitor"})
        with closing(http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)) as connection:
            connection.request("POST", "/api/users", body, {"Content-Type": "application/json"})
            return connection.getresponse().status


def broken_promises(oracle: Oracle, visitors: list[Visitor]) -> list[str]:
    """What is wrong with the visitors' events, as sentences."""
    promised = {email for visitor in visitors for email in visitor.promised}
    tried = {email for visitor in visitors for email in visitor.tried}
    copies = oracle.copies_by_key(_PREFIX)
    users = {email for (email,) in oracle.ask_postgres("SELECT email FROM users WHERE email LIKE %s", [f"{_PREFIX}%"])}
    found = {
        "answered with 201 and not stored": promised - copies.keys(),
        "created and not stored": users - copies.keys(),
        "stored and not created": copies.keys() - users,
        "never tried and stored": copies.keys() - tried,
        "stored more than once": {key for key, count in copies.items() if count > 1},
    }
    return [f"visitors {what}: {len(keys)} {sorted(keys)[:5]}" for what, keys in found.items() if keys]
