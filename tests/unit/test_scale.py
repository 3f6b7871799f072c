"""The arithmetic of docs/scale.md: its tables follow from the inputs at its top, so that those alone are edited."""

from __future__ import annotations

import math
import re

import pytest

from deploy.local.process import PROJECT

PAGE = (PROJECT / "docs" / "scale.md").read_text()

#: `| `name` | 1,234 | ...`
INPUTS = {
    name: float(value.replace(",", ""))
    for name, value in re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", PAGE, re.MULTILINE)
}

RATES = (1_000, 10_000, 50_000, 100_000, 300_000, 1_000_000)


def wal_bytes() -> float:
    return INPUTS["publish_wal"] + INPUTS["payload"] + INPUTS["deliver_wal"]


def demand(rate: int) -> str:
    """What a rate of events a second asks of each part: a line of the second table."""
    messages = rate * INPUTS["messages"] / 1e3
    cells = (
        f"{rate:,}",
        f"{rate * wal_bytes() / 1e6:,.1f}",
        f"{rate * INPUTS['naptime'] * (INPUTS['row'] + INPUTS['payload']) / 1e9:,.2f}",
        f"{messages:,.0f}",
        f"{messages * INPUTS['message'] / 1e6:,.2f}",
        f"{rate * INPUTS['parts'] / 1e6:,.1f}",
        f"{rate * INPUTS['payload'] * 86_400 / INPUTS['compression'] / 1e9:,.0f}",
    )
    return f"| {' | '.join(cells)} |"


def supply(rate: int) -> str:
    """What has to be there for it: a line of the third table."""
    cells = (
        f"{rate:,}",
        math.ceil(rate / INPUTS["core"]),
        math.ceil(rate * wal_bytes() / 1e6 / INPUTS["wal_disk"]),
        math.ceil(rate / INPUTS["dispatch"]),
        math.ceil(rate / INPUTS["inserts"] / INPUTS["large_window"]),
    )
    return f"| {' | '.join(str(cell) for cell in cells)} |"


def limits() -> list[str]:
    """Events a second at which each part is full: the lines of the fourth table."""
    full = {
        "ClickHouse, parts, windows of 10,000": INPUTS["inserts"] * 1e6 / INPUTS["parts"],
        "PostgreSQL, WAL": INPUTS["wal_disk"] * 1e6 / wal_bytes(),
        "ClickHouse, parts, windows of 100,000": INPUTS["inserts"] * INPUTS["large_window"],
        "one dispatcher": INPUTS["dispatch"],
        "one RabbitMQ queue": INPUTS["queue"] * 1e3 / INPUTS["messages"],
    }
    return [f"| {part} | {rate:,.0f} |" for part, rate in sorted(full.items(), key=lambda item: item[1])]


@pytest.mark.parametrize("line", [demand, supply])
def test_each_line_follows_from_the_inputs(line: object) -> None:
    assert callable(line)
    expected = "\n".join(line(rate) for rate in RATES)

    assert expected in PAGE, f"in docs/scale.md, this belongs into the table:\n{expected}"


def test_the_order_in_which_the_parts_saturate_follows_from_the_inputs() -> None:
    expected = "\n".join(limits())

    assert all(line in PAGE for line in limits()), f"in docs/scale.md, this belongs into the table:\n{expected}"
    places = [PAGE.index(line) for line in limits()]
    assert places == sorted(places), f"in docs/scale.md, the parts are in another order:\n{expected}"


def test_the_counts_are_those_that_the_benchmark_asserts() -> None:
    asserted = (PROJECT / "tests" / "benchmarks" / "test_counts.py").read_text()

    assert f"counts.publish.wal_bytes / EVENTS < {INPUTS['publish_wal']:.0f}\n" in asserted
    assert f"counts.wal_bytes_per_event < {INPUTS['deliver_wal']:.0f}\n" in asserted
    assert f"counts.messages_per_1000_events <= {INPUTS['messages']:.0f}\n" in asserted
    assert f"counts.parts_per_million_events == {INPUTS['parts']:.0f}\n" in asserted
