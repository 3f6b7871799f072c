"""RabbitMQ of the local stack: the distribution's package, run as a node of the project's own.

Invariant: nothing is shared with another node of the machine (name, ports, port mapper, cookie, data, configuration
are the folder's own), and the whole node, port mapper included, is one process group that ends as one.
"""

from __future__ import annotations

import base64
import os
import subprocess
from typing import TYPE_CHECKING

from deploy.local.credentials import remembered_secret, write_private
from deploy.local.loopback import is_answering
from deploy.local.process import Process, Program
from deploy.local.rabbitmq_package import installed_server

if TYPE_CHECKING:
    from pathlib import Path

_USER = "towpath"
#: Half a gigabyte holds millions of the pipeline's messages, which carry ids only.
_MEMORY_BYTES = 512 * 1024 * 1024


class RabbitMQ(Process):
    """A RabbitMQ node on loopback with management UI and one user; all its files are under a folder."""

    def __init__(self, folder: Path, amqp_port: int, management_port: int, dist_port: int, log: Path) -> None:
        """The port after `dist_port` is the port mapper's."""
        self._folder = folder.resolve()
        self.amqp_port = amqp_port
        self.management_port = management_port
        self._dist_port = dist_port
        self.user = _USER
        super().__init__(
            Program(
                name="rabbitmq",
                argv=(
                    "/bin/sh",
                    "-c",
                    # The port mapper is a child of the node (exec keeps the process id) and dies with it; left to
                    # itself RabbitMQ starts one that stays for ever and listens on all addresses.
                    'setpriv --pdeathsig=KILL -- epmd & exec "$0"',
                    str(installed_server() / "sbin" / "rabbitmq-server"),
                ),
                log=log,
                is_ready=self._accepts_connections,
                environment=self._environment(),
                stop_seconds=30,
            )
        )

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{self.password}@127.0.0.1:{self.amqp_port}/%2F"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self.management_port}/"

    @property
    def password(self) -> str:
        return remembered_secret(self._folder / "password")

    def start(self) -> None:
        """Write the configuration and start the node."""
        if not self.is_running:
            self._configure()
            super().start()

    def control(self, *arguments: str) -> str:
        """The output of a `rabbitmqctl` command on this node (an alarm, a policy, a purge)."""
        command = [str(installed_server() / "sbin" / "rabbitmqctl"), "--quiet", *arguments]
        environment = {**os.environ, **self._environment()}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def _environment(self) -> dict[str, str]:
        return {
            # Erlang keeps the cookie there; the shared secret of all nodes of a user otherwise.
            "HOME": str(self._folder),
            "RABBITMQ_NODENAME": f"{_USER}{self.amqp_port}@localhost",
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self._folder / "rabbitmq.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self._folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self._folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self._folder / "log"),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            # Without this the start script stays in front of the node and has to be killed separately.
            "RUNNING_UNDER_SYSTEMD": "true",
            "NOTIFY_SOCKET": "",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._dist_port + 1),
            "ERL_CRASH_DUMP": str(self._folder / "erl_crash.dump"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none -start_epmd false"
                " -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _configure(self) -> None:
        (self._folder / "log").mkdir(parents=True, exist_ok=True)
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        # Erlang's own format: reading rabbitmq.conf costs a second at each start.
        write_private(
            self._folder / "rabbitmq.config",
            f"""[
{{rabbit, [
  {{tcp_listeners, [{{"127.0.0.1", {self.amqp_port}}}]}},
  {{default_user, <<"{_USER}">>}},
  {{default_pass, <<"{self.password}">>}},
  {{collect_statistics_interval, 2000}},
  {{vm_memory_high_watermark, {{absolute, {_MEMORY_BYTES}}}}},
  {{disk_free_limit, 104857600}},
  {{log, [{{console, [{{enabled, true}}, {{level, info}}]}}, {{file, [{{file, false}}]}}]}}
]}},
{{rabbitmq_management, [{{tcp_config, [{{ip, "127.0.0.1"}}, {{port, {self.management_port}}}]}}]}}
].
""",
        )

    def _accepts_connections(self) -> bool:
        """True if the node has opened its AMQP listener; it does so last of all."""
        token = base64.b64encode(f"{_USER}:{self.password}".encode()).decode()
        check = f"{self.management_url}api/health/checks/port-listener/{self.amqp_port}"
        return is_answering(check, headers={"Authorization": f"Basic {token}"})
