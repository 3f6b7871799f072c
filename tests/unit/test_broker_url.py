"""A RabbitMQ URL: its defaults, and what is refused."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, urlsplit

import pika
import pytest

from deploy.local.process import PROJECT
from tests.forked import run_python
from towpath.conf.broker_url import problems, with_safe_defaults


def test_heartbeat_and_timeouts_are_added() -> None:
    query = parse_qs(urlsplit(with_safe_defaults("amqp://user:secret@host:5673/vhost")).query)

    assert int(query["heartbeat"][0]) > 0
    assert int(query["blocked_connection_timeout"][0]) > 0
    assert "socket_timeout" in query


def test_what_the_url_says_is_kept() -> None:
    url = with_safe_defaults("amqps://user:s%40cret@host:5673/v%2Fhost?heartbeat=5&retry_delay=1")

    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("amqps", "user:s%40cret@host:5673", "/v%2Fhost")
    assert parse_qs(parts.query)["heartbeat"] == ["5"]
    assert parse_qs(parts.query)["retry_delay"] == ["1"]


def test_a_url_without_a_vhost_means_the_default_one() -> None:
    assert urlsplit(with_safe_defaults("amqp://host")).path == "/%2F"


SECRET = "hunter2hunter2"


def test_each_of_several_hosts_has_its_own_options_and_the_defaults() -> None:
    url = with_safe_defaults("amqp://u:p@a:1/v?heartbeat=60;amqps://u:p@b:2/w;amqp://c")

    first, second, third = (pika.URLParameters(one) for one in url.split(";"))
    assert [(one.host, one.port, one.virtual_host) for one in (first, second, third)] == [
        ("a", 1, "v"),
        ("b", 2, "w"),
        ("c", 5672, "/"),
    ]
    assert [one.heartbeat for one in (first, second, third)] == [60, 30, 30]
    for one in (first, second, third):
        assert (one.blocked_connection_timeout, one.socket_timeout, one.stack_timeout) == (5, 5, 5)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://127.0.0.1:26729",
        "amqp://u:p%3B%40%2F%23%3F@h/v%2Fw?heartbeat=0&socket_timeout=2.5",
        "amqp://u:p@[::1]:5672/v?blocked_connection_timeout=7&stack_timeout=3&connection_attempts=1&retry_delay=0",
        "amqp://a?channel_max=10&frame_max=8192;amqps://b/",
    ],
)
def test_what_pika_takes_is_taken(url: str) -> None:
    assert [*problems(url)] == []
    for one in with_safe_defaults(url).split(";"):
        pika.URLParameters(one)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("ssl=true", "amqps://"),
        ("tls=1", "amqps://"),
        ("verify=verify_peer", "cacertfile"),
        ("connection_timeout=10000", "socket_timeout"),
        ("heartbeat=abc", "heartbeat"),
        ("heartbeat=-1", "heartbeat"),
        ("heartbeat=", "heartbeat"),
        ("heartbeat=1.5", "heartbeat"),
        ("heartbeat=1&heartbeat=2", "twice"),
        ("socket_timeout=0", "socket_timeout"),
        ("socket_timeout=nan", "socket_timeout"),
        ("stack_timeout=inf", "stack_timeout"),
        ("connection_attempts=many", "connection_attempts"),
        ("ssl_options={}", "cacertfile"),
        ("tcp_options={}", "tcp_options"),
        ("client_properties=x", "client_properties"),
        ("cacertfile=/x", "amqps://"),
        ("vhost=x", "path"),
        ("foo=1", "foo"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name_whichever_host_has_it(query: str, named: str) -> None:
    first, second = f"amqp://u:{SECRET}@a/v", f"amqp://u:{SECRET}@b/v"
    for url in (f"{first}?{query}", f"{first}?{query};{second}", f"{first};{second}?{query}"):
        (problem,) = problems(url)
        assert named in problem
        assert SECRET not in problem


@pytest.mark.parametrize(
    "url",
    [
        f"amqp://u:{SECRET};x@h/v",
        f"amqp://u:{SECRET}/x@h/v",
        f"amqp://u:{SECRET}#x@h/v",
        f"amqp://u:{SECRET}?x@h/v",
        f"amqp://u:1?{SECRET}=@h/v",
        f"amqp://u:1#{SECRET}@h/v",
        f"amqp://u:1/{SECRET}@h/v/w",
        f"amqp://u:1/{SECRET}@h",
        f"http://u:{SECRET}@h/v",
        f"amqp://u:{SECRET}@h:port/v",
        f"amqp://{SECRET}@h/v",
        f"amqp://u:{SECRET}@h/v/w",
        f"amqp://u:{SECRET}@h/v;",
        f"amqps://u:{SECRET}@h/v?cacertfile=/does/not/exist",
        f"amqps://u:{SECRET}@h/v?cacertfile={__file__}",
        f"amqps://u:{SECRET}@h/v?keyfile={__file__}",
        f"amqps://u:{SECRET}@h/v?certfile={__file__}",
    ],
)
def test_a_url_that_cannot_be_is_refused_and_not_shown(url: str) -> None:
    found = [*problems(url)]

    assert found
    assert SECRET not in " ".join(found)


def test_nothing_starts_with_such_a_url_and_nobody_sees_a_traceback() -> None:
    for url in (f"amqp://u:{SECRET}@a/v?ssl=true", f"amqp://u:{SECRET}@a?heartbeat=6;amqp://u:{SECRET}@b?verify=x"):
        done = run_python("manage.py", "check", cwd=PROJECT, env={**os.environ, "RABBITMQ_URL": url})

        assert done.returncode == 1
        assert "RABBITMQ_URL" in done.stderr
        assert "Traceback" not in done.stderr
        assert SECRET not in done.stdout + done.stderr
