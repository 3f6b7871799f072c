"""What only its owner may read: folders of a stack, and its random secrets, each made once and kept in a file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

#: The folder of every stack, demo and test run of this checkout: event stores, databases and logs.
LOCAL = Path(__file__).resolve().parents[2] / ".local"


def private_folder(folder: Path) -> None:
    """Make the folder, and let nobody else into it; nor into the project's `.local`, if it is in there."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder, *folder.parents):
        if each in {folder, LOCAL}:
            each.chmod(0o700)


def remembered_secret(file: Path) -> str:
    """The secret in the file; the first call makes a random one (letters, digits, `-` and `_`)."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(48))
    return file.read_text()


def write_private(file: Path, text: str) -> None:
    """Write a file of mode 0600 whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
    draft.replace(file)
