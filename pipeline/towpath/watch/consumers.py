"""Who consumes the pipeline's queues, as RabbitMQ sees it, and what is wrong with that.

Nothing is lost without consumers: recovery delivers what no aggregator takes. But each event takes UNSEALED_SECONDS
longer, and the ledger alone does not show why. RabbitMQ is asked over AMQP, by declaring queues passively: that needs
no privilege, and no management plugin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from towpath.errors import BrokerUnreachable
from towpath.rabbitmq import queues
from towpath.rabbitmq.queues import QueueState
from towpath.telemetry.secrets import without_secrets
from towpath.watch.within import NoAnswerYet, Within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.conf.config import Config

#: RabbitMQ answers in milliseconds. If it is frozen, it must not take the time of the rest of a status.
_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Consumers:
    """The pipeline's queues with their messages and consumers; if RabbitMQ does not answer, none, and the reason."""

    #: By queue.
    states: Mapping[str, QueueState] = field(default_factory=dict)
    #: By queue, the role of the worker that consumes it.
    roles: Mapping[str, str] = field(default_factory=dict)
    unread: str = ""

    def of(self, role: str) -> int | None:
        """Return how many processes with this role consume all their queues; None if RabbitMQ did not answer."""
        found = [self.states[queue].consumers for queue in self.roles if self.roles[queue] == role]
        return min(found) if found else None

    @property
    def messages(self) -> int | None:
        """The number of waiting messages of batches; None if RabbitMQ did not answer."""
        found = [state.messages for queue, state in self.states.items() if self.roles[queue] == "aggregator"]
        return sum(found) if found else None

    def problems(self) -> Iterator[str]:
        """Yield a sentence if RabbitMQ does not answer, and one for each role whose queues have no consumer."""
        if self.unread:
            yield f"{self.unread}. Meanwhile, events are delivered from the ledger, seconds later"
        for role in dict.fromkeys(self.roles.values()):
            idle = [queue for queue, state in self.states.items() if self.roles[queue] == role and not state.consumers]
            if idle:
                yield nobody_consumes(*idle, role=role)


def nobody_consumes(*queue_names: str, role: str) -> str:
    """Return the sentence for queues without a consumer."""
    so = ": recovery delivers instead, after UNSEALED_SECONDS" if role == "aggregator" else ""
    what = "queue" if len(queue_names) == 1 else "queues"
    start = f"Start {'an' if role[0] in 'aeiou' else 'a'} {role}: `python manage.py pipeline run {role}`"
    return f"no worker consumes the {what} {', '.join(queue_names)}{so}. {start}"


def read_consumers(config: Config) -> Consumers:
    """Ask RabbitMQ, for a few seconds at most. If it does not answer, `unread` says so, and nothing is raised."""

    def look() -> Mapping[str, QueueState]:
        return queues.queue_states(config, only=config.queues)

    try:
        states = Within(look, seconds=_SECONDS).answer()
    except NoAnswerYet:
        return Consumers(
            unread=(
                f"RabbitMQ has not answered within {_SECONDS:g} s: check whether it is overloaded, or out of disk space"
            )
        )
    except BrokerUnreachable as error:
        return Consumers(unread=without_secrets(str(error)))
    return Consumers(states, config.queues.roles)
