"""The lock files: every package by version and by the hashes of its wheels, so that nothing else is ever installed.

    python -m deploy.lock            write both anew, with the versions that requirements.lock has now
    python -m deploy.lock --check    exit code 1 if the smaller one does not follow from requirements.lock

To move a package, change its version in requirements.lock and write both anew. The hashes are those that pip's own
index names for wheels of Linux (x86_64 and aarch64) and Python 3.11 to 3.14, and for those of any platform.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

_PROJECT = Path(__file__).resolve().parents[1]
#: Everything that a checkout needs.
LOCK = _PROJECT / "requirements.lock"
#: What the image needs of it: the application, its traces and its signatures.
IMAGE_LOCK = _PROJECT / "deploy" / "requirements.lock"

_PLATFORM = re.compile(r"any|(many|musl)linux.*_(x86_64|aarch64)|linux_(x86_64|aarch64)")
_PYTHON = re.compile(r"py3|py2|py3\d+|cp3(11|12|13|14)")
_OLDER_PYTHON = re.compile(r"cp3\d+")


def pins(text: str) -> list[Requirement]:
    """The requirements of a lock file, without their hashes."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [Requirement(re.sub(r"\s--hash=\S+", "", line).strip()) for line in lines if line.strip() and line[0] != "#"]


def image_closure(wanted: list[Requirement]) -> set[str]:
    """The names of what these need, closed over what that needs in turn, by what is installed."""
    found: set[str] = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if name in found:
            continue
        found.add(name)
        for text in requires(name) or []:
            each = Requirement(text)
            extras = ("", *requirement.extras)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in extras):
                wanted.append(each)
    return found


def project() -> dict[str, Any]:
    """What pyproject.toml says of the project."""
    table: dict[str, Any] = tomllib.loads((_PROJECT / "pyproject.toml").read_text())["project"]
    return table


def blocks(text: str) -> list[str]:
    """The requirements of a lock file as they are written, each with its hashes."""
    return re.findall(r"^[a-z0-9].*?(?<!\\)\n", text, re.MULTILINE | re.DOTALL)


def image_lines(text: str) -> str:
    """The part of the lock file that the image needs."""
    own = project()
    extras = own["optional-dependencies"]
    texts = [*own["dependencies"], *extras["sample"], *extras["tracing"], *extras["seals"]]
    names = image_closure([Requirement(each) for each in texts])
    return "".join(block for block in blocks(text) if canonicalize_name(pins(block)[0].name) in names)


def _is_ours(filename: str, pin: Requirement) -> bool:
    """True if the file is a wheel of this version that some supported machine may install."""
    try:
        name, version, _, tags = parse_wheel_filename(filename)
    except (InvalidWheelFilename, ValueError):
        return False
    if name != canonicalize_name(pin.name) or not pin.specifier.contains(str(version), prereleases=True):
        return False
    return any(
        _PLATFORM.fullmatch(tag.platform)
        and (_PYTHON.fullmatch(tag.interpreter) or (tag.abi == "abi3" and _OLDER_PYTHON.fullmatch(tag.interpreter)))
        for tag in tags
    )


def _hashes() -> dict[str, list[str]]:
    """The SHA-256 of each wheel of each pin, from pip's own index, however it is configured."""
    # pip has no command that lists files with hashes; its own finder does, and it is what would install them.
    from pip._internal.commands import create_command  # noqa: PLC0415 - pip's own, slow
    from pip._internal.index.collector import parse_links  # noqa: PLC0415 - the same
    from pip._internal.models.link import Link  # noqa: PLC0415 - the same

    command = create_command("download")
    found: dict[str, list[str]] = {}
    with command.main_context():
        options, _ = command.parse_args(["everything"])
        session = command.get_default_session(options)  # type: ignore[attr-defined]
        collector = command._build_package_finder(options, session)._link_collector  # type: ignore[attr-defined]
        for pin in pins(LOCK.read_text()):
            urls = collector.search_scope.get_index_urls_locations(pin.name)
            pages = [collector.fetch_response(Link(url)) for url in urls]
            links = [link for page in pages if page is not None for link in parse_links(page)]
            hashes = {str(link.hash) for link in links if link.hash_name == "sha256" and _is_ours(link.filename, pin)}
            if not hashes:
                raise SystemExit(f"{pin}: the index has no wheel with a hash for it")
            found[str(pin)] = sorted(hashes)
    return found


def main() -> int:
    """Write or check the lock files."""
    if sys.argv[1:] == ["--check"]:
        return int(IMAGE_LOCK.read_text() != image_lines(LOCK.read_text()))
    hashes = _hashes()
    lines = []
    for pin in sorted(pins(LOCK.read_text()), key=lambda pin: (pin.name, str(pin))):
        marker = f" ; {pin.marker}".replace('"', "'") if pin.marker else ""
        each = "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes[str(pin)])
        lines.append(f"{pin.name}{pin.specifier}{marker}{each}\n")
    LOCK.write_text("".join(lines))
    IMAGE_LOCK.write_text(image_lines(LOCK.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
