"""The services of one test run: PostgreSQL, RabbitMQ and the ClickHouse endpoint, empty, on free ports.

With `EVENT_STORE_URL=postgresql://` the event store is a database on the run's PostgreSQL, and no ClickHouse is
started; the tests in tests/faults are the same then.

A pytest plugin (`-p tests.services`): it puts the URLs into the environment when it is imported, which is before
pytest-django reads Django's settings. The services themselves start with the first test that asks for them, so a run of
unit tests needs none. One that cannot start ends the run: nothing is skipped.

Each run holds a folder `.local/test/<n>` by a file lock, so that runs at the same time do not meet; the next run in a
folder clears what the last one left there for reading.

With TEST_SERVICES=given, the run uses the services of DATABASE_URL, RABBITMQ_URL (and RABBITMQ_MANAGEMENT_URL) and
EVENT_STORE_URL, on this machine, and neither starts nor stops any: tests marked `own_services` are then left out.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast
from urllib.parse import unquote, urlsplit

import pytest
from xdist.scheduler.loadfile import LoadFileScheduling  # type: ignore[import-untyped]

from deploy.local.clickhouse import ClickHouse
from deploy.local.credentials import private_folder
from deploy.local.errors import LocalStackError
from deploy.local.ports import Ports
from deploy.local.postgres import Postgres
from deploy.local.process import PROJECT
from deploy.local.rabbitmq import RabbitMQ
from tests.administering import let_role_administer
from tests.variables import every_variable
from towpath.eventlog.connect import with_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.local.process import Process

_RUNS = PROJECT / ".local" / "test"
#: True if the services are somebody else's.
ARE_GIVEN = os.environ.get("TEST_SERVICES") == "given"

_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
#: Less is left alone, as the 64 MiB that a container has. A run's workers use a few hundred megabytes each.
_MEMORY_BYTES = 4 << 30

#: Where the ports of a run are looked for first: not those of the local stack, which may want to start meanwhile.
_FIRST_PORT = 21_000
#: Ports beside each other that belong to one run.
_PORTS_PER_RUN = 10

_TESTS = PROJECT / "tests"
#: Files of tests/deploy whose tests share a deployment.
_DEPLOYED = frozenset(
    _TESTS / "deploy" / name for name in ("test_postgres_roles.py", "test_rabbitmq.py", "test_tls.py")
)
#: `make faults`: the fault matrix, the pages in a browser, and files that start whole programs or databases.
_LONG = _DEPLOYED | {
    _TESTS / "faults",
    _TESTS / "browser",
    _TESTS / "integration" / "test_large_rows.py",
    _TESTS / "integration" / "test_migrating_outboxes.py",
    _TESTS / "integration" / "test_other_logs.py",
    _TESTS / "integration" / "test_running.py",
}

#: These fixtures start the product's processes, or an engine of the test's own. Of such tests, `make test` runs only
#: those of the whole path from publish to ack.
_FIXTURES_WITH_PROCESSES = frozenset({"workers", "bare_fleet", "deployment", "endpoint", "web_url"})
_WHOLE_PATH = _TESTS / "integration" / "test_end_to_end.py"


@dataclass(frozen=True, slots=True)
class Services:
    """The running services, to be stopped and killed by tests, and the folder that keeps the run's logs."""

    folder: Path
    postgres: Postgres
    rabbitmq: RabbitMQ
    clickhouse: ClickHouse
    event_store_url: str
    #: A port that nothing listens on, held for a web server.
    web_port: int

    @property
    def is_store_postgresql(self) -> bool:
        """True if the event store is not ClickHouse."""
        return self.event_store_url.startswith("postgresql:")

    @property
    def all(self) -> tuple[Process, ...]:
        return (self.postgres, self.rabbitmq, *(() if self.is_store_postgresql else (self.clickhouse,)))

    def start(self) -> None:
        """Return when all of them answer; raises LocalStackError."""
        for service in self.all:
            service.start()
        for service in self.all:
            service.wait_until_ready()
        let_role_administer(self.postgres.superuser_url)

    def stop(self) -> None:
        """End them. Only PostgreSQL is asked, because a killed one leaves shared memory behind."""
        self.postgres.request_stop()
        self.clickhouse.kill()
        self.rabbitmq.kill()
        self.postgres.wait_until_stopped()


class _Given:
    """A service that runs already, as far as tests need it that leave it alone."""

    is_running = True

    def __init__(self, variable: str) -> None:
        self.url = self.superuser_url = os.environ[variable]
        parts = urlsplit(self.url)
        self.port = self.amqp_port = parts.port
        self.user, self.password = unquote(parts.username or ""), unquote(parts.password or "")
        self.management_url = os.environ.get("RABBITMQ_MANAGEMENT_URL", "")

    def __getattr__(self, name: str) -> object:
        raise AssertionError(f"{self.url} is not this run's own, so it has no {name}: mark the test `own_services`")


@dataclass(frozen=True, slots=True)
class _GivenServices(Services):
    def start(self) -> None:
        """They run."""

    def stop(self) -> None:
        """They continue."""


def _hold_free_folder() -> tuple[int, Path, TextIO]:
    """The first folder that no other run holds, cleared; it is held until the file is closed."""
    for number in itertools.count():
        folder = _RUNS / str(number)
        private_folder(folder)
        lock = (folder / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _leave_memory(folder)
        for left in folder.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
        return number, folder, lock
    raise AssertionError("itertools.count() does not end")


def _put_into_memory(folder: Path) -> None:
    """Let the services' data be in memory, if there is enough.

    Processes die in these tests, and the power does not go: waiting for a disk at each commit and each insert shows
    nothing. The logs stay in the folder.
    """
    if not ARE_GIVEN and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _MEMORY_BYTES:
        memory = Path(tempfile.mkdtemp(prefix="towpath-test-", dir=_MEMORY))
        (folder / "memory").symlink_to(memory)
        for service in ("postgres", "rabbitmq", "clickhouse", "embedded"):
            (memory / service).mkdir()
            (folder / service).symlink_to(memory / service)


def _leave_memory(folder: Path) -> None:
    if (memory := folder / "memory").is_symlink():
        shutil.rmtree(memory.resolve(), ignore_errors=True)


def _chosen_ports(folder: Path, number: int) -> Ports:
    names = ("postgres", "amqp", "rabbitmq_management", "clickhouse", "web", "rabbitmq_dist")
    first = _FIRST_PORT + _PORTS_PER_RUN * number
    (folder / "ports.json").write_text(json.dumps({name: first + n for n, name in enumerate(names)}))
    return Ports(folder / "ports.json")


def _make_services(folder: Path, ports: Ports) -> Services:
    if ARE_GIVEN:
        return _GivenServices(
            folder=folder,
            postgres=cast("Postgres", _Given("DATABASE_URL")),
            rabbitmq=cast("RabbitMQ", _Given("RABBITMQ_URL")),
            clickhouse=cast("ClickHouse", _Given("EVENT_STORE_URL")),
            event_store_url=os.environ["EVENT_STORE_URL"],
            web_port=ports.choose("web"),
        )
    log = folder / "log"
    postgres = Postgres(folder / "postgres", ports.choose("postgres"), log / "postgres.log")
    clickhouse = ClickHouse(folder / "clickhouse", ports.choose("clickhouse"), log / "clickhouse.log")
    is_asked_for = os.environ.get("EVENT_STORE_URL") == "postgresql://"
    return Services(
        folder=folder,
        postgres=postgres,
        rabbitmq=RabbitMQ(
            folder / "rabbitmq",
            ports.choose("amqp"),
            ports.choose("rabbitmq_management"),
            ports.choose("rabbitmq_dist"),
            log / "rabbitmq.log",
        ),
        clickhouse=clickhouse,
        event_store_url=with_server("postgresql://", database_url=postgres.url) if is_asked_for else clickhouse.url,
        web_port=ports.choose("web"),
    )


def _keep_bytecode() -> None:
    """Let this process, and those that the tests start, find modules compiled: hundreds of starts, each a sixth less.

    Even where the environment has asked Python to leave no bytecode behind, as it does in many containers.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False


def _set_environment(services: Services) -> None:
    # Those of a developer's shell would change what is tested.
    for name in every_variable():
        os.environ.pop(name, None)
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "backend.config.settings",
        "DATABASE_URL": services.postgres.url,
        "RABBITMQ_URL": services.rabbitmq.url,
        "EVENT_STORE_URL": services.event_store_url,
        "SECRET_KEY": "only-for-tests-but-as-long-as-a-real-one-has-to-be",
        "ALLOWED_HOSTS": "127.0.0.1,localhost",
        "ENVIRONMENT": "test",
        "LOG_JSON": "true",
    }


_keep_bytecode()
_number, _folder, _lock = _hold_free_folder()
_put_into_memory(_folder)
_ports = _chosen_ports(_folder, _number)
try:
    _services = _make_services(_folder, _ports)
except (LocalStackError, KeyError) as error:
    raise pytest.UsageError(f"The services of the tests cannot be started: {error}") from error
_set_environment(_services)


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """The three services, running. The run ends here, as failed, when one does not start."""
    try:
        _services.start()
    except LocalStackError as error:
        _services.stop()
        pytest.exit(f"The services of the tests do not start: {error}", returncode=pytest.ExitCode.INTERRUPTED)
    yield _services
    _services.stop()


def pytest_report_header() -> str:
    return f"services: {'given by URL' if ARE_GIVEN else 'on demand'}, data and logs in {_folder}"


@pytest.hookimpl(tryfirst=True)
def pytest_itemcollected(item: pytest.Item) -> None:
    """Mark tests that start real processes and wait for what they do, and those that are left to `make faults`."""
    has_processes = not _FIXTURES_WITH_PROCESSES.isdisjoint(getattr(item, "fixturenames", ()))
    if has_processes:
        item.add_marker("timing")
    if (has_processes and item.path != _WHOLE_PATH) or not _LONG.isdisjoint((item.path, *item.path.parents)):
        item.add_marker("slow")


@pytest.hookimpl
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import what `make test` would leave out: a browser's driver alone takes seconds."""
    return True if config.option.markexpr == "not slow" and collection_path in _LONG else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, and count as deselected, what needs services of the run's own; begin with what takes long.

    The file with the longest tests comes first, because a worker that began with it at the end would be the only one
    still at work. Within a file, and between those of one length, the order is as random as before.
    """
    if ARE_GIVEN:
        own = [item for item in items if item.get_closest_marker("own_services")]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]
    lengths: dict[Path, float] = defaultdict(float)
    for item in items:
        lengths[item.path] += _length(item)
    items.sort(key=lambda item: -lengths[item.path])


class _ByDeployment(LoadFileScheduling):  # type: ignore[misc]  # it has no types
    """A file is one process's, and so are the files whose tests share a deployment, which takes long to make."""

    def _split_scope(self, nodeid: str) -> str:
        file = str(super()._split_scope(nodeid))
        return "a deployment" if PROJECT / file in _DEPLOYED else file


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    return _ByDeployment(config, log)


def _length(item: pytest.Item) -> float:
    """How long a test takes, about, as the number of tests that use the services and start no process."""
    if limit := item.get_closest_marker("timeout"):
        return float(limit.args[0]) / 3  # who has a limit above the others' takes long
    if item.get_closest_marker("timing"):
        return 20
    return 1 if "services" in getattr(item, "fixturenames", ()) else 0.02


def pytest_unconfigure() -> None:
    """Give folder, memory and ports back."""
    _leave_memory(_folder)
    _ports.release()
    _lock.close()
