"""RabbitMQ 4 of the tree: one node, or several that make a cluster on this machine.

Invariant: nothing is shared with another RabbitMQ of the machine: port mapper, cookie and names are the run's own.
"""

from __future__ import annotations

import base64
import json
import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from deploy.local.credentials import remembered_secret, write_private
from deploy.local.loopback import OPENER, is_answering
from deploy.local.process import Process, Program
from deploy.real.tree import PATH, entered

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_USER = "towpath"
_START_SECONDS = 120
_MEMORY_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Of one node."""

    amqp: int
    management: int
    distribution: int


class PortMapper(Process):
    """By which the nodes of a run find each other."""

    def __init__(self, tree: Path, port: int, log: Path) -> None:
        self.port = port
        argv = entered(tree, ("epmd", "-address", "127.0.0.1", "-port", str(port)), binds={})
        super().__init__(Program(name="epmd", argv=argv, log=log, environment={"PATH": PATH}))


class Node(Process):
    """A RabbitMQ node on loopback with management and an administrator; all its files are in a folder.

    Nodes that name each other in `cluster` and have the same cookie make one.
    """

    def __init__(
        self,
        tree: Path,
        folder: Path,
        *,
        ports: Ports,
        mapper: PortMapper,
        name: str = "rabbit",
        cluster: Sequence[str] = (),
        secrets: Path | None = None,
    ) -> None:
        """The cookie and the administrator's password are in the folder `secrets`, or in the node's own."""
        self._folder = folder
        self._ports = ports
        self._mapper = mapper
        self._name = name
        self._cluster = cluster
        self._secrets = secrets or folder
        self._inside = f"/srv/{name}"
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(
            Program(
                name=name,
                argv=entered(tree, ("/usr/lib/rabbitmq/bin/rabbitmq-server",), binds={folder: self._inside}),
                log=folder.parent / "log" / f"{name}.log",
                is_ready=self._accepts_connections,
                environment=self._environment(),
                start_seconds=_START_SECONDS,
                stop_seconds=1,
            )
        )

    @property
    def node_name(self) -> str:
        return f"{self._name}@localhost"

    @property
    def amqp_port(self) -> int:
        return self._ports.amqp

    @property
    def url(self) -> str:
        return f"amqp://{_USER}:{self._password}@127.0.0.1:{self._ports.amqp}/%2F"

    @property
    def management_url(self) -> str:
        return f"http://127.0.0.1:{self._ports.management}/"

    @property
    def admin_url(self) -> str:
        """As RABBITMQ_ADMIN_URL has it."""
        return f"http://{_USER}:{self._password}@127.0.0.1:{self._ports.management}"

    def ask(self, path: str) -> Any:
        """What the management API has there; a virtual host is written as a part of the path."""
        request = urllib.request.Request(f"{self.management_url}api/{path}", headers=self._headers)  # noqa: S310 - our own
        with OPENER.open(request, timeout=10) as answer:
            return json.load(answer)

    def queue(self, vhost: str, name: str) -> dict[str, Any]:
        """The queue, with its type, leader and members."""
        found: dict[str, Any] = self.ask(f"queues/{quote(vhost, safe='')}/{quote(name, safe='')}")
        return found

    def start(self) -> None:
        """Write the configuration and start the node."""
        if not self.is_running:
            self._configure()
            super().start()

    @property
    def _password(self) -> str:
        return remembered_secret(self._secrets / "password")

    @property
    def _headers(self) -> dict[str, str]:
        token = base64.b64encode(f"{_USER}:{self._password}".encode()).decode()
        return {"Authorization": f"Basic {token}"}

    def _accepts_connections(self) -> bool:
        check = f"{self.management_url}api/health/checks/port-listener/{self._ports.amqp}"
        return is_answering(check, headers=self._headers)

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": self._inside,  # where Erlang looks for the cookie
            "RABBITMQ_NODENAME": self.node_name,
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": f"{self._inside}/rabbitmq.config",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{self._inside}/enabled_plugins",
            "RABBITMQ_MNESIA_BASE": f"{self._inside}/mnesia",
            "RABBITMQ_LOG_BASE": f"{self._inside}/log",
            "RABBITMQ_DIST_PORT": str(self._ports.distribution),
            # Without this the start script stays in front of the node.
            "RUNNING_UNDER_SYSTEMD": "true",
            "NOTIFY_SOCKET": "",
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._mapper.port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                "+S 2:2 +sbwt none -start_epmd false -kernel inet_dist_use_interface {127,0,0,1}"
            ),
        }

    def _configure(self) -> None:
        cookie = self._folder / ".erlang.cookie"
        if not cookie.exists():
            write_private(cookie, remembered_secret(self._secrets / "cookie"))
            cookie.chmod(0o400)
        (self._folder / "enabled_plugins").write_text("[rabbitmq_management].\n")
        nodes = ", ".join(f"'{node}'" for node in self._cluster)
        cluster = f"{{cluster_nodes, {{[{nodes}], disc}}}}," if nodes else ""
        write_private(
            self._folder / "rabbitmq.config",
            f"""[
{{rabbit, [
  {cluster}
  {{tcp_listeners, [{{"127.0.0.1", {self._ports.amqp}}}]}},
  {{default_user, <<"{_USER}">>}},
  {{default_pass, <<"{self._password}">>}},
  {{collect_statistics_interval, 1000}},
  {{vm_memory_high_watermark, {{absolute, {_MEMORY_BYTES}}}}},
  {{disk_free_limit, 104857600}},
  {{log, [{{console, [{{enabled, true}}, {{level, info}}]}}, {{file, [{{file, false}}]}}]}}
]}},
{{rabbitmq_management, [{{tcp_config, [{{ip, "127.0.0.1"}}, {{port, {self._ports.management}}}]}}]}}
].
""",
        )
