"""deploy/rabbitmq on a real node: what the definitions make of a virtual host, and what its user may not do.

That every process works with its own user is in test_postgres_roles.py, where each has its own role, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pika
import pika.exceptions
import pytest
import urllib3

from deploy.rabbitmq import setup
from tests.deploy.conftest import signed_up, stored_emails
from tests.deploy.management import QUEUES, ask, policy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from clickhouse_connect.driver.client import Client

    from tests.deploy.deployment import Deployment

_WAIT_SECONDS = 90


@pytest.fixture(scope="module")
def url(migrated: Deployment) -> Iterator[str]:
    """A virtual host that nothing has been declared in, as the application gets to it."""
    own = dataclasses.replace(migrated, vhost=f"rights-{uuid.uuid4().hex}")
    environment = own.environment("migrate")
    definitions = setup.definitions(environment["RABBITMQ_URL"], queue_type="classic")
    setup.import_definitions(environment["RABBITMQ_ADMIN_URL"], definitions)
    yield environment["RABBITMQ_URL"]
    ask(own, f"vhosts/{own.vhost}", method="DELETE")


@pytest.fixture
def channel(url: str) -> Iterator[Any]:
    """A channel with the rights of the application."""
    with contextlib.closing(_connect(url)) as connection:
        yield connection.channel()


@pytest.fixture
def as_role(url: str, migrated: Deployment) -> Iterator[Callable[[str], Any]]:
    """A channel with the rights of a role, in the same virtual host."""
    roles = ("aggregator", "scheduler", "web")
    role_urls = {role: urlsplit(migrated.environment(role)["RABBITMQ_URL"]) for role in roles}
    urls = {role: parts._replace(path=urlsplit(url).path).geturl() for role, parts in role_urls.items()}
    content = setup.definitions(url, queue_type="classic", role_urls=urls)
    setup.import_definitions(migrated.environment("migrate")["RABBITMQ_ADMIN_URL"], content)
    with contextlib.ExitStack() as stack:
        yield lambda role: stack.enter_context(contextlib.closing(_connect(urls[role]))).channel()


def _declare_all(channel: Any) -> None:
    for queue in QUEUES:
        channel.queue_declare(queue, durable=True, arguments=_dead_letters(queue))


@pytest.mark.parametrize(
    ("role", "forbidden"),
    [
        *(
            ("web", forbidden)
            for forbidden in (
                lambda channel: channel.basic_publish("", "towpath.dispatch", b"x"),
                lambda channel: channel.basic_publish("", "towpath.aggregate", b"x"),
                lambda channel: channel.basic_get("towpath.aggregate"),
                lambda channel: channel.queue_purge("towpath.aggregate"),
                lambda channel: channel.queue_delete("towpath.dispatch"),
                lambda channel: channel.queue_declare(
                    "towpath.aggregate", durable=True, arguments=_dead_letters("towpath.aggregate")
                ),
            )
        ),
        *(
            ("scheduler", forbidden)
            for forbidden in (
                lambda channel: channel.basic_get("towpath.dispatch"),
                lambda channel: channel.basic_get("towpath.aggregate"),
                lambda channel: channel.basic_get("towpath.aggregate_backlog"),
                lambda channel: channel.queue_purge("towpath.dispatch"),
                lambda channel: channel.queue_delete("towpath.aggregate"),
            )
        ),
        *(
            ("aggregator", forbidden)
            for forbidden in (
                lambda channel: channel.basic_get("towpath.dispatch"),
                lambda channel: channel.queue_purge("towpath.dispatch"),
                lambda channel: channel.queue_delete("towpath.dispatch.DQ"),
            )
        ),
    ],
)
def test_a_role_is_refused_what_another_one_does(
    channel: Any,
    as_role: Callable[[str], Any],
    role: str,
    forbidden: Callable[[Any], Any],
) -> None:
    _declare_all(channel)
    own = as_role(role)
    own.confirm_delivery()

    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        forbidden(own)

    assert refused.value.reply_code == 403


def test_a_role_may_do_its_own_work(channel: Any, as_role: Callable[[str], Any]) -> None:
    _declare_all(channel)
    scheduler, aggregator, web = as_role("scheduler"), as_role("aggregator"), as_role("web")

    scheduler.confirm_delivery()
    scheduler.basic_publish("", "towpath.dispatch", b"tick", mandatory=True)
    channel.confirm_delivery()
    channel.basic_publish("", "towpath.aggregate", b"batch", mandatory=True)
    channel.basic_publish("", "towpath.aggregate_backlog", b"older", mandatory=True)

    assert channel.basic_get("towpath.dispatch", auto_ack=True)[2] == b"tick"
    assert aggregator.basic_get("towpath.aggregate", auto_ack=True)[2] == b"batch"
    assert aggregator.basic_get("towpath.aggregate_backlog", auto_ack=True)[2] == b"older"
    # For a member of staff who asks /readyz?full=1.
    assert web.queue_declare("towpath.aggregate", passive=True).method.message_count == 0


def test_with_a_prefix_the_rights_are_for_queues_of_that_project_alone(migrated: Deployment) -> None:
    own = dataclasses.replace(migrated, vhost=f"prefix-{uuid.uuid4().hex}")
    environment = own.environment("migrate")
    content = setup.definitions(environment["RABBITMQ_URL"], queue_type="classic", queue_prefix="my-shop.eu")
    setup.import_definitions(environment["RABBITMQ_ADMIN_URL"], content)
    ours, another = "my-shop.eu.towpath.aggregate", "my-shopXeu.towpath.aggregate"

    with contextlib.closing(_connect(environment["RABBITMQ_URL"])) as connection:
        channel = connection.channel()
        channel.queue_declare(ours, durable=True, arguments=_dead_letters(ours))
        channel.basic_publish("", ours, b"batch")
        assert channel.basic_get(ours, auto_ack=True)[2] == b"batch"
        cap = eventually(partial(policy, own, ours), seconds=_WAIT_SECONDS, what="the policy is shown")
        assert cap["overflow"] == "reject-publish"
        for name in (another, "towpath.aggregate"):
            with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
                connection.channel().queue_declare(name, durable=True)
            assert refused.value.reply_code == 403
    ask(own, f"vhosts/{own.vhost}", method="DELETE")


@pytest.mark.parametrize("queue", QUEUES)
def test_the_user_may_use_the_queues_of_the_pipeline(channel: Any, queue: str) -> None:
    channel.confirm_delivery()
    # As dramatiq declares them, with the queue for failed messages behind.
    channel.queue_declare(queue, durable=True, passive=False, arguments=_dead_letters(queue))
    channel.basic_publish("", queue, b"x", mandatory=True)
    assert channel.basic_get(queue, auto_ack=True)[2] == b"x"
    channel.queue_delete(queue)


@pytest.mark.parametrize(
    "forbidden",
    [
        pytest.param(lambda channel: channel.queue_declare("other"), id="another queue"),
        pytest.param(lambda channel: channel.queue_declare("aggregate2"), id="a name that begins like ours"),
        pytest.param(lambda channel: channel.exchange_declare("mine"), id="an exchange"),
        pytest.param(lambda channel: channel.basic_publish("amq.fanout", "", b"x"), id="another exchange"),
        pytest.param(lambda channel: channel.basic_get("amq.rabbitmq.trace"), id="the trace"),
    ],
)
def test_the_user_is_refused_everything_else(channel: Any, forbidden: Callable[[Any], Any]) -> None:
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as refused:
        forbidden(channel)
    assert refused.value.reply_code == 403


def test_the_user_reaches_no_other_virtual_host_and_no_management(url: str, migrated: Deployment) -> None:
    user, password = urlsplit(url).username, urlsplit(url).password
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError):
        _connect(urlsplit(url)._replace(path="/%2F").geturl())

    management = f"{migrated.services.rabbitmq.management_url}api/vhosts"
    headers = urllib3.make_headers(basic_auth=f"{user}:{password}")
    assert urllib3.PoolManager().request("GET", management, headers=headers).status == 401


@pytest.fixture
def vhost(migrated: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a virtual host that does not exist yet, for which `setup.main` is called."""
    own = dataclasses.replace(migrated, vhost=f"types-{uuid.uuid4().hex}")
    environment = own.environment("migrate")
    for name in ("RABBITMQ_URL", "RABBITMQ_ADMIN_URL"):
        monkeypatch.setenv(name, environment[name])
    yield own.vhost
    ask(own, f"vhosts/{own.vhost}", method="DELETE")


def _set_up(monkeypatch: pytest.MonkeyPatch, queue_type: str) -> int:
    monkeypatch.setenv("RABBITMQ_QUEUE_TYPE", queue_type)
    return setup.main()


def _default_type(deployment: Deployment, vhost: str) -> str:
    return str(ask(deployment, f"vhosts/{vhost}")["metadata"]["default_queue_type"])


@pytest.mark.parametrize("has_queues", [False, True])
def test_the_setup_run_again_keeps_the_type_that_it_was_run_with(
    vhost: str, migrated: Deployment, monkeypatch: pytest.MonkeyPatch, *, has_queues: bool
) -> None:
    """As compose does, which runs it at each start."""
    assert _set_up(monkeypatch, "quorum") == 0
    if has_queues:
        with contextlib.closing(_connect(os.environ["RABBITMQ_URL"])) as connection:
            _declare_all(connection.channel())

    assert _set_up(monkeypatch, "") == 0

    assert _default_type(migrated, vhost) == "quorum"


def test_the_setup_refuses_another_type_than_that_of_the_queues_and_repairs_the_default(
    vhost: str, migrated: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _set_up(monkeypatch, "quorum") == 0
    with contextlib.closing(_connect(os.environ["RABBITMQ_URL"])) as connection:
        _declare_all(connection.channel())

    assert _set_up(monkeypatch, "classic") == 1

    said = capsys.readouterr().err
    assert "RABBITMQ_QUEUE_TYPE is classic" in said
    assert all(f"{queue} (quorum)" in said for queue in QUEUES)
    assert "delete the queues" in said
    assert _default_type(migrated, vhost) == "quorum"

    # What an older version's setup has left behind, on RabbitMQ 4
    content = setup.definitions(os.environ["RABBITMQ_URL"], queue_type="classic")
    setup.import_definitions(os.environ["RABBITMQ_ADMIN_URL"], content)
    assert _set_up(monkeypatch, "") == 0
    assert _default_type(migrated, vhost) == "quorum"


def test_queues_of_two_types_are_named(
    vhost: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _set_up(monkeypatch, "classic") == 0
    with contextlib.closing(_connect(os.environ["RABBITMQ_URL"])) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUES[0], durable=True, arguments={"x-queue-type": "quorum"})
        channel.queue_declare(QUEUES[1], durable=True, arguments={"x-queue-type": "classic"})

    assert _set_up(monkeypatch, "") == 1

    said = capsys.readouterr().err
    assert f"virtual host {vhost} has the queues" in said
    assert f"{QUEUES[0]} (quorum)" in said
    assert f"{QUEUES[1]} (classic)" in said


def test_a_full_queue_refuses_messages_and_costs_latency_only(deployment: Deployment, clickhouse: Client) -> None:
    """The cap is reached immediately and nobody consumes: what cannot be sent is sealed by recovery."""
    deployment.vhost = f"full-{uuid.uuid4().hex}"
    deployment.changes |= {"BATCH_IDS": "1", "UNSEALED_SECONDS": "1"}
    deployment.set_up_rabbitmq()
    environment = deployment.environment("migrate")
    definitions = setup.definitions(environment["RABBITMQ_URL"], queue_type="classic")
    definitions["policies"][0]["definition"]["max-length"] = 1
    setup.import_definitions(environment["RABBITMQ_ADMIN_URL"], definitions)
    emails = [f"{uuid.uuid4().hex}@example.com" for _ in range(5)]
    deployment.start("web")
    for email in emails:
        eventually(lambda: signed_up(deployment, email), seconds=_WAIT_SECONDS, what="the web answers")

    deployment.start("dispatcher")
    deployment.send_shifts()

    eventually(lambda: set(emails) <= set(stored_emails(clickhouse)), seconds=_WAIT_SECONDS, what="all are stored")
    assert all(stored_emails(clickhouse).count(email) == 1 for email in emails)
    assert ask(deployment, f"queues/{deployment.vhost}/towpath.aggregate")["type"] == "classic"
    assert "shift_interrupted" in (deployment.log_folder / "dispatcher.log").read_text(), "the queue took all of them"
    ask(deployment, f"vhosts/{deployment.vhost}", method="DELETE")


@pytest.mark.parametrize(
    ("broker", "queue_type", "named"),
    [
        ("amqp://host/towpath", "classic", "RABBITMQ_URL"),
        ("amqp://user:password@host", "classic", "vhost"),
        ("amqp://user:password@host/towpath", "mirrored", "RABBITMQ_QUEUE_TYPE"),
    ],
)
def test_a_definition_that_cannot_be_made_names_the_variable(broker: str, queue_type: str, named: str) -> None:
    with pytest.raises(setup.SetupError, match=named):
        setup.definitions(broker, queue_type=queue_type)


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://admin:p@rabbitmq", "http://rabbitmq:15672/api/definitions"),
        ("https://admin:p@rabbitmq", "https://rabbitmq:15671/api/definitions"),
        ("https://admin:p@rabbitmq:443/", "https://rabbitmq:443/api/definitions"),
        ("http://admin:p@[2001:db8::1]", "http://[2001:db8::1]:15672/api/definitions"),
    ],
)
def test_the_management_is_asked_on_its_own_port_unless_the_url_has_one(
    url: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = []

    def request(_self: object, method: str, address: str, **_: object) -> urllib3.HTTPResponse:
        requests.append((method, address))
        return urllib3.HTTPResponse(status=204)

    monkeypatch.setattr(urllib3.PoolManager, "request", request)

    setup.import_definitions(url, {})

    assert requests == [("POST", asked)]


@pytest.mark.parametrize(
    "url", ["", "rabbitmq:15672", "http://", "amqp://admin:p@rabbitmq", "http://admin:s3cret/x@rabbitmq"]
)
def test_an_address_of_the_management_that_is_none_is_named_and_not_shown(url: str) -> None:
    with pytest.raises(setup.SetupError, match="RABBITMQ_ADMIN_URL must be") as refused:
        setup.import_definitions(url, {})

    assert "s3cret" not in str(refused.value)


def _dead_letters(queue: str) -> dict[str, str]:
    name = queue.partition(".")[0]
    return {} if queue.endswith(".XQ") else {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}.XQ"}


def _connect(url: str) -> pika.BlockingConnection:
    return pika.BlockingConnection(pika.URLParameters(url))
