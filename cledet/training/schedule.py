"""Optimizer and learning rate schedule: functions of the settings and the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from cledet.config.train import TrainSettings
from cledet.console import warn
from cledet.errors import UserError


def lr_factor(settings: TrainSettings, step: int, total: int) -> float:
    """Return the factor of the learning rate at a step: linear warm-up from 0.1 %, then decay; or one cycle."""
    if settings.schedule == "onecycle":
        return one_cycle(step, total)
    warmup = settings.warmup if settings.warmup is not None else min(500, total // 5)
    ramp = 1.0 if step >= warmup else 0.001 + (1 - 0.001) * step / warmup
    if settings.schedule == "cosine":
        done = max(step - warmup, 0) / max(total - warmup, 1)
        return ramp * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2)
    return ramp * 0.1 ** sum(step >= milestone(at, settings.epochs, total) for at in settings.lr_steps)


def milestone(at: float | str, epochs: int | None, total: int) -> float:
    """Convert a fraction of the run, a number of iterations, or a number of epochs (`8e`) to a step."""
    if isinstance(at, str):
        assert epochs is not None  # settings refuse `8e` where epochs do not give the length
        return float(at.removesuffix("e")) * total / epochs
    return at * total if at <= 1 else at


def check_milestones(settings: TrainSettings, total: int) -> None:
    """Raise UserError for a decay at or beyond the end of a run of `total` steps; 1, which means none, is accepted.

    A recipe's decays are no mistake where the user shortens its run: these are warned of.
    """
    late = [at for at in settings.lr_steps if at != 1 and milestone(at, settings.epochs, total) >= total]
    if settings.schedule != "step" or not late:
        return
    at = late[0] if isinstance(late[0], str) else f"{late[0]:.10g}"
    message = f"--lr-steps {at} is not before the end of the run, which has {total} steps"
    hint = "give fractions of the run, as 0.75"
    shortened = any(settings.origins.get(name) in ("flag", "environment") for name in ("epochs", "iters"))
    if settings.origins.get("lr_steps") != "recipe" or not shortened:
        raise UserError(message, hint)
    warn(f"{message}: the learning rate does not decay there ({hint})")


def one_cycle(step: int, total: int, rise: float = 0.3, first: float = 1 / 25, last: float = 1e-4 / 25) -> float:
    """Return the factor of a one-cycle schedule: a half cosine from `first` up to 1, then one down to `last`.

    Source: Smith and Topin, Super-Convergence (arXiv 1708.07120), with the shape and defaults of
    torch.optim.lr_scheduler.OneCycleLR.
    """
    top, end = rise * total - 1, total - 1
    if step <= top:
        low, high, done = first, 1.0, step / top
    else:
        low, high, done = 1.0, last, (step - top) / (end - top)
    return high + (low - high) * (1 + math.cos(math.pi * done)) / 2


def group_parameters(network: nn.Module, settings: TrainSettings) -> list[dict[str, Any]]:
    """Group trainable parameters: the backbone has its own learning rate; norms and biases have no weight decay.

    The groups of the backbone are the last.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("backbone."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "scale": settings.backbone_lr if in_backbone else 1.0,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (in_backbone, decayed), parameters in sorted(groups.items())
    ]


def build_optimizer(network: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    """Build SGD with momentum or AdamW over the trainable parameters, fused on CPU and CUDA.

    Momentum begins as zeros: torch's fused kernel would leave it uninitialized if the scaler skips the first step.
    """
    groups = group_parameters(network, settings)
    parameters = [parameter for group in groups for parameter in group["params"]]
    fused = all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)
    optimizer = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum, fused=fused)
    if settings.momentum:
        for parameter in parameters:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the state of an optimizer that may have had another implementation, as in runs of cledet 0.1.0.

    The fused kernels of the CPU read tensors in the order of memory, so the state is laid out as the parameters are.
    """
    own = [{"fused": group["fused"], "foreach": group["foreach"]} for group in optimizer.param_groups]
    groups = [{**saved, **group} for saved, group in zip(state["param_groups"], own, strict=True)]
    optimizer.load_state_dict({**state, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times the scale of the group."""
    groups: Iterable[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        group["lr"] = lr * group["scale"]
