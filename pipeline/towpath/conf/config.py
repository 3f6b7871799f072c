"""Every setting of the product, declared once: its default, its unit, its bounds, and what it is for.

The environment fills the fields: the variable of a field is its name in capitals, after the environment's prefix.
docs/settings.md has them as a table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, Self, cast

from django.core.exceptions import ImproperlyConfigured

from towpath.conf import broker_url, seal_key
from towpath.conf.names import QueueNames
from towpath.eventlog import columns as eventlog_columns
from towpath.eventlog.columns import Column
from towpath.eventlog.connect import DEFAULT_URL, require_known

if TYPE_CHECKING:
    from towpath.conf.environment import Environment

#: How a variable is read. A `key` is a secret that cannot be guessed.
Kind = Literal["text", "flag", "whole number", "seconds", "key", "private key", "URL"]

_IN_METADATA = "knob"

_QUEUE_PREFIX = re.compile(r"([A-Za-z][\w.-]{0,99})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """What a field of `Config` is: its bounds, its default, its meaning."""

    name: str = ""
    default: Any = None
    kind: Kind
    meaning: str
    unit: str = ""
    minimum: float = 0
    maximum: int | None = None
    schemes: tuple[str, ...] = ()
    #: Another field name for the same.
    alias: str = ""
    #: The default in the docs, if the value itself says nothing.
    default_in_words: str = ""
    #: The default, if it depends on earlier fields.
    derived: Callable[[Mapping[str, Any]], Any] | None = None

    @property
    def variable(self) -> str:
        return variable(self.name)

    @property
    def names(self) -> tuple[str, ...]:
        """Every variable that sets it."""
        return (self.variable, variable(self.alias)) if self.alias else (self.variable,)

    @property
    def is_secret(self) -> bool:
        """True if its value can also be the content of the file that `<NAME>_FILE` names."""
        return self.kind in {"key", "private key", "URL"}

    def read(self, environment: Environment, *, known: Mapping[str, Any], may_be_weak: bool) -> Any:
        """Return its value in an environment. `known` are the values of the earlier fields."""
        name, default = self.variable, self.derived(known) if self.derived else self.default
        match self.kind:
            case "text":
                return environment.text(name, default)
            case "flag":
                return environment.flag(name, default=default)
            case "whole number":
                return environment.whole_number(name, default, minimum=int(self.minimum), maximum=self.maximum)
            case "seconds":
                return environment.seconds(name, default, minimum=self.minimum)
            case "key" | "private key":
                # `problems` says whether a private key is one; its length says nothing.
                is_text = self.kind == "key"
                return environment.key(name, default=default, may_be_weak=may_be_weak or not is_text)
            case "URL":
                if self.alias:
                    default = environment.url(variable(self.alias), default, schemes=self.schemes)
                return environment.url(name, default, schemes=self.schemes)

    def problem(self, value: object) -> str:
        """Return what is wrong with a value, which may have been set in code; empty if nothing is."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        match self.kind:
            case "flag":
                is_good, wanted = isinstance(value, bool), "True or False"
            case "whole number" | "seconds":
                is_whole = isinstance(value, int) or self.kind == "seconds"
                most = float("inf") if self.maximum is None else self.maximum + 1
                is_good = is_number and is_whole and self.minimum <= cast("float", value) < most
                what = "a whole number" if self.kind == "whole number" else "a number of seconds"
                wanted = f"{what}, {self.minimum:g}" + (" or more" if self.maximum is None else f" to {self.maximum}")
            case _:
                is_good, wanted = isinstance(value, str), "a text"
        if is_good:
            return ""
        shown = f"of the type {type(value).__name__}" if self.is_secret else repr(value)
        return f"{self.variable} is {shown}: it must be {wanted}"


def variable(name: str) -> str:
    """The environment variable of a field, without the prefix."""
    return name.upper()


def _knob(
    kind: Kind,
    default: object,
    meaning: str,
    **more: Any,
) -> Any:
    knob = Knob(kind=kind, meaning=meaning, **more)
    # Django's error page shows the settings, and blanks only those with KEY in their own name.
    return field(default=default, repr=not knob.is_secret, metadata={_IN_METADATA: knob})


def _wedged_seconds(known: Mapping[str, Any]) -> float:
    return max(120.0, 4 * float(known["store_timeout_seconds"]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of Towpath: the value of Django's setting TOWPATH. `dataclasses.replace` makes a changed copy."""

    rabbitmq_url: str = _knob(
        "URL",
        "amqp://127.0.0.1:26729",
        "`amqp://user:password@host:5672/vhost` (`amqps://...?cacertfile=FILE` with TLS), or several with `;` between"
        " them. Heartbeat and timeouts are added to each. Options: `heartbeat`, `socket_timeout`, `stack_timeout`,"
        " `blocked_connection_timeout`, `connection_attempts`, `retry_delay`, `channel_max`, `frame_max`.",
        schemes=("amqp", "amqps"),
        default_in_words="local stack",
    )
    event_store_url: str = _knob(
        "URL",
        DEFAULT_URL,
        "`clickhouse://user:password@host:8123/database` (`clickhouses://` with TLS), or [another store](stores.md):"
        " `postgresql://...`, `chdb:///folder`. Alias: `CLICKHOUSE_URL`.",
        alias="clickhouse_url",
        default_in_words="local stack",
    )
    event_store_verifier_url: str = _knob(
        "URL",
        "",
        "The store of `EVENT_STORE_URL`, with a user that reads every column of `event_log` and does nothing else."
        " Verification recomputes digests with it. The dispatcher needs it, and anyone who runs `pipeline verify`.",
        default_in_words="that of `EVENT_STORE_URL`",
    )
    event_store_explorer_url: str = _knob(
        "URL",
        "",
        "The store of `EVENT_STORE_URL`, with a user that reads `event_log` within limits of time, memory, rows and"
        " bytes. The explorer searches with it. Only the web process needs it.",
        default_in_words="that of `EVENT_STORE_URL`",
    )
    explorer_scope: str = _knob(
        "text",
        "",
        "The dotted path of a function `(user) -> str`. It returns the [query](query.md) for what this person may see"
        ' in the explorer; `""` is everything.',
        default_in_words="none: everyone sees every event",
    )
    environment: str = _knob("text", "local", "The `environment` column of every event.")
    queue_prefix: str = _knob(
        "text",
        "",
        "A prefix for the names of RabbitMQ's queues: with `shop`, `towpath.dispatch` becomes"
        " `shop.towpath.dispatch`. Where several projects share a virtual host, give each its own.",
        default_in_words="none",
    )
    rabbitmq_management_url: str = _knob(
        "text",
        "",
        "The address of RabbitMQ's management pages, such as `https://rabbitmq.example.com/`. The"
        " [console](console.md) links to it. Towpath itself never requests it.",
        default_in_words="none: no link",
    )
    trusted_proxies: int = _knob(
        "whole number",
        0,
        "How many proxies in front of the web process append to `X-Forwarded-For`. The client's address (`ip` of"
        " events, login lockouts) is that many entries from the right. With 0 the header is ignored: anyone can"
        " send one.",
        unit="proxies",
    )
    dispatch_interval_seconds: float = _knob(
        "seconds", 1.0, "How often the dispatcher looks for committed rows.", minimum=0.01
    )
    batch_ids: int = _knob(
        "whole number",
        1000,
        "The most ids in one message of fresh events. A message from a backlog has up to `WINDOW_MAX_ROWS`. Aggregator"
        " threads times `BATCH_IDS` (by default, 12 times 1000) should reach `WINDOW_MAX_ROWS`, or windows of fresh"
        " events stay smaller.",
        unit="ids",
        minimum=1,
    )
    window_rows: int = _knob("whole number", 1000, "A window closes at this many rows.", unit="rows", minimum=1)
    window_max_rows: int = _knob(
        "whole number",
        10_000,
        "A window grows beyond `WINDOW_ROWS`, up to this many rows, while every writer is busy and ids wait.",
        unit="rows",
        minimum=1,
    )
    window_bytes: int = _knob(
        "whole number", 32 * 1024 * 1024, "A window closes at this many payload bytes.", unit="bytes", minimum=1024
    )
    #: The dispatcher already gathers for DISPATCH_INTERVAL_SECONDS, and every look leaves its last window waiting this
    #: long.
    window_linger_seconds: float = _knob(
        "seconds",
        0.1,
        "A window closes this long after its first id: long enough for all messages from one look of the dispatcher.",
    )
    window_writers: int = _knob(
        "whole number",
        2,
        "How many windows an aggregator writes at the same time, each with its own database connection. One spare"
        " writer serves fresh events while all of these write a backlog, and vice versa.",
        unit="windows",
        minimum=1,
    )
    max_open_windows: int = _knob(
        "whole number",
        16,
        "Dispatch pauses while the ids between dispatch and ack would fill more than this many windows of the largest"
        " size. With more than five aggregators, allow three for each: two that are being written, and one that waits.",
        unit="windows",
        minimum=1,
    )
    lease_seconds: float = _knob(
        "seconds", 10.0, "A window whose owner has not renewed its lease for this long is taken over.", minimum=0.1
    )
    unsealed_seconds: float = _knob(
        "seconds", 15.0, "Recovery seals a batch that no aggregator has sealed for this long.", minimum=0.1
    )
    shutdown_seconds: float = _knob(
        "seconds",
        20.0,
        "A worker that is told to stop ends within this time, and others recover what it could not deliver by then."
        " Half of it is dramatiq's `--worker-shutdown-timeout`, in milliseconds.",
        minimum=1.0,
    )
    store_timeout_seconds: float = _knob(
        "seconds", 30.0, "How long the event store may take for one insert.", minimum=1.0
    )
    #: A separate key, so that SECRET_KEY can change without changing the hashes.
    event_hash_key: str = _knob(
        "key",
        "",
        "The key of `Hashed` fields: a random text of 32 characters or more.",
        default_in_words="`SECRET_KEY`",
    )
    seal_key: str = _knob(
        "private key",
        "",
        "The Ed25519 key, as PEM, that signs [seals](proof.md): `openssl genpkey -algorithm ed25519`. Only the"
        " dispatcher needs it. Signing needs the extra `seals`.",
        default_in_words="none: seals are not signed",
    )
    event_context_max_bytes: int = _knob(
        "whole number", 16 * 1024 * 1024, "The largest context of an event.", unit="bytes", minimum=1
    )
    compare_loaded: bool = _knob(
        "flag",
        default=True,
        meaning="Compare what was loaded with what is stored, byte for byte, when receipts are verified. It costs the"
        " event store about as much again as the [proof](proof.md).",
    )
    canary_seconds: float = _knob(
        "seconds",
        0.0,
        "How often the pipeline publishes an event of its own, `canary_sent`, and measures how long it takes from its"
        " commit to the event store. `60` is a good value. Only the dispatcher needs it. 0 turns it off.",
    )
    receipt_days: int = _knob(
        "whole number",
        30,
        "Receipts of delivered windows are kept for this long, once the event store has confirmed them.",
        unit="days",
        minimum=1,
    )
    metrics_port: int = _knob(
        "whole number",
        0,
        "The port on which a worker or the scheduler serves its Prometheus metrics; 0 turns that off. The web process"
        " always has `/metrics`.",
        unit="port",
        maximum=65_535,
    )
    heartbeat_dir: str = _knob(
        "text",
        "",
        "The folder of this process's heartbeat, for `python -m towpath.probe`. Without it, there is no heartbeat.",
        default_in_words="none",
    )
    wedged_seconds: float = _knob(
        "seconds",
        120.0,
        "A worker whose work has not moved for this long is reported dead. It must be more than"
        " `STORE_TIMEOUT_SECONDS`.",
        minimum=1.0,
        derived=_wedged_seconds,
        default_in_words="`120`, or four times `STORE_TIMEOUT_SECONDS` if that is more",
    )
    tracing: bool = _knob(
        "flag",
        default=False,
        meaning="Send traces to `OTEL_EXPORTER_OTLP_ENDPOINT`. Needs the extra `tracing`, which the image includes.",
    )
    failpoints: str = _knob(
        "text",
        "",
        "For tests only: where to kill the process (`pipeline/towpath/telemetry/failpoints.py`).",
        default_in_words="none",
    )

    #: The project's own columns of the event log. They are set in code, not by a variable.
    columns: tuple[Column, ...] = ()

    @property
    def queues(self) -> QueueNames:
        """The pipeline's queues."""
        return QueueNames.of(self.queue_prefix)

    @property
    def verifier_store_url(self) -> str:
        """Where verification reads: EVENT_STORE_VERIFIER_URL, or EVENT_STORE_URL while that is empty."""
        return self.event_store_verifier_url or self.event_store_url

    @property
    def explorer_store_url(self) -> str:
        """Where the explorer searches: EVENT_STORE_EXPLORER_URL, or EVENT_STORE_URL while that is empty."""
        return self.event_store_explorer_url or self.event_store_url

    @property
    def store_urls(self) -> dict[str, str]:
        """Each URL of the event store that is set, by its variable without the prefix."""
        names = ("event_store_url", "event_store_verifier_url", "event_store_explorer_url")
        urls = {name: getattr(self, name) for name in names}
        return {variable(name): url for name, url in urls.items() if url or name == "event_store_url"}

    #: The prefix of the variables that these values were read from.
    variable_prefix: str = field(default="", compare=False)

    @property
    def largest_window_rows(self) -> int:
        """The most rows of a window."""
        return max(self.window_rows, self.window_max_rows)

    @property
    def largest_batch_ids(self) -> int:
        """The most ids of a batch. A batch of a backlog makes a window, however many aggregators there are."""
        return max(self.batch_ids, self.largest_window_rows)

    @classmethod
    def from_environment(cls, environment: Environment, *, may_be_weak: bool = False) -> Self:
        """Read the settings. Raises ImproperlyConfigured, with a line for each bad variable that `environment` has
        read.

        `may_be_weak`: accept keys that can be guessed, as on a developer's machine.
        """
        known: dict[str, Any] = {}
        for knob in knobs():
            known[knob.name] = knob.read(environment, known=known, may_be_weak=may_be_weak)
        config = cls(**known, variable_prefix=environment.prefix)
        for problem in config.problems():
            environment.note(environment.prefix + problem)
        environment.check()
        return config

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the values, by variable, and how to fix it."""
        if wrong := [problem for knob in knobs() if (problem := knob.problem(getattr(self, knob.name)))]:
            yield from wrong  # what follows relies on their types
            return
        for problem in broker_url.problems(self.rabbitmq_url):
            yield f"{variable('rabbitmq_url')}: {problem}"
        for name, url in self.store_urls.items():
            try:
                require_known(url)
            except ImproperlyConfigured as error:
                yield f"{name}: {error}"
        if not _QUEUE_PREFIX.fullmatch(self.queue_prefix):
            yield (
                f"{variable('queue_prefix')} is {self.queue_prefix!r}: it must be at most 100 letters, digits, `_`,"
                " `-` and `.`, and begin with a letter"
            )
        for problem in eventlog_columns.problems(self.columns):
            yield f"TOWPATH.columns: {problem}"
        if self.wedged_seconds <= self.store_timeout_seconds:
            limit = variable("store_timeout_seconds")
            yield f"{variable('wedged_seconds')} must be more than {limit}: an insert may take that long"
        yield from self._problems_of_extras()

    def _problems_of_extras(self) -> Iterator[str]:
        if self.seal_key and (problem := seal_key.problem(self.seal_key)):
            yield f"{variable('seal_key')} {problem}"
        if self.tracing:
            try:
                import_module("opentelemetry.exporter.otlp.proto.http")
                import_module("opentelemetry.sdk")
            except ModuleNotFoundError as error:
                install = "pip install 'towpath[tracing]'"
                yield f"{variable('tracing')} needs {error.name}, which is not installed: {install}"


def knobs() -> Iterator[Knob]:
    """Every field of `Config` that the environment fills, in order."""
    for one in fields(Config):
        if knob := one.metadata.get(_IN_METADATA):
            yield replace(knob, name=one.name, default=one.default)
