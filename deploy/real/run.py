"""`make real`: what the project can show on the real servers of production, and what this machine cannot do.

    python -m deploy.real.run [--only suite|cluster|compose ...]

Exit code 0: every part that is possible here has passed. Each part that is not says why.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from deploy.clickhouse.users import SHORT_NAMES
from deploy.local.credentials import private_folder
from deploy.local.errors import LocalStackError, PackageMissingError
from deploy.local.process import PROJECT, Process
from deploy.real import cache, compose, rabbitmq, tree
from deploy.real.cache import BuildFailed, NotPossible
from deploy.real.clickhouse import ADMINISTRATOR, ClickHouse, library
from deploy.real.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

#: Looked for here first: below what the kernel gives to outgoing connections.
_FIRST_PORT = 23_000
#: Of the table; all of it is said before.
_DETAIL = 160
_COUNTS = ("tests", "failures", "errors", "skipped")
#: What these servers can show differently from those of `make test`: every word that is spoken to a store, to RabbitMQ
#: and to PostgreSQL, the rights of each role, and proof, retention and erasure from end to end. The faults of
#: connections are left out, because ClickHouse's library ends with an insert that is cut.
_SLICE = (
    "tests/conformance",
    "tests/deploy/test_postgres_roles.py",
    "tests/deploy/test_rabbitmq.py",
    *(
        f"tests/integration/test_{name}.py"
        for name in (
            "commands",
            "database_role",
            "deliver",
            "dispatch",
            "doctor",
            "end_to_end",
            "erasure",
            "erasure_undelivered",
            "forged_messages",
            "large_rows",
            "logs",
            "proof",
            "refused_windows",
            "retention",
            "seals",
            "store_surroundings",
            "stored_content",
            "unproven",
            "verify",
            "verify_period",
        )
    ),
)


class Failed(Exception):
    """A part has failed; the message says what, in one line."""


@dataclass(frozen=True, slots=True)
class Result:
    """How a part ended."""

    name: str
    outcome: str
    seconds: float
    detail: str


class Report:
    """What a person sees meanwhile, and the table at the end."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.results: list[Result] = []

    def say(self, text: str) -> None:
        """A line, with the time since the start."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        print(f"[{minutes:2d}:{seconds:02d}] {text}", flush=True)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        began = time.monotonic()
        self.say(f"{name} ...")
        yield
        self.say(f"{name}: {time.monotonic() - began:.0f} s")

    def part(self, name: str, work: Callable[[], str]) -> None:
        """Do it, and note how it ended."""
        began = time.monotonic()
        self.say(f"== {name}")
        try:
            outcome, detail = "passed", work()
        except (NotPossible, PackageMissingError) as reason:
            outcome, detail = "not possible", f"because {reason}"
        except (Failed, BuildFailed, LocalStackError, subprocess.SubprocessError, OSError) as error:
            outcome, detail = "FAILED", str(error) or repr(error)
        self.say(f"== {name}: {outcome}: {detail}")
        self.results.append(Result(name, outcome, time.monotonic() - began, detail.splitlines()[0][:_DETAIL]))

    def table(self) -> str:
        rows = [
            f"{result.name:9} {result.outcome:12} {result.seconds:7.0f}  {result.detail}" for result in self.results
        ]
        return "\n".join((f"{'part':9} {'result':12} {'seconds':>7}  what", *rows))

    @property
    def has_failed(self) -> bool:
        return any(result.outcome == "FAILED" for result in self.results)


class Servers:
    """RabbitMQ 4, PostgreSQL 17 and ClickHouse with users, started when the first part needs them."""

    def __init__(self, folder: Path, report: Report) -> None:
        self._folder = folder
        self._report = report
        self._started: list[Process] = []
        self._environment: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        """That of a test run on them. Raises NotPossible, BuildFailed or StartError."""
        if not self._environment:
            with self._report.step("building the Debian 13 tree with RabbitMQ 4 and PostgreSQL 17, unless it is there"):
                servers = tree.servers()
            with self._report.step("fetching the library with ClickHouse's server, unless it is there"):
                library()
            with self._report.step("starting PostgreSQL, RabbitMQ and ClickHouse"):
                self._environment = self._start(servers)
        return self._environment

    def replicas(self) -> str:
        """Always raises NotPossible, after it has asked the server; or Failed, when that is out of date."""
        self.environment()
        # A replica fetches the other's parts by HTTP, from a listener of its own.
        answer = self._clickhouse.ask("SYSTEM START LISTEN INTERSERVER HTTP")
        if "supports only TCP and HTTP listeners" in answer:
            raise NotPossible("ClickHouse's server in this library has no listener for other replicas")
        raise Failed(f"this server can listen for other replicas by now, and no test uses it: {answer}")

    def stop(self) -> None:
        for process in reversed(self._started):
            process.kill()

    def _start(self, servers: Path) -> dict[str, str]:
        ports = _free_ports(6)
        mapper = rabbitmq.PortMapper(servers, next(ports), self._folder / "log" / "epmd.log")
        names = {"amqp": next(ports), "management": next(ports), "distribution": next(ports)}
        node = rabbitmq.Node(servers, self._folder / "rabbitmq", ports=rabbitmq.Ports(**names), mapper=mapper)
        postgres = Postgres(servers, self._folder / "postgres", port=next(ports))
        clickhouse = ClickHouse(self._folder / "clickhouse", port=next(ports))
        self._clickhouse = clickhouse
        self._started += [mapper, node, postgres, clickhouse]
        for process in self._started:
            process.start()
        for process in self._started:
            process.wait_until_ready()
        users = (ADMINISTRATOR, *(f"towpath_{role}" for role in SHORT_NAMES))
        return {
            **os.environ,
            "TEST_SERVICES": "given",
            "DATABASE_URL": postgres.url,
            "RABBITMQ_URL": node.url,
            "RABBITMQ_MANAGEMENT_URL": node.management_url,
            "EVENT_STORE_URL": clickhouse.url(ADMINISTRATOR, database="default"),
            # For tests/deploy/real.
            "REAL_SERVERS": json.dumps({user: clickhouse.url(user, database="towpath") for user in users}),
            "REAL_FOLDER": str(self._folder / "of-tests"),
        }


def _try_each(parts: Sequence[str], folder: Path, report: Report) -> None:
    servers = Servers(folder, report)
    cluster = "tests/deploy/real/test_cluster.py"
    try:
        if "suite" in parts:
            tests = (*_SLICE, "tests/deploy/real", f"--deselect={cluster}")
            report.part("suite", lambda: _tests(servers, folder, "suite", *tests))
        if "cluster" in parts:
            report.part("cluster", lambda: _tests(servers, folder, "cluster", cluster))
            report.part("replicas", servers.replicas)
    finally:
        servers.stop()
    if "compose" in parts:
        report.part("compose", lambda: compose.show(report.say))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make real")
    parser.add_argument("--only", action="append", choices=("suite", "cluster", "compose"))
    only = parser.parse_args().only or ("suite", "cluster", "compose")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    report = Report()
    private_folder(cache.folder())
    report.say(f"the cache is {cache.folder()} (REAL_CACHE)")
    with (cache.folder() / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another `make real` uses this cache: wait for it, or set REAL_CACHE", file=sys.stderr)
            return 1
        folder = cache.folder() / "run"
        shutil.rmtree(folder, ignore_errors=True)
        private_folder(folder)
        _try_each(only, folder, report)
        report.part("clean-up", _nothing_is_left)
        if not report.has_failed:
            shutil.rmtree(folder)
    report.say("the end\n")
    print(report.table(), flush=True)
    return 1 if report.has_failed else 0


def _end(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _tests(servers: Servers, folder: Path, name: str, *arguments: str) -> str:
    """Run these tests on the servers, in one process: they share a database. How many there were. Raises Failed."""
    environment = servers.environment()
    results = folder / f"{name}.xml"
    options = ("-m", "slow or not slow", "--numprocesses=0", "--durations=10", f"--junitxml={results}", *arguments)
    # All that they start ends with this process, even when it is killed.
    own = ("setpriv", "--pdeathsig=KILL", "--", *tree.OWN_WORLD, "--mount-proc", "--")
    command = (*own, sys.executable, "-m", "tests.again", *options)
    tests = subprocess.Popen(command, cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL)
    try:
        code = tests.wait()
    finally:
        tests.kill()
        tests.wait()
    counted = _counted(results)
    if code:
        raise Failed(f"pytest ended with exit code {code}: {counted}")
    return counted


def _counted(results: Path) -> str:
    """How many tests there were, by pytest's own file."""
    text = results.read_text() if results.exists() else ""
    counts = [re.search(rf'<testsuite [^>]*\b{what}="(\d+)"', text) for what in _COUNTS]
    named = [f"{count[1]} {what}" for what, count in zip(_COUNTS, counts, strict=True) if count]
    return ", ".join(named) or "no test has run"


def _nothing_is_left() -> str:
    """Raises Failed when something in the cache is still mounted, or runs."""
    mounted = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(cache.folder()) in line]
    if mounted:
        raise Failed(f"{len(mounted)} mounts are left, such as {mounted[0]}")
    running = [one for one in psutil.Process().children(recursive=True) if one.status() != psutil.STATUS_ZOMBIE]
    if running:
        raise Failed(f"{len(running)} processes are left, such as {running[0]}")
    return "nothing is mounted, nothing runs"


def _free_ports(count: int) -> Iterator[int]:
    """Ports that nobody listens on."""
    found = 0
    for port in range(_FIRST_PORT, _FIRST_PORT + 1000):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
        yield port
        found += 1
        if found == count:
            return
    raise LocalStackError(f"fewer than {count} ports are free from {_FIRST_PORT} on")


if __name__ == "__main__":
    sys.exit(main())
