"""The whole stack on one machine: services, migrations, web, scheduler, dispatcher, aggregators.

Invariant: while `stack.env` exists and its stack lives, the URLs in it answer; two stacks on different folders share
nothing, not even a port.

    python -m deploy.local.stack run [--folder .local] [--aggregators 2]
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Self

from django.core.exceptions import ImproperlyConfigured

from deploy.local.application import MIGRATIONS, Application
from deploy.local.clickhouse import ClickHouse
from deploy.local.credentials import LOCAL, remembered_secret, write_private
from deploy.local.errors import LocalStackError
from deploy.local.ports import Ports
from deploy.local.postgres import Postgres
from deploy.local.progress import Progress
from deploy.local.rabbitmq import RabbitMQ
from deploy.local.supervisor import Supervisor
from deploy.local.traffic import start_live_traffic
from towpath.eventlog.connect import with_server

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

    from deploy.local.process import Process

DEFAULT_AGGREGATORS = 2
#: `curl -K` takes the user and password of the ClickHouse endpoint from it.
CURL_CONFIG = "clickhouse.curl"


class Stack:
    """A running stack, as a context manager.

    A service whose URL is in `environment` is not started but used; the other variables in it reach all programs.
    """

    def __init__(
        self,
        folder: Path = LOCAL,
        *,
        aggregators: int = DEFAULT_AGGREGATORS,
        environment: Mapping[str, str] | None = None,
        has_application: bool = True,
    ) -> None:
        self.folder = folder.resolve()
        self.log_folder = self.folder / "log"
        self.progress = Progress()
        self.supervisor = Supervisor(self.folder, on_event=self.progress.show)
        self.postgres: Postgres | None = None
        self.rabbitmq: RabbitMQ | None = None
        self.clickhouse: ClickHouse | None = None
        self.environment: dict[str, str] = dict(environment or {})
        self._aggregators = aggregators
        self._has_application = has_application
        self._ports = Ports(self.folder / "ports.json")

    def __enter__(self) -> Self:
        with self.progress.step(f"folder {self.folder}"):
            self.supervisor.__enter__()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End everything; the URLs are not valid from then on."""
        for name in ("stack.env", CURL_CONFIG):
            (self.folder / name).unlink(missing_ok=True)
        try:
            self.supervisor.stop()
        finally:
            self._ports.release()

    def kill(self, name: str) -> None:
        """SIGKILL a program and its descendants; the supervisor starts it again."""
        self.supervisor.kill(name)

    def pid(self, name: str) -> int | None:
        """The process id of a program, None while it is down."""
        return self.supervisor.pid(name)

    def _start(self) -> None:
        self._keep_last_logs()
        services = self._choose_services()
        web_port = self._ports.choose("web")
        self._complete_environment(web_port)
        self.supervisor.start(*services)
        if self._has_application:
            self._start_application(web_port)
        self._write_stack_env()

    def _keep_last_logs(self) -> None:
        for log in self.log_folder.glob("*.log"):
            log.replace(log.with_suffix(".log.1"))

    def _choose_services(self) -> list[Process]:
        services: list[Process] = []
        variables = self.environment
        store = variables.get("EVENT_STORE_URL") or variables.get("CLICKHOUSE_URL")
        if not variables.get("DATABASE_URL"):
            self.postgres = Postgres(
                self.folder / "postgres", self._ports.choose("postgres"), self.log_folder / "postgres.log"
            )
            variables["DATABASE_URL"] = self.postgres.url
            services.append(self.postgres)
        if not variables.get("RABBITMQ_URL"):
            self.rabbitmq = RabbitMQ(
                self.folder / "rabbitmq",
                self._ports.choose("amqp"),
                self._ports.choose("rabbitmq_management"),
                self._ports.choose("rabbitmq_dist"),
                self.log_folder / "rabbitmq.log",
            )
            variables["RABBITMQ_URL"] = self.rabbitmq.url
            variables["RABBITMQ_MANAGEMENT_URL"] = self.rabbitmq.management_url
            services.append(self.rabbitmq)
        if not store:
            self.clickhouse = ClickHouse(
                self.folder / "clickhouse", self._ports.choose("clickhouse"), self.log_folder / "clickhouse.log"
            )
            store = self.clickhouse.url
            # What a shell has is another store's: verification and the explorer would find nothing of this one there.
            variables["EVENT_STORE_VERIFIER_URL"] = variables["EVENT_STORE_EXPLORER_URL"] = ""
            services.append(self.clickhouse)
        try:
            variables["EVENT_STORE_URL"] = with_server(store, database_url=variables["DATABASE_URL"])
        except ImproperlyConfigured as error:
            raise LocalStackError(f"EVENT_STORE_URL: {error}") from error
        return services

    def _complete_environment(self, web_port: int) -> None:
        defaults = {
            "SECRET_KEY": remembered_secret(self.folder / "secret_key"),
            "ALLOWED_HOSTS": "127.0.0.1,localhost",
            "ENVIRONMENT": "local",
            "DEBUG": "false",
            "PYTHONUNBUFFERED": "1",
            "DJANGO_SETTINGS_MODULE": "backend.config.settings",
        }
        self.environment = {**defaults, **self.environment, "WEB_URL": f"http://127.0.0.1:{web_port}"}

    def _start_application(self, web_port: int) -> None:
        application = Application(log_folder=self.log_folder, environment=self.environment)
        for name in MIGRATIONS:
            with self.progress.step(name):
                migration = application.migration(name)
                migration.start()
                migration.wait_until_done()
        self.supervisor.start(
            application.web(web_port),
            application.scheduler(),
            application.dispatcher(),
            *(application.aggregator(number + 1) for number in range(self._aggregators)),
        )

    def _write_stack_env(self) -> None:
        names = (
            "DATABASE_URL",
            "RABBITMQ_URL",
            "EVENT_STORE_URL",
            "WEB_URL",
            "RABBITMQ_MANAGEMENT_URL",
            "SECRET_KEY",
            "ALLOWED_HOSTS",
            "ENVIRONMENT",
        )
        lines = [f"{name}={self.environment[name]}\n" for name in names if name in self.environment]
        write_private(self.folder / "stack.env", "".join(lines))
        if self.clickhouse:
            # For `curl -K`, so that the password stands in no process list.
            user = f'user = "{self.clickhouse.user}:{self.clickhouse.password}"\n'
            write_private(self.folder / CURL_CONFIG, user)


def run(folder: Path, *, aggregators: int, sign_ups_per_second: float) -> None:
    """Run a stack until Ctrl-C or SIGTERM; a second one of them kills everything immediately."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with Stack(folder, aggregators=aggregators, environment=variables_of_this_process()) as stack:
            stack.progress.say(_summary(stack))
            if sign_ups_per_second:
                start_live_traffic(stack.environment["WEB_URL"], per_second=sign_ups_per_second)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def variables_of_this_process() -> dict[str, str]:
    names = (
        "DATABASE_URL",
        "RABBITMQ_URL",
        "EVENT_STORE_URL",
        "CLICKHOUSE_URL",
        "RABBITMQ_MANAGEMENT_URL",
        "SECRET_KEY",
        "ALLOWED_HOSTS",
        "ENVIRONMENT",
        "DEBUG",
    )
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def _summary(stack: Stack) -> str:
    web = stack.environment["WEB_URL"]
    lines = [
        "",
        f"  Events       {web}/events/",
        f"  Pipeline     {web}/pipeline/",
        f"  API docs     {web}/api/docs",
        f"  Admin        {web}/admin/  (sign in: .venv/bin/python manage.py createsuperuser makes an account)",
    ]
    if stack.rabbitmq:
        rabbitmq = stack.rabbitmq
        lines.append(f"  RabbitMQ     {rabbitmq.management_url}  user {rabbitmq.user}, password {rabbitmq.password}")
    if stack.clickhouse:
        query = f"http://127.0.0.1:{stack.clickhouse.port}/?query=SELECT+count()+FROM+event_log"
        lines.append(f"  ClickHouse   curl -K {_shown(stack.folder / CURL_CONFIG)} '{query}'")
    return "\n".join([*lines, f"  Logs         {stack.log_folder}", "", "  Ctrl-C stops everything."])


def _shown(path: Path) -> str:
    """As one types it in the folder that one is in."""
    return shlex.quote(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))


def main() -> int:
    """The command line; exit code 1 when the stack cannot be started."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.stack")
    parser.add_argument("command", choices=["run"])
    parser.add_argument("--folder", type=Path, default=LOCAL)
    parser.add_argument("--aggregators", type=int, default=DEFAULT_AGGREGATORS)
    parser.add_argument("--traffic", type=float, default=0, help="sign-ups per second, through the web API")
    options = parser.parse_args()
    try:
        run(options.folder, aggregators=options.aggregators, sign_ups_per_second=options.traffic)
    except LocalStackError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
