"""The event store can be replaced: nothing but its own module, and the choice of one by its URL, knows which it is."""

from __future__ import annotations

import re

from deploy.local.process import PROJECT

#: The store's own modules, the choice by the URL's scheme, and the variable CLICKHOUSE_URL (which the brief names).
_MAY_KNOW = {"pipeline/towpath/eventlog/store.py", "pipeline/towpath/conf/config.py"}
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
