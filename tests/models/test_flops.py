"""Costs of a network, computed by hand for two layers and compared with published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cledet.models import flops as module
from cledet.models.flops import costs
from cledet.models.network import Architecture


def test_what_autograd_keeps_is_counted_once_and_parameters_are_not():
    """Image and ReLU's output, each kept for a convolution's weight, are 3 and 4 channels of 6x5; the ReLU keeps its
    output too, which is the same storage.
    """
    with torch.device("meta"):
        network, image = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 6, 5)
    assert module._saved(network, image) == (3 + 4) * 6 * 5 * 4
    network[0].weight.requires_grad_(False)
    network[0].bias.requires_grad_(False)
    assert module._saved(network, image) == 4 * 6 * 5 * 4  # of what is fixed nothing is kept
    assert module._multiply_adds(network, image) == (3 * 4 + 4 * 2) * 6 * 5


def test_a_deformable_convolution_counts_as_the_plain_one_and_its_offsets():
    """A 3x3 convolution from 64 to 64 channels in c3 of r18 comes with one to 18 channels of offsets."""
    small = {"classes": 3, "fpn_channels": 16}
    plain, deformable = (costs(Architecture(backbone=name, **small), (64, 64)) for name in ("r18", "r18-dcn"))
    positions = {128: 8 * 8, 256: 4 * 4, 512: 2 * 2}  # two blocks of each width, at strides 8, 16 and 32
    offsets = sum(2 * 9 * width * 18 * count for width, count in positions.items())
    assert deformable.multiply_adds - plain.multiply_adds == offsets
    assert deformable.parameters - plain.parameters == sum(2 * (9 * width * 18 + 18) for width in positions)


def test_a_depthwise_head_costs_nine_multiply_adds_per_channel_and_a_matrix():
    """64x64 has 64, 16, 4, 1 and 1 positions; a tower has five convolutions, the last with 9 anchors' outputs."""
    small = {"backbone": "r18", "classes": 3, "fpn_channels": 16}
    standard, light = (costs(Architecture(**small, head_conv=kind), (64, 64)) for kind in (None, "depthwise"))
    mixing = 2 * 4 * 16 * 16 + 16 * 9 * (3 + 4)  # both towers
    assert standard.multiply_adds - light.multiply_adds == 86 * (9 * mixing - (mixing + 2 * 5 * 9 * 16))


def test_sizes_are_the_published_ones():
    """Torchvision's retinanet_resnet50_fpn has 34,014,999 with 91 classes, and its 53,120 of norms are buffers."""
    one = costs(Architecture(backbone="r50", classes=80), (800, 1333))
    assert one.parameters == 34_014_999 + 53_120 - 9 * (91 - 80) * (256 * 9 + 1)
    assert one.of_backbone == 23_508_032  # 25,557,032 of resnet50, less the classifier's 2048 x 1000 + 1000
    wider = costs(Architecture(backbone="r50", classes=80), (800, 2667))
    assert wider.multiply_adds / one.multiply_adds == pytest.approx(2688 / 1344, rel=0.01)
    assert wider.saved / one.saved == pytest.approx(2688 / 1344, rel=0.01)
    assert costs(Architecture(backbone="r50", classes=80), (800, 1333), frozen=0).saved > 1.5 * one.saved
