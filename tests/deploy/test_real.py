"""`make real`, as far as it can be checked without the servers that it builds."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest
import yaml

from deploy.clickhouse.users import SHORT_NAMES, fixed, grants, profile
from deploy.local.process import PROJECT
from deploy.real import cache, compose, tree
from deploy.real.cache import BuildFailed, NotPossible
from deploy.real.clickhouse_server import users_file
from deploy.real.run import _SLICE, Failed, Report
from tests.deploy.compose import FILE

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REAL_CACHE", str(tmp_path / "cache"))


def test_every_image_of_others_has_a_stand_in() -> None:
    services = yaml.safe_load(FILE.read_text())["services"]
    foreign = {
        service["image"].partition("@")[0]
        for service in services.values()
        if not service["image"].startswith("towpath:") and service.get("profiles") != ["observability"]
    }
    dockerfile = (PROJECT / "deploy" / "real" / "docker" / "Dockerfile").read_text()

    stand_ins = compose.stand_ins()

    assert stand_ins.keys() == foreign | {compose.base_of_the_image()}
    assert set(stand_ins.values()) == set(re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE))


def test_proof_seals_retention_and_erasure_run_on_the_real_servers() -> None:
    names = ("proof", "seals", "unproven", "retention", "erasure")

    assert {f"tests/integration/test_{name}.py" for name in names} <= {*_SLICE}
    assert [path for path in _SLICE if not (PROJECT / path).exists()] == []


def test_the_file_of_users_has_the_grants_and_profiles_of_users_sql() -> None:
    passwords = {"administrator": "a", **{name: f"password of {name}" for name in SHORT_NAMES}}

    content = ET.fromstring(users_file(passwords, administrator="admin"))  # noqa: S314 - our own

    for user in (f"towpath_{name}" for name in SHORT_NAMES):
        assert [query.text for query in content.iterfind(f"users/{user}/grants/query")] == grants(user)
        settings = content.find(f"profiles/{user}")
        assert settings is not None
        assert {one.tag: one.text for one in settings if one.tag != "constraints"} == profile(user)
        assert [one.tag for one in settings.iterfind("constraints/*") if one.find("const") is not None] == fixed(user)
    assert all(user.findtext("password_sha256_hex") for user in content.iterfind("users/*"))


def test_what_is_built_is_built_once_and_what_was_broken_off_again() -> None:
    made = []

    def build(place: Path) -> None:
        made.append(place)
        assert list(place.iterdir()) == []
        (place / "part").touch()
        if len(made) == 1:
            raise BuildFailed("the first time")

    with pytest.raises(BuildFailed):
        cache.built("thing", "recipe", build)
    for recipe in ("recipe", "recipe", "another"):
        assert (cache.built("thing", recipe, build) / "part").exists()

    assert len(made) == 3


def test_a_part_that_the_machine_cannot_do_is_no_failure_and_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    report = Report()

    report.part("suite", lambda: str(tree.servers()))

    assert not report.has_failed
    assert re.search(r"^suite +not possible +0  because it needs root", report.table(), re.MULTILINE)
    assert "not possible" in capsys.readouterr().out


@pytest.mark.parametrize("error", [Failed("2 failures"), BuildFailed("no such package"), OSError("disk full")])
def test_a_part_that_fails_is_a_failure_and_the_others_go_on(error: Exception) -> None:
    report = Report()

    def fail() -> str:
        raise error

    report.part("suite", fail)
    report.part("cluster", lambda: "all well")

    assert report.has_failed
    assert str(error) in report.table()
    assert "all well" in report.table()


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        (
            "Types: deb\nURIs: http://mirror/debian-security\nSuites: x\n\nTypes: deb\nURIs: http://mirror/debian\n",
            "http://mirror/debian",
        ),
        ("Enabled: no\nURIs: http://mirror/debian\n", None),
        ("URIs: http://mirror/ubuntu\n", None),
    ],
)
def test_the_mirror_is_the_one_that_apt_uses(tmp_path: Path, sources: str, expected: str | None) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / "a.sources").write_text(sources)

    if expected is None:
        with pytest.raises(NotPossible, match="names no mirror"):
            tree.mirror(tmp_path)
    else:
        assert tree.mirror(tmp_path) == expected


def test_the_mirror_can_be_in_the_older_format(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text(
        "# deb http://old/debian x main\ndeb [arch=amd64] http://mirror/debian x main\n"
    )

    assert tree.mirror(tmp_path) == "http://mirror/debian"
