"""What every RabbitMQ connection of the pipeline needs, whatever the URL says or leaves out."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

#: Without heartbeats a half-open socket lives until TCP gives up; without the blocked timeout a memory alarm
#: holds a publisher for ever. The dispatcher tries twice, dramatiq six times: so many times this long a blocked broker
#: holds them up, then recovery delivers without it. (pika's names and units, seconds.)
_DEFAULTS = {
    "heartbeat": "30",
    "blocked_connection_timeout": "5",
    "socket_timeout": "10",
    "connection_attempts": "2",
    "retry_delay": "0.5",
}
#: RabbitMQ's names for files of certificates in an `amqps://` URL, and those of pika's `ssl_options`.
_TLS_FILES = {"cacertfile": "cafile", "certfile": "certfile", "keyfile": "keyfile"}


def with_safe_defaults(url: str) -> str:
    """`url` with heartbeat and timeouts added to its query; what the query sets itself is kept.

    `amqps://...?cacertfile=/path` trusts that authority only, and checks the host's name; `certfile` and `keyfile`
    are the client's own certificate. Without `cacertfile` the system's authorities are trusted.
    """
    parts = urlsplit(url)
    query = {**_DEFAULTS, **dict(parse_qsl(parts.query))}
    files = {pika: query.pop(name) for name, pika in _TLS_FILES.items() if name in query}
    if files:
        query["ssl_options"] = repr(files)
    return urlunsplit(parts._replace(path=parts.path or "/%2F", query=urlencode(query)))
