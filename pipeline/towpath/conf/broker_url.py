"""What every RabbitMQ connection of the pipeline needs, whatever the URL says or leaves out.

`RABBITMQ_URL` may name several hosts, with `;` between their URLs. Each has its own options, and gets its own defaults.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

#: Without heartbeats, a half-open socket lives until TCP gives up. Without the blocked timeout, a memory alarm blocks a
#: publisher for ever, and without the stack timeout a frozen server does. The dispatcher tries twice and dramatiq six
#: times. So a blocked broker delays them by that many timeouts, and then recovery delivers without it.
#: (The names and units, seconds, are pika's.)
_DEFAULTS = {
    "heartbeat": "30",
    "blocked_connection_timeout": "5",
    "socket_timeout": "5",
    "stack_timeout": "5",
    "connection_attempts": "2",
    "retry_delay": "0.5",
}
#: RabbitMQ's names for files of certificates in an `amqps://` URL, and those of pika's `ssl_options`.
_TLS_FILES = {"cacertfile": "cafile", "certfile": "certfile", "keyfile": "keyfile"}

_Kind = Callable[[str], float]
#: The other options that the URL may have, with their kind and their bounds.
_OPTIONS: dict[str, tuple[_Kind, float, float]] = {
    "heartbeat": (int, 0, 65_535),
    "blocked_connection_timeout": (float, 0, 3600),
    "socket_timeout": (float, 0.1, 3600),
    "stack_timeout": (float, 0.1, 3600),
    "connection_attempts": (int, 1, 100),
    "retry_delay": (float, 0, 3600),
    "channel_max": (int, 1, 65_535),
    "frame_max": (int, 4096, 131_072),
}
#: What to write instead of options of other drivers, or of pika itself.
_INSTEAD = {
    "ssl": "write amqps:// instead of amqp://",
    "tls": "write amqps:// instead of amqp://",
    "verify": "amqps:// always verifies; name the authority with cacertfile",
    "ssl_options": "write amqps:// with cacertfile, certfile and keyfile",
    "connection_timeout": "write socket_timeout, in seconds",
    "timeout": "write socket_timeout, in seconds",
    "virtual_host": "write it as the path, amqp://host/vhost",
    "vhost": "write it as the path, amqp://host/vhost",
    "username": "write it before the host, amqp://user:password@host",
    "password": "write it before the host, amqp://user:password@host",
}


def with_safe_defaults(url: str) -> str:
    """Return `url` with heartbeat and timeouts added to the query of each host. What the query sets is kept.

    `amqps://...?cacertfile=/path` trusts only that authority, and checks the host's name. `certfile` and `keyfile` are
    the client's own certificate. Without `cacertfile`, the system's authorities are trusted.
    """
    return ";".join(_with_safe_defaults(one) for one in url.split(";"))


def problems(url: str) -> Iterator[str]:
    """Yield what is wrong with the URL, and how to fix it. Never quotes what may be a password."""
    several = url.split(";")
    for number, one in enumerate(several, start=1):
        where = f"the {number}. of {len(several)} hosts: " if len(several) > 1 else ""
        for problem in _problems(one):
            yield f"{where}{problem}"


def _problems(url: str) -> Iterator[str]:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        yield "it is not a URL: percent-encode special characters in its user name and password"
        return
    if parts.scheme not in {"amqp", "amqps"}:
        yield "it must be an amqp:// URL, or several with ; between them: percent-encode a ; in a password"
        return
    if parts.fragment:
        yield "it contains a #: percent-encode special characters in its user name and password"
    if parts.username is not None and parts.password is None:
        yield "it has a user without a password: write amqp://user:password@host"
    if "@" in parts.path:
        yield "it has an @ after a /: percent-encode special characters in its user name and password"
    elif parts.path.count("/") > 1:
        yield "the name of its virtual host contains a /: write %2F"
    yield from _problems_of_the_query(parts)


def _problems_of_the_query(parts: SplitResult) -> Iterator[str]:
    if "@" in parts.query:
        yield "it has an @ after a ?: percent-encode special characters in its user name and password"
        return
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    options = dict(pairs)
    for name in options:
        if sum(name == each for each, _ in pairs) > 1:
            yield f"the option {_shown(name)} is given twice: remove one"
    for name, value in options.items():
        if name in _TLS_FILES:
            if parts.scheme != "amqps":
                yield f"{name} needs amqps://"
        elif name not in _OPTIONS:
            known = ", ".join((*_OPTIONS, *_TLS_FILES))
            yield f"the option {_shown(name)} is not supported: {_INSTEAD.get(name, f'use one of {known}')}"
        elif not _is_within(value, *_OPTIONS[name]):
            kind, least, most = _OPTIONS[name]
            what = "a whole number" if kind is int else "a number of seconds"
            yield f"{name} must be {what} from {least:g} to {most:g}"
    files = {name: options[name] for name in _TLS_FILES if name in options}
    if parts.scheme == "amqps" and (problem := _problem_of_files(files)):
        yield problem


def _shown(name: str) -> str:
    """Return an option's name, unless it may be part of a password that was not percent-encoded."""
    return f"{name!r}" if name.isidentifier() and len(name) <= max(map(len, (*_INSTEAD, *_OPTIONS))) else "(unreadable)"


def _is_within(value: str, kind: _Kind, least: float, most: float) -> bool:
    try:
        return least <= kind(value) <= most
    except ValueError:
        return False


def _problem_of_files(files: dict[str, str]) -> str:
    """Return why these files cannot be used; empty if they can."""
    for name, path in files.items():
        try:
            Path(path).read_bytes()
        except OSError as error:
            return f"{name}: cannot read {path!r} ({error.strerror})"
    if "keyfile" in files and "certfile" not in files:
        return "keyfile needs certfile"
    try:
        context = ssl.create_default_context(cafile=files.get("cacertfile"))
        if "certfile" in files:
            context.load_cert_chain(files["certfile"], files.get("keyfile"), password="")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        return f"{', '.join(files)}: not a usable certificate or key ({type(error).__name__})"
    return ""


def _with_safe_defaults(url: str) -> str:
    parts = urlsplit(url)
    query = {**_DEFAULTS, **dict(parse_qsl(parts.query))}
    files = {pika: query.pop(name) for name, pika in _TLS_FILES.items() if name in query}
    if files:
        query["ssl_options"] = repr(files)
    return urlunsplit(parts._replace(path=parts.path or "/%2F", query=urlencode(query)))
