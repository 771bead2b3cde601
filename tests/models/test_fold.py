"""Folded batch norms: the outputs are those of the network, and no batch norm is left that could be folded."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from cledet.models.fold import fold_batch_norm
from cledet.models.network import Architecture, RetinaNet, build_network


def network(backbone: str, norm: str = "frozen", **arch: object) -> RetinaNet:
    """Build a network whose batch norms have statistics and scales of their own."""
    generator = torch.Generator().manual_seed(0)
    built = build_network(Architecture(backbone=backbone, classes=3, fpn_channels=16, norm=norm, **arch)).eval()
    for module in built.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -0.1), (module.running_mean, -0.1)):
                values.data.copy_(low + 0.5 * torch.rand(values.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    return built


def batch_norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@torch.inference_mode()
@pytest.mark.parametrize(
    ("backbone", "norm"),
    [
        ("r18", "frozen"), ("r18", "batch"), ("lite0", "frozen"),
        *(pytest.param(name, "frozen", marks=pytest.mark.slow) for name in ("r50", "r50-dcnv2")),
    ],
)  # fmt: skip
def test_outputs_equal_those_of_the_network(backbone, norm):
    whole = network(backbone, norm)
    folded = fold_batch_norm(copy.deepcopy(whole))
    assert batch_norms(whole) > 0
    assert batch_norms(folded) == 0
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    wanted, found = whole(images), folded(images)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.deltas, wanted.deltas, atol=1e-4, rtol=1e-4)
    pixels = (images.float() - whole.mean) / whole.std  # a new head hardly depends on the maps
    for mine, its in zip(folded.backbone(pixels), whole.backbone(pixels)):
        torch.testing.assert_close(mine, its, atol=1e-4 * float(its.abs().max()), rtol=1e-4)


def test_the_network_itself_is_folded_and_evaluates():
    whole = network("r18").train()
    assert fold_batch_norm(whole) is whole
    assert batch_norms(whole) == 0
    assert not whole.training


def test_one_convolution_by_hand():
    """A weight of 2 with scale 3, mean 1, variance 4 and bias 5 is a weight of 3 and a bias of 3.5."""
    whole = network("r18")
    norm = whole.backbone.bn1
    norm.eps = 0.0
    for values, value in ((norm.weight, 3.0), (norm.bias, 5.0), (norm.running_mean, 1.0), (norm.running_var, 4.0)):
        values.data.fill_(value)
    whole.backbone.conv1.weight.data.fill_(2.0)
    conv = fold_batch_norm(whole).backbone.conv1
    assert conv.weight.unique().tolist() == [3.0]
    assert conv.bias.unique().tolist() == [3.5]


def test_group_norm_stays():
    whole = network("r18", "group")
    names = whole.state_dict().keys()
    assert fold_batch_norm(whole).state_dict().keys() == names
