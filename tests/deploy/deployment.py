"""A deployment on the services of the test run: what docker-compose.yml says, but for the addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

import psycopg2
import urllib3

from deploy.local.process import PROJECT, Process, Program
from tests.administering import on_database, run_file
from tests.clickhouse import url_of
from tests.deploy.compose import compose
from tests.forked import run_python

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.services import Services

#: Everything happens soon.
_QUICK = {"DISPATCH_INTERVAL_SECONDS": "0.1", "WINDOW_LINGER_SECONDS": "0.3"}
_SEND_SHIFTS = (
    "import django; django.setup();"
    "from towpath.actors import dispatch_shift, recover_shift; dispatch_shift.send(); recover_shift.send()"
)
_SET_UP_RABBITMQ = "import sys; from deploy.rabbitmq.setup import main; sys.exit(main())"
#: What a service says when a right is missing, in a log.
_REFUSALS = ("permission denied", "ACCESS_REFUSED", "ACCESS_DENIED", "Not enough privileges")


@dataclass
class Deployment:
    """Starts processes of roles with the environment that the compose file gives them."""

    services: Services
    variables: Mapping[str, str]
    log_folder: Path
    database: str = "deployed"
    vhost: str = "towpath"
    event_store: str = "deployed"
    #: Replaces what the compose file says, in every role.
    changes: dict[str, str] = field(default_factory=dict)
    _started: list[Process] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._started:
            process.kill()

    def environment(self, service: str) -> dict[str, str]:
        """The compose file's, with the addresses of this run's services."""
        given = {
            name: str(value) for name, value in compose(self.variables)["services"][service]["environment"].items()
        }
        given["DATABASE_URL"] = self._moved(given["DATABASE_URL"], self.services.postgres.port, self.database)
        for name in ("RABBITMQ_URL", "RABBITMQ_AGGREGATOR_URL", "RABBITMQ_SCHEDULER_URL", "RABBITMQ_WEB_URL"):
            if name in given:
                given[name] = self._moved(given[name], self.services.rabbitmq.amqp_port, self.vhost)
        # The local endpoint has one user: what the ClickHouse users may do is shown in test_clickhouse.py.
        for name in given.keys() & {"EVENT_STORE_URL", "EVENT_STORE_VERIFIER_URL", "EVENT_STORE_EXPLORER_URL"}:
            given[name] = url_of(self.services.clickhouse, database=self.event_store)
        if "RABBITMQ_ADMIN_URL" in given:
            rabbitmq = self.services.rabbitmq
            port = urlsplit(rabbitmq.management_url).port
            admin = f"{quote(rabbitmq.user)}:{quote(rabbitmq.password)}@127.0.0.1:{port}"
            given["RABBITMQ_ADMIN_URL"] = f"http://{admin}"
        # METRICS_PORT: the containers have an address each, these processes share one.
        own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "METRICS_PORT": ""}
        return {**given, **own, **_QUICK, **self.changes, "BIND": f"127.0.0.1:{self.services.web_port}"}

    def create_database(self) -> None:
        """An empty database with the roles of roles.sql."""
        with closing(self.connect_as_superuser("postgres")) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f"DROP DATABASE IF EXISTS {self.database} WITH (FORCE)")
                cursor.execute(f"CREATE DATABASE {self.database}")
        self.apply_roles()

    def apply_roles(self) -> None:
        superuser = on_database(self.services.postgres.superuser_url, self.database)
        run_file(superuser, PROJECT / "deploy" / "postgres" / "roles.sql", variables=self.variables)

    def run(self, role: str, *arguments: str, service: str = "") -> str:
        """Run `deploy/role` to its end, as the container of this service does; what it printed."""
        return self._run(["deploy/role", role, *arguments], service or role)

    def manage(self, service: str, *arguments: str) -> str:
        return self._run_python(["manage.py", *arguments], service)

    def set_up_rabbitmq(self) -> None:
        """What `deploy/role migrate` does last, for a new virtual host: the rest is as the first run left it."""
        self._run_python(["-c", _SET_UP_RABBITMQ], "migrate")

    def start(self, role: str) -> Process:
        """Start `deploy/role`; it is killed with the deployment."""
        process = Process(
            Program(
                name=role,
                argv=("deploy/role", role),
                log=self.log_folder / f"{role}.log",
                environment=self.environment(role),
            )
        )
        self._started.append(process)
        process.start()
        return process

    def send_shifts(self) -> None:
        """What the scheduler does once a minute, but with the right to declare the queue: nobody may have yet."""
        self._run_python(["-c", _SEND_SHIFTS], "dispatcher")

    def sign_up(self, email: str) -> int:
        """The status of the web's answer."""
        person = {"email": email, "first_name": "A", "last_name": "B"}
        url = f"http://127.0.0.1:{self.services.web_port}/api/users"
        return urllib3.PoolManager(retries=False, timeout=30).request("POST", url, json=person).status

    def connect(self, service: str) -> Any:
        """A connection with the rights of this service."""
        return psycopg2.connect(self.environment(service)["DATABASE_URL"])

    def connect_as_superuser(self, database: str = "") -> Any:
        return psycopg2.connect(on_database(self.services.postgres.superuser_url, database or self.database))

    def refusals(self) -> list[str]:
        """Lines of the processes' logs in which a service refused something for want of a right."""
        lines = [line for log in self.log_folder.glob("*.log") for line in log.read_text().splitlines()]
        return [line for line in lines if any(refusal in line for refusal in _REFUSALS)]

    def _run(self, command: list[str], service: str) -> str:
        return _output(
            subprocess.run(
                command,
                cwd=PROJECT,
                env={**os.environ, **self.environment(service)},
                capture_output=True,
                text=True,
                timeout=110,
                check=False,
            )
        )

    def _run_python(self, arguments: list[str], service: str) -> str:
        environment = {**os.environ, **self.environment(service)}
        return _output(run_python(*arguments, cwd=PROJECT, env=environment, timeout=110))

    @staticmethod
    def _moved(url: str, port: int, path: str) -> str:
        parts = urlsplit(url)
        user = parts.netloc.rpartition("@")[0]
        return parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}", path=path).geturl()


def _output(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
