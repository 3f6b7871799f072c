"""Whether the event store answers, and how quickly: asked once, for a few seconds at most."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from towpath.eventlog.connect import connect
from towpath.eventlog.errors import EventStoreError
from towpath.telemetry.secrets import without_secrets
from towpath.watch.within import NoAnswerYet, Within

if TYPE_CHECKING:
    from collections.abc import Iterator

    from towpath.conf.config import Config

_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How long the event store took to answer; None, and the reason, if it did not."""

    seconds: float | None
    unread: str = ""

    def problems(self) -> Iterator[str]:
        """Yield a sentence if it does not answer."""
        if self.unread:
            yield f"{self.unread}. Nothing is lost: events wait in PostgreSQL, and are delivered when it answers again"


def read_store(config: Config) -> StoreHealth:
    """Ask for the store's clock, which does not depend on what it has stored. Never raises: `unread` has the reason."""
    variable = f"{config.variable_prefix}EVENT_STORE_URL"

    def look() -> float:
        store = connect(config.event_store_url, timeout_seconds=_SECONDS, own_columns=config.columns)
        try:
            # The first answer includes the time to connect.
            store.now()
            began = time.monotonic()
            store.now()
            return time.monotonic() - began
        finally:
            store.close()

    try:
        return StoreHealth(Within(look, seconds=_SECONDS).answer())
    except NoAnswerYet:
        return StoreHealth(
            None, f"the event store has not answered within {_SECONDS:g} s: check whether it is overloaded"
        )
    except EventStoreError as error:
        text = " ".join(str(error).split())[:200]
        return StoreHealth(
            None, without_secrets(f"the event store is not reachable ({text}): start it, or correct {variable}")
        )
