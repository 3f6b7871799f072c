"""What the page shows as a file: the same query and period, but all events instead of one page."""

from __future__ import annotations

import itertools
import uuid
from typing import TYPE_CHECKING

import structlog
from django.http import StreamingHttpResponse

from towpath.eventlog.errors import EventStoreError, LimitReached
from towpath.explorer import access, parquet, reading
from towpath.explorer.events import EventsExported, EventsExportEnded
from towpath.explorer.export import MOST_ROWS, Progress, pieces
from towpath.explorer.formats import CloudEvents, Csv, NdJson
from towpath.explorer.views.access import for_exporters
from towpath.explorer.views.asked import Asked, asked
from towpath.explorer.views.problems import problem, problem_of
from towpath.pages.zones import as_utc

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from typing import Any

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from towpath.explorer.export import Format

log = structlog.get_logger()

_FORMATS = "Write format=csv, format=ndjson or format=parquet; as=cloudevents goes with ndjson."


@for_exporters
def export(request: HttpRequest) -> HttpResponseBase:
    """Return the page's events as a file."""
    return exported(request)


def exported(request: HttpRequest) -> HttpResponseBase:
    """Return the file, streamed. Errors are reported before its first byte, or at its end."""
    asks = asked(request)
    if asks.problems:
        return problem_of(asks.problems)
    try:
        written = _format(request, asks)
    except ModuleNotFoundError:
        return problem(501, parquet.MISSING)
    if written is None:
        return problem(422, _FORMATS)
    store, progress, number = reading.store(request.user), Progress(most_rows=MOST_ROWS), str(uuid.uuid4())
    bounds = asks.bounds
    began = EventsExported(
        export=number,
        query=str(asks.state.query),
        since=as_utc(bounds.since),
        until=as_utc(bounds.until),
        format=written.suffix,
        most_rows=MOST_ROWS,
    )
    access.record(request.user, began)
    content = _recorded(pieces(store, asks.state.query, bounds, written, progress), request.user, number, progress)
    try:
        first = next(content)
    except LimitReached:
        return problem(503, "This search takes too long. Choose a shorter range, or add a condition.")
    except EventStoreError:
        return problem(503, "The event store does not answer. Nothing is lost: try again in a moment.")
    name = f"events-{bounds.until:%Y%m%dT%H%M%SZ}.{written.suffix}"
    response = StreamingHttpResponse(_Joined(first, content), content_type=written.content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _format(request: HttpRequest, asks: Asked) -> Format | None:
    own = asks.state.own
    match request.GET.get("format", ""), request.GET.get("as", ""):
        case "csv", "":
            return Csv(asks.state.chosen, own)
        case "ndjson", "":
            return NdJson(own)
        case "ndjson", "cloudevents":
            return CloudEvents(own)
        case "parquet", "":
            return parquet.Parquet(own)
    return None


def _recorded(content: Iterator[bytes], user: Any, number: str, progress: Progress) -> Generator[bytes, None, None]:
    """Yield the content. An event records how it ended, even if the reader is gone."""
    try:
        yield from content
    finally:
        try:
            access.record(user, EventsExportEnded(export=number, rows=progress.rows, end=progress.end))
        except Exception:
            # Raised, so that the download breaks off. Logged, too, since Django drops what closing an answer raises.
            log.exception("export_end_not_recorded", export=number, rows=progress.rows)
            raise


class _Joined:
    """The first piece and those that follow. `close` closes them even if nothing has been read, which a generator that
    has not started would not do."""

    def __init__(self, first: bytes, rest: Generator[bytes, None, None]) -> None:
        self._pieces = itertools.chain([first], rest)
        self.close = rest.close

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces
