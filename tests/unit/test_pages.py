"""The frame of the pages: what is vendored is what its makers published, and nothing acts inline."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from django.apps import apps
from django.http import HttpRequest, HttpResponse

import towpath
from towpath.explorer.checks import check_apps
from towpath.pages.policy import POLICY, strict

_PRODUCT = Path(towpath.__file__).parent
_VENDORED = sorted((_PRODUCT / "pages" / "static" / "towpath" / "vendor").iterdir())
_TEMPLATES = sorted(_PRODUCT.glob("*/templates/**/*.html"))


@pytest.mark.parametrize("folder", _VENDORED, ids=[folder.name for folder in _VENDORED])
def test_vendored_files_are_those_of_their_checksums(folder: Path) -> None:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    expected = {name: digest for digest, name in (line.split("  ") for line in lines)}

    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.name != "SHA256SUMS"}

    assert found == expected
    assert "LICENSE" in found


@pytest.mark.parametrize("template", _TEMPLATES, ids=[str(path.relative_to(_PRODUCT)) for path in _TEMPLATES])
def test_templates_have_nothing_inline_and_nothing_of_another_site(template: Path) -> None:
    html = template.read_text()

    assert re.findall(r"<style|\sstyle=|\son[a-z]+=|hx-on|javascript:|hx-vals=.js", html) == []
    assert [tag for tag in re.findall(r"<script([^>]*)>", html) if "src=" not in tag and "json" not in tag] == []
    assert re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", html) == []
    assert "|safe" not in html
    assert "autoescape off" not in html


def test_the_policy_allows_this_site_and_nothing_else() -> None:
    @strict
    def view(_request: HttpRequest) -> HttpResponse:
        return HttpResponse("")

    response = view(HttpRequest())

    assert response["Content-Security-Policy"] == POLICY
    assert response["Cache-Control"] == "private, no-store"
    assert set(re.findall(r"'[^']+'", POLICY)) == {"'none'", "'self'"}
    assert POLICY.startswith("default-src 'none'")


def test_what_the_explorer_needs_beside_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apps, "is_installed", lambda name: name != "django_htmx")

    (error,) = check_apps(None)

    assert error.msg == "towpath.explorer needs django_htmx in INSTALLED_APPS."
    assert '"towpath.explorer", "towpath.pages", "django_htmx"' in str(error.hint)
