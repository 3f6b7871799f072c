"""A project with Towpath's settings that configures neither logging nor structlog."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from deploy.local.process import PROJECT
from tests.integration.rows import create_users, undelivered, write_events
from tests.integration.windows import deliver, expire_leases, sealed
from tests.integration.workers import QUICK
from tests.waiting import eventually
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


def manage(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "django", *arguments],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("is_loud", [False, True], ids=["quiet", "loud"])
@pytest.mark.parametrize("command", _COMMANDS, ids=" ".join)
def test_standard_output_is_one_json_document(
    environment: dict[str, str],
    store: EventStore,
    tmp_path: Path,
    command: tuple[str, ...],
    is_loud: bool,
) -> None:
    if is_loud:
        (tmp_path / "quiet_settings.py").write_text(_SETTINGS + _LOUD)
    # Given something to say for each: a window to be recovered, a receipt to be verified
    create_users(2)
    deliver(sealed(), store)
    create_users(2, prefix="stuck")
    sealed()
    expire_leases()

    done = manage(environment, *command)

    json.loads(done.stdout)


def test_a_page_of_markdown_is_nothing_else(environment: dict[str, str]) -> None:
    done = manage(environment, "eventlog", "events", "--markdown")

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
        ("DATABASE_URL", f"postgresql://towpath:{MARK}@127.0.0.1:1/towpath"),
    ],
)
def test_no_command_says_a_password(environment: dict[str, str], services: Services, variable: str, url: str) -> None:
    environment[variable] = url.replace("RABBITMQ", str(services.rabbitmq.amqp_port))
    create_users(1)

    for arguments in (("pipeline", "doctor"), ("pipeline", "recover"), ("pipeline", "verify"), ("migrate", "--check")):
        done = manage(environment, *arguments)
        assert MARK not in done.stdout + done.stderr


@pytest.mark.timing
def test_no_worker_says_a_payload_or_a_password_whatever_is_raised(environment: dict[str, str], tmp_path: Path) -> None:
    """Also not as the local variable of a traceback, which structlog's own default shows."""
    environment |= {"SECRET_KEY": f"key-of-a-test-{MARK}-{MARK}", "FAILPOINTS": "loaded=raise@1,written=raise@1"}
    write_events([json.dumps({"secret": MARK})] * 5)
    logs = {}
    processes = []
    for queue in ("dispatch", "aggregate"):
        logs[queue] = tmp_path / f"{queue}.log"
        with logs[queue].open("wb") as log:
            command = [
                *(sys.executable, "-m", "dramatiq", "django_dramatiq.setup", "towpath.actors"),
                *("--processes", "1", "--threads", "4", "--queues", queue),
            ]
            processes.append(
                subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        eventually(lambda: not undelivered(), seconds=_WAIT_SECONDS)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(30)

    said = {queue: log.read_text() for queue, log in logs.items()}
    assert "FailpointReached" in said["aggregate"] + said["dispatch"]
    assert "window_acked" in said["aggregate"] + said["dispatch"]
    assert not [queue for queue, text in said.items() if MARK in text]
