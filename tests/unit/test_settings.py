"""No list of settings is kept by hand beside the fields of `Config` and the sample's settings.py."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from deploy.local.process import PROJECT
from tests import variables
from tests.deploy.compose import EXAMPLE
from tests.settings_page import PAGE, plain, written
from towpath.conf.config import Config, knobs

if TYPE_CHECKING:
    from pathlib import Path

_MANIFESTS = sorted((PROJECT / "deploy" / "kubernetes").glob("*/*.yaml"))


def test_the_page_has_every_field_of_the_product_as_it_is_declared() -> None:
    assert PAGE.read_text() == written(), "run `python -m tests.settings_page`"


def test_the_page_has_every_variable_and_no_other() -> None:
    page = PAGE.read_text()
    named = {*re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE), *re.findall(r"Alias: `([A-Z_]+)`", page)}

    assert named == variables.settings()
    assert set(re.findall(r"`([A-Z_]+_FILE)`", page)) == {f"{name}_FILE" for name in variables.secrets()}


def test_the_example_of_an_environment_has_the_defaults_of_the_fields() -> None:
    """docker-compose.yml is compared with it in tests/deploy/test_compose.py."""
    example = dict(re.findall(r"^#([A-Z_]+)=(.+)$", EXAMPLE.read_text(), re.MULTILINE))
    defaults = {knob.variable: plain(knob.default) for knob in knobs()}

    of_the_fields = {name: value for name, value in example.items() if name in defaults and name != "ENVIRONMENT"}

    assert len(of_the_fields) > 10
    assert of_the_fields == {name: defaults[name] for name in of_the_fields}


@pytest.mark.parametrize("manifest", _MANIFESTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_kubernetes_sets_only_what_is_read(manifest: Path) -> None:
    resources: list[Any] = list(yaml.safe_load_all(manifest.read_text()))
    maps = [resource["data"] for resource in resources if resource["kind"] == "ConfigMap"]

    assert {name for one in maps for name in one} <= variables.settings()


def test_every_field_is_described_and_has_a_default() -> None:
    assert [knob.name for knob in knobs() if not knob.meaning.endswith(".") or not knob.meaning[0].isupper()] == [
        "rabbitmq_url",
        "event_store_url",
    ]  # these begin with the form of the URL
    assert {one.name for one in fields(Config)} == {knob.name for knob in knobs()} | {"columns", "variable_prefix"}
    assert Config() == Config(**{knob.name: knob.default for knob in knobs()})
    assert [knob.name for knob in knobs() if knob.kind == "whole number" and not knob.unit] == []
    assert [knob.name for knob in knobs() if knob.name.endswith("_seconds") != (knob.kind == "seconds")] == []
