"""Time budget of a run (--hours): how many steps fit into it, decided by the measured pace."""

from __future__ import annotations

import math
from bisect import bisect_right
from time import monotonic
from typing import Any

MEASURED_FROM, DECIDED_AT, DECIDED_BY = 0.05, 0.1, 0.5
"""Shares of the budget: begin of the measurement, and earliest and latest decision."""
LEAST_STEPS = 10
"""Number of steps to measure before the decision, unless half of the budget is gone."""
TOLERANCE = 1.02
"""Predicted time, relative to the budget, above which a run is shortened."""
CHECKS = 20
"""Number of predictions per run."""


class Budget:
    """Time budget of a run in seconds, infinite without --hours, and the number of steps that fit into it.

    The steps are decided once, after a tenth of the budget, from the pace since a twentieth: start-up is not measured.
    Later predictions only ever shorten the run, so that a learning rate never rises again. Time counts from the first
    step, evaluations included. Time between an interruption and the resume does not count.

    `limit` is the number of steps at which the run ends at the latest. An evaluation is due after each `interval`
    images, in batches of `batch`, and after the last step. `evaluated` images are evaluated each time; until an
    evaluation was measured, each is assumed to take as long as a trained one.
    """

    def __init__(self, seconds: float, limit: int, *, batch: int, interval: int, evaluated: int) -> None:
        self.seconds, self.limit = seconds, limit
        self.batch, self.interval, self.evaluated = batch, interval, evaluated
        self.total: int | None = limit if seconds == math.inf else None
        """Number of steps of the run; None before the decision."""
        self.start = monotonic()
        self.evaluating, self.evaluations = 0.0, 0
        self.mark = (0, 0.0)
        """Step and seconds of training at the begin of the measurement."""

    @property
    def used(self) -> float:
        """Return the seconds that the run took so far."""
        return monotonic() - self.start

    def add_evaluation(self, begin: float) -> None:
        """Count the time since `begin`, a value of `used`, as that of an evaluation."""
        self.evaluating += self.used - begin
        self.evaluations += 1

    def is_due(self, step: int) -> bool:
        """Return whether `plan` is to be called after this step; the same in all processes."""
        if self.seconds == math.inf or step == 0:
            return False
        return self.total is None or step % max(self.total // CHECKS, 1) == 0

    def plan(self, step: int) -> int | None:
        """Return the number of steps of the run after `step` steps; None while the pace is measured."""
        used = self.used
        if self.mark[0] == 0 and used >= MEASURED_FROM * self.seconds:
            self.mark = (step, used - self.evaluating)
        if self.total is not None:
            fits = self.predict(step, self.total) <= TOLERANCE * self.seconds
            return self.total if fits else min(self.total, self._largest(step))
        measured = used >= DECIDED_AT * self.seconds and step - self.mark[0] >= LEAST_STEPS
        return self._largest(step) if measured or used >= DECIDED_BY * self.seconds else None

    def pace(self, step: int) -> tuple[float, float]:
        """Return the seconds per step and per evaluation, measured after `step` steps."""
        training = self.used - self.evaluating
        begin, before = self.mark
        per_step = (training - before) / (step - begin) if step > begin else training / step
        if self.evaluations:
            return per_step, self.evaluating / self.evaluations
        return per_step, self.evaluated / self.batch * per_step

    def predict(self, step: int, total: int) -> float:
        """Predict the seconds that a run of `total` steps takes in all; the evaluation after `step` is yet to come."""
        per_step, per_evaluation = self.pace(step)
        evaluations = -(-total * self.batch // self.interval) - (step - 1) * self.batch // self.interval
        return self.used + (total - step) * per_step + evaluations * per_evaluation

    def _largest(self, step: int) -> int:
        """Return the largest number of steps whose predicted time is within the budget, at least `step`."""
        totals = range(step, self.limit + 1)
        return step + max(bisect_right(totals, self.seconds, key=lambda total: self.predict(step, total)) - 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Return the time used so far, the measurements and the decision."""
        saved = {"used": self.used, "mark": list(self.mark), "total": self.total}
        return saved | {"evaluating": self.evaluating, "evaluations": self.evaluations}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.start = monotonic() - state["used"]
        self.mark, self.total = (state["mark"][0], state["mark"][1]), state["total"]
        self.evaluating, self.evaluations = state["evaluating"], state["evaluations"]
