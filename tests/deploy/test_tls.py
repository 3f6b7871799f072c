"""TLS to all three services by the parameters of their URLs, with certificates made here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

import pytest
import trustme

from deploy.local.ports import Ports
from deploy.local.rabbitmq import RabbitMQ
from deploy.rabbitmq import setup
from tests.deploy.conftest import wait_until_an_event_is_stored
from tests.deploy.tls import TlsTerminator
from tests.integration.manage import manage
from tests.ports import any_free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from clickhouse_connect.driver.client import Client

    from tests.deploy.deployment import Deployment

_WAIT_SECONDS = 90


class TlsRabbitMQ(RabbitMQ):
    """A node with a TLS listener beside the plain one."""

    def __init__(self, folder: Path, certificate: trustme.LeafCert, authority: trustme.CA) -> None:
        self.tls_port = any_free_port()
        self._files = {name: folder / f"{name}.pem" for name in ("cacertfile", "certfile", "keyfile")}
        folder.mkdir()
        authority.cert_pem.write_to_path(self._files["cacertfile"])
        certificate.cert_chain_pems[0].write_to_path(self._files["certfile"])
        certificate.private_key_pem.write_to_path(self._files["keyfile"])
        # Held until the node has stopped, the port mapper's among them, which other tests beside this one would take.
        self.ports = Ports(folder / "ports.json")
        amqp, management, dist = map(self.ports.choose, ("amqp", "rabbitmq_management", "rabbitmq_dist"))
        super().__init__(folder, amqp, management, dist, folder / "rabbitmq.log")

    def _environment(self) -> dict[str, str]:
        environment = super()._environment()
        options = ",".join(f'{{{name},"{path}"}}' for name, path in self._files.items())
        environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += (
            f' -rabbit ssl_listeners [{{"127.0.0.1",{self.tls_port}}}] -rabbit ssl_options [{options}]'
        )
        return environment


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def rabbitmq(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsRabbitMQ]:
    node = TlsRabbitMQ(tmp_path_factory.mktemp("tls") / "rabbitmq", authority.issue_cert("localhost"), authority)
    node.start()
    node.wait_until_ready()
    yield node
    node.stop()
    node.ports.release()


@dataclass(frozen=True)
class Tls:
    """The deployment's services behind TLS: the URLs for each role, and what PostgreSQL and the store are behind."""

    urls: dict[str, dict[str, str]]
    terminators: tuple[TlsTerminator, TlsTerminator]


@pytest.fixture
def tls(deployment: Deployment, authority: trustme.CA, rabbitmq: TlsRabbitMQ, tmp_path: Path) -> Iterator[Tls]:
    certificate = authority.issue_cert("localhost")
    file = tmp_path / "authority.pem"
    authority.cert_pem.write_to_path(file)
    services = deployment.services
    with (
        TlsTerminator(certificate, services.postgres.port, is_postgresql=True) as postgres,
        TlsTerminator(certificate, services.clickhouse.port) as store,
    ):
        ports = {"postgres": postgres.port, "rabbitmq": rabbitmq.tls_port, "store": store.port}
        urls = {role: urls_with_tls(deployment.environment(role), file, **ports) for role in ("web", "dispatcher")}
        setup.import_definitions(
            f"http://{rabbitmq.user}:{rabbitmq.password}@127.0.0.1:{rabbitmq.management_port}",
            setup.definitions(
                urls["dispatcher"]["RABBITMQ_URL"],
                queue_type="classic",
                role_urls={"web": urls["web"]["RABBITMQ_URL"]},
            ),
        )
        yield Tls(urls, (postgres, store))


def urls_with_tls(plain: dict[str, str], file: Path, *, postgres: int, rabbitmq: int, store: int) -> dict[str, str]:
    """URLs as docs/deployment.md says them."""
    authority = quote(str(file), safe="")
    parameters = {
        "DATABASE_URL": ("postgresql", postgres, f"sslmode=verify-full&sslrootcert={authority}"),
        "RABBITMQ_URL": ("amqps", rabbitmq, f"cacertfile={authority}"),
        "EVENT_STORE_URL": ("clickhouses", store, f"ca_cert={authority}"),
    }
    urls = {}
    for name, (scheme, port, query) in parameters.items():
        parts = urlsplit(plain[name])
        user = parts.netloc.rpartition("@")[0]
        urls[name] = parts._replace(scheme=scheme, netloc=f"{user}@localhost:{port}", query=query).geturl()
    return urls


@pytest.mark.own_services
def test_events_travel_over_tls_to_all_three_services(
    deployment: Deployment, tls: Tls, rabbitmq: TlsRabbitMQ, clickhouse: Client
) -> None:
    deployment.changes |= tls.urls["web"]
    deployment.start("web")
    deployment.changes |= tls.urls["dispatcher"]
    deployment.start("dispatcher")
    deployment.start("aggregator")
    deployment.send_shifts()

    wait_until_an_event_is_stored(deployment, clickhouse)

    assert all(terminator.accepted for terminator in tls.terminators)
    connections = rabbitmq.control("--no-table-headers", "list_connections", "ssl", "vhost").splitlines()
    assert {tuple(line.split()) for line in connections} == {("true", deployment.vhost)}
    assert deployment.refusals() == []


@pytest.mark.own_services
@pytest.mark.parametrize("wrong", ["authority", "host"])
def test_a_certificate_that_cannot_be_trusted_is_refused(
    deployment: Deployment, tls: Tls, wrong: str, tmp_path: Path
) -> None:
    """By another authority, or for another host: the doctor reaches none of the three services."""
    deployment.changes |= tls.urls["dispatcher"]
    if wrong == "authority":
        trustme.CA().cert_pem.write_to_path(tmp_path / "authority.pem")
    else:
        elsewhere = {name: url.replace("localhost:", "127.0.0.1:") for name, url in tls.urls["dispatcher"].items()}
        deployment.changes |= elsewhere

    answer = manage("pipeline", "doctor", "--json", **deployment.environment("dispatcher"))

    assert answer.stdout, answer.stderr
    findings = {finding["check"]: finding for finding in json.loads(answer.stdout)}
    for service in ("PostgreSQL", "RabbitMQ", "event store"):
        assert not findings[service]["is_ok"], service
        assert "certificate" in findings[service]["detail"].lower(), findings[service]["detail"]
