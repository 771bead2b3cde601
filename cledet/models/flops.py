"""Costs of an architecture: parameters, operations and memory, counted on torch's meta device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from cledet.models.network import Architecture, RetinaNet, build_network


@dataclass(frozen=True)
class Costs:
    """Costs of a detector for one image."""

    parameters: int
    of_backbone: int
    """Parameters of the backbone."""
    multiply_adds: int
    """Multiply-adds of a forward pass: half of torch's operations of convolutions and matrix products."""
    saved: int
    """Bytes in float32 that the network saves for the backward pass, without the losses."""


def costs(arch: Architecture, size: tuple[int, int], frozen: int = 2) -> Costs:
    """Count the costs for an image of (height, width) pixels, padded to multiples of 32.

    The first `frozen` stages of the backbone save nothing for the backward pass.
    """
    height, width = (-(-side // 32) * 32 for side in size)
    with torch.device("meta"):
        network = build_network(arch)
        image = torch.zeros(1, 3, height, width)
    network.backbone.freeze(frozen)
    total, backbone = (sum(p.numel() for p in module.parameters()) for module in (network, network.backbone))
    return Costs(total, backbone, _multiply_adds(network, image), _saved(network, image))


def _multiply_adds(network: RetinaNet, image: Tensor) -> int:
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=DEFORMABLE) as counter:
        network(image)
    return counter.get_total_flops() // 2


def _saved(network: RetinaNet, image: Tensor) -> int:
    """Sum the bytes of all storages that autograd saves, without those of parameters and buffers."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # keeps the tensor alive, so that no address is reused
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(image)  # kept alive, with its graph, until the end
    owned = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    del outputs
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in owned)


def _deform_flops(x: Any, weight: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Count the operations of a deformable convolution, without its interpolation, from its arguments' shapes."""
    return 2 * weight[1] * weight[2] * weight[3] * torch.Size(out_shape).numel()


DEFORMABLE = {torch.ops.torchvision.deform_conv2d: _deform_flops}
