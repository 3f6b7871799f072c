"""Only what puts the product together reads the settings. Everything below it is given values."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from deploy.local.process import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PRODUCT = PROJECT / "pipeline" / "towpath"

#: The composition root, and what Django, dramatiq, pydantic or an application calls by itself.
_MAY_READ_CONFIG = {
    "actors.py",
    "apps.py",
    "checks.py",
    "lifecycle.py",
    "conf/",
    "console/seen.py",  # what all views of this process share
    "console/views/",
    "explorer/checks.py",
    "explorer/reading.py",  # what its views read with
    "explorer/views/",
    "management/",
    "outbox/checks.py",
    "outbox/client_address.py",  # a middleware
    "outbox/context.py",  # bind()
    "outbox/event.py",  # a field that is Hashed
    "outbox/publishing.py",  # publish()
    "pages/frame.py",  # the frame of every view
    "testing/",
    "watch/health.py",  # a middleware
}
#: Django's own settings, and the project's INSTALLED_APPS, middleware and user model.
_MAY_READ_DJANGO_SETTINGS = {"conf/", "checks.py", "console/apps.py", "explorer/migrations/", "explorer/models.py"}


def test_the_settings_are_read_where_the_product_is_put_together_and_nowhere_else() -> None:
    assert _unexpected("towpath.conf.current", allowed=_MAY_READ_CONFIG) == []


def test_django_s_settings_are_read_in_few_places() -> None:
    assert _unexpected("django.conf", allowed=_MAY_READ_DJANGO_SETTINGS) == []


def test_what_may_read_them_does() -> None:
    """A name that is not needed any more is taken off the list."""
    for module, allowed in (("towpath.conf.current", _MAY_READ_CONFIG), ("django.conf", _MAY_READ_DJANGO_SETTINGS)):
        readers = [_name(path) for path in _modules() if module in _imported(path)]
        assert [name for name in allowed if not any(reader.startswith(name) for reader in readers)] == []


def _unexpected(module: str, *, allowed: set[str]) -> list[str]:
    return [
        _name(path) for path in _modules() if module in _imported(path) and not _name(path).startswith(tuple(allowed))
    ]


def _modules() -> list[Path]:
    found = sorted(_PRODUCT.rglob("*.py"))
    assert len(found) > 100
    return found


def _name(path: Path) -> str:
    return str(path.relative_to(_PRODUCT))


def _imported(path: Path) -> set[str]:
    return set(_imports(ast.parse(path.read_text())))


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in the file, and every name from one as if it was a module."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from (one.name for one in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{one.name}" for one in names)
