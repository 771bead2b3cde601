"""The web server of the tests of downloads, for the command that downloads."""

from __future__ import annotations

import runpy
from pathlib import Path

server = runpy.run_path(str(Path(__file__).parents[1] / "data" / "conftest.py"))["server"]
