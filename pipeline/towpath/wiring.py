"""Builds what the stages need from the settings, in one place: for workers, commands and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from towpath.eventlog.connect import connect
from towpath.flow.accumulate import WindowLimits
from towpath.flow.delivery import WindowRules
from towpath.flow.dispatch import DispatchLimits

if TYPE_CHECKING:
    from towpath.conf.config import Config
    from towpath.eventlog.store import Store


def event_store(config: Config, *, shortest_timeout_seconds: float = 0.0) -> Store:
    """Return the event store, which connects at its first use. Its timeout is that of the settings, or at least this.

    Raises ImproperlyConfigured if the project's own columns are wrongly declared: `manage.py check` says so as well,
    but workers run no checks.
    """
    timeout_seconds = max(config.store_timeout_seconds, shortest_timeout_seconds)
    return connect(config.event_store_url, timeout_seconds=timeout_seconds, own_columns=config.columns)


def verifier_store(config: Config, *, store: Store | None = None) -> Store:
    """Return the event store for verification, which reads contexts: the pipeline's (`store`, if there is one already),
    unless EVENT_STORE_VERIFIER_URL is set.

    Connects at its first use, and raises what `event_store` raises. The caller closes it.
    """
    if config.verifier_store_url == config.event_store_url:
        return event_store(config) if store is None else store
    return _reader(config, config.verifier_store_url, setting="EVENT_STORE_VERIFIER_URL")


def explorer_store(config: Config) -> Store:
    """Return the event store for the explorer, with its own user, or that of EVENT_STORE_URL.

    Connects at its first use, and raises what `event_store` raises. The caller closes it.
    """
    if config.explorer_store_url == config.event_store_url:
        return event_store(config)
    return _reader(config, config.explorer_store_url, setting="EVENT_STORE_EXPLORER_URL")


def _reader(config: Config, url: str, *, setting: str) -> Store:
    return connect(url, timeout_seconds=config.store_timeout_seconds, own_columns=config.columns, setting=setting)


def window_limits(config: Config) -> WindowLimits:
    """Return when an aggregator closes a window."""
    return WindowLimits(
        rows=config.window_rows,
        max_rows=config.largest_window_rows,
        payload_bytes=config.window_bytes,
        linger_seconds=config.window_linger_seconds,
    )


def window_rules(config: Config) -> WindowRules:
    """Return the rules for owners of windows."""
    return WindowRules(
        environment=config.environment,
        max_bytes=config.window_bytes,
        lease_seconds=config.lease_seconds,
        max_open_windows=config.max_open_windows,
        own_columns=config.columns,
        compares_loaded=config.compare_loaded,
    )


def dispatch_limits(config: Config) -> DispatchLimits:
    """Return how much a dispatcher puts into a batch, and leaves in flight."""
    return DispatchLimits(
        batch_ids=config.batch_ids,
        batch_bytes=max(1, config.window_bytes // 4),
        in_flight_rows=config.max_open_windows * config.largest_window_rows,
        backlog_batch_ids=config.largest_batch_ids,
        # With the other columns, and with what COPY escapes, it must still be within the window's bytes.
        backlog_batch_bytes=max(1, config.window_bytes * 3 // 4),
    )
