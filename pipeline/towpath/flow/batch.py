"""A batch: the ids of one message. Its row in the ledger is the truth, the message only says that it is there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class BatchMessage:
    """What one message carries. `bytes` is the payloads' size where the outbox knows it, else 0."""

    id: int
    outbox: str
    ids: list[int]
    bytes: int


class EnqueueBatches(Protocol):
    """Puts a message for each batch onto RabbitMQ and returns when the broker has confirmed them all, or raises."""

    def __call__(self, batches: Sequence[BatchMessage], /) -> None: ...
