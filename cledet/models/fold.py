"""Folding of fixed batch norms into the convolutions before them."""

from __future__ import annotations

from itertools import pairwise

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cledet.models.backbones.norms import FrozenBatchNorm2d
from cledet.models.network import RetinaNet

FOLDED = (nn.BatchNorm2d, FrozenBatchNorm2d)
"""The exact types that are folded: a subclass may do more, as timm's batch norm with an activation does."""


def fold_batch_norm(network: RetinaNet) -> RetinaNet:
    """Fold each batch norm of a network into the convolution before it, set evaluation mode, and return the network.

    In this package's modules, a batch norm that follows a convolution in the order of definition normalizes its
    output. Modules of timm are left as they are. Outputs are equal up to rounding.
    """
    network.eval()
    for module in network.modules():
        if type(module).__module__.startswith("timm."):
            continue
        for (before, conv), (after, norm) in pairwise(list(module.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and type(norm) in FOLDED:
                setattr(module, before, fuse_conv_bn_eval(conv, norm))
                setattr(module, after, nn.Identity())
    return network
