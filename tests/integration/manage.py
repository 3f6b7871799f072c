"""manage.py as an operator runs it."""

from __future__ import annotations

import io
import os
import subprocess
import sys

from django.core.management import CommandError, call_command

from deploy.local.process import PROJECT


def manage(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it with these variables changed; its exit code and what it printed."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=PROJECT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def here(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The same in this process: a second faster, for what needs no other environment. Wrong usage has exit code 1."""
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
