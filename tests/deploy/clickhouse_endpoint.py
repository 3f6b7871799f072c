"""The local ClickHouse endpoint as one user after the other."""

from __future__ import annotations

import shutil
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from deploy.local.loopback import is_answering
from deploy.local.process import Process, Program
from tests.ports import any_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Endpoint:
    """The engine over one data folder, as one user after the other: a folder has one process at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def as_user(self, user: str, *options: str, port: int = 0) -> Iterator[int]:
        """The port of the endpoint. The options are those of clickhouse_as_user."""
        port = port or any_free_port()
        argv = (sys.executable, "-m", "tests.deploy.clickhouse_as_user", "--user", user)
        process = Process(
            Program(
                name=user,
                argv=(*argv, "--data", str(self._folder / "data"), "--port", str(port), *options),
                log=self._folder / f"{user}.log",
                is_ready=lambda: is_answering(f"http://127.0.0.1:{port}/ping"),
            )
        )
        process.start()
        try:
            process.wait_until_ready()
            yield port
        finally:
            process.stop()


@pytest.fixture(scope="session")
def empty_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an engine with the empty database `towpath`, which an administrator has made: to be copied."""
    folder = tmp_path_factory.mktemp("engine")
    script = (
        f"from chdb.state.sqlitelike import Connection; c = Connection({str(folder / 'data')!r});"
        "c.query('CREATE DATABASE towpath'); c.close()"
    )
    admin = Process(Program(name="admin", argv=(sys.executable, "-c", script), log=folder / "admin.log"))
    admin.start()
    admin.wait_until_done()
    return folder


def copied(folder: Path, to: Path) -> Endpoint:
    """An engine on a copy of another one's data. The links within are relative."""
    shutil.copytree(folder / "data", to / "data", symlinks=True)
    return Endpoint(to)


@pytest.fixture
def endpoint(empty_engine: Path, tmp_path: Path) -> Endpoint:
    """An engine with the empty database `towpath`."""
    return copied(empty_engine, tmp_path)
