"""The scripts of examples/, loaded by path."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def load_script(name: str) -> dict[str, Any]:
    """Run a script without its main part; returns its names."""
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))
