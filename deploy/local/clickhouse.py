"""The ClickHouse endpoint of the local stack: `clickhouse_server` as a child process."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING

from deploy.local.credentials import remembered_secret
from deploy.local.process import Process, Program

if TYPE_CHECKING:
    from pathlib import Path


class ClickHouse(Process):
    """A ClickHouse HTTP endpoint on loopback with its data under a folder, and a user with a password of its own."""

    user = "default"

    def __init__(self, folder: Path, port: int, log: Path) -> None:
        self.folder = folder.resolve()
        self.port = port
        server = (sys.executable, "-m", "deploy.local.clickhouse_server", "--password-file", f"{self._password_file}")
        super().__init__(
            Program(
                name="clickhouse",
                argv=(*server, "--data", str(folder.resolve()), "--port", str(port)),
                log=log,
                is_ready=lambda: is_answering(f"http://127.0.0.1:{port}/ping"),
            )
        )

    @property
    def url(self) -> str:
        return f"clickhouse://{self.user}:{self.password}@127.0.0.1:{self.port}/default"

    @property
    def password(self) -> str:
        return remembered_secret(self._password_file)

    @property
    def _password_file(self) -> Path:
        return self.folder / "password"

    def start(self) -> None:
        """Make the password on the first start, and start."""
        remembered_secret(self._password_file)
        super().start()


def is_answering(url: str, *, headers: dict[str, str] | None = None) -> bool:
    """True if an HTTP GET of a loopback URL gives 200 within two seconds."""
    # No proxy from the environment: it cannot reach this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(url, headers=headers or {})  # noqa: S310 - our own http://127.0.0.1 URLs
    try:
        with opener.open(request, timeout=2) as response:
            return bool(response.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError):
        return False
