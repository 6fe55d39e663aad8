"""MkDocs hook: lay the folders out as they are installed, for the reference.

`cli/` and `reports/` are installed as `lctprune.cli` and `lctprune.reports`, but do not lie below `lctprune/` in the
repository, where mkdocstrings looks for them. A copy of the sources, build/docs-sources, has them there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "build" / "docs-sources"
IGNORED = shutil.ignore_patterns("__pycache__")


@event_priority(100)  # before mkdocstrings, which leaves out folders that do not exist yet
def on_config(config: Any, **_: Any) -> Any:
    """Copy the sources anew; MkDocs calls this before it reads a page."""
    shutil.rmtree(SOURCES, ignore_errors=True)
    for folder, installed in (("lctprune", "."), ("cli", "cli"), ("reports", "reports")):
        shutil.copytree(ROOT / folder, SOURCES / "lctprune" / installed, ignore=IGNORED, dirs_exist_ok=True)
    return config
