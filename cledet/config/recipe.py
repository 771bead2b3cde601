"""Notes of a recipe beside its settings, and the settings of `cledet reproduce`. Importing this imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cledet.config.base import Settings
from cledet.config.types import NMSName, Project, Unit

PAPER_TABLES = ("table1", "table2", "table3")


class Figures(BaseModel):
    """Metrics of a split, as fractions."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    split: str = Field(description="the split, in words")
    AP: Unit | None = None
    AP50: Unit | None = None
    AP75: Unit | None = None
    APs: Unit | None = None
    APm: Unit | None = None
    APl: Unit | None = None
    VOC07: Unit | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Return the metrics that are given, by name."""
        return self.model_dump(include=set(FIGURES), exclude_none=True)


FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07")


class PaperRow(Figures):
    """A row of one of the paper's tables."""

    table: Literal[1, 2, 3]
    row: int = Field(ge=1, description="number from the top, without headings")
    nms: NMSName | None = Field(None, description="NMS method of the row, if not the recipe's own")


class Measured(Figures):
    """Metrics that this recipe reached."""

    seeds: int = Field(1, ge=1, description="number of runs that were averaged")
    source: str = Field(description="documentation page with the measurement")


class RecipeNotes(BaseModel):
    """Keys of a recipe that are not settings."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)
    about: str = ""
    paper: tuple[PaperRow, ...] = ()
    measured: tuple[Measured, ...] = ()


class ReproduceSettings(Settings):
    """`cledet reproduce`."""

    project: Project = Field(
        Path("runs"), description="Parent of the run folders; this command writes to reproduce/TABLE in it."
    )
    gpu_tflops: float = Field(
        989, ge=1e-3, le=1e9, description="For --dry-run: peak of a GPU in teraFLOPS. The default is an H100's in bf16."
    )
    utilization: float = Field(
        0.11,
        ge=1e-6,
        le=1,
        description="For --dry-run: reached share of the peak. The default was measured on an H100.",
    )
