"""The ClickHouse endpoint of the local stack: `clickhouse_server` as a child process."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING

from deploy.local.process import Process, Program

if TYPE_CHECKING:
    from pathlib import Path


class ClickHouse(Process):
    """A ClickHouse HTTP endpoint on loopback with its data under a folder."""

    def __init__(self, folder: Path, port: int, log: Path) -> None:
        self.port = port
        server = (sys.executable, "-m", "deploy.local.clickhouse_server")
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
        return f"clickhouse://127.0.0.1:{self.port}/default"


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
