"""The table of docs/settings.md, from the fields of `Config`.

python -m tests.settings_page     writes it into the page
"""

from __future__ import annotations

import re

from deploy.local.process import PROJECT
from towpath.conf.config import Knob, knobs

PAGE = PROJECT / "docs" / "settings.md"
_TABLE = re.compile(r"(?<=<!-- begin -->\n).*(?=<!-- end -->)", re.DOTALL)


def written() -> str:
    """The page as it must be."""
    return _TABLE.sub(lambda _: table(), PAGE.read_text())


def table() -> str:
    rows = [f"| `{knob.variable}` | {default(knob)} | {_values(knob)} | {knob.meaning} |" for knob in knobs()]
    return "\n".join(["| variable | default | values | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def default(knob: Knob) -> str:
    return knob.default_in_words or f"`{plain(knob.default)}`"


def plain(value: object) -> str:
    """The value as the environment has it."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
    return str(value)


def _values(knob: Knob) -> str:
    match knob.kind:
        case "flag":
            return "true or false"
        case "whole number":
            bounds = f"{knob.minimum:g} or more" if knob.maximum is None else f"{knob.minimum:g} to {knob.maximum}"
            return f"{knob.unit}, {bounds}"
        case "seconds":
            return f"seconds, {knob.minimum:g} or more"
        case "key":
            return "secret text"
    return knob.kind


if __name__ == "__main__":
    PAGE.write_text(written())
