"""The software bill of materials, CycloneDX, of what the image has from the package index.

    python -m deploy.sbom > sbom.cdx.json

Made from the lock file alone, so the same lock file gives the same bill, byte for byte.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from typing import Any

from packaging.utils import canonicalize_name

from deploy.lock import IMAGE_LOCK, blocks, pins, project


def bill(lock: str) -> dict[str, Any]:
    """The CycloneDX document of a lock file."""
    components = []
    for block in blocks(lock):
        (pin,) = pins(block)
        name, version = canonicalize_name(pin.name), str(pin.specifier).removeprefix("==")
        purl = f"pkg:pypi/{name}@{version}"
        wheels = [
            {"type": "distribution", "url": purl, "hashes": [{"alg": "SHA-256", "content": digest}]}
            for digest in re.findall(r"--hash=sha256:([0-9a-f]{64})", block)
        ]
        component = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
        components.append({**component, "externalReferences": wheels})
    name, version = project()["name"], project()["version"]
    own = {"type": "application", "bom-ref": name, "name": name, "version": version}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, lock)}",
        "version": 1,
        "metadata": {"component": own},
        "components": components,
    }


def main() -> None:
    """Print it."""
    sys.stdout.write(json.dumps(bill(IMAGE_LOCK.read_text()), indent=2) + "\n")


if __name__ == "__main__":
    main()
