"""An audit: the chain of seals, every proof, and every window of the store, and what was found wrong with them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from towpath.ledger import proofs, seals
from towpath.proof import chain, deep
from towpath.proof.chain import BrokenSeal
from towpath.proof.statement import MonthOfSeal, parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from datetime import datetime
    from uuid import UUID

    from towpath.eventlog.store import ProvableStore
    from towpath.ledger.proofs import Proof
    from towpath.ledger.seals import Seal, Unsealed
    from towpath.proof.chain import Anchor
    from towpath.proof.deep import Difference, Progress

#: Windows without a proof that are named, at most.
_MOST_UNPROVEN = 1000
#: Windows that were found changed before, and are looked at again, at most.
_MOST_CONTRADICTED = 10_000


@dataclass(slots=True)
class Audit:
    """What an audit has found."""

    seals: int = 0
    anchors: int = 0
    windows: int = 0
    rows: int = 0
    broken: list[BrokenSeal] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    #: Verified receipts without a proof.
    unproven: list[UUID] = field(default_factory=list)
    #: What was changed by our own commands, or accepted by a person.
    amendments: list[Proof] = field(default_factory=list)
    unsealed: Unsealed | None = None

    @property
    def is_ok(self) -> bool:
        """True if nothing contradicts a proof, a seal or an anchor."""
        return not self.findings

    @property
    def findings(self) -> int:
        """How many things contradict a proof, a seal or an anchor."""
        return len(self.broken) + len(self.differences) + len(self.unproven)

    def as_json(self) -> dict[str, Any]:
        return {
            "is_ok": self.is_ok,
            "seals": self.seals,
            "anchors": self.anchors,
            "windows": self.windows,
            "rows": self.rows,
            "broken_seals": [{"number": one.number, "kind": one.kind, "detail": one.detail} for one in self.broken],
            "differences": [
                {
                    "kind": one.kind,
                    "window": str(one.window),
                    "outbox": one.outbox,
                    "month": f"{one.month:%Y-%m}" if one.month else "",
                    "rows": one.rows,
                    "row_ids": list(one.row_ids),
                    "detail": one.detail,
                }
                for one in self.differences
            ],
            "unproven": [str(window) for window in self.unproven],
            "amendments": [
                {
                    "kind": one.kind,
                    "window": str(one.window_id) if one.window_id.int else "",
                    "outbox": one.outbox,
                    "month": f"{one.month:%Y-%m}" if one.month else "",
                    "rows": one.rows,
                    "at": one.proven_at.isoformat(),
                    "reason": one.reason,
                }
                for one in self.amendments
            ],
            "unsealed": self.unsealed.proofs if self.unsealed else 0,
        }


#: Proofs that wait for a seal are counted up to here.
COUNTED_UNSEALED = 10_000


def audit(
    store: ProvableStore,
    *,
    after: int = 0,
    since: datetime | None = None,
    until: datetime | None = None,
    anchors: Iterable[Anchor] = (),
    public_key: str = "",
    pace: deep.Pace,
    on_page: Callable[[Progress], None],
) -> Audit:
    """Check the whole chain, and the windows above a position that were dispatched from `since` to before `until`.

    What it finds is noted beside the proofs, and what it no longer finds is forgotten there. Raises StoreUnavailable,
    and ValueError for a key that is none.
    """
    found = Audit()
    kept = list(anchors)
    found.anchors = len(kept)
    by_number: dict[int, Seal] = {}
    for one in chain.check(anchors=kept, public_key=public_key):
        if isinstance(one, BrokenSeal):
            found.broken.append(one)
        else:
            found.seals += 1
            if any(broken.number == one.number for broken in found.broken):
                by_number[one.number] = one

    def note(progress: Progress) -> None:
        found.windows, found.rows = progress.windows, progress.rows
        on_page(progress)

    found.differences += deep.check(store, after=after, since=since, until=until, pace=pace, on_page=note)
    found.differences = _rewritten(found, by_number)
    _note(found.differences, store, pace=pace)
    found.differences += [
        deep.Difference("receipt", window, "", None, 0, "a second proof stands in the place of the first")
        for window in proofs.find_replaced(limit=_MOST_UNPROVEN)
    ]
    found.differences += deep.find_strays(
        store, since=since.date() if since else None, until=until.date() if until else None
    )
    found.unproven = proofs.find_unproven(limit=_MOST_UNPROVEN)
    found.amendments = proofs.read_amendments()
    found.unsealed = seals.count_unsealed(limit=COUNTED_UNSEALED)
    return found


def _note(differences: Iterable[Difference], store: ProvableStore, *, pace: deep.Pace) -> None:
    """Note beside each window's proof what was found, so that `status` says so, and forget what is true again."""
    by_window: dict[UUID, list[Difference]] = {}
    for difference in differences:
        by_window.setdefault(difference.window, []).append(difference)
    earlier = [window for window in proofs.find_contradicted(limit=_MOST_CONTRADICTED) if window not in by_window]
    for window, found in {**by_window, **deep.check_windows(earlier, store, pace=pace)}.items():
        proofs.note_contradiction(window, "; ".join(map(str, found)) or None)


def _rewritten(found: Audit, by_number: dict[int, Seal]) -> list[Difference]:
    """The differences; where a seal covers what the store holds, and not what the proof says, it is the proof that was
    rewritten."""
    proof_is_wrong: set[int] = set()
    for broken in found.broken:
        if broken.kind != "proofs" or broken.number not in by_number:
            continue
        instead = {
            one.position: one.stored
            for one in found.differences
            if broken.first <= one.position <= broken.last and one.month == broken.month
        }
        if not instead:
            continue
        sealed = parse(by_number[broken.number].statement).months.get(broken.month)
        part = seals.read_parts(after=broken.first - 1, until=broken.last, instead=instead).get(broken.month)
        if part and sealed == MonthOfSeal.of(part):
            proof_is_wrong |= instead.keys()
    return [
        replace(one, kind="receipt", detail="its proof was rewritten: the store holds what was sealed", row_ids=())
        if one.position in proof_is_wrong
        else one
        for one in found.differences
    ]
