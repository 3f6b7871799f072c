"""The answer of a command: it is the only thing on standard output.

Whatever a project's logs or signal handlers print in the meantime goes to stderr.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from django.core.management.base import BaseCommand, OutputWrapper


@contextlib.contextmanager
def nothing_but_the_answer(command: BaseCommand) -> Iterator[None]:
    """A context in which standard output gets only what the command writes to its own `stdout`."""
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as stack:
        # A log handler may hold the stream itself. So the file descriptor is redirected, too, if this process runs only
        # the command.
        if (
            getattr(command, "_called_from_command_line", False)
            and sys.__stdout__ is not None
            and sys.__stderr__ is not None
        ):
            stack.enter_context(_led_to_stderr(command, sys.__stdout__.fileno(), sys.__stderr__.fileno()))
        yield


@contextlib.contextmanager
def _led_to_stderr(command: BaseCommand, stdout: int, stderr: int) -> Iterator[None]:
    before = command.stdout
    with os.fdopen(os.dup(stdout), "w", encoding=getattr(before, "encoding", None)) as answer:
        os.dup2(stderr, stdout)
        command.stdout = OutputWrapper(answer)
        try:
            yield
        finally:
            command.stdout = before
            answer.flush()
            before.flush()
            os.dup2(answer.fileno(), stdout)
