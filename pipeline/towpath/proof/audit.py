"""An audit: checks the chain of seals, every proof, and every window of the store."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from towpath.ledger import proofs, receipts, seals, suspect
from towpath.proof import chain, deep
from towpath.proof.chain import BrokenSeal
from towpath.proof.sealing import INTERVAL_SECONDS
from towpath.proof.statement import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime
    from uuid import UUID

    from towpath.eventlog.store import ProvableStore
    from towpath.ledger.proofs import Proof
    from towpath.ledger.seals import Seal, UnsealedProofs
    from towpath.proof.chain import Anchor
    from towpath.proof.deep import Difference, Progress

#: The most windows without a proof that are named.
_MOST_UNPROVEN = 1000
#: A proof is sealed within an hour. As TowpathSealsLate.
_SEAL_LATE_SECONDS = 2 * INTERVAL_SECONDS
#: Windows that were found changed before, of one question.
_WINDOWS_PER_LOOK = 300


@dataclass(slots=True)
class Audit:
    """What an audit has found, up to where it has come."""

    #: False until everything was checked. An audit that was stopped continues after `position`.
    is_complete: bool = False
    position: int = 0
    seals: int = 0
    anchors: int = 0
    windows: int = 0
    rows: int = 0
    broken: list[BrokenSeal] = field(default_factory=list)
    differences: list[Difference] = field(default_factory=list)
    #: Verified receipts without a proof: how many, and the first of them.
    unproven_windows: int = 0
    unproven: list[UUID] = field(default_factory=list)
    #: What our own commands changed, or a person accepted.
    amendments: list[Proof] = field(default_factory=list)
    unsealed: UnsealedProofs | None = None

    @property
    def is_ok(self) -> bool:
        """True if everything was checked, and nothing contradicts a proof, a seal or an anchor."""
        return self.is_complete and not self.findings

    @property
    def findings(self) -> int:
        """The number of things that contradict a proof, a seal or an anchor."""
        return len(self.broken) + len(self.differences) + self.unproven_windows

    def as_json(self) -> dict[str, Any]:
        return {
            "is_ok": self.is_ok,
            "is_complete": self.is_complete,
            "position": self.position,
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
            "unproven_windows": self.unproven_windows,
            "amendments": [
                {
                    "kind": one.kind,
                    "window": str(one.window_id) if one.window_id.int else "",
                    "outbox": one.outbox,
                    "month": f"{one.month:%Y-%m}" if one.month else "",
                    "rows": one.rows,
                    "at": one.proven_at.isoformat() if one.proven_at else "",
                    "reason": one.reason,
                }
                for one in self.amendments
            ],
            "unsealed": self.unsealed.proofs if self.unsealed else 0,
        }


#: Proofs that wait for a seal are counted up to here, and as many windows are named that wait for too long.
COUNTED_UNSEALED = 10_000


def audit(
    store: ProvableStore,
    *,
    into: Audit | None = None,
    after: int = 0,
    since: datetime | None = None,
    until: datetime | None = None,
    anchors: Iterable[Anchor] = (),
    public_key: str = "",
    pace: deep.Pace,
    on_page: Callable[[Progress], None],
) -> Audit:
    """Check the whole chain, and the windows above a position that were dispatched from `since` to before `until`.

    What it finds is noted with the proofs, and what it no longer finds is removed there. `into` has what was found even
    if this raises. Raises StoreUnavailable, and ValueError for a key that is not valid.
    """
    found = Audit() if into is None else into
    found.position = after
    by_number = _check_chain(found, anchors=list(anchors), public_key=public_key)

    def tell(progress: Progress) -> None:
        found.position, found.windows, found.rows = progress.position, progress.windows, progress.rows
        on_page(progress)

    progress, noted = deep.Progress(position=after), _Noted(found)
    for difference in deep.check(store, progress=progress, since=since, until=until, pace=pace, on_page=tell):
        noted.add(difference)
    noted.check_again(store, is_continued=after > 0, since=since, until=until, pace=pace)
    noted.rename(_rewritten(found, by_number))
    months = {"since": since.date() if since else None, "until": until.date() if until else None}
    # One by one, so that those found before a stop are there.
    for difference in itertools.chain(
        _of_the_ledger(), deep.find_strays(store, progress=progress, **months, pace=pace, on_page=tell)
    ):
        found.differences.append(difference)
    _note_of_the_ledger(found)
    found.is_complete = True
    return found


def _note_of_the_ledger(found: Audit) -> None:
    """Note what the ledger says without a look at the store."""
    found.unproven = suspect.find_unproven(limit=_MOST_UNPROVEN)
    has_all = len(found.unproven) < _MOST_UNPROVEN
    found.unproven_windows = len(found.unproven) if has_all else suspect.count_unproven()
    found.amendments = proofs.read_amendments()
    found.unsealed = seals.count_unsealed(limit=COUNTED_UNSEALED)


def _check_chain(found: Audit, *, anchors: list[Anchor], public_key: str) -> dict[int, Seal]:
    """Check the seals. Returns those that are broken, by number."""
    found.anchors = len(anchors)
    by_number: dict[int, Seal] = {}
    for one in chain.check(anchors=anchors, public_key=public_key):
        if isinstance(one, BrokenSeal):
            found.broken.append(one)
        else:
            found.seals += 1
            if any(broken.number == one.number for broken in found.broken):
                by_number[one.number] = one
    return by_number


class _Noted:
    """The differences of an audit. Each is noted with its window's proof as soon as it is found, so that `status` says
    so even if the audit is stopped, or its process dies."""

    def __init__(self, found: Audit) -> None:
        self._found = found
        self._by_window: dict[UUID, list[Difference]] = {}

    def add(self, difference: Difference) -> None:
        """Report the difference, and note it."""
        self._report(difference)
        deep.note(difference.window, self._by_window[difference.window])

    def check_again(
        self,
        store: ProvableStore,
        *,
        is_continued: bool,
        since: datetime | None,
        until: datetime | None,
        pace: deep.Pace,
    ) -> None:
        """Look again at windows that were found changed before, and note what still holds. What holds of the period is
        reported: an audit that continues another one names what that one has found. Raises StoreUnavailable."""
        # A continued audit may have begun in the middle of a window.
        earlier = [one for one in suspect.find_contradicted(limit=None) if is_continued or one not in self._by_window]
        for first in range(0, len(earlier), _WINDOWS_PER_LOOK):
            look = earlier[first : first + _WINDOWS_PER_LOOK]
            of_period = deep.of_period(look, since=since, until=until)
            for window, differences in deep.check_windows(look, store, pace=pace).items():
                deep.note(window, differences)
                for difference in differences if window in of_period else ():
                    self._report(difference)

    def rename(self, differences: list[Difference]) -> None:
        """Replace what was reported, and note what was not noted like that."""
        changed = {new.window for old, new in zip(self._found.differences, differences, strict=True) if old != new}
        self._found.differences = differences
        of_changed: dict[UUID, list[Difference]] = {}
        for difference in differences:
            if difference.window in changed:
                of_changed.setdefault(difference.window, []).append(difference)
        for window, of_window in of_changed.items():
            deep.note(window, of_window)

    def _report(self, difference: Difference) -> None:
        of_window = self._by_window.setdefault(difference.window, [])
        if difference not in of_window:
            of_window.append(difference)
            self._found.differences.append(difference)


def _of_the_ledger() -> Iterator[Difference]:
    """Yield what is wrong with proofs, receipts and seals, whatever the store holds."""
    for find, detail in (
        (suspect.find_replaced, "an extra proof was added"),
        (suspect.find_outside_of_seals, "a proof is in a place that no seal covers"),
        (suspect.find_without_receipt, "its receipt was removed, or it never had one"),
    ):
        for window in find(limit=_MOST_UNPROVEN):
            yield deep.Difference("receipt", window, "", None, 0, detail)
    for window, contradiction in receipts.find_unverified(older_than_seconds=deep.LATE_SECONDS, limit=_MOST_UNPROVEN):
        yield deep.Difference(
            "unverified", window, "", None, 0, contradiction or "it was never compared with the store"
        )
    for window, hours in seals.find_unsealed(older_than_seconds=_SEAL_LATE_SECONDS, limit=COUNTED_UNSEALED):
        detail = f"it was proven {hours:.0f} h ago, and no seal covers that: run `pipeline seals make`"
        yield deep.Difference("unsealed", window, "", None, 0, detail)


def _rewritten(found: Audit, by_number: dict[int, Seal]) -> list[Difference]:
    """Return the differences. If a seal covers what the store holds, and not what the proof says, the proof was
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
        if part and sealed and sealed.covers(part):
            proof_is_wrong |= instead.keys()
    return [
        replace(one, kind="receipt", detail="its proof was rewritten: the store holds what was sealed", row_ids=())
        if one.position in proof_is_wrong
        else one
        for one in found.differences
    ]
