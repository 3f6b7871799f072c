"""What an operator sees while something is broken."""

from __future__ import annotations

import contextlib
import io
import json

from django.core.management import call_command


def problems(text: str = "") -> list[str]:
    """The problems that `manage.py pipeline status` reports and that have the text in them."""
    printed = io.StringIO()
    with contextlib.suppress(SystemExit):
        call_command("pipeline", "status", "--json", stdout=printed)
    return [problem for problem in json.loads(printed.getvalue())["problems"] if text in problem]
