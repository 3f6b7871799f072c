"""What tests ask RabbitMQ's management and `pipeline doctor` about a deployment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import urllib3

from deploy.local.process import PROJECT
from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from tests.deploy.deployment import Deployment

_QUEUES = QueueNames.of("")


def queues(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """The queues of its virtual host, by name."""
    rabbitmq = deployment.services.rabbitmq
    headers = urllib3.make_headers(basic_auth=f"{rabbitmq.user}:{rabbitmq.password}")
    url = f"{rabbitmq.management_url}api/queues/{deployment.vhost}"
    answer = urllib3.PoolManager().request("GET", url, headers=headers)
    assert answer.status == 200, answer.data
    return {queue["name"]: queue for queue in json.loads(answer.data)}


def all_are_consumed(deployment: Deployment) -> bool:
    found = queues(deployment)
    return all(found.get(name, {}).get("consumers") for name in _QUEUES)


def nobody_consumes(deployment: Deployment) -> bool:
    return not any(queue.get("consumers") for queue in queues(deployment).values())


def doctor(deployment: Deployment) -> dict[str, dict[str, Any]]:
    """Its findings by name, with the rights of the dispatcher, whose container it is run in."""
    done = subprocess.run(
        [sys.executable, "manage.py", "pipeline", "doctor", "--json"],
        cwd=PROJECT,
        env={**os.environ, **deployment.environment("dispatcher")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return {finding["check"]: finding for finding in json.loads(done.stdout)}
