"""TLS in front of a service that speaks none: the certificate is the test's own, the service the real one."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import trustme

#: What a PostgreSQL client sends before TLS: length 8, and a number that is not a protocol version.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
_CHUNK_BYTES = 64 * 1024


class TlsTerminator:
    """Takes TLS connections on a port of its own and passes what is inside on to a port of this machine."""

    def __init__(self, certificate: trustme.LeafCert, port: int, *, is_postgresql: bool = False) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(self._context)
        self._target = port
        self._is_postgresql = is_postgresql
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        #: Connections whose client was content with the certificate.
        self.accepted = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone does not wake up an accept in another thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._is_postgresql:
                if connection.recv(len(_SSL_REQUEST), socket.MSG_WAITALL) != _SSL_REQUEST:
                    return  # a client that would continue without TLS
                connection.sendall(b"S")
            with (
                self._context.wrap_socket(connection, server_side=True) as inside,
                socket.create_connection(("127.0.0.1", self._target)) as service,
            ):
                self.accepted += 1
                back = threading.Thread(target=_pass_on, args=(service, inside), daemon=True)
                back.start()
                _pass_on(inside, service)
                back.join()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_CHUNK_BYTES):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)
