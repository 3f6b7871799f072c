"""The names of what shares its space with others': queues on a virtual host, actors in a process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, Self

_PRODUCT = "towpath"

#: The actors.
AGGREGATE, AGGREGATE_BACKLOG = f"{_PRODUCT}.aggregate", f"{_PRODUCT}.aggregate_backlog"
DISPATCH_SHIFT, RECOVER_SHIFT, VERIFY = f"{_PRODUCT}.dispatch_shift", f"{_PRODUCT}.recover_shift", f"{_PRODUCT}.verify"


class QueueNames(NamedTuple):
    """The pipeline's queues. dramatiq adds a `.DQ` (delayed) and a `.XQ` (failed) to each."""

    #: Of the scheduler's ticks.
    dispatch: str
    #: Of batches whose events were committed just now.
    aggregate: str
    #: Of a backlog's batches: in one queue with the others, an event would wait until all that was dispatched before it
    #: is stored. An aggregator consumes both.
    aggregate_backlog: str

    @classmethod
    def of(cls, prefix: str) -> Self:
        """Those of a project with this QUEUE_PREFIX."""
        return cls(*(".".join(filter(None, (prefix, _PRODUCT, name))) for name in cls._fields))

    @property
    def roles(self) -> Mapping[str, str]:
        """By queue, the role of the worker that consumes it."""
        return {self.dispatch: "dispatcher", self.aggregate: "aggregator", self.aggregate_backlog: "aggregator"}

    def role_of(self, queues: Iterable[str] | None) -> str:
        """The role of a worker that consumes these queues; "worker" if they are not a single one's."""
        roles = {self.roles.get(queue, "worker") for queue in queues or ()}
        return roles.pop() if len(roles) == 1 else "worker"
