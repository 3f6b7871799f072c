"""The arithmetic of docs/scale.md: its tables follow from the inputs at its top, so that those alone are edited.

python -m tests.benchmarks.scale       (writes the tables anew)
"""

from __future__ import annotations

import math
import re

from deploy.local.process import PROJECT

PAGE = PROJECT / "docs" / "scale.md"

_RATES = (1_000, 10_000, 50_000, 100_000, 300_000, 1_000_000)


def read_inputs(page: str) -> dict[str, float]:
    """The second column of the table of inputs, by the name in the first."""
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) \|", page, re.MULTILINE)
    return {name: float(value.replace(",", "")) for name, value in rows}


def recomputed(page: str) -> str:
    """The page with its computed tables as its inputs have them."""
    inputs = read_inputs(page)
    tables = {
        "| events/s | WAL, MB/s |": [_demand(rate, inputs) for rate in _RATES],
        "| events/s | cores |": [_supply(rate, inputs) for rate in _RATES],
        "| part | full at, events/s |": _limits(inputs),
    }
    for header, rows in tables.items():
        table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
        page, found = re.subn(
            rf"^({re.escape(header)}.*\n\|[ |-]+\|\n)(?:\|.*\|\n)+", rf"\g<1>{table}", page, flags=re.MULTILINE
        )
        if not found:
            raise ValueError(f"no table begins with {header}")
    return page


def _wal_bytes(inputs: dict[str, float]) -> float:
    return inputs["publish_wal"] + inputs["payload"] + inputs["deliver_wal"]


def _demand(rate: int, inputs: dict[str, float]) -> list[str]:
    """What so many events a second ask of each part."""
    messages = rate * inputs["messages"] / 1e3
    return [
        f"{rate:,}",
        f"{rate * _wal_bytes(inputs) / 1e6:,.1f}",
        f"{rate * inputs['naptime'] * (inputs['row'] + inputs['payload']) / 1e9:,.2f}",
        f"{messages:,.0f}",
        f"{messages * inputs['message'] / 1e6:,.2f}",
        f"{rate * inputs['parts'] / 1e6:,.1f}",
        f"{rate * inputs['payload'] * 86_400 / inputs['compression'] / 1e9:,.0f}",
    ]


def _supply(rate: int, inputs: dict[str, float]) -> list[str]:
    """What has to be there for it."""
    needed = (
        rate / inputs["core"],
        rate * _wal_bytes(inputs) / 1e6 / inputs["wal_disk"],
        rate / inputs["dispatch"],
        rate / inputs["inserts"] / inputs["large_window"],
    )
    return [f"{rate:,}", *(str(math.ceil(number)) for number in needed)]


def _limits(inputs: dict[str, float]) -> list[list[str]]:
    """At how many events a second each part is full, the first one first."""
    full = {
        "ClickHouse, parts, windows of 10,000": inputs["inserts"] * 1e6 / inputs["parts"],
        "PostgreSQL, WAL": inputs["wal_disk"] * 1e6 / _wal_bytes(inputs),
        "ClickHouse, parts, windows of 100,000": inputs["inserts"] * inputs["large_window"],
        "one dispatcher": inputs["dispatch"],
        "one RabbitMQ queue": inputs["queue"] * 1e3 / inputs["messages"],
    }
    return [[part, f"{rate:,.0f}"] for part, rate in sorted(full.items(), key=lambda item: item[1])]


if __name__ == "__main__":
    PAGE.write_text(recomputed(PAGE.read_text()))
