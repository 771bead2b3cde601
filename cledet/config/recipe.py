"""What a recipe says beside its settings, and the settings of the command that runs a table's recipes.

Importing this file imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cledet.config.base import Settings
from cledet.config.types import NMSName, Project, Unit

PAPER_TABLES = ("table1", "table2", "table3")


class Figures(BaseModel):
    """Figures of a split, as fractions."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    split: str = Field(description="the split they are of, in words")
    AP: Unit | None = None
    AP50: Unit | None = None
    AP75: Unit | None = None
    APs: Unit | None = None
    APm: Unit | None = None
    APl: Unit | None = None
    VOC07: Unit | None = None

    @property
    def figures(self) -> dict[str, float]:
        """Those that are there, by name."""
        return {name: value for name in FIGURES if (value := getattr(self, name)) is not None}


FIGURES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "VOC07")


class PaperRow(Figures):
    """A row of the paper's tables."""

    table: Literal[1, 2, 3]
    row: int = Field(ge=1, description="counted from the top, headings left out")
    nms: NMSName | None = Field(None, description="the NMS method that the row is of, if it is not the recipe's own")


class Measured(Figures):
    """What this recipe reached here."""

    seeds: int = Field(1, ge=1, description="runs that the figures are the mean of")
    source: str = Field(description="the page that says how it was measured")


class RecipeNotes(BaseModel):
    """The keys of a recipe that are no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    about: str = ""
    paper: tuple[PaperRow, ...] = ()
    measured: tuple[Measured, ...] = ()


class ReproduceSettings(Settings):
    """`cledet reproduce`."""

    project: Project = Field(Path("runs"), description="the folder of the runs; the table's go to reproduce/TABLE")
    gpu_tflops: float = Field(
        989, ge=1e-3, le=1e9, description="for --dry-run: a GPU's peak in teraFLOPS; that of an H100 in bf16"
    )
    utilization: float = Field(
        0.11, ge=1e-6, le=1, description="for --dry-run: the share of its peak that is reached; measured on an H100"
    )
