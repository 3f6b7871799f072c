"""Examples in the help of every command: what people type, in the order in which they need it."""

from __future__ import annotations

from argparse import ArgumentParser, RawDescriptionHelpFormatter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PIPELINE: Mapping[str, tuple[str, ...]] = {
    "status": ("status", "status --watch", "status --json"),
    "doctor": ("doctor", "doctor --json"),
    "recover": ("recover",),
    "tail": ("tail", "tail --json --windows 10"),
    "run": ("run all", "run aggregator --processes=1"),
    "verify": ("verify --since 2026-11-24", "verify --deep --since 2026-11-24T06:00:00+00:00"),
    "seals": ("seals make", "seals list", "seals export --since 17", "seals public-key"),
    "deadletters": (
        "deadletters list --error 'too large'",
        "deadletters show 17",
        "deadletters replay --all",
        "deadletters drop 17",
    ),
    "pause": ("pause --reason 'the store is being repaired'", "pause outbox_user --reason 'a column is changed'"),
    "resume": ("resume", "resume outbox_user"),
    "outboxes": ("outboxes list", "outboxes rename outbox_old outbox_new", "outboxes discard outbox_old"),
    "leave": ("leave", "leave --migrations"),
}


EVENTLOG: Mapping[str, tuple[str, ...]] = {
    "migrate": ("migrate", "migrate --plan", "migrate --check"),
    "status": ("status", "status --json"),
    "compare": (
        "compare --with old_log",
        "compare --with old_log --since 2026-11-24 --until 2026-11-25",
        "compare --with audit.old_log --at postgresql://reader:...@db.example.com/audit",
    ),
    "backfill": ("backfill users.User", "backfill users.User --rows-per-second 200"),
    "events": ("events", "events --write", "events --check", "events --markdown"),
    "retain": ("retain --months 24 --dry-run", "retain --months 24"),
    "erase": (
        "erase --actor user:4711 --fields context.email context.name ip --reason ticket-812 --dry-run",
        "erase --where 'context.email:jane@example.com' --fields context.email --reason ticket-812",
    ),
}


def add_examples(actions: Mapping[str, ArgumentParser], examples: Mapping[str, tuple[str, ...]], *, of: str) -> None:
    """Give each action its examples, and each of its nested actions those that are about it. Raises KeyError if an
    action has none."""
    for name, parser in actions.items():
        _add(parser, examples[name], of=of)
        for nested, nested_parser in actions_of(parser).items():
            about = tuple(one for one in examples[name] if one.split()[:2] == [name, nested])
            if not about:
                raise KeyError(f"{name} {nested}")
            _add(nested_parser, about, of=of)


def actions_of(parser: ArgumentParser) -> Mapping[str, ArgumentParser]:
    """Return the parsers below this one, by name. It is empty if there are none."""
    return next((action.choices for action in parser._actions if isinstance(action.choices, dict)), {})


def _add(parser: ArgumentParser, examples: tuple[str, ...], *, of: str) -> None:
    parser.formatter_class = RawDescriptionHelpFormatter
    parser.epilog = "\n".join(["examples:", *(f"  python manage.py {of} {one}" for one in examples)])
