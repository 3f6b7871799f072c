"""ClickHouse's HTTP protocol over chDB, the real engine embedded in this process.

Invariants: an answer 200 to an INSERT means that the engine has committed the whole body; a body that did not arrive
whole inserts nothing; a chDB handle is never shared between threads (each connection has a thread and a handle);
nothing is executed without the password, nor for a page in a browser.

    python -m deploy.local.clickhouse_server --data DIR --port N --password-file FILE [--host 127.0.0.1]
"""

from __future__ import annotations

import argparse
import base64
import binascii
import gzip
import hmac
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import uuid
import zlib
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import parse_qsl, urlsplit

import lz4.frame  # type: ignore[import-untyped]
from backports import zstd

from deploy.local.clickhouse_engine import Answer, Engine, EngineError, Statement
from deploy.local.clickhouse_rights import write_config

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

#: URL parameters of the HTTP interface that are not settings of the engine.
_NOT_SETTINGS = frozenset(
    {
        "query",
        "database",
        "default_format",
        "query_id",
        "user",
        "password",
        "quota_key",
        "role",
        "session_id",
        "session_timeout",
        "session_check",
        "close_session",
        "stacktrace",
        "compress",
        "decompress",
        "buffer_size",
        "wait_end_of_query",
        "client_protocol_version",
    }
)

_DECOMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "deflate": zlib.decompress,
    "lz4": lz4.frame.decompress,
    "zstd": zstd.decompress,
}

#: ClickHouse's own table (HTTPHandler.cpp), the codes that the pipeline and its tests can meet; all others are 500.
_HTTP_STATUS = {
    **dict.fromkeys((6, 25, 26, 27, 38, 41, 43, 44, 53, 62, 69, 70, 72, 117, 131, 168), 400),
    **dict.fromkeys((46, 47, 50, 56, 60, 73, 81, 115, 390), 404),
    **dict.fromkeys((497, 516), 403),
    48: 501,
    203: 503,
}

#: The one user, ClickHouse's own.
USER = "default"
#: A page that has its own name lead here (DNS rebinding) names itself.
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", re.IGNORECASE)

#: How long a stop waits for requests that are running: longer than the slowest insert of the pipeline.
_DRAIN_SECONDS = 15


class _BadRequestError(Exception):
    """The request cannot be understood; nothing of it was executed."""


class _NotAllowedError(Exception):
    """Nobody who may send this; its body was not even read."""


class _CutOffError(Exception):
    """The client went away before its request was complete; nobody is left to answer to."""


class _Handler(BaseHTTPRequestHandler):
    """One connection: a thread, a chDB handle, one request after another."""

    protocol_version = "HTTP/1.1"
    # Small requests would wait 40 ms for a delayed ack with Nagle's algorithm.
    disable_nagle_algorithm = True
    server: Server
    _engine: Engine | None = None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/ping" and not self._reason_to_distrust():
            self._send(200, b"Ok.\n", {})
        else:
            self._respond()

    def do_POST(self) -> None:
        self._respond()

    def setup(self) -> None:
        super().setup()
        self.server.opened(self.connection)

    def finish(self) -> None:
        self.server.closed(self.connection)
        if self._engine is not None:
            self._engine.close()
        # A client that left without reading its answer is not an error of this server.
        with suppress(OSError):
            super().finish()

    def _respond(self) -> None:
        self.server.set_busy(self.connection, is_busy=True)
        try:
            self._answer()
        except _CutOffError as error:
            self.log_error("%s", error)
            self.close_connection = True
        finally:
            self.server.set_busy(self.connection, is_busy=False)
        if self.server.is_stopping:
            self.close_connection = True

    def _answer(self) -> None:
        began = time.monotonic_ns()
        url = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        headers = {"X-ClickHouse-Query-Id": url.get("query_id") or str(uuid.uuid4())}
        try:
            answer = self._execute(url)
        except EngineError as error:
            text = str(error) if "(version " in str(error) else f"{error} (version {self.server.version})"
            headers["X-ClickHouse-Exception-Code"] = str(error.code)
            self.log_error("%s", text[:500])
            self._send(_HTTP_STATUS.get(error.code, 500), f"{text}\n".encode(), headers)
        except _BadRequestError as error:
            self._send(400, f"{error}\n".encode(), headers)
        except _NotAllowedError as error:
            # What of its body is on the way would be taken for the next request.
            self.close_connection = True
            headers["X-ClickHouse-Exception-Code"] = "516"
            self._send(403, f"Code: 516. DB::Exception: {error}. (AUTHENTICATION_FAILED)\n".encode(), headers)
        else:
            headers["X-ClickHouse-Format"] = answer.format
            headers["X-ClickHouse-Summary"] = _summary(answer, elapsed_ns=time.monotonic_ns() - began)
            self._send(200, answer.body, headers)

    def _execute(self, url: Mapping[str, str]) -> Answer:
        if reason := self._reason_to_distrust():
            raise _NotAllowedError(reason)
        if not self._has_password(url):
            raise _NotAllowedError("default: Authentication failed: the password is in EVENT_STORE_URL of stack.env")
        body = self._body()
        query = url.get("query", "").encode()
        statement = Statement(
            query=query or body,
            data=body if query else b"",
            database=url.get("database") or self.headers.get("X-ClickHouse-Database") or "default",
            default_format=url.get("default_format") or self.headers.get("X-ClickHouse-Format") or "TabSeparated",
            settings={name: value for name, value in url.items() if _is_setting(name)},
            parameters={name.removeprefix("param_"): value for name, value in url.items() if _is_parameter(name)},
        )
        if not statement.query.strip():
            raise EngineError("Code: 62. DB::Exception: Syntax error: Empty query. (SYNTAX_ERROR)")
        if self._engine is None:
            self._engine = Engine(self.server.data, guard=self.server.guard)
        return self._engine.execute(statement)

    def _reason_to_distrust(self) -> str:
        """Why the request comes from a page in a browser, or through somebody else's name; empty if it does not."""
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _LOOPBACK.fullmatch(hosts[0].strip()) or not self.path.startswith("/"):
            return "the Host must be 127.0.0.1, localhost or [::1]"
        if "Origin" in self.headers or self.headers.get("Sec-Fetch-Site", "none") != "none":
            return "this server does not answer pages in a browser"
        return ""

    def _has_password(self, url: Mapping[str, str]) -> bool:
        """True if the request has the user and its password, in one of the ways that ClickHouse knows."""
        if self.server.password is None:
            return True
        user, password = url.get("user", USER), url.get("password", "")
        if "X-ClickHouse-Key" in self.headers:
            user, password = self.headers.get("X-ClickHouse-User", USER), self.headers["X-ClickHouse-Key"]
        elif "Authorization" in self.headers:
            kind, _, token = self.headers["Authorization"].partition(" ")
            try:
                user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                return False
            if kind.lower() != "basic":
                return False
        is_right = hmac.compare_digest(password.encode(errors="replace"), self.server.password.encode())
        return is_right and user == USER

    def _body(self) -> bytes:
        """The whole body, decompressed; raises _CutOffError when it is shorter than announced."""
        if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
            body = b"".join(iter(self._chunk, b""))
        else:
            body = self._read(int(self.headers.get("Content-Length", 0)))
        encoding = self.headers.get("Content-Encoding", "identity").lower()
        if encoding not in _DECOMPRESS:
            raise _BadRequestError(f"Unknown Content-Encoding {encoding}. Known: {', '.join(_DECOMPRESS)}")
        try:
            return _DECOMPRESS[encoding](body)
        except (OSError, EOFError, RuntimeError, zlib.error, zstd.ZstdError) as error:
            raise _BadRequestError(f"The body is not {encoding}: {error}") from error

    def _chunk(self) -> bytes:
        line = self.rfile.readline(1024)
        try:
            size = int(line.split(b";")[0], 16)
        except ValueError:
            raise _CutOffError(f"Connection lost or garbled in a chunked body: {line[:80]!r}") from None
        chunk = self._read(size)
        # Even after the last chunk: its empty line is what tells a complete body from a cut one.
        if self._read(2) != b"\r\n":
            raise _CutOffError("A chunk is not followed by an end of line")
        return chunk

    def _read(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise _CutOffError(f"Connection lost: {len(data)} of {size} bytes of the body arrived")
        return data

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Head and body in one write, or the answer costs two packets and a delayed ack."""
        fields = {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-Content-Type-Options": "nosniff",
            "Content-Length": str(len(body)),
            "Connection": "close" if self.close_connection else "keep-alive",
            "X-ClickHouse-Server-Display-Name": "towpath-local",
            "X-ClickHouse-Timezone": "UTC",
            **headers,
        }
        lines = [
            f"HTTP/1.1 {status} {self.responses[status][0]}",
            *(f"{name}: {text}" for name, text in fields.items()),
        ]
        try:
            head = "\r\n".join((*lines, "\r\n")).encode("latin-1", "replace")
            self.connection.sendall(head if self.command == "HEAD" else head + body)
        except OSError as error:
            raise _CutOffError(f"The client left before its answer: {error}") from error

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """No access log: the pipeline's own log has each insert."""


class Server(ThreadingHTTPServer):
    """Accepts connections until told to stop, then lets the running requests finish."""

    request_queue_size = 128
    daemon_threads = True
    _stop_signals: ClassVar = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, *, data: Path, host: str, port: int, password: str | None) -> None:
        """Without a password, everybody who reaches the port may ask."""
        self.data = data
        self.password = password
        self.is_stopping = False
        self._changed = threading.Condition()
        self._connections: dict[socket.socket, bool] = {}
        # Kept open for the whole life: the engine shuts down with its last handle.
        self._keeper = Engine(data)
        self.guard = self._keeper.guard
        self.version = self._keeper.execute(Statement(query=b"SELECT version()")).body.decode().strip()
        super().__init__((host, port), _Handler)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; returns when all is closed."""
        for number in self._stop_signals:
            signal.signal(number, self._request_stop)
        self.serve_forever(poll_interval=0.1)
        self.server_close()
        self._drain()
        self._keeper.close()

    def opened(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections[connection] = False

    def closed(self, connection: socket.socket) -> None:
        with self._changed:
            self._connections.pop(connection, None)
            self._changed.notify_all()

    def set_busy(self, connection: socket.socket, *, is_busy: bool) -> None:
        with self._changed:
            self._connections[connection] = is_busy
            self._changed.notify_all()

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.is_stopping = True
        # shutdown() waits for serve_forever, which runs in the thread that this handler has interrupted.
        threading.Thread(target=self.shutdown).start()

    def _drain(self) -> None:
        with self._changed:
            for connection, is_busy in self._connections.items():
                if not is_busy:
                    with suppress(OSError):
                        connection.shutdown(socket.SHUT_RD)
            self._changed.wait_for(lambda: not any(self._connections.values()), timeout=_DRAIN_SECONDS)


def _is_parameter(name: str) -> bool:
    return name.startswith("param_")


def _is_setting(name: str) -> bool:
    return name not in _NOT_SETTINGS and not _is_parameter(name)


def _summary(answer: Answer, *, elapsed_ns: int) -> str:
    counts = {
        "read_rows": answer.read_rows,
        "read_bytes": answer.read_bytes,
        "written_rows": answer.written_rows,
        "written_bytes": answer.written_bytes,
        "total_rows_to_read": "0",
        "result_rows": answer.written_rows,
        "result_bytes": answer.written_bytes or len(answer.body),
        "elapsed_ns": elapsed_ns,
    }
    return json.dumps({name: str(count) for name, count in counts.items()})


def main() -> None:
    """Serve one data folder on one port until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local.clickhouse_server", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    options = parser.parse_args()
    # The engine takes the time zone of the process; a ClickHouse server of this project runs in UTC.
    os.environ["TZ"] = "UTC"
    options.data.mkdir(parents=True, exist_ok=True)
    server = Server(
        data=Path(f"{options.data}?config-file={write_config(options.data)}"),
        host=options.host,
        port=options.port,
        password=options.password_file.read_text().strip(),
    )
    print(f"ClickHouse {server.version} (chDB) listens on {options.host}:{options.port}", flush=True)
    server.run()
    # The engine's background threads outlive its handles; the interpreter's teardown must not race with them.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
