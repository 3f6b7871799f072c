"""Towpath carries an application's events from its own transactions into an event store: nothing lost, nothing doubled.

The path of an event, and the word for each stage:

    publish -> dispatch -> accumulate -> seal -> load -> write -> ack

Where to look:

    outbox/      publish: events, outbox tables, and what an application may do with them
    flow/        the path, a module per stage: dispatch, accumulate, aggregator, load, write, delivery, recover, verify;
                 canary sends an event along it;
                 lease and shift say who works; deadletters, stranded, outboxes, pausing, operating, backfill, drain are
                 what a person asks;
                 fitting judges a column's value, origins is what a trace shows, pause how long a failed attempt waits
    rabbitmq/    the messages, and all that speaks to RabbitMQ
    ledger/      every table `pipeline_*`, and all SQL on them; the stages that are one statement: seal (windows), ack
    eventlog/    the One Big Table: its columns, its migrations, and the stores that hold it (stores/)
    telemetry/   what the path reports to: logs, metrics, traces, heartbeats, failpoints
    proof/       tamper evidence: sealing once an hour, the statement of a seal, the chain of seals, deep and sample,
                 which read the store again, audit, which puts it together, accepting what a person lets stand
    watch/       what people and probes ask: status, doctor, gauges, health
    pages/       the frame of every page, and what a browser may do there
    explorer/    the pages on which people find events, a Django application of its own
    console/     the page that says how the pipeline is, and where people act; the same
    conf/        settings and what every process needs before Django runs
    testing/     the testing kit, a pytest plugin
    management/  `manage.py pipeline` and `manage.py eventlog`
    migrations/  the tables of ledger and outboxes

    process.py   puts it all together: what a worker makes once and works with, from its start to its end
    wiring.py    from the settings to what the stages are given
    actors.py    what arrives by RabbitMQ                         lifecycle.py when a worker starts and stops
    probe.py     is this process alive?                           models.py    the tables, for Django
    apps.py      the Django application                           checks.py    what a project's settings must have
    errors.py    what can go wrong in the pipeline                events.py    what the pipeline publishes of itself
    driver.py    PostgreSQL's driver: psycopg 3 or psycopg2
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from towpath.outbox.event import Event
    from towpath.outbox.publishing import publish, publish_many

#: The public interface, and where each name is defined. Imported when it is asked for: models cannot be imported before
#: Django's app registry is ready, and `towpath.probe` needs no Django at all.
_DEFINED_IN = {
    "Event": "towpath.outbox.event",
    "publish": "towpath.outbox.publishing",
    "publish_many": "towpath.outbox.publishing",
}

__all__ = ["Event", "publish", "publish_many"]


def __getattr__(name: str) -> object:
    if name not in _DEFINED_IN:
        raise AttributeError(f"module 'towpath' has no attribute {name!r}")
    return getattr(import_module(_DEFINED_IN[name]), name)
