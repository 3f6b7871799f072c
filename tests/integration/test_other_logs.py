"""A project with Towpath's settings that configures neither logging nor structlog."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from subprocess import CompletedProcess
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PROJECT
from tests.forked import run_python
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.windows import deliver, expire_leases, sealed
from tests.integration.workers import QUICK
from tests.waiting import eventually
from towpath.conf.config import knobs
from towpath.eventlog.store import EventStore

if TYPE_CHECKING:
    from pathlib import Path

    from tests.services import Services

_WAIT_SECONDS = 60
_SETTINGS = """
import os
from towpath.conf.settings import *

SECRET_KEY = os.environ["SECRET_KEY"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
AUTH_USER_MODEL = "users.User"
INSTALLED_APPS = [
    "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "axes", "django_dramatiq",
    "towpath", "backend.users",
]
from backend.config.database import database_settings
DATABASES = {"default": database_settings(os.environ["DATABASE_URL"])}
SILENCED_SYSTEM_CHECKS = ["axes.W001", "axes.W002", "axes.W003"]
"""

#: As many a project in a container has it, and what keeps the stream from the start.
_LOUD = """
import sys, structlog
AXES_VERBOSE = False  # it logs before any command begins
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stdout))
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["console"], "level": "DEBUG"},
}
"""

#: In every payload and password of a test, and nowhere else.
MARK = "swordfish6f1d0c9a52b84e7fb3a7c1d2e9f80a46"

_COMMANDS = [
    ("pipeline", "status", "--json"),
    ("pipeline", "doctor", "--json"),
    ("pipeline", "recover", "--json"),
    ("pipeline", "verify", "--json"),
    ("pipeline", "deadletters", "list", "--json"),
    ("eventlog", "status", "--json"),
    ("eventlog", "migrate", "--json"),
    ("eventlog", "events", "--json"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "quiet_settings.py").write_text(_SETTINGS)
    path = os.pathsep.join((str(tmp_path), str(PROJECT)))
    return {**os.environ, **QUICK, "DJANGO_SETTINGS_MODULE": "quiet_settings", "PYTHONPATH": path}


def hosted(environment: dict[str, str]) -> dict[str, str]:
    """With the product's variables under the names that they have in a host's project."""
    names = {name for knob in knobs() for name in knob.names} & environment.keys()
    return {**environment, **{f"TOWPATH_{name}": environment[name] for name in names}}


#: Each of the commands as `python -m django` runs it, in a process of its own, into files of its own. They are forked
#: from one that has loaded the settings, if these can be loaded: that takes ten times as long as a command.
_EACH = """
import contextlib, json, os, sys
import django
from django.core.management import execute_from_command_line

with contextlib.suppress(Exception):
    django.setup()
for number, command in enumerate(json.loads(sys.argv[2])):
    if not os.fork():
        for name, descriptor in (("out", 1), ("err", 2)):
            os.dup2(os.open(f"{sys.argv[1]}/{number}.{name}", os.O_CREAT | os.O_WRONLY, 0o600), descriptor)
        sys.argv = ["manage.py", *command]
        execute_from_command_line()
        sys.exit()
    _, status = os.wait()
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


def each(environment: dict[str, str], folder: Path, *commands: tuple[str, ...]) -> dict[str, CompletedProcess[str]]:
    """How each of the commands has ended, and what it said, by the command."""
    folder.mkdir()
    done = run_python("-c", _EACH, str(folder), json.dumps(commands), cwd=PROJECT, env=hosted(environment), timeout=100)
    assert done.returncode == 0, done.stderr
    # Nothing but this has gone to standard output before a command began.
    codes = [int(line) for line in done.stdout.splitlines()]
    return {
        " ".join(command): CompletedProcess(
            command,
            code,
            (folder / f"{number}.out").read_text(),
            done.stderr + (folder / f"{number}.err").read_text(),
        )
        for number, (command, code) in enumerate(zip(commands, codes, strict=True))
    }


@pytest.mark.parametrize("is_loud", [False, True], ids=["quiet", "loud"])
def test_standard_output_is_one_json_document(
    environment: dict[str, str], store: EventStore, tmp_path: Path, is_loud: bool
) -> None:
    if is_loud:
        (tmp_path / "quiet_settings.py").write_text(_SETTINGS + _LOUD)
    # Given something to say for each: a window to be recovered, a receipt to be verified
    create_users(2)
    deliver(sealed(), store)
    create_users(2, prefix="stuck")
    sealed()
    expire_leases()

    for done in each(environment, tmp_path / "said", *_COMMANDS).values():
        json.loads(done.stdout)


def test_a_page_of_markdown_is_nothing_else(environment: dict[str, str], tmp_path: Path) -> None:
    (done,) = each(environment, tmp_path / "said", ("eventlog", "events", "--markdown")).values()

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("#")


@pytest.mark.parametrize(
    ("variable", "url"),
    [
        ("RABBITMQ_URL", f"amqp://towpath:{MARK}@127.0.0.1:RABBITMQ/"),
        ("RABBITMQ_URL", f"amqp://towpath:{MARK}@127.0.0.1:1;amqp://towpath:{MARK}@does-not-exist.invalid/v"),
        ("RABBITMQ_URL", f"amqp://towpath:{MARK}@127.0.0.1:1?ssl=true"),
        ("RABBITMQ_URL", f"amqp://towpath:{MARK};x@127.0.0.1:1/v"),
        ("EVENT_STORE_URL", f"clickhouse://default:{MARK}@127.0.0.1:1/default"),
        ("EVENT_STORE_URL", f"clickhouse://default:{MARK}@127.0.0.1:1/default?connect_timeout=1"),
        ("EVENT_STORE_URL", f"clickhouse://127.0.0.1:1/default?password={MARK}"),
        ("EVENT_STORE_EXPLORER_URL", f"clickhouse://default:{MARK}@127.0.0.1:1/default?connect_timeout=1"),
        ("EVENT_STORE_VERIFIER_URL", f"clickhouse://default:{MARK}@127.0.0.1:1/default?connect_timeout=1"),
        ("DATABASE_URL", f"postgresql://towpath:{MARK}@127.0.0.1:1/towpath"),
    ],
)
def test_no_command_says_a_password(
    environment: dict[str, str], services: Services, tmp_path: Path, variable: str, url: str
) -> None:
    environment[variable] = url.replace("RABBITMQ", str(services.rabbitmq.amqp_port))
    create_users(1)
    commands = (("pipeline", "doctor"), ("pipeline", "recover"), ("pipeline", "verify"), ("migrate", "--check"))

    said = each(environment, tmp_path / "said", *commands)

    assert [name for name, done in said.items() if MARK in done.stdout + done.stderr] == []
    assert all(done.stdout + done.stderr for name, done in said.items() if name == "pipeline doctor")


@pytest.mark.timing
def test_no_worker_says_a_payload_or_a_password_whatever_is_raised(environment: dict[str, str], tmp_path: Path) -> None:
    """Also not as the local variable of a traceback, which structlog's own default shows."""
    environment |= {"SECRET_KEY": f"key-of-a-test-{MARK}-{MARK}", "FAILPOINTS": "loaded=raise@1,written=raise@1"}
    write_events([json.dumps({"secret": MARK})] * 5)
    logs = {}
    processes = []
    for queue in ("towpath.dispatch", "towpath.aggregate"):
        logs[queue] = tmp_path / f"{queue}.log"
        with logs[queue].open("wb") as log:
            command = [
                sys.executable,
                "-m",
                "dramatiq",
                "django_dramatiq.setup",
                "towpath.actors",
                "--processes",
                "1",
                "--threads",
                "4",
                "--queues",
                queue,
            ]
            processes.append(
                subprocess.Popen(command, cwd=PROJECT, env=hosted(environment), stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        eventually(lambda: not undelivered(), seconds=_WAIT_SECONDS)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)

    said = {queue: log.read_text() for queue, log in logs.items()}
    assert "FailpointReached" in said["towpath.aggregate"] + said["towpath.dispatch"]
    assert "window_acked" in said["towpath.aggregate"] + said["towpath.dispatch"]
    assert not [queue for queue, text in said.items() if MARK in text]
