"""Provenance of a checkpoint: versions of the packages and the git commit that wrote it."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torchvision

from cledet import __version__

PATIENCE = 3.0
"""Timeout of git in seconds."""


@cache
def versions() -> dict[str, str | None]:
    """Collect versions by name, and under `git` the commit of the checkout that cledet is imported from, or None."""
    return {
        "cledet": __version__,
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "git": commit_of(Path(__file__).parents[1]),
    }


def commit_of(folder: Path) -> str | None:
    """Return the commit of a folder's files, with the suffix `-dirty` if tracked ones differ, or None.

    The files must be tracked: a virtual environment inside a checkout has no commit.
    """
    if not _git(folder, "ls-files", "--error-unmatch", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno", ".")
    if commit is None or changes is None:
        return None
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *words: str) -> str | None:
    """Return git's output for a folder, or None on failure; git writes nothing to the checkout."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        process = subprocess.run(
            ["git", "-C", str(folder), *words],
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return process.stdout.strip()
