"""Metrics as Prometheus sees them: scraped from real processes, or read from this one's registry."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from towpath.watch import health
from towpath.watch.within import Within

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest


class Samples:
    """What one scrape has found."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        return self.of(name)

    def of(self, name: str, **labels: str) -> float:
        """The value; a KeyError that shows the scrape when there is none."""
        try:
            return self._values[name, frozenset(labels.items())]
        except KeyError:
            raise KeyError(f"{name} {labels} is not in\n{self.text}") from None

    def names(self) -> set[str]:
        return {name for name, _ in self._values}


def measure_at_each_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's /metrics remembers nothing, of the test before or of the scrape before."""
    fresh = Within(health._measure, seconds=health._SECONDS)
    monkeypatch.setattr(health, "_measurement", fresh)


def get(url: str, **headers: str) -> tuple[int, str]:
    """Status and text, whatever the status is."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(port: int) -> Samples:
    status, text = get(f"http://127.0.0.1:{port}/metrics")
    assert status == 200, text
    return Samples(text)


class Counted:
    """What this process has counted since the object was made."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, frozenset[tuple[str, str]]], float] = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }

    def of(self, name: str, **labels: str) -> float:
        value = REGISTRY.get_sample_value(name, labels)
        assert value is not None, f"no series {name} {labels}"
        return value - self._before.get((name, _frozen(labels)), 0.0)


def _frozen(labels: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())
