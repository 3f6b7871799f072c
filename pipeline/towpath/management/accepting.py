"""`pipeline verify --deep --accept` and `--accept-unproven`: a person accepts windows as they are now."""

from __future__ import annotations

from argparse import ArgumentTypeError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.core.management.base import CommandError

from towpath.errors import NoAlarm
from towpath.management.arguments import window_id
from towpath.management.consent import confirm
from towpath.management.operator import operator
from towpath.proof import unproven
from towpath.proof.accepting import accept

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from towpath.eventlog.store import Store
    from towpath.proof.unproven import Unproven

#: The most contradicted windows that are listed by id.
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class Accepted:
    """The number of windows that were accepted, and the lines that tell the person."""

    windows: int = 0
    lines: tuple[str, ...] = ()


def add_arguments(deep: _ArgumentGroup) -> None:
    """Add the arguments of `pipeline verify --deep` that accept something."""
    deep.add_argument(
        "--accept",
        nargs="+",
        type=_windows,
        metavar="WINDOW",
        help="accept these windows as they are now; @FILE reads them from a file, one per line",
    )
    deep.add_argument(
        "--accept-unproven",
        action="store_true",
        help="accept every window from --since to --until that has no proof, such as one from before proofs existed",
    )
    deep.add_argument("--yes", action="store_true", help="accept without asking, with --accept-unproven")


def require_usable(options: dict[str, Any]) -> None:
    """Raise CommandError if the arguments say too little, or contradict each other."""
    if options["yes"] and not options["accept_unproven"]:
        raise CommandError("--yes needs --accept-unproven.", returncode=2)
    if not (options["accept"] or options["accept_unproven"]):
        if options["reason"]:
            raise CommandError("--reason needs --accept or --accept-unproven.", returncode=2)
        return
    if not options["reason"].strip():
        raise CommandError("Say why: --reason TEXT.", returncode=2)
    if options["accept"] and options["accept_unproven"]:
        raise CommandError("Use either --accept or --accept-unproven, not both.", returncode=2)
    if options["accept_unproven"] and not (options["since"] or options["until"]):
        raise CommandError(
            "--accept-unproven needs a period: give --since, --until or both. For a log from before proofs existed,"
            " give --until with the time of the upgrade.",
            returncode=2,
        )


def accept_given(store: Store, options: dict[str, Any]) -> Accepted:
    """Accept what the arguments say. Raises CommandError, StoreUnavailable."""
    reason = options["reason"].strip()
    if options["accept_unproven"]:
        return _accept_unproven(store, options, reason=reason)
    if not options["accept"]:
        return Accepted()
    windows = list(dict.fromkeys(window for part in options["accept"] for window in part))
    try:
        accept(windows, store, reason=reason, by=operator())
    except NoAlarm as error:
        raise CommandError(str(error)) from error
    return Accepted(len(windows), (f"accepted: {len(windows):,} window(s)",))


def _accept_unproven(store: Store, options: dict[str, Any], *, reason: str) -> Accepted:
    found = unproven.find(store, since=options["since"], until=options["until"])
    lines = [
        f"not accepted: window {window} does not match its receipt. See `pipeline verify --since`, or use --accept"
        for window in found.contradicted[:_MOST_NAMED]
    ]
    if len(found.contradicted) > _MOST_NAMED:
        lines.append(f"not accepted: {len(found.contradicted) - _MOST_NAMED:,} more such window(s)")
    if not found.windows:
        return Accepted(0, (*lines, "accepted: nothing. Every window of this period has a proof"))
    question = f"Accept {_size(found)} as they are now? Type accept: "
    confirm(question, "accept", is_sure=options["yes"])
    accepted = unproven.accept(found, store, reason=reason, by=operator())
    return Accepted(accepted, (*lines, f"accepted: {accepted:,} of {_size(found)}"))


def _size(found: Unproven) -> str:
    return (
        f"{found.windows:,} window(s) without a proof, {found.rows:,} row(s) ({len(found.stray):,} of the windows"
        " have no receipt)"
    )


def _windows(text: str) -> list[UUID]:
    if not text.startswith("@"):
        return [window_id(text)]
    try:
        lines = Path(text[1:]).read_text(encoding="utf-8").split()
        return [UUID(line) for line in lines]
    except OSError as error:
        raise ArgumentTypeError(f"cannot read {text[1:]} ({error.strerror})") from error
    except ValueError as error:
        raise ArgumentTypeError(f"{text[1:]} must have window ids only, one per line") from error
