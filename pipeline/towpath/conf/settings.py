"""Every setting that Towpath needs, from the environment: for settings.py here, and for a project that adopts it.

There it is `from towpath.conf.settings import *` at the top; what stands below wins (docs/adopting.md). Each variable
is explained in README.md, "Settings".
"""

from __future__ import annotations

from typing import Any

import django_stubs_ext
from django.core.exceptions import ImproperlyConfigured
from periodiq import PeriodiqMiddleware

from towpath.conf import broker_url as _broker_url
from towpath.conf.environment import env as _env
from towpath.eventlog import store as _store

django_stubs_ext.monkeypatch()

# --- RabbitMQ and the event store. An unset URL means the local stack's ------------------------------------------

RABBITMQ_URL = _env.url("RABBITMQ_URL", "amqp://127.0.0.1:26729", schemes=("amqp", "amqps"))
for _problem in _broker_url.problems(RABBITMQ_URL):
    _env.problem(f"RABBITMQ_URL: {_problem}")
EVENT_STORE_URL = _env.url("EVENT_STORE_URL", _env.url("CLICKHOUSE_URL", _store.DEFAULT_URL))
try:
    EVENT_STORE_URL = _store.checked(EVENT_STORE_URL)
except ImproperlyConfigured as _error:
    _env.problem(f"EVENT_STORE_URL: {_error}")

#: Goes into the `environment` column of every event.
ENVIRONMENT = _env.text("ENVIRONMENT", "local")
#: Proxies in front of the web that append to X-Forwarded-For. With 0 it is ignored: anybody can send one.
TRUSTED_PROXIES = _env.whole_number("TRUSTED_PROXIES", 0, minimum=0)

# --- The pipeline ------------------------------------------------------------------------------------------------

#: The dispatcher looks for committed outbox rows this often.
DISPATCH_INTERVAL_SECONDS = _env.seconds("DISPATCH_INTERVAL_SECONDS", 1.0, minimum=0.01)
#: Ids in one message, at most. Aggregator threads x BATCH_IDS must reach WINDOW_MAX_ROWS, or windows do not fill.
BATCH_IDS = _env.whole_number("BATCH_IDS", 1000)
#: A window closes at this many rows,
WINDOW_ROWS = _env.whole_number("WINDOW_ROWS", 1000)
#: (growing on to this many while every writer is busy and ids are waiting,)
WINDOW_MAX_ROWS = _env.whole_number("WINDOW_MAX_ROWS", 10_000)
#: or this many payload bytes,
WINDOW_BYTES = _env.whole_number("WINDOW_BYTES", 32 * 1024 * 1024, minimum=1024)
#: or this long after its first id. The dispatcher gathers for DISPATCH_INTERVAL_SECONDS already; this is for the
#: messages of one look to come together, and every look leaves its last window waiting for so long.
WINDOW_LINGER_SECONDS = _env.seconds("WINDOW_LINGER_SECONDS", 0.1)
#: Windows one aggregator process writes at the same time, each with a database connection of its own.
WINDOW_WRITERS = _env.whole_number("WINDOW_WRITERS", 2)
#: Dispatching pauses while more than this many windows' worth of ids is between dispatch and ack.
MAX_OPEN_WINDOWS = _env.whole_number("MAX_OPEN_WINDOWS", 16)
#: A window whose owner has not renewed its lease for this long is taken over.
LEASE_SECONDS = _env.seconds("LEASE_SECONDS", 10.0, minimum=0.1)
#: A batch that no aggregator has sealed for this long is sealed by recovery.
UNSEALED_SECONDS = _env.seconds("UNSEALED_SECONDS", 15.0, minimum=0.1)
#: A stopping worker ends within this time: it delivers what it has sealed, the rest is recovered by others.
SHUTDOWN_SECONDS = _env.seconds("SHUTDOWN_SECONDS", 20.0, minimum=1.0)
#: How long the event store may take for one insert.
STORE_TIMEOUT_SECONDS = _env.seconds("STORE_TIMEOUT_SECONDS", 30.0, minimum=1.0)
#: The key of `Hashed` fields, SECRET_KEY if empty. One of its own, so that SECRET_KEY can change without the hashes.
EVENT_HASH_KEY = _env.key("EVENT_HASH_KEY", default="", may_be_weak=_env.flag("DEBUG", default=False))
#: An event's context may not be larger.
EVENT_CONTEXT_MAX_BYTES = _env.whole_number("EVENT_CONTEXT_MAX_BYTES", 16 * 1024 * 1024)

#: Receipts of delivered windows are kept for this long, once they are verified.
RECEIPT_DAYS = _env.whole_number("RECEIPT_DAYS", 30)

#: Workers and the scheduler serve metrics on this port; 0: they do not. The web process has the ledger's, at /metrics.
METRICS_PORT = _env.whole_number("METRICS_PORT", 0, minimum=0, maximum=65535)
#: The folder of this process's heartbeat, which `python -m towpath.probe` reads; none: no heartbeat.
HEARTBEAT_DIR = _env.text("HEARTBEAT_DIR", "")
#: A worker whose work has not moved for this long is wedged: its heartbeat stops.
WEDGED_SECONDS = _env.seconds("WEDGED_SECONDS", max(120.0, 4 * STORE_TIMEOUT_SECONDS), minimum=1.0)
if WEDGED_SECONDS <= STORE_TIMEOUT_SECONDS:
    _env.problem("WEDGED_SECONDS must be more than STORE_TIMEOUT_SECONDS: an insert may take that long")
#: Send traces to OTEL_EXPORTER_OTLP_ENDPOINT (needs `pip install towpath[tracing]`).
TRACING = _env.flag("TRACING", default=False)
if TRACING:
    try:
        import opentelemetry.exporter.otlp.proto.http
        import opentelemetry.sdk  # noqa: F401
    except ModuleNotFoundError as _error:
        _env.problem(f"TRACING needs {_error.name}, which is not installed: pip install 'towpath[tracing]'")

#: For tests only: where a process shall die (pipeline/towpath/telemetry/failpoints.py).
FAILPOINTS = _env.text("FAILPOINTS", "")

DRAMATIQ_BROKER: dict[str, Any] = {
    # dramatiq's own, with a check of what arrives: anybody who may publish there would tell it what to do.
    "BROKER": "towpath.flow.broker.Broker",
    "OPTIONS": {"url": _broker_url.with_safe_defaults(RABBITMQ_URL), "confirm_delivery": True},
    # In full, because the defaults of django-dramatiq 0.15 do not import under dramatiq 2. Left out on purpose:
    # TimeLimit (it raises in the middle of transactions) and AdminMiddleware (it writes three rows per message).
    "MIDDLEWARE": [
        # A tick means "make sure a shift is running", which holds however old the tick is; periodiq's own
        # default drops ticks older than 30 s, and with them the redelivered shift of a killed dispatcher.
        PeriodiqMiddleware(skip_delay=24 * 3600),
        "dramatiq.middleware.Retries",
        "django_dramatiq.middleware.DbConnectionsMiddleware",
        "towpath.outbox.middleware.EventContextCarrier",
        "towpath.lifecycle.PipelineLifecycle",
    ],
}
if TRACING:
    DRAMATIQ_BROKER["MIDDLEWARE"].append("towpath.telemetry.spans.MessageSpans")
# "tasks" is django-dramatiq's own default: a project may have such modules.
DRAMATIQ_AUTODISCOVER_MODULES = ["actors", "tasks"]

_env.check()
