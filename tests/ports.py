"""A port for a server that a test starts."""

from __future__ import annotations

import socket


def any_free_port() -> int:
    """Nobody listens on it at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
