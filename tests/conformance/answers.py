"""A ClickHouse endpoint that answers as the real one, but for inserts: for those it does what a test says."""

from __future__ import annotations

import contextlib
import http.client
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Answer:
    """What an insert is answered with; it is not carried out."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BodyLimit:
    """Inserts with a larger body are answered with `too_large` and not carried out; the others are."""

    bytes: int
    too_large: Answer


@dataclass(frozen=True, slots=True)
class Filter:
    """Inserts whose body contains the word are answered so and not carried out; the others are."""

    word: bytes
    answer: Answer


#: Close the connection before or after the insert is carried out, or never answer.
Silence = Literal["close", "carry out and close", "hang"]


class Endpoint:
    """Listens on a port of its own while it is entered."""

    def __init__(self, port: int, *, inserts: Answer | Silence | BodyLimit | Filter) -> None:
        self._clickhouse_port = port
        self.inserts = inserts
        self._is_over = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                endpoint._handle(self)

            def do_POST(self) -> None:
                endpoint._handle(self)

            def log_message(self, *_: object) -> None:
                """Nothing: the tests look at outcomes."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        query = parse_qs(urlsplit(handler.path).query).get("query", [""])[0].encode() or body
        if not query.startswith(b"INSERT INTO event_log "):
            self._answer(handler, self._forwarded(handler, body))
            return
        match self.inserts:
            case Answer():
                self._answer(handler, self.inserts)
                return
            case BodyLimit(limit, too_large):
                self._answer(handler, too_large if len(body) > limit else self._forwarded(handler, body))
                return
            case Filter(word, answer):
                self._answer(handler, answer if word in body else self._forwarded(handler, body))
                return
            case "carry out and close":
                self._forwarded(handler, body)
            case "hang":
                self._is_over.wait()
        handler.close_connection = True

    def _forwarded(self, handler: BaseHTTPRequestHandler, body: bytes) -> Answer:
        clickhouse = http.client.HTTPConnection("127.0.0.1", self._clickhouse_port, timeout=20)
        with contextlib.closing(clickhouse):
            clickhouse.request(handler.command, handler.path, body, dict(handler.headers))
            response = clickhouse.getresponse()
            headers = {name: value for name, value in response.getheaders() if name not in _HOP_BY_HOP}
            return Answer(response.status, response.read(), headers)

    @staticmethod
    def _answer(handler: BaseHTTPRequestHandler, answer: Answer) -> None:
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(answer.body)))
        handler.end_headers()
        handler.wfile.write(answer.body)


_HOP_BY_HOP = ("Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive")
