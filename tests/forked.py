"""Python programs, each in a process of its own that need not import the libraries first.

One process of a run imports what is installed, and nothing of this project, and is forked for each program. The program
has the environment, the folder and the outputs that are asked for, and those only; the project is imported by it, anew.
All that it does not do is what `python` and the libraries do at a start, which takes more than most of our programs.

Not for a test of a start itself, nor of what is imported by one: that starts `python`.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import itertools
import json
import os
import runpy
import select
import signal
import site
import socket
import struct
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What can be imported without settings, and needs the most time. Another version of one may lack a part.
_LIBRARIES = (
    "clickhouse_connect",
    "django.contrib.admin",
    "django.core.management.commands.check",
    "django.core.management.commands.makemigrations",
    "django.core.management.commands.migrate",
    "django.core.management.commands.shell",
    "django.core.servers.basehttp",
    "django.db.backends.postgresql.base",
    "django.template.backends.django",
    "django_stubs_ext",
    "dramatiq.brokers.rabbitmq",
    "periodiq",
    "prometheus_client",
    "pydantic.fields",
    "sqlparse",
    "structlog",
    "whitenoise",
)


_NUMBER = struct.Struct("!i")


def run_python(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str],
    site_packages: Sequence[Path] = (),
    timeout: float = 60,
    is_one_output: bool = False,
) -> subprocess.CompletedProcess[str]:
    """As `python` with these arguments, a file, `-c` or `-m` first: the exit code, and what was printed.

    With `site_packages`, it finds what is installed there, instead of this environment's own; what is imported already
    is this one's. Raises TimeoutExpired, and the program is killed. With `is_one_output`, what went to stderr is among
    the rest.
    """
    with (
        os.fdopen(os.memfd_create("stdout"), "w+", encoding="utf-8") as out,
        os.fdopen(os.memfd_create("stderr"), "w+", encoding="utf-8") as err,
    ):
        outputs = (out.fileno(), (out if is_one_output else err).fileno())
        program = Forked(*arguments, cwd=cwd, env=env, outputs=outputs, site_packages=site_packages)
        try:
            code = program.wait(timeout)
        finally:
            program.close()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())


class Forked:
    """A program that runs: what Popen has, as far as it is needed. It ends with this process at the latest."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str],
        outputs: tuple[int, int],
        site_packages: Sequence[Path] = (),
        is_session: bool = False,
    ) -> None:
        """With `is_session`, it leads a session and a group of its own, and what it writes is its owner's alone."""
        self.args = arguments
        self.returncode: int | None = None
        self._asked, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(_prepared(), [b"."], [theirs.fileno(), *outputs])
        program = {
            "arguments": arguments,
            "folder": str(cwd),
            "environment": dict(env),
            "site_packages": [str(folder) for folder in site_packages],
            "is_session": is_session,
        }
        self._asked.sendall(json.dumps(program).encode() + b"\n")
        self.pid = self._number()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, negative for a signal; raises TimeoutExpired."""
        if self.returncode is None:
            if not select.select([self._asked], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._number()
            self.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Kill it, if it still runs."""
        self._asked.close()

    def _number(self) -> int:
        (number,) = _NUMBER.unpack(self._asked.recv(_NUMBER.size, socket.MSG_WAITALL))
        return int(number)


@functools.cache
def _prepared() -> socket.socket:
    """To the process that has imported the libraries. It ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())], env=kept, cwd="/", pass_fds=[theirs.fileno()]
    )
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- In that process -------------------------------------------------------------------------------------------------


def _next_program(control: socket.socket) -> dict[str, Any]:
    """Returns in a process that is to run the program; ends with the tests, in that which is forked."""
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, 1, 3)
        if not asked:
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not os.fork():
            control.close()
            return _watched(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watched(connection: int, out: int, err: int) -> dict[str, Any]:
    """Returns in a process that is to run the program; this one tells how it has ended, or kills it."""
    asking = socket.socket(fileno=connection)
    with asking.makefile("rb") as request:
        program: dict[str, Any] = json.loads(request.readline())
    is_session = program.pop("is_session")
    pid = os.fork()
    if not pid:
        asking.close()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if is_session:
            os.setsid()
            os.umask(0o077)
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, name in ((null, 0), (out, 1), (err, 2)):
            os.dup2(descriptor, name)
            os.close(descriptor)
        return program
    asking.sendall(_NUMBER.pack(pid))
    waiting = select.poll()
    waiting.register(asking, select.POLLIN)
    waiting.register(ended := os.pidfd_open(pid), select.POLLIN)
    if not any(descriptor == ended for descriptor, _ in waiting.poll()):
        with contextlib.suppress(ProcessLookupError):  # nobody waits any longer
            (os.killpg if is_session else os.kill)(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(OSError):
        asking.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _become(program: Mapping[str, Any]) -> NoReturn:
    """Run it as `python` does, to its end."""
    code = 0
    try:
        _run(**program)
    except SystemExit as stop:
        if stop.code is not None:
            code = stop.code if isinstance(stop.code, int) else 1
        if isinstance(stop.code, str):
            sys.stderr.write(f"{stop.code}\n")
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the program's
        code = 1
        sys.excepthook(type(error), error, error.__traceback__)
    # All that `python` does at the end but to take the libraries to pieces, which takes a tenth of a second.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(arguments: Sequence[str], folder: str, environment: Mapping[str, str], site_packages: Sequence[str]) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    program, *rest = arguments
    first = {"-c": "", "-m": folder}.get(program, str(Path(program).resolve().parent))
    path = [folder for folder in environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    if site_packages:
        library = itertools.takewhile(lambda folder: folder not in site.getsitepackages(), sys.path[1:])
        sys.path[:] = [first, *path, *library, *site_packages]
    else:
        sys.path[:1] = [first, *path]
    if program == "-c":
        code, *rest = rest
        sys.argv = ["-c", *rest]
        main: Any = types.ModuleType("__main__")
        sys.modules["__main__"] = main
        exec(compile(code, "<string>", "exec"), vars(main))  # noqa: S102 - as `python -c`
    elif program == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [program, *rest]
        runpy.run_path(program, run_name="__main__")


def _serve() -> NoReturn:
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests': this ends with them
    for name in _LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # What was imported is garbage in none of the programs: they need not look.
    gc.collect()
    gc.freeze()
    _become(_next_program(control))


if __name__ == "__main__":
    _serve()
