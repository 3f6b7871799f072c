"""The product is a house with rooms: its map names each, and the ledger's tables are touched in one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import towpath
from deploy.local.process import PROJECT
from towpath.ledger import models

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRODUCT = PROJECT / "pipeline" / "towpath"
_MAY_TOUCH_THE_LEDGER = {_PRODUCT / "ledger", _PRODUCT / "migrations"}


def _sources() -> Iterator[Path]:
    yield from (path for folder in (_PRODUCT, PROJECT / "backend") for path in folder.rglob("*.py"))


def test_the_map_names_every_room_and_module() -> None:
    children = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in _PRODUCT.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }

    named = set(re.findall(r"(?<!`)\b[a-z]+(?:/(?= )|\.py)", towpath.__doc__ or ""))

    assert named == children - {"__init__.py"}


def test_the_tables_of_the_ledger_are_named_in_its_room_only() -> None:
    tables = [
        model._meta.db_table for model in (models.Batch, models.Cursor, models.DeadLetter, models.Shift, models.Window)
    ]
    assert all(table.startswith("pipeline_") for table in tables)

    naming = {path for path in _sources() if re.search("|".join(tables), path.read_text(encoding="utf-8"))}

    assert {path.parent for path in naming} == _MAY_TOUCH_THE_LEDGER


def test_the_models_of_the_ledger_are_imported_in_its_room_only() -> None:
    importing = {path for path in _sources() if "ledger.models" in path.read_text(encoding="utf-8")}

    assert {path for path in importing if path.parent not in _MAY_TOUCH_THE_LEDGER} == {_PRODUCT / "models.py"}
