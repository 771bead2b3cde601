"""Settings of a run's length, optimizer and learning rate. Importing this file imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cledet.config.base import Settings
from cledet.config.types import Batch, Count, Factor, Hours, Milestones, Positive, Unit


class ScheduleSettings(Settings):
    """Settings of length, batch, optimizer and learning rate."""

    epochs: Positive | None = Field(12, description="Passes over the training split. No limit by default with --hours.")
    iters: Positive | None = Field(None, description="Optimizer steps. Overrides --epochs; a recipe's iters do not.")
    hours: Hours | None = Field(
        None,
        description="Time budget in hours, evaluations included. A run ends by the earlier of budget and --epochs or "
        "--iters, and the learning rate decays by then.",
    )
    batch: Batch = Field(8, description="Images per optimizer step, on all devices. auto: as many as fit into memory.")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="Optimizer.")
    lr: Annotated[Factor, Field(gt=0)] | None = Field(
        None, description="Learning rate. Default: 0.01 x batch/16 for sgd, 2e-4 x batch/16 for adamw."
    )
    backbone_lr: Factor = Field(1.0, description="Factor of the learning rate in the backbone.")
    momentum: Unit = Field(0.9, description="Momentum of sgd.")
    weight_decay: Factor = Field(1e-4, description="Weight decay, without biases and normalization.")
    schedule: Literal["step", "cosine", "onecycle"] = Field(
        "step", description="Learning rate: step (a tenth at each of --lr-steps), cosine, or onecycle (30 % up)."
    )
    lr_steps: Milestones = Field(
        (0.75, 0.8333), description="Decays of --schedule step: fractions of the run, iterations, or epochs as 8e."
    )
    warmup: Count | None = Field(None, description="Steps of linear warm-up. Default: 500, at most a fifth of the run.")
    clip: Factor = Field(10.0, description="Maximum gradient norm. 0: no clipping.")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Decay of the weights' moving average. 0: none.")
    patience: Count = Field(0, description="Epochs without a better AP after which training stops. 0: never.")

    @property
    def learning_rate(self) -> float:
        """Return the learning rate, scaled linearly with the batch unless `lr` is set."""
        return self.lr if self.lr is not None else self.base_lr * self.batch / 16

    @property
    def base_lr(self) -> float:
        """Return the learning rate for a batch of 16 images."""
        return {"sgd": 0.01, "adamw": 2e-4}[self.optimizer]
