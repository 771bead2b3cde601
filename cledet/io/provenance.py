"""What wrote a checkpoint: versions of the packages, and the commit of the checkout that ran."""

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
"""Seconds that git may take for an answer."""


@cache
def versions() -> dict[str, str | None]:
    """Versions by name, and under `git` the commit of the checkout that the package is imported from, if it is one."""
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
    """The commit that a folder's files are of, with `-dirty` behind it if tracked ones differ; None for no checkout.

    A folder that merely lies in a checkout, as an environment's may, is none.
    """
    if not any((place / ".git").exists() for place in (folder, *folder.parents)):
        return None
    if not _git(folder, "ls-files", "--error-unmatch", "."):
        return None
    commit, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno", ".")
    if commit is None or changes is None:
        return None
    return f"{commit}-dirty" if changes else commit


def _git(folder: Path, *words: str) -> str | None:
    """What git says of a folder, or None where it cannot; the checkout is not written to."""
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
