"""The site of docs/: it builds, and a browser that shows it asks nothing of the network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from deploy.local.process import PROJECT


def test_the_site_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=PROJECT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
    )

    pages = list(tmp_path.rglob("*.html"))
    loaded = {
        url
        for page in pages
        for url in re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]*)"', page.read_text())
    }

    assert len(pages) > 40
    assert (tmp_path / "search" / "search_index.json").exists()
    assert [url for url in loaded if re.match(r"(https?:)?//", url)] == []
