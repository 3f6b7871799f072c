"""A port for a server that a test starts."""

from __future__ import annotations

import random
import socket

#: Below those that connections to the outside get, on every system: one of these could take the port before its server
#: does. Below those of a run's own services as well (tests/services.py).
_PORTS = range(10_000, 20_000)


def any_free_port() -> int:
    """Nobody has it at the moment."""
    # Not seeded as the tests are: each worker would look for the same ones.
    chosen = random.SystemRandom()
    while True:
        port = chosen.choice(_PORTS)
        with socket.socket() as listener:
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
