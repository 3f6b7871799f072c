"""`make chaos`: the whole stack under load, one thing after the other breaking, then quiet; then the books.

    python -m tests.chaos.soak --seconds 600 --seed 1 [--store postgresql] [--hold-snapshot]

Safety: I5 and I6 are sampled all the time. Liveness: when all is healed, everything must drain. Then what was
committed is compared with what is stored. Exit code 1 if anything is wrong; the same seed breaks the same things in
the same order.

With `--hold-snapshot`, somebody holds back vacuum all the while, and no question may cost more for it at the end than
at the start.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import threading
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import django
import psycopg2

from deploy.local.application import MIGRATIONS, Application
from deploy.local.process import PROJECT
from deploy.local.stack import Stack
from tests.benchmarks import holders
from tests.chaos.figures import Resources, Watch, queue_lengths, resources
from tests.chaos.nemesis import PIPELINE_SESSIONS, Nemesis, plan
from tests.chaos.visitors import Visitor, broken_promises
from tests.faults.oracle import Oracle, Verdict
from tests.faults.proxy import Fault, Kind, Proxy, with_port
from tests.faults.sampler import Sampler
from tests.faults.stores import ClickHouse, PostgreSQL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.chaos.drift import Drifted
    from tests.faults.stores import StoreOfRun
    from tests.faults.writers import Books, Writer

_FOLDER = PROJECT / ".local" / "chaos"
_AGGREGATORS = 2
_AGGREGATOR_NAMES = tuple(f"aggregator-{number + 1}" for number in range(_AGGREGATORS))
_WRITERS = 4
_VISITORS = 2
#: Transactions per second of each writer: with bulk ones in between, a few hundred events per second together.
_TRANSACTIONS_PER_SECOND = 8.0
_BIG_EVERY = 150
_PROGRESS_SECONDS = 5.0
#: The supervisor waits up to 30 s before it starts a program that crashed often, and the scheduler ticks each minute.
_DRAIN_SECONDS = 180.0
_RECOVERY_SECONDS = 60.0
_RUN = "chaos-"


class Soak:
    """One run on one stack."""

    def __init__(self, stack: Stack, *, seconds: float, seed: int, is_snapshot_held: bool) -> None:
        self._stack = stack
        self._is_snapshot_held = is_snapshot_held
        self._seconds = seconds
        self._seed = seed
        self._url = stack.environment["DATABASE_URL"]
        if stack.postgres is None or stack.rabbitmq is None:
            raise SystemExit("the soak kills its services: unset DATABASE_URL and RABBITMQ_URL")
        store: StoreOfRun = PostgreSQL(stack.environment["EVENT_STORE_URL"], stack.postgres.port)
        services = ["rabbitmq"]
        if stack.clickhouse:
            store = ClickHouse(stack.clickhouse)
            services.append("clickhouse")
        self._proxies = {
            "postgres": Proxy(stack.postgres.port),
            "rabbitmq": Proxy(stack.rabbitmq.amqp_port),
            "event store": Proxy(store.port),
            # Between the writers of this process and PostgreSQL.
            "writers": Proxy(stack.postgres.port),
        }
        self._oracle = Oracle(self._url, store)
        self._watch = Watch(self._url)
        self._nemesis = Nemesis(stack, self._proxies, plan(seed, seconds, services=services))
        web_port = int(stack.environment["WEB_URL"].rpartition(":")[2])
        self._visitors = [Visitor(web_port, number=number) for number in range(_VISITORS)]
        self._problems: list[str] = []
        self._began = time.monotonic()

    def run(self) -> int:
        """The exit code."""
        os.environ["DATABASE_URL"] = with_port(self._url, self._proxies["writers"].port)
        django.setup()
        from tests.chaos.drift import Drift
        from tests.faults.writers import Books

        self._start_application()
        self._oracle.create()
        books, drift = Books(), Drift.started()
        threading.Thread(target=self._watch.run, name="watch", daemon=True).start()
        # Sessions end when PostgreSQL is killed. This survives it, as a standby's slot does.
        holder = holders.prepared_transaction(self._url) if self._is_snapshot_held else nullcontext()
        with holder, Sampler(self._oracle, _RUN, every_seconds=1.0) as sampler:
            self._say(f"faults for {self._seconds:g} s, seed {self._seed}")
            self._break_everything(books)
            at_start, drifted = self._at_start, drift.of(*self._broken_between, self._stack.log_folder)
            self._say("healed: everything must drain")
            self._drain()
            self._measure_recovery(books, kills=3 if self._seconds < 300 else 6)
            self._drain()
        self._watch.stop()
        drift.stop()
        self._wait_until_all_run()
        verdict = self._oracle.verdict(_RUN, acknowledged=books.acknowledged, maybe=books.maybe)
        self._problems += sampler.broken[:20]
        if not sampler.samples:
            self._problems.append(f"no sample of I5 and I6 could be taken: {sampler.last_failure}")
        self._problems += [f"{kind}: {examples}" for kind, examples in verdict.faults.items()]
        self._problems += broken_promises(self._oracle, self._visitors)
        self._problems += self._audit()
        if verdict.committed != verdict.stored + verdict.dead:
            self._problems.append(f"{verdict.committed} events committed, {verdict.stored} stored")
        if self._is_snapshot_held:
            self._problems += [f"{one.name}: {one.last} instead of {one.first}" for one in drifted if one.has_grown]
        self._report(verdict, books, sampler, at_start, drifted)
        for proxy in self._proxies.values():
            proxy.close()
        return 1 if self._problems else 0

    def _start_application(self) -> None:
        """The programs, with a proxy between them and each service."""
        direct = self._stack.environment
        environment = {
            **direct,
            "DATABASE_URL": with_port(direct["DATABASE_URL"], self._proxies["postgres"].port),
            "RABBITMQ_URL": with_port(direct["RABBITMQ_URL"], self._proxies["rabbitmq"].port),
            "EVENT_STORE_URL": with_port(direct["EVENT_STORE_URL"], self._proxies["event store"].port),
            "PGAPPNAME": PIPELINE_SESSIONS,
        }
        application = Application(log_folder=self._stack.log_folder, environment=environment)
        for name in MIGRATIONS:
            migration = application.migration(name)
            migration.start()
            migration.wait_until_done()
        self._stack.supervisor.start(
            application.web(int(direct["WEB_URL"].rpartition(":")[2])),
            application.scheduler(),
            application.dispatcher(),
            *(application.aggregator(number + 1) for number in range(_AGGREGATORS)),
        )

    def _break_everything(self, books: Books) -> None:
        writers = self._writers(books, "soak")
        stopping = threading.Event()
        nemesis = threading.Thread(
            target=self._nemesis.run, kwargs={"stopping": stopping, "say": self._say}, name="nemesis", daemon=True
        )
        self._at_start = resources(self._stack, self._url)
        for visitor in self._visitors:
            visitor.start()
        nemesis.start()
        end, began = time.monotonic() + self._seconds, datetime.now(UTC)
        while (left := end - time.monotonic()) > 0:
            stopping.wait(min(left, _PROGRESS_SECONDS))
            self._show_progress(books)
        self._broken_between = began, datetime.now(UTC)
        stopping.set()
        nemesis.join()
        self._nemesis.heal()
        for visitor in self._visitors:
            visitor.stop()
        self._stop(writers)

    def _measure_recovery(self, books: Books, *, kills: int) -> None:
        """Kill -9 of all aggregators together, again and again, with nothing else in the way.

        At a moment at which a window is sealed. The event store answers late meanwhile, or there would be none: a
        window is on its way for ten milliseconds otherwise.
        """
        self._say(f"recovery: {kills} times kill -9 of all aggregators under load")
        dice = random.Random(f"recovery {self._seed}")
        self._proxies["event store"].fail(Fault(kind=Kind.SLOW, seconds=0.3))
        writers = self._writers(books, "recovery")
        for _ in range(kills):
            self._wait_until_all_run()
            time.sleep(dice.uniform(2, 4))
            held = self._watch.wait_until_sealed(seconds=_RECOVERY_SECONDS)
            for name in _AGGREGATOR_NAMES:
                self._nemesis.kill(name)
            if not self._watch.wait_until_stored(held, seconds=_RECOVERY_SECONDS):
                self._problems.append(f"what killed aggregators held was not stored within {_RECOVERY_SECONDS:g} s")
        self._stop(writers)
        self._proxies["event store"].heal()

    def _wait_until_all_run(self) -> None:
        deadline = time.monotonic() + _RECOVERY_SECONDS
        while not all(self._is_ready(name) for name in _AGGREGATOR_NAMES) and time.monotonic() < deadline:
            time.sleep(0.2)

    def _is_ready(self, name: str) -> bool:
        process = self._stack.supervisor._find(name).process
        return process.is_running and process.check_ready()

    def _drain(self) -> None:
        deadline = time.monotonic() + _DRAIN_SECONDS
        shown = time.monotonic()
        began = time.monotonic()
        left: Mapping[str, int] = {"?": 1}
        while left and time.monotonic() < deadline:
            try:
                left = self._oracle.undelivered()
            except psycopg2.Error:
                left = {"PostgreSQL is not back": 1}
            if left and time.monotonic() - shown > _PROGRESS_SECONDS:
                shown = time.monotonic()
                self._say(f"  left: {_pairs(left)}")
            time.sleep(0.3 if left else 0)
        if left:
            self._problems.append(f"not drained {_DRAIN_SECONDS:g} s after the last fault: {_pairs(left)}")
        else:
            self._say(f"  drained after {time.monotonic() - began:.1f} s")

    def _audit(self) -> list[str]:
        """What the proofs say against an event store that nobody has changed by hand: nothing must."""
        from django.db import connection

        from towpath.eventlog.connect import connect
        from towpath.flow.verify import verify_receipts
        from towpath.proof.audit import audit
        from towpath.proof.deep import Pace
        from towpath.proof.sealing import seal_all

        connection.close()  # PostgreSQL has been killed since it was opened
        store = connect(self._stack.environment["EVENT_STORE_URL"], timeout_seconds=30)
        verify_receipts(store, should_stop=lambda: False)
        seals = [*seal_all(key="")]
        found = audit(store, pace=Pace(0), on_page=lambda _: None)
        store.close()
        self._say(f"audited {found.windows} windows, {found.rows} rows, {found.seals} seals")
        # Receipts without a proof are those that this run has put there, for there to be many.
        problems = [*map(str, found.broken), *map(str, found.differences)] or (["no seal"] if not seals else [])
        return [f"audit: {problem}" for problem in problems[:20]]

    def _writers(self, books: Books, name: str) -> list[Writer]:
        from tests.faults.writers import Writer

        writers = [
            Writer(
                _RUN,
                books,
                seed=f"{self._seed} {name} {number}",
                transactions_per_second=_TRANSACTIONS_PER_SECOND,
                big_every=_BIG_EVERY,
            )
            for number in range(_WRITERS)
        ]
        for writer in writers:
            writer.start()
        return writers

    def _stop(self, writers: list[Writer]) -> None:
        for writer in writers:
            try:
                writer.stop()
            except Exception as error:  # noqa: BLE001 - reported with the others
                self._problems.append(f"a writer ended: {type(error).__name__} {error}")

    def _show_progress(self, books: Books) -> None:
        try:
            stored: object = self._oracle.stored(_RUN)
        except (OSError, psycopg2.Error):
            stored = "?"
        try:
            left = _pairs(self._oracle.undelivered())
        except psycopg2.Error:
            left = "?"
        self._say(f"  committed {len(books.acknowledged)} (+{len(books.maybe)} maybe) stored {stored} left: {left}")

    def _report(
        self,
        verdict: Verdict,
        books: Books,
        sampler: Sampler,
        at_start: Resources,
        drifted: Sequence[Drifted],
    ) -> None:
        at_end = resources(self._stack, self._url)
        self._say("")
        for name, value in self._lines(verdict, books, sampler):
            _print(f"  {name:<28} {value}")
        _print(f"\n  {'':<28} {'at the start':>14} {'at the end':>14}")
        for name in at_start.rss_mib.keys() | at_end.rss_mib.keys():
            start, end = (f"{r.rss_mib.get(name, 0)} MiB, {r.threads.get(name, 0)} thr" for r in (at_start, at_end))
            _print(f"  {name:<28} {start:>14} {end:>14}")
        _print(f"  {'dead tuples':<28} {at_start.dead_tuples:>14} {at_end.dead_tuples:>14}")
        _print(f"  {'PostgreSQL connections':<28} {at_start.connections:>14} {at_end.connections:>14}")
        _print(f"\n  {'medians of a minute':<44} {'the first':>12} {'the last':>12}")
        for one in drifted:
            _print(f"  {one.name:<44} {one.first:>12} {one.last:>12}")
        for problem in self._problems:
            _print(f"\n  BROKEN  {problem}")
        again = f"python -m tests.chaos.soak --seconds {self._seconds:g} --seed {self._seed}"
        if self._stack.clickhouse is None:
            again += " --store postgresql"
        if self._is_snapshot_held:
            again += " --hold-snapshot"
        _print(f"\n  {'FAILED' if self._problems else 'OK'}   once more: {again}   logs: {self._stack.log_folder}\n")

    def _lines(self, verdict: Verdict, books: Books, sampler: Sampler) -> Iterator[tuple[str, object]]:
        for fault, count in sorted(self._nemesis.done.items()):
            yield f"fault: {fault}", count
        yield "faults in all", self._nemesis.done.total()
        yield "faults without a target", self._nemesis.missed.total()
        yield "events committed", verdict.committed
        yield "transactions rolled back", books.rolled_back
        yield "transactions failed", books.failed
        yield "events of lost COMMIT answers", f"{len(books.maybe)}, of which committed: {verdict.maybe_committed}"
        yield "events stored", verdict.stored
        for kind in ("lost", "doubled", "phantom", "altered", "forgotten"):
            yield kind, len(getattr(verdict, kind))
        yield "dead letters", verdict.dead
        yield "recovered windows", self._watch.recovered
        yield "samples of I5 and I6", f"{sampler.samples} ({sampler.failed_samples} while a service was away)"
        yield "worst lag", f"{self._watch.worst_lag_seconds:.1f} s"
        yield "kill -9 to sealed stored", self._watch.distribution("sealed")
        yield "kill -9 to all stored", self._watch.distribution("all")
        yield (
            "sign-ups tried / answered",
            " / ".join(
                str(sum(len(emails) for emails in found))
                for found in ([v.tried for v in self._visitors], [v.promised for v in self._visitors])
            ),
        )
        lengths = queue_lengths(self._stack.environment["RABBITMQ_URL"])
        yield "queues", _pairs(lengths)

    def _say(self, text: str) -> None:
        _print(f"{time.monotonic() - self._began:7.1f}  {text}")


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _pairs(counts: Mapping[str, int]) -> str:
    return " ".join(f"{name}={count}" for name, count in counts.items()) or "nothing"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.soak")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="default: a random one, printed")
    parser.add_argument(
        "--folder", type=Path, default=None, help=f"default: {_FOLDER.name}/SEED, so that seeds run together"
    )
    parser.add_argument("--store", choices=("clickhouse", "postgresql"), default="clickhouse", help="the event store")
    parser.add_argument(
        "--hold-snapshot", action="store_true", help="hold back vacuum all the while: a transaction that is prepared"
    )
    options = parser.parse_args()
    seed = random.randrange(10_000) if options.seed is None else options.seed
    for name in ("DATABASE_URL", "RABBITMQ_URL", "EVENT_STORE_URL", "CLICKHOUSE_URL", "FAILPOINTS"):
        os.environ.pop(name, None)
    folder = options.folder or _FOLDER / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    environment = {"LOG_JSON": "true"}
    if options.store == "postgresql":
        environment["EVENT_STORE_URL"] = "postgresql://"
    with Stack(folder, has_application=False, environment=environment) as stack:
        os.environ.update(stack.environment)
        soak = Soak(stack, seconds=options.seconds, seed=seed, is_snapshot_held=options.hold_snapshot)
        return soak.run()


if __name__ == "__main__":
    sys.exit(main())
