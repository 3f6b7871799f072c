"""Imports definitions.json: the virtual host, a user for each role with its rights, and the length caps of the queues.

Invariant: each user may do what its role does with the pipeline's queues, and nothing else; a full queue of batches
refuses messages, it drops none. (What is refused stays in the ledger, where it is found.)

    RABBITMQ_ADMIN_URL=http://admin:password@rabbitmq:15672 RABBITMQ_URL=amqp://... python -m deploy.rabbitmq.setup

Virtual host, user and password are those of RABBITMQ_URL, which is the dispatcher's. RABBITMQ_AGGREGATOR_URL,
RABBITMQ_SCHEDULER_URL and RABBITMQ_WEB_URL have the users of the other roles; a role without one uses the dispatcher's.
QUEUE_PREFIX is the application's.
On a cluster, set RABBITMQ_QUEUE_TYPE=quorum before the first start of the application: a queue's type is fixed when it
is declared. Without the variable, the virtual host keeps the type it has. RabbitMQ 4 refuses every declaration of a
queue of another type than the virtual host's default, so no worker could consume any more.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import urllib3

_FILE = Path(__file__).with_name("definitions.json")
_QUEUE_TYPES = ("classic", "quorum")
_OTHER_ROLES = ("aggregator", "scheduler", "web")
_NO_URLS: Mapping[str, str] = {}
#: Of the management API, by scheme.
_PORTS = {"http": 15672, "https": 15671}
_OK, _NO_CONTENT, _NOT_FOUND = 200, 204, 404
#: With this, the names of queues begin in a pattern.
_PRODUCT = r"towpath\."
_SECONDS = 30


class SetupError(Exception):
    """The definitions cannot be imported."""


def definitions(
    broker_url: str, *, queue_type: str, queue_prefix: str = "", role_urls: Mapping[str, str] = _NO_URLS
) -> dict[str, Any]:
    """definitions.json for the virtual host and the user of the URL, the users of other roles' URLs, and the queues
    with this prefix. Raises SetupError when a URL has none."""
    vhost = unquote(urlsplit(broker_url).path.removeprefix("/"))
    users = {"dispatcher": _user(broker_url, "RABBITMQ_URL")}
    if not vhost:
        raise _unusable("RABBITMQ_URL")
    for role, url in role_urls.items():
        user = _user(url, _variable(role))
        # A role with the dispatcher's user has the dispatcher's rights.
        if user[0] != users["dispatcher"][0]:
            users[role] = user
    if queue_type not in _QUEUE_TYPES:
        raise SetupError(f"RABBITMQ_QUEUE_TYPE is {queue_type!r}: it must be classic or quorum")
    content: dict[str, Any] = json.loads(_FILE.read_text(), object_hook=partial(_with_prefix, queue_prefix))
    rights = {entry["user"].rpartition("_")[2]: entry for entry in content["permissions"]}
    content["permissions"] = [{**rights[role], "user": name, "vhost": vhost} for role, (name, _) in users.items()]
    content["users"] = [{"name": name, "password": password, "tags": ""} for name, password in users.values()]
    content["vhosts"] = [{"name": vhost, "metadata": {"default_queue_type": queue_type}}]
    for entry in content["policies"]:
        entry["vhost"] = vhost
    return content


def _with_prefix(prefix: str, entry: dict[str, Any]) -> dict[str, Any]:
    """A part of the definitions, in which queues are named by patterns."""
    before = re.escape(f"{prefix}.") if prefix else ""
    patterns = ("configure", "write", "read", "pattern")
    return {
        name: value.replace(_PRODUCT, before + _PRODUCT) if name in patterns else value for name, value in entry.items()
    }


def _user(url: str, variable: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unusable(variable) from None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    if not (user and password):
        raise _unusable(variable)
    return user, password


def _unusable(variable: str) -> SetupError:
    return SetupError(f"{variable} must be amqp://user:password@host:5672/vhost, with each of its parts")


def _variable(role: str) -> str:
    return f"RABBITMQ_{role.upper()}_URL"


def keep_queue_type(admin_url: str, content: dict[str, Any], *, asked: str) -> None:
    """Let the definitions keep the type of the queues that exist.

    Without queues it is the type that is asked for, else the one that the virtual host has, else classic. Raises
    SetupError when that is not what is asked for, and when the queues are not of one type.
    """
    (vhost,) = content["vhosts"]
    path = quote(vhost["name"], safe="")
    ours = re.compile(content["permissions"][0]["configure"])
    found = _read(admin_url, f"queues/{path}?columns=name,type") or []
    types = {queue["name"]: queue["type"] for queue in found if ours.search(queue["name"])}
    if len({*types.values(), *([asked] if asked and types else [])}) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in sorted(types.items()))
        wanted = f"RABBITMQ_QUEUE_TYPE is {asked}, and the" if asked else "The"
        raise SetupError(
            f"{wanted} virtual host {vhost['name']} has the queues {listed}. RabbitMQ 4 would let no"
            " worker consume queues whose type is not the virtual host's default. Leave RABBITMQ_QUEUE_TYPE out to"
            " keep queues that are all of one type. To change it, stop the workers, delete the queues and run this"
            " again. No event is lost with them"
        )
    present = (_read(admin_url, f"vhosts/{path}") or {}).get("metadata", {}).get("default_queue_type")
    candidates = (*types.values(), asked, present)
    kept = next((each for each in candidates if each in _QUEUE_TYPES), vhost["metadata"]["default_queue_type"])
    vhost["metadata"]["default_queue_type"] = kept


def import_definitions(admin_url: str, content: dict[str, Any]) -> None:
    """Import through the management API as an administrator; can be repeated. Raises SetupError."""
    answer = _ask(admin_url, "POST", "definitions", json=content)
    if answer.status != _NO_CONTENT:
        raise _refused(answer)


def _read(admin_url: str, path: str) -> Any:
    """What the management API has there; None for nothing."""
    answer = _ask(admin_url, "GET", path)
    if answer.status == _NOT_FOUND:
        return None
    if answer.status != _OK:
        raise _refused(answer)
    return json.loads(answer.data)


def _ask(admin_url: str, method: str, path: str, **content: Any) -> urllib3.BaseHTTPResponse:
    try:
        parts = urlsplit(admin_url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    except (KeyError, ValueError):
        host = ""
    if not host:
        # Not from the error, which would quote a password with a special character in it.
        raise SetupError("RABBITMQ_ADMIN_URL must be http://user:password@host:15672, or https:// and 15671")
    address = f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}/api/{path}"
    headers = urllib3.make_headers(basic_auth=f"{unquote(parts.username or '')}:{unquote(parts.password or '')}")
    try:
        return urllib3.PoolManager(timeout=_SECONDS).request(method, address, headers=headers, **content)
    except urllib3.exceptions.HTTPError as error:
        raise SetupError(f"RabbitMQ's management API does not answer: check RABBITMQ_ADMIN_URL ({error})") from error


def _refused(answer: urllib3.BaseHTTPResponse) -> SetupError:
    return SetupError(f"RabbitMQ's management API answered {answer.status}: {answer.data[:200]!r}")


def main() -> int:
    """The command line; exit code 1 when the definitions cannot be imported."""
    admin_url, asked = os.environ.get("RABBITMQ_ADMIN_URL", ""), os.environ.get("RABBITMQ_QUEUE_TYPE", "")
    try:
        content = definitions(
            os.environ.get("RABBITMQ_URL", ""),
            queue_type=asked or "classic",
            queue_prefix=os.environ.get("QUEUE_PREFIX", "").strip(),
            role_urls={role: url for role in _OTHER_ROLES if (url := os.environ.get(_variable(role)))},
        )
        keep_queue_type(admin_url, content, asked=asked)
        import_definitions(admin_url, content)
    except SetupError as error:
        print(error, file=sys.stderr)  # noqa: T201 - for the person who runs it - a command line
        return 1
    names = ", ".join(user["name"] for user in content["users"])
    (vhost,) = content["vhosts"]
    kind = vhost["metadata"]["default_queue_type"]
    print(f"imported: virtual host {vhost['name']}, queues {kind}, users {names}")  # noqa: T201 - for the person who runs it
    return 0


if __name__ == "__main__":
    sys.exit(main())
