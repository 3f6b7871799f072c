"""A TCP proxy between the product's processes and one service, whose network fails on command.

Bytes are never changed or reordered. A fault only delays them, withholds them, or ends the connection; or it answers in
the server's place, for answers that the real server cannot be made to give.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK_BYTES = 64 * 1024
#: A request counts as complete once nothing has come for this long (`Kind.ANSWER`).
_QUIET_SECONDS = 0.2
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Kind(StrEnum):
    """What goes wrong."""

    REFUSE = "refuse"  # nobody listens, and open connections are cut
    BLACK_HOLE = "black hole"  # connections are accepted, but nothing comes through until it is healed
    CUT = "cut"  # both sides are reset after `after_bytes` of the request
    DROP_ANSWER = "drop answer"  # the request is delivered, but the connection is reset when the answer comes
    HOLD_ANSWER = "hold answer"  # the request is delivered, but the answer never comes
    LATE = "late"  # the request is delivered after `seconds`, even if the client has given up
    SLOW = "slow"  # `bytes_per_second` in both directions, and answers come `seconds` late
    ANSWER = "answer"  # the request is swallowed and answered with `answer`


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way to fail. It strikes a connection once `marker` appears in its request, and at most `times` connections
    (default: all)."""

    kind: Kind
    marker: bytes = b""
    times: int | None = None
    after_bytes: int = 0
    seconds: float = 0.0
    bytes_per_second: int = 0
    answer: bytes = b""


def with_port(url: str, port: int) -> str:
    """Return the URL with this port of 127.0.0.1."""
    parts = urlsplit(url)
    user, _, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}"))


class _Link:
    """A client's connection, and the one to the server that belongs to it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.struck_by: Fault | None = None
        self.passed = 0
        self._ends = 0
        self._guard = threading.Lock()

    def reset(self) -> None:
        """Reset both sides, as a broken network does."""
        for side in (self.client, self.server):
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def end_of_one_direction(self) -> bool:
        """Note that one direction is done. Once both are, close the sockets and return True."""
        with self._guard:
            self._ends += 1
            is_over = self._ends == 2
        if is_over:
            self.client.close()
            self.server.close()
        return is_over


class Proxy:
    """Listens on its own port while it is open. `fail` and `heal` switch faults while it runs."""

    def __init__(self, server_port: int) -> None:
        self._server = ("127.0.0.1", server_port)
        self._guard = threading.Condition()
        self._fault: Fault | None = None
        self._times_left: int | None = None
        self._is_closed = False
        self._links: set[_Link] = set()
        #: How many connections the current fault has struck, and how many pieces of answers it has withheld.
        self.struck = 0
        self.answers_lost = 0
        #: How many pieces of answers to late requests the server has sent, whether or not the client still waited.
        self.late_answered = 0
        self._listener = self._bound(0)
        self.port: int = self._listener.getsockname()[1]
        self._listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fail(self, fault: Fault) -> None:
        """Apply the fault until `heal` or another `fail`."""
        self._switch(fault)
        if fault.kind is Kind.REFUSE:
            self._unlisten()
            self.cut()

    def heal(self) -> None:
        """Let everything through. Connections whose answer was held back are cut."""
        self._switch(None)
        for link in self._all_links():
            if link.struck_by is not None and link.struck_by.kind is Kind.HOLD_ANSWER:
                link.reset()

    def cut(self) -> None:
        """Reset every connection."""
        for link in self._all_links():
            link.reset()

    def close(self) -> None:
        with self._guard:
            self._is_closed = True
            self._fault = None
            self._guard.notify_all()
        self._unlisten()
        self._listener.close()
        self.cut()

    def _switch(self, fault: Fault | None) -> None:
        with self._guard:
            previous, self._fault = self._fault, fault
            self._times_left = None if fault is None else fault.times
            self.struck = self.answers_lost = self.late_answered = 0
            self._guard.notify_all()
        if previous is not None and previous.kind is Kind.REFUSE:
            self._listen()

    def _all_links(self) -> list[_Link]:
        with self._guard:
            return list(self._links)

    @staticmethod
    def _bound(port: int) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        return listener

    def _listen(self) -> None:
        self._listener.listen(256)
        threading.Thread(target=self._accept, args=(self._listener,), name="proxy", daemon=True).start()

    def _unlisten(self) -> None:
        """Keep the port, but stop listening on it."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = self._bound(self.port)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # no longer listening
            threading.Thread(target=self._connect, args=(client,), name="proxy-connect", daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._server, timeout=5)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            client.close()
            return
        for side in (client, server):
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(client, server)
        with self._guard:
            self._links.add(link)
        threading.Thread(target=self._pump, args=(link, self._pass_answers), name="proxy-answers", daemon=True).start()
        self._pump(link, self._pass_requests)

    def _pump(self, link: _Link, direction: Callable[[_Link], None]) -> None:
        try:
            direction(link)
        except OSError:
            # The other side must learn that this one broke, or RabbitMQ would keep feeding a dead consumer.
            link.reset()
        if link.end_of_one_direction():
            with self._guard:
                self._links.discard(link)

    def _pass_requests(self, link: _Link) -> None:
        was_late = False
        while data := link.client.recv(_CHUNK_BYTES):
            fault = self._strike(link, data)
            match None if fault is None else fault.kind:
                case Kind.CUT if fault is not None:
                    link.server.sendall(data[: max(0, fault.after_bytes - link.passed)])
                    link.passed += len(data)
                    if link.passed >= fault.after_bytes:
                        link.reset()
                        return
                    continue
                case Kind.ANSWER if fault is not None:
                    self._answer(link, fault)
                    return
                case Kind.LATE if fault is not None and not was_late:
                    was_late = True
                    self._wait(fault.seconds)
                case _:
                    self._hold_up(fault, len(data))
            link.server.sendall(data)
        with contextlib.suppress(OSError):
            link.server.shutdown(socket.SHUT_WR)

    def _pass_answers(self, link: _Link) -> None:
        while data := link.server.recv(_CHUNK_BYTES):
            fault = self._of(link)
            if fault is not None and fault.kind in {Kind.DROP_ANSWER, Kind.HOLD_ANSWER}:
                self.answers_lost += 1
                if fault.kind is Kind.DROP_ANSWER:
                    link.reset()
                    return
                continue
            if fault is not None and fault.kind is Kind.LATE:
                self.late_answered += 1
            self._hold_up(fault, len(data))
            if fault is not None and fault.kind is Kind.SLOW:
                self._wait(fault.seconds)
            with contextlib.suppress(OSError):
                link.client.sendall(data)  # fails if the client of a late request is gone
        with contextlib.suppress(OSError):
            link.client.shutdown(socket.SHUT_WR)

    def _strike(self, link: _Link, data: bytes) -> Fault | None:
        """Return the fault that strikes this connection now, or None."""
        with self._guard:
            fault = self._fault
            if fault is None or link.struck_by is fault:
                return fault
            if fault.marker not in data or self._times_left == 0:
                return None
            if self._times_left is not None:
                self._times_left -= 1
            link.struck_by, link.passed = fault, 0
            self.struck += 1
            return fault

    def _of(self, link: _Link) -> Fault | None:
        with self._guard:
            return self._fault if self._fault is not None and link.struck_by is self._fault else None

    def _hold_up(self, fault: Fault | None, size: int) -> None:
        if fault is None:
            return
        if fault.kind is Kind.BLACK_HOLE:
            with self._guard:
                self._guard.wait_for(lambda: self._fault is not fault)
        elif fault.kind is Kind.SLOW and fault.bytes_per_second:
            self._wait(size / fault.bytes_per_second)

    def _wait(self, seconds: float) -> None:
        """Wait, but not longer than until the proxy is closed."""
        with self._guard:
            self._guard.wait_for(lambda: self._is_closed, timeout=seconds)

    @staticmethod
    def _answer(link: _Link, fault: Fault) -> None:
        """Swallow the rest of the request, then send the answer and close."""
        link.client.settimeout(_QUIET_SECONDS)
        with contextlib.suppress(TimeoutError):
            while link.client.recv(_CHUNK_BYTES):
                pass
        link.client.sendall(fault.answer)
        link.client.shutdown(socket.SHUT_WR)
        link.server.shutdown(socket.SHUT_RDWR)
