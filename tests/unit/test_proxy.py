"""The proxy of the fault tests, with faults that overlap as those of the soak do."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.faults.proxy import Fault, Kind, Proxy


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socket.create_server(("127.0.0.1", 0)) as server, Proxy(server.getsockname()[1]) as proxy:
        yield proxy


def test_a_proxy_listens_again_when_another_fault_follows_a_refusal(proxy: Proxy) -> None:
    proxy.fail(Fault(kind=Kind.REFUSE))
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)

    proxy.fail(Fault(kind=Kind.SLOW, bytes_per_second=1000))
    _connect(proxy)
    proxy.heal()
    _connect(proxy)


def test_a_proxy_that_refuses_twice_listens_again_when_it_is_healed(proxy: Proxy) -> None:
    proxy.fail(Fault(kind=Kind.REFUSE))
    proxy.fail(Fault(kind=Kind.REFUSE))
    with pytest.raises(ConnectionRefusedError):
        _connect(proxy)

    proxy.heal()
    _connect(proxy)


def _connect(proxy: Proxy) -> None:
    socket.create_connection(("127.0.0.1", proxy.port), timeout=5).close()
