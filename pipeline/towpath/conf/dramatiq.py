"""The settings of django-dramatiq, as the pipeline needs them."""

from __future__ import annotations

from typing import Any

from periodiq import PeriodiqMiddleware

from towpath.conf.broker_url import with_safe_defaults
from towpath.conf.config import Config

#: "tasks" is django-dramatiq's own default: a project may have such modules.
AUTODISCOVERED_MODULES = ["actors", "tasks"]


def broker(config: Config) -> dict[str, Any]:
    """The setting DRAMATIQ_BROKER."""
    # Without it, dramatiq's own broker could take the place of ours.
    prefix = {"queue_prefix": config.queue_prefix} if config.queue_prefix else {}
    return {
        # dramatiq's own broker, with a check of what arrives: otherwise anyone who may send messages could tell it what
        # to do.
        "BROKER": "towpath.rabbitmq.broker.Broker",
        "OPTIONS": {"url": with_safe_defaults(config.rabbitmq_url), "confirm_delivery": True, **prefix},
        # In full, because the defaults of django-dramatiq 0.15 do not import under dramatiq 2. Left out on purpose:
        # TimeLimit (it raises in the middle of transactions) and AdminMiddleware (it writes three rows per message).
        "MIDDLEWARE": [
            # A tick says that the scheduler and the queue work, which holds however old it is: one that has waited for
            # a dispatcher must still count. periodiq's own default drops ticks older than 30 s.
            PeriodiqMiddleware(skip_delay=24 * 3600),
            "dramatiq.middleware.Retries",
            "django_dramatiq.middleware.DbConnectionsMiddleware",
            "towpath.outbox.middleware.EventContextCarrier",
            "towpath.lifecycle.PipelineLifecycle",
            *(["towpath.rabbitmq.spans.MessageSpans"] if config.tracing else []),
        ],
    }
