"""A project of somebody else's, made by `startproject`, to which the blocks of a page of the docs are applied."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from deploy.local.process import PROJECT
from tests.clickhouse import url_of
from tests.forked import run_python

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.integration.own_environment import OwnEnvironment
    from tests.services import Services

_SCRIPTS = Path(sys.executable).parent
_MOST_SECONDS = 240
#: `pipeline run all` ends its workers, which take up to SHUTDOWN_SECONDS.
_STOP_SECONDS = 30

#: A block that is to be tried: what is to be done with it, the file if it is one, and its text.
_BLOCK = re.compile(r"^<!-- try: (\w+) ?(\S*) -->\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Block:
    """`action` is prepend, append or write (to `file`), run, shell (Django's) or start."""

    action: str
    file: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page of docs/ that are to be tried, in order."""
    text = (PROJECT / "docs" / page).read_text(encoding="utf-8")
    for action, file, block in _BLOCK.findall(text):
        yield Block(action, file, block)


def variables_of(services: Services, *, database: str) -> dict[str, str]:
    """The environment of a project that uses these services: RabbitMQ, and a database of this name in ClickHouse."""
    postgres = urlsplit(services.postgres.url)
    return {
        "PGHOST": postgres.hostname or "",
        "PGPORT": str(postgres.port),
        "PGUSER": postgres.username or "",
        "PGPASSWORD": postgres.password or "",
        "TOWPATH_RABBITMQ_URL": services.rabbitmq.url,
        "TOWPATH_EVENT_STORE_URL": url_of(services.clickhouse, database=database),
    }


class ForeignProject:
    """A fresh project in `folder`; what it starts is killed at the end, with its descendants.

    What it installs goes into a folder beside it, or into an environment of its own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], *, own: OwnEnvironment | None = None) -> None:
        self.folder = folder
        self._own = own
        self._environment = environment
        self._started: list[subprocess.Popen[bytes]] = []

    @property
    def installed(self) -> Path:
        """The folder beside it."""
        return self.folder.parent / "installed"

    def __enter__(self) -> Self:
        # As `django-admin`.
        main = "from django.core.management import execute_from_command_line as main; main()"
        self.run(shlex.join(["python", "-c", main, "startproject", "mysite", "."]))
        # The checkout is beside the project, as the page has it.
        (self.folder.parent / "towpath").symlink_to(PROJECT)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End what it has started; what does not end is killed, with its descendants."""
        for process in self._started:
            process.terminate()
        while self._started:
            process = self._started.pop()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def apply(self, block: Block, *, environment: Mapping[str, str] | None = None) -> None:
        """Do with a block what its mark says; commands with these variables changed."""
        path = self.folder / block.file
        match block.action:
            case "prepend":
                path.write_text(block.text + path.read_text())
            case "append":
                path.write_text(path.read_text() + block.text)
            case "write":
                path.write_text(block.text)
            case "run":
                for command in block.text.splitlines():
                    self.run(command, environment=environment)
            case "shell":
                self.run(shlex.join(["python", "manage.py", "shell", "-c", block.text]), environment=environment)
            case "start":
                for command in block.text.splitlines():
                    self.start(command)
            case _:
                raise AssertionError(f"nobody knows how to try {block.action!r}")

    def run(self, command: str, *, exit_code: int = 0, environment: Mapping[str, str] | None = None) -> str:
        """What it prints; fails, with all of that, when it ends with another exit code."""
        program, *arguments = shlex.split(command)
        variables = {**self._variables(), **(environment or {})}
        if program == "python":
            done = run_python(
                *arguments,
                cwd=self.folder,
                env=variables,
                site_packages=self._own.site_packages if self._own else [],
                timeout=_MOST_SECONDS,
                is_one_output=True,
            )
        else:
            done = subprocess.run(
                [program, *arguments],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_MOST_SECONDS,
                check=False,
            )
        assert done.returncode == exit_code, f"{command} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def are_all_running(self) -> bool:
        """True; fails, with what it printed last, when a started process has ended."""
        for number, process in enumerate(self._started):
            assert process.poll() is None, f"{process.args!r} ended:\n{self._log(number).read_text()[-3000:]}"
        return bool(self._started)

    def printed(self) -> str:
        """What the started processes have printed."""
        return "".join(self._log(number).read_text() for number in range(len(self._started)))

    def start(self, command: str) -> None:
        with self._log(len(self._started)).open("wb") as log:
            process = subprocess.Popen(
                shlex.split(command),
                cwd=self.folder,
                env=self._variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(process)

    def _log(self, number: int) -> Path:
        return self.folder.parent / f"process-{number}.log"

    def _variables(self) -> dict[str, str]:
        """Nearly nothing of this test run's own: its variables are this application's."""
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        beside = {"PYTHONPATH": str(self.installed), "PIP_TARGET": str(self.installed)}
        return {
            **kept,
            "PATH": ":".join([*([str(self._own.scripts)] if self._own else []), str(_SCRIPTS), os.environ["PATH"]]),
            **({} if self._own else beside),
            # pip without a network: the dependencies are in the tests' own environment. (0 means "no isolation".)
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            **self._environment,
        }
