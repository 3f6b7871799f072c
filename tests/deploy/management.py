"""RabbitMQ's management API, as the run's administrator."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import urllib3

from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from tests.deploy.deployment import Deployment

#: Every queue of the pipeline.
QUEUES = [name + suffix for name in QueueNames.of("") for suffix in ("", ".DQ", ".XQ")]


def ask(deployment: Deployment, path: str, *, method: str = "GET") -> Any:
    """The JSON of its answer."""
    rabbitmq = deployment.services.rabbitmq
    headers = urllib3.make_headers(basic_auth=f"{rabbitmq.user}:{rabbitmq.password}")
    answer = urllib3.PoolManager().request(method, f"{rabbitmq.management_url}api/{path}", headers=headers)
    assert answer.status < 300, answer.data
    return json.loads(answer.data) if answer.data else None


def consumed_queues(deployment: Deployment) -> set[str]:
    """Those of the deployment's virtual host that somebody consumes."""
    return {queue["name"] for queue in ask(deployment, f"queues/{deployment.vhost}") if queue.get("consumers")}


def policy(deployment: Deployment, queue: str) -> dict[str, Any]:
    """What policies make of a queue; empty also until the node has counted for the first time."""
    found: dict[str, Any] = ask(deployment, f"queues/{deployment.vhost}/{queue}").get("effective_policy_definition")
    return found or {}
