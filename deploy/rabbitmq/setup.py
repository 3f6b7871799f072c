"""Imports definitions.json: the virtual host, the user with its rights, and the length cap of the queue.

Invariant: the user may use the pipeline's queues and nothing else; a full queue refuses messages, it drops none. (What
is refused stays in the ledger, where recovery finds it.)

    RABBITMQ_ADMIN_URL=http://admin:password@rabbitmq:15672 RABBITMQ_URL=amqp://... python -m deploy.rabbitmq.setup

Virtual host, user and password are those of RABBITMQ_URL. On a cluster, set RABBITMQ_QUEUE_TYPE=quorum before the first
start of the application: a queue's type is fixed when it is declared.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import urllib3

_FILE = Path(__file__).with_name("definitions.json")
_QUEUE_TYPES = ("classic", "quorum")
#: Of the management API, by scheme.
_PORTS = {"http": 15672, "https": 15671}
_NO_CONTENT = 204
_SECONDS = 30


class SetupError(Exception):
    """The definitions cannot be imported."""


def definitions(broker_url: str, *, queue_type: str) -> dict[str, Any]:
    """definitions.json for the user and the virtual host of the URL. Raises SetupError when it has none."""
    parts = urlsplit(broker_url)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    vhost = unquote(parts.path.removeprefix("/"))
    if not (user and password and vhost):
        raise SetupError("RABBITMQ_URL must be amqp://user:password@host:5672/vhost, with each of its parts")
    if queue_type not in _QUEUE_TYPES:
        raise SetupError(f"RABBITMQ_QUEUE_TYPE is {queue_type!r}: it must be classic or quorum")
    content: dict[str, Any] = json.loads(_FILE.read_text())
    for entry in (*content["permissions"], *content["policies"]):
        entry["vhost"] = vhost
    for entry in content["permissions"]:
        entry["user"] = user
    content["vhosts"] = [{"name": vhost, "metadata": {"default_queue_type": queue_type}}]
    content["users"] = [{"name": user, "password": password, "tags": ""}]
    return content


def import_definitions(admin_url: str, content: dict[str, Any]) -> None:
    """Import through the management API as an administrator; can be repeated. Raises SetupError."""
    try:
        parts = urlsplit(admin_url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        host = ""
    if not host:
        # Not from the error, which would quote a password with a special character in it.
        raise SetupError("RABBITMQ_ADMIN_URL must be http://user:password@host:15672, or https:// and 15671")
    address = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/api/definitions"
    headers = urllib3.make_headers(basic_auth=f"{unquote(parts.username or '')}:{unquote(parts.password or '')}")
    try:
        answer = urllib3.PoolManager(timeout=_SECONDS).request("POST", address, json=content, headers=headers)
    except urllib3.exceptions.HTTPError as error:
        raise SetupError(
            f"RabbitMQ's management API does not answer: is RABBITMQ_ADMIN_URL right? ({error})"
        ) from error
    if answer.status != _NO_CONTENT:
        raise SetupError(f"RabbitMQ's management API answered {answer.status}: {answer.data[:200]!r}")


def main() -> int:
    """The command line; exit code 1 when the definitions cannot be imported."""
    try:
        content = definitions(
            os.environ.get("RABBITMQ_URL", ""), queue_type=os.environ.get("RABBITMQ_QUEUE_TYPE") or "classic"
        )
        import_definitions(os.environ.get("RABBITMQ_ADMIN_URL", ""), content)
    except SetupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line
        return 1
    print(f"imported: virtual host {content['vhosts'][0]['name']}, user {content['users'][0]['name']}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
