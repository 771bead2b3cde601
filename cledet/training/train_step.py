"""One training step: gradients of a batch, and the update of network, optimizer, moving average and scaler."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    """The loss or the gradient of a step is NaN or infinite; the message names it."""


class TrainStep:
    """A network with its optimizer, and the computation of gradients and updates, in one or several processes."""

    def __init__(
        self, network: RetinaNet, criterion: Criterion, settings: TrainSettings, device: torch.device, total_steps: int
    ) -> None:
        self.settings, self.device, self.total_steps = settings, device, total_steps
        self.dtype = amp_dtype(device, settings.amp)
        self.network = network.to(device)
        if settings.norm == "sync" and collectives.world_size() > 1:  # one process has the whole batch
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        self.parallel = collectives.data_parallel(self.network, device)
        self.forward: Callable[[Tensor], Any] = torch.compile(self.parallel) if settings.compile else self.parallel
        self.criterion = replace(criterion, total=collectives.all_reduce_sum, processes=collectives.world_size())
        self.criterion_without_iac = replace(self.criterion, iac=None)  # before recall_start
        self.optimizer = build_optimizer(self.network, settings)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(
                self.network, multi_avg_fn=get_ema_multi_avg_fn(settings.ema), use_buffers=True
            )
        self.statistics = list(_batch_norm_buffers(self.network))
        self._saved_statistics = [buffer.clone() for buffer in self.statistics]

    def compute_gradients(self, parts: Sequence[Batch], step: int) -> Losses:
        """Compute the gradients of a batch given in parts, averaged over all processes; return its losses.

        The loss of each part is divided by an estimate of the batch's normalizer N from the first part; the gradients
        are corrected when N is known. Raises NotFinite. After an exception the state is the one before the call.
        """
        for saved, buffer in zip(self._saved_statistics, self.statistics):
            saved.copy_(buffer)
        try:
            return self._compute_gradients(parts, step)
        except BaseException:  # a signal may raise anywhere
            self.undo()
            raise

    def _compute_gradients(self, parts: Sequence[Batch], step: int) -> Losses:
        self.parallel.train()
        self.optimizer.zero_grad(set_to_none=True)
        seed = np.random.SeedSequence((self.settings.seed, step, collectives.rank())).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))  # for stochastic layers of a backbone
        use_iac = step >= self.settings.recall_start * self.total_steps
        criterion = self.criterion if use_iac else self.criterion_without_iac
        part_losses: list[Losses] = []
        for number, batch in enumerate(parts, 1):
            with collectives.gradient_sync(self.parallel, number == len(parts)):
                losses = self._losses(batch, criterion)
                expected = (part_losses[0].n if part_losses else losses.n).clamp(min=1) * len(parts)
                loss = (losses.classification + losses.regression) * (losses.n.clamp(min=1) / expected)
                self.scaler.scale(loss).backward()
            part_losses.append(Losses(*(value.detach() for value in losses)))
        losses = combine_parts(part_losses)
        if len(parts) > 1:
            for parameter in self._trained():
                if parameter.grad is not None:
                    parameter.grad.mul_(expected / losses.n.clamp(min=1))
        return reduce_losses(losses)

    def undo(self) -> None:
        """Drop the gradients, and restore the batch norm statistics from before they were computed."""
        for saved, buffer in zip(self._saved_statistics, self.statistics):
            buffer.copy_(saved)
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """Update the weights by the gradients. If they are not finite, undo the step and raise NotFinite."""
        set_lr(self.optimizer, self.settings.learning_rate * lr_factor(self.settings, step, self.total_steps))
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self._trained(), self.settings.clip or math.inf)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the scaler skips such a step itself
            self.undo()
            raise NotFinite("the gradient is not finite")
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.network)

    def inference_network(self) -> RetinaNet:
        """Return the network to evaluate and to save: the moving average, if there is one."""
        return cast(RetinaNet, self.average.module) if self.average is not None else self.network

    def state_dict(self) -> dict[str, Any]:
        """Return everything that steps change."""
        return {
            "model": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.network.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _losses(self, batch: Batch, criterion: Criterion) -> Losses:
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            predictions = self.forward(batch.images)
        losses = criterion(predictions, Targets(batch.boxes, batch.labels, batch.ignored))
        if not collectives.all_true(bool(torch.isfinite(losses.classification + losses.regression))):
            terms = {"classification": losses.classification.item(), "regression": losses.regression.item()}
            bad = [f"the {name} loss is {value:g}" for name, value in terms.items() if not math.isfinite(value)]
            raise NotFinite(" and ".join(bad) or "the loss of another process is not finite")
        return losses

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]


def combine_parts(parts: Sequence[Losses]) -> Losses:
    """Combine the losses of a batch's parts, weighted by their normalizers N and numbers of positives."""
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


def reduce_losses(losses: Losses) -> Losses:
    """Combine the losses of all processes' shares of a batch, whose N is the same in all of them."""
    if collectives.world_size() == 1:
        return losses
    table = losses.classification.new_zeros(collectives.world_size(), len(losses))
    table[collectives.rank()] = torch.stack([value.float() for value in losses._replace(n=losses.n.clamp(min=1))])
    return combine_parts([Losses(*row) for row in collectives.all_reduce_sum(table)])._replace(n=losses.n)


def _batch_norm_buffers(network: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers that a forward pass changes in training mode."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and not isinstance(module, FrozenBatchNorm2d):
            yield from module.buffers(recurse=False)
