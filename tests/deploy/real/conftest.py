"""The servers of `make real`, which deploy/real/run.py has started: given by URL, and by REAL_SERVERS.

Their deployments are those of tests/deploy: roles and their passwords are the server's, so there is one set of them.
"""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults.conftest import bare_fleet, oracle, run
from tests.integration.conftest import django_db_setup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.deploy.deployment import Deployment

__all__ = ["bare_fleet", "django_db_setup", "oracle", "run"]

collect_ignore_glob = [] if "REAL_SERVERS" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def event_stores() -> Mapping[str, str]:
    """EVENT_STORE_URL by user of the true ClickHouse server: its administrator's, and those of users.sql."""
    found: Mapping[str, str] = json.loads(os.environ["REAL_SERVERS"])
    return found


@pytest.fixture(scope="session")
def run_folder() -> Path:
    """For servers that a test starts itself. It stays, with the logs, when a test has failed."""
    folder = Path(os.environ["REAL_FOLDER"])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def quorum(deployment: Deployment) -> Deployment:
    """A deployment with a virtual host of its own, which its first `migrate` has made for quorum queues."""
    deployment.vhost = f"quorum-{uuid.uuid4().hex}"
    deployment.changes["RABBITMQ_QUEUE_TYPE"] = "quorum"
    deployment.run("migrate")
    return deployment
