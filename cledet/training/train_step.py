"""What a training step changes - network, optimizer, moving average, scaler - and the step itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cledet.config.train import TrainSettings
from cledet.data.dataset import Batch
from cledet.distributed import collectives
from cledet.distributed.devices import amp_dtype, autocast
from cledet.models.backbones.norms import FrozenBatchNorm2d
from cledet.models.criterion import Criterion, Losses, Targets
from cledet.models.network import RetinaNet
from cledet.training.schedule import build_optimizer, lr_factor, set_lr


class NotFinite(Exception):
    """A step's loss or gradient is no number; the message says which."""


class TrainStep:
    """A network in training, in this process of perhaps several."""

    def __init__(
        self, network: RetinaNet, criterion: Criterion, settings: TrainSettings, device: torch.device, total: int
    ) -> None:
        self.settings, self.device, self.total = settings, device, total
        self.dtype = amp_dtype(device, settings.amp)
        self.network = network.to(device)
        if settings.norm == "sync" and collectives.world_size() > 1:  # one process has the whole batch
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.parallel = collectives.data_parallel(self.network, device)
        self.forward: Callable[[Tensor], Any] = torch.compile(self.parallel) if settings.compile else self.parallel
        self.criterion = replace(criterion, total=collectives.all_reduce_sum, processes=collectives.world_size())
        self.plain = replace(self.criterion, iac=None)  # until recall_start
        self.optimizer = build_optimizer(self.network, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True
            )
        self.statistics = list(_statistics(self.network))
        self._kept = [buffer.clone() for buffer in self.statistics]

    def gradients(self, parts: Sequence[Batch], step: int) -> Losses:
        """The losses of a batch in parts, over all processes, and the gradients of the whole.

        A part's losses are divided by what the first one's N suggests for the whole batch, as the whole N is known
        last; then the gradients are set right. Left half done, it has changed nothing.
        Raises NotFinite.
        """
        with self._all_or_nothing():
            return self._gradients(parts, step)

    def _gradients(self, parts: Sequence[Batch], step: int) -> Losses:
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(_seed(self.settings.seed, step, collectives.rank()))  # of what a backbone may drop
        criterion = self.criterion if step >= self.settings.recall_start * self.total else self.plain
        found: list[Losses] = []
        for number, batch in enumerate(parts, 1):
            with collectives.gradient_sync(self.parallel, number == len(parts)):
                losses = self._losses(batch, criterion)
                expected = (found[0].n if found else losses.n).clamp(min=1) * len(parts)
                loss = (losses.classification + losses.regression) * (losses.n.clamp(min=1) / expected)
                self.scaler.scale(loss).backward()
            found.append(Losses(*(value.detach() for value in losses)))
        whole = combined(found)
        if len(parts) > 1:
            for parameter in self._trained():
                if parameter.grad is not None:
                    parameter.grad.mul_(expected / whole.n.clamp(min=1))
        return over_processes(whole)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """Put batch norm's statistics back, and drop the gradients, if the end is not reached."""
        for kept, buffer in zip(self._kept, self.statistics):
            kept.copy_(buffer)
        reached = False
        try:
            yield
            reached = True
        finally:
            if not reached:
                self.undo()

    def undo(self) -> None:
        """Forget the gradients, and what taking them did to batch norm's statistics."""
        for kept, buffer in zip(self._kept, self.statistics):
            buffer.copy_(kept)
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """Change the weights by the gradients. Raises NotFinite, the step being undone, for a gradient that is none."""
        set_lr(self.optimizer, self.settings.learning_rate * lr_factor(self.settings, step, self.total))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained(), self.settings.clip or math.inf)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the scaler sees to it itself
            self.undo()
            raise NotFinite("the gradient is no number")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def inference_network(self) -> RetinaNet:
        """The network to evaluate and to keep: the moving average, if there is one."""
        return cast(RetinaNet, self.average.module) if self.average is not None else self.network

    def state(self) -> dict[str, Any]:
        """All that steps have changed."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from that state."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _losses(self, batch: Batch, criterion: Criterion) -> Losses:
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            raw = self.forward(batch.images)
        losses = criterion(raw, Targets(batch.boxes, batch.labels, batch.ignored))
        finite = bool(torch.isfinite(losses.classification + losses.regression))
        if not collectives.all_true(finite):
            raise NotFinite(_complaint(losses))
        return losses

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


def combined(parts: Sequence[Losses]) -> Losses:
    """The losses of a batch from those of its parts."""
    if len(parts) == 1:
        return parts[0]
    table = Losses(*(torch.stack([value.float() for value in values]) for values in zip(*parts)))
    share, weight = table.n.clamp(min=1) / table.n.sum().clamp(min=1), table.positives / table.positives.sum()
    return Losses(
        classification=(table.classification * share).sum(),
        regression=(table.regression * share).sum(),
        positives=table.positives.sum(),
        recalled=table.recalled.sum(),
        coefficient=(table.coefficient.nan_to_num() * weight).sum(),
        spread=(table.spread.nan_to_num() * weight).sum(),
        n=table.n.sum(),
    )


def over_processes(losses: Losses) -> Losses:
    """The losses of the whole batch from those of each process's share."""
    if collectives.world_size() == 1:
        return losses
    spread = torch.stack([losses.coefficient, losses.spread]).nan_to_num() * losses.positives
    values = torch.stack([losses.classification, losses.regression, losses.positives, losses.recalled, *spread])
    classification, regression, positives, recalled, coefficient, width = collectives.all_reduce_sum(values)
    return Losses(
        classification=classification / collectives.world_size(),
        regression=regression / collectives.world_size(),
        positives=positives,
        recalled=recalled,
        coefficient=coefficient / positives,
        spread=width / positives,
        n=losses.n,
    )


def _seed(*numbers: int) -> int:
    """One number of 64 bits for several."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _complaint(losses: Losses) -> str:
    """Which term of the loss is no number; or that it is another process's."""
    terms = {"classification": losses.classification.item(), "regression": losses.regression.item()}
    bad = [f"the {name} loss is {value:g}" for name, value in terms.items() if not math.isfinite(value)]
    return " and ".join(bad) or "the loss of another process is no number"


def _statistics(network: nn.Module) -> Iterator[Tensor]:
    """The buffers that a forward pass in training changes."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, FrozenBatchNorm2d):
            yield from module.buffers(recurse=False)
