"""A figure: what was measured, beside its partner from the same runs and the target it is held to."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must keep: its ratio to the partner where it has one, else its value."""

    kind: Literal["at least", "at most"]
    limit: float

    def is_kept(self, number: float) -> bool:
        """True if `number` is on the right side."""
        return number >= self.limit if self.kind == "at least" else number <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """What a figure is compared with, measured in turns with it; `values` run beside the figure's own."""

    name: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the table, one object of bench.json. `met` is None for a figure without a target."""

    name: str
    value: float
    unit: str
    partner: str = ""
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def measured(
    name: str, values: Sequence[float], *, unit: str, partner: Partner | None = None, bound: Bound | None = None
) -> Figure:
    """The median of `values`; its ratio is the median of the ratios run by run, so that a slow minute cancels out."""
    value = statistics.median(values)
    if partner is None:
        met = None if bound is None else bound.is_kept(value)
        target = "" if bound is None else f"{bound.kind} {short(bound.limit)} {unit}"
        return Figure(name=name, value=value, unit=unit, target=target, met=met)
    ratios = [own / other for own, other in zip(values, partner.values, strict=True)]
    ratio = statistics.median(ratios)
    return Figure(
        name=name,
        value=value,
        unit=unit,
        partner=f"{partner.name}: {short(statistics.median(partner.values))}",
        ratio=ratio,
        target="" if bound is None else f"{bound.kind} {bound.limit:g} x",
        met=None if bound is None else bound.is_kept(ratio),
    )


def in_turns(
    sides: Mapping[str, Callable[[], float]], *, repeats: int, say: Callable[[str], None], unit: str
) -> dict[str, list[float]]:
    """A B C A B C ...: whatever else the machine does then meets all sides alike."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats):
        for name, run in sides.items():
            values[name].append(run())
            say(f"    {turn + 1}/{repeats}  {name:<44} {short(values[name][-1]):>12} {unit}")
    return values


def as_table(figures: Sequence[Figure], *, notes: Sequence[str] = ()) -> str:
    """One table of all figures; what is not met is marked, and counted below."""
    head = ("figure", "value", "unit", "partner", "ratio", "target", "met")
    rows = [
        (
            figure.name,
            short(figure.value),
            figure.unit,
            figure.partner,
            "" if figure.ratio is None else f"{figure.ratio:.2f} x",
            figure.target,
            {True: "yes", False: "NO", None: ""}[figure.met],
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    right = {1, 4}

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join(padded).rstrip()

    held = [figure for figure in figures if figure.met is not None]
    missed = [figure.name for figure in held if not figure.met]
    verdict = f"{len(held) - len(missed)} of {len(held)} targets met" + (
        f"; MISSED: {', '.join(missed)}" if missed else ""
    )
    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows), "", verdict, *notes])


def as_json(figures: Sequence[Figure]) -> str:
    """What `.local/bench.json` holds."""
    return json.dumps([asdict(figure) for figure in figures], indent=2) + "\n"


def short(number: float) -> str:
    """Three digits that say something."""
    if number == 0:
        return "0"
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.3g}"
