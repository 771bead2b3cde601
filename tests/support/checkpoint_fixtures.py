"""Small checkpoints, and disks that are full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from cledet.models.checkpoint import Checkpoint
from cledet.models.network import Architecture


@pytest.fixture(scope="session")
def small() -> Callable[[int], Checkpoint]:
    """Build a checkpoint of a few kilobytes with its step; its weights belong to no network."""

    def make(step: int, values: int = 40) -> Checkpoint:
        weights = {"a.weight": torch.arange(values) * 1.5 + step, "b": torch.tensor(step)}
        architecture = Architecture(backbone="r18", classes=2)
        return Checkpoint(architecture=architecture, model=weights, classes=("x", "y"), category_ids=(3, 7), step=step)

    return make


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a filesystem in memory of a size like 8m, and return its folder."""
    folder = tmp_path / "disk"

    def mount(size: str) -> Path:
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a tmpfs cannot be mounted here: {getattr(error, 'stderr', '') or error}")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", str(folder)], check=True)
