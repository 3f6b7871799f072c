"""What proof costs: verification of what was just delivered, and an audit of all of it, in rows a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from django.db import connection

from deploy.local.stack import DEFAULT_AGGREGATORS
from tests.benchmarks.figure import Bound, Figure, Partner, in_turns, measured
from tests.benchmarks.product import Product
from tests.benchmarks.traffic import publish_events, publish_in_pieces
from towpath.conf.current import config
from towpath.flow.verify import verify_receipts
from towpath.ledger.models import Proof
from towpath.ledger.proofs import count_rows
from towpath.proof.audit import audit
from towpath.proof.deep import Pace
from towpath.proof.packing import pack_proofs
from towpath.proof.sealing import seal_all
from towpath.wiring import event_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.benchmarks.lab import Lab

#: Of the issue that asked for proof: what is verified while as many arrive, and what an audit reads.
_CONTEXT_BYTES = 200
_LARGE_BYTES = 64 << 10
_SEAM = Bound("at least", 0.95)
_SIZE, _SIZE_PACKED, _COPIES = Bound("at most", 320), Bound("at most", 66), 50_000
_VERIFIED, _AUDITED = Bound("at least", 100_000), Bound("at least", 500_000)


def proving(lab: Lab) -> list[Figure]:
    """A backlog is delivered, and then verified, sealed and audited with nothing else under way."""
    events = lab.sizes.backlog_events
    store = event_store(config())
    verified, sealed, audited = [], [], []
    for turn in range(lab.sizes.repeats):
        with Product(lab, aggregators=DEFAULT_AGGREGATORS) as running:
            running.warm_up()
            lab.clear()
            publish_events(events, context_bytes=_CONTEXT_BYTES)
            running.drain(events)
        began = time.monotonic()
        if verify_receipts(store, should_stop=lambda: False) or count_rows() < events:
            raise AssertionError("not every receipt was verified")
        verified.append(events / (time.monotonic() - began))
        began = time.monotonic()
        if not [*seal_all(key="")]:
            raise AssertionError("nothing was sealed")
        sealed.append(time.monotonic() - began)
        began = time.monotonic()
        found = audit(store, pace=Pace(0), on_page=lambda _: None)
        audited.append(found.rows / (time.monotonic() - began))
        if not found.is_ok or found.rows < events:
            raise AssertionError(f"the audit is wrong: {found.as_json()}")
        lab.say(f"    {turn + 1}/{lab.sizes.repeats}  verified {verified[-1]:,.0f}, audited {audited[-1]:,.0f} rows/s")
    store.close()
    size, size_packed = _bytes_of_a_proof()
    small, large = (
        in_turns(
            {
                f"{name}, digested": _drain(lab, {}, events=count, context_bytes=size),
                f"{name}, not digested": _drain(lab, {"COMPARE_LOADED": "false"}, events=count, context_bytes=size),
            },
            repeats=lab.sizes.repeats,
            say=lab.say,
            unit="events/s",
        )
        for name, count, size in (
            ("200 bytes", events, _CONTEXT_BYTES),
            ("64 KiB", lab.sizes.payload_total_bytes // _LARGE_BYTES, _LARGE_BYTES),
        )
    )
    return [
        measured(
            "proof: end to end, what is loaded is digested",
            small["200 bytes, digested"],
            unit="events/s",
            partner=Partner(name="not digested", values=small["200 bytes, not digested"]),
            bound=_SEAM,
        ),
        measured(
            "proof: 64 KiB contexts, what is loaded is digested",
            large["64 KiB, digested"],
            unit="events/s",
            partner=Partner(name="not digested", values=large["64 KiB, not digested"]),
        ),
        measured("proof: receipts verified and proven, 200-byte contexts", verified, unit="rows/s", bound=_VERIFIED),
        measured("proof: `verify --deep`, 200-byte contexts", audited, unit="rows/s", bound=_AUDITED),
        measured("proof: one seal over all of them", sealed, unit="s"),
        measured("proof: size of a proof, with its indexes", [size], unit="bytes", bound=_SIZE),
        measured("proof: size of a packed proof", [size_packed], unit="bytes", bound=_SIZE_PACKED),
    ]


def _bytes_of_a_proof() -> tuple[float, float]:
    """Of many windows with one outbox and month each, like the newest but for what is random: as rows, and packed."""
    with connection.cursor() as cursor:

        def size(table: str) -> int:
            cursor.execute("SELECT pg_total_relation_size(%(table)s)", {"table": table})
            return int(cursor.fetchone()[0])

        own = {"position", "window_id", "digest", "digest_sum", "id_sum"}
        names = ", ".join(sorted({str(field.column) for field in Proof._meta.concrete_fields} - own))
        before = size("pipeline_proof")
        cursor.execute(
            f"""INSERT INTO pipeline_proof (window_id, digest, digest_sum, id_sum, {names})
            SELECT gen_random_uuid(), sha256(n::text::bytea), floor(random() * 1e17), floor(random() * 1e23), {names}
            FROM generate_series(1, %(copies)s) AS n,
                 (SELECT * FROM pipeline_proof ORDER BY position DESC LIMIT 1) AS newest""",
            {"copies": _COPIES},
        )
        as_rows = size("pipeline_proof") - before
        assert [*seal_all(key="")]
        # Those of the seals before have their receipts, and stay as they are.
        if pack_proofs(receipt_days=-2) != _COPIES:
            raise AssertionError("the proofs were not packed")
        return as_rows / _COPIES, size("pipeline_packedproofs") / _COPIES


def _drain(lab: Lab, knobs: Mapping[str, str], *, events: int, context_bytes: int) -> Callable[[], float]:
    """A backlog from its commit to its last ack: nothing is verified meanwhile."""

    def run() -> float:
        with Product(lab, aggregators=DEFAULT_AGGREGATORS, knobs=knobs) as running:
            running.warm_up()
            lab.clear()
            publish_in_pieces(events, context_bytes=context_bytes)
            return running.drain(events).events_per_second

    return run
