"""Parquet, for data frames. It needs pyarrow (the extra `parquet`). The file's metadata says how the export ended."""

from __future__ import annotations

import importlib
import importlib.util
import io
from typing import TYPE_CHECKING, Any

from towpath.eventlog.columns import Kind, added_columns
from towpath.explorer.formats import exported_columns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from towpath.eventlog.columns import Column
    from towpath.eventlog.search import FoundEvents
    from towpath.explorer.export import Progress

#: The key in a file's metadata that says how the export ended.
END_KEY = "towpath_export"
MISSING = "Parquet needs pyarrow, which is not installed here: pip install 'towpath[parquet]'."


def is_possible() -> bool:
    """True if pyarrow is installed."""
    return importlib.util.find_spec("pyarrow") is not None


class _Sink(io.RawIOBase):
    """The file that pyarrow writes to. It keeps only what has not been taken yet."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._written

    def taken(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


class Parquet:
    """A Parquet file with every column. Times are in UTC, to the microsecond; a context is its stored text."""

    content_type = "application/vnd.apache.parquet"
    suffix = "parquet"

    def __init__(self, own: tuple[Column, ...]) -> None:
        """Begin a file. Raises ModuleNotFoundError without pyarrow."""
        self._arrow: Any = importlib.import_module("pyarrow")
        kinds = {column.name: column.kind for column in added_columns(own)}
        kinds |= {"event_date_time": Kind.TIME, "written_at": Kind.TIME, "outbox_id": Kind.WHOLE_NUMBER}
        kinds |= {"metadata_version": Kind.WHOLE_NUMBER, "window_id": Kind.UUID}
        self._texts = {name for name, kind in kinds.items() if kind is Kind.UUID}
        names = exported_columns(own)
        self._schema = self._arrow.schema([(name, self._type(kinds.get(name, Kind.TEXT))) for name in names])
        self._sink = _Sink()
        writer = importlib.import_module("pyarrow.parquet").ParquetWriter
        self._writer: Any = writer(self._sink, self._schema, compression="snappy")

    def begin(self) -> bytes:
        return self._sink.taken()

    def events(self, found: FoundEvents) -> bytes:
        if found:
            columns = {name: self._column(name, found) for name in self._schema.names}
            self._writer.write_table(self._arrow.Table.from_pydict(columns, schema=self._schema))
        return self._sink.taken()

    def finish(self, progress: Progress) -> bytes:
        self._writer.add_key_value_metadata({END_KEY: progress.in_words})
        self._writer.close()
        return self._sink.taken()

    def _column(self, name: str, found: FoundEvents) -> Sequence[object]:
        values = found.column(name)
        return [None if value is None else str(value) for value in values] if name in self._texts else values

    def _type(self, kind: Kind) -> Any:
        arrow = self._arrow
        types = {
            Kind.TIME: arrow.timestamp("us", tz="UTC"),
            Kind.BOOLEAN: arrow.bool_(),
            Kind.WHOLE_NUMBER: arrow.uint64(),
            Kind.SIGNED_NUMBER: arrow.int64(),
            Kind.DECIMAL: arrow.decimal128(38, 9),
            Kind.FLOAT: arrow.float64(),
        }
        return types.get(kind, arrow.string())
