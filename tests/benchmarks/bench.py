"""`make bench`: the figures of the pipeline on this machine, beside their partners and targets, as one table.

    python -m tests.benchmarks.bench [--only NAME] [--quick] [--repeats N]

A missed target is said in the table and changes no exit code: the machine may be busy. 1 means that a figure could not
be measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
import traceback
from typing import TYPE_CHECKING

from deploy.local.credentials import LOCAL
from deploy.local.errors import LocalStackError
from deploy.local.process import PROJECT
from deploy.local.stack import Stack
from tests.benchmarks.chart import draw
from tests.benchmarks.figure import Figure, as_json, as_table
from tests.benchmarks.lab import FULL, QUICK, Lab, Sizes, forget_knobs_of_the_shell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_JSON = LOCAL / "bench.json"
_SVG = PROJECT / "docs" / "bench.svg"

#: In the order of the table. The functions are imported when Django is set up.
_NAMES = (
    "end_to_end",
    "windows",
    "latency",
    "publish",
    "payloads",
    "dispatch",
    "flat",
    "holders",
    "idle",
    "counts",
    "proof",
    "explorer",
    "growth",
    "neighbours",
    "processor",
)


def _figures_of() -> Mapping[str, Callable[[Lab], list[Figure]]]:
    from tests.benchmarks import (
        counting,
        dispatching,
        end_to_end,
        exploring,
        flat,
        neighbours,
        payloads,
        processor,
        proving,
        publishing,
        rates,
        under_holders,
    )

    return {
        "end_to_end": end_to_end.end_to_end,
        "windows": rates.windows,
        "latency": rates.latency,
        "publish": publishing.publishing,
        "payloads": payloads.payloads,
        "dispatch": dispatching.dispatch,
        "flat": flat.flat,
        "holders": under_holders.holders,
        "idle": counting.idle,
        "counts": counting.counts,
        "proof": proving.proving,
        "explorer": exploring.exploring,
        "growth": end_to_end.growth,
        "neighbours": neighbours.neighbours,
        "processor": processor.processor_time,
    }


def measure(stack: Stack, names: Sequence[str], *, sizes: Sizes) -> tuple[list[Figure], list[str]]:
    """The figures of `names`, and the names of those that could not be measured."""
    lab = Lab(stack, sizes=sizes)
    figures: list[Figure] = []
    failed: list[str] = []
    try:
        known = _figures_of()
        for name in names:
            lab.say(f"\n{name}")
            began = time.monotonic()
            try:
                figures += known[name](lab)
            except Exception:  # noqa: BLE001 - the other figures are worth having
                failed.append(name)
                lab.say(traceback.format_exc())
            lab.say(f"  {name} took {time.monotonic() - began:.0f} s")
    finally:
        lab.close()
    return figures, failed


def main() -> int:
    """Exit code 0 even when a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench")
    parser.add_argument("--only", choices=_NAMES, help="one group of figures")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes, once unless --repeats says otherwise: shows the method, not the figures",
    )
    parser.add_argument("--repeats", type=int, help="runs of each side (5)")
    options = parser.parse_args()
    sizes = QUICK if options.quick else FULL
    if options.repeats:
        sizes = sizes.with_repeats(options.repeats)
    forget_knobs_of_the_shell()
    # Nothing of the last run is of use, and its database may be an older version's.
    shutil.rmtree(LOCAL / "bench", ignore_errors=True)
    try:
        with Stack(LOCAL / "bench", has_application=False) as stack:
            figures, failed = measure(stack, [options.only] if options.only else _NAMES, sizes=sizes)
    except LocalStackError as error:
        sys.stderr.write(f"\n{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    _JSON.write_text(as_json(figures), encoding="utf-8")
    if not options.only and not options.quick:
        _SVG.write_text(draw(figures, note=_machine()), encoding="utf-8")
    sys.stdout.write(f"\n{as_table(figures, notes=_notes(sizes, failed))}\n")
    return 1 if failed else 0


def _notes(sizes: Sizes, failed: list[str]) -> list[str]:
    notes = [f"{_machine()}; median of {sizes.repeats} runs in turns; {_JSON.relative_to(PROJECT)}"]
    if sizes.is_quick:
        notes.append("QUICK: small sizes. These numbers say that the benchmark works, and nothing else.")
    if failed:
        notes.append(f"NOT MEASURED: {', '.join(failed)} (errors above)")
    return notes


def _machine() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, everything on this machine"


if __name__ == "__main__":
    sys.exit(main())
