"""The ClickHouse endpoint of the local stack: `clickhouse_server` as a child process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from deploy.local.credentials import remembered_secret
from deploy.local.loopback import is_answering
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
