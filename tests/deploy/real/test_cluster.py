"""Three RabbitMQ nodes with quorum queues, one of which dies while events are carried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from deploy.rabbitmq import setup
from deploy.real import rabbitmq, tree
from tests.ports import any_free_port
from tests.waiting import eventually
from towpath.conf.names import QueueNames

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.conftest import Run

pytestmark = pytest.mark.timeout(600)

_QUEUES = QueueNames.of("")
_WAIT_SECONDS = 90
_VHOST = "towpath"


class Cluster:
    """Nodes that share their queues, and a virtual host with the rights of the application."""

    def __init__(self, folder: Path) -> None:
        servers = tree.servers()
        names = ("rabbit1", "rabbit2", "rabbit3")
        members = [f"{name}@localhost" for name in names]
        self._mapper = rabbitmq.PortMapper(servers, any_free_port(), folder / "log" / "epmd.log")
        self.nodes = [
            rabbitmq.Node(
                servers,
                folder / name,
                ports=rabbitmq.Ports(amqp=any_free_port(), management=any_free_port(), distribution=any_free_port()),
                mapper=self._mapper,
                name=name,
                cluster=members,
                secrets=folder / "secrets",
            )
            for name in names
        ]

    @property
    def url(self) -> str:
        """RABBITMQ_URL of the application, with every node."""
        return ";".join(
            f"amqp://towpath_dispatcher:password@127.0.0.1:{node.amqp_port}/{_VHOST}" for node in self.nodes
        )

    def start(self) -> None:
        self._mapper.start()
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.wait_until_ready()
        (first, *_) = self.url.split(";")
        setup.import_definitions(self.nodes[0].admin_url, setup.definitions(first, queue_type="quorum"))

    def stop(self) -> None:
        for process in (*self.nodes, self._mapper):
            process.kill()

    def queue(self, name: str) -> dict[str, Any]:
        """As a node that lives sees it."""
        return next(node for node in self.nodes if node.is_running).queue(_VHOST, name)

    def leader(self, name: str) -> rabbitmq.Node | None:
        """None while there is none."""
        found = self.queue(name).get("leader")
        return next((node for node in self.nodes if node.node_name == found), None)


@pytest.fixture(scope="module")
def cluster(run_folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(run_folder / "cluster")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_the_leader_of_a_queue_dies_under_load_and_nothing_is_lost_or_doubled(run: Run, cluster: Cluster) -> None:
    knobs = {"RABBITMQ_URL": cluster.url}
    assert [urlsplit(url).port for url in cluster.url.split(";")] == [node.amqp_port for node in cluster.nodes]
    run.fleet.ready(run.fleet.idle_dispatcher(**knobs), run.fleet.aggregator(**knobs), run.fleet.aggregator(**knobs))
    run.writer(transactions_per_second=50)
    eventually(lambda: run.oracle.stored(run.name) > 200, seconds=_WAIT_SECONDS, what="events are stored")
    eventually(
        lambda: all(len(cluster.queue(name).get("online", ())) == 3 for name in _QUEUES),
        seconds=_WAIT_SECONDS,
        what="each queue has three replicas",
    )
    assert {cluster.queue(name)["type"] for name in _QUEUES} == {"quorum"}

    leader = cluster.leader(_QUEUES.aggregate)
    assert leader is not None
    leader.kill()
    stored = run.oracle.stored(run.name)

    eventually(
        lambda: cluster.leader(_QUEUES.aggregate) not in {None, leader},
        seconds=_WAIT_SECONDS,
        what="another one leads",
    )
    eventually(
        lambda: all(cluster.queue(name).get("consumers") for name in _QUEUES),
        seconds=_WAIT_SECONDS,
        what="all queues are consumed again",
    )
    eventually(lambda: run.oracle.stored(run.name) > stored + 500, seconds=_WAIT_SECONDS, what="events are stored")

    leader.start()
    leader.wait_until_ready()
    eventually(
        lambda: len(cluster.queue(_QUEUES.aggregate).get("online", ())) == 3, seconds=_WAIT_SECONDS, what="it is back"
    )
    run.stop_writers()
    verdict = run.judge_when_drained(seconds=_WAIT_SECONDS)
    assert verdict.stored == verdict.committed > 700
