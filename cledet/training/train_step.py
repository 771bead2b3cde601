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
from torch.optim.swa_utils import AveragedModel

from cledet.config.train import TrainSettings
from cledet.data.dataset import Batch
from cledet.distributed import collectives
from cledet.distributed.devices import amp_dtype, autocast
from cledet.models.assignment import Targets
from cledet.models.backbones.norms import FrozenBatchNorm2d, synchronized
from cledet.models.criterion import Criterion, Losses
from cledet.models.network import RetinaNet
from cledet.models.signatures import SIGNATURES
from cledet.training.schedule import build_optimizer, load_optimizer, lr_factor, set_lr

STATISTICS = ("coefficient", "spread", *SIGNATURES)
"""Fields of `Losses` that are means, nan where there is nothing to measure."""


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
            synchronized(self.network)
        self.optimizer = build_optimizer(self.network, settings)
        for parameter in self.network.backbone.unused:  # frozen for data_parallel; the groups stay those of older runs
            parameter.requires_grad_(False)
        self.parallel = collectives.data_parallel(self.network, device)
        self.forward: Callable[[Tensor], Any] = torch.compile(self.parallel) if settings.compile else self.parallel
        self.criterion = replace(criterion, total=collectives.all_reduce_sum, processes=collectives.world_size())
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self.average: AveragedModel | None = None
        if settings.ema:
            self.average = AveragedModel(self.network, use_buffers=True)
        statistics = list(_batch_norm_buffers(self.network))
        self._statistics = _pair_by_dtype([buffer.clone() for buffer in statistics], statistics)

    def compute_gradients(self, parts: Sequence[Batch], step: int) -> Losses:
        """Compute the gradients of a batch given in parts, averaged over all processes; return its losses.

        The loss of each part is divided by an estimate of the batch's normalizer N from the first part; the gradients
        are corrected when N is known. Without a scaler they are clipped too. The losses are on the CPU: they and the
        gradient's norm arrive in one copy, for which alone the process waits. Raises NotFinite. After an exception the
        state is the one before the call.
        """
        for saved, buffers in self._statistics:
            torch._foreach_copy_(saved, buffers)
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
        criterion = self.criterion_at(step)
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
            torch._foreach_mul_(self._gradients(), expected / losses.n.clamp(min=1))
        norm = losses.n.new_zeros(()) if self.scaler.is_enabled() else self._clip_gradients()
        *values, norm = torch.stack([value.float() for value in (*reduce_losses(losses), norm)]).cpu()
        _require_finite(Losses(*values), norm)
        return Losses(*values)

    def criterion_at(self, step: int) -> Criterion:
        """Return the criterion of a step: before `recall_start` it has no IAC, before `dc_start` no DC."""
        recalls = step >= self.settings.recall_start * self.total_steps
        weighs = step >= self.settings.dc_start * self.total_steps
        whole = self.criterion
        return replace(whole, iac=whole.iac if recalls else None, dc=whole.dc and weighs)

    def undo(self) -> None:
        """Drop the gradients, and restore the batch norm statistics from before they were computed."""
        for saved, buffers in self._statistics:
            torch._foreach_copy_(buffers, saved)
        self.optimizer.zero_grad(set_to_none=True)

    def update(self, step: int) -> None:
        """Update the weights by the gradients; the scaler, if it is enabled, skips gradients that are not finite."""
        set_lr(self.optimizer, self.settings.learning_rate * lr_factor(self.settings, step, self.total_steps))
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
            self._clip_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            _update_average(self.average, self.network, self.settings.ema)

    def _clip_gradients(self) -> Tensor:
        """Clip the gradients by their norm, and return it."""
        gradients = self._gradients()
        norm = nn.utils.get_total_norm(gradients)
        if self.settings.clip:
            torch._foreach_mul_(gradients, (self.settings.clip / (norm + 1e-6)).clamp(max=1))
        return norm

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
        load_optimizer(self.optimizer, state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])

    def _losses(self, batch: Batch, criterion: Criterion) -> Losses:
        batch = batch.to(self.device, non_blocking=True)
        with autocast(self.device, self.dtype):
            predictions = self.forward(batch.images)
        return criterion(predictions, Targets(batch.boxes, batch.labels, batch.ignored))

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]


def _require_finite(losses: Losses, norm: Tensor) -> None:
    """Raise NotFinite if a loss or the norm of the gradients is not finite; all processes have the same."""
    terms = {"classification": float(losses.classification), "regression": float(losses.regression)}
    bad = [f"the {name} loss is {value:g}" for name, value in terms.items() if not math.isfinite(value)]
    if bad or not math.isfinite(norm):
        raise NotFinite(" and ".join(bad) or "the gradient is not finite")


def combine_parts(parts: Sequence[Losses]) -> Losses:
    """Combine the losses of a batch's parts, weighted by their normalizers N.

    Statistics are weighted by what they are means over. That is exact but for the spread and the rank correlation of
    the coefficient, which are the mean of those of the parts.
    """
    if len(parts) == 1:
        return parts[0]
    table = Losses(*(torch.stack([value.float() for value in values]) for values in zip(*parts)))
    share = table.n.clamp(min=1) / table.n.sum().clamp(min=1)
    over = {
        "matched_iou": table.positives - table.recalled,
        "recalled_iou": table.recalled,
        "recalled_box": table.regression * share,
        "compact_positives": table.compact,
        "elongated_positives": table.elongated,
    }
    means = {name: _known_mean(getattr(table, name), over.get(name, table.positives)) for name in STATISTICS}
    return Losses(
        classification=(table.classification * share).sum(),
        regression=(table.regression * share).sum(),
        positives=table.positives.sum(),
        recalled=table.recalled.sum(),
        compact=table.compact.sum(),
        elongated=table.elongated.sum(),
        n=table.n.sum(),
        **means,
    )


def _known_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Compute the weighted mean of the values that are not nan; nan if all are."""
    weights = torch.where(values.isnan(), 0, weights)
    return (values.nan_to_num() * weights).sum() / weights.sum()


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


def _pair_by_dtype(copies: Sequence[Tensor], originals: Sequence[Tensor]) -> list[tuple[list[Tensor], list[Tensor]]]:
    """Pair lists of equal dtype, for operations on many tensors at once."""
    pairs: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for copy, original in zip(copies, originals, strict=True):
        both = pairs.setdefault(copy.dtype, ([], []))
        both[0].append(copy)
        both[1].append(original)
    return list(pairs.values())


@torch.no_grad()
def _update_average(average: AveragedModel, network: nn.Module, decay: float) -> None:
    """Update a moving average as torch's `update_parameters` does, which waits for the device; counters are copied."""
    first = int(average.n_averaged) == 0  # it lies on the CPU
    own, new = ([*module.parameters(), *module.buffers()] for module in (average.module, network))
    for averaged, current in _pair_by_dtype(own, new):
        if first or not averaged[0].is_floating_point():
            torch._foreach_copy_(averaged, current)
        else:
            torch._foreach_lerp_(averaged, current, 1 - decay)
    average.n_averaged += 1
