"""docs/scale.md: the arithmetic is right, and starts from what the benchmark asserts."""

from __future__ import annotations

import re

from deploy.local.process import PROJECT
from tests.benchmarks.scale import PAGE, read_inputs, recomputed


def test_the_tables_follow_from_the_inputs() -> None:
    page = PAGE.read_text()

    assert recomputed(page) == page, "run `python -m tests.benchmarks.scale`"


def test_other_inputs_make_other_tables() -> None:
    known = {
        "publish_wal": 700,
        "deliver_wal": 100,
        "payload": 200,
        "row": 100,
        "naptime": 10,
        "messages": 2,
        "message": 5_000,
        "parts": 1_000,
        "compression": 4,
        "core": 20_000,
        "wal_disk": 100,
        "dispatch": 250_000,
        "inserts": 3,
        "large_window": 50_000,
        "queue": 10_000,
    }
    page = re.sub(
        r"^\| `(\w+)` \| [\d,.]+ \|",
        lambda row: f"| `{row[1]}` | {known[row[1]]} |",
        PAGE.read_text(),
        flags=re.MULTILINE,
    )

    tables = recomputed(page)

    # 1,000 bytes of WAL; 300 dead bytes for 10 s; 10 KB of messages for 1,000 events; a quarter of 200 bytes for a day.
    assert "| 100,000 | 100.0 | 0.30 | 200 | 1.00 | 100.0 | 432 |" in tables
    assert "| 300,000 | 15 | 3 | 2 | 2 |" in tables
    assert "| ClickHouse, parts, windows of 10,000 | 3,000 |\n| PostgreSQL, WAL | 100,000 |" in tables


def test_the_counts_are_those_that_the_benchmark_asserts() -> None:
    inputs = read_inputs(PAGE.read_text())
    asserted = (PROJECT / "tests" / "benchmarks" / "test_counts.py").read_text()

    assert f"counts.publish.wal_bytes / EVENTS < {inputs['publish_wal']:.0f}\n" in asserted
    assert f"counts.wal_bytes_per_event < {inputs['deliver_wal']:.0f}\n" in asserted
    assert f"counts.messages_per_1000_events <= {inputs['messages']:.0f}\n" in asserted
    assert f"counts.parts_per_million_events == {inputs['parts']:.0f}\n" in asserted
