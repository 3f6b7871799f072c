"""The defaults of a RabbitMQ URL."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from backend.config.broker_url import with_safe_defaults


def test_heartbeat_and_timeouts_are_added() -> None:
    query = parse_qs(urlsplit(with_safe_defaults("amqp://user:secret@host:5673/vhost")).query)

    assert int(query["heartbeat"][0]) > 0
    assert int(query["blocked_connection_timeout"][0]) > 0
    assert "socket_timeout" in query


def test_what_the_url_says_is_kept() -> None:
    url = with_safe_defaults("amqps://user:s%40cret@host:5673/v%2Fhost?heartbeat=5&x=1")

    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc, parts.path) == ("amqps", "user:s%40cret@host:5673", "/v%2Fhost")
    assert parse_qs(parts.query)["heartbeat"] == ["5"]
    assert parse_qs(parts.query)["x"] == ["1"]


def test_a_url_without_a_vhost_means_the_default_one() -> None:
    assert urlsplit(with_safe_defaults("amqp://host")).path == "/%2F"
