"""The words of docs/concepts.md and of the map. And the event store can be replaced: nothing knows which it is."""

from __future__ import annotations

import re

import towpath
from deploy.local.process import PROJECT

#: The store's own modules, the choice by the URL's scheme, and the variable CLICKHOUSE_URL (which the brief names).
_MAY_KNOW = {
    "pipeline/towpath/eventlog/connect.py",
    "pipeline/towpath/conf/config.py",
}
_OWN = "pipeline/towpath/eventlog/stores/clickhouse/"
_WORDS = re.compile(r"clickhouse|chdb", re.IGNORECASE)


def test_clickhouse_is_named_in_its_store_modules_only() -> None:
    named = {
        f"{path.relative_to(PROJECT)}"
        for folder in ("backend", "pipeline")
        for path in (PROJECT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and _WORDS.search(path.read_text(encoding="utf-8"))
    }

    assert {name for name in named if not name.startswith(_OWN)} == _MAY_KNOW


def words() -> dict[str, str]:
    """Each word that docs/concepts.md explains, and where it says that it is."""
    text = (PROJECT / "docs/concepts.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| ([a-z ]+) \| .* \| `(\S+)` \|$", text, re.MULTILINE))


def test_every_word_is_where_the_concepts_say_that_it_is() -> None:
    assert len(words()) > 25
    assert {path for path in words().values() if not (PROJECT / "pipeline/towpath" / path).exists()} == set()


def test_every_stage_of_the_map_is_a_word_of_the_concepts() -> None:
    stages = re.findall(r"\w+", next(line for line in (towpath.__doc__ or "").splitlines() if "->" in line))

    assert stages == ["publish", "dispatch", "accumulate", "seal", "load", "write", "ack"]
    assert {"deliver", "aggregate", "recover", "verify", *stages} <= words().keys()
    # And the map says where each is.
    assert set(stages) <= set(re.findall(r"\w+", (towpath.__doc__ or "").partition("Where to look:")[2]))


def test_every_module_of_the_path_is_on_the_map() -> None:
    """What else is on it: tests/unit/test_rooms.py."""
    flow = {path.stem for path in (PROJECT / "pipeline/towpath/flow").glob("*.py")} - {"__init__"}

    told = re.search(r"^    flow/ .*?(?=^    \w+/)", towpath.__doc__ or "", re.MULTILINE | re.DOTALL)

    assert told is not None
    assert flow <= set(re.findall(r"\w+", told[0]))
