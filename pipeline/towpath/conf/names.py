"""Names in shared spaces: queues on a virtual host, actors in a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

_PRODUCT = "towpath"

#: The actors.
AGGREGATE, AGGREGATE_BACKLOG = f"{_PRODUCT}.aggregate", f"{_PRODUCT}.aggregate_backlog"
DISPATCH_SHIFT, RECOVER_SHIFT, VERIFY = f"{_PRODUCT}.dispatch_shift", f"{_PRODUCT}.recover_shift", f"{_PRODUCT}.verify"


class QueueNames(NamedTuple):
    """The pipeline's queues. dramatiq adds a `.DQ` (delayed) and a `.XQ` (failed) to each."""

    #: For the scheduler's ticks.
    dispatch: str
    #: For batches whose events were just committed.
    aggregate: str
    #: For a backlog's batches. In a shared queue, a new event would wait until everything dispatched before it is
    #: stored. An aggregator consumes both queues.
    aggregate_backlog: str

    @classmethod
    def of(cls, prefix: str) -> Self:
        """Return the queues of a project with this QUEUE_PREFIX."""
        return cls(*(".".join(filter(None, (prefix, _PRODUCT, name))) for name in cls._fields))

    @property
    def roles(self) -> Mapping[str, str]:
        """The role of the worker that consumes each queue."""
        return {self.dispatch: "dispatcher", self.aggregate: "aggregator", self.aggregate_backlog: "aggregator"}

    def role_of(self, queues: Iterable[str] | None) -> str:
        """Return the role of a worker that consumes these queues; "worker" if they belong to several roles."""
        roles = {self.roles.get(queue, "worker") for queue in queues or ()}
        return roles.pop() if len(roles) == 1 else "worker"
