"""manage.py as an operator runs it."""

from __future__ import annotations

import io
import json
import os
import subprocess
from typing import Any

from django.core.management import CommandError, call_command

from deploy.local.process import PROJECT
from tests.forked import run_python

#: Nobody listens on port 1.
RABBITMQ_DOWN = {"RABBITMQ_URL": "amqp://127.0.0.1:1"}
CLICKHOUSE_DOWN = {"EVENT_STORE_URL": "clickhouse://127.0.0.1:1/default"}
POSTGRES_DOWN = {"DATABASE_URL": "postgresql://towpath@127.0.0.1:1/towpath"}


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with these variables changed; its exit code and what it printed."""
    return run_python("manage.py", *arguments, cwd=PROJECT, env={**os.environ, **environment})


def here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process: faster still, for what needs no other environment. Wrong usage has exit code 1."""
    printed, told = io.StringIO(), io.StringIO()
    code = 0
    try:
        call_command(*arguments, stdout=printed, stderr=told)
    except CommandError as error:
        code = error.returncode
        told.write(f"{error}\n")
    except SystemExit as stop:
        code = int(stop.code or 0)
    return subprocess.CompletedProcess(arguments, code, printed.getvalue(), told.getvalue())


def status() -> dict[str, Any]:
    """What `pipeline status` answers."""
    answer: dict[str, Any] = json.loads(here("pipeline", "status", "--json").stdout)
    return answer


def doctor(**environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    arguments = ("pipeline", "doctor", "--json")
    done = manage(*arguments, **environment) if environment else here(*arguments)
    return done.returncode, {finding["check"]: finding for finding in json.loads(done.stdout)}
