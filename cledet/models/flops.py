"""What an architecture costs: parameters, operations and memory, counted on torch's meta device, where nothing is
computed.
"""

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
    """Of a detector, for one image."""

    parameters: int
    of_backbone: int
    """Parameters of the backbone."""
    multiply_adds: int
    """Of a forward pass: half of what torch counts as operations of convolutions and matrix products."""
    saved: int
    """Bytes in float32 that the network keeps for its backward pass; the losses come on top."""


def costs(arch: Architecture, size: tuple[int, int], frozen: int = 2) -> Costs:
    """The costs of an image of (height, width) pixels, padded to multiples of 32.

    `frozen` stages of the backbone are fixed, so nothing of them is kept.
    """
    height, width = (-(-side // 32) * 32 for side in size)
    with torch.device("meta"):
        network = build_network(arch)
        image = torch.zeros(1, 3, height, width)
    network.backbone.freeze(frozen)
    whole, part = (sum(p.numel() for p in module.parameters()) for module in (network, network.backbone))
    return Costs(whole, part, _multiply_adds(network, image), _saved(network, image))


def _multiply_adds(network: RetinaNet, image: Tensor) -> int:
    network.eval()
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=DEFORMABLE) as counter:
        network(image)
    return counter.get_total_flops() // 2


def _saved(network: RetinaNet, image: Tensor) -> int:
    """Bytes of all storages that autograd keeps, each once, without those of parameters and buffers."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor  # the tensor too, so that no address is used twice
        return tensor

    network.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = network(image)  # kept alive, with its graph, until the end
    own = {tensor.untyped_storage()._cdata for tensor in (*network.parameters(), *network.buffers())}
    del outputs
    return sum(tensor.untyped_storage().nbytes() for address, tensor in kept.items() if address not in own)


def _deform_flops(x: Any, weight: Sequence[int], *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Operations of a deformable convolution's product, from its arguments' shapes; not of its interpolation."""
    return 2 * weight[1] * weight[2] * weight[3] * torch.Size(out_shape).numel()


DEFORMABLE = {torch.ops.torchvision.deform_conv2d: _deform_flops}
