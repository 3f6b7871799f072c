"""What a test has published: the new rows of every outbox that the test's own connection sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db.models import Max

from towpath.outbox.models import all_outboxes
from towpath.testing.events import Events, FoundEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from towpath.outbox.models import Outbox


class Published(Events):
    """The events published since this object was made, including those delivered since then; none that was rolled back.

    With `since`, which `last_ids()` returned at an earlier moment, events count from that moment on.
    """

    def __init__(self, since: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self._last_ids = last_ids() if since is None else since

    def all(self) -> list[FoundEvent]:
        waiting = [found for name, model in all_outboxes().items() for found in _rows(model, self._last_ids[name])]
        return Events([*self._events, *waiting]).all()

    def remember_delivered(self, before: list[FoundEvent]) -> None:
        """Keep the events from `before` whose rows an ack has deleted since."""
        known = {(one.outbox, one.outbox_id) for one in self.all()}
        self._events += [one for one in before if (one.outbox, one.outbox_id) not in known]


def last_ids() -> dict[str, int]:
    """Return the highest id in each outbox; 0 if it is empty."""
    return {name: model._base_manager.aggregate(last=Max("id"))["last"] or 0 for name, model in all_outboxes().items()}


def _rows(outbox: type[Outbox], last_id: int) -> list[FoundEvent]:
    columns = outbox.event_columns()
    names = ("event_type", "metadata_version", "event_date_time", "event_context")
    # A lean outbox computes these: they are in no row.
    said = [name for name in ("target", "outcome") if name in columns]
    read = (columns[name] for name in (*names, *said))
    rows = outbox._base_manager.filter(id__gt=last_id).values_list("id", "bound", *read)
    return [
        FoundEvent(
            outbox.outbox_name(),
            id_,
            event_type,
            version,
            at,
            context,
            {
                **(bound or {}),
                **{name: str(value) for name, value in zip(said, values, strict=True) if value is not None},
            },
        )
        for id_, bound, event_type, version, at, context, *values in rows
    ]
