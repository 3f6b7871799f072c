"""The ports of one stack: the same at every start when possible.

Invariant: two stacks that start at the same moment never choose the same port. A choice is held by an abstract unix
socket of that name until the process ends; looking whether a port is free is not enough, services bind seconds later.
"""

from __future__ import annotations

import json
import random
import socket
from pathlib import Path

from deploy.local.errors import LocalStackError

#: Not the services' usual ports, which other software of the machine may use or expect, and none of those from 32768
#: on, which the kernel gives to outgoing connections.
PREFERRED = {
    "postgres": 24329,
    "amqp": 26729,
    "rabbitmq_management": 15679,
    "rabbitmq_dist": 25679,
    "clickhouse": 18129,
    "web": 8029,
}

#: Ports beside each other that a name needs: RabbitMQ's port mapper follows its distribution port.
_WIDTH = {"rabbitmq_dist": 2}

_ATTEMPTS = 100

_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
#: Below are the ports that well-known software expects to find free.
_LOWEST = 20_000


class Ports:
    """Chooses free ports and remembers them in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._held: list[socket.socket] = []
        self._chosen: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}

    def choose(self, name: str) -> int:
        """The remembered port, else the preferred one, else any; free now and not given to another stack."""
        width = _WIDTH.get(name, 1)
        for port in (self._chosen.get(name), PREFERRED[name], *(_any_port() for _ in range(_ATTEMPTS))):
            if port is not None and self._hold(range(port, port + width)):
                self._chosen[name] = port
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.write_text(json.dumps(self._chosen))
                return port
        raise LocalStackError(f"No free port for {name} on 127.0.0.1. See what listens with: ss -ltn")

    def release(self) -> None:
        """Let other stacks choose these ports."""
        for sentinel in self._held:
            sentinel.close()
        self._held.clear()

    def _hold(self, ports: range) -> bool:
        """True if all ports are free; they are held from then on."""
        sentinels = []
        for port in ports:
            sentinel = socket.socket(socket.AF_UNIX)
            sentinels.append(sentinel)
            try:
                sentinel.bind(f"\0towpath-port-{port}")
                _check_free(port)
            except (OSError, OverflowError):
                for each in sentinels:
                    each.close()
                return False
        self._held += sentinels
        return True


def _check_free(port: int) -> None:
    """Raise OSError when somebody listens on the port."""
    with socket.socket() as probe:
        # Connections of an earlier run that are still in TIME_WAIT do not stop a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))


def _any_port() -> int:
    """None that the kernel gives to outgoing connections: one of those could take it before the service does."""
    first_ephemeral = int(_EPHEMERAL_PORTS.read_text().split()[0])
    return random.randrange(min(_LOWEST, first_ephemeral - _ATTEMPTS), first_ephemeral)  # noqa: S311 - no secret
